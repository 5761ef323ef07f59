//! Writing EndpointSlices, for the controllers that keep some.

use std::sync::Arc;

use serde_json::{Value, json};

use super::plan::{Content, Plan};
use crate::{
    error::{Error, Result},
    machinery::{
        rest::{Delete, Rest},
        written::Written,
    },
    objects::{
        meta::{Key, Labels, Object, OwnerRef},
        service::EndpointSlice,
        template::safe_hash,
    },
};

/// Names tried before giving up until later.
const NAMES_MAX: u32 = 16;

/// Where slices go, and what they say of themselves.
pub struct Store<'a> {
    /// requests
    pub rest: &'a Rest,
    /// what was written
    pub written: &'a Written,
    /// the service
    pub key: &'a Key,
    /// who owns them
    pub owner: OwnerRef,
    /// their labels
    pub labels: &'a Labels,
    /// their annotations
    pub annotations: Option<&'a Labels>,
}

/// A map as a merge patch that leaves nothing of the old one.
fn replacing(new: &Labels, old: &Labels) -> Value {
    let mut patch = json!(new);
    for (k, _) in old.iter() {
        if new.get(k).is_none() {
            patch[k] = Value::Null;
        }
    }
    patch
}

impl Store<'_> {
    /// Carries out a plan for one address family; new endpoints before old ones go.
    pub async fn carry_out(
        &self,
        plan: &Plan,
        family: &str,
        existing: &[Arc<EndpointSlice>],
    ) -> Result<()> {
        let mut taken: Vec<Box<str>> = existing.iter().map(|s| s.metadata.name.clone()).collect();
        for content in &plan.create {
            if let Some(name) = self.create(family, content, &taken).await? {
                taken.push(name);
            }
        }
        for (slice, content) in &plan.update {
            let meta = &slice.metadata;
            let mut metadata = json!({
                "resourceVersion": meta.resource_version,
                "labels": replacing(self.labels, &meta.labels),
            });
            if let Some(annotations) = self.annotations {
                metadata["annotations"] = replacing(annotations, &meta.annotations);
            }
            let patch = json!({
                "metadata": metadata,
                "endpoints": content.endpoints,
                "ports": content.ports,
            });
            let path = EndpointSlice::KIND.at(meta);
            let new: EndpointSlice = self.rest.merge(&path, &patch).await?;
            self.written.note(self.key, &new.metadata);
        }
        for slice in &plan.delete {
            self.delete(slice).await?;
        }
        Ok(())
    }

    /// Deletes one.
    pub async fn delete(&self, slice: &EndpointSlice) -> Result<()> {
        let meta = &slice.metadata;
        self.rest
            .delete(&EndpointSlice::KIND.at(meta), &Delete::uid(&meta.uid))
            .await
    }

    /// Names are derived, not random: with a cache that lags behind, the second attempt meets the first.
    async fn create(
        &self,
        family: &str,
        content: &Content,
        taken: &[Box<str>],
    ) -> Result<Option<Box<str>>> {
        let Key { namespace, name } = self.key;
        let collection = EndpointSlice::KIND.collection(namespace);
        for i in 0..=NAMES_MAX + taken.len() as u32 {
            let hash = safe_hash(format!("{}{family}{i}", self.owner.uid).as_bytes(), None);
            let base = &name[..name.len().min(57)];
            let name = format!("{base}-{}", &hash[hash.len().saturating_sub(5)..]);
            if taken.iter().any(|t| **t == *name) {
                continue;
            }
            let body = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": name, "namespace": namespace, "labels": self.labels,
                    "annotations": self.annotations, "ownerReferences": [self.owner],
                },
                "addressType": family,
                "endpoints": content.endpoints,
                "ports": content.ports,
            });
            match self.rest.create::<EndpointSlice>(&collection, &body).await {
                Ok(made) => {
                    self.written.note(self.key, &made.metadata);
                    return Ok(Some(made.metadata.name));
                }
                Err(e) if e.is_namespace_terminating() => return Ok(None),
                Err(e) if e.is_already_exists() => {
                    let path = EndpointSlice::KIND.path(namespace, &name);
                    let there: EndpointSlice = self.rest.get(&path).await?;
                    if there.metadata.controlled_by(&self.owner.uid) {
                        return Err(e);
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Err(Error::Other(format!(
            "no free name for a slice of service {}",
            self.key
        )))
    }
}
