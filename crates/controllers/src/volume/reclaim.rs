//! Volumes: their phase, and what happens when their claim is gone.

use serde::Deserialize;
use serde_json::json;

use super::{
    BOUND_BY_CONTROLLER, Controller, PROVISIONED_BY, SOURCE, VOLUME_PROTECTION, directory,
    matching::same_mode,
    provision::{is_ours, path},
};
use crate::{
    error::Result,
    machinery::{rest::Ignored, work::Next},
    objects::{
        meta::{Key, Meta, Object},
        volume::{Claim, ClaimRef, Volume},
    },
};

#[derive(Deserialize)]
struct Partial {
    metadata: Meta,
}

impl Controller {
    pub(super) async fn volume(&self, key: Key) -> Result<Next> {
        let Some(volume) = self.volumes.at(&key) else {
            return Ok(Next::Wait);
        };
        let claim = match &volume.spec.claim_ref {
            None => {
                self.phase(&volume, "Available", "").await?;
                return self.unused(&volume).await;
            }
            Some(r) if r.uid.is_empty() => {
                self.phase(&volume, "Available", "").await?;
                self.claim_queue.add(Key::new(&r.namespace, &r.name));
                return self.unused(&volume).await;
            }
            Some(r) => r,
        };
        match self
            .claims
            .get(&claim.namespace, &claim.name)
            .filter(|c| c.metadata.uid == claim.uid)
        {
            Some(c) if c.spec.volume_name == volume.metadata.name => {
                self.phase(&volume, "Bound", "").await?;
                Ok(Next::Wait)
            }
            Some(c) if c.spec.volume_name.is_empty() && !same_mode(&volume, &c) => {
                let message = format!(
                    "Cannot bind PersistentVolume to requested PersistentVolumeClaim {:?} due to incompatible volumeMode.",
                    &*c.metadata.name
                );
                self.recorder
                    .warning(&*volume, SOURCE, "VolumeMismatch", message);
                let message = format!(
                    "Cannot bind PersistentVolume {:?} to requested PersistentVolumeClaim due to incompatible volumeMode.",
                    &*volume.metadata.name
                );
                self.recorder
                    .warning(&*c, SOURCE, "VolumeMismatch", message);
                Ok(Next::Wait)
            }
            // half bound: the claim's turn
            Some(c) if c.spec.volume_name.is_empty() => {
                self.claim_queue.add(c.metadata.key());
                Ok(Next::Wait)
            }
            // the claim took another
            Some(_) => {
                let made = volume.metadata.annotations.get(PROVISIONED_BY).is_some();
                if made && &*volume.spec.persistent_volume_reclaim_policy == "Delete" {
                    return self.release(&volume).await;
                }
                self.unbind(&volume).await
            }
            // the cache may lag behind: only the server's word counts
            None if self.claim_exists(claim).await? => Ok(Next::Wait),
            None => self.release(&volume).await,
        }
    }

    async fn claim_exists(&self, claim: &ClaimRef) -> Result<bool> {
        let path = Claim::KIND.path(&claim.namespace, &claim.name);
        match self.rest.get::<Partial>(&path).await {
            Ok(p) => Ok(p.metadata.uid == claim.uid),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    async fn phase(&self, volume: &Volume, phase: &str, message: &str) -> Result<()> {
        if &*volume.status.phase == phase {
            return Ok(());
        }
        let path = format!("{}/status", Volume::KIND.at(&volume.metadata));
        let message = (!message.is_empty()).then_some(message);
        let patch = json!({
            "metadata": {"uid": volume.metadata.uid},
            "status": {"phase": phase, "message": message},
        });
        match self.rest.merge::<Ignored>(&path, &patch).await {
            Ok(_) => Ok(()),
            Err(e) if e.is_not_found() => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// One that goes away isn't held any longer than it's bound.
    async fn unused(&self, volume: &Volume) -> Result<Next> {
        let meta = &volume.metadata;
        if meta.deleting() && meta.finalizers.iter().any(|f| &**f == VOLUME_PROTECTION) {
            self.unprotect::<Volume>(meta, VOLUME_PROTECTION).await?;
        }
        Ok(Next::Wait)
    }

    /// Bound to a claim that has another: whoever wants it may have it.
    async fn unbind(&self, volume: &Volume) -> Result<Next> {
        let meta = &volume.metadata;
        let by_controller = meta.annotations.get(BOUND_BY_CONTROLLER).is_some();
        let patch = if by_controller {
            json!({
                "metadata": {"resourceVersion": meta.resource_version, "annotations": {BOUND_BY_CONTROLLER: null}},
                "spec": {"claimRef": null},
            })
        } else {
            json!({
                "metadata": {"resourceVersion": meta.resource_version},
                "spec": {"claimRef": {"uid": null}},
            })
        };
        let path = Volume::KIND.at(meta);
        self.rest.merge::<Ignored>(&path, &patch).await?;
        self.phase(volume, "Available", "").await?;
        Ok(Next::Wait)
    }

    /// Its claim is gone.
    async fn release(&self, volume: &Volume) -> Result<Next> {
        if volume.metadata.deleting() {
            self.unused(volume).await?;
        }
        let phase = &*volume.status.phase;
        if !matches!(phase, "Released" | "Failed") {
            self.phase(volume, "Released", "").await?;
        }
        let name = &*volume.metadata.name;
        match &*volume.spec.persistent_volume_reclaim_policy {
            "" | "Retain" => Ok(Next::Wait),
            "Delete" if is_ours(volume) => self.delete(volume).await,
            "Delete" => {
                let by = volume.metadata.annotations.get(PROVISIONED_BY);
                if volume.spec.csi.is_some()
                    || by.is_some_and(|b| !b.is_empty() && !b.starts_with("kubernetes.io/"))
                {
                    return Ok(Next::Wait); // for whoever made it, or its driver's provisioner
                }
                let message = format!(
                    "error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched"
                );
                self.failed(volume, "VolumeFailedDelete", message).await
            }
            "Recycle" => {
                let message = "No recycler plugin found for the volume!".to_owned();
                self.failed(volume, "VolumeFailedRecycle", message).await
            }
            _ => {
                let message = "Volume has unrecognized PersistentVolumeReclaimPolicy".to_owned();
                self.failed(volume, "VolumeUnknownReclaimPolicy", message)
                    .await
            }
        }
    }

    async fn failed(&self, volume: &Volume, reason: &'static str, message: String) -> Result<Next> {
        if &*volume.status.phase != "Failed" {
            self.recorder
                .warning(volume, SOURCE, reason, message.clone());
            self.phase(volume, "Failed", &message).await?;
        }
        Ok(Next::Wait)
    }

    async fn delete(&self, volume: &Volume) -> Result<Next> {
        if let Some(path) = path(volume)
            && let Err(e) = directory::remove(self.root.clone(), path).await
        {
            let message = e.to_string();
            self.failed(volume, "VolumeFailedDelete", message).await?;
            return Err(e);
        }
        if !volume.metadata.deleting() {
            self.delete_volume(volume).await?;
        }
        Ok(Next::Wait)
    }
}
