//! What a namespace on its way out says of itself (`status_condition_utils.go`).

use std::collections::BTreeMap;

use crate::{
    gc::discovery::{Discovered, Resource},
    machinery::status,
    objects::meta::{Condition, Meta, Seconds},
};

/// What's still there after a pass.
#[derive(Default)]
pub struct Remains {
    /// `resource.group` (with the dot for the core group, too) → objects
    pub objects: BTreeMap<String, usize>,
    /// finalizer → objects
    pub finalizers: BTreeMap<String, usize>,
    /// what couldn't be deleted
    pub errors: Vec<String>,
}

impl Remains {
    /// Objects of a kind that are left; one that nothing holds back is an error.
    pub fn note(&mut self, namespace: &str, resource: &Resource, left: &[Meta], now: Seconds) {
        for finalizer in left.iter().flat_map(|o| &o.finalizers) {
            *self.finalizers.entry(finalizer.to_string()).or_default() += 1;
        }
        // A deletion's time has the grace period in it.
        let waits =
            |o: &Meta| !o.finalizers.is_empty() || o.deletion_timestamp.is_some_and(|at| at >= now);
        if !left.iter().any(waits) {
            self.errors.push(format!(
                "unexpected items still remain in namespace: {namespace} for gvr: {}/{}, Resource={}",
                resource.group, resource.version, resource.plural
            ));
        }
        self.objects.insert(
            format!("{}.{}", resource.plural, resource.group),
            left.len(),
        );
    }
}

/// All five conditions, whether good or bad; one whose status stays keeps its transition time.
pub fn conditions(old: &[Condition], found: &Discovered, remains: &Remains) -> Vec<Condition> {
    let list = |all: &BTreeMap<String, usize>, f: fn(&str, usize) -> String| {
        let all: Vec<_> = all.iter().map(|(k, n)| f(k, *n)).collect();
        all.join(", ")
    };
    let discovery = (!found.failed.is_empty()).then(|| {
        let mut failed = found.failed.clone();
        failed.sort();
        format!(
            "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
            failed.len(),
            failed.join(", ")
        )
    });
    let content = (!remains.errors.is_empty()).then(|| {
        let mut errors = remains.errors.clone();
        errors.sort();
        format!(
            "Failed to delete all resource types, {} remaining: {}",
            errors.len(),
            errors.join(", ")
        )
    });
    let left = (!remains.objects.is_empty()).then(|| {
        let left = list(&remains.objects, |r, n| {
            format!("{r} has {n} resource instances")
        });
        format!("Some resources are remaining: {left}")
    });
    let finalizers = (!remains.finalizers.is_empty()).then(|| {
        let left = list(&remains.finalizers, |f, n| {
            format!("{f} in {n} resource instances")
        });
        format!("Some content in the namespace has finalizers remaining: {left}")
    });
    let mut all = old.to_vec();
    for (kind, bad, reason, good, good_message) in [
        (
            "NamespaceDeletionDiscoveryFailure",
            discovery,
            "DiscoveryFailed",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            "GroupVersionParsingFailed",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            content,
            "ContentDeletionFailed",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            left,
            "SomeResourcesRemain",
            "ContentRemoved",
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            finalizers,
            "SomeFinalizersRemain",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ] {
        let mut new = match bad {
            Some(message) => status::condition(kind, "True", reason, message),
            None => status::condition(kind, "False", good, good_message.into()),
        };
        match all.iter_mut().find(|c| *c.kind == *kind) {
            Some(c) => {
                if c.status == new.status {
                    new.last_transition_time = c.last_transition_time.take();
                }
                *c = new;
            }
            None => all.push(new),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SECOND: Seconds = 1_700_000_000;

    fn resource(group: &str, plural: &str) -> Resource {
        Resource {
            group: group.into(),
            version: "v1".into(),
            plural: plural.into(),
            kind: "".into(),
            namespaced: true,
            watchable: true,
            deletable: true,
            collection_deletable: true,
        }
    }
    fn left(finalizer: Option<&str>, deleted: &str) -> Meta {
        serde_json::from_value(json!({"name":"x","deletionTimestamp":deleted,
            "finalizers":finalizer.iter().collect::<Vec<_>>()}))
        .unwrap()
    }

    #[track_caller]
    fn check(found: Discovered, remains: &[(&str, &str, Meta)], want: &[&str]) {
        let mut all = Remains::default();
        for (group, plural, meta) in remains {
            all.note(
                "ns",
                &resource(group, plural),
                std::slice::from_ref(meta),
                SECOND,
            );
        }
        let first = conditions(&[], &found, &all);
        let bad: Vec<_> = first
            .iter()
            .filter(|c| &*c.status == "True")
            .map(|c| format!("{} {}: {}", c.kind, c.reason, c.message))
            .collect();
        assert_eq!(first.len(), 5);
        assert_eq!(bad, want);
        let mut aged = first.clone();
        for c in &mut aged {
            c.last_transition_time = Some("2001-01-01T00:00:00Z".into());
        }
        assert_eq!(conditions(&aged, &found, &all), aged, "nothing new");
        let after = conditions(&aged, &Discovered::default(), &Remains::default());
        assert!(after.iter().all(|c| &*c.status == "False"));
        let turned = after.iter().zip(&aged).filter(|(a, b)| {
            (a.status != b.status) == (a.last_transition_time != b.last_transition_time)
        });
        assert_eq!(turned.count(), 5, "only what turns gets a new time");
    }

    #[test]
    fn says_what_remains() {
        let (past, future) = ("2001-01-01T00:00:00Z", "2101-01-01T00:00:00Z");
        check(Discovered::default(), &[], &[]);
        check(
            Discovered::default(),
            &[
                ("", "pods", left(Some("example.com/x"), past)),
                ("apps", "deployments", left(Some("example.com/x"), past)),
            ],
            &[
                "NamespaceContentRemaining SomeResourcesRemain: Some resources are remaining: deployments.apps has 1 resource instances, pods. has 1 resource instances",
                "NamespaceFinalizersRemaining SomeFinalizersRemain: Some content in the namespace has finalizers remaining: example.com/x in 2 resource instances",
            ],
        );
        check(
            Discovered::default(),
            &[("", "pods", left(None, future))],
            &[
                "NamespaceContentRemaining SomeResourcesRemain: Some resources are remaining: pods. has 1 resource instances",
            ],
        );
        check(
            Discovered::default(),
            &[("", "pods", left(None, past))],
            &[
                "NamespaceDeletionContentFailure ContentDeletionFailed: Failed to delete all resource types, 1 remaining: unexpected items still remain in namespace: ns for gvr: /v1, Resource=pods",
                "NamespaceContentRemaining SomeResourcesRemain: Some resources are remaining: pods. has 1 resource instances",
            ],
        );
        let down = Discovered {
            failed: vec!["b/v1: down".into(), "a/v1: down".into()],
            ..Default::default()
        };
        check(
            down,
            &[],
            &[
                "NamespaceDeletionDiscoveryFailure DiscoveryFailed: Discovery failed for some groups, 2 failing: unable to retrieve the complete list of server APIs: a/v1: down, b/v1: down",
            ],
        );
    }
}
