use super::*;

/// Four nodes in two zones; `counts` pods `app=web` on each.
fn four(counts: [usize; 4]) -> Setting {
    let names = ["a1", "a2", "b1", "b2"];
    let mut pods = vec![];
    for (n, count) in names.iter().zip(counts) {
        for i in 0..count {
            pods.push(on(
                n,
                &format!("{n}-{i}"),
                json!({"app":"web"}),
                json!({"priority":9}),
            ));
        }
    }
    Setting {
        nodes: names
            .iter()
            .map(|n| node(n, json!({"zone":&n[..1],"kubernetes.io/hostname":n})))
            .collect(),
        pods,
        ..Default::default()
    }
}
fn spread(key: &str, skew: i32, extra: Value) -> Value {
    json!({"topologySpreadConstraints":[and(json!({"topologyKey":key,"maxSkew":skew,"whenUnsatisfiable":"DoNotSchedule","labelSelector":{"matchLabels":{"app":"web"}}}), extra)]})
}

#[test]
fn constraints_that_must_hold() {
    let web = json!({"app":"web"});
    let p = |s: Value| pod(web.clone(), s);
    let none = json!({});
    let no = "0/4 nodes are available: 4 node(s) didn't match pod topology spread constraints.";
    let keys = |key: &str| json!({"matchLabelKeys":[key]});
    let only_b = json!({"nodeSelector":{"zone":"b"}});
    let tainted = || {
        let mut s = four([1, 1, 0, 0]);
        for n in &mut s.nodes[2..] {
            n["spec"] = json!({"taints":[{"key":"k","effect":"NoSchedule"}]});
        }
        s
    };
    let unlabelled = || {
        let mut s = four([0, 0, 0, 0]);
        s.nodes
            .iter_mut()
            .for_each(|n| n["metadata"]["labels"] = json!({}));
        s
    };
    check(vec![
        (
            "the emptier zone",
            four([1, 1, 0, 0]),
            p(spread("zone", 1, none.clone())),
            "b1",
        ),
        (
            "a wider skew",
            four([1, 0, 0, 0]),
            p(spread("zone", 2, none.clone())),
            "a2",
        ),
        (
            "the emptiest node",
            four([2, 1, 0, 3]),
            p(spread("kubernetes.io/hostname", 1, none.clone())),
            "b1",
        ),
        (
            "its label isn't selected: it doesn't count",
            four([1, 0, 0, 0]),
            pod(json!({}), spread("zone", 1, none.clone())),
            "a2",
        ),
        (
            "fewer domains than wanted",
            four([1, 0, 1, 0]),
            p(spread("zone", 1, json!({"minDomains":3}))),
            no,
        ),
        (
            "as many domains as wanted",
            four([1, 0, 1, 0]),
            p(spread("zone", 1, json!({"minDomains":2}))),
            "a2",
        ),
        (
            "nodes that it can't be on don't count",
            four([0, 0, 1, 1]),
            p(and(spread("zone", 1, none.clone()), only_b.clone())),
            "b1",
        ),
        (
            "nodes that it can't be on count all the same",
            four([0, 0, 1, 1]),
            p(and(
                spread("zone", 1, json!({"nodeAffinityPolicy":"Ignore"})),
                only_b,
            )),
            "0/4 nodes are available: 2 node(s) didn't match Pod's node affinity/selector, 2 node(s) didn't match pod topology spread constraints.",
        ),
        (
            "tainted nodes count",
            tainted(),
            p(spread("zone", 1, none.clone())),
            "0/4 nodes are available: 2 node(s) didn't match pod topology spread constraints, 2 node(s) had untolerated taint(s).",
        ),
        (
            "tainted nodes don't count",
            tainted(),
            p(spread("zone", 1, json!({"nodeTaintsPolicy":"Honor"}))),
            "a1",
        ),
        (
            "no such label",
            unlabelled(),
            p(spread("zone", 1, none.clone())),
            "0/4 nodes are available: 4 node(s) didn't match pod topology spread constraints (missing required label).",
        ),
        (
            "its revision alone",
            four([1, 1, 0, 0]),
            pod(
                json!({"app":"web","rev":"2"}),
                spread("zone", 1, keys("rev")),
            ),
            "b1",
        ),
        (
            "another revision's pods don't count",
            four([9, 0, 0, 0]),
            pod(
                json!({"app":"web","rev":"2"}),
                and(
                    spread("zone", 1, keys("rev")),
                    json!({"nodeSelector":{"kubernetes.io/hostname":"a2"}}),
                ),
            ),
            "a2",
        ),
    ]);
}

#[test]
fn which_is_better() {
    let soft = |key: &str| spread(key, 1, json!({"whenUnsatisfiable":"ScheduleAnyway"}));
    let web = json!({"app":"web"});
    let prefer = |part: &str, sign: &str| json!({"affinity":{part:{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":100,"podAffinityTerm":{"topologyKey":sign,"labelSelector":{"matchLabels":{"app":"web"}}}}]}}});
    let like = || Setting {
        like: Some(json!({"matchLabels":{"app":"web"}})),
        ..four([1, 1, 1, 0])
    };
    let tainted = || {
        let mut s = four([0; 4]);
        for n in &mut s.nodes[..3] {
            n["spec"] = json!({"taints":[{"key":"k","effect":"PreferNoSchedule"}]});
        }
        s
    };
    let node_wish = json!({"affinity":{"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[
        {"weight":10,"preference":{"matchExpressions":[{"key":"zone","operator":"In","values":["a"]}]}},
        {"weight":20,"preference":{"matchExpressions":[{"key":"kubernetes.io/hostname","operator":"In","values":["b2"]}]}}]}}});
    let busy = || {
        let mut s = four([0; 4]);
        for n in ["a1", "a2", "b1"] {
            s.pods.push(on(
                n,
                n,
                json!({}),
                asking(json!({"cpu":"2","memory":"5G"})),
            ));
        }
        s
    };
    let images = || {
        let mut s = four([0; 4]);
        s.nodes[2]["status"]["images"] =
            json!([{"names":["big:latest"],"sizeBytes":4_000_000_000u64}]);
        s
    };
    let pulls_near = || {
        let mut s = four([0; 4]);
        s.pods.push(on(
            "b1",
            "k",
            json!({}),
            prefer("podAffinity", "kubernetes.io/hostname"),
        ));
        s
    };
    check(vec![
        (
            "the emptier zone",
            four([2, 0, 0, 1]),
            pod(web.clone(), soft("zone")),
            "b1",
        ),
        (
            "the emptiest node",
            four([2, 1, 0, 1]),
            pod(web.clone(), soft("kubernetes.io/hostname")),
            "b1",
        ),
        (
            "its Service's pods are spread",
            like(),
            pod(web.clone(), json!({})),
            "b2",
        ),
        (
            "near them",
            four([0, 0, 0, 1]),
            pod(json!({}), prefer("podAffinity", "kubernetes.io/hostname")),
            "b2",
        ),
        (
            "far from them",
            four([1, 0, 1, 1]),
            pod(
                json!({}),
                prefer("podAntiAffinity", "kubernetes.io/hostname"),
            ),
            "a2",
        ),
        (
            "wanted near",
            pulls_near(),
            pod(web.clone(), json!({})),
            "b1",
        ),
        ("without taints", tainted(), pod(json!({}), json!({})), "b2"),
        (
            "the node it likes most",
            four([0; 4]),
            pod(json!({}), node_wish),
            "b2",
        ),
        (
            "the least used",
            busy(),
            pod(json!({}), asking(json!({"cpu":"1","memory":"1G"}))),
            "b2",
        ),
        (
            "where its image is",
            images(),
            pod(json!({}), json!({"containers":[{"image":"big"}]})),
            "b1",
        ),
    ]);
}
