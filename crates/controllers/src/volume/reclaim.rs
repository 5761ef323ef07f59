//! Volumes: their phase, and what happens when their claim is gone.

use serde::Deserialize;
use serde_json::json;

use super::{Controller, PROVISIONED_BY, PROVISIONER, SOURCE, VOLUME_PROTECTION, directory};
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
            // half bound: the claim's turn
            Some(c) if c.spec.volume_name.is_empty() => {
                self.claim_queue.add(c.metadata.key());
                Ok(Next::Wait)
            }
            // the claim took another
            Some(_) => self.release(&volume).await,
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

    /// Its claim is gone.
    async fn release(&self, volume: &Volume) -> Result<Next> {
        if volume.metadata.deleting() {
            return self.unused(volume).await;
        }
        let delete = &*volume.spec.persistent_volume_reclaim_policy == "Delete";
        let ours = volume.metadata.annotations.get(PROVISIONED_BY) == Some(PROVISIONER);
        if !delete || !ours {
            self.phase(volume, "Released", "").await?;
            return Ok(Next::Wait);
        }
        if let Some(path) = &volume.spec.host_path {
            let path = std::path::PathBuf::from(&*path.path);
            if let Err(e) = directory::remove(self.root.clone(), path).await {
                let message = e.to_string();
                self.recorder
                    .warning(volume, SOURCE, "VolumeFailedDelete", message.clone());
                self.phase(volume, "Failed", &message).await?;
                return Err(e);
            }
        }
        self.delete_volume(volume).await?;
        Ok(Next::Wait)
    }
}
