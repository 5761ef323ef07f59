//! Nodes' taints by condition and cordon, against the API server.

mod cluster;

use cluster::{bare, eventually, same, with_grace};
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

/// A Pod on node `n` that bears every taint as long as `seconds` say; None: it doesn't bear `t`.
async fn pod(c: &cluster::Cluster, name: &str, seconds: Option<i64>) {
    let tolerations: Vec<Value> = seconds
        .map(|s| json!({"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": s}))
        .into_iter()
        .collect();
    let spec = json!({"nodeName": "n", "tolerations": tolerations, "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "i"}]});
    c.create("pod", json!({"metadata": {"name": name}, "spec": spec}))
        .await;
}

async fn pods(c: &cluster::Cluster, want: &[&str]) {
    let want: Vec<String> = want.iter().map(|w| w.to_string()).collect();
    eventually(&format!("pods {want:?}"), || async {
        same(c.names("pod").await, want.clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_do_not_bear_a_taint_go() {
    let c = bare(Some(vec!["tainteviction".into()])).await;
    c.node("n", json!({})).await;
    pod(&c, "none", None).await;
    pod(&c, "short", Some(1)).await;
    pod(&c, "long", Some(3600)).await;
    let taint = json!({"spec": {"taints": [{"key": "t", "effect": "NoExecute"}]}});
    c.patch("node", "n", taint.clone()).await;
    pods(&c, &["long"]).await;
    // one that comes later
    pod(&c, "late", None).await;
    pods(&c, &["long"]).await;
    let said = async |of: &str, what: &str| {
        let events = c.events(of).await;
        match events.iter().any(|e| e.contains(what)) {
            true => Ok(()),
            false => Err(format!("{events:?}")),
        }
    };
    eventually("it was said why", || said("none", "TaintManagerEviction")).await;
    // patience ends with the taint: the controller has seen the one with the other at some time
    pod(&c, "patient", Some(3600)).await;
    eventually("its deletion is called off", || async {
        c.patch("node", "n", taint.clone()).await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        c.patch("node", "n", json!({"spec": {"taints": null}}))
            .await;
        said("patient", "Cancelling deletion").await
    })
    .await;
    pods(&c, &["long", "patient"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_heard_of_no_more_loses_its_pods() {
    let all = ["nodelifecycle", "tainteviction"].map(String::from);
    let c = with_grace(Some(all.to_vec()), std::time::Duration::from_secs(2)).await;
    // its Pod is ready before it says of itself that it is: from then on it is missed
    c.create("node", json!({"metadata": {"name": "n"}})).await;
    pod(&c, "p", Some(1)).await;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    c.patch_status("pod", "p", ready).await;
    let ready = json!({"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2024-01-01T00:00:00Z"}]});
    c.node_status("n", ready.clone()).await;
    let status_of = async |kind: &str, name: &str| {
        let object = c.get(kind, name).await.unwrap_or_default();
        let list = object["status"]["conditions"].as_array().cloned();
        let ready = list.into_iter().flatten().find(|o| o["type"] == "Ready");
        ready.map(|o| o["status"].clone()).unwrap_or_default()
    };
    eventually("nothing is known of the node", || async {
        same(status_of("node", "n").await, json!("Unknown"))
    })
    .await;
    eventually("its Pod is not ready", || async {
        same(status_of("pod", "p").await, json!("False"))
    })
    .await;
    // alone it keeps its Pods: there is no better place for them
    tainted(&c, &["node.kubernetes.io/unreachable:NoSchedule"]).await;
    assert_eq!(c.names("pod").await, ["p"]);
    // another that lives, and so long that the first's Pod had to go
    c.node("other", json!({})).await;
    let beat = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "other"}, "spec": {}});
    c.create_in("lease", "kube-node-lease", beat).await;
    let mut n = 0;
    eventually("its Pod is gone", || {
        n += 1;
        let time = format!("2024-01-01T00:00:00.{n:06}Z");
        let renewed = json!({"spec": {"renewTime": time}});
        let (c, ready, status_of) = (&c, &ready, &status_of);
        async move {
            // a machine that stood still has missed it, too
            if status_of("node", "other").await == "Unknown" {
                c.node_status("other", ready.clone()).await;
            }
            let _ = c
                .api_in("lease", "kube-node-lease")
                .patch(
                    "other",
                    &Default::default(),
                    &kube::api::Patch::Merge(renewed),
                )
                .await;
            let touched = json!({"metadata": {"annotations": {"n": n.to_string()}}});
            c.patch("node", "n", touched).await;
            same(c.names("pod").await, vec![])
        }
    })
    .await;
}
