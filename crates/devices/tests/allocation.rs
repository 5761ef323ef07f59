//! Which devices claims get: cases after upstream's (`structured/internal/allocatortesting`).

use std::collections::BTreeMap;

use knarr_devices::{
    Allocation, Claim, ClaimSpec, Class, ClassSpec, Expressions, Question, Slice, SliceSpec, Taken,
    Target, allocate,
};
use serde_json::{Value, json};

/// A node `n1` in zone `a`, claims named `c0`, `c1`, …, slices named in order.
#[derive(Default)]
struct Case {
    claims: Vec<Value>,
    slices: Vec<Value>,
    classes: Vec<(&'static str, Value)>,
    taken: Vec<Value>,
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

impl Case {
    fn answer(&self) -> Result<Option<Vec<Allocation>>, String> {
        let specs: Vec<ClaimSpec> = self
            .claims
            .iter()
            .map(|c| read(&json!({ "devices": c })))
            .collect();
        let names: Vec<String> = (0..specs.len()).map(|i| format!("default/c{i}")).collect();
        let slice_specs: Vec<SliceSpec> = self.slices.iter().map(read).collect();
        let slice_names: Vec<String> = (0..slice_specs.len()).map(|i| format!("s{i}")).collect();
        let class_specs: BTreeMap<&str, ClassSpec> =
            self.classes.iter().map(|(n, c)| (*n, read(c))).collect();
        let mut taken = Taken::default();
        for allocation in &self.taken {
            taken.add(&read(&json!({"devices": {"results": [allocation]}})));
        }
        let claims: Vec<Claim<'_>> = names
            .iter()
            .zip(&specs)
            .map(|(key, spec)| Claim { key, spec })
            .collect();
        let slices: Vec<Slice<'_>> = slice_names
            .iter()
            .zip(&slice_specs)
            .map(|(name, spec)| Slice { name, spec })
            .collect();
        let mut ids = 0;
        let question = Question {
            node: Target {
                name: "n1",
                label: &|key| (key == "zone").then_some("a"),
            },
            claims: &claims,
            slices: &slices,
            class: &|name| {
                let (name, spec) = class_specs.get_key_value(name)?;
                Some(Class { name, spec })
            },
            taken: &taken,
            expressions: &Expressions::default(),
        };
        let mut share_id = || {
            ids += 1;
            format!("share-{ids}").into()
        };
        allocate(&question, &mut share_id).map_err(|e| e.to_string())
    }

    /// `request=device …` for each claim, `; ` between them; or why not.
    fn outcome(&self) -> String {
        match self.answer() {
            Err(why) => why,
            Ok(None) => "none".into(),
            Ok(Some(all)) => {
                let of = |a: &Allocation| -> String {
                    let results = a.devices.results.iter();
                    let each = results.map(|r| format!("{}={}", r.request, r.device));
                    each.collect::<Vec<_>>().join(" ")
                };
                all.iter().map(of).collect::<Vec<_>>().join("; ")
            }
        }
    }
}

fn exactly(name: &str, more: Value) -> Value {
    let mut wanted = json!({"deviceClassName": "any", "allocationMode": "ExactCount", "count": 1});
    for (k, v) in more.as_object().unwrap() {
        wanted[k] = v.clone();
    }
    json!({"name": name, "exactly": wanted})
}
fn cel(expression: &str) -> Value {
    json!([{"cel": {"expression": expression}}])
}
fn slice(devices: Value) -> Value {
    json!({"driver": "d.example", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
        "nodeName": "n1", "devices": devices})
}
fn with(mut base: Value, more: Value) -> Value {
    for (k, v) in more.as_object().unwrap() {
        base[k] = v.clone();
    }
    base
}
fn three() -> Value {
    slice(json!([
        {"name": "a", "attributes": {"color": {"string": "red"}, "size": {"int": 1}, "v": {"version": "1.2.3"}}},
        {"name": "b", "attributes": {"color": {"string": "blue"}, "size": {"int": 2}, "v": {"version": "2.0.0"}},
            "capacity": {"memory": {"value": "4Gi"}}},
        {"name": "c", "attributes": {"d.example/color": {"string": "red"}, "size": {"int": 3}, "on": {"bool": true}}},
    ]))
}
fn of(requests: &[Value], slices: Vec<Value>) -> Case {
    Case {
        claims: vec![json!({ "requests": requests })],
        slices,
        classes: vec![("any", json!({}))],
        ..Case::default()
    }
}
fn check(cases: Vec<(&str, Case, &str)>) {
    let mut wrong = Vec::new();
    for (name, case, want) in cases {
        let got = case.outcome();
        if got != want {
            wrong.push(format!("{name}:\n   got {got}\n  want {want}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn requests() {
    let all = json!({"allocationMode": "All"});
    check(vec![
        (
            "the first",
            of(&[exactly("r", json!({}))], vec![three()]),
            "r=a",
        ),
        (
            "two",
            of(&[exactly("r", json!({"count": 2}))], vec![three()]),
            "r=a r=b",
        ),
        (
            "too many",
            of(&[exactly("r", json!({"count": 4}))], vec![three()]),
            "none",
        ),
        (
            "all",
            of(&[exactly("r", all.clone())], vec![three()]),
            "r=a r=b r=c",
        ),
        (
            "all of nothing",
            of(&[exactly("r", all.clone())], vec![slice(json!([]))]),
            "none",
        ),
        (
            "goes back when the first choice leaves nothing for the second",
            of(
                &[
                    exactly("r", json!({})),
                    exactly(
                        "s",
                        json!({"selectors": cel("device.attributes['d.example'].size == 1")}),
                    ),
                ],
                vec![three()],
            ),
            "r=b s=a",
        ),
        (
            "what others have",
            Case {
                taken: vec![
                    json!({"driver": "d.example", "pool": "p", "device": "a"}),
                    json!({"driver": "d.example", "pool": "p", "device": "b", "adminAccess": true}),
                ],
                ..of(&[exactly("r", json!({}))], vec![three()])
            },
            "r=b",
        ),
        (
            "for administration, whoever has it",
            Case {
                taken: vec![json!({"driver": "d.example", "pool": "p", "device": "a"})],
                ..of(&[exactly("r", json!({"adminAccess": true}))], vec![three()])
            },
            "r=a",
        ),
        (
            "two claims share nothing",
            Case {
                claims: vec![
                    json!({"requests": [exactly("r", json!({"count": 2}))]}),
                    json!({"requests": [exactly("r", json!({}))]}),
                ],
                ..of(&[], vec![three()])
            },
            "r=a r=b; r=c",
        ),
        (
            "more than a claim may have",
            of(&[exactly("r", json!({"count": 33}))], vec![three()]),
            "claim default/c0: number of requested devices 33 exceeds the claim limit of 32",
        ),
        (
            "no such class",
            of(
                &[exactly("r", json!({"deviceClassName": "x"}))],
                vec![three()],
            ),
            "claim default/c0, request r: could not retrieve device class x: deviceclass.resource.k8s.io \"x\" not found",
        ),
    ]);
}

#[test]
fn expressions() {
    let one = |expression: &str| {
        of(
            &[exactly("r", json!({"selectors": cel(expression)}))],
            vec![three()],
        )
    };
    check(vec![
        (
            "attribute of the driver's own domain",
            one("device.attributes['d.example'].color == 'blue'"),
            "r=b",
        ),
        (
            "version",
            one("device.attributes['d.example'].v.compareTo(semver('2.0.0')) >= 0"),
            "r=b",
        ),
        (
            "an attribute that the first one doesn't have",
            one("device.attributes['d.example'].on"),
            "claim default/c0: selector #0: CEL runtime error: no such key: on",
        ),
        (
            "asked for first",
            one(
                "has(device.attributes['d.example'].v) && device.attributes['d.example'].v.compareTo(semver('2.0.0')) >= 0",
            ),
            "r=b",
        ),
        (
            "capacity",
            one(
                "has(device.capacity['d.example'].memory) && device.capacity['d.example'].memory.compareTo(quantity('1Gi')) > 0",
            ),
            "r=b",
        ),
        (
            "a domain that isn't there is empty",
            one("has(device.attributes['other'].x) || device.attributes['d.example'].size == 3"),
            "r=c",
        ),
        ("the driver", one("device.driver == 'e.example'"), "none"),
        (
            "no bool",
            one("device.driver"),
            "claim default/c0: selector #0: CEL compile error: must evaluate to bool or the unknown type, not string",
        ),
        (
            "the class's too",
            Case {
                classes: vec![(
                    "any",
                    json!({"selectors": cel("device.attributes['d.example'].size > 1")}),
                )],
                ..one("device.attributes['d.example'].color == 'red'")
            },
            "r=c",
        ),
    ]);
}

#[test]
fn alternatives() {
    let first = |alternatives: Value| json!({"name": "r", "firstAvailable": alternatives});
    let wanted = |name: &str, more: Value| {
        with(
            json!({"name": name, "deviceClassName": "any", "allocationMode": "ExactCount", "count": 1}),
            more,
        )
    };
    check(vec![
        (
            "the first that can be had",
            of(
                &[first(json!([
                    wanted("big", json!({"count": 4})),
                    wanted("small", json!({}))
                ]))],
                vec![three()],
            ),
            "r/small=a",
        ),
        (
            "the next when others need the first",
            of(
                &[
                    first(json!([
                        wanted("two", json!({"count": 2})),
                        wanted("one", json!({}))
                    ])),
                    exactly("s", json!({"count": 2})),
                ],
                vec![three()],
            ),
            "r/one=a s=b s=c",
        ),
        (
            "none of them",
            of(
                &[first(json!([wanted("x", json!({"count": 9}))]))],
                vec![three()],
            ),
            "none",
        ),
    ]);
}

#[test]
fn constraints() {
    let case = |constraint: Value, count: i64| Case {
        claims: vec![
            json!({"requests": [exactly("r", json!({"count": count}))], "constraints": [constraint]}),
        ],
        ..of(&[], vec![three()])
    };
    check(vec![
        (
            "the same",
            case(json!({"matchAttribute": "d.example/color"}), 2),
            "r=a r=c",
        ),
        (
            "each another",
            case(json!({"distinctAttribute": "d.example/color"}), 2),
            "r=a r=b",
        ),
        (
            "no third",
            case(json!({"distinctAttribute": "d.example/color"}), 3),
            "none",
        ),
        (
            "one without it",
            case(json!({"matchAttribute": "d.example/on"}), 1),
            "r=c",
        ),
        (
            "of another request",
            case(
                json!({"requests": ["other"], "matchAttribute": "d.example/none"}),
                2,
            ),
            "r=a r=b",
        ),
    ]);
}

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

#[test]
fn what_is_written() {
    let config = |of: &str| json!({"opaque": {"driver": "d.example", "parameters": {"of": of}}});
    let case = Case {
        claims: vec![json!({
            "requests": [exactly("r", json!({})), exactly("s", json!({"adminAccess": true}))],
            "config": [config("all"), with(config("s"), json!({"requests": ["s"]})), with(config("x"), json!({"requests": ["x"]}))],
        })],
        classes: vec![("any", json!({"config": [config("class")]}))],
        ..of(&[], vec![three()])
    };
    let allocation = case.answer().unwrap().unwrap().remove(0);
    assert_eq!(
        serde_json::to_value(allocation).unwrap(),
        json!({
            "devices": {
                "results": [
                    {"request": "r", "driver": "d.example", "pool": "p", "device": "a"},
                    {"request": "s", "driver": "d.example", "pool": "p", "device": "b", "adminAccess": true},
                ],
                "config": [
                    with(config("class"), json!({"source": "FromClass", "requests": ["r", "s"]})),
                    with(config("all"), json!({"source": "FromClaim"})),
                    with(config("s"), json!({"source": "FromClaim", "requests": ["s"]})),
                ],
            },
            "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]},
        })
    );
}

/// Many devices of which no two go together: the search ends, and says so.
#[test]
fn a_search_without_end_is_given_up() {
    let devices: Vec<Value> = (0..100)
        .map(|i| json!({"name": format!("d{i:03}"), "attributes": {"odd": {"int": i % 50}}}))
        .collect();
    let case = Case {
        claims: vec![json!({
            "requests": [exactly("r", json!({"count": 30}))],
            "constraints": [{"distinctAttribute": "d.example/odd"}, {"requests": ["r"], "matchAttribute": "d.example/none"}],
        })],
        ..of(&[], vec![slice(devices.into())])
    };
    assert_eq!(case.outcome(), "none");
    let hard = Case {
        claims: vec![json!({
            "requests": [exactly("r", json!({"count": 20})), exactly("s", json!({"selectors": cel("false")}))],
        })],
        ..of(
            &[],
            vec![slice(
                (0..60)
                    .map(|i| json!({"name": format!("d{i:03}")}))
                    .collect(),
            )],
        )
    };
    assert_eq!(
        hard.outcome(),
        "node n1: timed out trying to allocate devices"
    );
}
