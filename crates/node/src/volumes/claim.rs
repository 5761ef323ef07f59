//! Volumes behind claims: the claim, the PersistentVolume bound to it, and what kind that is.
//!
//! Source: kubernetes `pkg/kubelet/volumemanager/populator/desired_state_of_world_populator.go`.

use k8s_openapi::api::core::v1::{Container, PersistentVolume, PersistentVolumeClaim, Pod, Volume};

use super::{
    Ready, Request, Source, blocking, csi,
    csi::expand::{self, Wish},
    host_path, local,
    ownership::Group,
};

/// Name of the claim that the volume is of, with whether it must be mounted read-only; None: of no claim.
pub(crate) fn name(pod: &Pod, volume: &Volume) -> Option<(String, bool)> {
    if let Some(claim) = &volume.persistent_volume_claim {
        return Some((claim.claim_name.clone(), claim.read_only.unwrap_or(false)));
    }
    volume.ephemeral.as_ref()?;
    let pod = pod.metadata.name.as_deref().unwrap_or_default();
    Some((format!("{pod}-{}", volume.name), false))
}

/// What a container does with a volume: (mounts it, uses it as a device).
fn uses(pod: &Pod, volume: &str) -> (bool, bool) {
    let spec = pod.spec.as_ref();
    let inits = spec.iter().flat_map(|s| s.init_containers.iter().flatten());
    let containers = spec.iter().flat_map(|s| &s.containers).chain(inits);
    containers.fold((false, false), |(mounts, devices), c: &Container| {
        (
            mounts || c.volume_mounts.iter().flatten().any(|m| m.name == volume),
            devices || c.volume_devices.iter().flatten().any(|d| d.name == volume),
        )
    })
}

/// Makes the volume of the claim ready.
///
/// # Errors
/// `FailedMount` texts, whole.
pub(crate) async fn set_up(
    request: &Request<'_>,
    volume: &Volume,
    (claim_name, read_only): (String, bool),
    group: Option<Group>,
    ready: &mut Ready,
) -> Result<Source, String> {
    let namespace = request.namespace();
    let unprocessed = |e: String| {
        let name = &volume.name;
        format!(
            "Unable to attach or mount volumes: unmounted volumes=[{name}], unattached volumes=[], failed to process volumes=[{name}]: error processing PVC {namespace}/{claim_name}: {e}"
        )
    };
    let (claim, object) = bound(request, volume, &claim_name)
        .await
        .map_err(unprocessed)?;
    let name = object.metadata.name.clone().unwrap_or_default();
    let spec = object.spec.clone().unwrap_or_default();
    let block = spec.volume_mode.as_deref() == Some("Block");
    match (uses(request.pod, &volume.name), block) {
        ((true, _), true) => {
            return Err(unprocessed(format!(
                "volume {} has volumeMode Block, but is specified in volumeMounts",
                volume.name
            )));
        }
        ((_, true), false) => {
            return Err(unprocessed(format!(
                "volume {} has volumeMode Filesystem, but is specified in volumeDevices",
                volume.name
            )));
        }
        _ => {}
    }
    let failed = |what: &str| {
        let text = format!("{what} failed for volume {name:?} : ");
        move |e: String| format!("{text}{e}")
    };
    if spec
        .access_modes
        .iter()
        .flatten()
        .any(|m| m == "ReadWriteOncePod")
    {
        let csi = &request.context.csi;
        csi.claim_alone(&name, request.uid())
            .map_err(failed("MountVolume.SetUp"))?;
    }
    if let Some(source) = &spec.csi {
        let uid = request.uid();
        let of_csi = || csi::mount::Volume::persistent(uid, &name, &object, source, read_only);
        let csi = &request.context.csi;
        let what = if block {
            "MapVolume.SetUpDevice"
        } else {
            "MountVolume.SetUp"
        };
        let (source, again) = Box::pin(csi.mount(request, of_csi(), group))
            .await
            .map_err(failed(what))?;
        Box::pin(csi.expand(request, &of_csi(), &claim, &object)).await?;
        ready.come_again(again);
        return Ok(source);
    }
    if let Some(source) = spec.local {
        let kubelet_dir = request.context.kubelet_dir();
        let options = spec.mount_options.unwrap_or_default();
        let (uid, volume) = (request.uid().to_owned(), name.clone());
        let found = blocking(move || {
            local::set_up(&local::Wanted {
                kubelet_dir: &kubelet_dir,
                uid: &uid,
                volume: &volume,
                source: &source,
                block,
                read_only,
                options: &options,
                group,
            })
        });
        let found = found.await.map_err(failed(if block {
            "MapVolume.SetUpDevice"
        } else {
            "MountVolume.SetUp"
        }))?;
        if let Wish::Grow(size) = expand::wish(&claim, &object) {
            grow(request, &claim, &object, &size).await?;
        }
        return Ok(found);
    }
    if let Some(source) = spec.host_path {
        let path = host_path::on_machine(
            &request.context.kubelet_dir(),
            std::path::Path::new(&source.path),
        );
        let type_ = source.type_.unwrap_or_default();
        let found = blocking(move || {
            host_path::check(&path, &source.path, &type_)?;
            Ok(Source {
                path,
                read_only,
                device: false,
            })
        });
        return found.await.map_err(failed("MountVolume.SetUp"));
    }
    Err(failed("MountVolume.NewMounter initialization")(
        "no volume plugin matched: this node mounts csi, local and hostPath volumes".into(),
    ))
}

/// A local volume's file system takes the room that its device has got.
async fn grow(
    request: &Request<'_>,
    claim: &PersistentVolumeClaim,
    object: &PersistentVolume,
    size: &str,
) -> Result<(), String> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let spec = object.spec.as_ref();
    let block = spec.and_then(|s| s.volume_mode.as_deref()) == Some("Block");
    if let Some(source) = spec.and_then(|s| s.local.clone()).filter(|_| !block) {
        let (kubelet_dir, volume) = (request.context.kubelet_dir(), name.clone());
        let grown = blocking(move || local::grow(&kubelet_dir, &volume, &source)).await;
        if let Err(error) = grown {
            let message =
                format!("MountVolume.NodeExpandVolume failed for volume {name:?} : {error}");
            expand::tell(request, claim, true, "VolumeResizeFailed", &message);
            return Err(message);
        }
    }
    let node = &request.context.name;
    let message = format!("MountVolume.NodeExpandVolume succeeded for volume {name:?} {node}");
    expand::tell(
        request,
        claim,
        false,
        "FileSystemResizeSuccessful",
        &message,
    );
    expand::finish(request, claim, size).await
}

/// The claim and its volume, when both say so.
async fn bound(
    request: &Request<'_>,
    volume: &Volume,
    name: &str,
) -> Result<(PersistentVolumeClaim, PersistentVolume), String> {
    let sources = &request.context.sources;
    let claim = sources
        .claim(request.namespace(), name)
        .await
        .map_err(|e| format!("failed to fetch PVC from API server: {e}"))?;
    // A Pod that has the volume keeps it; one that has not yet must not get what is about to go.
    if !request.again && claim.metadata.deletion_timestamp.is_some() {
        return Err("PVC is being deleted".into());
    }
    if volume.ephemeral.is_some() {
        let owner = claim.metadata.owner_references.iter().flatten();
        let owned = owner
            .filter(|o| o.controller == Some(true))
            .any(|o| Some(&o.uid) == request.pod.metadata.uid.as_ref());
        if !owned {
            return Err(format!(
                "PVC {}/{name} was not created for pod {}/{} (pod is not owner)",
                request.namespace(),
                request.namespace(),
                request.pod.metadata.name.as_deref().unwrap_or_default()
            ));
        }
    }
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref());
    let to = claim.spec.as_ref().and_then(|s| s.volume_name.clone());
    let Some(to) = to.filter(|v| !v.is_empty() && phase == Some("Bound")) else {
        return Err("PVC is not bound".into());
    };
    let object = sources
        .volume(&to)
        .await
        .map_err(|e| format!("failed to fetch PV {to} from API server: {e}"))?;
    let reference = object.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let Some(reference) = reference else {
        return Err(format!(
            "found PV object {to} but it has a nil pvc reference"
        ));
    };
    if reference.uid != claim.metadata.uid {
        return Err(format!(
            "found PV object {to} but its pvc reference has an unexpected uid: it is another claim's"
        ));
    }
    Ok((claim, object))
}
