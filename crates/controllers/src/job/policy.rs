//! What a Job's failed and succeeded pods mean by its policies (`pod_failure_policy.go`, `success_policy.go`).

use super::indexes::Indexes;
use crate::objects::{
    batch::{ExitCodes, PodFailurePolicy, SuccessPolicy},
    pod::Pod,
};

/// What a pod's failure means.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaning {
    /// it counts
    Counts,
    /// it doesn't
    Ignored,
    /// its index fails, with what counts
    FailsIndex,
    /// the job fails, for this reason
    FailsJob(String),
}

/// By the first rule that matches; a failure that none matches counts.
pub fn meaning(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Meaning {
    let rules = policy.map_or(&[][..], |p| &p.rules);
    for (index, rule) in rules.iter().enumerate() {
        let why = match &rule.on_exit_codes {
            Some(codes) => exit_code(pod, codes).map(|(container, code)| {
                format!(
                    "Container {container} for pod {} failed with exit code {code} matching {} rule at index {index}",
                    pod.metadata.key(), rule.action
                )
            }),
            None => condition(pod, rule).map(|kind| {
                format!(
                    "Pod {} has condition {kind} matching {} rule at index {index}",
                    pod.metadata.key(),
                    rule.action
                )
            }),
        };
        let Some(why) = why else { continue };
        match &*rule.action {
            "Ignore" => return Meaning::Ignored,
            "FailIndex" => return Meaning::FailsIndex,
            "Count" => return Meaning::Counts,
            "FailJob" => return Meaning::FailsJob(why),
            _ => {}
        }
    }
    Meaning::Counts
}

fn exit_code<'a>(pod: &'a Pod, codes: &ExitCodes) -> Option<(&'a str, i32)> {
    let status = &pod.status;
    status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .filter(|c| codes.container_name.as_ref().is_none_or(|n| *n == c.name))
        .filter_map(|c| Some((&*c.name, c.state.terminated.as_ref()?.exit_code)))
        .find(|(_, code)| {
            let listed = codes.values.contains(code);
            *code != 0
                && match &*codes.operator {
                    "In" => listed,
                    "NotIn" => !listed,
                    _ => false,
                }
        })
}

fn condition<'a>(pod: &'a Pod, rule: &crate::objects::batch::FailureRule) -> Option<&'a str> {
    pod.status
        .conditions
        .iter()
        .find(|c| {
            rule.on_pod_conditions
                .iter()
                .any(|p| p.kind == c.kind && p.status == c.status)
        })
        .map(|c| &*c.kind)
}

/// The message of the first rule that these indexes fulfil.
pub fn success(
    policy: Option<&SuccessPolicy>,
    completions: i32,
    succeeded: &Indexes,
) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let rules = policy.map_or(&[][..], |p| &p.rules);
    let met = rules.iter().position(|rule| {
        let enough = |n: i32| rule.succeeded_count.is_some_and(|count| n >= count);
        match &rule.succeeded_indexes {
            Some(text) => {
                let wanted = Indexes::parse(text, completions);
                let there = wanted.overlap(succeeded);
                !wanted.is_empty() && (there == wanted.total() || enough(there))
            }
            None => enough(succeeded.total()),
        }
    });
    met.map(|i| format!("Matched rules at index {i}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[track_caller]
    fn check(rules: Value, status: Value, want: Meaning) {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules":rules})).unwrap();
        let pod: Pod = serde_json::from_value(
            json!({"metadata":{"name":"p","namespace":"n"},"status":status}),
        )
        .unwrap();
        assert_eq!(meaning(Some(&policy), &pod), want);
    }

    #[test]
    fn failures() {
        let exit = |code: i32| {
            json!({"containerStatuses":[
            {"name":"fine","state":{"terminated":{"exitCode":0}}},
            {"name":"main","state":{"terminated":{"exitCode":code}}}]})
        };
        let codes = |action: &str, op: &str, values: &[i32]| json!({"action":action,"onExitCodes":{"operator":op,"values":values}});
        check(json!([]), exit(1), Meaning::Counts);
        check(
            json!([codes("Ignore", "In", &[3, 42])]),
            exit(42),
            Meaning::Ignored,
        );
        check(
            json!([codes("Ignore", "In", &[3])]),
            exit(42),
            Meaning::Counts,
        );
        // an exit code of nothing wrong never matches
        check(
            json!([codes("Ignore", "NotIn", &[42])]),
            exit(42),
            Meaning::Counts,
        );
        check(
            json!([codes("FailIndex", "NotIn", &[3])]),
            exit(42),
            Meaning::FailsIndex,
        );
        check(
            json!([codes("Ignore", "In", &[1]), codes("FailJob", "In", &[42])]),
            exit(42),
            Meaning::FailsJob(
                "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 1"
                    .into(),
            ),
        );
        let mut named = codes("Ignore", "In", &[42]);
        named["onExitCodes"]["containerName"] = json!("other");
        check(json!([named]), exit(42), Meaning::Counts);
        let disrupted = json!({"conditions":[{"type":"DisruptionTarget","status":"True"}]});
        let on =
            |action: &str| json!({"action":action,"onPodConditions":[{"type":"DisruptionTarget"}]});
        check(json!([on("Ignore")]), disrupted.clone(), Meaning::Ignored);
        check(json!([on("Ignore")]), exit(1), Meaning::Counts);
        check(
            json!([on("FailJob")]),
            disrupted,
            Meaning::FailsJob(
                "Pod n/p has condition DisruptionTarget matching FailJob rule at index 0".into(),
            ),
        );
    }

    #[test]
    fn successes() {
        for (rules, succeeded, want) in [
            (json!([{"succeededCount":2}]), "0", None),
            (json!([{"succeededCount":2}]), "0,3", Some(0)),
            (json!([{"succeededIndexes":"1-2"}]), "1", None),
            (json!([{"succeededIndexes":"1-2"}]), "0-3", Some(0)),
            (
                json!([{"succeededIndexes":"1-2","succeededCount":1}]),
                "2",
                Some(0),
            ),
            (
                json!([{"succeededIndexes":"9"},{"succeededIndexes":"0"}]),
                "0",
                Some(1),
            ),
            (json!([{"succeededCount":0}]), "", None),
        ] {
            let policy: SuccessPolicy = serde_json::from_value(json!({"rules":rules})).unwrap();
            let got = success(Some(&policy), 5, &Indexes::parse(succeeded, 5));
            let want = want.map(|i| format!("Matched rules at index {i}"));
            assert_eq!(got, want, "{rules} {succeeded}");
        }
    }
}
