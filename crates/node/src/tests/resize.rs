//! Other requests and limits for a Pod that runs.

use serde_json::{Value, json};

use super::fake::{World, condition};

fn container(resources: Value) -> Value {
    json!({"name": "c", "image": "app:1", "command": ["run"], "resources": resources})
}

async fn resize(world: &World, pod: &str, resources: Value) {
    let patch = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
    world
        .patch_strategic(&format!("pods/{pod}/resize"), patch)
        .await;
}

/// All of the last generation is in force.
fn settled(pod: &Value) -> bool {
    pod["status"]["observedGeneration"] == pod["metadata"]["generation"]
        && condition(pod, "PodResizePending") == "none"
        && condition(pod, "PodResizeInProgress") == "none"
        && condition(pod, "Ready") == "True"
}

fn told<'a>(pod: &'a Value, type_: &str, field: &str) -> &'a str {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.into_iter().find(|c| c["type"] == type_);
    found.and_then(|c| c[field].as_str()).unwrap_or("none")
}

#[tokio::test]
async fn cgroups_are_set_and_nothing_restarts() {
    let world = World::new().await;
    let before = json!({"requests": {"cpu": "10m", "memory": "20Mi"}, "limits": {"cpu": "20m", "memory": "30Mi"}});
    world
        .create("p", json!({"containers": [container(before.clone())]}))
        .await;
    let pod = world.until_ready("p").await;
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["resources"], before);
    assert_eq!(status["allocatedResources"], before["requests"]);
    assert_eq!(pod["status"]["resources"], before);
    let after = json!({"requests": {"cpu": "15m", "memory": "20Mi"}, "limits": {"cpu": "40m", "memory": "60Mi"}});
    resize(&world, "p", after.clone()).await;
    let pod = world
        .until("p", |p| settled(p) && p["metadata"]["generation"] == 2)
        .await;
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["resources"], after);
    assert_eq!(status["allocatedResources"], after["requests"]);
    assert_eq!(status["restartCount"], 0);
    assert_eq!(pod["status"]["allocatedResources"], after["requests"]);
    let limits = world.engine.spec_of("c").unwrap().resources;
    assert_eq!(limits.memory_limit_bytes, Some(60 << 20));
    assert_eq!(limits.cpu_quota_us, Some(4000));
    let groups = world.engine.groups.lock().clone();
    let mut of_pods = groups
        .iter()
        .filter(|(path, _)| path.starts_with("kubepods/burstable/pod"));
    let (_, group) = of_pods.next().unwrap();
    assert_eq!(group.memory_limit_bytes, Some(60 << 20));
    world
        .until_event("p", |r, m| r == "ResizeStarted" && m.contains("\"40m\""))
        .await;
    world.until_event("p", |r, _| r == "ResizeCompleted").await;
    assert_eq!(*world.engine.runs.lock(), ["c"]);
}

#[tokio::test]
async fn a_policy_may_ask_for_a_restart() {
    let world = World::new().await;
    let mut restarting = container(json!({"limits": {"cpu": "20m", "memory": "30Mi"}}));
    restarting["resizePolicy"] =
        json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    world.create("p", json!({"containers": [restarting]})).await;
    world.until_ready("p").await;
    let cpu_only = json!({"requests": {"cpu": "30m", "memory": "30Mi"}, "limits": {"cpu": "30m", "memory": "30Mi"}});
    resize(&world, "p", cpu_only).await;
    let pod = world
        .until("p", |p| settled(p) && p["metadata"]["generation"] == 2)
        .await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    let memory = json!({"requests": {"cpu": "30m", "memory": "40Mi"}, "limits": {"cpu": "30m", "memory": "40Mi"}});
    resize(&world, "p", memory).await;
    let pod = world
        .until("p", |p| {
            settled(p) && p["status"]["containerStatuses"][0]["restartCount"] == 1
        })
        .await;
    let shown = &pod["status"]["containerStatuses"][0]["resources"];
    assert_eq!(shown["limits"]["memory"], "40Mi");
    world
        .until_event("p", |r, m| {
            r == "Killing" && m == "Container c resize requires restart"
        })
        .await;
    let limits = world.engine.spec_of("c").unwrap().resources;
    assert_eq!(limits.memory_limit_bytes, Some(40 << 20));
}

#[tokio::test]
async fn what_does_not_fit_waits_for_another_to_go_also_over_a_restart_of_the_node() {
    let mut world = World::new().await;
    let cpus = std::thread::available_parallelism().unwrap().get() * 1000;
    let most = format!("{}m", cpus * 6 / 10);
    let asks = |cpu: &str| json!({"containers": [container(json!({"requests": {"cpu": cpu}}))]});
    world.create("big", asks(&most)).await;
    world.create("p", asks("10m")).await;
    world.until_ready("big").await;
    world.until_ready("p").await;
    resize(&world, "p", json!({"requests": {"cpu": most}})).await;
    let pod = world
        .until("p", |p| condition(p, "PodResizePending") == "True")
        .await;
    assert_eq!(told(&pod, "PodResizePending", "reason"), "Deferred");
    let message = told(&pod, "PodResizePending", "message");
    assert!(
        message.starts_with("Node didn't have enough resource: cpu, requested:"),
        "{message}"
    );
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["allocatedResources"]["cpu"], "10m");
    assert_eq!(status["resources"]["requests"]["cpu"], "10m");

    world.stop_node().await;
    world.start_node().await;
    world.delete("big", None).await;
    let pod = world.until("p", settled).await;
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["allocatedResources"]["cpu"], most.as_str());
    assert_eq!(status["restartCount"], 0);
}

#[tokio::test]
async fn memory_in_use_is_not_taken_away() {
    let world = World::new().await;
    world
        .create("p", json!({"containers": [container(json!({"limits": {"memory": "60Mi"}, "requests": {"memory": "10Mi"}}))]}))
        .await;
    world.until_ready("p").await;
    world.engine.memory_used.lock().insert("c".into(), 50 << 20);
    let less = json!({"limits": {"memory": "40Mi"}, "requests": {"memory": "10Mi"}});
    resize(&world, "p", less).await;
    let pod = world
        .until("p", |p| told(p, "PodResizeInProgress", "reason") == "Error")
        .await;
    assert_eq!(
        told(&pod, "PodResizeInProgress", "message"),
        "cannot decrease memory limits: attempting to set container \"c\" memory limit (41943040) below current usage (52428800)"
    );
    let shown = &pod["status"]["containerStatuses"][0]["resources"];
    assert_eq!(shown["limits"]["memory"], "60Mi", "that is still in force");
    world.engine.memory_used.lock().insert("c".into(), 1 << 20);
    let pod = world.until("p", settled).await;
    let shown = &pod["status"]["containerStatuses"][0]["resources"];
    assert_eq!(shown["limits"]["memory"], "40Mi");
    world.until_event("p", |r, _| r == "ResizeError").await;
}

#[tokio::test]
async fn a_pod_the_node_has_no_room_for_is_rejected() {
    let world = World::new().await;
    let huge = container(json!({"requests": {"cpu": "100k"}}));
    world.create("p", json!({"containers": [huge]})).await;
    let pod = world.until_phase("p", "Failed").await;
    assert_eq!(pod["status"]["reason"], "OutOfcpu");
    let message = pod["status"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("Pod was rejected: Node didn't have enough resource: cpu, requested: 100000000, used: 0, capacity:"),
        "{message}"
    );
    world
        .create(
            "w",
            json!({"os": {"name": "windows"}, "containers": [container(json!({}))]}),
        )
        .await;
    let pod = world.until_phase("w", "Failed").await;
    assert_eq!(pod["status"]["reason"], "PodOSNotSupported");
}
