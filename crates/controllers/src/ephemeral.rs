//! Claims that come and go with a Pod: those of its `ephemeral` volumes (`pkg/controller/volume/ephemeral`).

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    machinery::{
        cache::Cache,
        context::Context,
        pods::said,
        queue::Queue,
        recorder::Recorder,
        rest::{Ignored, Rest},
        work::{Next, work},
    },
    objects::{
        meta::{Key, Object},
        pod::Pod,
        volume::Claim,
    },
};

const NAME: &str = "ephemeral";
const SOURCE: &str = "ephemeral_volume";

struct Controller {
    rest: Rest,
    recorder: Recorder,
    pods: Arc<Cache<Pod>>,
    claims: Arc<Cache<Claim>>,
    queue: Queue<Key>,
}

/// The ephemeral volume controller.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        recorder: ctx.recorder.clone(),
        pods: ctx.caches.pods.clone(),
        claims: ctx.caches.claims.clone(),
        queue: Queue::default(),
    });
    let me = c.clone();
    c.pods.on_change(move |_, new| {
        if let Some(pod) = new.filter(|p| wants(p)) {
            me.queue.add(pod.metadata.key());
        }
    });
    // one that someone deleted while its Pod is there
    let me = c.clone();
    c.claims.on_change(move |old, new| {
        if let (Some(claim), None) = (old, new)
            && let Some(owner) = claim.metadata.controller()
            && &*owner.kind == Pod::KIND.kind
        {
            me.queue
                .add(Key::new(&claim.metadata.namespace, &owner.name));
        }
    });
    Box::pin(async move {
        c.pods.synced().await;
        c.claims.synced().await;
        work(NAME, &c.queue, 2, |key| c.reconcile(key)).await;
    })
}

fn wants(pod: &Pod) -> bool {
    pod.active() && pod.spec.volumes.iter().any(|v| v.ephemeral.is_some())
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Next> {
        let Some(pod) = self.pods.at(&key).filter(|p| wants(p)) else {
            return Ok(Next::Wait);
        };
        let mut templates: Option<Value> = None;
        for volume in pod.spec.volumes.iter().filter(|v| v.ephemeral.is_some()) {
            let name = format!("{}-{}", key.name, volume.name);
            if let Some(there) = self.claims.get(&key.namespace, &name) {
                if !there.metadata.controlled_by(&pod.metadata.uid) {
                    return Err(Error::Other(format!(
                        "PVC \"{name}\" was not created for pod {key} (pod is not owner)"
                    )));
                }
                continue;
            }
            // the cache keeps no templates
            if templates.is_none() {
                match self.rest.get(&Pod::KIND.at(&pod.metadata)).await {
                    Ok(v) => templates = Some(v),
                    Err(e) if e.is_not_found() => return Ok(Next::Wait),
                    Err(e) => return Err(e),
                }
            }
            let template = templates
                .as_ref()
                .filter(|t| t["metadata"]["uid"] == *pod.metadata.uid)
                .and_then(|t| t["spec"]["volumes"].as_array())
                .and_then(|all| all.iter().find(|v| v["name"] == *volume.name))
                .map(|v| &v["ephemeral"]["volumeClaimTemplate"]);
            let Some(template) = template else {
                return Ok(Next::Wait);
            };
            self.create(&pod, &name, template).await?;
        }
        Ok(Next::Wait)
    }

    async fn create(&self, pod: &Pod, name: &str, template: &Value) -> Result<()> {
        let body = json!({
            "apiVersion": "v1", "kind": Claim::KIND.kind,
            "metadata": {
                "name": name,
                "namespace": pod.metadata.namespace,
                "labels": template.pointer("/metadata/labels"),
                "annotations": template.pointer("/metadata/annotations"),
                "ownerReferences": [pod.controller_ref()],
            },
            "spec": template["spec"],
        });
        let collection = Claim::KIND.collection(&pod.metadata.namespace);
        match self.rest.create::<Ignored>(&collection, &body).await {
            Ok(_) => Ok(()),
            // seen soon, and judged then
            Err(e) if e.is_already_exists() || e.is_namespace_terminating() => Ok(()),
            Err(e) => {
                let message = format!(
                    "ephemeral volume controller failed to create PVC {name}: {}",
                    said(&e)
                );
                self.recorder.warning(pod, SOURCE, "FailedBinding", message);
                Err(e)
            }
        }
    }
}
