//! Nodes' taints by condition and cordon, against the API server.

mod cluster;

use cluster::{bare, eventually, same};
use serde_json::{Value, json};

async fn taints(c: &cluster::Cluster) -> Vec<String> {
    let node = c.get("node", "n").await.unwrap_or_default();
    let list = node["spec"]["taints"].as_array().cloned();
    let list = list.unwrap_or_default().into_iter();
    list.map(|t| {
        format!(
            "{}:{}",
            t["key"].as_str().unwrap(),
            t["effect"].as_str().unwrap()
        )
    })
    .collect()
}

async fn tainted(c: &cluster::Cluster, want: &[&str]) {
    let want: Vec<String> = want.iter().map(|w| w.to_string()).collect();
    eventually(&format!("taints {want:?}"), || async {
        same(taints(c).await, want.clone())
    })
    .await
}

async fn condition(c: &cluster::Cluster, kind: &str, status: &str) {
    let node = c.get("node", "n").await.unwrap();
    let list = node["status"]["conditions"].as_array().cloned();
    let mut list: Vec<Value> = list.unwrap_or_default();
    list.retain(|o| o["type"] != kind);
    list.push(json!({"type": kind, "status": status}));
    c.node_status("n", json!({"conditions": list})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_tainted_while_it_is_not_fit() {
    let c = bare(Some(vec!["nodelifecycle".into()])).await;
    c.create("node", json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "mine", "value": "x", "effect": "NoSchedule"}]}}))
        .await;
    // from the first moment, until it says that it is ready
    assert_eq!(
        taints(&c).await,
        ["mine:NoSchedule", "node.kubernetes.io/not-ready:NoSchedule"]
    );
    condition(&c, "Ready", "True").await;
    tainted(&c, &["mine:NoSchedule"]).await;
    c.patch("node", "n", json!({"spec": {"unschedulable": true}}))
        .await;
    tainted(
        &c,
        &[
            "mine:NoSchedule",
            "node.kubernetes.io/unschedulable:NoSchedule",
        ],
    )
    .await;
    c.patch("node", "n", json!({"spec": {"unschedulable": false}}))
        .await;
    condition(&c, "NetworkUnavailable", "True").await;
    tainted(
        &c,
        &[
            "mine:NoSchedule",
            "node.kubernetes.io/network-unavailable:NoSchedule",
        ],
    )
    .await;
    condition(&c, "NetworkUnavailable", "False").await;
    tainted(&c, &["mine:NoSchedule"]).await;
}
