//! `kubectl get pods`: upstream's printPod (pkg/printers/internalversion/printers.go).

use super::{
    age,
    cells::{AGE, NAME, column, or_none, wide},
    json::{items, number, text},
};
use crate::registry::Column;
use serde_json::Value;

pub(crate) const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", "string", |o| {
        let ready = items(o, "/status/containerStatuses")
            .iter()
            .filter(|c| c["ready"] == true && c["state"]["running"].is_object())
            .count();
        let sidecars = sidecars(o);
        let ready_sidecars = items(o, "/status/initContainerStatuses")
            .iter()
            .filter(|c| c["ready"] == true && sidecars.contains(&text(c, "/name")))
            .count();
        format!(
            "{}/{}",
            ready + ready_sidecars,
            items(o, "/spec/containers").len() + sidecars.len()
        )
        .into()
    }),
    column("Status", "string", |o| status(o).into()),
    column("Restarts", "string", |o| restarts(o).into()),
    AGE,
    wide("IP", "string", |o| or_none(text(o, "/status/podIP").into())),
    wide("Node", "string", |o| {
        or_none(text(o, "/spec/nodeName").into())
    }),
    wide("Nominated Node", "string", |o| {
        or_none(text(o, "/status/nominatedNodeName").into())
    }),
    wide("Readiness Gates", "string", |o| {
        let gates = items(o, "/spec/readinessGates");
        let met = gates
            .iter()
            .filter(|g| {
                items(o, "/status/conditions")
                    .iter()
                    .any(|c| c["type"] == g["conditionType"] && c["status"] == "True")
            })
            .count();
        if gates.is_empty() {
            "<none>".into()
        } else {
            format!("{met}/{}", gates.len()).into()
        }
    }),
];

fn sidecars(o: &Value) -> Vec<&str> {
    items(o, "/spec/initContainers")
        .iter()
        .filter(|c| c["restartPolicy"] == "Always")
        .map(|c| text(c, "/name"))
        .collect()
}

fn ended(t: &Value) -> String {
    match (
        text(t, "/reason"),
        number(t, "/signal"),
        number(t, "/exitCode"),
    ) {
        ("", 0, code) => format!("ExitCode:{code}"),
        ("", signal, _) => format!("Signal:{signal}"),
        (reason, ..) => reason.to_string(),
    }
}

fn status(o: &Value) -> String {
    let mut reason = match text(o, "/status/reason") {
        "" => text(o, "/status/phase").to_string(),
        r => r.to_string(),
    };
    if items(o, "/status/conditions")
        .iter()
        .any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated")
    {
        reason = "SchedulingGated".into();
    }
    let sidecars = sidecars(o);
    let total = items(o, "/spec/initContainers").len();
    let mut initializing = false;
    for (i, c) in items(o, "/status/initContainerStatuses").iter().enumerate() {
        let t = &c["state"]["terminated"];
        let started = c["started"] == true && sidecars.contains(&text(c, "/name"));
        if started || (t.is_object() && number(t, "/exitCode") == 0) {
            continue;
        }
        let waiting = text(c, "/state/waiting/reason");
        reason = match (t.is_object(), waiting) {
            (true, _) => format!("Init:{}", ended(t)),
            (false, w) if !w.is_empty() && w != "PodInitializing" => format!("Init:{w}"),
            _ => format!("Init:{i}/{total}"),
        };
        initializing = true;
        break;
    }
    if !initializing {
        let mut running = false;
        for c in items(o, "/status/containerStatuses").iter().rev() {
            let (waiting, t) = (text(c, "/state/waiting/reason"), &c["state"]["terminated"]);
            if !waiting.is_empty() {
                reason = waiting.to_string();
            } else if t.is_object() {
                reason = ended(t);
            } else if c["ready"] == true && c["state"]["running"].is_object() {
                running = true;
            }
        }
        if reason == "Completed" && running {
            let ready = items(o, "/status/conditions")
                .iter()
                .any(|c| c["type"] == "Ready" && c["status"] == "True");
            reason = if ready { "Running" } else { "NotReady" }.into();
        }
    }
    if !text(o, "/metadata/deletionTimestamp").is_empty() {
        let finished = matches!(text(o, "/status/phase"), "Succeeded" | "Failed");
        if text(o, "/status/reason") == "NodeLost" {
            reason = "Unknown".into();
        } else if !finished {
            reason = "Terminating".into();
        }
    }
    reason
}

fn restarts(o: &Value) -> String {
    let all = items(o, "/status/containerStatuses");
    let count: i64 = all.iter().map(|c| number(c, "/restartCount")).sum();
    let last = all
        .iter()
        .map(|c| text(c, "/lastState/terminated/finishedAt"))
        .filter(|t| !t.is_empty())
        .max();
    match last {
        Some(at) if count > 0 => format!("{count} ({} ago)", age::since(&at.into())),
        _ => count.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn status_says_what_kubectl_says() {
        for (want, pod) in [
            ("Pending", json!({ "status": { "phase": "Pending" } })),
            (
                "Running",
                json!({ "status": { "phase": "Running", "containerStatuses": [{ "ready": true, "state": { "running": {} } }] } }),
            ),
            (
                "CrashLoopBackOff",
                json!({ "status": { "phase": "Running", "containerStatuses": [{ "state": { "waiting": { "reason": "CrashLoopBackOff" } } }] } }),
            ),
            (
                "ExitCode:3",
                json!({ "status": { "phase": "Failed", "containerStatuses": [{ "state": { "terminated": { "exitCode": 3 } } }] } }),
            ),
            (
                "Error",
                json!({ "status": { "phase": "Failed", "containerStatuses": [{ "state": { "terminated": { "exitCode": 3, "reason": "Error" } } }] } }),
            ),
            (
                "Init:0/1",
                json!({ "spec": { "initContainers": [{ "name": "i" }] }, "status": { "phase": "Pending", "initContainerStatuses": [{ "name": "i", "state": { "running": {} } }] } }),
            ),
            (
                "Terminating",
                json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" }, "status": { "phase": "Running" } }),
            ),
            (
                "Evicted",
                json!({ "status": { "phase": "Failed", "reason": "Evicted" } }),
            ),
        ] {
            assert_eq!(status(&pod), want);
        }
    }
}
