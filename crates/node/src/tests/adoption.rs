//! The platform comes back: what ran still runs, what ended is accounted for, what was deleted goes.

use serde_json::json;

use super::fake::{World, condition};

#[tokio::test]
async fn running_containers_are_taken_over_as_they_are() {
    let mut world = World::new().await;
    let spec = json!({
        "initContainers": [{"name": "i", "image": "app:1", "command": ["exit", "0"]}],
        "containers": [{"name": "c", "image": "app:1", "command": ["run"],
            "readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 1}}],
    });
    world.create("p", spec).await;
    let before = world.until_ready("p").await;
    let id = world.engine.id_of("c").unwrap();
    world.stop_node().await;
    world.start_node().await;
    // Its probe goes on.
    world.engine.execs.lock().clear();
    world
        .until_true("it's probed again", || {
            !world.engine.execs.lock().is_empty()
        })
        .await;
    let after = world.get("p").await;
    assert_eq!(world.engine.id_of("c").unwrap(), id);
    assert_eq!(*world.engine.runs.lock(), ["i", "c"]);
    for path in [
        "/status/containerStatuses",
        "/status/initContainerStatuses",
        "/status/conditions",
        "/status/podIP",
        "/status/startTime",
    ] {
        assert_eq!(before.pointer(path), after.pointer(path), "{path}");
    }
    // And it's still the node's: an end is seen and acted on.
    world.engine.end(&id, 1, None, false);
    let pod = world
        .until("p", |p| {
            p["status"]["containerStatuses"][0]["restartCount"] == 1
        })
        .await;
    assert_eq!(
        pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["containerID"],
        format!("knarr://{id}")
    );
}

#[tokio::test]
async fn an_exit_nobody_saw_is_handled_by_its_record() {
    let mut world = World::new().await;
    let container = |n: &str| json!({"name": n, "image": "app:1", "command": ["run"]});
    world
        .create(
            "never",
            json!({"restartPolicy": "Never", "containers": [container("a")]}),
        )
        .await;
    world
        .create("always", json!({"containers": [container("b")]}))
        .await;
    world.until_ready("never").await;
    world.until_ready("always").await;
    let (a, b) = (
        world.engine.id_of("a").unwrap(),
        world.engine.id_of("b").unwrap(),
    );
    world.stop_node().await;
    world.engine.end(&a, 42, None, false);
    world.engine.end(&b, 43, None, false);
    world.start_node().await;
    let pod = world.until_phase("never", "Failed").await;
    assert_eq!(
        pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"],
        42
    );
    let pod = world
        .until("always", |p| {
            p["status"]["containerStatuses"][0]["restartCount"] == 1
                && condition(p, "Ready") == "True"
        })
        .await;
    assert_eq!(
        pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"],
        43
    );
}

#[tokio::test]
async fn pods_deleted_meanwhile_are_stopped_and_cleared() {
    let mut world = World::new().await;
    let container = json!({"name": "c", "image": "app:1", "command": ["run"]});
    world
        .create("asked", json!({"containers": [container.clone()]}))
        .await;
    world
        .create("forced", json!({"containers": [container]}))
        .await;
    world.until_ready("asked").await;
    world.until_ready("forced").await;
    let (one, two) = (world.folder("asked").await, world.folder("forced").await);
    world.stop_node().await;
    world.delete("asked", None).await;
    world.delete("forced", Some(0)).await;
    assert!(world.get("forced").await.is_null());
    world.start_node().await;
    world.until("asked", |p| p.is_null()).await;
    world.until_clean().await;
    world
        .until_true("folders are gone", || !one.exists() && !two.exists())
        .await;
    assert_eq!(*world.engine.signals.lock(), ["c 15", "c 15"]);
}

#[tokio::test]
async fn after_a_reboot_pods_are_made_anew() {
    let mut world = World::new().await;
    world
        .create(
            "p",
            json!({"initContainers": [{"name": "i", "image": "app:1", "command": ["exit", "0"]}],
            "containers": [{"name": "c", "image": "app:1", "command": ["run"]}]}),
        )
        .await;
    world.until_ready("p").await;
    world.create("done", json!({"restartPolicy": "Never", "containers": [{"name": "d", "image": "app:1", "command": ["exit", "0"]}]})).await;
    let done = world.until_phase("done", "Succeeded").await;
    world.stop_node().await;
    world.engine = std::sync::Arc::default();
    world.start_node().await;
    let pod = world
        .until("p", |p| {
            p["status"]["containerStatuses"][0]["restartCount"] == 1
                && condition(p, "Ready") == "True"
        })
        .await;
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(
        (&last["reason"], &last["exitCode"]),
        (&json!("ContainerStatusUnknown"), &json!(137))
    );
    assert_eq!(
        world.get("done").await["status"],
        done["status"],
        "what had ended stays as it was"
    );
    assert_eq!(
        *world.engine.runs.lock(),
        ["i", "c"],
        "init containers, too"
    );
}

#[tokio::test]
async fn a_finished_pod_goes_when_it_is_deleted_later() {
    let mut world = World::new().await;
    world.create("p", json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "app:1", "command": ["exit", "0"]}]})).await;
    world.until_phase("p", "Succeeded").await;
    world.until_clean().await;
    let dir = world.folder("p").await;
    assert!(
        dir.join("c/0.log").exists(),
        "logs stay as long as the object"
    );
    world.stop_node().await;
    world.start_node().await;
    world.delete("p", None).await;
    world.until("p", |p| p.is_null()).await;
    world
        .until_true("the folder is gone", || !dir.exists())
        .await;
}

#[tokio::test]
async fn a_purge_leaves_no_mount_and_no_file() {
    assert!(
        rustix::process::getuid().is_root(),
        "this test needs root: it mounts tmpfs"
    );
    let mut world = World::new().await;
    let spec = json!({
        "volumes": [{"name": "fast", "emptyDir": {"medium": "Memory"}}],
        "containers": [{"name": "c", "image": "app:1", "command": ["run"],
            "volumeMounts": [{"name": "fast", "mountPath": "/fast", "subPath": "sub"}]}],
    });
    world.create("p", spec).await;
    world.until_ready("p").await;
    let data = world.dir.path().join("node");
    assert_eq!(crate::volumes::mounts::below(&data).unwrap().len(), 2);
    world.stop_node().await;
    crate::purge(&data).unwrap();
    assert_eq!(crate::volumes::mounts::below(&data).unwrap().len(), 0);
    assert!(!data.join("pods").exists());
    crate::purge(&data).unwrap();
}
