//! Where devices are, and which of them are tainted.

use super::{check, exactly, of, slice, with};
use serde_json::{Value, json};

#[test]
fn places() {
    let at = |place: Value| {
        let mut s = slice(json!([{"name": "a"}]));
        s.as_object_mut().unwrap().remove("nodeName");
        of(&[exactly("r", json!({}))], vec![with(s, place)])
    };
    let zone = |zone: &str| json!({"nodeSelector": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]}});
    let pool = |generation: i64, count: i64, device: &str| {
        with(
            slice(json!([{"name": device}])),
            json!({"pool": {"name": "p", "generation": generation, "resourceSliceCount": count}}),
        )
    };
    let one = || [exactly("r", json!({}))];
    let all = || [exactly("r", json!({"allocationMode": "All"}))];
    check(vec![
        ("another node", at(json!({"nodeName": "n2"})), "none"),
        ("all nodes", at(json!({"allNodes": true})), "r=a"),
        ("the zone", at(zone("a")), "r=a"),
        ("another zone", at(zone("b")), "none"),
        (
            "each its own",
            at(
                json!({"perDeviceNodeSelection": true, "devices": [{"name": "a", "nodeName": "n2"}, {"name": "b", "allNodes": true}]}),
            ),
            "r=b",
        ),
        (
            "the newest generation",
            of(&one(), vec![pool(1, 1, "old"), pool(2, 1, "new")]),
            "r=new",
        ),
        (
            "a pool that isn't whole",
            of(&one(), vec![pool(1, 2, "a")]),
            "none",
        ),
        (
            "all of a pool that isn't whole",
            of(&all(), vec![pool(1, 2, "a")]),
            "claim default/c0, request r: asks for all devices, but resource pool d.example/p is currently being updated",
        ),
        (
            "one name twice",
            of(&one(), vec![pool(1, 2, "a"), pool(1, 2, "a")]),
            "invalid resource pools were encountered",
        ),
    ]);
}

#[test]
fn taints() {
    let tainted = |effect: &str| {
        slice(json!([{"name": "a", "taints": [{"key": "k", "value": "v", "effect": effect}]}]))
    };
    let tolerates = |toleration: Value| [exactly("r", json!({"tolerations": [toleration]}))];
    let plain = || [exactly("r", json!({}))];
    check(vec![
        (
            "kept away",
            of(&plain(), vec![tainted("NoSchedule")]),
            "none",
        ),
        (
            "thrown out",
            of(&plain(), vec![tainted("NoExecute")]),
            "none",
        ),
        ("only said", of(&plain(), vec![tainted("None")]), "r=a"),
        (
            "tolerated",
            of(
                &tolerates(json!({"operator": "Exists"})),
                vec![tainted("NoSchedule")],
            ),
            "r=a",
        ),
        (
            "by value",
            of(
                &tolerates(json!({"key": "k", "operator": "Equal", "value": "v"})),
                vec![tainted("NoSchedule")],
            ),
            "r=a",
        ),
        (
            "by another value",
            of(
                &tolerates(json!({"key": "k", "operator": "Equal", "value": "w"})),
                vec![tainted("NoSchedule")],
            ),
            "none",
        ),
        (
            "for another effect",
            of(
                &tolerates(json!({"operator": "Exists", "effect": "NoExecute"})),
                vec![tainted("NoSchedule")],
            ),
            "none",
        ),
    ]);
}
