//! Claims: the right volume is found, or made, and both are bound to each other.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, CLAIM_PROTECTION, Controller, PROVISIONER, SELECTED_NODE,
    SOURCE,
    matching::{best, suits},
};
use crate::{
    error::Result,
    machinery::{
        rest::{Delete, Ignored},
        work::Next,
    },
    objects::{
        meta::{Key, Object},
        pod::Pod,
        volume::{Claim, StorageClass, Volume},
    },
};

/// Annotations on a claim: who is to make its volume.
const ASKED_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const ASKED_PROVISIONER_OLD: &str = "volume.beta.kubernetes.io/storage-provisioner";

#[derive(Deserialize)]
struct Pods {
    items: Vec<Pod>,
}

impl Controller {
    pub(super) async fn claim(&self, key: Key) -> Result<Next> {
        let Some(claim) = self.claims.at(&key) else {
            return Ok(Next::Wait);
        };
        if claim.metadata.deleting() {
            let next = self.leaving(&claim).await?;
            if claim.spec.volume_name.is_empty() {
                return Ok(next);
            }
        }
        if claim.metadata.annotations.get(BIND_COMPLETED).is_some() {
            self.bound(&claim).await
        } else if claim.spec.volume_name.is_empty() {
            self.unbound(&claim).await
        } else {
            self.asked_for(&claim).await
        }
    }

    /// A claim that takes any volume that suits it.
    async fn unbound(&self, claim: &Claim) -> Result<Next> {
        let class = claim.class().filter(|c| !c.is_empty());
        let known = class.and_then(|c| self.classes.get("", c));
        let waits = known.as_ref().is_some_and(|c| c.waits_for_consumer());
        let mut volumes = vec![];
        self.volumes.each(|v| {
            // the scheduler chooses among the others
            if !waits || v.is_for(claim) {
                volumes.push(v.clone());
            }
        });
        if let Some(volume) = best(claim, &volumes, None) {
            return self.bind(claim, volume).await;
        }
        if claim.class().is_none()
            && let Some(default) = self.default_of_claims()
        {
            let patch = json!({
                "metadata": {"resourceVersion": claim.metadata.resource_version},
                "spec": {"storageClassName": default.metadata.name},
            });
            let path = Claim::KIND.at(&claim.metadata);
            self.rest.merge::<Ignored>(&path, &patch).await?;
            return Ok(Next::Wait);
        }
        let selected = claim.metadata.annotations.get(SELECTED_NODE);
        if waits && selected.is_none() {
            let (reason, message) = self.consumers(claim);
            self.recorder.normal(claim, SOURCE, reason, message);
            return self.pending(claim).await;
        }
        let Some(name) = class else {
            let message =
                "no persistent volumes available for this claim and no storage class is set";
            self.recorder
                .normal(claim, SOURCE, "FailedBinding", message.into());
            return self.pending(claim).await;
        };
        let Some(class) = known else {
            let message = format!("storageclass.storage.k8s.io {name:?} not found");
            self.recorder
                .warning(claim, SOURCE, "ProvisioningFailed", message);
            return self.pending(claim).await;
        };
        let provisioner = &*class.provisioner;
        if provisioner == PROVISIONER {
            let node = selected.and_then(|n| self.nodes.get("", n));
            return self.provision(claim, &class, node).await;
        }
        if provisioner.starts_with("kubernetes.io/") {
            let message = format!("no volume plugin matched name: {provisioner}");
            self.recorder
                .warning(claim, SOURCE, "ProvisioningFailed", message);
            return self.pending(claim).await;
        }
        if claim.metadata.annotations.get(ASKED_PROVISIONER) != Some(provisioner) {
            let patch = json!({"metadata": {
                "resourceVersion": claim.metadata.resource_version,
                "annotations": {ASKED_PROVISIONER: provisioner, ASKED_PROVISIONER_OLD: provisioner},
            }});
            let path = Claim::KIND.at(&claim.metadata);
            self.rest.merge::<Ignored>(&path, &patch).await?;
        }
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        );
        self.recorder
            .normal(claim, SOURCE, "ExternalProvisioning", message);
        self.pending(claim).await
    }

    /// Who must come first.
    fn consumers(&self, claim: &Claim) -> (&'static str, String) {
        let meta = &claim.metadata;
        let waiting = self.pods.in_namespace(&meta.namespace, |p| {
            p.spec.node_name.is_empty() && !p.terminal() && p.claims().any(|c| *c == *meta.name)
        });
        let names: Vec<&str> = waiting.iter().map(|p| &*p.metadata.name).collect();
        match names.len() {
            0 => (
                "WaitForFirstConsumer",
                "waiting for first consumer to be created before binding".into(),
            ),
            1 => (
                "WaitForPodScheduled",
                format!("waiting for pod {} to be scheduled", names[0]),
            ),
            _ => (
                "WaitForPodScheduled",
                format!("waiting for pods {} to be scheduled", names.join(",")),
            ),
        }
    }

    /// The class of claims that name none: the newest of those marked so.
    fn default_of_claims(&self) -> Option<Arc<StorageClass>> {
        let mut default: Option<Arc<StorageClass>> = None;
        let order = |c: &StorageClass| {
            let meta = &c.metadata;
            (
                std::cmp::Reverse(meta.creation_timestamp),
                meta.name.clone(),
            )
        };
        self.classes.each(|c| {
            if c.is_default() && default.as_ref().is_none_or(|d| order(c) < order(d)) {
                default = Some(c.clone());
            }
        });
        default
    }

    pub(super) async fn pending(&self, claim: &Claim) -> Result<Next> {
        self.without_volume(claim, "Pending").await?;
        Ok(Next::Wait)
    }

    /// A phase in which it has no volume; whether that's new.
    async fn without_volume(&self, claim: &Claim, phase: &str) -> Result<bool> {
        let status = &claim.status;
        let new = &*status.phase != phase;
        if new || !status.access_modes.is_empty() || !status.capacity.storage.is_empty() {
            let patch = json!({"phase": phase, "accessModes": null, "capacity": null});
            self.claim_status(claim, patch).await?;
        }
        Ok(new)
    }

    pub(super) async fn claim_status(
        &self,
        claim: &Claim,
        status: serde_json::Value,
    ) -> Result<()> {
        let path = format!("{}/status", Claim::KIND.at(&claim.metadata));
        let patch = json!({"metadata": {"uid": claim.metadata.uid}, "status": status});
        self.rest.merge::<Ignored>(&path, &patch).await.map(|_| ())
    }

    /// A claim that has been bound: that must still hold.
    async fn bound(&self, claim: &Claim) -> Result<Next> {
        let (reason, message) = match self.volumes.get("", &claim.spec.volume_name) {
            _ if claim.spec.volume_name.is_empty() => (
                "ClaimLost",
                "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
            ),
            None => (
                "ClaimLost",
                "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
            ),
            Some(v) => match &v.spec.claim_ref {
                None => return self.bind(claim, v).await,
                Some(r) if r.uid == claim.metadata.uid => {
                    self.bind(claim, v.clone()).await?;
                    return self.grow(claim, &v).await;
                }
                Some(_) => (
                    "ClaimMisbound",
                    "Two claims are bound to the same volume, this one is bound incorrectly",
                ),
            },
        };
        if self.without_volume(claim, "Lost").await? {
            self.recorder.warning(claim, SOURCE, reason, message.into());
        }
        Ok(Next::Wait)
    }

    /// A claim that names its volume, and isn't bound yet.
    async fn asked_for(&self, claim: &Claim) -> Result<Next> {
        let name = &claim.spec.volume_name;
        match self.volumes.get("", name) {
            None => self.pending(claim).await,
            Some(v) if v.is_for(claim) => self.bind(claim, v).await,
            Some(v) if v.spec.claim_ref.is_none() => match suits(&v, claim) {
                Ok(()) => self.bind(claim, v).await,
                Err(why) => {
                    let message = format!("Cannot bind to requested volume {name:?}: {why}");
                    self.recorder
                        .warning(claim, SOURCE, "VolumeMismatch", message);
                    self.pending(claim).await
                }
            },
            Some(_) => {
                let message = format!("volume {name:?} already bound to a different claim.");
                self.recorder
                    .warning(claim, SOURCE, "FailedBinding", message);
                self.pending(claim).await
            }
        }
    }

    /// Both to each other; each step is skipped if it's done, so an interrupted binding goes on where it was.
    pub(super) async fn bind(&self, claim: &Claim, volume: Arc<Volume>) -> Result<Next> {
        let meta = &claim.metadata;
        let named = volume
            .spec
            .claim_ref
            .as_ref()
            .is_some_and(|r| r.uid == meta.uid);
        if !named {
            let ours = volume.spec.claim_ref.is_none();
            let patch = json!({
                "metadata": {
                    "resourceVersion": volume.metadata.resource_version,
                    "annotations": if ours { json!({BOUND_BY_CONTROLLER: "yes"}) } else { json!({}) },
                },
                "spec": {"claimRef": reference(claim)},
            });
            self.rest
                .merge::<Ignored>(&Volume::KIND.at(&volume.metadata), &patch)
                .await?;
        }
        if *claim.spec.volume_name != *volume.metadata.name
            || meta.annotations.get(BIND_COMPLETED).is_none()
        {
            let mut annotations = json!({BIND_COMPLETED: "yes"});
            if claim.spec.volume_name.is_empty() {
                annotations[BOUND_BY_CONTROLLER] = "yes".into();
            }
            let patch = json!({
                "metadata": {"resourceVersion": meta.resource_version, "annotations": annotations},
                "spec": {"volumeName": volume.metadata.name},
            });
            self.rest
                .merge::<Ignored>(&Claim::KIND.at(meta), &patch)
                .await?;
        }
        let status = &claim.status;
        if &*status.phase != "Bound" {
            let mut new = json!({
                "phase": "Bound",
                "accessModes": volume.spec.access_modes,
                "capacity": volume.spec.capacity,
            });
            if let Some(attributes) = &volume.spec.volume_attributes_class_name {
                new["currentVolumeAttributesClassName"] = json!(attributes);
            }
            self.claim_status(claim, new).await?;
        } else if status.access_modes != volume.spec.access_modes {
            let new = json!({"accessModes": volume.spec.access_modes});
            self.claim_status(claim, new).await?;
        }
        Ok(Next::Wait)
    }

    /// A claim that goes away: it's held while a pod uses it.
    async fn leaving(&self, claim: &Claim) -> Result<Next> {
        let meta = &claim.metadata;
        if !meta.finalizers.iter().any(|f| &**f == CLAIM_PROTECTION) {
            return Ok(Next::Wait);
        }
        let uses = |p: &Pod| {
            !p.spec.node_name.is_empty()
                && p.spec
                    .volumes
                    .iter()
                    .any(|v| match &v.persistent_volume_claim {
                        // also by one that has ended: it can still be looked at
                        Some(c) => *c.claim_name == *meta.name,
                        None => {
                            v.ephemeral.is_some()
                                && format!("{}-{}", p.metadata.name, v.name) == *meta.name
                                && meta.controlled_by(&p.metadata.uid)
                                && !p.shut_down()
                        }
                    })
        };
        if !self.pods.in_namespace(&meta.namespace, uses).is_empty() {
            return Ok(Next::Wait);
        }
        // the cache may lag behind: only the server's word counts
        let list: Pods = self
            .rest
            .get(&Pod::KIND.collection(&meta.namespace))
            .await?;
        if !list.items.iter().any(uses) {
            self.unprotect::<Claim>(meta, CLAIM_PROTECTION).await?;
        }
        Ok(Next::Wait)
    }

    /// Deletes a volume object.
    pub(super) async fn delete_volume(&self, volume: &Volume) -> Result<()> {
        self.rest
            .delete(
                &Volume::KIND.at(&volume.metadata),
                &Delete::uid(&volume.metadata.uid),
            )
            .await
    }
}

pub(super) fn reference(claim: &Claim) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "namespace": claim.metadata.namespace, "name": claim.metadata.name,
        "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
    })
}
