//! Status and conditions of a Deployment (`progress.go`, `sync.go`).

use std::sync::Arc;

use super::size;
use crate::{
    machinery::{
        status::{self, find, remove, set},
        work::Next,
    },
    objects::{
        meta::{Condition, Seconds, now, parse_time},
        workload::{Deployment, DeploymentStatus, ReplicaSet},
    },
};

pub const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
pub const NEW_SET: &str = "NewReplicaSetCreated";
pub const FOUND_NEW_SET: &str = "FoundNewReplicaSet";
pub const FAILED_CREATE: &str = "ReplicaSetCreateError";
const SET_UPDATED: &str = "ReplicaSetUpdated";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";

/// A deadline is set.
pub fn has_deadline(d: &Deployment) -> bool {
    d.spec
        .progress_deadline_seconds
        .is_some_and(|s| s != i32::MAX)
}

/// A condition as of now.
pub fn condition(kind: &str, status: &str, reason: &str, message: String) -> Condition {
    let mut c = status::condition(kind, status, reason, message);
    c.last_update_time = c.last_transition_time.clone();
    c
}

/// Notes a pause or its end, so that the time in it doesn't count as lack of progress.
pub fn note_pause(d: &Deployment, s: &mut DeploymentStatus) {
    if !has_deadline(d) {
        return;
    }
    let (timed_out, paused) = match find(&s.conditions, PROGRESSING) {
        Some(c) => (&*c.reason == TIMED_OUT, &*c.reason == PAUSED),
        None => (false, false),
    };
    if timed_out || paused == d.spec.paused {
        return;
    }
    let (reason, message) = if d.spec.paused {
        (PAUSED, "Deployment is paused")
    } else {
        (RESUMED, "Deployment is resumed")
    };
    set(
        &mut s.conditions,
        condition(PROGRESSING, "Unknown", reason, message.into()),
    );
}

/// Pods that go away; None when a set that has been looked at doesn't say.
fn terminating(all: &[Arc<ReplicaSet>]) -> Option<i32> {
    all.iter()
        .filter(|s| s.status.observed_generation != 0 || s.status.terminating_replicas.is_some())
        .map(|s| s.status.terminating_replicas)
        .sum()
}

/// Counts, and whether enough is available (`calculateStatus`). `before` has the conditions so far.
pub fn count(
    d: &Deployment,
    before: &DeploymentStatus,
    all: &[Arc<ReplicaSet>],
    new: Option<&ReplicaSet>,
) -> DeploymentStatus {
    let sum = |f: fn(&ReplicaSet) -> i32| all.iter().map(|s| f(s)).sum::<i32>();
    let available = sum(|s| s.status.available_replicas);
    let wanted = sum(|s| s.spec.replicas);
    let mut s = DeploymentStatus {
        observed_generation: d.metadata.generation,
        replicas: sum(|s| s.status.replicas),
        updated_replicas: new.map_or(0, |s| s.status.replicas),
        ready_replicas: sum(|s| s.status.ready_replicas),
        available_replicas: available,
        unavailable_replicas: (wanted - available).max(0),
        terminating_replicas: terminating(all),
        collision_count: before.collision_count,
        conditions: before.conditions.clone(),
    };
    let enough = available >= d.spec.replicas - size::max_unavailable(&d.spec);
    let c = if enough {
        condition(
            AVAILABLE,
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.".into(),
        )
    } else {
        condition(
            AVAILABLE,
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.".into(),
        )
    };
    set(&mut s.conditions, c);
    s
}

/// Status during a rollout: counts, and how it goes (`syncRolloutStatus`).
pub fn rollout(
    d: &Deployment,
    before: &DeploymentStatus,
    all: &[Arc<ReplicaSet>],
    new: Option<&ReplicaSet>,
) -> DeploymentStatus {
    let mut s = count(d, before, all, new);
    let deadline = has_deadline(d);
    if !deadline {
        remove(&mut s.conditions, PROGRESSING);
    }
    let current = find(&before.conditions, PROGRESSING).cloned();
    let was_complete = s.replicas == s.updated_replicas
        && current
            .as_ref()
            .is_some_and(|c| &*c.reason == NEW_SET_AVAILABLE);
    if deadline && !was_complete {
        let what = match new {
            Some(n) => format!("ReplicaSet {:?}", &*n.metadata.name),
            None => format!("Deployment {:?}", &*d.metadata.name),
        };
        if complete(d, &s) {
            let message = format!("{what} has successfully progressed.");
            set(
                &mut s.conditions,
                condition(PROGRESSING, "True", NEW_SET_AVAILABLE, message),
            );
        } else if progressed(&d.status, &s) {
            let message = format!("{what} is progressing.");
            let mut c = condition(PROGRESSING, "True", SET_UPDATED, message);
            if let Some(old) = &current {
                if &*old.status == "True" {
                    c.last_transition_time = old.last_transition_time.clone();
                }
                // also when nothing but the time changes: the deadline counts from here
                remove(&mut s.conditions, PROGRESSING);
            }
            set(&mut s.conditions, c);
        } else if timed_out(d, current.as_ref(), now()) {
            let message = format!("{what} has timed out progressing.");
            set(
                &mut s.conditions,
                condition(PROGRESSING, "False", TIMED_OUT, message),
            );
        }
    }
    let failure = new
        .and_then(|n| find(&n.status.conditions, REPLICA_FAILURE))
        .or_else(|| {
            all.iter()
                .find_map(|r| find(&r.status.conditions, REPLICA_FAILURE))
        });
    match failure {
        Some(c) => {
            let mut c = c.clone();
            c.last_update_time = c.last_transition_time.clone();
            set(&mut s.conditions, c);
        }
        None => remove(&mut s.conditions, REPLICA_FAILURE),
    }
    s
}

fn complete(d: &Deployment, s: &DeploymentStatus) -> bool {
    size::complete(d, s.updated_replicas, s.replicas, s.available_replicas)
        && s.observed_generation >= d.metadata.generation
}

fn progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let outdated = |s: &DeploymentStatus| s.replicas - s.updated_replicas;
    new.updated_replicas > old.updated_replicas
        || outdated(new) < outdated(old)
        || new.ready_replicas > old.ready_replicas
        || new.available_replicas > old.available_replicas
}

fn timed_out(d: &Deployment, current: Option<&Condition>, now: Seconds) -> bool {
    let Some(c) = current else {
        return false;
    };
    if &*c.reason == NEW_SET_AVAILABLE {
        return false;
    }
    if &*c.reason == TIMED_OUT {
        return true;
    }
    left_s(d, c, now).is_some_and(|left| left < 0)
}

/// Seconds until the deadline.
fn left_s(d: &Deployment, c: &Condition, now: Seconds) -> Option<i64> {
    let from = parse_time(
        c.last_update_time
            .as_deref()
            .or(c.last_transition_time.as_deref()),
    )?;
    Some(from + i64::from(d.spec.progress_deadline_seconds?) - now)
}

/// When the deadline should be looked at again (`requeueStuckDeployment`).
pub fn deadline(d: &Deployment, s: &DeploymentStatus) -> Next {
    let Some(c) = find(&s.conditions, PROGRESSING) else {
        return Next::Wait;
    };
    if !has_deadline(d) || d.spec.paused || complete(d, s) || &*c.reason == TIMED_OUT {
        return Next::Wait;
    }
    match left_s(d, c, now()) {
        Some(left) => Next::after_s(left.max(0) + 1),
        None => Next::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::meta::rfc3339;

    fn deployment(progressing: Option<(&str, &str, i64)>) -> Deployment {
        let conditions: Vec<_> = progressing
            .iter()
            .map(|(status, reason, ago)| {
                serde_json::json!({"type":"Progressing","status":status,"reason":reason,
                    "lastUpdateTime":rfc3339(now() - ago),"lastTransitionTime":rfc3339(now() - ago)})
            })
            .collect();
        serde_json::from_value(serde_json::json!({
            "metadata":{"name":"web","generation":2},
            "spec":{"replicas":2,"template":{},"progressDeadlineSeconds":60},
            "status":{"replicas":1,"updatedReplicas":1,"availableReplicas":1,"conditions":conditions}}))
        .unwrap()
    }
    fn set_of(replicas: i32, available: i32) -> Arc<ReplicaSet> {
        Arc::new(
            serde_json::from_value(serde_json::json!({"metadata":{"name":"web-1"},
                "spec":{"replicas":2,"template":{}},
                "status":{"replicas":replicas,"availableReplicas":available,"readyReplicas":available}}))
            .unwrap(),
        )
    }

    #[test]
    fn how_a_rollout_goes() {
        for (name, current, replicas, available, want) in [
            (
                "done",
                Some(("True", "ReplicaSetUpdated", 5)),
                2,
                2,
                "True NewReplicaSetAvailable ReplicaSet \"web-1\" has successfully progressed.",
            ),
            (
                "moved on",
                Some(("True", "NewReplicaSetCreated", 5)),
                2,
                1,
                "True ReplicaSetUpdated ReplicaSet \"web-1\" is progressing.",
            ),
            (
                "no move, in time",
                Some(("True", "NewReplicaSetCreated", 5)),
                1,
                0,
                "True NewReplicaSetCreated ",
            ),
            (
                "too late",
                Some(("True", "NewReplicaSetCreated", 100)),
                1,
                0,
                "False ProgressDeadlineExceeded ReplicaSet \"web-1\" has timed out progressing.",
            ),
            (
                "stays too late",
                Some(("False", "ProgressDeadlineExceeded", 1)),
                1,
                0,
                "False ProgressDeadlineExceeded ",
            ),
            ("not started", None, 1, 0, ""),
        ] {
            let d = deployment(current);
            let rs = set_of(replicas, available);
            let s = rollout(&d, &d.status, std::slice::from_ref(&rs), Some(&rs));
            let got = find(&s.conditions, PROGRESSING).map_or(String::new(), |c| {
                format!("{} {} {}", c.status, c.reason, c.message)
            });
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn availability_and_counts() {
        let d = deployment(None);
        let s = count(&d, &d.status, &[set_of(2, 1)], None);
        // 25 % of 2 rounds down to 0
        assert_eq!(&*find(&s.conditions, AVAILABLE).unwrap().status, "False");
        assert_eq!(
            (s.replicas, s.available_replicas, s.unavailable_replicas),
            (2, 1, 1)
        );
        let s = count(&d, &s, &[set_of(2, 2)], None);
        assert_eq!(
            &*find(&s.conditions, AVAILABLE).unwrap().reason,
            "MinimumReplicasAvailable"
        );
    }

    #[test]
    fn pause_and_resume() {
        let mut d = deployment(None);
        let mut s = d.status.clone();
        d.spec.paused = true;
        note_pause(&d, &mut s);
        assert_eq!(&*s.conditions[0].reason, "DeploymentPaused");
        d.spec.paused = false;
        note_pause(&d, &mut s);
        assert_eq!(&*s.conditions[0].reason, "DeploymentResumed");
        let mut late = deployment(Some(("False", TIMED_OUT, 1)));
        late.spec.paused = true;
        let mut s = late.status.clone();
        note_pause(&late, &mut s);
        assert_eq!(&*s.conditions[0].reason, TIMED_OUT);
    }
}
