//! Claims: the right volume is found, or made, and both are bound to each other.

use std::sync::Arc;

use serde_json::json;

use super::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, CLAIM_PROTECTION, Controller, PROVISIONED_BY, PROVISIONER,
    SELECTED_NODE, SOURCE, directory,
    matching::{best, is_for, suits},
};
use crate::{
    error::Result,
    machinery::{
        rest::{Delete, Ignored},
        work::Next,
    },
    objects::{
        meta::{Key, Object},
        node::Node,
        volume::{Claim, StorageClass, Volume},
    },
};

const HOSTNAME: &str = "kubernetes.io/hostname";

impl Controller {
    pub(super) async fn claim(&self, key: Key) -> Result<Next> {
        let Some(claim) = self.claims.at(&key) else {
            return Ok(Next::Wait);
        };
        if claim.metadata.deleting() {
            return self.leaving(&claim).await;
        }
        let complete = claim.metadata.annotations.get(BIND_COMPLETED).is_some();
        if complete || !claim.spec.volume_name.is_empty() {
            return self.bound(&claim, complete).await;
        }
        let Some(class) = self.class(&claim).await? else {
            return Ok(Next::Wait);
        };
        let class = class.as_deref();
        let waits = class.is_some_and(StorageClass::waits_for_consumer);
        let node = claim
            .metadata
            .annotations
            .get(SELECTED_NODE)
            .and_then(|n| self.nodes.get("", n));
        let mut volumes = vec![];
        self.volumes.each(|v| volumes.push(v.clone()));
        if waits && node.is_none() && !volumes.iter().any(|v| is_for(v, &claim)) {
            self.recorder.normal(
                &*claim,
                SOURCE,
                "WaitForFirstConsumer",
                "waiting for first consumer to be created before binding".into(),
            );
            return self.pending(&claim).await;
        }
        if let Some(volume) = best(&claim, &volumes, node.as_deref()) {
            return self.bind(&claim, volume).await;
        }
        match class {
            Some(class) if &*class.provisioner == PROVISIONER => {
                self.provision(&claim, class, node).await
            }
            Some(class) => {
                self.recorder.normal(
                    &*claim,
                    SOURCE,
                    "ExternalProvisioning",
                    format!(
                        "Waiting for a volume to be created either by the external provisioner '{}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.",
                        class.provisioner
                    ),
                );
                self.pending(&claim).await
            }
            None => {
                self.recorder.normal(
                    &*claim,
                    SOURCE,
                    "FailedBinding",
                    "no persistent volumes available for this claim and no storage class is set"
                        .into(),
                );
                self.pending(&claim).await
            }
        }
    }

    /// Its class: None when it has just been given one (or names one that isn't there yet), Some(None) when it wants none.
    async fn class(&self, claim: &Claim) -> Result<Option<Option<Arc<StorageClass>>>> {
        match claim.spec.storage_class_name.as_deref() {
            Some("") => Ok(Some(None)),
            Some(name) => {
                if let Some(class) = self.classes.get("", name) {
                    return Ok(Some(Some(class)));
                }
                // a class that nobody made still names volumes
                let mut volumes = vec![];
                self.volumes.each(|v| volumes.push(v.clone()));
                if let Some(volume) = best(claim, &volumes, None) {
                    self.bind(claim, volume).await?;
                    return Ok(None);
                }
                self.recorder.warning(
                    claim,
                    SOURCE,
                    "ProvisioningFailed",
                    format!("storageclass.storage.k8s.io {name:?} not found"),
                );
                self.pending(claim).await?;
                Ok(None)
            }
            None => {
                let mut default: Option<Arc<StorageClass>> = None;
                self.classes.each(|c| {
                    if c.is_default()
                        && default.as_ref().is_none_or(|d| {
                            c.metadata.creation_timestamp > d.metadata.creation_timestamp
                        })
                    {
                        default = Some(c.clone());
                    }
                });
                let Some(class) = default else {
                    return Ok(Some(None));
                };
                let patch = json!({
                    "metadata": {"resourceVersion": claim.metadata.resource_version},
                    "spec": {"storageClassName": class.metadata.name},
                });
                self.rest
                    .merge::<Ignored>(&Claim::KIND.at(&claim.metadata), &patch)
                    .await?;
                Ok(None)
            }
        }
    }

    async fn pending(&self, claim: &Claim) -> Result<Next> {
        if claim.status.phase.is_empty() {
            self.claim_status(claim, json!({"phase": "Pending"}))
                .await?;
        }
        Ok(Next::Wait)
    }

    async fn claim_status(&self, claim: &Claim, status: serde_json::Value) -> Result<()> {
        let path = format!("{}/status", Claim::KIND.at(&claim.metadata));
        let patch = json!({"metadata": {"uid": claim.metadata.uid}, "status": status});
        self.rest.merge::<Ignored>(&path, &patch).await.map(|_| ())
    }

    /// A claim that names its volume.
    async fn bound(&self, claim: &Claim, complete: bool) -> Result<Next> {
        let name = &claim.spec.volume_name;
        match self.volumes.get("", name) {
            None if complete => {
                if &*claim.status.phase != "Lost" {
                    self.recorder.warning(
                        claim,
                        SOURCE,
                        "ClaimLost",
                        "Bound claim has lost its PersistentVolume. Data on the volume is lost!"
                            .into(),
                    );
                    self.claim_status(claim, json!({"phase": "Lost"})).await?;
                }
                Ok(Next::Wait)
            }
            None => self.pending(claim).await,
            Some(v) if is_for(&v, claim) => self.bind(claim, v).await,
            Some(v) if v.spec.claim_ref.is_none() => match suits(&v, claim) {
                Ok(()) => self.bind(claim, v).await,
                Err(why) => {
                    self.recorder.warning(
                        claim,
                        SOURCE,
                        "VolumeMismatch",
                        format!("Cannot bind to requested volume {name:?}: {why}"),
                    );
                    self.pending(claim).await
                }
            },
            Some(_) => {
                self.recorder.warning(
                    claim,
                    SOURCE,
                    "FailedBinding",
                    format!("volume {name:?} already bound to a different claim."),
                );
                self.pending(claim).await
            }
        }
    }

    /// Both to each other; each step is skipped if it's done, so an interrupted binding goes on where it was.
    async fn bind(&self, claim: &Claim, volume: Arc<Volume>) -> Result<Next> {
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
        if &*claim.status.phase != "Bound" {
            let status = json!({
                "phase": "Bound",
                "accessModes": volume.spec.access_modes,
                "capacity": volume.spec.capacity,
            });
            self.claim_status(claim, status).await?;
        }
        Ok(Next::Wait)
    }

    /// A new volume for the claim, already bound to it.
    async fn provision(
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
        let path = match directory::make(self.root.clone(), directory).await {
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
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}},
            "spec": {
                "capacity": claim.spec.resources.requests,
                "accessModes": claim.spec.access_modes,
                "volumeMode": "Filesystem",
                "persistentVolumeReclaimPolicy":
                    if class.reclaim_policy.is_empty() { "Delete" } else { &class.reclaim_policy },
                "storageClassName": class.metadata.name,
                "claimRef": reference(claim),
                "hostPath": {"path": path, "type": "DirectoryOrCreate"},
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
        let bound = self.bind(claim, Arc::new(volume)).await;
        match bound {
            Ok(next) => {
                self.recorder.normal(
                    claim,
                    SOURCE,
                    "ProvisioningSucceeded",
                    format!("Successfully provisioned volume {name}"),
                );
                Ok(next)
            }
            Err(e) => Err(e),
        }
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

    /// A claim that goes away: it's held while a pod uses it.
    async fn leaving(&self, claim: &Claim) -> Result<Next> {
        let meta = &claim.metadata;
        if !meta.finalizers.iter().any(|f| &**f == CLAIM_PROTECTION) {
            return Ok(Next::Wait);
        }
        let used = !self
            .pods
            .in_namespace(&meta.namespace, |p| {
                !p.terminal() && p.claims().any(|c| *c == *meta.name)
            })
            .is_empty();
        if !used {
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

fn reference(claim: &Claim) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "namespace": claim.metadata.namespace, "name": claim.metadata.name,
        "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
    })
}
