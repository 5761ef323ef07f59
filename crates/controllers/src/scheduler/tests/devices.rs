use super::{filters::one, *};

fn claim(name: &str, spec: Value, status: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": spec, "status": status})
}
fn asks(request: Value) -> Value {
    json!({"devices": {"requests": [request]}})
}
fn of_class(class: &str) -> Value {
    asks(
        json!({"name": "r", "exactly": {"deviceClassName": class, "allocationMode": "ExactCount", "count": 1}}),
    )
}
fn given(node: &str, device: &str, users: &[&str]) -> Value {
    let users: Vec<Value> = users
        .iter()
        .map(|u| json!({"resource": "pods", "name": u, "uid": u}))
        .collect();
    json!({"reservedFor": users, "allocation": {
        "devices": {"results": [{"request": "r", "driver": "d", "pool": node, "device": device}]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}}})
}
fn slice(node: &str, devices: &[&str]) -> Value {
    let devices: Vec<Value> = devices.iter().map(|d| json!({"name": d})).collect();
    json!({"metadata": {"name": format!("s-{node}")}, "spec": {"driver": "d", "nodeName": node,
        "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}, "devices": devices}})
}
fn uses(claims: Value) -> Value {
    pod(json!({}), json!({ "resourceClaims": claims }))
}
fn setting(claims: Vec<Value>) -> Setting {
    Setting {
        nodes: vec![node("n1", json!({})), node("n2", json!({}))],
        device_claims: claims,
        slices: vec![slice("n2", &["a"])],
        device_classes: vec![
            json!({"metadata": {"name": "c"}, "spec": {"selectors": [{"cel": {"expression": "device.driver == 'd'"}}]}}),
            json!({"metadata": {"name": "broken"}, "spec": {"selectors": [{"cel": {"expression": "device.attributes['d'].none"}}]}}),
        ],
        ..Default::default()
    }
}

#[test]
fn claims_decide_where_a_pod_goes() {
    let named = |name: &str| uses(json!([{"name": "x", "resourceClaimName": name}]));
    let open = || claim("k", of_class("c"), json!({}));
    let mut made = uses(json!([{"name": "x", "resourceClaimTemplateName": "t"}]));
    let waiting = made.clone();
    made["status"] = json!({"resourceClaimStatuses": [{"name": "x", "resourceClaimName": "k"}]});
    let mut owned = open();
    owned["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p", "controller": true}]);
    let mut deleting = open();
    deleting["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
    check(vec![
        (
            "where the device is",
            setting(vec![open()]),
            named("k"),
            "n2",
        ),
        (
            "where its devices are already",
            setting(vec![claim(
                "k",
                of_class("c"),
                given("n1", "z", &["other"]),
            )]),
            named("k"),
            "n1",
        ),
        (
            "not where another claim has the only one",
            setting(vec![
                open(),
                claim("l", of_class("c"), given("n2", "a", &[])),
            ]),
            named("k"),
            "0/2 nodes are available: 2 cannot allocate all claims.",
        ),
        (
            "two claims in different places",
            setting(vec![
                open(),
                claim("l", of_class("c"), given("n1", "z", &["other"])),
            ]),
            uses(
                json!([{"name": "x", "resourceClaimName": "k"}, {"name": "y", "resourceClaimName": "l"}]),
            ),
            "0/2 nodes are available: 1 cannot allocate all claims, 1 resourceclaim not available on the node.",
        ),
        (
            "no such class",
            setting(vec![claim("k", of_class("other"), json!({}))]),
            named("k"),
            "0/2 nodes are available: request r: device class other does not exist.",
        ),
        (
            "an expression that fails ends the turn",
            setting(vec![claim("k", of_class("broken"), json!({}))]),
            named("k"),
            "running \"DynamicResources\" filter plugin: class broken: selector #0: CEL runtime error: no such key: none",
        ),
        (
            "not made yet",
            setting(vec![]),
            waiting,
            "0/2 nodes are available: pod \"n/p\": ResourceClaim not created yet.",
        ),
        (
            "made for another",
            setting(vec![open()]),
            made.clone(),
            "0/2 nodes are available: ResourceClaim n/k was not created for Pod n/p (Pod is not owner).",
        ),
        ("made for it", setting(vec![owned]), made, "n2"),
        (
            "going away",
            setting(vec![deleting]),
            named("k"),
            "0/2 nodes are available: resourceclaim \"k\" is being deleted.",
        ),
        (
            "no device is no matter for others",
            Setting {
                slices: vec![],
                ..one(vec![])
            },
            pod(json!({}), json!({})),
            "n1",
        ),
    ]);
}

#[test]
fn what_is_written_of_claims() {
    let named = |name: &str| uses(json!([{"name": "x", "resourceClaimName": name}]));
    let Decision::Bind(_, todo) =
        setting(vec![claim("k", of_class("c"), json!({}))]).decide(&named("k"))
    else {
        panic!("it goes somewhere");
    };
    let allocation = todo.devices[0].allocation.as_ref().unwrap();
    assert_eq!(
        serde_json::to_value(&**allocation).unwrap(),
        json!({"devices": {"results": [{"request": "r", "driver": "d", "pool": "n2", "device": "a"}]},
            "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["n2"]}]}]}})
    );
    // one more user, and one that is one already
    for (users, want) in [(&["other"][..], 1), (&["other", "p"][..], 0)] {
        let claims = vec![claim("k", of_class("c"), given("n1", "z", users))];
        let Decision::Bind(_, todo) = setting(claims).decide(&named("k")) else {
            panic!("it goes somewhere");
        };
        assert_eq!(todo.devices.len(), want, "{users:?}");
        assert!(todo.devices.iter().all(|d| d.allocation.is_none()));
    }
}

#[test]
fn devices_where_the_pod_cannot_be_are_given_free() {
    let elsewhere = |users: &[&str]| {
        let mut s = setting(vec![claim("k", of_class("c"), given("n1", "z", users))]);
        s.nodes[0]["spec"]["unschedulable"] = true.into();
        let named = uses(json!([{"name": "x", "resourceClaimName": "k"}]));
        match s.decide(&named) {
            Decision::Wait(d, _) => d.message(),
            other => panic!("{other:?}"),
        }
    };
    let said = "0/2 nodes are available: 1 node(s) were unschedulable, 1 resourceclaim not available on the node.";
    let then = "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    assert_eq!(
        elsewhere(&[]),
        format!("{said} deallocation of ResourceClaim completed, {then}")
    );
    assert_eq!(
        elsewhere(&["other"]),
        format!("{said} still not schedulable, {then}")
    );
}

#[test]
fn alternatives_that_come_first_are_preferred() {
    let wanted = asks(json!({"name": "r", "firstAvailable": [
        {"name": "big", "deviceClassName": "c", "allocationMode": "ExactCount", "count": 2},
        {"name": "small", "deviceClassName": "c", "allocationMode": "ExactCount", "count": 1}]}));
    let mut s = setting(vec![claim("k", wanted, json!({}))]);
    s.slices = vec![slice("n1", &["a"]), slice("n2", &["a", "b"])];
    let named = uses(json!([{"name": "x", "resourceClaimName": "k"}]));
    assert_eq!(s.outcome(&named), "n2");
}
