//! Devices made of parts, and those given in parts.

use super::{Case, check, exactly, of, slice, with};
use serde_json::{Value, json};

#[test]
fn counters_are_shared_by_the_parts_of_a_device() {
    let pool = json!({"pool": {"name": "p", "generation": 1, "resourceSliceCount": 2}});
    let takes =
        |amount: &str| json!([{"counterSet": "gpu", "counters": {"memory": {"value": amount}}}]);
    let sets = || {
        with(
            json!({"driver": "d.example", "nodeName": "n1", "sharedCounters": [{"name": "gpu", "counters": {"memory": {"value": "8Gi"}}}]}),
            pool.clone(),
        )
    };
    let parts = || {
        with(
            slice(json!([
                {"name": "whole", "consumesCounters": takes("8Gi")},
                {"name": "half-1", "consumesCounters": takes("4Gi")},
                {"name": "half-2", "consumesCounters": takes("4Gi")},
            ])),
            pool.clone(),
        )
    };
    let taken = |device: &str, case: Case| Case {
        taken: vec![json!({"driver": "d.example", "pool": "p", "device": device})],
        ..case
    };
    let ask = |count: i64| {
        of(
            &[exactly("r", json!({"count": count}))],
            vec![sets(), parts()],
        )
    };
    check(vec![
        ("the whole", ask(1), "r=whole"),
        ("two are halves", ask(2), "r=half-1 r=half-2"),
        ("three are too many", ask(3), "none"),
        ("a half beside a half", taken("half-1", ask(1)), "r=half-2"),
        ("nothing beside the whole", taken("whole", ask(1)), "none"),
    ]);
}

#[test]
fn capacity_is_given_in_parts() {
    let device = |policy: Value| {
        slice(
            json!([{"name": "a", "allowMultipleAllocations": true, "capacity": {"bw": {"value": "10G", "requestPolicy": policy}}}]),
        )
    };
    let free = || device(json!({"default": "1G", "validRange": {"min": "1G", "step": "1G"}}));
    let wants =
        |name: &str, amount: &str| exactly(name, json!({"capacity": {"requests": {"bw": amount}}}));
    let taken = |amount: &str, case: Case| Case {
        taken: vec![
            json!({"driver": "d.example", "pool": "p", "device": "a", "shareID": "s", "consumedCapacity": {"bw": amount}}),
        ],
        ..case
    };
    check(vec![
        (
            "two parts",
            of(&[wants("r", "4G"), wants("s", "6G")], vec![free()]),
            "r=a s=a",
        ),
        (
            "too much together",
            of(&[wants("r", "4G"), wants("s", "7G")], vec![free()]),
            "none",
        ),
        (
            "beside others",
            taken("9G", of(&[exactly("r", json!({}))], vec![free()])),
            "r=a",
        ),
        (
            "nothing left",
            taken("10G", of(&[exactly("r", json!({}))], vec![free()])),
            "none",
        ),
        (
            "no such capacity",
            of(
                &[exactly(
                    "r",
                    json!({"capacity": {"requests": {"none": "1"}}}),
                )],
                vec![free()],
            ),
            "none",
        ),
        (
            "only what is valid",
            of(
                &[wants("r", "5G")],
                vec![device(
                    json!({"default": "1G", "validValues": ["1G", "2G"]}),
                )],
            ),
            "none",
        ),
    ]);
    let case = of(&[wants("r", "1500M")], vec![free()]);
    let result = case
        .answer()
        .unwrap()
        .unwrap()
        .remove(0)
        .devices
        .results
        .remove(0);
    assert_eq!(result.share_id.as_deref(), Some("share-1"));
    assert_eq!(result.consumed_capacity["bw"].value(), 2_000_000_000);
}
