//! A Pod's life from creation to deletion.

use serde_json::json;

use super::fake::{World, condition};

#[tokio::test]
async fn a_pod_runs_is_ready_and_goes_without_a_trace() {
    let world = World::new().await;
    let made = world.create("web", json!({"containers": [{"name": "c", "image": "app:1", "command": ["run"]}]})).await;
    let pod = world.until_ready("web").await;
    let status = &pod["status"];
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIP"], "127.0.1.1");
    assert_eq!(status["podIPs"], json!([{"ip": "127.0.1.1"}]));
    assert_eq!(status["hostIP"], "127.0.0.1");
    assert_eq!(status["qosClass"], "BestEffort");
    for type_ in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&pod, type_), "True", "{type_}");
    }
    let container = &status["containerStatuses"][0];
    let id = world.engine.id_of("c").unwrap();
    assert_eq!(container["containerID"], format!("knarr://{id}"));
    assert_eq!(container["imageID"], "docker.io/library/app@sha256:0123");
    assert_eq!((&container["ready"], &container["started"], &container["restartCount"]), (&json!(true), &json!(true), &json!(0)));
    assert!(container["state"]["running"]["startedAt"].is_string());
    for reason in ["Pulled", "Created", "Started"] {
        world.until_event("web", |r, _| r == reason).await;
    }
    let uid = made.metadata.uid.unwrap();
    assert!(world.dir.path().join("node/pods").join(&uid).exists());

    world.delete("web", None).await;
    world.until("web", |p| p.is_null()).await;
    world.until_clean().await;
    assert_eq!(*world.engine.signals.lock(), ["c 15"]);
    assert!(!world.dir.path().join("node/pods").join(&uid).exists());
    world.until_event("web", |r, m| r == "Killing" && m == "Stopping container c").await;
}
