//! Scheduler against the API server: room made for the more important, volumes, gates, and many pods at once.

mod cluster;

use std::collections::BTreeSet;

use cluster::{Cluster, bare, eventually, same, template};
use serde_json::{Value, json};

fn pod(name: &str, spec: Value) -> Value {
    let mut p = template("web", "v1");
    p["metadata"]["name"] = name.into();
    for (k, v) in spec.as_object().unwrap() {
        p["spec"][k] = v.clone();
    }
    p
}
fn wanting(name: &str, requests: Value, more: Value) -> Value {
    let mut p = pod(name, more);
    p["spec"]["containers"] =
        json!([{"name":"main","image":"v1","resources":{"requests":requests,"limits":requests}}]);
    p
}
async fn bound_to(c: &Cluster, name: &str, node: &str) {
    eventually(&format!("{name} on {node}"), || async {
        same(c.field("pod", name, "/spec/nodeName").await, json!(node))
    })
    .await
}
fn condition<'a>(pod: &'a Value, kind: &str) -> &'a Value {
    let all = pod["status"]["conditions"].as_array();
    all.and_then(|all| all.iter().find(|c| c["type"] == kind))
        .unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_less_important_make_room() {
    let c = bare(None).await;
    let size = json!({"cpu":"8","memory":"8Gi","pods":"110","example.com/fake":"5"});
    c.node_of("node-1", json!({}), size).await;
    for (name, value, policy) in [
        ("low", 1, "PreemptLowerPriority"),
        ("high", 100, "PreemptLowerPriority"),
        ("shy", 100, "Never"),
    ] {
        c.create(
            "priorityclass",
            json!({"metadata":{"name":name},"value":value,"preemptionPolicy":policy}),
        )
        .await;
    }
    let fake = |name: &str, n: &str, class: &str| {
        wanting(
            name,
            json!({"example.com/fake":n}),
            json!({"priorityClassName":class}),
        )
    };
    c.create("pod", fake("small", "2", "low")).await;
    c.create("pod", fake("large", "3", "low")).await;
    bound_to(&c, "small", "node-1").await;
    bound_to(&c, "large", "node-1").await;
    // one that makes nobody go
    c.create("pod", fake("shy", "1", "shy")).await;
    eventually("shy waits", || async {
        let p = c.get("pod", "shy").await.unwrap_or_default();
        same(
            condition(&p, "PodScheduled")["message"].clone(),
            json!("0/1 nodes are available: 1 Insufficient example.com/fake. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never."),
        )
    })
    .await;
    c.delete("pod", "shy", Default::default()).await;
    // the smaller alone would do
    c.create("pod", fake("urgent", "2", "high")).await;
    let gone = eventually("small is told to go", || async {
        let p = c.get("pod", "small").await.ok_or("gone")?;
        if p["metadata"]["deletionTimestamp"].is_null() {
            return Err("stays".to_owned());
        }
        Ok(p)
    })
    .await;
    let why = condition(&gone, "DisruptionTarget");
    assert_eq!(
        (&why["status"], &why["reason"], &why["message"]),
        (
            &json!("True"),
            &json!("PreemptionByScheduler"),
            &json!("default-scheduler: preempting to accommodate a higher priority pod")
        )
    );
    eventually("room is being made on the node", || async {
        let p = c.get("pod", "urgent").await.unwrap_or_default();
        same(p["status"]["nominatedNodeName"].clone(), json!("node-1"))
    })
    .await;
    let waits = c.get("pod", "urgent").await.unwrap_or_default();
    assert_eq!(waits["spec"]["nodeName"], Value::Null);
    let uid = waits["metadata"]["uid"].as_str().unwrap().to_owned();
    eventually("said in an event", || async {
        let all = c.events("small").await;
        let want = format!("Preempted Preempted by pod {uid} on node node-1");
        same(all.contains(&want), true)
    })
    .await;
    // no one else gets that room, nor has to go
    c.create("pod", fake("late", "1", "low")).await;
    c.delete(
        "pod",
        "small",
        kube::api::DeleteParams::default().grace_period(0),
    )
    .await;
    bound_to(&c, "urgent", "node-1").await;
    assert_eq!(
        c.field("pod", "large", "/metadata/deletionTimestamp").await,
        Value::Null
    );
    assert_eq!(c.field("pod", "late", "/spec/nodeName").await, Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gates_hold_and_let_go() {
    let c = bare(None).await;
    c.node("node-1", json!({})).await;
    c.create(
        "pod",
        pod(
            "held",
            json!({"schedulingGates":[{"name":"example.com/wait"}]}),
        ),
    )
    .await;
    c.create("pod", pod("free", json!({}))).await;
    bound_to(&c, "free", "node-1").await;
    assert_eq!(c.field("pod", "held", "/spec/nodeName").await, Value::Null);
    c.patch("pod", "held", json!({"spec":{"schedulingGates":[]}}))
        .await;
    bound_to(&c, "held", "node-1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_never_too_full() {
    let c = bare(Some(vec!["scheduler".into(), "nodelifecycle".into()])).await;
    for n in ["node-1", "node-2"] {
        let size = json!({"cpu":"20","memory":"64Gi","pods":"110"});
        c.node_of(n, json!({}), size).await;
    }
    // ten times as many as there is room for
    for i in 0..400 {
        let p = wanting(&format!("p{i}"), json!({"cpu":"1"}), json!({}));
        c.create("pod", p).await;
    }
    let on = |all: &[Value]| -> (usize, usize) {
        let n = |name: &str| all.iter().filter(|p| p["spec"]["nodeName"] == name).count();
        (n("node-1"), n("node-2"))
    };
    eventually("full, and the others wait", || async {
        let all = c.list("pod").await;
        let waits = all
            .iter()
            .filter(|p| condition(p, "PodScheduled")["reason"] == "Unschedulable")
            .count();
        same((on(&all), waits), ((20, 20), 360))
    })
    .await;
    // each place that's freed is taken
    let first: BTreeSet<String> = c
        .list("pod")
        .await
        .iter()
        .filter(|p| p["spec"]["nodeName"].is_string())
        .filter_map(|p| p["metadata"]["name"].as_str().map(str::to_owned))
        .collect();
    for name in &first {
        c.delete(
            "pod",
            name,
            kube::api::DeleteParams::default().grace_period(0),
        )
        .await;
    }
    eventually("full again", || async {
        same(on(&c.list("pod").await), (20, 20))
    })
    .await;
}
