//! A Pod's volumes: made before its containers start, kept up to date while it lives, gone after.
//!
//! ```text
//! <data_dir>/pods/<uid>/.volumes/<name>            emptyDir and rendered files
//! <data_dir>/pods/<uid>/.folders/<name>            which folder of a claim is the Pod's own
//! <data_dir>/pods/<uid>/.subpaths/<container>/<n>  bind mounts of sub-paths
//! <data_dir>/pods/<uid>/.etc/                      hosts, hostname, resolv.conf
//! <data_dir>/pods/<uid>/.messages/<container>.<n>  termination messages
//! <data_dir>/pods/<uid>/<container>/<n>.log        logs
//! ```
//! Names with a dot in front can't be container names.

pub(crate) mod atomic;
mod claim;
pub(crate) mod csi;
mod empty_dir;
mod folders;
pub(crate) mod host_path;
mod image;
mod local;
pub(crate) mod mounts;
mod ownership;
mod payload;
mod removal;
pub(crate) mod sub_path;
mod token;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Pod, Volume};
use tokio_util::sync::CancellationToken;

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
    /// the path is a block device's
    pub device: bool,
}

/// Volume name → what to mount.
pub(crate) type Paths = BTreeMap<Box<str>, Source>;

impl Source {
    fn writable(path: PathBuf) -> Source {
        Source {
            path,
            read_only: false,
            device: false,
        }
    }
}

/// How it's told that a driver has no room for a volume on this node, and won't have any: the Pod can't be here.
pub(crate) const ATTACH_LIMIT: &str =
    "Node has reached its volume attachment limit, rejecting pod.";

pub(crate) struct Ready {
    pub paths: Paths,
    /// something in it must be renewed after this
    pub renew_after: Option<Duration>,
}

impl Ready {
    fn come_again(&mut self, after: Option<Duration>) {
        self.renew_after = [self.renew_after, after].into_iter().flatten().min();
    }
}

/// Whose volumes are to be made ready.
pub(crate) struct Request<'a> {
    pub context: &'a Context,
    pub pod: &'a Pod,
    /// they have been ready before
    pub again: bool,
    /// the Pod is to stop: nothing is waited for any more
    pub stop: &'a CancellationToken,
}

impl Request<'_> {
    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }
    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }
    /// Waits for something that others must do first.
    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, String> {
        self.stop
            .run_until_cancelled(work)
            .await
            .ok_or_else(|| "the pod is being stopped".into())
    }
}

pub(crate) fn pod_dir(data_dir: &Path, uid: &str) -> PathBuf {
    data_dir.join("pods").join(uid)
}

pub(crate) fn volume_dir(data_dir: &Path, uid: &str, name: &str) -> PathBuf {
    pod_dir(data_dir, uid).join(".volumes").join(name)
}

/// Makes or updates all volumes; running it again is cheap and changes nothing that is right. Errors are `FailedMount` texts.
pub(crate) async fn set_up(request: &Request<'_>) -> Result<Ready, String> {
    let mut ready = Ready {
        paths: Paths::new(),
        renew_after: None,
    };
    let spec = request.pod.spec.as_ref();
    let group = group(request.pod)?;
    for volume in spec.and_then(|s| s.volumes.as_ref()).into_iter().flatten() {
        if volume.image.is_some() {
            continue;
        }
        let source = match claim::name(request.pod, volume) {
            // Boxed: each is large, and most Pods have only small ones.
            Some(claim) => {
                let ready = Box::pin(claim::set_up(request, volume, claim, group, &mut ready));
                let mut source = ready.await.map_err(|e| match e.contains(ATTACH_LIMIT) {
                    // in the kubelet's words (`volumemanager.VolumeAttachLimitExceededError`)
                    true => format!(
                        "{ATTACH_LIMIT} unmounted volumes=[{0}], unattached volumes=[{0}], failed to process volumes=[]: timed out waiting for the condition",
                        volume.name
                    ),
                    false => e,
                })?;
                if folders::wanted(request.pod, volume) {
                    source.path = Box::pin(folders::take(request, volume, &source.path)).await?;
                }
                source
            }
            None => Box::pin(one(request, volume, group, &mut ready))
                .await
                .map_err(|e| {
                    let name = &volume.name;
                    format!("MountVolume.SetUp failed for volume {name:?} : {e}")
                })?,
        };
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
    request: &Request<'_>,
    volume: &Volume,
    group: Option<Group>,
    ready: &mut Ready,
) -> Result<Source, String> {
    let (context, pod) = (request.context, request.pod);
    let dir = volume_dir(&context.data_dir, request.uid(), &volume.name);
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
        let kubelet_dir = context.kubelet_dir();
        let path = host_path::on_machine(&kubelet_dir, Path::new(&shown));
        let type_ = source.type_.clone().unwrap_or_default();
        return blocking(move || {
            if path.starts_with(&kubelet_dir) {
                mounts::share(&kubelet_dir)?;
            }
            host_path::check(&path, &shown, &type_)?;
            Ok(Source::writable(path))
        })
        .await;
    }
    if let Some(source) = &volume.csi {
        let csi = &context.csi;
        let inline =
            csi::mount::Volume::inline(request.uid(), request.namespace(), &volume.name, source);
        let (source, again) = Box::pin(csi.mount(request, inline, group)).await?;
        ready.come_again(again);
        return Ok(source);
    }

    let present = |path: &str| atomic::read(&dir, path);
    let tokens = payload::Tokens {
        client: &context.client,
        present: &present,
    };
    let host_ips = context.network.addresses(context.host_ip);
    let facts = Facts {
        node_name: &context.name,
        host_ips: &host_ips,
        pod_ips: &[],
        cpus_milli: context.cpus_milli,
        memory_bytes: context.memory_bytes,
    };
    let rendered = payload::render(pod, volume, &context.sources, &facts, &tokens).await?;
    let Some((files, renew_seconds)) = rendered else {
        return Err("this kind of volume is not supported by this node: use emptyDir, hostPath, configMap, secret, downwardAPI, projected, persistentVolumeClaim, ephemeral or csi".into());
    };
    ready.come_again(renew_seconds.map(Duration::from_secs));
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
            device: false,
        })
    })
    .await
}

/// The files of an image, as a volume of the Pod; made when a container that mounts it starts.
pub(crate) async fn image(
    data_dir: &Path,
    uid: &str,
    name: &str,
    layers: Vec<PathBuf>,
) -> Result<Source, String> {
    let dir = volume_dir(data_dir, uid, name);
    blocking(move || image::mount(&dir, &layers)).await
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
        if let Some((claim, _)) = claim::name(pod, volume) {
            add(Kind::Claim, &claim);
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

/// Unmounts and removes all of a Pod's folder, and gives drivers' volumes back to them.
pub(crate) async fn tear_down(context: &Context, uid: &str, keep_logs: bool) -> Result<(), String> {
    let dir = pod_dir(&context.data_dir, uid);
    // what is mounted from volumes first
    let own = dir.clone();
    blocking(move || {
        mounts::remove_tree(&own.join(".subpaths"))?;
        folders::give_back(&own);
        Ok(())
    })
    .await?;
    context.csi.tear_down(context, uid).await?;
    let (kubelet_dir, uid) = (context.kubelet_dir(), uid.to_owned());
    blocking(move || {
        local::tear_down(&kubelet_dir, &uid)?;
        if !keep_logs {
            return mounts::remove_tree(&dir);
        }
        for part in [".volumes", folders::HELD, ".etc", ".messages"] {
            mounts::remove_tree(&dir.join(part))?;
        }
        Ok(())
    })
    .await
}
