//! Applying, and waiting until all is ready or something will not come right.

use crate::{
    apply::{Applied, Applier},
    error::Error,
    plan::Document,
    progress::Progress,
    ready::{self, Readiness},
    work::{Unit, Work, name_of},
};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Event, Service};
use knarr_compose::{Condition, Dependency};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams},
    core::GroupVersionKind,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, TcpListener},
    time::Duration,
};

/// How long to wait for the next event before looking again all the same.
const LOOK_AGAIN_SECONDS: u64 = 5;
/// How long a port's trouble may take to turn out to be over.
const PORT_SETTLES: Duration = Duration::from_secs(1);

/// Asks the server about each object, and changes nothing.
///
/// Objects whose Namespace is among them and not there yet are tried in `default`: only the name differs.
pub async fn check(applier: &Applier, work: &Work) -> Result<(), Error> {
    let made: BTreeSet<String> = work
        .documents()
        .filter(|d| d.object["kind"] == "Namespace")
        .map(|d| name_of(&d.object))
        .collect();
    for document in work.documents() {
        let namespace = work.namespace_of(&document.object);
        let mut object = document.object.clone();
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
}

/// Applies everything and waits; true when anything changed.
pub async fn bring_up(
    client: &Client,
    applier: &Applier,
    work: &Work,
    progress: &mut Progress,
) -> Result<bool, Error> {
    let mut changed = false;
    let mut state = State {
        applied: BTreeMap::new(),
        done: BTreeSet::new(),
        closed: work.balanced(),
    };
    for document in &work.first {
        let applied = applier
            .apply(&document.object, &work.namespace, false)
            .await
            .map_err(|e| at(document, e))?;
        changed |= applied.changed;
        state.service(&applied.object);
    }
    if work.prune {
        changed |= prune(client, work).await?;
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
            let Applied {
                object,
                changed: new,
            } = applier
                .apply(&unit.document.object, &work.namespace, false)
                .await
                .map_err(|e| at(&unit.document, e))?;
            changed |= new;
            progress.set(&unit.name, "starting", false);
            state.applied.insert(unit.name.clone(), object);
        }
        let mut finished_one = false;
        for unit in &work.units {
            let Some(object) = state.applied.get(&unit.name) else {
                continue;
            };
            match ready::readiness(object) {
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
        if state.done.len() == work.units.len() && state.closed.is_empty() {
            return Ok(changed);
        }
        if finished_one {
            continue; // somebody may have waited for it
        }
        match tokio::time::timeout(Duration::from_secs(LOOK_AGAIN_SECONDS), events.next()).await {
            Ok(Some(Change::Service(object))) => state.service(&object),
            Ok(Some(Change::Workload(object))) => state.workload(work, object),
            Ok(Some(Change::Port(event))) => port_trouble(client, &state, &event).await?,
            Ok(Some(Change::Pod(object))) => {
                state.workload(work, object);
                give_up_on_trouble(client, work, &state).await?;
            }
            Err(_) => give_up_on_trouble(client, work, &state).await?,
            Ok(None) => {
                return Err(Error::Platform(
                    "the platform ended while it was watched: see `knarr status`".into(),
                ));
            }
        }
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

/// Fails when a port of ours can't be opened; the Event may also be an old one.
async fn port_trouble(client: &Client, state: &State, event: &Event) -> Result<(), Error> {
    let about = &event.involved_object;
    let key = (
        about.namespace.clone().unwrap_or_default(),
        about.name.clone().unwrap_or_default(),
    );
    let text = event.message.clone().unwrap_or_default();
    let address = text
        .split_whitespace()
        .find_map(|word| word.parse::<SocketAddr>().ok());
    let free = || address.is_some_and(|a| TcpListener::bind(a).is_ok());
    if !state.closed.contains(&key) || free() {
        return Ok(());
    }
    tokio::time::sleep(PORT_SETTLES).await;
    let service = Api::<Service>::namespaced(client.clone(), &key.0)
        .get_opt(&key.1)
        .await?;
    let open = service.is_none_or(|s| {
        let balancer = s.status.and_then(|s| s.load_balancer);
        about.uid != s.metadata.uid
            || balancer
                .and_then(|b| b.ingress)
                .is_some_and(|i| !i.is_empty())
    });
    match open || free() {
        true => Ok(()),
        false => Err(Error::Failed(format!("{}: {text}", key.1))),
    }
}

/// Fails with the reason and the last log lines when a container of this rollout will not come right.
async fn give_up_on_trouble(client: &Client, work: &Work, state: &State) -> Result<(), Error> {
    for unit in work
        .units
        .iter()
        .filter(|u| state.applied.contains_key(&u.name) && !state.done.contains(&u.name))
    {
        if let Some(text) = explain(client, unit, true).await? {
            return Err(Error::Failed(text));
        }
    }
    Ok(())
}

/// The newest pods' trouble, with log lines.
async fn explain(client: &Client, unit: &Unit, fatal_only: bool) -> Result<Option<String>, Error> {
    let mut pods = ready::pods(client, &unit.namespace, &unit.document.object).await?;
    pods.retain(|p| p.metadata.deletion_timestamp.is_none());
    pods.sort_by_key(|p| std::cmp::Reverse(p.metadata.creation_timestamp.clone().map(|t| t.0)));
    for pod in &pods {
        let mut trouble = ready::trouble(pod, fatal_only);
        if trouble.is_none() && !fatal_only {
            trouble = ready::warning(client, &unit.namespace, pod).await;
        }
        if let Some(trouble) = trouble {
            let mut text = format!("{}: {} ({})", unit.name, trouble.why, trouble.pod);
            if trouble.ran {
                let lines = ready::last_lines(client, &unit.namespace, &trouble).await;
                if !lines.is_empty() {
                    text.push_str("\n  its last log lines:\n    ");
                    text.push_str(&lines.join("\n    "));
                }
            }
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// What to say when the deadline has passed.
pub async fn late(client: &Client, work: &Work, seconds: u64) -> Error {
    let mut reasons = Vec::new();
    for unit in &work.units {
        if let Ok(Some(text)) = explain(client, unit, false).await {
            reasons.push(text);
        }
    }
    let tail = if reasons.is_empty() {
        "; see `knarr status`".to_string()
    } else {
        format!(":\n{}", reasons.join("\n"))
    };
    Error::TimedOut(format!("not ready after {seconds} s{tail}"))
}

/// Removes what an earlier version of the file had: Deployments, Jobs and Services. Volumes stay.
async fn prune(client: &Client, work: &Work) -> Result<bool, Error> {
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
    for (group, kind) in [("apps", "Deployment"), ("batch", "Job"), ("", "Service")] {
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
