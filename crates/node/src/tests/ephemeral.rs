//! Containers added to a Pod that runs already.

use serde_json::json;

use super::fake::World;

fn running(pod: &serde_json::Value, index: usize) -> bool {
    pod["status"]["ephemeralContainerStatuses"][index]["state"]["running"].is_object()
}

#[tokio::test]
async fn one_is_added_sees_its_target_and_never_restarts() {
    let world = World::new().await;
    let main = json!({"containers": [{"name": "c", "image": "app:1", "command": ["run"]}]});
    world.create("web", main).await;
    world.until_ready("web").await;
    let first =
        json!({"name": "look", "image": "app:1", "command": ["run"], "targetContainerName": "c"});
    let path = "pods/web/ephemeralcontainers";
    world
        .patch(path, json!({"spec": {"ephemeralContainers": [first]}}))
        .await;
    world.until("web", |p| running(p, 0)).await;
    let spec = world.engine.spec_of("look").unwrap();
    assert_eq!(spec.pid_of, world.engine.id_of("c"));

    let second = json!({"name": "more", "image": "app:1", "command": ["exit", "3"]});
    world
        .patch(
            path,
            json!({"spec": {"ephemeralContainers": [first, second]}}),
        )
        .await;
    let pod = world
        .until("web", |p| {
            p["status"]["ephemeralContainerStatuses"][1]["state"]["terminated"]["exitCode"] == 3
        })
        .await;
    assert!(running(&pod, 0));
    assert_eq!(world.engine.spec_of("more").unwrap().pid_of, None);
    let status = &pod["status"];
    assert_eq!(status["phase"], "Running");
    assert_eq!(super::fake::condition(&pod, "Ready"), "True");
    assert_eq!(status["ephemeralContainerStatuses"][0]["ready"], false);
    assert_eq!(status["ephemeralContainerStatuses"][1]["restartCount"], 0);
    assert_eq!(*world.engine.runs.lock(), ["c", "look", "more"]);

    world.delete("web", None).await;
    world.until("web", |p| p.is_null()).await;
    world.until_clean().await;
}

#[tokio::test]
async fn it_starts_beside_init_containers_that_fail_and_survives_a_restart_of_the_node() {
    let mut world = World::new().await;
    let spec = json!({
        "initContainers": [{"name": "i", "image": "app:1", "command": ["run"]}],
        "containers": [{"name": "c", "image": "app:1", "command": ["run"]}],
    });
    world.create("p", spec).await;
    let look =
        json!({"name": "look", "image": "app:1", "command": ["run"], "targetContainerName": "c"});
    let free = json!({"name": "free", "image": "app:1", "command": ["run"]});
    world
        .patch(
            "pods/p/ephemeralcontainers",
            json!({"spec": {"ephemeralContainers": [look, free]}}),
        )
        .await;
    let pod = world
        .until("p", |p| {
            let waiting = &p["status"]["ephemeralContainerStatuses"][0]["state"]["waiting"];
            // the init container starts beside them, in no order
            running(p, 1)
                && p["status"]["initContainerStatuses"][0]["state"]["running"].is_object()
                && waiting["reason"] == "CreateContainerConfigError"
                && waiting["message"] == "unable to find target container c"
        })
        .await;
    assert_eq!(pod["status"]["phase"], "Pending");

    world.stop_node().await;
    world.start_node().await;
    world
        .engine
        .end(&world.engine.id_of("i").unwrap(), 0, None, false);
    // the target runs now, and what ran before was not started twice
    let pod = world.until("p", |p| running(p, 0)).await;
    assert!(running(&pod, 1));
    let runs = world.engine.runs.lock().clone();
    assert_eq!(runs.iter().filter(|r| *r == "free").count(), 1, "{runs:?}");
}
