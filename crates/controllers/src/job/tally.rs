//! Counting each pod's end once, whatever is interrupted: its uid goes into the status, then its finalizer goes, then the uid becomes part of the count (`trackJobStatusAndRemoveFinalizers`). Pure.

use std::{collections::HashSet, sync::Arc};

use super::{
    policy::Meaning,
    survey::{Given, Survey, failed, index, indexed, meaning, tracked},
};
use crate::{
    machinery::status::{self, condition},
    objects::{
        batch::{Job, JobStatus},
        meta::{Condition, Seconds, rfc3339},
        pod::{Phase, Pod},
    },
};

/// Uids in a status at most.
const UNCOUNTED_MAX: usize = 500;

/// What follows from the pods that ended.
pub struct Tally {
    /// the status to write before finalizers go
    pub status: JobStatus,
    /// pods whose finalizer may then go
    pub release: Vec<Arc<Pod>>,
    /// there are more than one pass takes
    pub more: bool,
    /// pods with a finalizer
    held: HashSet<Box<str>>,
}

/// Uids whose pods have no finalizer any more become part of the counts.
fn count(status: &mut JobStatus, held: &HashSet<Box<str>>) {
    let take = |uids: &mut Vec<Box<str>>, n: &mut i32| {
        let before = uids.len();
        uids.retain(|uid| held.contains(uid));
        *n += (before - uids.len()) as i32;
    };
    let mut uncounted = std::mem::take(&mut status.uncounted_terminated_pods);
    take(&mut uncounted.succeeded, &mut status.succeeded);
    take(&mut uncounted.failed, &mut status.failed);
    status.uncounted_terminated_pods = uncounted;
}

/// Sets a condition; one that is as it should be stays.
pub fn set(conditions: &mut Vec<Condition>, new: Condition) {
    let same = status::find(conditions, &new.kind).is_some_and(|c| {
        c.status == new.status && c.reason == new.reason && c.message == new.message
    });
    if same {
        return;
    }
    match conditions.iter_mut().find(|c| c.kind == new.kind) {
        Some(c) => *c = new,
        None => conditions.push(new),
    }
}

/// First step. `status` has the numbers of the survey.
pub fn tally(given: &Given, s: &Survey, mut status: JobStatus) -> Tally {
    let job = given.job;
    let mut pods: Vec<&Arc<Pod>> = given.pods.iter().collect();
    if indexed(job) {
        pods.sort_by_key(|p| index(p));
    }
    let mut held: HashSet<Box<str>> = HashSet::new();
    for pod in &pods {
        if tracked(pod, given.released) {
            held.insert(pod.metadata.uid.clone());
        }
    }
    count(&mut status, &held);
    let completions = job.spec.completions.unwrap_or(0);
    let ends_badly = s.finish.as_ref().is_some_and(|f| !f.well);
    let mut release = vec![];
    let mut new_indexes = 0;
    let mut more = false;
    for pod in pods {
        if !tracked(pod, given.released) {
            continue;
        }
        let fell = failed(job, pod);
        let succeeded = pod.status.phase == Phase::Succeeded;
        let over = job.metadata.deleting() || s.finish.is_some();
        let kept = s.indexed.as_ref().is_some_and(|i| {
            let kept = index(pod).and_then(|n| i.kept.get(&n));
            kept.is_some_and(|k| k.metadata.uid == pod.metadata.uid)
        });
        if !over && !succeeded && (!fell || kept) {
            continue;
        }
        release.push(pod.clone());
        let uid = &pod.metadata.uid;
        let uncounted = &mut status.uncounted_terminated_pods;
        let its = index(pod).filter(|i| *i < completions);
        let known_failed = uncounted.failed.contains(uid);
        if succeeded && !known_failed {
            match &s.indexed {
                Some(i) => {
                    new_indexes += usize::from(its.is_some_and(|n| !i.before.has(n)));
                }
                None if !uncounted.succeeded.contains(uid) => {
                    uncounted.succeeded.push(uid.clone());
                }
                None => {}
            }
        } else if (fell || ends_badly)
            && !known_failed
            && (!indexed(job) || its.is_some())
            && meaning(job, pod) != Meaning::Ignored
        {
            uncounted.failed.push(uid.clone());
        }
        if new_indexes + uncounted.succeeded.len() + uncounted.failed.len() >= UNCOUNTED_MAX {
            more = true;
            break;
        }
    }
    if let Some(i) = &s.indexed {
        status.succeeded = i.succeeded.total();
        status.completed_indexes = i.succeeded.to_string().into();
        status.failed_indexes = i.failed.as_ref().map(|f| f.to_string().into());
    }
    if let Some(f) = &s.finish {
        let kind = if f.well {
            "SuccessCriteriaMet"
        } else {
            "FailureTarget"
        };
        if status::find(&status.conditions, kind).is_none() {
            let new = condition(kind, "True", &f.reason, f.message.clone());
            status.conditions.push(new);
        }
    }
    Tally {
        status,
        release,
        more,
        held,
    }
}

impl Tally {
    /// Second step, when the finalizers of these have gone: the counts, and the end if all has ended. True: the job is through.
    pub fn settle(
        &mut self,
        s: &Survey,
        released: impl Iterator<Item = Box<str>>,
        now: Seconds,
    ) -> bool {
        for uid in released {
            self.held.remove(&uid);
        }
        count(&mut self.status, &self.held);
        let status = &mut self.status;
        let uncounted = &status.uncounted_terminated_pods;
        let open = !uncounted.succeeded.is_empty() || !uncounted.failed.is_empty();
        let Some(f) = s.finish.as_ref().filter(|_| !open && !self.more) else {
            return false;
        };
        if status.terminating.unwrap_or(0) > 0 {
            return false;
        }
        let kind = if f.well { "Complete" } else { "Failed" };
        let mut end = condition(kind, "True", &f.reason, f.message.clone());
        end.last_transition_time = Some(rfc3339(now).into());
        set(&mut status.conditions, end);
        if f.well {
            status.completion_time = Some(now);
        }
        true
    }
}

/// More succeeded than were asked for.
pub fn surplus(job: &Job, status: &JobStatus) -> bool {
    job.spec.completions.is_some_and(|n| status.succeeded > n)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            TRACKING,
            backoff::Backoff,
            survey::{Finish, INDEX, survey},
        },
        *,
    };
    use serde_json::{Value, json};

    const NOW: Seconds = 1_700_000_000;

    fn pod(uid: &str, phase: &str, index: i32) -> Arc<Pod> {
        let pod = json!({"metadata":{"name":uid,"uid":uid,"finalizers":[TRACKING],
            "annotations":{INDEX:index.to_string()}},"status":{"phase":phase}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    /// Counts in both steps: `succeeded failed [uncounted]`.
    #[track_caller]
    fn check(spec: Value, status: Value, finish: Option<bool>, gone: &[&str], want: [&str; 2]) {
        let job: Job =
            serde_json::from_value(json!({"metadata":{"name":"j"},"spec":spec,"status":status}))
                .unwrap();
        let pods = [
            pod("a", "Succeeded", 0),
            pod("b", "Failed", 1),
            pod("c", "Running", 2),
        ];
        let given = Given {
            job: &job,
            pods: &pods,
            released: &HashSet::new(),
            backoff: Backoff::default(),
            settled: true,
            now: NOW,
        };
        let mut s = survey(&given);
        s.finish = finish.map(|well| Finish {
            well,
            reason: "Why".into(),
            message: "why".into(),
        });
        let mut t = tally(&given, &s, job.status.clone());
        let show = |t: &JobStatus| {
            let mut uids = t.uncounted_terminated_pods.succeeded.clone();
            uids.extend(t.uncounted_terminated_pods.failed.iter().cloned());
            format!("{} {} [{}]", t.succeeded, t.failed, uids.join(" "))
        };
        let first = show(&t.status);
        let names: Vec<_> = t.release.iter().map(|p| &*p.metadata.uid).collect();
        let all: &[&str] = if finish.is_some() {
            &["a", "b", "c"]
        } else {
            &["a", "b"]
        };
        assert_eq!(names, all);
        let through = t.settle(&s, gone.iter().map(|g| (*g).into()), NOW);
        let end = t
            .status
            .conditions
            .iter()
            .map(|c| format!(" {}", c.kind))
            .collect::<String>();
        let second = format!(
            "{}{}{end}",
            show(&t.status),
            if through { " through" } else { "" }
        );
        assert_eq!([&*first, &*second], want);
    }

    #[test]
    fn each_end_is_counted_once() {
        let spec = json!({"template":{},"completions":3});
        check(
            spec.clone(),
            json!({}),
            None,
            &["a", "b"],
            ["0 0 [a b]", "1 1 []"],
        );
        // a finalizer that couldn't be taken: the next pass counts it
        check(
            spec.clone(),
            json!({"succeeded":4}),
            None,
            &["a"],
            ["4 0 [a b]", "5 0 [b]"],
        );
        let known = json!({"uncountedTerminatedPods":{"succeeded":["a"],"failed":["x"]}});
        check(
            spec.clone(),
            known,
            None,
            &["a", "b"],
            ["0 1 [a b]", "1 2 []"],
        );
        check(
            spec.clone(),
            json!({}),
            Some(false),
            &["a", "b", "c"],
            ["0 0 [a b c]", "1 2 [] through FailureTarget Failed"],
        );
        check(
            spec.clone(),
            json!({}),
            Some(true),
            &["a", "b", "c"],
            ["0 0 [a b]", "1 1 [] through SuccessCriteriaMet Complete"],
        );
        // pods on their way out hold up the end
        check(
            spec.clone(),
            json!({"terminating":1}),
            Some(true),
            &["a", "b", "c"],
            ["0 0 [a b]", "1 1 [] SuccessCriteriaMet"],
        );
        let indexed = json!({"template":{},"completions":3,"completionMode":"Indexed"});
        check(indexed, json!({}), None, &["a", "b"], ["1 0 [b]", "1 1 []"]);
    }
}
