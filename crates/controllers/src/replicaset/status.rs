//! Status of a set from its pods.

use std::sync::Arc;

use super::Replicator;
use crate::{
    error::Error,
    machinery::{pods::said, status, work::Next},
    objects::{meta::Seconds, pod::Pod, workload::ReplicaSetStatus},
};

/// The status that should be, and when it changes by time alone.
pub fn of<R: Replicator>(
    set: &R,
    pods: &[Arc<Pod>],
    failure: Option<&Error>,
    now: Seconds,
) -> (ReplicaSetStatus, Next) {
    let spec = set.spec();
    let template_labels = spec.template.meta().labels;
    let mut new = ReplicaSetStatus {
        replicas: pods.len() as i32,
        observed_generation: set.meta().generation,
        conditions: set.status().conditions.clone(),
        ..Default::default()
    };
    let mut next = Next::Wait;
    for pod in pods {
        if template_labels.subset_of(&pod.metadata.labels) {
            new.fully_labeled_replicas += 1;
        }
        if pod.ready() {
            new.ready_replicas += 1;
            match pod.available(spec.min_ready_seconds, now) {
                Ok(true) => new.available_replicas += 1,
                Ok(false) => {}
                Err(wait) => next = next.sooner(Next::after_s(wait)),
            }
        }
    }
    const FAILURE: &str = "ReplicaFailure";
    match failure {
        Some(e) if status::find(&new.conditions, FAILURE).is_none() => {
            let reason = if (pods.len() as i32) < spec.replicas {
                "FailedCreate"
            } else {
                "FailedDelete"
            };
            status::set(
                &mut new.conditions,
                status::condition(FAILURE, "True", reason, said(e)),
            );
        }
        None => status::remove(&mut new.conditions, FAILURE),
        Some(_) => {}
    }
    (new, next)
}
