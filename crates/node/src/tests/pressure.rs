//! What a node does that is short of something.

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use serde_json::{Value, json};

use super::fake::World;
use crate::Settings;

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

/// A node that never has enough of something.
async fn short(more: &str) -> World {
    let mut world = World::without_node().await;
    world.settings = Settings::parse(&format!("{HEAD}{more}")).unwrap();
    world.start_node().await;
    world
}

fn asks(class: Option<&str>) -> Value {
    json!({"priorityClassName": class, "terminationGracePeriodSeconds": 3600, "containers": [{"name": "c", "image": "app:1",
        "command": ["stubborn"], "resources": {"requests": {"cpu": "10m"}}}]})
}

fn evicted(pod: &Value) -> bool {
    pod["status"]["phase"] == "Failed" && pod["status"]["reason"] == "Evicted"
}

#[tokio::test]
async fn one_short_of_memory_evicts_what_runs_and_refuses_best_effort() {
    let world = short("evictionHard: {memory.available: 1Pi}\n").await;
    let nodes: Api<Node> = Api::all(world.client.clone());
    let condition = async || {
        let node = nodes.get("n1").await.unwrap();
        let all = node.status.unwrap().conditions.unwrap();
        let found = all.into_iter().find(|c| c.type_ == "MemoryPressure");
        found.unwrap().status == "True"
    };
    let end = std::time::Instant::now() + super::fake::DEADLINE;
    while !condition().await {
        assert!(std::time::Instant::now() < end, "no MemoryPressure");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }

    world
        .create(
            "best-effort",
            json!({"containers": [{"name": "c", "image": "app:1"}]}),
        )
        .await;
    let pod = world.until("best-effort", evicted).await;
    assert_eq!(
        pod["status"]["message"],
        "Pod was rejected: The node had condition: [MemoryPressure]. "
    );

    world.create("burstable", asks(None)).await;
    let pod = world.until("burstable", evicted).await;
    let message = pod["status"]["message"].as_str().unwrap();
    assert!(
        message.starts_with(
            "The node was low on resource: memory. Threshold quantity: 1Pi, available: "
        ),
        "{message}"
    );
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    let disrupted = conditions.iter().find(|c| c["type"] == "DisruptionTarget");
    assert_eq!(disrupted.unwrap()["reason"], "TerminationByKubelet");
    // a second of patience, whatever the Pod says: it ignored the signal
    assert!(world.engine.signals.lock().contains(&"c 9".to_owned()));

    world.until_event("burstable", |r, _| r == "Evicted").await;
    world
        .until_event("n1", |r, _| r == "EvictionThresholdMet")
        .await;
}

#[tokio::test]
async fn the_important_stay() {
    let world = short("evictionHard: {memory.available: 1Pi}\n").await;
    world
        .create("critical", asks(Some("system-node-critical")))
        .await;
    world.until_ready("critical").await;
    world.create("other", asks(None)).await;
    world.until("other", evicted).await;
    assert_eq!(world.get("critical").await["status"]["phase"], "Running");
}

#[tokio::test]
async fn who_writes_more_than_allowed_goes() {
    let world = short("evictionHard: {memory.available: 0%}\n").await;
    let spec = json!({"containers": [{"name": "c", "image": "app:1", "command": ["stubborn"],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "16Ki"}}]});
    world.create("p", spec).await;
    world.until_ready("p").await;
    let volume = world.folder("p").await.join(".volumes/v");
    std::fs::write(volume.join("f"), vec![1; 64 << 10]).unwrap();
    let pod = world.until("p", evicted).await;
    assert_eq!(
        pod["status"]["message"],
        "Usage of EmptyDir volume \"v\" exceeds the limit \"16Ki\". "
    );
}

#[tokio::test]
async fn what_is_said_of_its_capacity_is_offered_to_pods() {
    let world = World::new().await;
    let nodes: Api<Node> = Api::all(world.client.clone());
    let x = "example.com/x";
    for amount in [json!("5"), json!("7"), Value::Null] {
        let patch = kube::api::Patch::Merge(json!({"status": {"capacity": {x: amount}}}));
        let done = nodes.patch_status("n1", &Default::default(), &patch).await;
        done.unwrap();
        let end = std::time::Instant::now() + super::fake::DEADLINE;
        loop {
            let status = nodes.get("n1").await.unwrap().status.unwrap();
            let offered = status.allocatable.unwrap_or_default().get(x).cloned();
            if json!(offered) == amount {
                break;
            }
            assert!(std::time::Instant::now() < end, "{offered:?}, not {amount}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}
