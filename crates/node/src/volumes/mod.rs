//! A Pod's volumes: made before its containers start, kept up to date while it lives, gone after.
//!
//! ```text
//! <data_dir>/pods/<uid>/.volumes/<name>            emptyDir and rendered files
//! <data_dir>/pods/<uid>/.subpaths/<container>/<n>  bind mounts of sub-paths
//! <data_dir>/pods/<uid>/.etc/                      hosts, hostname, resolv.conf
//! <data_dir>/pods/<uid>/.messages/<container>.<n>  termination messages
//! <data_dir>/pods/<uid>/<container>/<n>.log        logs
//! ```
//! Names with a dot in front can't be container names.

pub(crate) mod atomic;
mod empty_dir;
pub(crate) mod host_path;
pub(crate) mod mounts;
mod ownership;
mod payload;
pub(crate) mod sub_path;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::{PersistentVolume, Pod, Volume};

use self::ownership::Group;
use crate::{
    context::Context,
    sources::{Kind, Reference},
    spec::{env, fields::Facts},
};

pub(crate) const READ_DEADLINE: Duration = Duration::from_secs(10);

/// What containers are given of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub path: PathBuf,
    /// whatever the container's mount says
    pub read_only: bool,
}

/// Volume name → what to mount.
pub(crate) type Paths = BTreeMap<Box<str>, Source>;

impl Source {
    fn writable(path: PathBuf) -> Source {
        Source {
            path,
            read_only: false,
        }
    }
}

pub(crate) struct Ready {
    pub paths: Paths,
    /// tokens in it must be renewed after this
    pub renew_after: Option<Duration>,
}

pub(crate) fn pod_dir(data_dir: &Path, uid: &str) -> PathBuf {
    data_dir.join("pods").join(uid)
}

fn volume_dir(data_dir: &Path, uid: &str, name: &str) -> PathBuf {
    pod_dir(data_dir, uid).join(".volumes").join(name)
}

/// Makes or updates all volumes; running it again is cheap and changes nothing that is right. Errors are `FailedMount` texts.
pub(crate) async fn set_up(
    context: &Context,
    pod: &Pod,
    renew_tokens: bool,
) -> Result<Ready, String> {
    let mut ready = Ready {
        paths: Paths::new(),
        renew_after: None,
    };
    let spec = pod.spec.as_ref();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let group = group(pod)?;
    for volume in spec.and_then(|s| s.volumes.as_ref()).into_iter().flatten() {
        let failed = |e: String| {
            format!(
                "MountVolume.SetUp failed for volume {:?} : {e}",
                volume.name
            )
        };
        let dir = volume_dir(&context.data_dir, uid, &volume.name);
        let source = one(context, pod, volume, dir, group, renew_tokens, &mut ready)
            .await
            .map_err(failed)?;
        ready.paths.insert(volume.name.as_str().into(), source);
    }
    Ok(ready)
}

fn group(pod: &Pod) -> Result<Option<Group>, String> {
    let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let policy = context.and_then(|c| c.fs_group_change_policy.as_deref());
    let gid = context
        .and_then(|c| c.fs_group)
        .map(|g| u32::try_from(g).map_err(|_| format!("fsGroup {g} is out of range")))
        .transpose()?;
    Ok(gid.map(|gid| Group {
        gid,
        only_on_root_mismatch: policy == Some("OnRootMismatch"),
    }))
}

async fn one(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    dir: PathBuf,
    group: Option<Group>,
    renew_tokens: bool,
    ready: &mut Ready,
) -> Result<Source, String> {
    if let Some(source) = &volume.empty_dir {
        let medium = empty_dir::medium(source, pod, context.memory_bytes)?;
        return blocking(move || {
            empty_dir::make(&dir, &medium, group)?;
            Ok(Source::writable(dir))
        })
        .await;
    }
    if let Some(source) = &volume.host_path {
        let shown = source.path.clone();
        let path = host_path::on_machine(&context.kubelet_dir(), Path::new(&shown));
        let type_ = source.type_.clone().unwrap_or_default();
        return blocking(move || {
            host_path::check(&path, &shown, &type_)?;
            Ok(Source::writable(path))
        })
        .await;
    }
    let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => {
            let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
            Some(format!("{pod_name}-{}", volume.name))
        }
        _ => None,
    };
    if let Some(claim) = claim {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let bound = context.sources.claimed_volume(namespace, &claim).await?;
        let (path, local) = local_path(&bound)?;
        let read_only = volume
            .persistent_volume_claim
            .as_ref()
            .is_some_and(|c| c.read_only.unwrap_or(false));
        return blocking(move || {
            if local && !path.exists() {
                return Err(format!("path {:?} does not exist", path.display()));
            }
            if !local {
                host_path::check(&path, &path.to_string_lossy(), "")?;
            }
            if let Some(group) = group.filter(|_| !read_only) {
                group.own(&path, false).map_err(|e| e.to_string())?;
            }
            Ok(Source { path, read_only })
        })
        .await;
    }

    let present = |path: &str| (!renew_tokens).then(|| atomic::read(&dir, path)).flatten();
    let tokens = payload::Tokens {
        client: &context.client,
        present: &present,
    };
    let facts = Facts {
        node_name: &context.name,
        host_ip: context.host_ip,
        pod_ip: None,
        cpus_milli: context.cpus_milli,
        memory_bytes: context.memory_bytes,
    };
    let rendered = payload::render(pod, volume, &context.sources, &facts, &tokens).await?;
    let Some((files, renew_seconds)) = rendered else {
        return Err("this kind of volume is not supported by this node: use emptyDir, hostPath, configMap, secret, downwardAPI, projected or persistentVolumeClaim".into());
    };
    if let Some(seconds) = renew_seconds {
        let after = Duration::from_secs(seconds);
        ready.renew_after = Some(ready.renew_after.map_or(after, |r| r.min(after)));
    }
    let in_memory = volume.config_map.is_none();
    blocking(move || {
        if in_memory {
            mounts::tmpfs(&dir, None)?;
        } else {
            std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
        }
        atomic::write(&dir, &files, group.map(|g| g.gid)).map_err(|e| e.to_string())?;
        Ok(Source {
            path: dir,
            read_only: true,
        })
    })
    .await
}

/// The folder of a volume on this machine, and whether it must be there already.
fn local_path(volume: &PersistentVolume) -> Result<(PathBuf, bool), String> {
    let spec = volume.spec.as_ref();
    if let Some(local) = spec.and_then(|s| s.local.as_ref()) {
        return Ok((PathBuf::from(&local.path), true));
    }
    if let Some(host) = spec.and_then(|s| s.host_path.as_ref()) {
        return Ok((PathBuf::from(&host.path), false));
    }
    Err(format!(
        "persistent volume {:?} is neither hostPath nor local: this node can't mount it",
        volume.metadata.name.as_deref().unwrap_or_default()
    ))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(format!("a file task failed: {e}")))
}

/// Objects whose change concerns the Pod: those of its volumes, and those of its environment that a start may be waiting for.
pub(crate) fn references(pod: &Pod) -> BTreeSet<Reference> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut out = BTreeSet::new();
    let mut add = |kind: Kind, name: &str| {
        if !name.is_empty() {
            out.insert(Reference {
                kind,
                namespace: namespace.into(),
                name: name.into(),
            });
        }
    };
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        if let Some(source) = &volume.config_map {
            add(Kind::ConfigMap, &source.name);
        }
        if let Some(source) = &volume.secret {
            add(
                Kind::Secret,
                source.secret_name.as_deref().unwrap_or_default(),
            );
        }
        if let Some(source) = &volume.persistent_volume_claim {
            add(Kind::Claim, &source.claim_name);
        }
        for source in volume
            .projected
            .iter()
            .flat_map(|p| p.sources.iter().flatten())
        {
            if let Some(map) = &source.config_map {
                add(Kind::ConfigMap, &map.name);
            }
            if let Some(secret) = &source.secret {
                add(Kind::Secret, &secret.name);
            }
        }
    }
    out
}

/// ConfigMaps and Secrets that only the environment refers to: worth watching while a container can't be made for lack of one.
pub(crate) fn env_references(pod: &Pod) -> BTreeSet<Reference> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let (maps, secrets) = env::references(pod);
    let one = |kind: Kind, name: String| Reference {
        kind,
        namespace: namespace.into(),
        name: name.into(),
    };
    let maps = maps.into_keys().map(|n| one(Kind::ConfigMap, n));
    maps.chain(secrets.into_keys().map(|n| one(Kind::Secret, n)))
        .collect()
}

/// Whether labels or annotations of the Pod show in a volume.
pub(crate) fn shows_metadata(pod: &Pod) -> bool {
    pod.spec
        .iter()
        .flat_map(|s| s.volumes.iter().flatten())
        .any(|v| {
            v.downward_api.is_some()
                || v.projected
                    .iter()
                    .flat_map(|p| p.sources.iter().flatten())
                    .any(|s| s.downward_api.is_some())
        })
}

/// Unmounts and removes all of a Pod's folder.
pub(crate) async fn tear_down(data_dir: &Path, uid: &str, keep_logs: bool) -> Result<(), String> {
    let dir = pod_dir(data_dir, uid);
    blocking(move || {
        if !keep_logs {
            return mounts::remove_tree(&dir);
        }
        for part in [".volumes", ".subpaths", ".etc", ".messages"] {
            mounts::remove_tree(&dir.join(part))?;
        }
        Ok(())
    })
    .await
}
