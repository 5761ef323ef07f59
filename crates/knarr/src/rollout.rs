//! Applying, and waiting until all is ready or something will not come right.

mod back;
mod trouble;

use crate::{
    apply::Applier,
    error::Error,
    plan::Document,
    progress::Progress,
    ready::{self, Readiness},
    staged::{self, Stage},
    work::{self, Replace, Unit, Work, name_of},
};
use futures::StreamExt;
use k8s_openapi::{api::core::v1::Event, jiff::Timestamp};
use knarr_compose::{Condition, Dependency};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
    core::GroupVersionKind,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use back::bring_back;
use trouble::{give_up_on_trouble, late, port_trouble};

/// How long to wait for the next event before looking again all the same.
const LOOK_AGAIN_SECONDS: u64 = 5;

/// How long an earlier run of a Job may take to end.
const JOB_GOES: Duration = Duration::from_secs(60);

/// Asks the server about each object, and changes nothing.
///
/// Objects whose Namespace is among them and not there yet are tried in `default`: only the name differs.
pub async fn check(applier: &Applier, work: &Work) -> Result<(), Error> {
    let made: BTreeSet<String> = work
        .documents()
        .filter(|d| d.object["kind"] == "Namespace")
        .map(|d| name_of(&d.object))
        .collect();
    let defined: BTreeSet<(String, String)> = work
        .documents()
        .filter_map(|d| work::defines(&d.object))
        .collect();
    for document in work.documents() {
        let namespace = work.namespace_of(&document.object);
        let mut object = document.object.clone();
        if !applier.knows(&object) && defined.contains(&work::group_and_kind(&object)) {
            // Its definition is to be applied first: the server can't judge it before.
            continue;
        }
        if applier
            .is_namespaced(&object)
            .map_err(|e| at(document, e))?
            && made.contains(namespace)
            && applier.namespace_is_missing(namespace).await?
        {
            object["metadata"]["namespace"] = json!("default");
        }
        applier
            .apply(&object, &work.namespace, true)
            .await
            .map_err(|e| at(document, e))?;
    }
    Ok(())
}

/// The error with the place of what it is about.
fn at(document: &Document, error: Error) -> Error {
    match error {
        Error::Input(text) if !document.place.is_empty() => {
            Error::Input(format!("{}: {text}", document.place))
        }
        other => other,
    }
}

/// What is known of what was applied.
struct State {
    /// Of each applied workload the newest object; not there: it waits for its dependencies.
    applied: BTreeMap<String, Value>,
    done: BTreeSet<String>,
    /// (namespace, name) of Services whose ports are not open yet.
    closed: BTreeSet<(String, String)>,
    /// Of each workload that was changed, what it was before.
    before: BTreeMap<String, Value>,
    /// The Pods that a workload had before it was changed, by uid: their trouble is not its own. Times of creation are
    /// whole seconds, in which a whole rollout has room.
    earlier: BTreeMap<String, BTreeSet<String>>,
    /// How far those that were applied have come.
    stages: BTreeMap<String, Stage>,
    /// Workloads whose update failed and that hold nobody up, with the reason.
    failed: BTreeMap<String, String>,
}

/// The kinds that `up` makes and takes away again; volumes stay.
pub const KINDS: [(&str, &str); 7] = [
    ("apps", "Deployment"),
    ("apps", "DaemonSet"),
    ("batch", "Job"),
    ("", "Service"),
    ("", "ConfigMap"),
    ("", "Secret"),
    ("networking.k8s.io", "NetworkPolicy"),
];

/// Applies everything and waits; true when anything changed. When an update does not come right in time, what ran before
/// is brought back, unless the file wants it otherwise.
pub async fn bring_up(
    client: &Client,
    applier: &Applier,
    work: &Work,
    progress: &Progress,
    timeout: Duration,
) -> Result<bool, Error> {
    let mut state = State {
        applied: BTreeMap::new(),
        done: BTreeSet::new(),
        closed: work.balanced(),
        before: BTreeMap::new(),
        earlier: BTreeMap::new(),
        stages: BTreeMap::new(),
        failed: BTreeMap::new(),
    };
    let paces = work
        .units
        .iter()
        .map(|u| staged::allowance(&u.document.object, u.update.as_ref()));
    let timeout = timeout.saturating_add(paces.sum());
    let attempt = attempt(client, applier, work, progress, &mut state);
    let error = match tokio::time::timeout(timeout, attempt).await {
        Ok(Ok(_)) if !state.failed.is_empty() => {
            let reasons: Vec<String> = state.failed.values().cloned().collect();
            Error::Failed(reasons.join("\n"))
        }
        Ok(Ok(changed)) => {
            let pruned = work.prune && prune(client, work, true).await?;
            return Ok(changed || pruned);
        }
        Ok(Err(error)) => error,
        Err(_) => late(client, work, &state, timeout.as_secs()).await,
    };
    let back = bring_back(applier, work, &state, progress).await;
    Err(match error {
        Error::Failed(text) => Error::Failed(text + &back),
        Error::TimedOut(text) => Error::TimedOut(text + &back),
        other => other,
    })
}

/// Waits until the server serves the kinds that these CustomResourceDefinitions define.
async fn established(client: &Client, names: &[String]) -> Result<(), Error> {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    use kube::runtime::wait::{await_condition, conditions::is_crd_established};
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for name in names {
        await_condition(api.clone(), name, is_crd_established())
            .await
            .map_err(|e| Error::Failed(format!("CustomResourceDefinition {name}: {e}")))?;
    }
    Ok(())
}

async fn attempt(
    client: &Client,
    applier: &Applier,
    work: &Work,
    progress: &Progress,
    state: &mut State,
) -> Result<bool, Error> {
    let mut changed = false;
    let kinds = work
        .first
        .iter()
        .filter(|d| work::defines(&d.object).is_some());
    let mut kinds: Vec<String> = kinds.map(|d| name_of(&d.object)).collect();
    for document in &work.first {
        if !kinds.is_empty() && !work::goes_before(&document.object) {
            established(client, &kinds).await?;
            applier.refresh().await?;
            kinds.clear();
        }
        let applied = applier
            .apply(&document.object, &work.namespace, false)
            .await
            .map_err(|e| at(document, e))?;
        changed |= applied.changed;
        state.service(&applied.object);
    }
    if work.prune {
        changed |= prune(client, work, false).await?;
    }
    let mut events = Box::pin(changes(client, work));
    loop {
        for unit in &work.units {
            if state.applied.contains_key(&unit.name) {
                continue;
            }
            if let Some(blocker) = unit.depends_on.iter().find(|d| !state.satisfies(d)) {
                progress.set(&unit.name, &format!("waits for {}", blocker.service), false);
                continue;
            }
            changed |= start(client, applier, work, unit, state, progress).await?;
            progress.set(&unit.name, "starting", false);
        }
        let mut finished_one = false;
        let mut look_again = Duration::from_secs(LOOK_AGAIN_SECONDS);
        for unit in &work.units {
            let Some(object) = state.applied.get_mut(&unit.name) else {
                continue;
            };
            if state.failed.contains_key(&unit.name) {
                continue;
            }
            let stage = state.stages.entry(unit.name.clone()).or_default();
            if let Some(newest) = stage.advance(applier, work, unit, object).await? {
                *object = newest;
            }
            let judged = stage.judge(object, unit.to_end);
            look_again = stage.due().map_or(look_again, |due| look_again.min(due));
            match judged {
                Readiness::Ready(text) => {
                    finished_one |= state.done.insert(unit.name.clone());
                    progress.set(&unit.name, &text, true);
                }
                Readiness::Waiting(text) => {
                    state.done.remove(&unit.name);
                    progress.set(&unit.name, &text, false);
                }
            }
        }
        if state.done.len() + state.failed.len() == work.units.len() && state.closed.is_empty() {
            return Ok(changed);
        }
        if finished_one {
            continue; // somebody may have waited for it
        }
        match tokio::time::timeout(look_again, events.next()).await {
            Ok(Some(Change::Service(object))) => state.service(&object),
            Ok(Some(Change::Workload(object))) => {
                let failed = ready::has_failed(&object);
                state.workload(work, object);
                if failed {
                    give_up_on_trouble(client, applier, work, state).await?;
                }
            }
            Ok(Some(Change::Port(event))) => port_trouble(client, state, &event).await?,
            Ok(Some(Change::Pod(object))) => {
                state.workload(work, object);
                give_up_on_trouble(client, applier, work, state).await?;
            }
            Err(_) => give_up_on_trouble(client, applier, work, state).await?,
            Ok(None) => {
                return Err(Error::Platform(
                    "the platform ended while it was watched: see `knarr status`".into(),
                ));
            }
        }
    }
}

/// Applies one workload; true when it changed.
async fn start(
    client: &Client,
    applier: &Applier,
    work: &Work,
    unit: &Unit,
    state: &mut State,
    progress: &Progress,
) -> Result<bool, Error> {
    let object = &unit.document.object;
    let force = unit.replace == Replace::Always;
    if unit.replace == Replace::Never
        && let Some(there) = applier.find(object, &work.namespace).await?
    {
        return go_on(applier, work, unit, there, state).await;
    }
    let mut renewed = false;
    let earlier = ready::pods(client, &unit.namespace, object).await?;
    if work.composed && object["kind"] == "Job" {
        renewed = renew_job(applier, work, unit).await?;
    }
    let mut stage = Stage::default();
    let first = stage.begin(applier, work, unit).await;
    let first = first.map_err(|e| at(&unit.document, e))?;
    let applied = applier
        .apply(&first, &work.namespace, false)
        .await
        .map_err(|e| at(&unit.document, e))?;
    let mut newest = applied.object;
    let mut before = applied.before.filter(|_| !renewed);
    let mut rolls = before
        .as_ref()
        .is_some_and(|b| staged::is_replaced(b, &newest));
    if force && !renewed && before.is_some() && object["kind"] != "Job" {
        newest = recreate(applier, work, object).await?;
        rolls = true;
    }
    let changed = applied.changed || renewed || force;
    if changed {
        let uids = earlier.into_iter().filter_map(|p| p.metadata.uid);
        state.earlier.insert(unit.name.clone(), uids.collect());
    }
    let interrupted = match &before {
        Some(before) => staged::interrupted(client, before).await?,
        None => None,
    };
    rolls |= interrupted.is_some();
    before = interrupted.or(before.filter(|_| changed));
    if let Some(before) = before {
        state.before.insert(unit.name.clone(), before);
    }
    // A service that is to be restarted with what it depends on, and that stayed as it was itself.
    if !changed
        && unit
            .depends_on
            .iter()
            .any(|d| d.restart && state.before.contains_key(&d.service))
        && newest["kind"] != "Job"
    {
        newest = recreate(applier, work, object).await?;
        rolls = true;
    }
    if rolls {
        if let Some(why) = unit.gap {
            let name = &unit.name;
            progress.say(&format!(
                "{name}: each container ends before the next one starts: {why}"
            ));
        }
        stage.rolls();
    }
    state.stages.insert(unit.name.clone(), stage);
    state.applied.insert(unit.name.clone(), newest);
    Ok(changed)
}

/// Leaves a workload that is there as it is, but that it runs; true when it did not.
async fn go_on(
    applier: &Applier,
    work: &Work,
    unit: &Unit,
    there: Value,
    state: &mut State,
) -> Result<bool, Error> {
    let stopped = there["metadata"]["annotations"][work::REPLICAS].as_str();
    let kept = stopped.and_then(|n| n.parse::<i64>().ok());
    let patch = match (there["kind"].as_str(), kept) {
        (Some("Deployment"), Some(kept)) => Some(json!({
            "metadata": { "annotations": { work::REPLICAS: null } }, "spec": { "replicas": kept } })),
        (Some("Job"), _) if there["spec"]["suspend"] == true => {
            Some(json!({ "spec": { "suspend": false } }))
        }
        _ => None,
    };
    let newest = match &patch {
        Some(patch) => {
            let api = applier.api(&there, &work.namespace)?;
            let parameters = PatchParams::default();
            let patch = Patch::Merge(patch);
            let patched = api.patch(&name_of(&there), &parameters, &patch).await?;
            let mut patched =
                serde_json::to_value(patched).map_err(|e| Error::Failed(e.to_string()))?;
            patched["kind"] = there["kind"].clone();
            patched
        }
        None => there,
    };
    state.stages.insert(unit.name.clone(), Stage::default());
    state.applied.insert(unit.name.clone(), newest);
    Ok(patch.is_some())
}

/// Replaces the Pods of a workload that has not changed, as `kubectl rollout restart` does.
pub async fn recreate(applier: &Applier, work: &Work, object: &Value) -> Result<Value, Error> {
    let api = applier.api(object, &work.namespace)?;
    let now = Timestamp::now().to_string();
    let patch = json!({ "spec": { "template": { "metadata": { "annotations": {
        "kubectl.kubernetes.io/restartedAt": now } } } } });
    let patched = api
        .patch(
            &name_of(object),
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .await?;
    serde_json::to_value(patched).map_err(|e| Error::Failed(e.to_string()))
}

/// A Job can't be changed: one that runs something else than it should is removed, to be made anew.
async fn renew_job(applier: &Applier, work: &Work, unit: &Unit) -> Result<bool, Error> {
    let object = &unit.document.object;
    let api = applier.api(object, &work.namespace)?;
    let name = name_of(object);
    let Some(old) = api.get_opt(&name).await? else {
        return Ok(false);
    };
    let fits = applier.apply(object, &work.namespace, true).await;
    if fits.is_ok() && unit.replace != Replace::Always {
        return Ok(false);
    }
    let uid = old.metadata.uid.unwrap_or_default();
    api.delete(&name, &DeleteParams::foreground()).await?;
    let gone = kube::runtime::wait::await_condition(
        api,
        &name,
        kube::runtime::wait::conditions::is_deleted(&uid),
    );
    match tokio::time::timeout(JOB_GOES, gone).await {
        Ok(Ok(_)) => Ok(true),
        Ok(Err(e)) => Err(Error::Failed(e.to_string())),
        Err(_) => Err(Error::TimedOut(format!(
            "the earlier run of {name} has not ended after {} s",
            JOB_GOES.as_secs()
        ))),
    }
}

impl State {
    fn satisfies(&self, dependency: &Dependency) -> bool {
        match dependency.condition {
            Condition::Started => self.applied.contains_key(&dependency.service),
            Condition::Healthy | Condition::CompletedSuccessfully => {
                self.done.contains(&dependency.service)
            }
        }
    }

    /// Somebody who is not there yet waits for it.
    fn is_awaited(&self, work: &Work, name: &str) -> bool {
        let mut waiting = work
            .units
            .iter()
            .filter(|u| !self.applied.contains_key(&u.name));
        waiting.any(|u| u.depends_on.iter().any(|d| d.service == name))
    }

    /// Somebody who is not there yet waits for its health.
    fn gates(&self, work: &Work, name: &str) -> bool {
        let mut waiting = work
            .units
            .iter()
            .filter(|u| !self.applied.contains_key(&u.name));
        let healthy = |d: &Dependency| d.service == name && d.condition == Condition::Healthy;
        waiting.any(|u| u.depends_on.iter().any(healthy))
    }

    /// Takes in the newest of what was applied; others are left out.
    fn workload(&mut self, work: &Work, object: Value) {
        let same = |u: &&Unit| {
            let known = &u.document.object;
            known["kind"] == object["kind"]
                && known["metadata"]["name"] == object["metadata"]["name"]
                && object["metadata"]["namespace"] == u.namespace
        };
        if let Some(unit) = work.units.iter().find(same)
            && let Some(known) = self.applied.get_mut(&unit.name)
        {
            *known = object;
        }
    }

    /// A Service's ports are open when its status names an address.
    fn service(&mut self, object: &Value) {
        if object["kind"] != "Service" {
            return;
        }
        let key = (
            object["metadata"]["namespace"]
                .as_str()
                .unwrap_or_default()
                .to_string(),
            name_of(object),
        );
        let addresses = object
            .pointer("/status/loadBalancer/ingress")
            .and_then(Value::as_array);
        if addresses.is_some_and(|a| !a.is_empty()) {
            self.closed.remove(&key);
        }
    }
}

enum Change {
    Workload(Value),
    Service(Value),
    /// The gateway could not open a port.
    Port(Box<Event>),
    /// Of a workload, or one itself.
    Pod(Value),
}

/// Changes of the workloads, their Pods and Services, and what goes wrong with ports.
fn changes(client: &Client, work: &Work) -> impl futures::Stream<Item = Change> + use<> {
    let mut kinds: BTreeSet<(String, String, String)> = BTreeSet::new();
    for unit in &work.units {
        let text = |key: &str| {
            unit.document.object[key]
                .as_str()
                .unwrap_or_default()
                .to_string()
        };
        kinds.insert((text("apiVersion"), text("kind"), unit.namespace.clone()));
        kinds.insert(("v1".into(), "Pod".into(), unit.namespace.clone()));
    }
    for (namespace, _) in work.balanced() {
        for kind in ["Service", "Event"] {
            kinds.insert(("v1".into(), kind.into(), namespace.clone()));
        }
    }
    let streams = kinds.into_iter().map(|(api_version, kind, namespace)| {
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
        let mut config = watcher::Config::default();
        if kind == "Event" {
            config = config.fields("reason=PortInUse");
        }
        watcher(api, config)
            .default_backoff()
            .touched_objects()
            .filter_map(move |event| {
                let (kind, api_version) = (kind.clone(), api_version.clone());
                async move {
                    let object = event.ok()?;
                    let mut value = serde_json::to_value(&object).ok()?;
                    if kind == "Event" {
                        return Some(Change::Port(Box::new(serde_json::from_value(value).ok()?)));
                    }
                    value["kind"] = json!(kind);
                    value["apiVersion"] = json!(api_version);
                    Some(match &*kind {
                        "Service" => Change::Service(value),
                        "Pod" => Change::Pod(value),
                        _ => Change::Workload(value),
                    })
                }
            })
            .boxed()
    });
    futures::stream::select_all(streams.collect::<Vec<_>>())
}

/// Removes what an earlier version of the file had: first workloads and Services, and when all has come right what those
/// used. Volumes stay.
async fn prune(client: &Client, work: &Work, used: bool) -> Result<bool, Error> {
    let keep: BTreeSet<(&str, &str)> = work
        .documents()
        .filter_map(|d| {
            Some((
                d.object["kind"].as_str()?,
                d.object["metadata"]["name"].as_str()?,
            ))
        })
        .collect();
    let mine = ListParams::default().labels(&format!(
        "app.kubernetes.io/managed-by=knarr,app.kubernetes.io/part-of={}",
        work.namespace
    ));
    let mut changed = false;
    for (group, kind) in KINDS {
        if matches!(kind, "ConfigMap" | "Secret") != used {
            continue;
        }
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), &work.namespace, &resource);
        for object in api.list_metadata(&mine).await? {
            let name = object.metadata.name.unwrap_or_default();
            if !keep.contains(&(kind, name.as_str())) {
                api.delete(&name, &DeleteParams::background()).await?;
                changed = true;
            }
        }
    }
    Ok(changed)
}
