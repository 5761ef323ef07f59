//! Limits on what a Pod writes to the node's disk: its containers' layers and logs, and its emptyDirs.
//!
//! Source: kubernetes `pkg/kubelet/eviction/eviction_manager.go` (localStorageEviction).

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;

use super::rank::binary;
use crate::{
    context::Context,
    measure::files::{self, Taken},
    pod::entry::Entry,
    quantity,
    spec::pod_resources::{self, Side},
    volumes,
};

const RESOURCE: &str = "ephemeral-storage";

/// What a folder takes; one that isn't there, or goes while it's looked at, takes nothing.
fn taken(dir: &Path) -> Taken {
    files::count(dir).unwrap_or_default()
}

/// What may be written, and how the limit was written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Limit {
    name: Box<str>,
    bytes: u64,
    text: Box<str>,
}

/// The limits of one Pod; most have none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StorageLimits {
    whole_bytes: Option<u64>,
    containers: Vec<Limit>,
    empty_dirs: Vec<Limit>,
}

impl StorageLimits {
    pub(crate) fn of(pod: &Pod) -> Option<Box<StorageLimits>> {
        let spec = pod.spec.as_ref()?;
        let limit = |name: &str, q: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| {
            let bytes = u64::try_from(quantity::value(q)).ok().filter(|b| *b > 0)?;
            Some(Limit {
                name: name.into(),
                bytes,
                text: q.0.as_str().into(),
            })
        };
        let containers: Vec<Limit> = spec
            .containers
            .iter()
            .filter_map(|c| {
                let limits = c.resources.as_ref()?.limits.as_ref()?;
                limit(&c.name, limits.get(RESOURCE)?)
            })
            .collect();
        let empty_dirs: Vec<Limit> = spec
            .volumes
            .iter()
            .flatten()
            .filter_map(|v| limit(&v.name, v.empty_dir.as_ref()?.size_limit.as_ref()?))
            .collect();
        let whole = pod_resources::total(pod, Side::Limits);
        let whole_bytes = whole
            .get(RESOURCE)
            .map(|milli| pod_resources::units(*milli).max(0).unsigned_abs());
        let none = containers.is_empty() && empty_dirs.is_empty() && whole_bytes.is_none();
        (!none).then(|| {
            Box::new(StorageLimits {
                whole_bytes,
                containers,
                empty_dirs,
            })
        })
    }
}

/// What each container of a Pod has written (layer and logs), by name. Blocking.
pub(crate) fn containers(context: &Context, entry: &Entry) -> Vec<(Box<str>, Taken)> {
    let dir = volumes::pod_dir(&context.data_dir, &entry.uid);
    let units = entry.units.lock().clone();
    units
        .into_iter()
        .map(|unit| {
            let mut all = taken(&dir.join(&*unit.name));
            let layer = unit.running.and_then(|id| context.engine.written_dir(&id));
            if let Some(layer) = layer {
                all += taken(&layer);
            }
            (unit.name, all)
        })
        .collect()
}

/// What a Pod's volumes that live on the node's disk take. Blocking.
pub(crate) fn volumes_taken(context: &Context, entry: &Entry) -> Taken {
    let dir = volumes::pod_dir(&context.data_dir, &entry.uid).join(".volumes");
    // those in memory are other file systems, and not counted
    taken(&dir)
}

/// Why a Pod has to go for what it has written; None when it may stay. Blocking.
pub(crate) fn exceeded(context: &Context, entry: &Entry) -> Option<String> {
    let limits = entry.storage.as_ref()?;
    let dir = volumes::pod_dir(&context.data_dir, &entry.uid);
    over(limits, &dir, || {
        (containers(context, entry), volumes_taken(context, entry))
    })
}

fn over(
    limits: &StorageLimits,
    pod_dir: &Path,
    written: impl FnOnce() -> (Vec<(Box<str>, Taken)>, Taken),
) -> Option<String> {
    for volume in &limits.empty_dirs {
        let dir = pod_dir.join(".volumes").join(&*volume.name);
        if taken(&dir).bytes > volume.bytes {
            return Some(format!(
                "Usage of EmptyDir volume {:?} exceeds the limit {:?}. ",
                volume.name, volume.text
            ));
        }
    }
    if limits.whole_bytes.is_none() && limits.containers.is_empty() {
        return None;
    }
    let (containers, volumes) = written();
    let all: u64 = containers.iter().map(|(_, taken)| taken.bytes).sum();
    if let Some(most) = limits.whole_bytes
        && all + volumes.bytes > most
    {
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
            binary(most)
        ));
    }
    limits.containers.iter().find_map(|limit| {
        let (_, taken) = containers.iter().find(|(name, _)| *name == limit.name)?;
        (taken.bytes > limit.bytes).then(|| {
            format!(
                "Container {} exceeded its local ephemeral storage limit {:?}. ",
                limit.name, limit.text
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_and_what_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join(".volumes/v");
        std::fs::create_dir_all(&volume).unwrap();
        std::fs::write(volume.join("f"), vec![1; 64 << 10]).unwrap();
        let check = |limits: serde_json::Value, size: &str, written: u64, want: Option<&str>| {
            let pod = json!({"metadata": {}, "spec": {
                "containers": [{"name": "c", "resources": {"limits": limits}}],
                "volumes": [{"name": "v", "emptyDir": {"sizeLimit": size}}]}});
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let limits = StorageLimits::of(&pod).unwrap();
            let taken = Taken {
                bytes: written,
                inodes: 1,
            };
            let got = over(&limits, dir.path(), || {
                (vec![("c".into(), taken)], Taken::default())
            });
            assert_eq!(got.as_deref(), want);
        };
        check(json!({}), "1Mi", 0, None);
        check(
            json!({}),
            "16Ki",
            0,
            Some("Usage of EmptyDir volume \"v\" exceeds the limit \"16Ki\". "),
        );
        let mib = json!({"ephemeral-storage": "1Mi"});
        check(mib.clone(), "1Mi", 1 << 20, None);
        check(
            mib,
            "1Mi",
            2 << 20,
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "),
        );
        let none: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "c"}],
            "volumes": [{"name": "v", "emptyDir": {}}]}}))
        .unwrap();
        assert_eq!(StorageLimits::of(&none), None);
    }
}
