//! What runs to its end: services that are not started again, and other Jobs that nobody's schedule made.

use super::Row;
use crate::ready;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{Client, ResourceExt};

/// Lines of a failed container that are shown.
const LINES_MAX: usize = 5;

/// Those of a CronJob come and go; they are its history, not services.
pub fn is_a_service(job: &Job) -> bool {
    job.owner_references().is_empty()
}

/// `completed`, `failed`, `suspended`, or `running`, after the Job's conditions.
fn state(job: &Job) -> &'static str {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_ref());
    let is = |name: &str| {
        let mut all = conditions.into_iter().flatten();
        all.any(|c| c.type_ == name && c.status == "True")
    };
    match () {
        () if is("Complete") => "completed",
        () if is("Failed") => "failed",
        () if is("Suspended") => "suspended",
        () => "running",
    }
}

/// One Job's row: how many Pods have come to a good end of how many, and where it failed what its last Pod said.
pub async fn row(client: &Client, job: &Job, pods: &[Pod]) -> Row {
    let namespace = job.namespace().unwrap_or_default();
    let spec = job.spec.as_ref();
    let wanted = spec
        .and_then(|s| s.completions.or(s.parallelism))
        .unwrap_or(1);
    let succeeded = job.status.as_ref().and_then(|s| s.succeeded).unwrap_or(0);
    let mut mine: Vec<&Pod> = pods
        .iter()
        .filter(|p| p.namespace().as_deref() == Some(&namespace))
        .filter(|p| {
            p.owner_references()
                .iter()
                .any(|o| Some(&o.uid) == job.metadata.uid.as_ref())
        })
        .collect();
    mine.sort_by_key(|p| p.metadata.creation_timestamp.clone().map(|t| t.0));
    let restarts = mine
        .iter()
        .filter_map(|p| p.status.as_ref()?.container_statuses.as_ref())
        .flatten()
        .map(|c| c.restart_count)
        .sum();
    let state = state(job);
    let mut problems = Vec::new();
    let last = mine
        .last()
        .filter(|_| matches!(state, "failed" | "running"));
    if let Some(trouble) = last.and_then(|pod| ready::trouble(pod, false)) {
        problems.push(format!("{}: {}", trouble.pod, trouble.why));
        if trouble.ran {
            let lines = ready::last_lines(client, &namespace, &trouble).await;
            let from = lines.len().saturating_sub(LINES_MAX);
            problems.extend(lines[from..].iter().map(|l| format!("  | {l}")));
        }
    }
    Row {
        app: namespace,
        service: job.name_any(),
        ready: format!("{succeeded}/{wanted}"),
        state: state.into(),
        restarts,
        addresses: Vec::new(),
        problems,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_jobs_state_is_that_of_its_conditions() {
        let check = |conditions: Value, expected: &str| {
            let job = json!({ "metadata": {}, "status": { "conditions": conditions } });
            let job: Job = serde_json::from_value(job).unwrap();
            assert_eq!(state(&job), expected, "{conditions}");
        };
        let holds = |name: &str| json!([{ "type": name, "status": "True" }]);
        check(json!([]), "running");
        check(holds("Complete"), "completed");
        check(holds("Failed"), "failed");
        check(holds("Suspended"), "suspended");
        check(
            json!([{ "type": "Suspended", "status": "False" }]),
            "running",
        );
    }
}
