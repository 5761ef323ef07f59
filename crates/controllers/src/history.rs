//! ControllerRevisions: templates that a StatefulSet or DaemonSet has had (`pkg/controller/history`).

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    machinery::{
        cache::Cache,
        ownership,
        rest::{Delete, Rest},
    },
    objects::{meta::Object, selector::Selector, template::Template, workload::ControllerRevision},
};

/// Label of pods: the revision they are of.
pub const REVISION_LABEL: &str = "controller-revision-hash";
/// Label of a revision: its hash.
pub const HASH_LABEL: &str = "controller.kubernetes.io/hash";
/// Revisions kept when nothing is said.
const LIMIT: i32 = 10;

/// The revisions of an owner, oldest first, and the one of its present template.
pub struct History {
    /// all but the newest
    pub old: Vec<Arc<ControllerRevision>>,
    /// of the present template
    pub newest: Arc<ControllerRevision>,
    /// hash collisions met, if there was a new one
    pub collisions: Option<i32>,
}

impl History {
    /// A revision by name.
    pub fn get(&self, name: &str) -> Option<&Arc<ControllerRevision>> {
        self.old
            .iter()
            .chain([&self.newest])
            .find(|r| *r.metadata.name == *name)
    }
}

/// The template of a revision.
pub fn template(revision: &ControllerRevision) -> Template {
    let mut value: Value = revision
        .data
        .as_ref()
        .and_then(|d| serde_json::from_str(d.get()).ok())
        .unwrap_or(Value::Null);
    let mut template = value
        .pointer_mut("/spec/template")
        .map(Value::take)
        .unwrap_or(Value::Null);
    if let Some(t) = template.as_object_mut() {
        t.remove("$patch");
    }
    Template::from_value(&template)
}

/// What a revision holds: a patch that `kubectl rollout undo` applies.
fn data(template: &Template) -> Value {
    let mut t = template.value();
    if let Some(o) = t.as_object_mut() {
        o.insert("$patch".into(), "replace".into());
    }
    json!({"spec": {"template": t}})
}

/// Finds or makes the revision of the owner's present template.
pub async fn sync<O: Object>(
    rest: &Rest,
    cache: &Cache<ControllerRevision>,
    owner: &O,
    selector: &Selector,
    present: &Template,
    collisions: Option<i32>,
) -> Result<History> {
    let namespace = &owner.meta().namespace;
    let candidates = cache.in_namespace(namespace, |_| true);
    let mut all = ownership::claim(rest, owner, selector, candidates).await?;
    all.sort_by(|a, b| {
        (a.revision, a.metadata.creation_timestamp, &a.metadata.name).cmp(&(
            b.revision,
            b.metadata.creation_timestamp,
            &b.metadata.name,
        ))
    });
    let highest = all.last().map_or(0, |r| r.revision);
    let same = all.iter().rposition(|r| template(r).same(present));
    if let Some(i) = same {
        let mut newest = all.remove(i);
        // gone back to: it's the newest again
        if newest.revision < highest {
            let patch = json!({
                "metadata": {"resourceVersion": newest.metadata.resource_version},
                "revision": highest + 1,
            });
            let path = ControllerRevision::KIND.at(&newest.metadata);
            newest = Arc::new(rest.merge(&path, &patch).await?);
        }
        return Ok(History {
            old: all,
            newest,
            collisions: None,
        });
    }
    let (newest, collisions) = create(rest, owner, present, highest + 1, collisions).await?;
    Ok(History {
        old: all,
        newest: Arc::new(newest),
        collisions,
    })
}

async fn create<O: Object>(
    rest: &Rest,
    owner: &O,
    present: &Template,
    number: i64,
    before: Option<i32>,
) -> Result<(ControllerRevision, Option<i32>)> {
    const ATTEMPTS: i32 = 16;
    let namespace = &owner.meta().namespace;
    let mut count = before.unwrap_or(0);
    for _ in 0..ATTEMPTS {
        let hash = present.hash((count > 0).then_some(count));
        let name = format!("{}-{hash}", owner.meta().name);
        let mut labels = present.meta().labels;
        // as upstream's two controllers have it
        labels.set(
            match O::KIND.kind {
                "DaemonSet" => REVISION_LABEL,
                _ => HASH_LABEL,
            },
            &hash,
        );
        let body = json!({
            "apiVersion": "apps/v1", "kind": "ControllerRevision",
            "metadata": {
                "name": name, "namespace": namespace, "labels": labels,
                "annotations": owner.meta().annotations,
                "ownerReferences": [owner.controller_ref()],
            },
            "data": data(present),
            "revision": number,
        });
        let collection = ControllerRevision::KIND.collection(namespace);
        match rest.create::<ControllerRevision>(&collection, &body).await {
            Ok(made) => return Ok((made, (count != before.unwrap_or(0)).then_some(count))),
            Err(e) if e.is_already_exists() => {
                let path = ControllerRevision::KIND.path(namespace, &name);
                let there: ControllerRevision = rest.get(&path).await?;
                // ours, which the cache doesn't show yet
                if there.metadata.controlled_by(&owner.meta().uid) && template(&there).same(present)
                {
                    return Ok((there, (count != before.unwrap_or(0)).then_some(count)));
                }
                count += 1;
            }
            Err(e) => return Err(e),
        }
    }
    Err(Error::Other(format!(
        "no free name for a revision of {} {}: {ATTEMPTS} hashes collide; remove unneeded ControllerRevisions",
        O::KIND.kind,
        owner.meta().key()
    )))
}

/// Deletes the oldest revisions above `limit`, but none that is in use.
pub async fn truncate(
    rest: &Rest,
    history: &History,
    limit: Option<i32>,
    used: impl Fn(&str) -> bool,
) -> Result<()> {
    let idle: Vec<_> = history
        .old
        .iter()
        .filter(|r| !used(&r.metadata.name))
        .collect();
    let limit = limit.unwrap_or(LIMIT).max(0) as usize;
    for r in idle.iter().take(idle.len().saturating_sub(limit)) {
        let path = ControllerRevision::KIND.at(&r.metadata);
        rest.delete(&path, &Delete::uid(&r.metadata.uid)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_survives_its_revision() {
        let t: Template = serde_json::from_value(
            json!({"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c"}]}}),
        )
        .unwrap();
        let d = data(&t);
        assert_eq!(d.pointer("/spec/template/$patch"), Some(&json!("replace")));
        let r: ControllerRevision =
            serde_json::from_value(json!({"metadata":{},"data":d,"revision":1})).unwrap();
        assert!(template(&r).same(&t));
    }
}
