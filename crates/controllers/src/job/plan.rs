//! The next step of a Job: pure (`job_controller.go`, `indexed_job_utils.go`).

use std::{collections::BTreeSet, sync::Arc};

use crate::objects::{
    meta::Seconds,
    pod::{Phase, Pod},
    workload::Job,
};

/// Annotation and label: a pod's index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Failures borne when nothing is said.
const BACKOFF_LIMIT: i32 = 6;
/// Pause after a pod failed; doubled with each, s.
const PAUSE_S: i64 = 10;
/// Longest pause, s.
const PAUSE_MAX_S: i64 = 600;

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// all is done
    Complete,
    /// with reason and message
    Failed(&'static str, &'static str),
}

/// What to do now.
#[derive(Debug, Default)]
pub struct Plan {
    /// pods to make: with an index, if the job is indexed
    pub create: Vec<Option<i32>>,
    /// pods to delete
    pub delete: Vec<Arc<Pod>>,
    /// it's over
    pub end: Option<End>,
    /// look again after, s
    pub again_s: Option<i64>,
    /// pods that run or wait
    pub active: i32,
    /// of these, ready
    pub ready: i32,
    /// pods that ended well
    pub succeeded: i32,
    /// pods that failed
    pub failed: i32,
    /// indexes that are done
    pub done: BTreeSet<i32>,
}

/// Indexed completion mode.
pub fn indexed(job: &Job) -> bool {
    &*job.spec.completion_mode == "Indexed"
}

fn index(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.get(INDEX)?.parse().ok()
}

/// When the pod's failure was seen: not before it started.
fn failed_at(pod: &Pod) -> Seconds {
    pod.status
        .conditions
        .iter()
        .filter_map(|c| crate::objects::meta::parse_time(c.last_transition_time.as_deref()))
        .max()
        .or(pod.status.start_time)
        .or(pod.metadata.creation_timestamp)
        .unwrap_or(0)
}

/// The next step. Pods that ended stay until the job goes, so they are what's counted.
pub fn plan(job: &Job, pods: &[Arc<Pod>], now: Seconds) -> Plan {
    let mut p = Plan::default();
    let mut active: Vec<Arc<Pod>> = vec![];
    let mut last_failure = 0;
    let mut taken: BTreeSet<i32> = BTreeSet::new();
    for pod in pods {
        match pod.status.phase {
            Phase::Succeeded => {
                p.succeeded += 1;
                if let Some(i) = index(pod) {
                    p.done.insert(i);
                }
            }
            Phase::Failed => {
                p.failed += 1;
                last_failure = last_failure.max(failed_at(pod));
            }
            _ if pod.metadata.deleting() => {
                // its place is free when it's gone
                taken.extend(index(pod));
            }
            _ => {
                if pod.ready() {
                    p.ready += 1;
                }
                active.push(pod.clone());
            }
        }
    }
    let completions = job.spec.completions;
    // what was counted stays counted when its pod is deleted
    p.succeeded = p.succeeded.max(job.status.succeeded);
    p.failed = p.failed.max(job.status.failed);
    if indexed(job) {
        let n = completions.unwrap_or(0);
        p.done.extend(parse_ranges(&job.status.completed_indexes));
        p.done.retain(|i| (0..n).contains(i));
        p.succeeded = p.done.len() as i32;
        // one pod for an index
        active.retain(|pod| match index(pod) {
            Some(i) if (0..n).contains(&i) && !p.done.contains(&i) && taken.insert(i) => true,
            _ => {
                p.delete.push(pod.clone());
                false
            }
        });
    }
    p.active = active.len() as i32;
    let limit = job.spec.backoff_limit.unwrap_or(BACKOFF_LIMIT);
    let started = job.status.start_time;
    let deadline = job.spec.active_deadline_seconds;
    let late = matches!((started, deadline), (Some(s), Some(d)) if now - s >= d);
    p.end = match completions {
        Some(n) if p.succeeded >= n => Some(End::Complete),
        None if p.succeeded > 0 && p.active == 0 => Some(End::Complete),
        _ if p.failed > limit => Some(End::Failed(
            "BackoffLimitExceeded",
            "Job has reached the specified backoff limit",
        )),
        _ if late => Some(End::Failed(
            "DeadlineExceeded",
            "Job was active longer than specified deadline",
        )),
        _ => None,
    };
    if p.end.is_some() || job.spec.suspend {
        p.delete.append(&mut active);
        p.active = 0;
        p.ready = 0;
        return p;
    }
    let parallelism = job.spec.parallelism.unwrap_or(1).max(0);
    let wanted = match completions {
        Some(n) => parallelism.min(n - p.succeeded),
        // a work queue: when one is through, no more are started
        None if p.succeeded > 0 => p.active.min(parallelism),
        None => parallelism,
    };
    if p.active > wanted {
        // those that have done least
        active.sort_by_key(|x| (x.ready(), std::cmp::Reverse(x.metadata.creation_timestamp)));
        let too_many = (p.active - wanted) as usize;
        p.delete.extend(active.drain(..too_many));
    }
    if let (Some(s), Some(d)) = (started, deadline) {
        p.again_s = Some(s + d - now);
    }
    let missing = (wanted - p.active).max(0);
    if missing == 0 {
        return p;
    }
    if p.failed > 0 {
        let pause = PAUSE_S
            .saturating_mul(1i64 << (p.failed - 1).clamp(0, 20))
            .min(PAUSE_MAX_S);
        let left = last_failure + pause - now;
        if left > 0 {
            p.again_s = Some(p.again_s.map_or(left, |a| a.min(left)));
            return p;
        }
    }
    p.create = if indexed(job) {
        (0..completions.unwrap_or(0))
            .filter(|i| !taken.contains(i) && !p.done.contains(i))
            .take(missing as usize)
            .map(Some)
            .collect()
    } else {
        vec![None; missing as usize]
    };
    p
}

/// The indexes in `0,2-4`; what can't be read counts as not done.
fn parse_ranges(text: &str) -> impl Iterator<Item = i32> {
    text.split(',').flat_map(|part| {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        match (a.parse::<i32>(), b.parse::<i32>()) {
            (Ok(a), Ok(b)) if a >= 0 => a..b.saturating_add(1),
            _ => 0..0,
        }
    })
}

/// `0,2-4`, as the status has it.
pub fn ranges(all: &BTreeSet<i32>) -> String {
    let mut out: Vec<(i32, i32)> = vec![];
    for i in all {
        match out.last_mut() {
            Some((_, end)) if *end + 1 == *i => *end = *i,
            _ => out.push((*i, *i)),
        }
    }
    out.iter()
        .map(|(a, b)| match b - a {
            0 => a.to_string(),
            1 => format!("{a},{b}"),
            _ => format!("{a}-{b}"),
        })
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::meta::rfc3339;
    use serde_json::{Value, json};

    const NOW: Seconds = 1_700_000_000;

    fn job(extra: Value) -> Job {
        let mut spec = json!({"template":{}});
        for (k, v) in extra.as_object().unwrap() {
            spec[k] = v.clone();
        }
        serde_json::from_value(json!({"metadata":{"name":"j"},"spec":spec,
            "status":{"startTime":rfc3339(NOW - 100)}}))
        .unwrap()
    }
    /// `r` runs, `s` succeeded, `f` failed long ago, `F` failed just now, `t` terminating; a number is the index.
    fn pods(text: &str) -> Vec<Arc<Pod>> {
        text.split_whitespace()
            .map(|w| {
                let phase = match &w[..1] {
                    "s" => "Succeeded",
                    "f" | "F" => "Failed",
                    _ => "Running",
                };
                let ago = if w.starts_with('F') { 1 } else { 5000 };
                Arc::new(
                    serde_json::from_value(json!({
                        "metadata":{"name":w,"annotations":{INDEX:&w[1..]},
                            "deletionTimestamp":w.starts_with('t').then_some("2024-01-01T00:00:00Z")},
                        "status":{"phase":phase,"startTime":rfc3339(NOW - ago)}}))
                    .unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn next_step() {
        let n = |c: i32, p: i32| json!({"completions":c,"parallelism":p});
        let idx =
            |c: i32, p: i32| json!({"completions":c,"parallelism":p,"completionMode":"Indexed"});
        let cases = [
            ("first", n(1, 1), "", "+1"),
            ("runs", n(1, 1), "r", ""),
            ("done", n(1, 1), "s", "Complete"),
            ("parallel", n(5, 2), "", "+2"),
            ("next", n(5, 2), "s r", "+1"),
            ("no more than are missing", n(3, 3), "s s r", ""),
            ("queue", json!({"parallelism":2}), "", "+2"),
            ("queue: one is through", json!({"parallelism":2}), "s r", ""),
            ("queue: done", json!({"parallelism":2}), "s s", "Complete"),
            ("failed: waits", n(1, 1), "F", "wait"),
            ("failed: again", n(1, 1), "f", "+1"),
            (
                "limit",
                json!({"completions":1,"backoffLimit":1}),
                "f f",
                "BackoffLimitExceeded",
            ),
            (
                "limit ends the others",
                json!({"completions":3,"parallelism":3,"backoffLimit":0}),
                "f r r",
                "-2 BackoffLimitExceeded",
            ),
            (
                "deadline",
                json!({"completions":1,"activeDeadlineSeconds":100}),
                "r",
                "-1 DeadlineExceeded",
            ),
            (
                "before the deadline",
                json!({"completions":1,"activeDeadlineSeconds":101}),
                "r",
                "wait",
            ),
            (
                "suspended",
                json!({"completions":1,"suspend":true}),
                "r",
                "-1",
            ),
            ("fewer at a time", n(5, 1), "r r r", "-2"),
            ("indexes", idx(3, 2), "", "+0 +1"),
            ("next index", idx(3, 2), "s0 r1", "+2"),
            ("failed index again", idx(3, 3), "s0 r1 f2", "+2"),
            ("an index twice", idx(2, 2), "r0 r0 r1", "-1"),
            ("index that ends", idx(1, 1), "t0", ""),
            ("all indexes", idx(2, 2), "s0 s1 s1", "Complete"),
        ];
        for (name, spec, have, want) in cases {
            let p = plan(&job(spec.clone()), &pods(have), NOW);
            let mut got = vec![];
            if !p.delete.is_empty() {
                got.push(format!("-{}", p.delete.len()));
            }
            if spec.get("completionMode").is_some() {
                got.extend(p.create.iter().flatten().map(|i| format!("+{i}")));
            } else if !p.create.is_empty() {
                got.push(format!("+{}", p.create.len()));
            }
            match p.end {
                Some(End::Complete) => got.push("Complete".into()),
                Some(End::Failed(r, _)) => got.push(r.into()),
                None if p.again_s.is_some() => got.push("wait".into()),
                None => {}
            }
            assert_eq!(got.join(" "), want, "{name}");
        }
    }

    #[test]
    fn index_ranges() {
        for (all, want) in [
            (vec![], ""),
            (vec![0], "0"),
            (vec![0, 1], "0,1"),
            (vec![0, 2, 3, 4, 7], "0,2-4,7"),
        ] {
            let all: BTreeSet<i32> = all.into_iter().collect();
            assert_eq!(ranges(&all), want);
            assert_eq!(parse_ranges(want).collect::<BTreeSet<_>>(), all);
        }
    }
}
