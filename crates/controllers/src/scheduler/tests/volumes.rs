use super::{filters::one, *};

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
    let mut in_zone = zoned.clone();
    in_zone.volumes[0]["metadata"]["labels"]["topology.kubernetes.io/zone"] = "z1__z2".into();
    let mut limited = s(
        vec![claim("late", "v", rwo.clone())],
        vec![volume("n1", json!({}))],
        "p",
    );
    limited.drivers = vec![
        json!({"metadata":{"name":"n1"},"spec":{"drivers":[{"name":"d","allocatable":{"count":0}}]}}),
    ];
    let capacity = |zone: &str, size: &str| json!({"metadata":{"name":"k","namespace":"d"},"storageClassName":"late","capacity":size,"nodeTopology":{"matchLabels":{"zone":zone}}});
    let said = |capacities: Vec<Value>| {
        let mut x = s(vec![claim("late", "", rwo.clone())], vec![], "p");
        x.all_drivers = vec![json!({"metadata":{"name":"p"},"spec":{"storageCapacity":true}})];
        x.capacities = capacities;
        x
    };
    let mut other = volume("n1", json!({}));
    other["metadata"]["name"] = "w".into();
    other["spec"]["csi"]["volumeHandle"] = "i".into();
    let mut attached = s(
        vec![claim("late", "v", rwo.clone())],
        vec![volume("n1", json!({})), other],
        "p",
    );
    attached.drivers = vec![
        json!({"metadata":{"name":"n1"},"spec":{"drivers":[{"name":"d","allocatable":{"count":1}}]}}),
    ];
    let mut full = attached.clone();
    full.attachments = vec![
        json!({"metadata":{"name":"a"},"spec":{"attacher":"d","nodeName":"n1","source":{"persistentVolumeName":"w"}}}),
    ];
    let little = "0/1 nodes are available: 1 node(s) did not have enough free storage.";
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
        ("as many volumes as may be", attached, p(), "n1"),
        (
            "one volume too many is attached",
            full,
            p(),
            "0/1 nodes are available: 1 node(s) exceed max volume count.",
        ),
        ("no room said", said(vec![]), p(), little),
        (
            "too little room",
            said(vec![capacity("a", "1Mi")]),
            p(),
            little,
        ),
        (
            "room elsewhere",
            said(vec![capacity("b", "2Gi")]),
            p(),
            little,
        ),
        ("room", said(vec![capacity("a", "1Gi")]), p(), "n1"),
        (
            "too many volumes",
            limited,
            p(),
            "0/1 nodes are available: 1 node(s) exceed max volume count.",
        ),
    ]);
}
