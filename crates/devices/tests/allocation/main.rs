//! Which devices claims get: cases after upstream's (`structured/internal/allocatortesting`).

mod parts;
mod places;
mod selectors;

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
