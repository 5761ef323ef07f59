use super::*;

fn one(pods: Vec<Value>) -> Setting {
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
            .map(|(n, s, p, w)| (*n, s.copy(), p.clone(), &**w))
            .collect(),
    );
}

impl Setting {
    fn copy(&self) -> Setting {
        Setting {
            nodes: self.nodes.clone(),
            pods: self.pods.clone(),
            nominated: self.nominated.clone(),
            namespaces: self.namespaces.clone(),
            claims: self.claims.clone(),
            volumes: self.volumes.clone(),
            classes: self.classes.clone(),
            drivers: self.drivers.clone(),
            budgets: self.budgets.clone(),
            like: self.like.clone(),
        }
    }
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

#[test]
fn volumes() {
    let uses =
        |claim: &str| json!({"volumes":[{"name":"v","persistentVolumeClaim":{"claimName":claim}}]});
    let claim = |class: &str, volume: &str, modes: Value| {
        json!({"metadata":{"name":"c","namespace":"n","uid":"c"},
            "spec":{"storageClassName":class,"volumeName":volume,"accessModes":modes,"resources":{"requests":{"storage":"1Gi"}}},
            "status":{"phase":if volume.is_empty() {"Pending"} else {"Bound"}}})
    };
    let volume = |node: &str, extra: Value| {
        json!({"metadata":{"name":"v","labels":extra},
            "spec":{"capacity":{"storage":"1Gi"},"storageClassName":"late","accessModes":["ReadWriteOnce"],"csi":{"driver":"d","volumeHandle":"h"},
            "nodeAffinity":{"required":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"kubernetes.io/hostname","operator":"In","values":[node]}]}]}}},
            "status":{"phase":"Available"}})
    };
    let class = |mode: &str, provisioner: &str| json!({"metadata":{"name":if mode == "Immediate" {"soon"} else {"late"}},"provisioner":provisioner,"volumeBindingMode":mode});
    let s = |claims: Vec<Value>, volumes: Vec<Value>, provisioner: &str| Setting {
        claims,
        volumes,
        classes: vec![
            class("Immediate", provisioner),
            class("WaitForFirstConsumer", provisioner),
        ],
        ..one(vec![])
    };
    let rwo = json!(["ReadWriteOnce"]);
    let p = || pod(json!({}), uses("c"));
    let deleting = || {
        and(
            claim("soon", "v", rwo.clone()),
            json!({"metadata":{"name":"c","namespace":"n","deletionTimestamp":"2024-01-01T00:00:00Z"}}),
        )
    };
    let alone = || {
        let mut x = s(
            vec![claim("late", "v", json!(["ReadWriteOncePod"]))],
            vec![volume("n1", json!({}))],
            "p",
        );
        x.pods = vec![on(
            "n1",
            "x",
            json!({}),
            and(uses("c"), json!({"priority":9})),
        )];
        x
    };
    let mut zoned = s(
        vec![claim("late", "v", rwo.clone())],
        vec![volume("n1", json!({"topology.kubernetes.io/zone":"z1"}))],
        "p",
    );
    zoned.nodes[0]["metadata"]["labels"]["topology.kubernetes.io/zone"] = "z2".into();
    let mut in_zone = zoned.copy();
    in_zone.volumes[0]["metadata"]["labels"]["topology.kubernetes.io/zone"] = "z1__z2".into();
    let mut limited = s(
        vec![claim("late", "v", rwo.clone())],
        vec![volume("n1", json!({}))],
        "p",
    );
    limited.drivers = vec![
        json!({"metadata":{"name":"n1"},"spec":{"drivers":[{"name":"d","allocatable":{"count":0}}]}}),
    ];
    let mut chosen = s(vec![claim("late", "", rwo.clone())], vec![], "p");
    chosen.claims[0]["metadata"]["annotations"] =
        json!({"volume.kubernetes.io/selected-node":"n2"});
    let mut topology = s(vec![claim("late", "", rwo.clone())], vec![], "p");
    topology.classes[1]["allowedTopologies"] =
        json!([{"matchLabelExpressions":[{"key":"zone","values":["b"]}]}]);
    let ephemeral = pod(json!({}), json!({"volumes":[{"name":"v","ephemeral":{}}]}));
    let lost = and(
        claim("soon", "v", rwo.clone()),
        json!({"status":{"phase":"Lost"}}),
    );
    let none =
        "0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind.";
    check(vec![
        (
            "no claim",
            s(vec![], vec![], "p"),
            p(),
            "0/1 nodes are available: persistentvolumeclaim \"c\" not found.",
        ),
        (
            "claim to come",
            s(vec![], vec![], "p"),
            ephemeral,
            "0/1 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-v\".",
        ),
        (
            "claim goes",
            s(vec![deleting()], vec![], "p"),
            p(),
            "0/1 nodes are available: persistentvolumeclaim \"c\" is being deleted.",
        ),
        (
            "claim lost",
            s(vec![lost], vec![], "p"),
            p(),
            "0/1 nodes are available: persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"v\".",
        ),
        (
            "unbound",
            s(vec![claim("soon", "", rwo.clone())], vec![], "p"),
            p(),
            "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
        ),
        (
            "bound, here",
            s(
                vec![claim("late", "v", rwo.clone())],
                vec![volume("n1", json!({}))],
                "p",
            ),
            p(),
            "n1",
        ),
        (
            "bound, elsewhere",
            s(
                vec![claim("late", "v", rwo.clone())],
                vec![volume("n2", json!({}))],
                "p",
            ),
            p(),
            "0/1 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity.",
        ),
        (
            "bound to nothing",
            s(vec![claim("late", "v", rwo.clone())], vec![], "p"),
            p(),
            "0/1 nodes are available: 1 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s).",
        ),
        (
            "made when it's placed",
            s(vec![claim("late", "", rwo.clone())], vec![], "p"),
            p(),
            "n1",
        ),
        ("made elsewhere", chosen, p(), none),
        ("can't be made here", topology, p(), none),
        (
            "nobody makes it",
            s(
                vec![claim("late", "", rwo.clone())],
                vec![],
                "kubernetes.io/no-provisioner",
            ),
            p(),
            none,
        ),
        (
            "nobody makes it, but there is one",
            s(
                vec![claim("late", "", rwo.clone())],
                vec![volume("n1", json!({}))],
                "kubernetes.io/no-provisioner",
            ),
            p(),
            "n1",
        ),
        (
            "nobody makes it, and it's elsewhere",
            s(
                vec![claim("late", "", rwo.clone())],
                vec![volume("n2", json!({}))],
                "kubernetes.io/no-provisioner",
            ),
            p(),
            none,
        ),
        (
            "for one pod alone",
            alone(),
            p(),
            "0/1 nodes are available: 1 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod.",
        ),
        (
            "another zone",
            zoned,
            p(),
            "0/1 nodes are available: 1 node(s) had no available volume zone.",
        ),
        ("one of its zones", in_zone, p(), "n1"),
        (
            "too many volumes",
            limited,
            p(),
            "0/1 nodes are available: 1 node(s) exceed max volume count.",
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
