//! Is a workload ready, and if not, why: judged as `kubectl rollout status` judges, with the containers' own words.

mod trouble;

pub use trouble::{
    Trouble, UNWELL, ended, last_lines, taints, trouble, unhealthy, unwell, warning,
};

use crate::error::Error;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use serde_json::Value;

#[derive(Debug, PartialEq)]
pub enum Readiness {
    Ready(String),
    Waiting(String),
}

/// Judges a Deployment, StatefulSet, DaemonSet, Job or anything else (which is ready as soon as it exists).
///
/// `to_end`: a Job counts when it has ended well, not as soon as it runs.
pub fn readiness(object: &Value, to_end: bool) -> Readiness {
    use Readiness::{Ready, Waiting};
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let wanted = object
        .pointer("/spec/replicas")
        .and_then(Value::as_i64)
        .unwrap_or(1);
    // Jobs and Pods needn't say which generation they have seen.
    let tells = !matches!(object["kind"].as_str(), Some("Job" | "Pod"));
    if tells && number("/status/observedGeneration") < number("/metadata/generation") {
        return Waiting("starting".into());
    }
    let count = |have: i64, want: i64| format!("{have}/{want} ready");
    match object["kind"].as_str().unwrap_or_default() {
        "Deployment" => {
            let (all, updated, available) = (
                number("/status/replicas"),
                number("/status/updatedReplicas"),
                number("/status/availableReplicas"),
            );
            if updated >= wanted && all <= wanted && available >= wanted {
                return Ready(count(available, wanted));
            }
            Waiting(if all <= updated && updated > wanted {
                format!("ending, {} too many", updated - wanted)
            } else if all > updated {
                format!("rolling out, {updated}/{wanted} new")
            } else {
                count(available, wanted)
            })
        }
        "StatefulSet" => {
            let (ready, updated) = (
                number("/status/readyReplicas"),
                number("/status/updatedReplicas"),
            );
            let same = object.pointer("/status/currentRevision")
                == object.pointer("/status/updateRevision");
            if ready >= wanted && (same || updated >= wanted) {
                Ready(count(ready, wanted))
            } else {
                Waiting(count(ready, wanted))
            }
        }
        "DaemonSet" => {
            let (ready, wanted) = (
                number("/status/numberAvailable"),
                number("/status/desiredNumberScheduled"),
            );
            let updated = number("/status/updatedNumberScheduled");
            if ready >= wanted && updated >= wanted {
                Ready(count(ready, wanted))
            } else {
                Waiting(count(ready, wanted))
            }
        }
        "Job" => {
            let wanted = object
                .pointer("/spec/completions")
                .and_then(Value::as_i64)
                .unwrap_or(1);
            let done = number("/status/succeeded");
            if done >= wanted {
                Ready("completed".into())
            } else if !to_end && done + number("/status/ready") >= wanted {
                Ready("running".into())
            } else {
                Waiting(format!("{done}/{wanted} completed"))
            }
        }
        "ReplicaSet" | "ReplicationController" => {
            let ready = number("/status/readyReplicas");
            match ready >= wanted {
                true => Ready(count(ready, wanted)),
                false => Waiting(count(ready, wanted)),
            }
        }
        "Pod" => {
            let mut conditions = object
                .pointer("/status/conditions")
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            let ready = conditions.any(|c| c["type"] == "Ready" && c["status"] == "True");
            match object.pointer("/status/phase").and_then(Value::as_str) {
                Some("Succeeded") => Ready("completed".into()),
                _ if ready => Ready(count(1, 1)),
                _ => Waiting(count(0, 1)),
            }
        }
        _ => Ready("applied".into()),
    }
}

/// A Job that is not tried again.
pub fn has_failed(object: &Value) -> bool {
    let conditions = object
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    object["kind"] == "Job"
        && conditions
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Failed" && c["status"] == "True")
}

/// The pods that a workload's selector names.
pub async fn pods(client: &Client, namespace: &str, workload: &Value) -> Result<Vec<Pod>, Error> {
    let labels = workload
        .pointer("/spec/selector/matchLabels")
        .or(workload.pointer("/spec/template/metadata/labels"));
    let selector = labels
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| Some(format!("{k}={}", v.as_str()?)))
        .collect::<Vec<_>>()
        .join(",");
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    Ok(api
        .list(&ListParams::default().labels(&selector))
        .await?
        .items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn workloads_are_judged_as_rollout_status_judges() {
        let deployment = |generation: i64,
                          observed: i64,
                          all: i64,
                          updated: i64,
                          available: i64| {
            json!({ "kind": "Deployment", "metadata": { "generation": generation }, "spec": { "replicas": 2 },
                "status": { "observedGeneration": observed, "replicas": all, "updatedReplicas": updated, "availableReplicas": available } })
        };
        for (name, object, ready) in [
            ("not seen yet", deployment(2, 1, 2, 2, 2), false),
            ("done", deployment(2, 2, 2, 2, 2), true),
            ("old ones left", deployment(2, 2, 3, 2, 3), false),
            ("not available", deployment(2, 2, 2, 2, 1), false),
            ("too many", deployment(2, 2, 3, 3, 3), false),
            (
                "job",
                json!({ "kind": "Job", "status": { "succeeded": 1 } }),
                true,
            ),
            (
                "job runs",
                json!({ "kind": "Job", "status": { "active": 1 } }),
                false,
            ),
            (
                "pod, whatever its generation",
                json!({ "kind": "Pod", "metadata": { "generation": 1 },
                    "status": { "conditions": [{ "type": "Ready", "status": "True" }] } }),
                true,
            ),
            (
                "pod starts",
                json!({ "kind": "Pod", "status": { "phase": "Pending" } }),
                false,
            ),
            (
                "pod is through",
                json!({ "kind": "Pod", "status": { "phase": "Succeeded" } }),
                true,
            ),
            (
                "replica set",
                json!({ "kind": "ReplicaSet", "spec": { "replicas": 2 }, "status": { "readyReplicas": 1 } }),
                false,
            ),
            ("config map", json!({ "kind": "ConfigMap" }), true),
        ] {
            assert_eq!(
                matches!(readiness(&object, true), Readiness::Ready(_)),
                ready,
                "{name}"
            );
        }
    }
}
