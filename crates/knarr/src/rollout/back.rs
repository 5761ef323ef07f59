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
                progress.fail(&unit.name, "failed: what ran before is back");
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
