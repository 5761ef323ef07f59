use super::*;

#[test]
fn other_pods() {
    let term = |key: &str, labels: Value| json!({"topologyKey":key,"labelSelector":{"matchLabels":labels}});
    let with = |part: &str, terms: Value| json!({"affinity":{part:{"requiredDuringSchedulingIgnoredDuringExecution":terms}}});
    let web = json!({"app":"web"});
    let two = |pods: Vec<Value>| Setting {
        nodes: vec![
            node("n1", json!({"zone":"a","kubernetes.io/hostname":"n1"})),
            node("n2", json!({"zone":"b","kubernetes.io/hostname":"n2"})),
        ],
        pods,
        namespaces: vec![("n", json!({"team":"x"})), ("m", json!({"team":"y"}))],
        ..Default::default()
    };
    let at = |n: &str, name: &str| on(n, name, web.clone(), json!({}));
    let elsewhere = |n: &str| {
        and(
            at(n, "e"),
            json!({"metadata":{"name":"e","uid":"e","namespace":"m","labels":{"app":"web"}}}),
        )
    };
    let near = |key: &str| with("podAffinity", json!([term(key, web.clone())]));
    let far = |key: &str| with("podAntiAffinity", json!([term(key, web.clone())]));
    let wide =
        |part: &str, extra: Value| with(part, json!([and(term("zone", web.clone()), extra)]));
    let keeps_away = |n: &str| on(n, "k", json!({}), far("zone"));
    let plain = json!({});
    let affinity = "0/2 nodes are available: 2 node(s) didn't match pod affinity rules.";
    let existing =
        "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules.";
    check(vec![
        (
            "with its kind",
            two(vec![at("n2", "a")]),
            pod(plain.clone(), near("zone")),
            "n2",
        ),
        (
            "no such pod",
            two(vec![]),
            pod(plain.clone(), near("zone")),
            affinity,
        ),
        (
            "the first of its kind",
            two(vec![]),
            pod(web.clone(), near("zone")),
            "n1",
        ),
        (
            "the first of its kind, no such label on nodes",
            two(vec![]),
            pod(web.clone(), near("rack")),
            affinity,
        ),
        (
            "in another namespace",
            two(vec![elsewhere("n2")]),
            pod(plain.clone(), near("zone")),
            affinity,
        ),
        (
            "in that namespace",
            two(vec![elsewhere("n2")]),
            pod(
                plain.clone(),
                wide("podAffinity", json!({"namespaces":["m"]})),
            ),
            "n2",
        ),
        (
            "in selected namespaces",
            two(vec![elsewhere("n2")]),
            pod(
                plain.clone(),
                wide(
                    "podAffinity",
                    json!({"namespaceSelector":{"matchLabels":{"team":"y"}}}),
                ),
            ),
            "n2",
        ),
        (
            "in no selected namespace",
            two(vec![elsewhere("n2")]),
            pod(
                plain.clone(),
                wide(
                    "podAffinity",
                    json!({"namespaceSelector":{"matchLabels":{"team":"z"}}}),
                ),
            ),
            affinity,
        ),
        (
            "in any namespace",
            two(vec![elsewhere("n2")]),
            pod(
                plain.clone(),
                wide("podAffinity", json!({"namespaceSelector":{}})),
            ),
            "n2",
        ),
        (
            "without its kind",
            two(vec![at("n1", "a")]),
            pod(plain.clone(), far("zone")),
            "n2",
        ),
        (
            "nowhere without its kind",
            two(vec![at("n1", "a"), at("n2", "b")]),
            pod(
                plain.clone(),
                and(far("zone"), json!({"preemptionPolicy":"Never"})),
            ),
            "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.",
        ),
        (
            "kept away",
            two(vec![keeps_away("n1")]),
            pod(web.clone(), plain.clone()),
            "n2",
        ),
        (
            "kept away everywhere",
            two(vec![
                keeps_away("n1"),
                and(
                    keeps_away("n2"),
                    json!({"metadata":{"name":"l","uid":"l","namespace":"n"}}),
                ),
            ]),
            pod(web.clone(), json!({"preemptionPolicy":"Never"})),
            existing,
        ),
        (
            "kept away, by others than it",
            two(vec![keeps_away("n1")]),
            pod(json!({"app":"db"}), json!({"nodeSelector":{"zone":"a"}})),
            "n1",
        ),
        (
            "kept away, from selected namespaces",
            two(vec![on(
                "n1",
                "k",
                plain.clone(),
                wide(
                    "podAntiAffinity",
                    json!({"namespaceSelector":{"matchLabels":{"team":"x"}}}),
                ),
            )]),
            pod(web.clone(), plain.clone()),
            "n2",
        ),
        (
            "with one kind and without another",
            two(vec![
                at("n1", "a"),
                at("n2", "b"),
                on("n1", "d", json!({"app":"db"}), plain.clone()),
            ]),
            pod(
                plain.clone(),
                json!({"affinity":{"podAffinity":near("zone")["affinity"]["podAffinity"],"podAntiAffinity":with("podAntiAffinity", json!([term("zone", json!({"app":"db"}))]))["affinity"]["podAntiAffinity"]}}),
            ),
            "n2",
        ),
        (
            "both terms must hold on the same pod",
            two(vec![
                at("n1", "a"),
                on("n1", "d", json!({"tier":"1"}), plain.clone()),
            ]),
            pod(
                plain.clone(),
                with(
                    "podAffinity",
                    json!([term("zone", web.clone()), term("zone", json!({"tier":"1"}))]),
                ),
            ),
            affinity,
        ),
        (
            "a pod without labels of the selector",
            two(vec![at("n1", "a")]),
            pod(
                plain.clone(),
                with("podAffinity", json!([{"topologyKey":"zone"}])),
            ),
            affinity,
        ),
    ]);
}
