//! Local-path volumes: made for claims, filled from other claims, and grown.

use std::{path::PathBuf, sync::Arc};

use serde_json::json;

use super::{Controller, PROVISIONED_BY, PROVISIONER, SOURCE, claims::reference, directory};
use crate::{
    error::Result,
    machinery::{rest::Ignored, work::Next},
    objects::{
        meta::Object,
        node::Node,
        volume::{Claim, StorageClass, Volume},
    },
};

const HOSTNAME: &str = "kubernetes.io/hostname";

impl Controller {
    /// A new volume for the claim, already bound to it.
    pub(super) async fn provision(
        &self,
        claim: &Claim,
        class: &StorageClass,
        node: Option<Arc<Node>>,
    ) -> Result<Next> {
        let meta = &claim.metadata;
        let fail = |message: String| {
            self.recorder
                .warning(claim, SOURCE, "ProvisioningFailed", message);
        };
        if &*claim.spec.volume_mode == "Block" {
            fail("local-path volumes are directories: use volumeMode Filesystem".into());
            return self.pending(claim).await;
        }
        if claim.spec.selector.is_some() {
            fail("claim.Spec.Selector is not supported by local-path: remove it, or make a volume that it selects".into());
            return self.pending(claim).await;
        }
        if !class.mount_options.is_empty() {
            fail(format!(
                "Mount options are not supported by the provisioner but StorageClass {:?} has mount options {:?}",
                &*class.metadata.name, class.mount_options
            ));
            return self.pending(claim).await;
        }
        let filled_from = match self.source(claim) {
            Ok(from) => from,
            Err(why) => {
                fail(why);
                return self.pending(claim).await;
            }
        };
        let node = match node {
            Some(n) => n,
            None => match self.any_node() {
                Some(n) => n,
                None => {
                    fail("no node is ready".into());
                    return self.pending(claim).await;
                }
            },
        };
        // one name for one claim: a second attempt meets the first
        let name = format!("pvc-{}", meta.uid);
        let directory = directory::name(&name, &meta.namespace, &meta.name);
        let made = match filled_from {
            None => directory::make(self.root.clone(), directory).await,
            Some(from) => directory::copy(self.root.clone(), from, directory).await,
        };
        let path = match made {
            Ok(p) => p,
            Err(e) => {
                fail(e.to_string());
                return Err(e);
            }
        };
        let hostname = node
            .metadata
            .labels
            .get(HOSTNAME)
            .unwrap_or(&node.metadata.name);
        let body = json!({
            "apiVersion": "v1", "kind": Volume::KIND.kind,
            "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}},
            "spec": {
                "capacity": claim.spec.resources.requests,
                "accessModes": claim.spec.access_modes,
                "volumeMode": "Filesystem",
                "persistentVolumeReclaimPolicy":
                    if class.reclaim_policy.is_empty() { "Delete" } else { &class.reclaim_policy },
                "storageClassName": class.metadata.name,
                "claimRef": reference(claim),
                "local": {"path": path},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": HOSTNAME, "operator": "In", "values": [hostname]},
                ]}]}},
            },
        });
        let made = self
            .rest
            .create::<Volume>(&Volume::KIND.collection(""), &body)
            .await;
        let volume = match made {
            Ok(v) => v,
            Err(e) if e.is_already_exists() => self.rest.get(&Volume::KIND.path("", &name)).await?,
            Err(e) => {
                fail(format!("failed to create the volume {name}: {e}"));
                return Err(e);
            }
        };
        // the claim may have gone meanwhile: then so does the volume
        if volume.metadata.deleting() {
            return Ok(Next::Wait);
        }
        let next = self.bind(claim, Arc::new(volume)).await?;
        self.recorder.normal(
            claim,
            SOURCE,
            "ProvisioningSucceeded",
            format!("Successfully provisioned volume {name}"),
        );
        Ok(next)
    }

    /// The directory that the claim's volume is to be a copy of; Err: why it can't be.
    fn source(&self, claim: &Claim) -> std::result::Result<Option<PathBuf>, String> {
        let Some(from) = &claim.spec.data_source_ref else {
            return Ok(None);
        };
        if !from.api_group.is_empty() || &*from.kind != Claim::KIND.kind {
            return Err(format!(
                "local-path volumes can be filled from a PersistentVolumeClaim only, not from a {}",
                from.kind
            ));
        }
        let namespace = &claim.metadata.namespace;
        if !from.namespace.is_empty() && from.namespace != *namespace {
            return Err("a claim of another namespace can't be copied".into());
        }
        let name = &*from.name;
        let source = self
            .claims
            .get(namespace, name)
            .filter(|c| &*c.status.phase == "Bound")
            .ok_or_else(|| format!("the PVC {name:?} to be copied is not there or not bound"))?;
        let volume = self
            .volumes
            .get("", &source.spec.volume_name)
            .filter(|v| v.is_bound_to(&source) && is_ours(v))
            .ok_or_else(|| format!("the volume of PVC {name:?} is not one of local-path"))?;
        if claim.spec.resources.requests.bytes() < volume.spec.capacity.bytes() {
            return Err(format!(
                "error, new PVC request must be greater than or equal in size to the specified PVC data source, requested {} but source is {}",
                claim.spec.resources.requests.storage, volume.spec.capacity.storage
            ));
        }
        Ok(path(&volume))
    }

    fn any_node(&self) -> Option<Arc<Node>> {
        let mut found: Option<Arc<Node>> = None;
        self.nodes.each(|n| {
            if n.ready()
                && found
                    .as_ref()
                    .is_none_or(|f| n.metadata.name < f.metadata.name)
            {
                found = Some(n.clone());
            }
        });
        found
    }

    /// A bound claim that asks for more than it has: a directory has no size, so it gets it; other volumes are for
    /// their drivers (`pkg/controller/volume/expand`).
    pub(super) async fn grow(&self, claim: &Claim, volume: &Volume) -> Result<Next> {
        let (asked, has) = (&claim.spec.resources.requests, &claim.status.capacity);
        if claim.metadata.deleting() || has.bytes() == 0 || asked.bytes() <= has.bytes() {
            return Ok(Next::Wait);
        }
        if !is_ours(volume) {
            let message = "waiting for an external controller to expand this PVC";
            self.recorder
                .normal(claim, "volume_expand", "ExternalExpanding", message.into());
            return Ok(Next::Wait);
        }
        if volume.spec.capacity.bytes() < asked.bytes() {
            let patch = json!({
                "metadata": {"resourceVersion": volume.metadata.resource_version},
                "spec": {"capacity": asked},
            });
            let path = Volume::KIND.at(&volume.metadata);
            self.rest.merge::<Ignored>(&path, &patch).await?;
        }
        let status = json!({"capacity": asked, "allocatedResources": asked});
        self.claim_status(claim, status).await?;
        let message = format!(
            "Resize volume succeeded for volume {}",
            claim.metadata.key()
        );
        self.recorder
            .normal(claim, "volume_expand", "VolumeResizeSuccessful", message);
        Ok(Next::Wait)
    }
}

/// The provisioner of this file made it.
pub(super) fn is_ours(volume: &Volume) -> bool {
    volume.metadata.annotations.get(PROVISIONED_BY) == Some(PROVISIONER)
}

/// Where it is.
pub(super) fn path(volume: &Volume) -> Option<PathBuf> {
    let spec = &volume.spec;
    let source = spec.local.as_ref().or(spec.host_path.as_ref())?;
    Some(PathBuf::from(&*source.path))
}
