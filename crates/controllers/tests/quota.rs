//! What ResourceQuotas say is used, against the API server.

mod cluster;

use cluster::{Cluster, eventually, same, start};
use kube::api::DeleteParams;
use serde_json::{Value, json};

async fn uses(c: &Cluster, quota: &str, want: Value) {
    eventually(&format!("{quota} uses {want}"), || async {
        same(c.field("quota", quota, "/status/used").await, want.clone())
    })
    .await;
}

fn pod(name: &str, more: Value) -> Value {
    let mut spec = json!({"containers":[{"name":"c","image":"i",
        "resources":{"requests":{"cpu":"500m","memory":"252Mi"},"limits":{"cpu":"1"}}}]});
    for (k, v) in more.as_object().into_iter().flatten() {
        spec[k] = v.clone();
    }
    json!({"metadata":{"name":name},"spec":spec})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_counted_while_they_live() {
    let c = start().await;
    let hard = json!({"pods":"5","count/pods":"5","requests.cpu":"2","memory":"1Gi","limits.cpu":"4","secrets":"9"});
    let quota = json!({"metadata":{"name":"all"},"spec":{"hard":hard}});
    c.create("quota", quota).await;
    let used = |n: &str, lives: &str, cpu: &str, memory: &str, limit: &str| json!({"pods":lives,"count/pods":n,"requests.cpu":cpu,"memory":memory,"limits.cpu":limit,"secrets":"0"});
    uses(&c, "all", used("0", "0", "0", "0", "0")).await;
    assert_eq!(c.field("quota", "all", "/status/hard").await, hard);
    c.create("pod", pod("a", json!({}))).await;
    c.create("pod", pod("b", json!({"activeDeadlineSeconds":3600})))
        .await;
    uses(&c, "all", used("2", "2", "1", "504Mi", "2")).await;
    eventually("they run", || async { same(c.ready_pods().await, 2) }).await;
    // one that has ended is an object, and uses nothing
    c.api("pod")
        .patch_status(
            "a",
            &Default::default(),
            &kube::api::Patch::Merge(json!({"status":{"phase":"Succeeded"}})),
        )
        .await
        .unwrap();
    uses(&c, "all", used("2", "1", "500m", "252Mi", "1")).await;
    for name in ["a", "b"] {
        c.delete("pod", name, DeleteParams::default()).await;
    }
    uses(&c, "all", used("0", "0", "0", "0", "0")).await;
    // another set of names replaces the first
    let hard =
        json!({"requests.cpu":null,"memory":null,"limits.cpu":null,"count/pods":null,"pods":"3"});
    c.patch("quota", "all", json!({"spec":{"hard":hard}})).await;
    uses(&c, "all", json!({"pods":"0","secrets":"0"})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scopes_choose_the_pods() {
    let c = start().await;
    for (name, spec) in [
        ("deadline", json!({"scopes":["Terminating"]})),
        ("endless", json!({"scopes":["NotTerminating"]})),
        ("best", json!({"scopes":["BestEffort"]})),
        (
            "urgent",
            json!({"scopeSelector":{"matchExpressions":[
            {"scopeName":"PriorityClass","operator":"In","values":["system-node-critical"]}]}}),
        ),
    ] {
        let mut spec = spec;
        spec["hard"] = json!({"pods":"9"});
        c.create("quota", json!({"metadata":{"name":name},"spec":spec}))
            .await;
    }
    c.create("pod", pod("a", json!({"activeDeadlineSeconds":3600})))
        .await;
    c.create("pod", pod("b", json!({}))).await;
    c.create(
        "pod",
        pod("c", json!({"containers":[{"name":"c","image":"i"}]})),
    )
    .await;
    uses(&c, "deadline", json!({"pods":"1"})).await;
    uses(&c, "endless", json!({"pods":"2"})).await;
    uses(&c, "best", json!({"pods":"1"})).await;
    uses(&c, "urgent", json!({"pods":"0"})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_other_kinds() {
    let c = start().await;
    let hard = json!({"count/replicasets.apps":"5","configmaps":"9","services":"9","services.nodeports":"9",
        "persistentvolumeclaims":"9","requests.storage":"10Gi",
        "gold.storageclass.storage.k8s.io/requests.storage":"5Gi","count/nothings.example.com":"1"});
    c.create(
        "quota",
        json!({"metadata":{"name":"all"},"spec":{"hard":hard}}),
    )
    .await;
    let used = |sets: &str,
                maps: &str,
                services: &str,
                ports: &str,
                claims: &str,
                all: &str,
                gold: &str| {
        json!({"count/replicasets.apps":sets,"configmaps":maps,"services":services,"services.nodeports":ports,
            "persistentvolumeclaims":claims,"requests.storage":all,
            "gold.storageclass.storage.k8s.io/requests.storage":gold})
    };
    // the namespace has its CA and the cluster's own service
    let maps = c.names("cm").await.len().max(1);
    let services = c.names("svc").await.len();
    let n = |n: usize| n.to_string();
    uses(
        &c,
        "all",
        used("0", &n(maps), &n(services), "0", "0", "0", "0"),
    )
    .await;
    c.create("cm", json!({"metadata":{"name":"x"}})).await;
    c.create(
        "svc",
        json!({"metadata":{"name":"x"},"spec":{"type":"NodePort","ports":[{"port":80}]}}),
    )
    .await;
    for (name, class) in [("one", "gold"), ("two", "other")] {
        c.create(
            "pvc",
            json!({"metadata":{"name":name},"spec":{"storageClassName":class,
            "accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}),
        )
        .await;
    }
    uses(
        &c,
        "all",
        used("0", &n(maps + 1), &n(services + 1), "1", "2", "2Gi", "1Gi"),
    )
    .await;
    c.patch("svc", "x", json!({"spec":{"type":"ClusterIP"}}))
        .await;
    c.delete("pvc", "one", DeleteParams::default()).await;
    c.delete("cm", "x", DeleteParams::default()).await;
    uses(
        &c,
        "all",
        used("0", &n(maps), &n(services + 1), "0", "1", "1Gi", "0"),
    )
    .await;
}
