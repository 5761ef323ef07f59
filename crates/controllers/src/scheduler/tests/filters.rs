use super::*;

pub fn one(pods: Vec<Value>) -> Setting {
    Setting {
        nodes: vec![node(
            "n1",
            json!({"zone":"a","kubernetes.io/hostname":"n1"}),
        )],
        pods,
        ..Default::default()
    }
}
fn changed(pointer: &str, value: Value) -> Setting {
    let mut s = one(vec![]);
    *s.nodes[0].pointer_mut(pointer).unwrap() = value;
    s
}
fn no(reason: &str) -> String {
    format!("0/1 nodes are available: {reason}.")
}

#[test]
fn resources() {
    let used = |r: Value| one(vec![on("n1", "x", json!({}), asking(r))]);
    let p = |r: Value| pod(json!({}), asking(r));
    let full: Vec<Value> = (0..10)
        .map(|i| on("n1", &format!("x{i}"), json!({}), json!({})))
        .collect();
    let init = |sidecar: &str| {
        pod(
            json!({}),
            json!({"containers":[{"resources":{"requests":{"cpu":"1"}}}],
            "initContainers":[{"restartPolicy":sidecar,"resources":{"requests":{"cpu":"3"}}}]}),
        )
    };
    let cases = vec![
        (
            "nothing asked always fits",
            used(json!({"cpu":"4","memory":"10G"})),
            p(json!({})),
            "n1".into(),
        ),
        (
            "too many resources",
            used(json!({"cpu":"4","memory":"10G"})),
            p(json!({"cpu":"1","memory":"1"})),
            no("1 Insufficient cpu, 1 Insufficient memory"),
        ),
        (
            "memory alone",
            used(json!({"memory":"10G"})),
            p(json!({"cpu":"1","memory":"1"})),
            no("1 Insufficient memory"),
        ),
        (
            "equal edge",
            used(json!({"cpu":"3"})),
            p(json!({"cpu":"1"})),
            "n1".into(),
        ),
        (
            "overhead counts",
            used(json!({"cpu":"3"})),
            pod(
                json!({}),
                and(asking(json!({"cpu":"1"})), json!({"overhead":{"cpu":"1m"}})),
            ),
            no("1 Insufficient cpu"),
        ),
        (
            "init containers: the largest",
            used(json!({"cpu":"1"})),
            init(""),
            "n1".into(),
        ),
        (
            "sidecars: the sum",
            used(json!({"cpu":"1"})),
            init("Always"),
            no("1 Insufficient cpu"),
        ),
        (
            "extended resource",
            used(json!({"example.com/aaa":"2"})),
            p(json!({"example.com/aaa":"3"})),
            "n1".into(),
        ),
        (
            "extended resource used up",
            used(json!({"example.com/aaa":"5"})),
            p(json!({"example.com/aaa":"1"})),
            no("1 Insufficient example.com/aaa"),
        ),
        (
            "unknown extended resource",
            one(vec![]),
            p(json!({"example.com/bbb":"1"})),
            no("1 Insufficient example.com/bbb"),
        ),
        (
            "huge pages",
            used(json!({"hugepages-2Mi":"5"})),
            p(json!({"hugepages-2Mi":"1"})),
            no("1 Insufficient hugepages-2Mi"),
        ),
        (
            "ephemeral storage",
            used(json!({"ephemeral-storage":"15G"})),
            p(json!({"ephemeral-storage":"6G"})),
            no("1 Insufficient ephemeral-storage"),
        ),
        ("pods", one(full), p(json!({})), no("1 Too many pods")),
        (
            "pod level",
            used(json!({"cpu":"2"})),
            pod(
                json!({}),
                and(
                    asking(json!({"cpu":"1"})),
                    json!({"resources":{"requests":{"cpu":"3"}}}),
                ),
            ),
            no("1 Insufficient cpu"),
        ),
    ];
    check(
        cases
            .iter()
            .map(|(n, s, p, w)| (*n, s.clone(), p.clone(), &**w))
            .collect(),
    );
}

#[test]
fn the_node_itself() {
    let taint = |effect: &str| {
        changed(
            "/spec",
            json!({"taints":[{"key":"k","value":"v","effect":effect}]}),
        )
    };
    let cordoned = || changed("/spec", json!({"unschedulable":true}));
    let spec = |s: Value| pod(json!({}), s);
    let affinity = |terms: Value| {
        spec(
            json!({"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":terms}}}}),
        )
    };
    let zone = |op: &str, values: Value| {
        affinity(json!([{"matchExpressions":[{"key":"zone","operator":op,"values":values}]}]))
    };
    let ports = |p: Value| json!({"containers":[{"ports":[p]}]});
    let port80 = || {
        one(vec![on(
            "n1",
            "x",
            json!({}),
            ports(json!({"hostPort":80,"hostIP":"10.0.0.1"})),
        )])
    };
    let (taints, selector, unschedulable, busy) = (
        no("1 node(s) had untolerated taint(s)"),
        no("1 node(s) didn't match Pod's node affinity/selector"),
        no("1 node(s) were unschedulable"),
        no("1 node(s) didn't have free ports for the requested pod ports"),
    );
    check(vec![
        ("tainted", taint("NoSchedule"), spec(json!({})), &taints),
        (
            "tainted, execute",
            taint("NoExecute"),
            spec(json!({})),
            &taints,
        ),
        (
            "preferably not",
            taint("PreferNoSchedule"),
            spec(json!({})),
            "n1",
        ),
        (
            "tolerated",
            taint("NoSchedule"),
            spec(json!({"tolerations":[{"key":"k","operator":"Exists","effect":"NoSchedule"}]})),
            "n1",
        ),
        (
            "another value",
            taint("NoSchedule"),
            spec(json!({"tolerations":[{"key":"k","operator":"Equal","value":"w"}]})),
            &taints,
        ),
        (
            "another effect",
            taint("NoSchedule"),
            spec(json!({"tolerations":[{"key":"k","operator":"Exists","effect":"NoExecute"}]})),
            &taints,
        ),
        (
            "tolerates all",
            taint("NoExecute"),
            spec(json!({"tolerations":[{"operator":"Exists"}]})),
            "n1",
        ),
        ("cordoned", cordoned(), spec(json!({})), &unschedulable),
        (
            "tolerates cordons",
            cordoned(),
            spec(
                json!({"tolerations":[{"key":"node.kubernetes.io/unschedulable","effect":"NoSchedule"}]}),
            ),
            "n1",
        ),
        (
            "selector",
            one(vec![]),
            spec(json!({"nodeSelector":{"zone":"a"}})),
            "n1",
        ),
        (
            "another label",
            one(vec![]),
            spec(json!({"nodeSelector":{"zone":"b"}})),
            &selector,
        ),
        ("in", one(vec![]), zone("In", json!(["a", "b"])), "n1"),
        (
            "not in",
            one(vec![]),
            zone("NotIn", json!(["a"])),
            &selector,
        ),
        ("greater", one(vec![]), zone("Gt", json!(["1"])), &selector),
        (
            "no term matches nothing",
            one(vec![]),
            affinity(json!([])),
            &selector,
        ),
        (
            "empty term matches nothing",
            one(vec![]),
            affinity(json!([{}])),
            &selector,
        ),
        (
            "one of two terms",
            one(vec![]),
            affinity(
                json!([{"matchExpressions":[{"key":"x","operator":"Exists"}]},{"matchExpressions":[{"key":"zone","operator":"Exists"}]}]),
            ),
            "n1",
        ),
        (
            "by name",
            one(vec![]),
            affinity(
                json!([{"matchFields":[{"key":"metadata.name","operator":"In","values":["n1"]}]}]),
            ),
            "n1",
        ),
        (
            "by another name",
            one(vec![]),
            affinity(
                json!([{"matchFields":[{"key":"metadata.name","operator":"In","values":["n2"]}]}]),
            ),
            "0/1 nodes are available: 1 node(s) didn't satisfy plugin(s) [NodeAffinity].",
        ),
        (
            "port of another address",
            port80(),
            spec(ports(json!({"hostPort":80,"hostIP":"10.0.0.2"}))),
            "n1",
        ),
        (
            "port of all addresses",
            port80(),
            spec(ports(json!({"hostPort":80}))),
            &busy,
        ),
        (
            "port of another protocol",
            port80(),
            spec(ports(json!({"hostPort":80,"protocol":"UDP"}))),
            "n1",
        ),
        (
            "port of a sidecar",
            port80(),
            spec(json!({"initContainers":[{"restartPolicy":"Always","ports":[{"hostPort":80}]}]})),
            &busy,
        ),
        (
            "port of an init container",
            port80(),
            spec(json!({"initContainers":[{"ports":[{"hostPort":80}]}]})),
            "n1",
        ),
    ]);
}

#[test]
fn room_made_for_others_is_theirs() {
    let for_another = |priority: i32| Setting {
        nominated: vec![(
            "n1",
            json!({"metadata":{"name":"q","uid":"q","namespace":"n"},"spec":and(asking(json!({"cpu":"3"})), json!({"priority":priority}))}),
        )],
        ..one(vec![])
    };
    let p = || {
        pod(
            json!({}),
            and(asking(json!({"cpu":"2"})), json!({"priority":5})),
        )
    };
    check(vec![
        (
            "more important",
            for_another(6),
            p(),
            "0/1 nodes are available: 1 Insufficient cpu.",
        ),
        (
            "as important",
            for_another(5),
            p(),
            "0/1 nodes are available: 1 Insufficient cpu.",
        ),
        ("less important", for_another(4), p(), "n1"),
    ]);
}
