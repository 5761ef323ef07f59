//! The node's part of growing a volume: the driver grows the file system, and the claim tells the new size.
//!
//! Source: kubernetes `pkg/volume/util/{resize_util,operationexecutor/node_expander}.go`.

use k8s_openapi::{
    api::core::v1::{
        ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    Csi,
    mount::Volume,
    objects,
    rpc::{Status, code},
    service::Expand,
};
use crate::{
    events::Note,
    quantity,
    volumes::{READ_DEADLINE, Request},
};

const RESIZE_CONDITIONS: [&str; 4] = [
    "FileSystemResizePending",
    "Resizing",
    "ControllerResizeError",
    "NodeResizeError",
];
const ERROR: &str = "NodeResizeError";

/// What the claim's status asks the node for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Nothing,
    /// to a quantity
    Grow(String),
}

/// What is to be done for a claim whose volume is this.
pub(crate) fn wish(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Wish {
    let status = claim.status.as_ref();
    let state = status
        .and_then(|s| s.allocated_resource_statuses.as_ref())
        .and_then(|s| s.get("storage").map(String::as_str));
    let pending = status
        .and_then(|s| s.conditions.as_ref())
        .is_some_and(|c| c.iter().any(|c| c.type_ == RESIZE_CONDITIONS[0]));
    let size = |map: Option<&std::collections::BTreeMap<String, _>>| {
        map.and_then(|m| m.get("storage").cloned())
    };
    let have = size(status.and_then(|s| s.capacity.as_ref()));
    let of_volume = size(volume.spec.as_ref().and_then(|s| s.capacity.as_ref()));
    let allocated = size(status.and_then(|s| s.allocated_resources.as_ref()));
    let to = match state {
        Some("NodeResizePending" | "NodeResizeInProgress") => allocated.or(of_volume),
        Some(_) => None,
        None if pending => of_volume,
        None => None,
    };
    match (to, have) {
        (Some(to), Some(have)) if quantity::value(&to) < quantity::value(&have) => Wish::Nothing,
        (Some(to), _) => Wish::Grow(to.0),
        _ => Wish::Nothing,
    }
}

impl Csi {
    /// Grows the volume when its claim waits for that.
    ///
    /// # Errors
    /// What the driver said; the claim tells it, too. A driver that can't grow a volume in use is no error.
    pub(crate) async fn expand(
        &self,
        request: &Request<'_>,
        volume: &Volume<'_>,
        claim: &PersistentVolumeClaim,
        object: &PersistentVolume,
    ) -> Result<(), String> {
        let Wish::Grow(size) = wish(claim, object) else {
            return Ok(());
        };
        let bytes = quantity::value(&k8s_openapi::apimachinery::pkg::api::resource::Quantity(
            size.clone(),
        ));
        let key = Csi::key(&volume.place);
        if self.published.lock().get(&key) == Some(&bytes) {
            return Ok(()); // done; the claim's change is on its way
        }
        let Some(driver) = self.drivers.get(volume.driver) else {
            return Ok(()); // with its next registration
        };
        if volume.read_only {
            let message = format!(
                "MountVolume.NodeExpandVolume failed for volume {:?} requested read-only file system",
                volume.place.volume
            );
            tell(request, claim, true, "FileSystemResizeFailed", &message);
            self.published.lock().insert(key, bytes);
            return Ok(());
        }
        if !driver.abilities.expand {
            return finish(request, claim, &size).await;
        }
        let in_progress = json!({"allocatedResourceStatuses": {"storage": "NodeResizeInProgress"}});
        patch(request, claim, in_progress).await?;
        let source = volume.persistent;
        let secrets = objects::secrets(
            &request.context.client,
            source.and_then(|s| s.node_expand_secret_ref.as_ref()),
            "NodeExpandSecretRef",
        )
        .await?;
        let path = self.layout.shown(&self.layout.target(&volume.place));
        let staging = driver.abilities.stage.then(|| {
            let place = &volume.place;
            let staging =
                self.layout
                    .staging(volume.driver, &volume.handle, &place.volume, place.block);
            std::path::PathBuf::from(self.layout.shown(&staging))
        });
        let what = Expand {
            volume: &volume.handle,
            path: &path,
            staging: staging.as_deref(),
            bytes,
            usage: volume.usage.clone(),
            secrets,
        };
        match driver.service.expand(&what, driver.abilities).await {
            Ok(_) => {
                let message = format!(
                    "MountVolume.NodeExpandVolume succeeded for volume {:?} {}",
                    volume.place.volume, request.context.name
                );
                tell(
                    request,
                    claim,
                    false,
                    "FileSystemResizeSuccessful",
                    &message,
                );
                finish(request, claim, &size).await?;
                self.published.lock().insert(key, bytes);
                Ok(())
            }
            Err(status) => {
                let message = format!(
                    "MountVolume.NodeExpandVolume failed for volume {:?} : Expander.NodeExpand failed to expand the volume : {status}",
                    volume.place.volume
                );
                tell(request, claim, true, "VolumeResizeFailed", &message);
                let hopeless = infeasible(&status) || given_up(claim, bytes);
                if !status.unfinished() {
                    patch(request, claim, failure(claim, &status, hopeless)).await?;
                }
                if status.code == code::FAILED_PRECONDITION {
                    self.published.lock().insert(key, bytes); // not while it is in use: with the next use
                    return Ok(());
                }
                // What can't be done stands in the claim's status, so that the resizer may ask for the same size anew.
                if hopeless { Ok(()) } else { Err(message) }
            }
        }
    }
}

/// An event on the Pod and one on the claim.
pub(crate) fn tell(
    request: &Request<'_>,
    claim: &PersistentVolumeClaim,
    warning: bool,
    reason: &'static str,
    message: &str,
) {
    let events = &request.context.events;
    events.pod(request.pod, None, warning, reason, message.to_owned());
    events.send(Note {
        object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("PersistentVolumeClaim".into()),
            name: claim.metadata.name.clone(),
            namespace: claim.metadata.namespace.clone(),
            uid: claim.metadata.uid.clone(),
            ..ObjectReference::default()
        },
        warning,
        reason,
        message: message.to_owned(),
    });
}

fn infeasible(status: &Status) -> bool {
    const INVALID_ARGUMENT: u32 = 3;
    matches!(
        status.code,
        INVALID_ARGUMENT | code::OUT_OF_RANGE | code::NOT_FOUND
    )
}

/// It has failed before, and the claim wants another size by now: the controller is to begin anew.
fn given_up(claim: &PersistentVolumeClaim, bytes: i64) -> bool {
    let failed = |c: &PersistentVolumeClaimCondition| c.type_ == ERROR && c.status == "True";
    let wanted = claim.spec.as_ref().and_then(|s| s.resources.as_ref());
    let wanted = wanted.and_then(|r| r.requests.as_ref()?.get("storage"));
    conditions(claim).iter().any(failed) && wanted.is_some_and(|w| quantity::value(w) != bytes)
}

fn failure(claim: &PersistentVolumeClaim, status: &Status, hopeless: bool) -> Value {
    let condition = PersistentVolumeClaimCondition {
        type_: ERROR.into(),
        status: "True".into(),
        last_transition_time: Some(Time(jiff::Timestamp::now())),
        message: Some(format!("failed to expand pvc with {status}")),
        ..PersistentVolumeClaimCondition::default()
    };
    let mut conditions = conditions(claim);
    conditions.retain(|c| c.type_ != ERROR);
    conditions.push(condition);
    let mut status_patch = json!({"conditions": conditions});
    if hopeless {
        status_patch["allocatedResourceStatuses"] = json!({"storage": "NodeResizeInfeasible"});
    }
    status_patch
}

fn conditions(claim: &PersistentVolumeClaim) -> Vec<PersistentVolumeClaimCondition> {
    let status = claim.status.as_ref();
    status
        .and_then(|s| s.conditions.clone())
        .unwrap_or_default()
}

/// The claim has the new size, and waits for nothing more.
pub(crate) async fn finish(
    request: &Request<'_>,
    claim: &PersistentVolumeClaim,
    size: &str,
) -> Result<(), String> {
    let mut conditions = conditions(claim);
    conditions.retain(|c| !RESIZE_CONDITIONS.contains(&c.type_.as_str()));
    let status = json!({
        "capacity": {"storage": size},
        "allocatedResourceStatuses": {"storage": null},
        "conditions": conditions,
    });
    patch(request, claim, status).await
}

async fn patch(
    request: &Request<'_>,
    claim: &PersistentVolumeClaim,
    status: Value,
) -> Result<(), String> {
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let api: Api<PersistentVolumeClaim> =
        Api::namespaced(request.context.client.clone(), namespace);
    let patch = json!({"metadata": {"uid": claim.metadata.uid}, "status": status});
    let patch = Patch::Merge(&patch);
    let params = PatchParams::default();
    match tokio::time::timeout(READ_DEADLINE, api.patch_status(name, &params, &patch)).await {
        Ok(done) => done
            .map(drop)
            .map_err(|e| format!("PVC {namespace}/{name}: {e}")),
        Err(_) => Err("the API server did not answer in time".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_size_that_nobody_wants_any_more_is_given_up() {
        let failed = json!([{"type": ERROR, "status": "True"}]);
        for (name, wanted, conditions, want) in [
            ("still wanted", "9Gi", failed.clone(), false),
            ("another is wanted", "5Gi", failed, true),
            ("not failed yet", "5Gi", json!([]), false),
        ] {
            let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {},
                "spec": {"resources": {"requests": {"storage": wanted}}}, "status": {"conditions": conditions}}))
            .unwrap();
            assert_eq!(given_up(&claim, 9 << 30), want, "{name}");
            let status = Status::new(7, "no");
            let told = failure(&claim, &status, want);
            let state = told["allocatedResourceStatuses"]["storage"].as_str();
            assert_eq!(state, want.then_some("NodeResizeInfeasible"), "{name}");
        }
    }

    #[test]
    fn wishes() {
        let volume: PersistentVolume = serde_json::from_value(
            json!({"metadata": {}, "spec": {"capacity": {"storage": "3Gi"}}}),
        )
        .unwrap();
        let grow = |s: &str| Wish::Grow(s.into());
        for (name, status, want) in [
            (
                "as it was",
                json!({"capacity": {"storage": "3Gi"}}),
                Wish::Nothing,
            ),
            (
                "the controller's turn",
                json!({"allocatedResourceStatuses": {"storage": "ControllerResizeInProgress"}}),
                Wish::Nothing,
            ),
            (
                "the node's turn",
                json!({"capacity": {"storage": "1Gi"}, "allocatedResources": {"storage": "2Gi"},
                    "allocatedResourceStatuses": {"storage": "NodeResizePending"}}),
                grow("2Gi"),
            ),
            (
                "an older controller",
                json!({"capacity": {"storage": "1Gi"}, "conditions": [{"type": "FileSystemResizePending", "status": "True"}]}),
                grow("3Gi"),
            ),
            (
                "refused for good",
                json!({"allocatedResourceStatuses": {"storage": "NodeResizeInfeasible"}}),
                Wish::Nothing,
            ),
        ] {
            let claim = json!({"metadata": {}, "status": status});
            let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
            assert_eq!(wish(&claim, &volume), want, "{name}");
        }
    }
}
