//! Server-side apply and managedFields: each case is a history of writes to one object, with what upstream's field manager (Kubernetes 1.36) makes of every one.
//!
//! `data/managed.json` holds the cases. Times are left out there (upstream takes the clock's): the tests below the table are about those.

use knarr_schema::managed::{ApplyError, Conflict, Manager, apply, update};
use knarr_schema::{TypeRef, conform, kind};
use serde_json::{Value, json};

fn root(gvk: &str) -> (TypeRef, String) {
    let parts: Vec<&str> = gvk.split('/').collect();
    let [group, version, name] = parts[..] else {
        panic!("{gvk} is no group/version/kind")
    };
    let api_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    (
        kind(group, version, name).unwrap_or_else(|| panic!("no kind {gvk}")),
        api_version,
    )
}

/// One write; the object after it, or the error and its causes.
fn write(
    gvk: &str,
    live: Option<&Value>,
    step: &Value,
    time: &str,
) -> Result<Value, (String, Vec<Conflict>)> {
    let (ty, api_version) = root(gvk);
    let text = |key: &str| step[key].as_str().unwrap_or_default();
    let manager = Manager {
        name: text("manager"),
        subresource: text("sub"),
        api_version: &api_version,
        time,
    };
    if text("op") == "apply" {
        return apply(ty, live, &step["obj"], &manager, step["force"] == true).map_err(
            |e| match e {
                ApplyError::Conflicts { message, causes } => (message, causes),
                ApplyError::Invalid(message) => (message, Vec::new()),
            },
        );
    }
    let mut new = conform(ty, step["obj"].clone())
        .unwrap_or_else(|e| panic!("{e}"))
        .value;
    update(ty, live, &mut new, &manager);
    Ok(new)
}

fn without_times(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(entries) = object["metadata"]
        .get_mut("managedFields")
        .and_then(Value::as_array_mut)
    {
        for entry in entries.iter_mut() {
            entry.as_object_mut().unwrap().remove("time");
        }
        let key = |e: &Value| {
            ["operation", "manager", "apiVersion", "subresource"]
                .map(|k| e[k].as_str().unwrap_or_default().to_owned())
        };
        entries.sort_by_key(key);
    }
    object
}

#[test]
fn histories_go_as_upstream() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("data/managed.json")).unwrap();
    assert!(cases.len() > 30);
    for case in &cases {
        let gvk = case["kind"].as_str().unwrap();
        let mut live: Option<Value> = None;
        for (at, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            let what = format!("{}, step {at}", case["name"]);
            match write(
                gvk,
                live.as_ref(),
                step,
                &format!("2024-01-01T00:00:{at:02}Z"),
            ) {
                Ok(object) => {
                    assert_eq!(without_times(&object), step["becomes"], "{what}");
                    live = Some(object);
                }
                Err((message, mut causes)) => {
                    assert_eq!(
                        message,
                        step["error"].as_str().unwrap_or("no error"),
                        "{what}"
                    );
                    causes.sort_by(|a, b| (&a.message, &a.field).cmp(&(&b.message, &b.field)));
                    let causes: Vec<Value> = causes
                        .iter()
                        .map(|c| json!({"message": c.message, "field": c.field}))
                        .collect();
                    assert_eq!(
                        Value::from(causes),
                        step.get("causes").cloned().unwrap_or(json!([])),
                        "{what}"
                    );
                }
            }
        }
    }
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "n"}, "data": data})
}

fn times(object: &Value) -> Vec<(&str, &str)> {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    entries
        .iter()
        .map(|e| {
            (
                e["manager"].as_str().unwrap(),
                e["time"].as_str().unwrap_or("none"),
            )
        })
        .collect()
}

#[test]
fn times_tell_the_last_change() {
    let step = |op: &str, manager: &str, data: Value| json!({"op": op, "manager": manager, "obj": config_map(data)});
    let go = |live: Option<&Value>, step: Value, time: &str| {
        write("/v1/ConfigMap", live, &step, time).unwrap()
    };

    let made = go(
        None,
        step("apply", "m1", json!({"a": "1"})),
        "2024-01-01T00:00:01Z",
    );
    assert_eq!(times(&made), [("m1", "2024-01-01T00:00:01Z")]);
    let same = go(
        Some(&made),
        step("apply", "m1", json!({"a": "1"})),
        "2024-01-01T00:00:02Z",
    );
    assert_eq!(same, made, "an apply of the same changes nothing at all");
    let same = go(
        Some(&made),
        step("update", "m2", json!({"a": "1"})),
        "2024-01-01T00:00:02Z",
    );
    assert_eq!(same, made, "an update to the same changes nothing at all");

    let changed = go(
        Some(&made),
        step("apply", "m1", json!({"a": "2"})),
        "2024-01-01T00:00:03Z",
    );
    assert_eq!(times(&changed), [("m1", "2024-01-01T00:00:03Z")]);
    let shared = go(
        Some(&changed),
        step("update", "m2", json!({"a": "2", "b": "1"})),
        "2024-01-01T00:00:04Z",
    );
    assert_eq!(
        times(&shared),
        [
            ("m1", "2024-01-01T00:00:03Z"),
            ("m2", "2024-01-01T00:00:04Z")
        ],
        "others keep their times"
    );
}

#[test]
fn entries_come_appliers_first_then_by_time() {
    let mut live = None;
    for (at, (op, manager)) in [
        ("update", "z"),
        ("update", "a"),
        ("apply", "y"),
        ("apply", "b"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut data = live
            .as_ref()
            .map_or(json!({}), |o: &Value| o["data"].clone());
        if op == "apply" {
            data = json!({});
        }
        data[manager] = "1".into();
        let step = json!({"op": op, "manager": manager, "obj": config_map(data)});
        live = Some(
            write(
                "/v1/ConfigMap",
                live.as_ref(),
                &step,
                &format!("2024-01-01T00:00:0{at}Z"),
            )
            .unwrap(),
        );
    }
    let order: Vec<&str> = times(live.as_ref().unwrap())
        .into_iter()
        .map(|(m, _)| m)
        .collect();
    assert_eq!(order, ["y", "b", "z", "a"]);
}

#[test]
fn the_wrong_version_is_refused() {
    let mut applied = config_map(json!({}));
    applied["apiVersion"] = "v2".into();
    let step = json!({"op": "apply", "manager": "m", "obj": applied});
    let (message, _) = write("/v1/ConfigMap", None, &step, "2024-01-01T00:00:00Z").unwrap_err();
    assert_eq!(
        message,
        "Incorrect version specified in apply patch. Specified patch version: v2, expected: v1"
    );
}

#[test]
fn custom_resources() {
    use knarr_schema::managed::Root;
    use knarr_schema::{CustomField, CustomList, CustomType};
    let field = |ty| CustomField { ty, default: None };
    let map = |fields: Vec<(&str, CustomType)>| CustomType::Map {
        fields: fields
            .into_iter()
            .map(|(n, ty)| (n.into(), field(ty)))
            .collect(),
        rest: None,
        atomic: false,
    };
    let item = map(vec![
        ("name", CustomType::String),
        ("v", CustomType::Number),
    ]);
    let ty = map(vec![
        ("apiVersion", CustomType::String),
        ("kind", CustomType::String),
        ("metadata", CustomType::ObjectMeta),
        (
            "spec",
            map(vec![
                (
                    "list",
                    CustomType::List {
                        elem: Box::new(item),
                        kind: CustomList::Map("name".into()),
                    },
                ),
                ("n", CustomType::Number),
            ]),
        ),
    ]);
    let root = Root::Custom {
        ty: &ty,
        has_status: false,
        versions: &[],
    };
    let by = |name| Manager {
        name,
        subresource: "",
        api_version: "x.io/v1",
        time: "2024-01-01T00:00:00Z",
    };
    let object = |spec: Value| json!({"apiVersion": "x.io/v1", "kind": "X", "metadata": {"name": "a"}, "spec": spec});
    let one = object(json!({"n": 1, "list": [{"name": "a", "v": 1}]}));
    let live = apply(root, None, &one, &by("one"), false).unwrap();
    let two = object(json!({"list": [{"name": "b", "v": 2}]}));
    let both = apply(root, Some(&live), &two, &by("two"), false).unwrap();
    assert_eq!(
        both["spec"],
        json!({"n": 1, "list": [{"name": "a", "v": 1}, {"name": "b", "v": 2}]})
    );
    let other = object(json!({"n": 2}));
    let Err(ApplyError::Conflicts { causes, .. }) =
        apply(root, Some(&both), &other, &by("two"), false)
    else {
        panic!("no conflict");
    };
    assert_eq!(causes[0].field, ".spec.n");
    let mut unknown = object(json!({"odd": 1}));
    unknown["metadata"]["strange"] = 1.into();
    let Err(ApplyError::Invalid(why)) = apply(root, None, &unknown, &by("two"), false) else {
        panic!("unknown fields were taken");
    };
    assert!(
        why.contains(".spec.odd: field not declared in schema")
            || why.contains(".metadata.strange: field not declared in schema"),
        "{why}"
    );
}
