//! The ReplicaSets of a Deployment: the one of the present template is found or made, old ones are cleaned up, sizes are written.

use std::sync::Arc;

use serde_json::json;

use super::{Controller, progress, revision, size};
use crate::{
    error::{Error, Result},
    machinery::{pods::said, rest::Delete, status},
    objects::{
        meta::Object,
        selector::Selector,
        template::POD_TEMPLATE_HASH,
        workload::{Deployment, DeploymentStatus, ReplicaSet},
    },
};

/// A Deployment being worked on.
pub struct Rollout {
    /// as last seen or written
    pub d: Arc<Deployment>,
    /// status so far: its conditions are carried on
    pub status: DeploymentStatus,
    /// the set of the present template
    pub new: Option<Arc<ReplicaSet>>,
    /// the others, oldest first
    pub old: Vec<Arc<ReplicaSet>>,
}

impl Rollout {
    /// All sets.
    pub fn all(&self) -> Vec<Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new).cloned().collect()
    }
    /// Sum of `spec.replicas`.
    pub fn wanted(&self) -> i32 {
        self.old
            .iter()
            .chain(&self.new)
            .map(|s| s.spec.replicas)
            .sum()
    }
}

/// Sorts the sets: the one whose template is the Deployment's (the oldest of them), and the others, oldest first.
pub fn sort(
    d: &Deployment,
    mut sets: Vec<Arc<ReplicaSet>>,
) -> (Option<Arc<ReplicaSet>>, Vec<Arc<ReplicaSet>>) {
    sets.sort_by(|a, b| {
        (a.metadata.creation_timestamp, &a.metadata.name)
            .cmp(&(b.metadata.creation_timestamp, &b.metadata.name))
    });
    let new = sets
        .iter()
        .position(|s| s.spec.template.same(&d.spec.template))
        .map(|i| sets.remove(i));
    (new, sets)
}

impl Controller {
    /// Brings annotations of the new set and of the Deployment in line (`getNewReplicaSet`); makes the set if `create`.
    pub async fn sync_new(&self, r: &mut Rollout, create: bool) -> Result<()> {
        let number = revision::highest(&r.old) + 1;
        let Some(new) = r.new.clone() else {
            if create {
                self.create_new(r, number).await?;
            }
            return Ok(());
        };
        let annotations = revision::annotate(&r.d, &new.metadata.annotations, number, true);
        if annotations != new.metadata.annotations
            || new.spec.min_ready_seconds != r.d.spec.min_ready_seconds
        {
            let patch = json!({
                "metadata": {"resourceVersion": new.metadata.resource_version, "annotations": annotations},
                "spec": {"minReadySeconds": r.d.spec.min_ready_seconds},
            });
            let new: ReplicaSet = self
                .rest
                .merge(&ReplicaSet::KIND.at(&new.metadata), &patch)
                .await?;
            r.new = Some(Arc::new(new));
        }
        let number = r.new.as_ref().map_or(number, |n| revision::of(n));
        self.set_revision(r, number).await?;
        if progress::has_deadline(&r.d)
            && status::find(&r.status.conditions, progress::PROGRESSING).is_none()
        {
            let message = format!("Found new replica set {:?}", &*new.metadata.name);
            let c = progress::condition(
                progress::PROGRESSING,
                "True",
                progress::FOUND_NEW_SET,
                message,
            );
            status::set(&mut r.status.conditions, c);
        }
        Ok(())
    }

    async fn set_revision(&self, r: &mut Rollout, number: i64) -> Result<()> {
        let number = number.to_string();
        if r.d.metadata.annotations.get(revision::REVISION) == Some(&number) {
            return Ok(());
        }
        let patch = json!({"metadata": {
            "resourceVersion": r.d.metadata.resource_version,
            "annotations": {revision::REVISION: number},
        }});
        let d: Deployment = self
            .rest
            .merge(&Deployment::KIND.at(&r.d.metadata), &patch)
            .await?;
        r.d = Arc::new(d);
        Ok(())
    }

    async fn create_new(&self, r: &mut Rollout, number: i64) -> Result<()> {
        let d = r.d.clone();
        let hash = d.spec.template.hash(d.status.collision_count);
        let template = d.spec.template.with_label(POD_TEMPLATE_HASH, &hash);
        let mut selector: Selector = d.spec.selector.clone();
        selector.match_labels.set(POD_TEMPLATE_HASH, &hash);
        let name = format!("{}-{hash}", d.metadata.name);
        let replicas = size::grow_new(&d.spec, r.wanted(), 0);
        let body = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {
                "name": name, "namespace": d.metadata.namespace,
                "labels": template.meta().labels,
                "annotations": revision::annotate(&d, &Default::default(), number, false),
                "ownerReferences": [d.controller_ref()],
            },
            "spec": {
                "replicas": replicas, "minReadySeconds": d.spec.min_ready_seconds,
                "selector": selector, "template": template,
            },
        });
        let collection = ReplicaSet::KIND.collection(&d.metadata.namespace);
        let mut existed = false;
        let made = match self.rest.create::<ReplicaSet>(&collection, &body).await {
            Err(e) if e.is_already_exists() => {
                existed = true;
                self.existing(r, &name, e).await?
            }
            Ok(set) => set,
            Err(e) if e.is_namespace_terminating() => return Err(e),
            Err(e) => {
                let message = format!("Failed to create new replica set {name:?}: {}", said(&e));
                if progress::has_deadline(&d) {
                    let c = progress::condition(
                        progress::PROGRESSING,
                        "False",
                        progress::FAILED_CREATE,
                        message.clone(),
                    );
                    status::set(&mut r.status.conditions, c);
                    self.write_status(r, r.status.clone()).await?;
                }
                self.recorder
                    .warning(&*d, super::SOURCE, progress::FAILED_CREATE, message);
                return Err(e);
            }
        };
        if !existed && replicas > 0 {
            let message = format!("Scaled up replica set {name} from 0 to {replicas}");
            self.recorder
                .normal(&*d, super::SOURCE, "ScalingReplicaSet", message);
        }
        r.new = Some(Arc::new(made));
        self.set_revision(r, number).await?;
        if !existed && progress::has_deadline(&d) {
            let message = format!("Created new replica set {name:?}");
            let c = progress::condition(progress::PROGRESSING, "True", progress::NEW_SET, message);
            status::set(&mut r.status.conditions, c);
        }
        Ok(())
    }

    /// A set of that name is there: ours that the cache doesn't show yet, one to adopt, or another template of the same hash.
    async fn existing(&self, r: &mut Rollout, name: &str, error: Error) -> Result<ReplicaSet> {
        let path = ReplicaSet::KIND.path(&r.d.metadata.namespace, name);
        let set: ReplicaSet = self.rest.get(&path).await?;
        if set.metadata.controlled_by(&r.d.metadata.uid)
            && set.spec.template.same(&r.d.spec.template)
        {
            return Ok(set);
        }
        if set.metadata.controller().is_none()
            && set.spec.template.same(&r.d.spec.template)
            && r.d.spec.selector.matches(&set.metadata.labels)
        {
            return Err(error); // nobody's any more: adopted as soon as the cache shows it
        }
        let mut s = r.d.status.clone();
        s.collision_count = Some(s.collision_count.unwrap_or(0) + 1);
        self.write_status(r, s).await?;
        Err(error)
    }

    /// Writes a set's size, and for which size of the Deployment it is; None: nothing to write.
    pub async fn resize(
        &self,
        d: &Deployment,
        set: &ReplicaSet,
        replicas: i32,
    ) -> Result<Option<Arc<ReplicaSet>>> {
        let mut annotations = set.metadata.annotations.clone();
        let noted = revision::sized(d, &mut annotations);
        let old = set.spec.replicas;
        if old == replicas && !noted {
            return Ok(None);
        }
        let patch = json!({
            "metadata": {
                "resourceVersion": set.metadata.resource_version,
                "annotations": {
                    revision::DESIRED_REPLICAS: annotations.get(revision::DESIRED_REPLICAS),
                    revision::MAX_REPLICAS: annotations.get(revision::MAX_REPLICAS),
                },
            },
            "spec": {"replicas": replicas},
        });
        let new: ReplicaSet = self
            .rest
            .merge(&ReplicaSet::KIND.at(&set.metadata), &patch)
            .await?;
        if old != replicas {
            let way = if old < replicas { "up" } else { "down" };
            let message = format!(
                "Scaled {way} replica set {} from {old} to {replicas}",
                set.metadata.name
            );
            self.recorder
                .normal(d, super::SOURCE, "ScalingReplicaSet", message);
        }
        Ok(Some(Arc::new(new)))
    }

    /// Deletes empty old sets above `revisionHistoryLimit`, lowest revision first.
    pub async fn clean_up(&self, r: &Rollout) -> Result<()> {
        for set in superfluous(&r.d, &r.old) {
            self.rest
                .delete(
                    &ReplicaSet::KIND.at(&set.metadata),
                    &Delete::uid(&set.metadata.uid),
                )
                .await?;
        }
        Ok(())
    }
}

/// Old sets that history doesn't need.
fn superfluous(d: &Deployment, old: &[Arc<ReplicaSet>]) -> Vec<Arc<ReplicaSet>> {
    let Some(limit) = d.spec.revision_history_limit.filter(|l| *l != i32::MAX) else {
        return vec![];
    };
    let mut alive: Vec<_> = old
        .iter()
        .filter(|s| !s.metadata.deleting())
        .cloned()
        .collect();
    let excess = alive.len().saturating_sub(limit.max(0) as usize);
    alive.sort_by_key(|s| revision::of(s));
    alive.truncate(excess);
    alive.retain(|s| {
        s.status.replicas == 0
            && s.spec.replicas == 0
            && s.metadata.generation <= s.status.observed_generation
    });
    alive
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(revision: i64, replicas: i32, image: &str) -> Arc<ReplicaSet> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata":{"name":format!("r{revision}"),"annotations":{revision::REVISION:revision.to_string()},
                    "creationTimestamp":format!("2024-01-01T00:00:{:02}Z", 50 - revision)},
                "spec":{"replicas":replicas,"template":{"spec":{"image":image}}},
                "status":{"replicas":replicas}}))
            .unwrap(),
        )
    }
    fn deployment(limit: Option<i32>) -> Deployment {
        serde_json::from_value(json!({"metadata":{"name":"d"},
            "spec":{"revisionHistoryLimit":limit,"template":{"spec":{"image":"b"}}}}))
        .unwrap()
    }

    #[test]
    fn history_keeps_its_limit() {
        let old = [
            set(3, 0, "x"),
            set(1, 0, "x"),
            set(4, 0, "x"),
            set(2, 1, "x"),
        ];
        for (limit, want) in [
            (None, vec![]),
            (Some(i32::MAX), vec![]),
            (Some(4), vec![]),
            (Some(3), vec!["r1"]),
            // r2 still has a pod
            (Some(2), vec!["r1"]),
            (Some(1), vec!["r1", "r3"]),
            (Some(0), vec!["r1", "r3", "r4"]),
        ] {
            let got = superfluous(&deployment(limit), &old);
            let got: Vec<_> = got.iter().map(|s| &*s.metadata.name).collect();
            assert_eq!(got, want, "{limit:?}");
        }
    }

    #[test]
    fn the_oldest_of_the_same_template_is_new() {
        let (new, old) = sort(
            &deployment(None),
            vec![set(1, 0, "b"), set(2, 0, "a"), set(3, 0, "b")],
        );
        assert_eq!(&*new.unwrap().metadata.name, "r3");
        let names: Vec<_> = old.iter().map(|s| &*s.metadata.name).collect();
        assert_eq!(names, ["r2", "r1"]);
    }
}
