//! What is written of claims of devices: what they get, and which pods use them (`bindClaim`).

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    machinery::rest::Ignored,
    objects::{
        device::{Consumer, ResourceClaim},
        meta::{Meta, Object, now, rfc3339},
        pod::Pod,
    },
    resourceclaim::{FINALIZER, USERS_MAX, reserved},
};

use super::{Scheduler, devices::Reserve};

/// A claim that somebody else changes at the same time is looked at again so often.
const ATTEMPTS_MAX: usize = 5;

fn status_of(meta: &Meta) -> String {
    format!("{}/status", ResourceClaim::KIND.at(meta))
}

impl Scheduler {
    /// Gives the claim its devices, and lets the pod in.
    ///
    /// # Errors
    /// Why not, for people.
    pub async fn reserve(&self, pod: &Pod, wanted: &Reserve) -> Result<(), String> {
        let meta = &wanted.claim.metadata;
        let key = meta.key();
        let path = ResourceClaim::KIND.at(meta);
        let mut claim = wanted.claim.clone();
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.write(pod, wanted, &claim).await {
                Ok(written) => {
                    let now = &written.metadata;
                    if wanted.allocation.is_some() {
                        self.change(|s| s.allocated(&now.uid, &now.resource_version));
                        // it may have come in before that was known
                        if self.devices.claims.seen()
                            >= now.resource_version.parse().unwrap_or(u64::MAX)
                            && let Some(seen) = self.devices.claims.at(&key)
                        {
                            self.change(|s| s.device_claim(&seen, false));
                        }
                    }
                    return Ok(());
                }
                Err(Write::Conflict) if attempt < ATTEMPTS_MAX => {
                    let _permit = self.calls.acquire().await;
                    let newer = self.rest.get::<ResourceClaim>(&path).await;
                    claim = Arc::new(
                        newer
                            .map_err(|e| format!("get updated claim {key} after conflict: {e}"))?,
                    );
                    if claim.metadata.uid != meta.uid {
                        return Err(format!("claim {key} got deleted in the meantime"));
                    }
                }
                Err(Write::Conflict) => return Err(format!("claim {key} changes all the time")),
                Err(Write::Failed(why)) => return Err(why),
            }
        }
    }

    async fn write(
        &self,
        pod: &Pod,
        wanted: &Reserve,
        claim: &ResourceClaim,
    ) -> Result<ResourceClaim, Write> {
        let key = claim.metadata.key();
        let failed = |why: &str| Write::Failed(format!("claim {key} {why}"));
        if claim.metadata.deleting() {
            return Err(failed("got deleted in the meantime"));
        }
        match (&wanted.allocation, &claim.status.allocation) {
            (Some(_), Some(_)) => return Err(failed("got allocated elsewhere in the meantime")),
            (None, None) => return Err(failed("got deallocated elsewhere in the meantime")),
            _ => {}
        }
        let users = &claim.status.reserved_for;
        if !reserved(pod, claim) && users.len() >= USERS_MAX {
            return Err(failed("has as many users as a claim may have"));
        }
        let mut revision = claim.metadata.resource_version.clone();
        let finalizers = &claim.metadata.finalizers;
        if wanted.allocation.is_some() && !finalizers.iter().any(|f| **f == *FINALIZER) {
            let all: Vec<&str> = finalizers.iter().map(|f| &**f).chain([FINALIZER]).collect();
            let patch = json!({"metadata": {"resourceVersion": revision, "finalizers": all}});
            let path = ResourceClaim::KIND.at(&claim.metadata);
            let _permit = self.calls.acquire().await;
            let written = self.rest.merge::<ResourceClaim>(&path, &patch).await;
            revision = Write::of(written, "add finalizer to claim", claim)?
                .metadata
                .resource_version;
        }
        let me = Consumer {
            resource: "pods".into(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..Consumer::default()
        };
        let mut users: Vec<&Consumer> = users.iter().collect();
        if !reserved(pod, claim) {
            users.push(&me);
        }
        let mut status = json!({"reservedFor": users});
        let mut what = "add reservation to claim";
        if let Some(allocation) = &wanted.allocation {
            what = "add allocation and reservation to claim";
            status["allocation"] = serde_json::to_value(&**allocation)
                .map_err(|e| Write::Failed(format!("{what} {key}: {e}")))?;
            status["allocation"]["allocationTimestamp"] = rfc3339(now()).into();
        }
        let patch = json!({"metadata": {"resourceVersion": revision}, "status": status});
        let _permit = self.calls.acquire().await;
        let path = status_of(&claim.metadata);
        let written = self.rest.merge::<ResourceClaim>(&path, &patch).await;
        Write::of(written, what, claim)
    }

    /// Takes the devices from a claim that nobody uses where the pod could go.
    pub async fn deallocate(&self, claim: &ResourceClaim) {
        let patch = json!({
            "metadata": {"resourceVersion": claim.metadata.resource_version},
            "status": {"allocation": Value::Null, "reservedFor": Value::Null, "devices": Value::Null},
        });
        let _permit = self.calls.acquire().await;
        let path = status_of(&claim.metadata);
        match self.rest.merge::<Ignored>(&path, &patch).await {
            // somebody else changed it: the pod is looked at again
            Err(e) if e.is_conflict() || e.is_not_found() => {}
            Err(e) => {
                tracing::warn!(claim = %claim.metadata.key(), error = %e, "its devices weren't taken from it; they will be with the next attempt");
            }
            Ok(_) => {}
        }
    }
}

/// Why nothing was written.
enum Write {
    Conflict,
    Failed(String),
}

impl Write {
    fn of<T>(
        result: crate::error::Result<T>,
        what: &str,
        claim: &ResourceClaim,
    ) -> Result<T, Write> {
        result.map_err(|e| match e.is_conflict() {
            true => Write::Conflict,
            false => Write::Failed(format!("{what} {}: {e}", claim.metadata.key())),
        })
    }
}
