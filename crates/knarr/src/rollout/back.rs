//! What ran before is brought back when an update fails.

use std::time::Duration;

use futures::StreamExt;
use knarr_compose::FailureAction;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};

use super::State;
use crate::{
    apply::Applier,
    progress::Progress,
    ready::{self, Readiness},
    staged,
    work::{Unit, Work, name_of},
};

/// How long what is brought back may take to be ready.
const SETTLES: Duration = Duration::from_secs(60);

/// Brings back what ran before of the workloads that did not come right; what to tell of it.
pub(super) async fn bring_back(
    applier: &Applier,
    work: &Work,
    state: &State,
    progress: &Progress,
) -> String {
    let mut told = String::new();
    for unit in work
        .units
        .iter()
        .filter(|u| work.composed && !state.done.contains(&u.name))
    {
        let action = unit.update.as_ref().map(|u| u.failure_action);
        if matches!(action, Some(FailureAction::Pause | FailureAction::Continue)) {
            continue;
        }
        let Some(before) = state.before.get(&unit.name) else {
            continue;
        };
        if unit.document.object["kind"] == "Deployment" && never_ran(before) {
            told += &format!(
                "\n{}: what was there before never ran either, and is not brought back",
                unit.name
            );
            continue;
        }
        let object = earlier(
            &unit.document.object,
            before,
            unit.rollback_strategy.as_ref(),
        );
        progress.set(&unit.name, "failed: what ran before is brought back", false);
        let object = staged::backward(object, unit.rollback.as_ref());
        match applier.apply(&object, &work.namespace, false).await {
            Ok(applied) => {
                let waited = settled(applier, work, unit, applied.object).await;
                // As it was in all, also in how it is updated.
                let same = earlier(&unit.document.object, before, None);
                if same != object && waited {
                    let _ = applier.apply(&same, &work.namespace, false).await;
                }
                told += &match waited {
                    true => format!("\n{}: what ran before is back", unit.name),
                    false => format!(
                        "\n{}: what ran before is being brought back; see `knarr status`",
                        unit.name
                    ),
                };
                progress.fail(
                    &unit.name,
                    match waited {
                        true => "failed: what ran before is back",
                        false => "failed: what ran before is being brought back",
                    },
                );
            }
            Err(e) => {
                told += &format!(
                    "\n{}: what ran before can't be brought back: {e}",
                    unit.name
                )
            }
        }
    }
    told
}

/// Whether all that is known of a Deployment is that it has yet to come right: one that once did says so for as long as its
/// template is the same, whatever has become of its Pods.
fn never_ran(before: &Value) -> bool {
    let conditions = before["status"]["conditions"].as_array();
    let progressing = conditions
        .into_iter()
        .flatten()
        .find(|c| c["type"] == "Progressing");
    before["metadata"]["generation"] == before["status"]["observedGeneration"]
        && progressing.is_some_and(|c| c["reason"] != "NewReplicaSetAvailable")
}

/// The object as it was, to be applied.
fn earlier(now: &Value, before: &Value, strategy: Option<&Value>) -> Value {
    let mut object = json!({
        "apiVersion": now["apiVersion"], "kind": now["kind"],
        "metadata": { "name": before["metadata"]["name"], "namespace": before["metadata"]["namespace"] },
        "spec": before["spec"],
    });
    for key in ["labels", "annotations"] {
        if let Some(mut said) = before["metadata"][key].as_object().cloned() {
            said.remove("deployment.kubernetes.io/revision");
            object["metadata"][key] = Value::Object(said);
        }
    }
    if let Some(strategy) = strategy
        && object["kind"] == "Deployment"
    {
        object["spec"]["strategy"] = strategy.clone();
    }
    object
}

/// Waits a while until the workload is ready.
async fn settled(applier: &Applier, work: &Work, unit: &Unit, mut newest: Value) -> bool {
    let Ok(api) = applier.api(&unit.document.object, &work.namespace) else {
        return false;
    };
    let wait = async {
        let fields = format!("metadata.name={}", name_of(&unit.document.object));
        let kind = unit.document.object["kind"].clone();
        let config = watcher::Config::default().fields(&fields);
        let mut events = Box::pin(watcher(api, config).default_backoff().touched_objects());
        loop {
            newest["kind"] = kind.clone();
            if matches!(ready::readiness(&newest, unit.to_end), Readiness::Ready(_)) {
                return;
            }
            if let Some(Ok(object)) = events.next().await {
                newest = serde_json::to_value(object).unwrap_or_default();
            }
        }
    };
    let pace = staged::allowance(&unit.document.object, unit.rollback.as_ref());
    tokio::time::timeout(SETTLES.saturating_add(pace), wait)
        .await
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_never_came_right_is_not_brought_back() {
        let deployment = |generation: u8, reason: &str| {
            json!({"metadata": {"generation": 2}, "status": {
                "observedGeneration": generation, "readyReplicas": 0, "conditions": [
                    {"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable"},
                    {"type": "Progressing", "status": "True", "reason": reason}]}})
        };
        let fresh = json!({"metadata": {"generation": 1}});
        for (name, before, expected) in [
            ("came right", deployment(2, "NewReplicaSetAvailable"), false),
            (
                "in a loop from the start",
                deployment(2, "ReplicaSetUpdated"),
                true,
            ),
            ("too long", deployment(2, "ProgressDeadlineExceeded"), true),
            (
                "not looked at yet",
                deployment(1, "ReplicaSetUpdated"),
                false,
            ),
            ("nothing is known", fresh, false),
        ] {
            assert_eq!(never_ran(&before), expected, "{name}");
        }
    }
}
