//! Containers that start again: by rule, together, and after a change.

use serde_json::{Value, json};

use super::fake::{World, condition};

fn restarts(pod: &Value, sort: &str) -> Vec<i64> {
    let list = pod["status"][sort].as_array().cloned().unwrap_or_default();
    list.iter()
        .filter_map(|c| c["restartCount"].as_i64())
        .collect()
}

#[tokio::test]
async fn one_exit_code_restarts_them_all_from_the_first_init_container_on() {
    let world = World::new().await;
    let all = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [
            {"name": "i", "image": "app:1", "command": ["exit", "0"]},
            {"name": "s", "image": "app:1", "command": ["run"], "restartPolicy": "Always"},
        ],
        "containers": [
            {"name": "a", "image": "app:1", "command": ["run"], "restartPolicy": "Never", "restartPolicyRules": all},
            {"name": "b", "image": "app:1", "command": ["stubborn"]},
        ],
    });
    world.create("p", spec).await;
    let pod = world.until_ready("p").await;
    assert_eq!(condition(&pod, "AllContainersRestarting"), "False");
    let source = world.engine.id_of("a").unwrap();
    world.engine.end(&source, 42, None, false);
    let pod = world
        .until("p", |p| {
            restarts(p, "containerStatuses") == [1, 1] && condition(p, "Ready") == "True"
        })
        .await;
    assert_eq!(restarts(&pod, "initContainerStatuses"), [1, 1]);
    assert_eq!(
        *world.engine.runs.lock(),
        ["i", "s", "a", "b", "i", "s", "a", "b"]
    );
    for container in pod["status"]["containerStatuses"].as_array().unwrap() {
        let last = &container["lastState"]["terminated"];
        assert_eq!(last["reason"], "RestartingAllContainers");
        assert_eq!(last["exitCode"], 137);
    }
    assert_eq!(condition(&pod, "AllContainersRestarting"), "False");
    assert_eq!(condition(&pod, "Initialized"), "True");
    // nobody was asked nicely, and nobody waits
    assert!(
        world
            .engine
            .signals
            .lock()
            .iter()
            .all(|s| s.ends_with(" 9"))
    );
    // another code ends the Pod as ever
    let again = world.engine.id_of("a").unwrap();
    world.engine.end(&again, 1, None, false);
    let other = world.engine.id_of("b").unwrap();
    world.engine.end(&other, 0, None, false);
    let pod = world.until_phase("p", "Failed").await;
    assert_eq!(restarts(&pod, "containerStatuses"), [1, 1]);
    assert_eq!(condition(&pod, "AllContainersRestarting"), "False");
}

#[tokio::test]
async fn a_changed_image_restarts_at_once_whatever_the_back_off_is() {
    let world = World::new().await;
    let failing =
        json!({"containers": [{"name": "c", "image": "app:1", "command": ["exit", "1"]}]});
    world.create("p", failing).await;
    world
        .until("p", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .await;
    let before = world.engine.runs.lock().len();
    let patch = json!({"spec": {"containers": [{"name": "c", "image": "app:2", "command": ["exit", "1"]}]}});
    world.patch_strategic("pods/p", patch).await;
    world
        .until_true("it runs again", || world.engine.runs.lock().len() > before)
        .await;
    // with a fresh back-off: one more restart comes at once
    world
        .until_true("and once more", || {
            world.engine.runs.lock().len() > before + 1
        })
        .await;
}

#[tokio::test]
async fn a_restart_of_all_goes_on_after_one_of_the_node() {
    let mut world = World::new().await;
    let all = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "i", "image": "app:1", "command": ["run"]}],
        "containers": [{"name": "a", "image": "app:1", "command": ["run"], "restartPolicy": "Never", "restartPolicyRules": all}],
    });
    world.create("p", spec).await;
    let init_runs = |n: usize| {
        let engine = world.engine.clone();
        move || engine.runs.lock().iter().filter(|r| *r == "i").count() == n
    };
    world.until_true("init runs", init_runs(1)).await;
    let id = world.engine.id_of("i").unwrap();
    world.engine.end(&id, 0, None, false);
    world.until_ready("p").await;
    let id = world.engine.id_of("a").unwrap();
    world.engine.end(&id, 42, None, false);
    world.until_true("init runs again", init_runs(2)).await;
    world
        .until("p", |p| {
            let waiting = &p["status"]["containerStatuses"][0]["state"]["waiting"];
            waiting["reason"] == "RestartingAllContainers"
        })
        .await;
    world.stop_node().await;
    world.start_node().await;
    let id = world.engine.id_of("i").unwrap();
    world.engine.end(&id, 0, None, false);
    let pod = world.until_ready("p").await;
    assert_eq!(restarts(&pod, "containerStatuses"), [1]);
    assert_eq!(*world.engine.runs.lock(), ["i", "a", "i", "a"]);
}
