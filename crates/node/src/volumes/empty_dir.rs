//! emptyDir volumes: a folder, a tmpfs or huge pages of the Pod's own. Blocking.
//!
//! Source: kubernetes `pkg/volume/emptydir/empty_dir.go`.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, ResourceRequirements};
use nix::mount::MsFlags;

use super::{mounts, ownership::Group};
use crate::quantity;

const HUGE_PAGES: &str = "hugepages-";

/// What an emptyDir is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Medium {
    Disk,
    /// at most so many bytes
    Memory(i64),
    /// of pages of so many bytes
    HugePages(i64),
}

/// `memory_bytes` is what the node has for Pods.
///
/// # Errors
/// For an unknown medium, and huge pages that the Pod's containers don't ask for.
pub(crate) fn medium(
    source: &EmptyDirVolumeSource,
    pod: &Pod,
    memory_bytes: i64,
) -> Result<Medium, String> {
    let medium = source.medium.as_deref().unwrap_or_default();
    match medium {
        "" => Ok(Medium::Disk),
        "Memory" => {
            let asked = source.size_limit.as_ref().map(quantity::value);
            let bounds = [Some(memory_bytes), pod_memory(pod), asked];
            let size = bounds.into_iter().flatten().filter(|b| *b > 0).min();
            Ok(Medium::Memory(size.unwrap_or(0)))
        }
        _ => match medium.strip_prefix("HugePages") {
            Some(size) if size.is_empty() || size.starts_with('-') => {
                page_size(medium, pod).map(Medium::HugePages)
            }
            _ => Err(format!("unknown storage medium {medium:?}")),
        },
    }
}

/// All the memory that the Pod's containers may use together, when each has a limit.
fn pod_memory(pod: &Pod) -> Option<i64> {
    let spec = pod.spec.as_ref()?;
    let limit = |r: &Option<ResourceRequirements>| {
        let limits = r.as_ref()?.limits.as_ref()?;
        limits.get("memory").map(quantity::value)
    };
    if let Some(whole) = limit(&spec.resources) {
        return Some(whole);
    }
    let mut sum = 0i64;
    let mut sidecars = 0i64;
    let mut peak = 0i64;
    for container in spec.init_containers.iter().flatten() {
        let own = limit(&container.resources)?;
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars.saturating_add(own);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars.saturating_add(own));
        }
    }
    for container in &spec.containers {
        sum = sum.saturating_add(limit(&container.resources)?);
    }
    Some(peak.max(sum.saturating_add(sidecars)))
}

fn page_size(medium: &str, pod: &Pod) -> Result<i64, String> {
    let spec = pod.spec.as_ref();
    let inits = spec.iter().flat_map(|s| s.init_containers.iter().flatten());
    let containers = spec.iter().flat_map(|s| &s.containers).chain(inits);
    let mut of_containers: Vec<&ResourceRequirements> =
        containers.filter_map(|c| c.resources.as_ref()).collect();
    of_containers.extend(spec.and_then(|s| s.resources.as_ref()));
    let asked: BTreeSet<i64> = of_containers
        .iter()
        .flat_map(|r| r.requests.iter().chain(&r.limits).flatten())
        .filter_map(|(name, _)| name.strip_prefix(HUGE_PAGES))
        .map(|size| {
            quantity::value(&k8s_openapi::apimachinery::pkg::api::resource::Quantity(
                size.to_owned(),
            ))
        })
        .filter(|size| *size > 0)
        .collect();
    let none = || {
        format!(
            "medium {medium}: hugePages storage requested, but there is no resource request for huge pages"
        )
    };
    match medium.strip_prefix("HugePages-") {
        Some(size) => {
            let size = quantity::value(&k8s_openapi::apimachinery::pkg::api::resource::Quantity(
                size.to_owned(),
            ));
            asked.get(&size).copied().ok_or_else(none)
        }
        None if asked.len() > 1 => Err(format!(
            "medium: {medium} can't be used if container requests multiple huge page sizes"
        )),
        None => asked.first().copied().ok_or_else(none),
    }
}

/// Makes the volume unless it is there; content that is there stays. Open to every user of the containers.
///
/// # Errors
/// What the kernel says, with the folder.
pub(crate) fn make(dir: &Path, medium: &Medium, group: Option<Group>) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
    let there = match medium {
        Medium::Disk => dir.exists(),
        _ => mounts::is_mount_point(dir),
    };
    if there {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(failed)?;
    match medium {
        Medium::Disk => {}
        Medium::Memory(bytes) => mounts::tmpfs(dir, Some(*bytes))?,
        Medium::HugePages(page) => {
            let options = format!("pagesize={page}");
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            let kind = Some("hugetlbfs");
            nix::mount::mount(kind, dir, kind, flags, Some(options.as_str()))
                .map_err(|e| format!("cannot mount huge pages on {}: {e}", dir.display()))?;
        }
    }
    // A tmpfs stays sticky, as it is when it's mounted: so are the sub-paths that are made in it.
    let mode = match medium {
        Medium::Memory(_) => 0o1777,
        Medium::Disk | Medium::HugePages(_) => 0o777,
    };
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(failed)?;
    match group {
        Some(group) => group.own(dir, false).map_err(failed),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn modes() {
        assert!(
            rustix::process::getuid().is_root(),
            "this test needs root: it mounts"
        );
        let dir = tempfile::tempdir().unwrap();
        let group = Group {
            gid: 7,
            only_on_root_mismatch: false,
        };
        for (name, medium, group, want) in [
            ("disk", Medium::Disk, None, 0o777),
            ("disk-group", Medium::Disk, Some(group), 0o2777),
            ("memory", Medium::Memory(4096), None, 0o1777),
            ("memory-group", Medium::Memory(4096), Some(group), 0o3777),
        ] {
            let at = dir.path().join(name);
            make(&at, &medium, group).unwrap();
            let mode = fs::metadata(&at).unwrap().permissions().mode();
            if let Medium::Memory(_) = medium {
                nix::mount::umount(&at).unwrap();
            }
            assert_eq!(mode & 0o7777, want, "{name}");
        }
    }

    #[test]
    fn media() {
        let check = |name: &str, source: Value, spec: Value, want: Result<Medium, &str>| {
            let source = serde_json::from_value(source).unwrap();
            let pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
            let got = medium(&source, &pod, 1000);
            assert_eq!(got, want.map_err(str::to_owned), "{name}");
        };
        let containers = |resources: &[Value]| -> Value {
            let one = |r: &Value| json!({"name": "c", "resources": r});
            json!({"containers": resources.iter().map(one).collect::<Vec<_>>()})
        };
        let plain = containers(&[json!({})]);
        let memory = |bytes: i64| json!({"limits": {"memory": bytes.to_string()}});
        let huge = |size: &str| json!({"requests": {format!("hugepages-{size}"): "4Mi"}});
        let medium_of = |m: &str| json!({"medium": m});
        check("disk", json!({}), plain.clone(), Ok(Medium::Disk));
        check(
            "the node's",
            medium_of("Memory"),
            plain.clone(),
            Ok(Medium::Memory(1000)),
        );
        check(
            "the Pod's limits",
            medium_of("Memory"),
            containers(&[memory(100), memory(200)]),
            Ok(Medium::Memory(300)),
        );
        check(
            "not each has a limit",
            medium_of("Memory"),
            containers(&[memory(100), json!({})]),
            Ok(Medium::Memory(1000)),
        );
        check(
            "the smaller",
            json!({"medium": "Memory", "sizeLimit": "50"}),
            containers(&[memory(100)]),
            Ok(Medium::Memory(50)),
        );
        check(
            "its own word",
            medium_of("Tape"),
            plain.clone(),
            Err("unknown storage medium \"Tape\""),
        );
        check(
            "the only size",
            medium_of("HugePages"),
            containers(&[huge("2Mi")]),
            Ok(Medium::HugePages(2 << 20)),
        );
        check(
            "one of two",
            medium_of("HugePages-1Gi"),
            containers(&[huge("2Mi"), huge("1Gi")]),
            Ok(Medium::HugePages(1 << 30)),
        );
        check(
            "which?",
            medium_of("HugePages"),
            containers(&[huge("2Mi"), huge("1Gi")]),
            Err("medium: HugePages can't be used if container requests multiple huge page sizes"),
        );
        check(
            "none asked for",
            medium_of("HugePages-2Mi"),
            plain,
            Err(
                "medium HugePages-2Mi: hugePages storage requested, but there is no resource request for huge pages",
            ),
        );
    }
}
