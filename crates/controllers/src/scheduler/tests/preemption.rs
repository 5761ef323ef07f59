use super::*;

fn placed(node: &str, name: &str, priority: i32, cpu: &str, started: u32) -> Value {
    and(
        on(
            node,
            name,
            json!({"app":name}),
            and(asking(json!({"cpu":cpu})), json!({"priority":priority})),
        ),
        json!({"status":{"startTime":format!("2024-01-01T00:{started:02}:00Z")}}),
    )
}
fn wants(priority: i32, cpu: &str) -> Value {
    pod(
        json!({}),
        and(asking(json!({"cpu":cpu})), json!({"priority":priority})),
    )
}
fn nodes(n: usize, pods: Vec<Value>) -> Setting {
    Setting {
        nodes: (1..=n)
            .map(|i| {
                node(
                    &format!("n{i}"),
                    json!({"kubernetes.io/hostname":format!("n{i}")}),
                )
            })
            .collect(),
        pods,
        ..Default::default()
    }
}
fn budget(app: &str, allowed: i32) -> Value {
    json!({"metadata":{"name":app,"namespace":"n"},"spec":{"selector":{"matchLabels":{"app":app}}},
        "status":{"disruptionsAllowed":allowed}})
}

#[test]
fn who_has_to_go() {
    let with = |s: Setting, budgets: Vec<Value>| Setting { budgets, ..s };
    let no = "0/1 nodes are available: 1 Insufficient cpu.";
    let cannot = |p: Value, k: &str, v: Value| {
        let mut p = p;
        p["spec"][k] = v;
        p
    };
    let port = |v: Value| {
        and(
            v.clone(),
            json!({"spec":and(v["spec"].clone(), json!({"containers":[{"ports":[{"hostPort":80}]}]}))}),
        )
    };
    let away = json!({"podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"kubernetes.io/hostname","labelSelector":{"matchLabels":{"app":"a"}}}]}});
    check(vec![
        (
            "the less important",
            nodes(1, vec![placed("n1", "a", 1, "4", 0)]),
            wants(5, "1"),
            "n1: a",
        ),
        (
            "not the equally important",
            nodes(1, vec![placed("n1", "a", 5, "4", 0)]),
            wants(5, "1"),
            no,
        ),
        (
            "no more than necessary",
            nodes(
                1,
                vec![placed("n1", "a", 1, "2", 0), placed("n1", "b", 2, "2", 0)],
            ),
            wants(5, "2"),
            "n1: a",
        ),
        (
            "all of them",
            nodes(
                1,
                vec![placed("n1", "a", 1, "2", 0), placed("n1", "b", 2, "2", 0)],
            ),
            wants(5, "3"),
            "n1: b a",
        ),
        (
            "the younger of equals",
            nodes(
                1,
                vec![placed("n1", "a", 1, "2", 1), placed("n1", "b", 1, "2", 2)],
            ),
            wants(5, "2"),
            "n1: b",
        ),
        (
            "not those in the way of nothing",
            nodes(
                1,
                vec![placed("n1", "a", 1, "3", 0), placed("n1", "b", 0, "1", 0)],
            ),
            wants(5, "3"),
            "n1: a",
        ),
        (
            "too large for the node",
            nodes(1, vec![placed("n1", "a", 1, "4", 0)]),
            wants(5, "5"),
            no,
        ),
        (
            "never",
            nodes(1, vec![placed("n1", "a", 1, "4", 0)]),
            cannot(wants(5, "1"), "preemptionPolicy", "Never".into()),
            no,
        ),
        (
            "a port",
            nodes(
                1,
                vec![
                    port(placed("n1", "a", 1, "0", 0)),
                    placed("n1", "b", 1, "0", 0),
                ],
            ),
            port(wants(5, "0")),
            "n1: a",
        ),
        (
            "anti-affinity",
            nodes(
                1,
                vec![placed("n1", "a", 1, "1", 0), placed("n1", "b", 1, "1", 0)],
            ),
            cannot(wants(5, "1"), "affinity", away),
            "n1: a",
        ),
        (
            "the less important node",
            nodes(
                2,
                vec![placed("n1", "a", 3, "4", 0), placed("n2", "b", 2, "4", 0)],
            ),
            wants(5, "1"),
            "n2: b",
        ),
        (
            "the smaller sum",
            nodes(
                2,
                vec![
                    placed("n1", "a", 3, "2", 0),
                    placed("n1", "b", 3, "2", 0),
                    placed("n2", "c", 3, "4", 0),
                ],
            ),
            wants(5, "4"),
            "n2: c",
        ),
        (
            "the younger",
            nodes(
                2,
                vec![placed("n1", "a", 3, "4", 1), placed("n2", "b", 3, "4", 2)],
            ),
            wants(5, "4"),
            "n2: b",
        ),
        (
            "budgets keep",
            with(
                nodes(
                    2,
                    vec![placed("n1", "a", 1, "4", 0), placed("n2", "b", 3, "4", 0)],
                ),
                vec![budget("a", 0)],
            ),
            wants(5, "4"),
            "n2: b",
        ),
        (
            "budgets keep first",
            with(
                nodes(
                    1,
                    vec![placed("n1", "a", 1, "2", 0), placed("n1", "b", 3, "2", 0)],
                ),
                vec![budget("a", 0)],
            ),
            wants(5, "2"),
            "n1: b",
        ),
        (
            "budgets don't keep for ever",
            with(
                nodes(1, vec![placed("n1", "a", 1, "4", 0)]),
                vec![budget("a", 0)],
            ),
            wants(5, "4"),
            "n1: a",
        ),
        (
            "budgets that allow",
            with(
                nodes(
                    2,
                    vec![placed("n1", "a", 1, "4", 0), placed("n2", "b", 3, "4", 0)],
                ),
                vec![budget("a", 1)],
            ),
            wants(5, "4"),
            "n1: a",
        ),
    ]);
}

#[test]
fn what_is_said() {
    let message = |s: Setting, p: Value| match s.decide(&p) {
        Decision::Wait(d, _) => d.message(),
        other => format!("{other:?}"),
    };
    let going = |by: &str| {
        let mut v = placed("n1", "a", 1, "4", 0);
        v["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
        v["status"]["conditions"] =
            json!([{"type":"DisruptionTarget","status":"True","reason":by}]);
        v
    };
    let nominated = |p: Value| and(p, json!({"status":{"nominatedNodeName":"n1"}}));
    let mut selected = wants(5, "1");
    selected["spec"]["nodeSelector"] = json!({"x":"y"});
    let mut never = wants(5, "1");
    never["spec"]["preemptionPolicy"] = "Never".into();
    for (name, setting, pod, want) in [
        (
            "nobody to go",
            nodes(1, vec![placed("n1", "a", 5, "4", 0)]),
            wants(5, "1"),
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        ),
        (
            "it wouldn't help",
            nodes(2, vec![placed("n1", "a", 5, "4", 0)]),
            wants(5, "5"),
            "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
        ),
        (
            "nor with a selector",
            nodes(1, vec![placed("n1", "a", 1, "4", 0)]),
            selected,
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        ),
        (
            "never",
            nodes(1, vec![placed("n1", "a", 1, "4", 0)]),
            never,
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.",
        ),
        (
            "they are going",
            nodes(1, vec![going("PreemptionByScheduler")]),
            nominated(wants(5, "1")),
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to a terminating pod on the nominated node.",
        ),
        (
            "no nodes",
            nodes(0, vec![]),
            wants(5, "1"),
            "no nodes available to schedule pods",
        ),
    ] {
        assert_eq!(message(setting, pod), want, "{name}");
    }
    // goes for another reason: it is a victim like any other
    assert_eq!(
        nodes(1, vec![going("EvictionByEvictionAPI")]).outcome(&nominated(wants(5, "1"))),
        "n1: a"
    );
}

#[test]
fn reasons_are_counted() {
    let s = nodes(
        3,
        vec![
            placed("n1", "a", 5, "4", 0),
            placed("n2", "b", 5, "3", 0),
            placed("n3", "c", 5, "4", 0),
        ],
    );
    let mut p = wants(5, "2");
    p["spec"]["preemptionPolicy"] = "Never".into();
    assert_eq!(s.reasons(&p), [("Insufficient cpu".to_owned(), 3)].into());
}
