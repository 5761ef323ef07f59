//! What keeps a rollout from coming right: ports that can't be opened, Pods that fail or hang; told with log lines.

use super::State;
use crate::{
    apply::Applier,
    error::Error,
    ready::{self, Readiness, Trouble},
    work::{Unit, Work},
};
use k8s_openapi::api::core::v1::{Event, Pod, Service};
use knarr_compose::FailureAction;
use kube::{Api, Client};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, TcpListener},
    time::Duration,
};

/// How long a port's trouble may take to turn out to be over.
const PORT_SETTLES: Duration = Duration::from_secs(1);

/// Fails when a port of ours can't be opened; the Event may also be an old one.
pub(super) async fn port_trouble(
    client: &Client,
    state: &State,
    event: &Event,
) -> Result<(), Error> {
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
pub(super) async fn give_up_on_trouble(
    client: &Client,
    applier: &Applier,
    work: &Work,
    state: &mut State,
) -> Result<(), Error> {
    for unit in &work.units {
        let Some(object) = state.applied.get(&unit.name) else {
            continue;
        };
        if state.done.contains(&unit.name) || state.failed.contains_key(&unit.name) {
            continue;
        }
        let over = ready::has_failed(object);
        let earlier = state.earlier.get(&unit.name);
        let mut troubled = troubled(client, unit, !over, earlier).await?;
        if troubled.is_empty() {
            let gates = state.gates(work, &unit.name);
            troubled = unhealthy(client, unit, gates, earlier).await?;
        }
        let Some(first) = troubled.first() else {
            continue;
        };
        let failed: BTreeSet<String> = troubled.iter().map(|t| t.pod.clone()).collect();
        if let Some(stage) = state.stages.get_mut(&unit.name)
            && stage.goes_on(applier, work, unit, failed).await?
        {
            continue;
        }
        let text = tell(client, unit, first).await;
        let goes_on = unit
            .update
            .as_ref()
            .is_some_and(|u| u.failure_action == FailureAction::Continue);
        if goes_on && !state.is_awaited(work, &unit.name) {
            state.failed.insert(unit.name.clone(), text);
            continue;
        }
        return Err(Error::Failed(text));
    }
    Ok(())
}

/// What Docker would call unhealthy by now, and with `gates` what has ended and is not said to start again: nobody who waits
/// for its health waits on.
async fn unhealthy(
    client: &Client,
    unit: &Unit,
    gates: bool,
    earlier: Option<&BTreeSet<String>>,
) -> Result<Vec<Trouble>, Error> {
    let mut all = Vec::new();
    for pod in new_pods(client, unit, earlier).await? {
        let ended = || ready::ended(&pod).filter(|_| gates && !unit.restarts);
        let mut found = ended();
        if found.is_none() {
            found = ready::unhealthy(client, &unit.namespace, &pod, &unit.patience).await;
        }
        if let Some(mut trouble) = found {
            if gates {
                trouble.why = format!("dependency failed to start: {}", trouble.why);
            }
            all.push(trouble);
        }
    }
    Ok(all)
}

/// The Pods of this rollout, the newest first.
async fn new_pods(
    client: &Client,
    unit: &Unit,
    earlier: Option<&BTreeSet<String>>,
) -> Result<Vec<Pod>, Error> {
    let mut pods = ready::pods(client, &unit.namespace, &unit.document.object).await?;
    pods.retain(|p| p.metadata.deletion_timestamp.is_none());
    let is_new = |p: &Pod| match (earlier, &p.metadata.uid) {
        (Some(earlier), Some(uid)) => !earlier.contains(uid),
        _ => true,
    };
    pods.retain(is_new);
    pods.sort_by_key(|p| std::cmp::Reverse(p.metadata.creation_timestamp.clone().map(|t| t.0)));
    Ok(pods)
}

/// What is wrong with the Pods, those of this rollout's, the newest first.
async fn troubled(
    client: &Client,
    unit: &Unit,
    fatal_only: bool,
    earlier: Option<&BTreeSet<String>>,
) -> Result<Vec<Trouble>, Error> {
    let pods = new_pods(client, unit, earlier).await?;
    let mut all = Vec::new();
    for pod in &pods {
        let mut trouble = ready::trouble(pod, fatal_only);
        if trouble.is_none() && !fatal_only {
            trouble = ready::warning(client, &unit.namespace, pod).await;
        }
        if let Some(trouble) = trouble.as_mut().filter(|t| t.why == ready::UNWELL)
            && let Some(said) = ready::unwell(client, &unit.namespace, pod).await
        {
            trouble.why = format!("{}: {said}", ready::UNWELL);
        }
        all.extend(trouble);
    }
    Ok(all)
}

/// A Pod's trouble in words, with log lines.
async fn tell(client: &Client, unit: &Unit, trouble: &Trouble) -> String {
    let mut text = format!("{}: {} ({})", unit.name, trouble.why, trouble.pod);
    if trouble.why.contains("untolerated taint") {
        for told in ready::taints(client).await {
            text.push_str("\n  ");
            text.push_str(&told);
        }
    }
    if trouble.ran {
        let lines = ready::last_lines(client, &unit.namespace, trouble).await;
        if !lines.is_empty() {
            text.push_str("\n  its last log lines:\n    ");
            text.push_str(&lines.join("\n    "));
        }
    }
    text
}

/// What to say when the deadline has passed: of each workload that isn't there what is wrong with it, else what it waits for.
pub(super) async fn late(client: &Client, work: &Work, state: &State, seconds: u64) -> Error {
    let mut reasons = Vec::new();
    let mut others = waits(&work.units, state);
    for unit in &work.units {
        if let Ok(troubled) = troubled(client, unit, false, None).await
            && let Some(first) = troubled.first()
        {
            reasons.push(tell(client, unit, first).await);
            others.remove(unit.name.as_str());
        }
    }
    reasons.extend(others.into_values());
    let tail = if reasons.is_empty() {
        "; see `knarr status`".to_string()
    } else {
        format!(":\n{}", reasons.join("\n"))
    };
    Error::TimedOut(format!("not ready after {seconds} s{tail}"))
}

/// Of each workload that isn't there yet how far it has come, and of ports that they aren't open; by name.
fn waits<'a>(units: &'a [Unit], state: &'a State) -> BTreeMap<&'a str, String> {
    let mut all = BTreeMap::new();
    for unit in units {
        let name = unit.name.as_str();
        let text = match state.applied.get(name) {
            Some(_) if state.done.contains(name) => continue,
            Some(object) => match ready::readiness(object, unit.to_end) {
                Readiness::Ready(_) => continue,
                Readiness::Waiting(text) => text,
            },
            None => match unit.depends_on.iter().find(|d| !state.satisfies(d)) {
                Some(blocker) => format!("waits for {}", blocker.service),
                None => continue,
            },
        };
        all.insert(name, format!("{name}: {text}"));
    }
    for (_, service) in &state.closed {
        let closed = || format!("{service}: its ports are not open yet");
        all.entry(service).or_insert_with(closed);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_there_is_told_with_what_it_waits_for() {
        let dir = tempfile::tempdir().unwrap();
        let text = "services:\n  db: {image: a}\n  app: {image: b, depends_on: {db: {condition: service_healthy}}}\n  web: {image: c}\n  done: {image: d}\n";
        std::fs::write(dir.path().join("compose.yaml"), text).unwrap();
        let options = knarr_compose::Options {
            folder: dir.path().to_path_buf(),
            ..Default::default()
        };
        let project = knarr_compose::load(&options).unwrap();
        let work = Work::of_compose(&project, &BTreeMap::new());
        let deployment = |ready: i64| {
            json!({"kind": "Deployment", "spec": {"replicas": 2}, "status": {
                "replicas": 2, "updatedReplicas": 2, "availableReplicas": ready,
            }})
        };
        let state = State {
            applied: [("db", 1), ("web", 2), ("done", 2)]
                .map(|(name, ready)| (name.to_string(), deployment(ready)))
                .into(),
            done: ["done".to_string()].into(),
            closed: [("ns".to_string(), "web".to_string())].into(),
            before: BTreeMap::new(),
            earlier: BTreeMap::new(),
            stages: BTreeMap::new(),
            failed: BTreeMap::new(),
        };
        let told: Vec<String> = waits(&work.units, &state).into_values().collect();
        assert_eq!(
            told,
            [
                "app: waits for db",
                "db: 1/2 ready",
                "web: its ports are not open yet",
            ]
        );
    }
}
