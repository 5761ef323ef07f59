//! Pods made over the API and awaited by a watch.

use super::Result;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How long one Pod may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Until {
    Ready,
    Gone,
}

type Waiting = Arc<Mutex<HashMap<(String, Until), oneshot::Sender<Instant>>>>;

/// The Pods of the default namespace.
pub struct Pods {
    pub api: Api<Pod>,
    waiting: Waiting,
    watch: tokio::task::JoinHandle<()>,
}

impl Drop for Pods {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Pods {
    pub fn new(client: kube::Client) -> Pods {
        let api: Api<Pod> = Api::default_namespaced(client);
        let waiting = Waiting::default();
        let watch = tokio::spawn(watch(api.clone(), waiting.clone()));
        Pods {
            api,
            waiting,
            watch,
        }
    }

    fn expect(&self, name: &str, until: Until) -> oneshot::Receiver<Instant> {
        let (sender, receiver) = oneshot::channel();
        if let Ok(mut waiting) = self.waiting.lock() {
            waiting.insert((name.to_string(), until), sender);
        }
        receiver
    }

    /// Creates a Pod and waits until it is Ready: how long that took, and the Pod.
    pub async fn start(&self, name: &str, spec: serde_json::Value) -> Result<(Duration, Pod)> {
        let ready = self.expect(name, Until::Ready);
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "app": name } },
            "spec": spec,
        }))?;
        let begin = Instant::now();
        self.api.create(&PostParams::default(), &pod).await?;
        let at = tokio::time::timeout(PATIENCE, ready)
            .await
            .map_err(|_| format!("{name} is not Ready after {PATIENCE:?}"))??;
        Ok((at - begin, self.api.get(name).await?))
    }

    /// Removes a Pod and waits until it is gone.
    pub async fn end(&self, name: &str) -> Result<()> {
        let gone = self.expect(name, Until::Gone);
        self.api.delete(name, &DeleteParams::default()).await?;
        tokio::time::timeout(PATIENCE, gone)
            .await
            .map_err(|_| format!("{name} is not gone after {PATIENCE:?}"))??;
        Ok(())
    }

    /// A sleeping Pod, from create to Ready; it is gone afterwards.
    pub async fn one(&self, name: String) -> Result<Duration> {
        let (took, _) = self.start(&name, sleeping()).await?;
        self.end(&name).await?;
        Ok(took)
    }
}

/// A Pod's spec: one container of `bench:1`, which sleeps.
pub fn sleeping() -> serde_json::Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": false,
        "containers": [{ "name": "c", "image": "bench:1", "imagePullPolicy": "IfNotPresent" }],
    })
}

/// Whether a condition of it is true.
pub fn is(pod: &Pod, condition: &str) -> bool {
    pod.status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .any(|c| c.type_ == condition && c.status == "True")
}

/// Tells who waits. Ends with the benchmark.
async fn watch(pods: Api<Pod>, waiting: Waiting) {
    each_event(pods, |pod, gone| {
        let until = match gone {
            true => Until::Gone,
            false if is(pod, "Ready") => Until::Ready,
            false => return,
        };
        let sender = waiting
            .lock()
            .ok()
            .and_then(|mut w| w.remove(&(pod.name_any(), until)));
        if let Some(sender) = sender {
            let _ = sender.send(Instant::now());
        }
    })
    .await;
}

/// Tells of each Pod that is there or changes, and whether it has gone. Ends with the benchmark.
pub async fn each_event(pods: Api<Pod>, mut tell: impl FnMut(&Pod, bool)) {
    let mut version = "0".to_string();
    loop {
        let stream = match pods.watch(&WatchParams::default(), &version).await {
            Ok(stream) => stream,
            Err(e) => {
                eprintln!("the watch could not be opened: {e}");
                return;
            }
        };
        let mut stream = stream.boxed();
        while let Some(Ok(event)) = stream.next().await {
            let (pod, gone) = match event {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => (pod, false),
                WatchEvent::Deleted(pod) => (pod, true),
                _ => continue,
            };
            tell(&pod, gone);
            version = pod.resource_version().unwrap_or(version);
        }
    }
}
