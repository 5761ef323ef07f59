//! How a Job stands, and the next step: pure (`syncJob` and `manageJob` of `job_controller.go`).

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use super::{
    INDEX_FAILURES, INDEX_FAILURES_IGNORED, TRACKING,
    backoff::{self, Backoff, finished},
    indexes::Indexes,
    policy::{self, Meaning},
};
use crate::{
    machinery::status,
    objects::{
        batch::Job,
        meta::Seconds,
        pod::{Phase, Pod},
    },
    replicaset::ranking::rank,
};

/// Annotation and label: a pod's index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Failures borne when nothing is said.
const BACKOFF_LIMIT: i32 = 6;
/// Pods made or deleted in a pass.
const PASS_MAX: usize = 500;

/// Why a job is over, though pods may still be on their way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finish {
    /// it succeeded
    pub well: bool,
    /// one word
    pub reason: String,
    /// for people
    pub message: String,
}

impl Finish {
    fn failed(reason: &str, message: &str) -> Finish {
        Finish {
            well: false,
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// A pod to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Create {
    /// of an indexed job
    pub index: Option<i32>,
    /// failures of the index that counted, and that didn't; for a job with a limit for each index
    pub failures: Option<(i32, i32)>,
}

/// What to do with pods.
#[derive(Debug, Default)]
pub enum Action {
    /// nothing
    #[default]
    None,
    /// it's over: what runs is ended, and counted when it has
    End(Vec<Arc<Pod>>),
    /// there are too many: these go and aren't counted
    Delete(Vec<Arc<Pod>>),
    /// there are too few
    Create(Vec<Create>),
}

/// State of an indexed job.
#[derive(Debug, Default)]
pub struct Indexed {
    /// done, as the status has it
    pub before: Indexes,
    /// done
    pub succeeded: Indexes,
    /// failed, for a job with a limit for each
    pub failed: Option<Indexes>,
    /// failed pods that stay until they are replaced, since they carry their index's count
    pub kept: BTreeMap<i32, Arc<Pod>>,
}

/// How a job stands.
#[derive(Debug, Default)]
pub struct Survey {
    /// pods that run or wait
    pub active: i32,
    /// of these, ready
    pub ready: i32,
    /// pods on their way out
    pub terminating: i32,
    /// that ended well
    pub succeeded: i32,
    /// indexes
    pub indexed: Option<Indexed>,
    /// it's over
    pub finish: Option<Finish>,
    /// with the pods that ended now
    pub backoff: Backoff,
    /// what to do
    pub action: Action,
    /// look again after, s
    pub again_s: Option<i64>,
}

/// What a survey starts from.
pub struct Given<'a> {
    /// the job
    pub job: &'a Job,
    /// its pods
    pub pods: &'a [Arc<Pod>],
    /// uids of pods whose finalizer is gone, which the cache may not show yet
    pub released: &'a HashSet<Box<str>>,
    /// earlier failures
    pub backoff: Backoff,
    /// all that was asked for has been seen
    pub settled: bool,
    /// now
    pub now: Seconds,
}

/// Indexed completion mode.
pub fn indexed(job: &Job) -> bool {
    &*job.spec.completion_mode == "Indexed"
}

/// A pod's index.
pub fn index(pod: &Pod) -> Option<i32> {
    let index = pod.metadata.annotations.get(INDEX)?.parse().ok()?;
    (index >= 0).then_some(index)
}

/// Its end is still to be counted.
pub fn tracked(pod: &Pod, released: &HashSet<Box<str>>) -> bool {
    pod.metadata.finalizers.iter().any(|f| &**f == TRACKING)
        && !released.contains(&pod.metadata.uid)
}

/// A pod is replaced when it has failed, not when it is on its way out.
fn replaces_failed_alone(job: &Job) -> bool {
    &*job.spec.pod_replacement_policy == "Failed" || job.spec.pod_failure_policy.is_some()
}

/// It failed, or counts as failed because it goes.
pub fn failed(job: &Job, pod: &Pod) -> bool {
    match pod.status.phase {
        Phase::Failed => true,
        Phase::Succeeded => false,
        _ => pod.metadata.deleting() && !replaces_failed_alone(job),
    }
}

/// What its failure means.
pub fn meaning(job: &Job, pod: &Pod) -> Meaning {
    policy::meaning(job.spec.pod_failure_policy.as_deref(), pod)
}

fn count(pod: &Pod, annotation: &str) -> i32 {
    let value = pod.metadata.annotations.get(annotation);
    let n = value.and_then(|v| v.parse().ok()).unwrap_or(0);
    i32::max(n, 0)
}

/// All failures of its index.
fn failures(pod: &Pod) -> i32 {
    count(pod, INDEX_FAILURES) + count(pod, INDEX_FAILURES_IGNORED)
}

fn index_failed(job: &Job, pod: &Pod, limit: i32) -> bool {
    failed(job, pod)
        && match meaning(job, pod) {
            Meaning::FailsIndex => true,
            Meaning::Ignored => false,
            _ => count(pod, INDEX_FAILURES) >= limit,
        }
}

/// The end that the status already tells of.
fn finish_before(job: &Job) -> Option<Finish> {
    ["SuccessCriteriaMet", "FailureTarget"]
        .iter()
        .find_map(|kind| {
            let c = status::find(&job.status.conditions, kind)?;
            (&*c.status == "True").then(|| Finish {
                well: *kind == "SuccessCriteriaMet",
                reason: c.reason.to_string(),
                message: c.message.to_string(),
            })
        })
}

/// Restarts in place above the limit, of pods that restart on failure.
fn too_many_restarts(job: &Job, pods: &[Arc<Pod>], limit: i32) -> bool {
    let restarts: i32 = pods
        .iter()
        .filter(|p| !p.terminal())
        .flat_map(|p| {
            let s = &p.status;
            s.container_statuses
                .iter()
                .chain(&s.init_container_statuses)
        })
        .map(|c| c.restart_count)
        .sum();
    restarts > 0
        && restarts >= limit
        && job.spec.template.value()["spec"]["restartPolicy"] == "OnFailure"
}

/// How it stands now, and the next step.
pub fn survey(given: &Given) -> Survey {
    let Given { job, pods, now, .. } = *given;
    let spec = &job.spec;
    let completions = spec.completions;
    let mut active: Vec<Arc<Pod>> = pods.iter().filter(|p| p.active()).cloned().collect();
    let mut s = Survey {
        active: active.len() as i32,
        ready: active.iter().filter(|p| p.ready()).count() as i32,
        terminating: pods
            .iter()
            .filter(|p| p.metadata.deleting() && !p.terminal())
            .count() as i32,
        ..Default::default()
    };
    let counted = &job.status.uncounted_terminated_pods;
    let counts = |pod: &Pod, before: &[Box<str>]| {
        let in_range =
            !indexed(job) || index(pod).is_some_and(|i| i < completions.unwrap_or(i32::MAX));
        tracked(pod, given.released) && in_range && !before.contains(&pod.metadata.uid)
    };
    let ended: Vec<Arc<Pod>> = pods
        .iter()
        .filter(|p| p.status.phase == Phase::Succeeded && counts(p, &counted.succeeded))
        .cloned()
        .collect();
    let fell: Vec<Arc<Pod>> = pods
        .iter()
        .filter(|p| failed(job, p) && counts(p, &counted.failed))
        .cloned()
        .collect();
    s.succeeded = job.status.succeeded + ended.len() as i32 + counted.succeeded.len() as i32;
    let not_ignored = fell.iter().filter(|p| meaning(job, p) != Meaning::Ignored);
    let all_failed = job.status.failed + not_ignored.count() as i32 + counted.failed.len() as i32;
    s.backoff = given.backoff.with(&ended, &fell);

    let limit = spec.backoff_limit.unwrap_or(BACKOFF_LIMIT);
    s.finish = finish_before(job).or_else(|| {
        let message = pods
            .iter()
            .filter(|p| failed(job, p))
            .find_map(|p| match meaning(job, p) {
                Meaning::FailsJob(message) => Some(message),
                _ => None,
            });
        message.map(|m| Finish::failed("PodFailurePolicy", &m))
    });
    if s.finish.is_none() && (all_failed > limit || too_many_restarts(job, pods, limit)) {
        s.finish = Some(Finish::failed(
            "BackoffLimitExceeded",
            "Job has reached the specified backoff limit",
        ));
    }
    if let (None, Some(deadline), false) = (&s.finish, spec.active_deadline_seconds, spec.suspend) {
        let left = job.status.start_time.unwrap_or(now) + deadline - now;
        if left <= 0 {
            s.finish = Some(Finish::failed(
                "DeadlineExceeded",
                "Job was active longer than specified deadline",
            ));
        } else {
            s.again_s = Some(left);
        }
    }
    if indexed(job) {
        let all = completions.unwrap_or(0);
        s.indexed = Some(survey_indexes(given, all, &active));
        if let Some(i) = &s.indexed {
            s.succeeded = i.succeeded.total();
            if s.finish.is_none() {
                s.finish = finish_of_indexes(job, all, i);
            }
        }
    }
    if s.finish.is_some() {
        s.action = Action::End(active);
        return s;
    }
    if given.settled && !job.metadata.deleting() {
        rank(&mut active, &[], now);
        s.action = manage(given, &mut s, active);
    }
    s
}

fn survey_indexes(given: &Given, all: i32, active: &[Arc<Pod>]) -> Indexed {
    let job = given.job;
    let of = |f: &dyn Fn(&Pod) -> bool| {
        let pods = given.pods.iter();
        let pods = pods.filter(|p| tracked(p, given.released) && f(p));
        Indexes::of(pods.filter_map(|p| index(p)).filter(|i| *i < all))
    };
    let before = Indexes::parse(&job.status.completed_indexes, all);
    let succeeded = before.and(&of(&|p| p.status.phase == Phase::Succeeded));
    let mut found = Indexed {
        before,
        succeeded,
        ..Default::default()
    };
    let Some(limit) = job.spec.backoff_limit_per_index else {
        return found;
    };
    let before = job.status.failed_indexes.as_deref().unwrap_or("");
    let failed_indexes = Indexes::parse(before, all).and(&of(&|p| index_failed(job, p, limit)));
    let running: BTreeSet<i32> = active.iter().filter_map(|p| index(p)).collect();
    for pod in given.pods {
        let Some(i) = index(pod).filter(|i| *i < all) else {
            continue;
        };
        if !tracked(pod, given.released)
            || !failed(job, pod)
            || found.succeeded.has(i)
            || failed_indexes.has(i)
            || running.contains(&i)
        {
            continue;
        }
        let newer = found
            .kept
            .get(&i)
            .is_none_or(|kept| failures(kept) <= failures(pod) && finished(pod) >= finished(kept));
        if newer {
            found.kept.insert(i, pod.clone());
        }
    }
    found.failed = Some(failed_indexes);
    found
}

fn finish_of_indexes(job: &Job, all: i32, indexes: &Indexed) -> Option<Finish> {
    let spec = &job.spec;
    if let Some(failed) = &indexes.failed {
        let n = failed.total();
        if spec.max_failed_indexes.is_some_and(|max| n > max) {
            return Some(Finish::failed(
                "MaxFailedIndexesExceeded",
                "Job has exceeded the specified maximal number of failed indexes",
            ));
        }
        if n > 0 && n + indexes.succeeded.total() >= all {
            return Some(Finish::failed("FailedIndexes", "Job has failed indexes"));
        }
    }
    let met = policy::success(spec.success_policy.as_deref(), all, &indexes.succeeded)?;
    Some(Finish {
        well: true,
        reason: "SuccessPolicy".into(),
        message: met,
    })
}

/// Of `active`, in the order in which they'd go, those that go when at least so many must: duplicates of an index and indexes out of range first.
fn too_many(job: &Job, active: Vec<Arc<Pod>>, at_least: usize) -> Vec<Arc<Pod>> {
    let (mut go, mut left) = (vec![], vec![]);
    if indexed(job) {
        let all = job.spec.completions.unwrap_or(0);
        let mut seen = BTreeSet::new();
        // of two with an index the one that would go last stays
        for pod in active.into_iter().rev() {
            match index(&pod) {
                Some(i) if i < all && seen.insert(i) => left.push(pod),
                _ => go.push(pod),
            }
        }
        left.reverse();
    } else {
        left = active;
    }
    let more = at_least.saturating_sub(go.len());
    go.extend(left.into_iter().take(more));
    go
}

/// Makes up for what is missing or too many.
fn manage(given: &Given, s: &mut Survey, active: Vec<Arc<Pod>>) -> Action {
    let Given { job, now, .. } = *given;
    let spec = &job.spec;
    if spec.suspend {
        return match active.is_empty() {
            true => Action::None,
            false => Action::Delete(active),
        };
    }
    let parallelism = spec.parallelism.unwrap_or(1).max(0);
    let wanted = match spec.completions {
        Some(n) => parallelism.min(n - s.succeeded).max(0),
        // a work queue: when one is through, no more are started
        None if s.succeeded > 0 => s.active,
        None => parallelism,
    };
    let running: Vec<i32> = active.iter().filter_map(|p| index(p)).collect();
    let mut go = too_many(job, active, (s.active - wanted).max(0) as usize);
    go.truncate(PASS_MAX);
    if !go.is_empty() {
        return Action::Delete(go);
    }
    let replacing = replaces_failed_alone(job);
    let leaving = if replacing { s.terminating } else { 0 };
    let missing = (wanted - leaving - s.active).max(0) as usize;
    let missing = missing.min(PASS_MAX);
    if missing == 0 {
        return Action::None;
    }
    let mut wait = |left: i64| {
        s.again_s = Some(s.again_s.map_or(left, |a| a.min(left)));
        Action::None
    };
    let each = spec.backoff_limit_per_index.is_some();
    let left = s.backoff.left(now);
    if !each && left > 0 {
        return wait(left);
    }
    let Some(indexes) = &s.indexed else {
        return Action::Create(vec![Create::default(); missing]);
    };
    let all = spec.completions.unwrap_or(0);
    let mut taken = indexes.succeeded.and(&Indexes::of(running));
    if replacing {
        let leaving = given.pods.iter();
        let leaving = leaving.filter(|p| p.metadata.deleting() && !p.terminal());
        taken = taken.and(&Indexes::of(leaving.filter_map(|p| index(p))));
    }
    if let Some(failed) = &indexes.failed {
        taken = taken.and(failed);
    }
    let due = taken.missing(missing, all).into_iter().map(|i| {
        let kept = indexes.kept.get(&i).filter(|_| each);
        let pause = kept.map_or(0, |p| backoff::left(failures(p) + 1, finished(p), now));
        let failures = each.then(|| {
            kept.map_or((0, 0), |p| {
                let counts = i32::from(meaning(job, p) != Meaning::Ignored);
                (
                    count(p, INDEX_FAILURES) + counts,
                    count(p, INDEX_FAILURES_IGNORED) + 1 - counts,
                )
            })
        });
        (
            pause,
            Create {
                index: Some(i),
                failures,
            },
        )
    });
    let (now_due, later): (Vec<_>, Vec<_>) = due.partition(|(pause, _)| *pause == 0);
    match later.iter().map(|(pause, _)| *pause).min() {
        Some(left) if now_due.is_empty() => wait(left),
        _ => Action::Create(now_due.into_iter().map(|(_, c)| c).collect()),
    }
}

#[cfg(test)]
mod tests;
