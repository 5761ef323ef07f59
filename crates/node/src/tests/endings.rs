//! How Pods are stopped: grace, hooks, deadlines, force.

use std::time::{Duration, Instant};

use serde_json::json;

use super::fake::World;

fn one(command: &[&str], more: serde_json::Value) -> serde_json::Value {
    let mut container = json!({"name": "c", "image": "app:1", "command": command});
    for (key, value) in more.as_object().unwrap() {
        container[key] = value.clone();
    }
    container
}

#[tokio::test]
async fn what_ignores_the_signal_is_killed_when_its_grace_is_over() {
    let world = World::new().await;
    let spec =
        json!({"terminationGracePeriodSeconds": 1, "containers": [one(&["stubborn"], json!({}))]});
    world.create("p", spec).await;
    world.until_ready("p").await;
    let start = Instant::now();
    world.delete("p", None).await;
    world.until("p", |p| p.is_null()).await;
    assert!(start.elapsed() >= Duration::from_millis(900));
    assert_eq!(*world.engine.signals.lock(), ["c 15", "c 9"]);
    world.until_clean().await;
}

#[tokio::test]
async fn a_second_delete_shortens_the_grace() {
    let world = World::new().await;
    let spec = json!({"terminationGracePeriodSeconds": 3600, "containers": [one(&["stubborn"], json!({}))]});
    world.create("p", spec).await;
    world.until_ready("p").await;
    world.delete("p", None).await;
    world
        .until_true("SIGTERM", || !world.engine.signals.lock().is_empty())
        .await;
    world.delete("p", Some(1)).await;
    world.until("p", |p| p.is_null()).await;
    assert_eq!(*world.engine.signals.lock(), ["c 15", "c 9"]);
}

#[tokio::test]
async fn a_forced_delete_still_cleans_the_machine() {
    let world = World::new().await;
    let spec = json!({"terminationGracePeriodSeconds": 3600, "containers": [one(&["stubborn"], json!({}))]});
    world.create("p", spec).await;
    world.until_ready("p").await;
    let dir = world.folder("p").await;
    world.delete("p", Some(0)).await;
    assert!(world.get("p").await.is_null());
    world.until_clean().await;
    world
        .until_true("the folder is gone", || !dir.exists())
        .await;
}

#[tokio::test]
async fn pre_stop_comes_before_the_signal() {
    let world = World::new().await;
    let hook = json!({"lifecycle": {"preStop": {"exec": {"command": ["say", "bye"]}}}});
    world
        .create("p", json!({"containers": [one(&["run"], hook)]}))
        .await;
    world.until_ready("p").await;
    world.delete("p", None).await;
    world.until("p", |p| p.is_null()).await;
    assert_eq!(*world.engine.execs.lock(), ["say bye"]);
    assert_eq!(*world.engine.signals.lock(), ["c 15"]);
}

#[tokio::test]
async fn a_pre_stop_that_hangs_ends_with_the_grace() {
    let world = World::new().await;
    let hook = json!({"lifecycle": {"preStop": {"sleep": {"seconds": 3600}}}});
    world
        .create(
            "p",
            json!({"terminationGracePeriodSeconds": 3601, "containers": [one(&["run"], hook)]}),
        )
        .await;
    world.until_ready("p").await;
    world.delete("p", Some(1)).await;
    world.until("p", |p| p.is_null()).await;
    world
        .until_event("p", |r, _| r == "FailedPreStopHook")
        .await;
    assert_eq!(
        *world.engine.signals.lock(),
        ["c 15"],
        "it's still asked nicely first"
    );
}

#[tokio::test]
async fn a_post_start_that_fails_kills_the_container() {
    let world = World::new().await;
    world.engine.exec_codes.lock().insert("setup".into(), 5);
    let hook = json!({"lifecycle": {"postStart": {"exec": {"command": ["setup"]}}}});
    world
        .create(
            "p",
            json!({"restartPolicy": "Never", "containers": [one(&["run"], hook)]}),
        )
        .await;
    world
        .until("p", |p| {
            p["status"]["containerStatuses"][0]["state"]["terminated"].is_object()
        })
        .await;
    world
        .until_event("p", |r, m| {
            r == "FailedPostStartHook" && m.contains("exited with 5")
        })
        .await;
    assert_eq!(*world.engine.signals.lock(), ["c 15"]);
}

#[tokio::test]
async fn a_deadline_fails_the_pod() {
    let world = World::new().await;
    world
        .create("p", json!({"containers": [one(&["run"], json!({}))]}))
        .await;
    // it runs before its time is up, however slow the machine
    world.until_ready("p").await;
    world
        .patch("pods/p", json!({"spec": {"activeDeadlineSeconds": 1}}))
        .await;
    let pod = world.until_phase("p", "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    world.until_clean().await;
    assert!(world.get("p").await.is_object(), "the object stays");
    assert_eq!(*world.engine.signals.lock(), ["c 15"]);
}

#[tokio::test]
async fn finalizers_hold_the_object_and_not_the_machine() {
    let world = World::new().await;
    world
        .create("p", json!({"containers": [one(&["run"], json!({}))]}))
        .await;
    world.until_ready("p").await;
    world
        .patch(
            "pods/p",
            json!({"metadata": {"finalizers": ["example.com/hold"]}}),
        )
        .await;
    world.delete("p", None).await;
    world.until_clean().await;
    let pod = world.until_phase("p", "Succeeded").await;
    assert!(pod["metadata"]["deletionTimestamp"].is_string());
    world
        .patch("pods/p", json!({"metadata": {"finalizers": []}}))
        .await;
    world.until("p", |p| p.is_null()).await;
}

#[tokio::test]
async fn one_pods_trouble_is_its_own() {
    let world = World::new().await;
    let hook = json!({"lifecycle": {"postStart": {"sleep": {"seconds": 3600}}}});
    world
        .create(
            "slow",
            json!({"terminationGracePeriodSeconds": 3601, "containers": [one(&["run"], hook)]}),
        )
        .await;
    world
        .create(
            "stuck",
            json!({"containers": [one(&["run"], json!({"image": "missing:1"}))]}),
        )
        .await;
    world
        .until_true("slow is in its hook", || world.engine.id_of("c").is_some())
        .await;
    world
        .create("fine", json!({"containers": [one(&["run"], json!({}))]}))
        .await;
    world.until_ready("fine").await;
    world.delete("fine", None).await;
    world.until("fine", |p| p.is_null()).await;
}

#[tokio::test]
async fn a_task_that_panics_is_taken_up_again() {
    let world = World::new().await;
    *world.engine.panics.lock() = 1;
    world
        .create("p", json!({"containers": [one(&["run"], json!({}))]}))
        .await;
    world.until_ready("p").await;
    assert_eq!(*world.engine.runs.lock(), ["c", "c"]);
    world.delete("p", None).await;
    world.until("p", |p| p.is_null()).await;
    world.until_clean().await;
}

#[tokio::test]
async fn a_port_of_the_node_is_one_pods() {
    let world = World::new().await;
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [one(
        &["stubborn"], json!({"ports": [{"containerPort": 80, "hostPort": 21017, "protocol": "TCP"}]}))]});
    world.create("first", spec.clone()).await;
    world.until_ready("first").await;
    world.create("second", spec.clone()).await;
    let pod = world
        .until("second", |p| p["status"]["phase"] == "Failed")
        .await;
    assert_eq!(pod["status"]["reason"], "NodePorts");
    assert_eq!(
        pod["status"]["message"],
        "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
    );
    world.delete("first", None).await;
    world.until("first", |p| p.is_null()).await;
    world.create("third", spec).await;
    world.until_ready("third").await;
}

#[tokio::test]
async fn the_hooks_of_sidecars_run_at_once_and_their_signals_wait() {
    let world = World::new().await;
    let hook = |word: &str| json!({"preStop": {"exec": {"command": ["hook", word]}}});
    let spec = json!({
        "terminationGracePeriodSeconds": 40,
        "initContainers": [
            {"name": "s1", "image": "app:1", "command": ["run"], "restartPolicy": "Always", "lifecycle": hook("first")},
            {"name": "s2", "image": "app:1", "command": ["run"], "restartPolicy": "Always"},
        ],
        "containers": [{"name": "main", "image": "app:1", "command": ["stubborn"]}],
    });
    world.create("p", spec).await;
    world.until_ready("p").await;
    world.delete("p", None).await;
    world
        .until_true("the hook runs", || {
            world
                .engine
                .execs
                .lock()
                .iter()
                .any(|e| e.ends_with("first"))
        })
        .await;
    world
        .until_true("main is asked", || !world.engine.signals.lock().is_empty())
        .await;
    assert_eq!(*world.engine.signals.lock(), ["main 15"]);
    let main = world.engine.id_of("main").unwrap();
    world.engine.end(&main, 0, None, false);
    world.until("p", |p| p.is_null()).await;
    assert_eq!(*world.engine.signals.lock(), ["main 15", "s2 15", "s1 15"]);
}
