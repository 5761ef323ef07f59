use super::*;
use crate::objects::meta::rfc3339;
use serde_json::{Value, json};

const NOW: Seconds = 1_700_000_000;

fn job(extra: &Value) -> Job {
    let mut spec = json!({"template":{}});
    let mut status = json!({"startTime":rfc3339(NOW - 100)});
    for (k, v) in extra.as_object().unwrap() {
        let into = if k == "status" {
            &mut status
        } else {
            &mut spec
        };
        match k.as_str() {
            "status" => v
                .as_object()
                .unwrap()
                .iter()
                .for_each(|(k, v)| into[k] = v.clone()),
            _ => into[k] = v.clone(),
        }
    }
    serde_json::from_value(json!({"metadata":{"name":"j"},"spec":spec,"status":status})).unwrap()
}
/// `r` runs, `s` succeeded, `f` failed long ago, `F` failed just now, `d` failed by a disruption, `t` on its way out; a number is the index, after a colon the failures before.
fn pods(text: &str) -> Vec<Arc<Pod>> {
    let pod = |(n, w): (usize, &str)| {
        let (what, before) = w.split_once(':').unwrap_or((w, "0"));
        let phase = match &what[..1] {
            "s" => "Succeeded",
            "f" | "F" | "d" => "Failed",
            _ => "Running",
        };
        let ago = if what.starts_with('F') { 1 } else { 5000 };
        let disrupted = if what.starts_with('d') {
            "True"
        } else {
            "False"
        };
        Arc::new(
            serde_json::from_value(json!({
                "metadata":{"name":w,"uid":n.to_string(),"finalizers":[TRACKING],
                    "annotations":{INDEX:&what[1..],INDEX_FAILURES:before},
                    "deletionTimestamp":what.starts_with('t').then_some("2024-01-01T00:00:00Z")},
                "status":{"phase":phase,
                    "conditions":[{"type":"DisruptionTarget","status":disrupted}],
                    "containerStatuses":[{"state":{"terminated":{"finishedAt":rfc3339(NOW - ago)}}}]}}))
            .unwrap(),
        )
    };
    text.split_whitespace().enumerate().map(pod).collect()
}

#[track_caller]
fn check(name: &str, spec: Value, have: &str, want: &str) {
    let (job, pods) = (job(&spec), pods(have));
    let s = survey(&Given {
        job: &job,
        pods: &pods,
        released: &HashSet::new(),
        backoff: Backoff::default(),
        settled: true,
        now: NOW,
    });
    let mut got = vec![];
    match &s.action {
        Action::None => {}
        Action::End(p) | Action::Delete(p) if p.is_empty() => {}
        Action::End(p) => got.push(format!("end {}", p.len())),
        Action::Delete(p) => got.push(format!("-{}", p.len())),
        Action::Create(all) if s.indexed.is_some() => {
            got.extend(all.iter().map(|c| match c.failures {
                Some((n, _)) => format!("+{}:{n}", c.index.unwrap_or(-1)),
                None => format!("+{}", c.index.unwrap_or(-1)),
            }));
        }
        Action::Create(all) => got.push(format!("+{}", all.len())),
    }
    match &s.finish {
        Some(f) => got.push(f.reason.clone()),
        None if s.again_s.is_some() => got.push("wait".into()),
        None => {}
    }
    assert_eq!(got.join(" "), want, "{name}");
}

#[test]
fn next_step() {
    let n = |c: i32, p: i32| json!({"completions":c,"parallelism":p});
    check("first", n(1, 1), "", "+1");
    check("runs", n(1, 1), "r", "");
    check("done", n(1, 1), "s", "");
    check("parallel", n(5, 2), "", "+2");
    check("next", n(5, 2), "s r", "+1");
    check("no more than are missing", n(3, 3), "s s r", "");
    check("queue", json!({"parallelism":2}), "", "+2");
    check("queue: one is through", json!({"parallelism":2}), "s r", "");
    check("failed: waits", n(1, 1), "F", "wait");
    check("failed: again", n(1, 1), "f", "+1");
    check("one that goes is replaced", n(1, 1), "t", "+1");
    let failed_alone = json!({"completions":1,"podReplacementPolicy":"Failed"});
    check("not before it has failed", failed_alone, "t", "");
    check(
        "limit",
        json!({"completions":1,"backoffLimit":1}),
        "f f",
        "BackoffLimitExceeded",
    );
    let none = json!({"completions":3,"parallelism":3,"backoffLimit":0});
    check(
        "limit ends the others",
        none,
        "f r r",
        "end 2 BackoffLimitExceeded",
    );
    let late = json!({"completions":1,"activeDeadlineSeconds":100});
    check("deadline", late, "r", "end 1 DeadlineExceeded");
    let soon = json!({"completions":1,"activeDeadlineSeconds":101});
    check("before the deadline", soon, "r", "wait");
    check(
        "suspended",
        json!({"completions":1,"suspend":true}),
        "r",
        "-1",
    );
    check("fewer at a time", n(5, 1), "r r r", "-2");
    let over = json!({"completions":2,"status":{"conditions":[
        {"type":"FailureTarget","status":"True","reason":"DeadlineExceeded"}]}});
    check("what was said stays", over, "", "DeadlineExceeded");
}

#[test]
fn policies() {
    let on = |action: &str| {
        json!({"completions":2,"parallelism":2,"backoffLimit":0,"podFailurePolicy":{"rules":[
            {"action":action,"onPodConditions":[{"type":"DisruptionTarget","status":"True"}]}]}})
    };
    check("ignored", on("Ignore"), "d r", "+1");
    check("counts", on("Count"), "d r", "end 1 BackoffLimitExceeded");
    check(
        "fails the job",
        on("FailJob"),
        "d r",
        "end 1 PodFailurePolicy",
    );
}

#[test]
fn indexes_one_by_one() {
    let idx = |more: Value| {
        let mut spec = json!({"completions":3,"parallelism":3,"completionMode":"Indexed"});
        more.as_object()
            .unwrap()
            .iter()
            .for_each(|(k, v)| spec[k] = v.clone());
        spec
    };
    check("all", idx(json!({})), "", "+0 +1 +2");
    check("some", idx(json!({"parallelism":2})), "s0 r1", "+2");
    check("again", idx(json!({})), "s0 r1 f2", "+2");
    check("twice", idx(json!({})), "r0 r0 r1 r2", "-1");
    check("out of range", idx(json!({})), "r0 r1 r2 r7", "-1");
    let each = |n: i32, more: Value| {
        let mut spec = idx(json!({"backoffLimitPerIndex":n,"backoffLimit":2147483647}));
        more.as_object()
            .unwrap()
            .iter()
            .for_each(|(k, v)| spec[k] = v.clone());
        spec
    };
    check("an index again", each(2, json!({})), "r0 f1:1 r2", "+1:2");
    check(
        "it waits for itself",
        each(2, json!({})),
        "r0 F1 r2",
        "wait",
    );
    check("others don't", each(2, json!({})), "f0 F1 r2", "+0:1");
    check("an index fails", each(0, json!({})), "r0 f1 r2", "");
    check("all ended", each(0, json!({})), "s0 f1 s2", "FailedIndexes");
    let max = each(0, json!({"maxFailedIndexes":0}));
    check(
        "too many",
        max,
        "r0 f1 r2",
        "end 2 MaxFailedIndexesExceeded",
    );
    let enough = idx(json!({"successPolicy":{"rules":[{"succeededIndexes":"0"}]}}));
    check("enough", enough, "s0 r1 r2", "end 2 SuccessPolicy");
}
