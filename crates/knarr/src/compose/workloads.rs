//! What a project's containers come from: Deployments, DaemonSets and Jobs, and what is done to them.

use super::Target;
use crate::{error::Error, progress::Progress, ready::Readiness, staged::Stage, work::REPLICAS};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

/// How long containers may take to end, beyond the time that each has.
const ENDS: Duration = Duration::from_secs(90);
/// How long what is started may take to be ready.
const READY: Duration = Duration::from_secs(120);

/// A workload of the project, as the API has it.
pub struct Workload {
    pub kind: &'static str,
    pub api: Api<DynamicObject>,
    pub object: Value,
}

impl Workload {
    pub fn name(&self) -> String {
        crate::work::name_of(&self.object)
    }

    pub fn replicas(&self) -> i64 {
        self.object["spec"]["replicas"].as_i64().unwrap_or(1)
    }

    /// It was stopped, and may be started again.
    pub fn kept(&self) -> Option<i64> {
        let said = self.object["metadata"]["annotations"][REPLICAS].as_str()?;
        said.parse().ok()
    }

    pub async fn patch(&self, patch: Value) -> Result<Value, Error> {
        let patched = self
            .api
            .patch(&self.name(), &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        let mut value = serde_json::to_value(patched).map_err(|e| Error::Failed(e.to_string()))?;
        value["kind"] = json!(self.kind);
        Ok(value)
    }
}

pub fn api(client: &Client, namespace: &str, group: &str, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// The project's workloads, or those of some services.
pub async fn workloads(target: &Target, services: &[String]) -> Result<Vec<Workload>, Error> {
    target.known(services)?;
    let wanted: BTreeSet<String> = services.iter().map(|s| lead(target, s)).collect();
    let mine = ListParams::default().labels("app.kubernetes.io/managed-by=knarr");
    let mut all = Vec::new();
    for (group, kind) in [
        ("apps", "Deployment"),
        ("apps", "DaemonSet"),
        ("batch", "Job"),
    ] {
        let api = api(&target.client, &target.namespace, group, kind);
        for object in api.list(&mine).await?.items {
            if !wanted.is_empty() && !wanted.contains(&object.name_any()) {
                continue;
            }
            let mut object =
                serde_json::to_value(object).map_err(|e| Error::Failed(e.to_string()))?;
            object["kind"] = json!(kind);
            let api = api.clone();
            all.push(Workload { kind, api, object });
        }
    }
    Ok(all)
}

/// The workload that a service's containers are in.
fn lead(target: &Target, service: &str) -> String {
    let known = target
        .project
        .as_ref()
        .and_then(|p| p.services.get(service));
    let lead = known.and_then(|s| s.namespaces.joins.as_deref());
    knarr_compose::object_name(lead.unwrap_or(service))
}

/// Waits until no container of these services runs.
pub async fn gone(target: &Target, services: &[String]) -> Result<(), Error> {
    use futures::StreamExt;
    let leads: BTreeSet<String> = services.iter().map(|s| lead(target, s)).collect();
    let pods: Api<Pod> = Api::namespaced(target.client.clone(), &target.namespace);
    let wait = async {
        let config = kube::runtime::watcher::Config::default();
        let mut changes = Box::pin(kube::runtime::watcher(pods.clone(), config));
        loop {
            let runs = |p: &Pod| {
                let phase = p.status.as_ref().and_then(|s| s.phase.as_deref());
                let ours = p.labels().get("app.kubernetes.io/name");
                !matches!(phase, Some("Succeeded" | "Failed"))
                    && (leads.is_empty() || ours.is_some_and(|l| leads.contains(l)))
            };
            let all = pods.list(&ListParams::default()).await?;
            if !all.items.iter().any(runs) {
                return Ok::<(), Error>(());
            }
            if changes.next().await.is_none() {
                return Ok(());
            }
        }
    };
    match tokio::time::timeout(ENDS, wait).await {
        Ok(done) => done,
        Err(_) => Err(Error::TimedOut(format!(
            "some containers have not ended after {} s; see `knarr status`",
            ENDS.as_secs()
        ))),
    }
}

/// Waits until workloads are ready.
pub async fn ready(all: Vec<(Workload, Value)>) -> Result<u8, Error> {
    let progress = Progress::new(false);
    for (one, object) in all {
        progress.set(&one.name(), "starting", false);
        let wait = async {
            use futures::StreamExt;
            use kube::runtime::WatchStreamExt;
            let fields = format!("metadata.name={}", one.name());
            let config = kube::runtime::watcher::Config::default().fields(&fields);
            let mut newest = object;
            let changes = kube::runtime::watcher(one.api.clone(), config);
            let mut changes = Box::pin(changes.default_backoff().touched_objects());
            let mut stage = Stage::default();
            loop {
                newest["kind"] = json!(one.kind);
                if let Readiness::Ready(text) = stage.judge(&newest, false) {
                    return text;
                }
                let due = stage.due().unwrap_or(READY);
                if let Ok(Some(Ok(object))) = tokio::time::timeout(due, changes.next()).await {
                    newest = serde_json::to_value(object).unwrap_or_default();
                }
            }
        };
        match tokio::time::timeout(READY, wait).await {
            Ok(text) => progress.set(&one.name(), &text, true),
            Err(_) => {
                return Err(Error::TimedOut(format!(
                    "{} is not ready after {} s; see `knarr status`",
                    one.name(),
                    READY.as_secs()
                )));
            }
        }
    }
    Ok(0)
}

/// A Job's next run is a new Job.
pub async fn again(one: &Workload) -> Result<Value, Error> {
    let uid = one.object["metadata"]["uid"].as_str().unwrap_or_default();
    let mut object = one.object.clone();
    for key in [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "managedFields",
        "generation",
    ] {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove(key);
        }
    }
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
    // The controller's own marks are each run's own.
    for pointer in ["/spec/selector", "/spec/suspend"] {
        let (parent, key) = pointer.rsplit_once('/').unwrap_or_default();
        if let Some(map) = object.pointer_mut(parent).and_then(Value::as_object_mut) {
            map.remove(key);
        }
    }
    if let Some(labels) = object
        .pointer_mut("/spec/template/metadata/labels")
        .and_then(Value::as_object_mut)
    {
        labels.retain(|k, _| !k.contains("controller-uid") && !k.contains("job-name"));
    }
    one.api
        .delete(&one.name(), &DeleteParams::foreground())
        .await?;
    let name = one.name();
    let deleted = kube::runtime::wait::await_condition(
        one.api.clone(),
        &name,
        kube::runtime::wait::conditions::is_deleted(uid),
    );
    match tokio::time::timeout(ENDS, deleted).await {
        Ok(done) => drop(done.map_err(|e| Error::Failed(e.to_string()))?),
        Err(_) => {
            return Err(Error::TimedOut(format!(
                "the earlier run of {} has not ended after {} s",
                one.name(),
                ENDS.as_secs()
            )));
        }
    }
    let new: DynamicObject =
        serde_json::from_value(object).map_err(|e| Error::Failed(e.to_string()))?;
    let made = one.api.create(&Default::default(), &new).await?;
    serde_json::to_value(made).map_err(|e| Error::Failed(e.to_string()))
}
