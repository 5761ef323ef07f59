//! The ranges of Services' addresses, and IPAddresses that don't agree with the Services.

mod cluster;

use cluster::{Cluster, bare, eventually, same};
use serde_json::{Value, json};

async fn addresses() -> Cluster {
    bare(Some(vec!["servicecidr".into(), "serviceaddresses".into()])).await
}

fn service(name: &str, spec: Value) -> Value {
    let mut o = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    for (key, value) in spec.as_object().unwrap() {
        o["spec"][key] = value.clone();
    }
    o
}

async fn ready(c: &Cluster, name: &str, want: &str) {
    eventually("the condition", || async {
        let condition = c.field("range", name, "/status/conditions/0").await;
        same(condition["status"].as_str().unwrap_or("none"), want)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_is_ready_and_stays_while_it_is_used() {
    let c = addresses().await;
    let more = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.99.0.0/24"]}});
    c.create("range", more).await;
    ready(&c, "more", "True").await;
    let range = c.get("range", "more").await.unwrap();
    assert_eq!(
        range["metadata"]["finalizers"],
        json!(["networking.k8s.io/service-cidr-finalizer"])
    );
    let condition = &range["status"]["conditions"][0];
    assert_eq!(condition["message"], "Kubernetes Service CIDR is ready");
    let ip = "10.99.0.7";
    c.create("svc", service("web", json!({"clusterIP": ip})))
        .await;
    c.delete("range", "more", Default::default()).await;
    ready(&c, "more", "False").await;
    let condition = c.field("range", "more", "/status/conditions/0").await;
    assert_eq!(condition["reason"], "Terminating");
    // the platform's own range stays, too
    c.delete("range", "kubernetes", Default::default()).await;
    ready(&c, "kubernetes", "False").await;
    // nothing needs it any more
    c.delete("svc", "web", Default::default()).await;
    eventually("gone", || async {
        match c.get("range", "more").await {
            None => Ok(()),
            Some(there) => Err(there.to_string()),
        }
    })
    .await;
    assert!(c.get("range", "kubernetes").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_agree_is_mended() {
    let c = addresses().await;
    let made = c.create("svc", service("web", json!({}))).await;
    let ip = made["spec"]["clusterIP"].as_str().unwrap().to_string();
    let of_web = || async {
        let parent = c.field("address", &ip, "/spec/parentRef").await;
        same(
            parent,
            json!({"resource": "services", "namespace": "default", "name": "web"}),
        )
    };
    eventually("at first", of_web).await;
    let uid = c.field("address", &ip, "/metadata/uid").await;
    c.delete("address", &ip, Default::default()).await;
    eventually("made again", of_web).await;
    assert_ne!(c.field("address", &ip, "/metadata/uid").await, uid);
    // the label says whose it is
    let label = "ipaddress.kubernetes.io/managed-by";
    c.patch(
        "address",
        &ip,
        json!({"metadata": {"labels": {label: null}}}),
    )
    .await;
    eventually("labelled again", || async {
        let labels = c.field("address", &ip, "/metadata/labels").await;
        same(labels[label].clone(), json!("ipallocator.k8s.io"))
    })
    .await;
    // one that belongs to nobody's Service
    let stray = json!({"metadata": {"name": "10.43.9.9", "labels": {label: "ipallocator.k8s.io", "ipaddress.kubernetes.io/ip-family": "IPv4"}},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "web"}}});
    c.create("address", stray).await;
    eventually("cleaned up", || async {
        match c.get("address", "10.43.9.9").await {
            None => Ok(()),
            Some(there) => Err(there.to_string()),
        }
    })
    .await;
    of_web().await.unwrap();
}
