//! Why a Pod doesn't come right: told by its containers, its events, its log and the nodes.

use std::{collections::BTreeMap, time::Duration};

use futures::AsyncBufReadExt;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Node, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, LogParams},
};

/// How many of a failed container's last lines are shown.
const TAIL_LINES: i64 = 20;
/// Restarts after which a container that keeps dying is taken for broken.
const RESTARTS_MAX: i32 = 2;
/// Containers that start again with Docker's short pauses are given this time: what they need may still be coming up.
const COMES_RIGHT: i64 = 20;
/// Most failures that the events of a Pod tell of: more of them are not written down.
const FAILURES_TOLD: i64 = 10;
/// The annotation of such containers, before their name.
const OWN_RESTARTS: &str = "restart.knarr.dev/";
/// How long a Pod may stay without a node.
const UNSCHEDULED_SECONDS_MAX: i64 = 5;

/// What is told of a container whose health check fails.
pub const UNWELL: &str = "it runs and is not ready: its health check fails";

/// A container that will not come right by itself: its pod, its name, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Trouble {
    pub pod: String,
    pub container: String,
    pub why: String,
    /// It has run and ended, so it has log lines.
    pub ran: bool,
}

/// Looks for trouble in a pod; `fatal_only` leaves out what may still pass.
pub fn trouble(pod: &Pod, fatal_only: bool) -> Option<Trouble> {
    let status = pod.status.as_ref()?;
    let all = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    let age = status.start_time.as_ref().map_or(i64::MAX, |t| {
        let age = k8s_openapi::jiff::Timestamp::now().duration_since(t.0);
        age.as_secs()
    });
    // Of one that is started again only so often: that many; and it may be given time.
    let own = |c: &ContainerStatus| {
        let said = pod
            .annotations()
            .get(&format!("{OWN_RESTARTS}{}", c.name))?;
        let when = said.split_whitespace().next()?;
        Some(
            when.rsplit_once(':')
                .and_then(|(_, n)| n.parse::<i32>().ok()),
        )
    };
    let restarts_of = |c: &ContainerStatus| {
        let most = own(c).flatten().unwrap_or(RESTARTS_MAX);
        most.min(RESTARTS_MAX)
    };
    let still_hopes = |c: &ContainerStatus| {
        age < COMES_RIGHT && own(c).is_some_and(|most| most.is_none_or(|n| c.restart_count < n))
    };
    let found = all
        .filter_map(|c| {
            container_trouble(c, fatal_only, restarts_of(c))
                .filter(|t| !(fatal_only && t.ran && still_hopes(c)))
        })
        .next();
    let unscheduled = || {
        let condition = status
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
        // A node that just starts, or a volume that is being made, may still change it.
        let since = condition.last_transition_time.as_ref().map(|t| t.0);
        let seconds = since.map_or(i64::MAX, |t| {
            k8s_openapi::jiff::Timestamp::now()
                .duration_since(t)
                .as_secs()
        });
        if fatal_only && seconds < UNSCHEDULED_SECONDS_MAX {
            return None;
        }
        Some(Trouble {
            pod: pod.name_any(),
            container: String::new(),
            why: condition.message.clone()?,
            ran: false,
        })
    };
    found
        .map(|t| Trouble {
            pod: pod.name_any(),
            ..t
        })
        .or_else(unscheduled)
        .or_else(|| refused(pod, fatal_only))
}

/// A Pod that its node did not take; fatal is what its own file says wrong, and not what the node lacks at the moment.
fn refused(pod: &Pod, fatal_only: bool) -> Option<Trouble> {
    const FOR_GOOD: [&str; 3] = ["SysctlForbidden", "AppArmor", "PodOSNotSupported"];
    let status = pod.status.as_ref()?;
    let reason = status.reason.as_deref()?;
    let failed = status.phase.as_deref() == Some("Failed");
    (failed && (!fatal_only || FOR_GOOD.contains(&reason))).then(|| Trouble {
        pod: pod.name_any(),
        container: String::new(),
        why: match &status.message {
            Some(message) => format!("{reason}: {message}"),
            None => reason.to_string(),
        },
        ran: false,
    })
}

fn container_trouble(c: &ContainerStatus, fatal_only: bool, restarts_max: i32) -> Option<Trouble> {
    let found = |why: String, ran| {
        Some(Trouble {
            pod: String::new(),
            container: c.name.clone(),
            why,
            ran,
        })
    };
    let ended = c
        .state
        .as_ref()
        .and_then(|s| s.terminated.as_ref())
        .or(c.last_state.as_ref().and_then(|s| s.terminated.as_ref()));
    let exit = ended.map(|t| match (t.signal, t.reason.as_deref()) {
        (_, Some("OOMKilled")) => "ran out of its memory limit".to_string(),
        (Some(s), _) if s > 0 => format!("was killed by signal {s}"),
        (_, Some(reason @ ("StartError" | "ContainerCannotRun"))) => {
            let why = t.message.as_deref().unwrap_or(reason);
            format!("can't be started ({why})")
        }
        _ => format!("exited with code {}", t.exit_code),
    });
    if let Some(waiting) = c.state.as_ref().and_then(|s| s.waiting.as_ref()) {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let message = waiting.message.clone().unwrap_or_default();
        return match reason {
            "ErrImagePull"
            | "ImagePullBackOff"
            | "ErrImageNeverPull"
            | "InvalidImageName"
            | "CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError" => found(format!("{reason}: {message}"), ended.is_some()),
            "CrashLoopBackOff" if !fatal_only || c.restart_count >= restarts_max => found(
                format!(
                    "CrashLoopBackOff: it {} and is restarted with growing pauses ({} times so far)",
                    exit.unwrap_or("keeps ending".into()),
                    c.restart_count
                ),
                true,
            ),
            _ => None,
        };
    }
    match c.state.as_ref().and_then(|s| s.terminated.as_ref()) {
        Some(t) if t.exit_code != 0 && (!fatal_only || c.restart_count >= restarts_max) => {
            found(format!("it {}", exit.unwrap_or_default()), true)
        }
        _ if !fatal_only && !c.ready && c.state.as_ref().is_some_and(|s| s.running.is_some()) => {
            found(UNWELL.into(), true)
        }
        _ => None,
    }
}

/// What keeps Pods off the nodes, and what to do about it; the scheduler only counts taints.
pub async fn taints(client: &Client) -> Vec<String> {
    let nodes = Api::<Node>::all(client.clone());
    let Ok(nodes) = nodes.list(&ListParams::default()).await else {
        return vec![];
    };
    nodes.iter().flat_map(taints_of).collect()
}

fn taints_of(node: &Node) -> Vec<String> {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    let keeps_off = taints.filter(|t| t.effect != "PreferNoSchedule");
    let told = keeps_off.map(|taint| {
        let advice = match taint.key.as_str() {
            "node.kubernetes.io/disk-pressure" => {
                ": its disk is nearly full: free some space and wait for some minutes"
            }
            "node.kubernetes.io/memory-pressure" => ": its memory is nearly full: stop something",
            "node.kubernetes.io/pid-pressure" => ": it has too many processes: stop something",
            "node.kubernetes.io/unschedulable" => ": `kubectl uncordon` it",
            _ => "",
        };
        format!("the node {} has {}{advice}", node.name_any(), taint.key)
    });
    told.collect()
}

/// What the newest Warning says of a Pod that is not ready and whose containers have no word on why.
pub async fn warning(client: &Client, namespace: &str, pod: &Pod) -> Option<Trouble> {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    if !matches!(phase, None | Some("Pending")) {
        return None;
    }
    let event = newest(client, namespace, pod, "type=Warning").await?;
    Some(Trouble {
        pod: pod.name_any(),
        container: String::new(),
        why: event.message?,
        ran: false,
    })
}

/// A container that has asked its health check so long and so often in vain that Docker would call it unhealthy.
pub async fn unhealthy(
    client: &Client,
    namespace: &str,
    pod: &Pod,
    patience: &BTreeMap<String, (Duration, i64)>,
) -> Option<Trouble> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let now = k8s_openapi::jiff::Timestamp::now();
    let over = statuses.iter().find_map(|c| {
        let (after, times) = patience.get(&c.name)?;
        let running = c.state.as_ref()?.running.as_ref()?;
        let since = running.started_at.as_ref()?.0;
        let lasted = now.duration_since(since).as_secs() >= i64::try_from(after.as_secs()).ok()?;
        (!c.ready && lasted).then_some((c, *times))
    });
    let (container, times) = over?;
    let all = events(client, namespace, pod, "reason=Unhealthy").await?;
    let failures: i64 = all.iter().map(|e| i64::from(e.count.unwrap_or(1))).sum();
    if failures < times.min(FAILURES_TOLD) {
        return None;
    }
    let said = all.last().and_then(said_by_check);
    let said = said.map_or_else(String::new, |s| format!(": {s}"));
    Some(Trouble {
        pod: pod.name_any(),
        container: container.name.clone(),
        why: format!("container {} is unhealthy{said}", pod.name_any()),
        ran: true,
    })
}

/// A container that has ended, well or not.
pub fn ended(pod: &Pod) -> Option<Trouble> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find_map(|c| {
        let now = c.state.as_ref().and_then(|s| s.terminated.as_ref());
        let before = c.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        let code = now.or(before)?.exit_code;
        Some(Trouble {
            pod: pod.name_any(),
            container: c.name.clone(),
            why: format!("container {} exited ({code})", pod.name_any()),
            ran: true,
        })
    })
}

/// What a container's health check last said of what is wrong.
pub async fn unwell(client: &Client, namespace: &str, pod: &Pod) -> Option<String> {
    let event = newest(client, namespace, pod, "reason=Unhealthy").await?;
    said_by_check(&event)
}

fn said_by_check(event: &Event) -> Option<String> {
    let message = event.message.as_ref()?;
    let said = message.split_once(" probe failed: ").map(|(_, s)| s.trim());
    said.filter(|s| !s.is_empty()).map(String::from)
}

/// The Pod's newest event of those that the field selector chooses.
async fn newest(client: &Client, namespace: &str, pod: &Pod, which: &str) -> Option<Event> {
    events(client, namespace, pod, which).await?.pop()
}

/// All of the Pod's events that the field selector chooses, the newest last.
async fn events(client: &Client, namespace: &str, pod: &Pod, which: &str) -> Option<Vec<Event>> {
    let fields = format!(
        "involvedObject.kind=Pod,involvedObject.name={},{which}",
        pod.name_any()
    );
    let mut events = Api::<Event>::namespaced(client.clone(), namespace)
        .list(&ListParams::default().fields(&fields))
        .await
        .ok()?
        .items;
    events.retain(|e| e.involved_object.uid == pod.metadata.uid);
    events.sort_by_key(|e| e.last_timestamp.as_ref().map(|t| t.0));
    Some(events)
}

/// The last lines that the container wrote, of the run before when it is between two runs.
pub async fn last_lines(client: &Client, namespace: &str, trouble: &Trouble) -> Vec<String> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for previous in [false, true] {
        let parameters = LogParams {
            container: Some(trouble.container.clone()),
            tail_lines: Some(TAIL_LINES),
            previous,
            ..LogParams::default()
        };
        if let Ok(stream) = api.log_stream(&trouble.pod, &parameters).await {
            use futures::TryStreamExt;
            let lines: Vec<String> = stream.lines().try_collect().await.unwrap_or_default();
            if !lines.is_empty() {
                return lines;
            }
        }
    }
    vec![]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn taints_are_told_with_what_to_do() {
        let node = |taints: Value| -> Node {
            let node = json!({ "metadata": { "name": "n" }, "spec": { "taints": taints } });
            serde_json::from_value(node).unwrap()
        };
        let full = json!([
            { "key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule" },
            { "key": "soft", "effect": "PreferNoSchedule" },
            { "key": "own", "effect": "NoExecute" },
        ]);
        assert_eq!(
            taints_of(&node(full)),
            [
                "the node n has node.kubernetes.io/disk-pressure: its disk is nearly full: free some space and wait for some minutes",
                "the node n has own",
            ]
        );
        assert!(taints_of(&node(json!(null))).is_empty());
    }

    #[test]
    fn trouble_is_told_from_starting() {
        let pod = |state: Value, restarts: i32| -> Pod {
            serde_json::from_value(json!({ "metadata": { "name": "p" }, "status": { "containerStatuses": [{
                "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": restarts, "state": state,
                "lastState": { "terminated": { "exitCode": 3 } } }] } })).unwrap()
        };
        for (name, state, restarts, fatal) in [
            (
                "creating",
                json!({ "waiting": { "reason": "ContainerCreating" } }),
                0,
                None,
            ),
            (
                "image",
                json!({ "waiting": { "reason": "ErrImagePull", "message": "none" } }),
                0,
                Some("ErrImagePull: none"),
            ),
            (
                "first crash",
                json!({ "waiting": { "reason": "CrashLoopBackOff" } }),
                1,
                None,
            ),
            (
                "crash loop",
                json!({ "waiting": { "reason": "CrashLoopBackOff" } }),
                2,
                Some(
                    "CrashLoopBackOff: it exited with code 3 and is restarted with growing pauses (2 times so far)",
                ),
            ),
            (
                "a command that isn't there",
                json!({ "terminated": { "exitCode": 128, "reason": "StartError", "message": "exec: \"x\": not found" } }),
                2,
                Some("it can't be started (exec: \"x\": not found)"),
            ),
            ("runs", json!({ "running": {} }), 0, None),
        ] {
            let found = trouble(&pod(state, restarts), true).map(|t| t.why);
            assert_eq!(found.as_deref(), fatal, "{name}");
        }
    }

    #[test]
    fn a_pod_that_its_node_refused_for_good_ends_the_wait() {
        let pod = |phase: &str, reason: &str| -> Pod {
            serde_json::from_value(
                json!({ "metadata": { "name": "p" }, "status": { "phase": phase, "reason": reason,
                "message": "Pod was rejected: no" } }),
            )
            .unwrap()
        };
        for (phase, reason, fatal_only, want) in [
            (
                "Failed",
                "SysctlForbidden",
                true,
                Some("SysctlForbidden: Pod was rejected: no"),
            ),
            ("Failed", "OutOfcpu", true, None),
            (
                "Failed",
                "OutOfcpu",
                false,
                Some("OutOfcpu: Pod was rejected: no"),
            ),
            ("Pending", "SysctlForbidden", false, None),
        ] {
            let found = trouble(&pod(phase, reason), fatal_only).map(|t| t.why);
            assert_eq!(found.as_deref(), want, "{phase} {reason} {fatal_only}");
        }
    }
}
