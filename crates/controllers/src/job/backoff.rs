//! How long a Job waits after failures: 10 s, doubled by each, to 10 min (`backoff_utils.go`).

use std::sync::Arc;

use crate::objects::{meta::Seconds, pod::Pod};

/// First pause, s.
const PAUSE_S: i64 = 10;
/// Longest pause, s.
const PAUSE_MAX_S: i64 = 600;

/// Failures since the last success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: i32,
    last: Seconds,
}

impl Backoff {
    /// With the pods that ended since.
    pub fn with(self, succeeded: &[Arc<Pod>], failed: &[Arc<Pod>]) -> Backoff {
        let mut next = self;
        let success = succeeded.iter().map(|p| finished(p)).max();
        if success.is_some() {
            next = Backoff::default();
        }
        for at in failed.iter().map(|p| finished(p)) {
            if success.is_none_or(|s| at > s) {
                next.failures = next.failures.saturating_add(1);
                next.last = next.last.max(at);
            }
        }
        next
    }
    /// s that are left of the pause, or 0.
    pub fn left(self, now: Seconds) -> Seconds {
        left(self.failures, self.last, now)
    }
}

/// s that are left of the pause after so many failures.
pub fn left(failures: i32, last: Seconds, now: Seconds) -> Seconds {
    if failures <= 0 {
        return 0;
    }
    let pause = PAUSE_S << (failures - 1).clamp(0, 6);
    (last + pause.min(PAUSE_MAX_S) - now).max(0)
}

/// When a pod ended: by its containers, or what comes next to that.
pub fn finished(pod: &Pod) -> Seconds {
    let status = &pod.status;
    let sidecars = pod.spec.init_containers.iter();
    let sidecars: Vec<&str> = sidecars
        .filter(|c| &*c.restart_policy == "Always")
        .map(|c| &*c.name)
        .collect();
    let init = status.init_container_statuses.iter();
    let ends: Option<Vec<Seconds>> = status
        .container_statuses
        .iter()
        .chain(init.filter(|c| sidecars.contains(&&*c.name)))
        .map(|c| c.state.terminated.as_ref()?.finished_at)
        .collect();
    if let Some(end) = ends.and_then(|e| e.into_iter().max()) {
        return end;
    }
    if !pod.ready()
        && let Some(since) = pod.ready_since()
    {
        return since;
    }
    let meta = &pod.metadata;
    match meta.deletion_timestamp {
        Some(at) => at - meta.deletion_grace_period_seconds.unwrap_or(0),
        None => meta.creation_timestamp.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::meta::rfc3339;
    use serde_json::json;

    const NOW: Seconds = 1_700_000_000;

    fn ended(ago: i64) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({"status":{"containerStatuses":[
                {"state":{"terminated":{"finishedAt":rfc3339(NOW - ago)}}}]}}))
            .unwrap(),
        )
    }

    #[test]
    fn pauses() {
        let first = Backoff::default();
        assert_eq!(first.left(NOW), 0);
        let mut b = first;
        let mut pauses = vec![];
        for _ in 0..9 {
            b = b.with(&[], &[ended(0)]);
            pauses.push(b.left(NOW));
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        assert_eq!(b.left(NOW + 600), 0);
        // a success starts over, and only what failed after it counts
        assert_eq!(b.with(&[ended(5)], &[]).left(NOW), 0);
        let after = b.with(&[ended(5)], &[ended(7), ended(5), ended(3)]);
        assert_eq!(after.left(NOW), 7);
    }

    #[test]
    fn when_it_ended() {
        let at = |v| finished(&serde_json::from_value(v).unwrap()) - NOW;
        let ready = json!({"type":"Ready","status":"False","lastTransitionTime":rfc3339(NOW - 4)});
        let created = rfc3339(NOW - 9);
        assert_eq!(
            at(json!({"status":{"conditions":[ready],"containerStatuses":[
            {"state":{"terminated":{"finishedAt":rfc3339(NOW - 2)}}},{"state":{}}]}})),
            -4
        );
        assert_eq!(
            at(json!({"metadata":{"creationTimestamp":created,
                "deletionTimestamp":rfc3339(NOW + 20),"deletionGracePeriodSeconds":30}})),
            -10
        );
        assert_eq!(at(json!({"metadata":{"creationTimestamp":created}})), -9);
    }
}
