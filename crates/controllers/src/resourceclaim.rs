//! ResourceClaims of Pods (`pkg/controller/resourceclaim`): made of the templates that Pods name, given free when nobody
//! uses them any more, and gone with the Pod that they were made for.
//!
//! Which devices a claim gets is the scheduler's business.

use std::{collections::HashMap, sync::Arc};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    machinery::{
        cache::Cache,
        context::Context,
        pods::said,
        queue::Queue,
        recorder::Recorder,
        rest::{Delete, Ignored, Rest},
        work::{Next, work},
    },
    objects::{
        device::{Consumer, PodClaim, ResourceClaim},
        meta::{Key, Meta, Object},
        pod::Pod,
    },
};

const NAME: &str = "resourceclaim";
const SOURCE: &str = "resource_claim";
/// The field manager of what Pods are told.
const MANAGER: &str = "ResourceClaimController";
/// On a claim made of a template: which of the Pod's claims it is.
const OF: &str = "resource.kubernetes.io/pod-claim-name";
/// On a claim with devices.
pub(crate) const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Most users of a claim.
pub(crate) const USERS_MAX: usize = 256;
/// Longest name before the five letters that the server adds.
const BASE_MAX: usize = 57;
const TEMPLATES: &str = "resourceclaimtemplates";

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Task {
    Pod(Key),
    Claim(Key),
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Task::Pod(key) => write!(f, "pod {key}"),
            Task::Claim(key) => write!(f, "claim {key}"),
        }
    }
}

/// What the Pod calls a claim, and the claim's name.
type Made = (Box<str>, Box<str>);

struct Controller {
    rest: Rest,
    recorder: Recorder,
    pods: Arc<Cache<Pod>>,
    claims: Arc<Cache<ResourceClaim>>,
    queue: Queue<Task>,
    /// Claims made, by the Pod's uid and what it calls them, until the Pod says so itself or goes.
    made: Mutex<HashMap<Box<str>, Vec<Made>>>,
}

/// The resource claim controller.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        recorder: ctx.recorder.clone(),
        pods: ctx.caches.pods.clone(),
        claims: ctx.caches.resource_claims.clone(),
        queue: Queue::default(),
        made: Mutex::default(),
    });
    let me = c.clone();
    c.pods.on_change(move |old, new| {
        if let Some(pod) = new.or(old) {
            me.pod_changed(pod, new.is_none());
        }
    });
    let me = c.clone();
    c.claims.on_change(move |old, new| {
        if let Some(claim) = new.or(old) {
            me.claim_changed(claim, new.is_none());
        }
    });
    Box::pin(async move {
        c.pods.synced().await;
        c.claims.synced().await;
        work(NAME, &c.queue, 2, |task| c.sync(task)).await;
    })
}

/// The claim of one of a Pod's, and whether it was made for the Pod (`resourceclaim.Name`).
pub(crate) enum Named<'a> {
    /// It isn't made yet.
    NotYet,
    /// None is needed.
    Unneeded,
    /// This one; true: made for the Pod.
    Is(&'a str, bool),
}

pub(crate) fn named<'a>(pod: &'a Pod, claim: &'a PodClaim) -> Named<'a> {
    if let Some(name) = &claim.resource_claim_name {
        return Named::Is(name, false);
    }
    let told = pod.status.resource_claim_statuses.iter().flatten();
    match told.into_iter().find(|s| s.name == claim.name) {
        None => Named::NotYet,
        Some(s) => match &s.resource_claim_name {
            None => Named::Unneeded,
            Some(name) => Named::Is(name, true),
        },
    }
}

pub(crate) fn claims(pod: &Pod) -> &[PodClaim] {
    pod.spec.resource_claims.as_deref().unwrap_or_default()
}

/// It has ended, or never began and won't.
fn is_done(pod: &Pod) -> bool {
    pod.terminal() || (pod.metadata.deleting() && pod.spec.node_name.is_empty())
}

fn is_for(pod: &Pod, claim: &ResourceClaim) -> Result<()> {
    if claim.metadata.controlled_by(&pod.metadata.uid) {
        return Ok(());
    }
    Err(Error::Other(format!(
        "ResourceClaim {} was not created for pod {} (pod is not owner)",
        claim.metadata.key(),
        pod.metadata.key()
    )))
}

pub(crate) fn reserved(pod: &Pod, claim: &ResourceClaim) -> bool {
    let users = &claim.status.reserved_for;
    users.iter().any(|u| u.uid == pod.metadata.uid)
}

/// What the server makes a name of: both parts are shortened, so that something of each is left.
fn generate_name(pod: &str, claim: &str) -> String {
    let name = format!("{pod}-{claim}-");
    if name.len() <= BASE_MAX {
        return name;
    }
    let cut = |part: &str| {
        let end = part.floor_char_boundary(part.len() * BASE_MAX / name.len());
        part[..end].to_owned()
    };
    format!("{}-{}", cut(pod), cut(claim))
}

impl Controller {
    fn pod_changed(&self, pod: &Pod, gone: bool) {
        let extended = pod.status.extended_resource_claim_status.as_deref();
        if claims(pod).is_empty() && extended.is_none() {
            return;
        }
        let namespace = &pod.metadata.namespace;
        if gone || is_done(pod) {
            let used = claims(pod).iter().filter_map(|c| match named(pod, c) {
                Named::Is(name, _) => Some(name),
                _ => None,
            });
            let extended = extended.map(|e| &*e.resource_claim_name);
            for name in used.chain(extended) {
                self.queue.add(Task::Claim(Key::new(namespace, name)));
            }
        }
        if gone {
            self.made.lock().remove(&pod.metadata.uid);
        } else if !pod.metadata.deleting() {
            self.queue.add(Task::Pod(pod.metadata.key()));
        }
    }

    fn claim_changed(&self, claim: &ResourceClaim, gone: bool) {
        let Meta {
            namespace, name, ..
        } = &claim.metadata;
        if !gone {
            self.queue.add(Task::Claim(claim.metadata.key()));
        }
        let uses = |pod: &Pod| {
            let is = |c: &PodClaim| matches!(named(pod, c), Named::Is(n, _) if n == &**name);
            claims(pod).iter().any(is)
        };
        for pod in self.pods.in_namespace(namespace, uses) {
            self.pod_changed(&pod, false);
        }
    }

    async fn sync(&self, task: Task) -> Result<Next> {
        match task {
            Task::Pod(key) => self.sync_pod(&key).await?,
            Task::Claim(key) => self.sync_claim(&key).await?,
        }
        Ok(Next::Wait)
    }

    async fn sync_pod(&self, key: &Key) -> Result<()> {
        let Some(pod) = self.pods.at(key).filter(|p| !p.metadata.deleting()) else {
            return Ok(());
        };
        let mut new: Vec<(&str, Box<str>)> = Vec::new();
        for claim in claims(&pod) {
            match self.provide(&pod, claim).await {
                Ok(None) => {}
                Ok(Some(name)) => new.push((&claim.name, name)),
                Err(e) => {
                    let message = format!("PodResourceClaim {}: {}", claim.name, said(&e));
                    let reason = "FailedResourceClaimCreation";
                    self.recorder.warning(&*pod, SOURCE, reason, message);
                    return Err(e);
                }
            }
        }
        if !new.is_empty() {
            self.tell(&pod, &new).await?;
        }
        if pod.spec.node_name.is_empty() {
            // whoever places it reserves what it uses
            return Ok(());
        }
        for claim in claims(&pod) {
            let Named::Is(name, own) = named(&pod, claim) else {
                continue;
            };
            let Some(claim) = self.claims.get(&key.namespace, name) else {
                return Ok(());
            };
            if own {
                is_for(&pod, &claim)?;
            }
            if claim.status.allocation.is_some()
                && !reserved(&pod, &claim)
                && claim.status.reserved_for.len() < USERS_MAX
            {
                self.reserve(&pod, &claim).await?;
            }
        }
        Ok(())
    }

    /// Makes the claim that is wanted by template, unless it is there; its name, when the Pod has yet to be told.
    async fn provide(&self, pod: &Pod, wanted: &PodClaim) -> Result<Option<Box<str>>> {
        let namespace = &pod.metadata.namespace;
        let told = named(pod, wanted);
        if let Named::Unneeded = told {
            return Ok(None);
        }
        if let Named::Is(name, own) = told
            && let Some(claim) = self.claims.get(namespace, name)
            && (!own || is_for(pod, &claim).is_ok())
        {
            return Ok(None);
        }
        let Some(template) = &wanted.resource_claim_template_name else {
            return Ok(None);
        };
        // one that was made before the Pod could be told
        let there = self.claims.in_namespace(namespace, |c| {
            c.metadata.controlled_by(&pod.metadata.uid)
                && c.metadata.annotations.get(OF) == Some(&*wanted.name)
        });
        if let Some(claim) = there.first() {
            return Ok(Some(claim.metadata.name.clone()));
        }
        if let Named::NotYet = told {
            let made = self.made.lock();
            let mine = made.get(&pod.metadata.uid).into_iter().flatten();
            if let Some((_, name)) = mine.into_iter().find(|(of, _)| *of == wanted.name) {
                return Ok(Some(name.clone()));
            }
        }
        let name = self.create(pod, wanted, template).await?;
        let mut made = self.made.lock();
        let mine = made.entry(pod.metadata.uid.clone()).or_default();
        mine.retain(|(of, _)| *of != wanted.name);
        mine.push((wanted.name.clone(), name.clone()));
        Ok(Some(name))
    }

    async fn create(&self, pod: &Pod, wanted: &PodClaim, template: &str) -> Result<Box<str>> {
        #[derive(serde::Deserialize)]
        struct Answer {
            metadata: Meta,
        }
        let Meta {
            namespace,
            name,
            uid,
            ..
        } = &pod.metadata;
        let collection = ResourceClaim::KIND.collection(namespace);
        let path =
            format!("/apis/resource.k8s.io/v1/namespaces/{namespace}/{TEMPLATES}/{template}");
        let template: Value = self.rest.get(&path).await.map_err(|e| match e {
            Error::Api(mut s) => {
                s.message = format!("resource claim template {template:?}: {}", s.message);
                Error::Api(s)
            }
            other => other,
        })?;
        let mut annotations = match &template["spec"]["metadata"]["annotations"] {
            Value::Null => json!({}),
            given => given.clone(),
        };
        annotations[OF] = (*wanted.name).into();
        let body = json!({
            "apiVersion": ResourceClaim::KIND.api_version(), "kind": ResourceClaim::KIND.kind,
            "metadata": {
                "generateName": generate_name(name, &wanted.name),
                "namespace": namespace,
                "labels": template["spec"]["metadata"]["labels"],
                "annotations": annotations,
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid, "controller": true}],
            },
            "spec": template["spec"]["spec"],
        });
        let made: Answer = self.rest.create(&collection, &body).await?;
        Ok(made.metadata.name)
    }

    /// Writes into the Pod's status which claims were made for it.
    async fn tell(&self, pod: &Pod, new: &[(&str, Box<str>)]) -> Result<()> {
        let told = pod.status.resource_claim_statuses.iter().flatten();
        let kept = told
            .into_iter()
            .filter(|s| new.iter().all(|(of, _)| *of != &*s.name))
            .map(|s| json!({"name": s.name, "resourceClaimName": s.resource_claim_name}));
        let new = new
            .iter()
            .map(|(of, name)| json!({"name": of, "resourceClaimName": name}));
        let Meta {
            namespace, name, ..
        } = &pod.metadata;
        let body = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "uid": pod.metadata.uid},
            "status": {"resourceClaimStatuses": kept.chain(new).collect::<Vec<Value>>()},
        });
        let path = format!("{}/status", Pod::KIND.at(&pod.metadata));
        match self.rest.apply::<Ignored>(&path, MANAGER, &body).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }

    async fn reserve(&self, pod: &Pod, claim: &ResourceClaim) -> Result<()> {
        let mut users = claim.status.reserved_for.clone();
        users.push(Consumer {
            api_group: "".into(),
            resource: "pods".into(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        });
        self.change(claim, "/status", json!({"status": {"reservedFor": users}}))
            .await
            .map(|_| ())
    }

    /// Changes the claim if it still is as it was seen; its new metadata, None when it is gone.
    async fn change(
        &self,
        claim: &ResourceClaim,
        part: &str,
        mut patch: Value,
    ) -> Result<Option<ResourceClaim>> {
        patch["metadata"]["resourceVersion"] = (*claim.metadata.resource_version).into();
        let path = format!("{}{part}", ResourceClaim::KIND.at(&claim.metadata));
        match self.rest.merge::<ResourceClaim>(&path, &patch).await {
            Ok(claim) => Ok(Some(claim)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether a Pod that a claim is reserved for may still use it.
    async fn uses(&self, namespace: &str, user: &Consumer) -> Result<bool> {
        if let Some(pod) = self.pods.get(namespace, &user.name) {
            return Ok(pod.metadata.uid == user.uid && !is_done(&pod));
        }
        // it may only not have been seen yet
        match self
            .rest
            .get::<Pod>(&Pod::KIND.path(namespace, &user.name))
            .await
        {
            Ok(pod) => Ok(pod.metadata.uid == user.uid),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    async fn sync_claim(&self, key: &Key) -> Result<()> {
        let Some(claim) = self.claims.at(key) else {
            return Ok(());
        };
        let mut remaining = Vec::new();
        for user in &claim.status.reserved_for {
            if !user.is_pod() || self.uses(&key.namespace, user).await? {
                remaining.push(user);
            }
        }
        let protected = |c: &ResourceClaim| c.metadata.finalizers.iter().any(|f| &**f == FINALIZER);
        let unused = remaining.is_empty();
        let fewer = remaining.len() < claim.status.reserved_for.len();
        if fewer || (protected(&claim) && claim.metadata.deleting() && unused) {
            let mut status = json!({});
            if fewer {
                status["reservedFor"] = json!(remaining);
            }
            if unused && protected(&claim) && claim.status.allocation.is_some() {
                status["allocation"] = Value::Null;
                // what drivers said of them is of no use any more, and would be refused
                status["devices"] = Value::Null;
            }
            let written = if status == json!({}) {
                Some((*claim).clone())
            } else {
                self.change(&claim, "/status", json!({"status": status}))
                    .await?
            };
            let Some(written) = written else {
                return Ok(());
            };
            if protected(&written) && written.status.allocation.is_none() {
                let others = written.metadata.finalizers.iter();
                let left: Vec<&str> = others.map(|f| &**f).filter(|f| *f != FINALIZER).collect();
                let patch = json!({"metadata": {"finalizers": left}});
                self.change(&written, "", patch).await?;
            }
        }
        if unused {
            self.drop_unused(&claim).await?;
        }
        Ok(())
    }

    /// Deletes a claim that was made for a Pod which won't use it. The garbage collector does so when the Pod is gone.
    async fn drop_unused(&self, claim: &ResourceClaim) -> Result<()> {
        let Meta { namespace, uid, .. } = &claim.metadata;
        let Some(owner) = claim.metadata.controller() else {
            return Ok(());
        };
        if &*owner.api_version != "v1" || &*owner.kind != Pod::KIND.kind {
            return Ok(());
        }
        let Some(pod) = self.pods.get(namespace, &owner.name) else {
            return Ok(());
        };
        if pod.metadata.uid == owner.uid && !is_done(&pod) {
            return Ok(());
        }
        let path = ResourceClaim::KIND.at(&claim.metadata);
        self.rest.delete(&path, &Delete::uid(uid)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_something_of_both_parts() {
        assert_eq!(generate_name("web", "gpu"), "web-gpu-");
        let (pod, claim) = ("p".repeat(63), "c".repeat(63));
        let name = generate_name(&pod, &claim);
        assert_eq!(name, format!("{}-{}", "p".repeat(28), "c".repeat(28)));
    }
}
