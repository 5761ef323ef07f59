//! Probes at work: ready soon, killed when unwell.

use serde_json::json;

use super::fake::{World, condition};

#[tokio::test]
async fn ready_comes_with_the_first_success_and_goes_with_failures() {
    let world = World::new().await;
    world.engine.exec_codes.lock().insert("ready?".into(), 1);
    let container = json!({"name": "c", "image": "app:1", "command": ["run"],
        "readinessProbe": {"exec": {"command": ["ready?"]}, "periodSeconds": 1, "failureThreshold": 1}});
    world.create("p", json!({"containers": [container]})).await;
    let pod = world
        .until("p", |p| {
            p["status"]["containerStatuses"][0]["state"]["running"].is_object()
        })
        .await;
    assert_eq!(
        (
            condition(&pod, "Ready"),
            &pod["status"]["containerStatuses"][0]["started"]
        ),
        ("False", &json!(true))
    );
    assert_eq!(
        pod["status"]["conditions"][2]["message"],
        "containers with unready status: [c]"
    );
    world.engine.exec_codes.lock().insert("ready?".into(), 0);
    world.until_ready("p").await;
    world.engine.exec_codes.lock().insert("ready?".into(), 1);
    world.until("p", |p| condition(p, "Ready") == "False").await;
    world
        .until_event("p", |r, m| {
            r == "Unhealthy" && m == "Readiness probe failed: ready? says 1"
        })
        .await;
    assert_eq!(*world.engine.runs.lock(), ["c"], "readiness kills nobody");
}

#[tokio::test]
async fn a_port_is_found_as_soon_as_it_listens() {
    let world = World::new().await;
    // taken from the start, so that it is nobody else's, and refusing until it listens
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.1.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    let container = json!({"name": "c", "image": "app:1", "command": ["run"],
        "ports": [{"name": "web", "containerPort": port}],
        "readinessProbe": {"tcpSocket": {"port": "web"}, "periodSeconds": 60}});
    world.create("p", json!({"containers": [container]})).await;
    world
        .until("p", |p| {
            p["status"]["containerStatuses"][0]["state"]["running"].is_object()
        })
        .await;
    let _listener = socket.listen(16).unwrap();
    world.until_ready("p").await;
}

#[tokio::test]
async fn liveness_restarts_after_its_threshold() {
    let world = World::new().await;
    world.engine.exec_codes.lock().insert("alive?".into(), 1);
    let container = json!({"name": "c", "image": "app:1", "command": ["run"],
        "livenessProbe": {"exec": {"command": ["alive?"]}, "periodSeconds": 1, "failureThreshold": 2}});
    world.create("p", json!({"containers": [container]})).await;
    let pod = world
        .until("p", |p| {
            p["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(1)
        })
        .await;
    assert_eq!(pod["status"]["phase"], "Running");
    world
        .until_event("p", |r, m| {
            r == "Killing" && m == "Container c failed liveness probe, will be restarted"
        })
        .await;
    assert_eq!(world.engine.signals.lock()[0], "c 15");
}

#[tokio::test]
async fn startup_holds_the_others_back() {
    let world = World::new().await;
    world.engine.exec_codes.lock().insert("up?".into(), 1);
    let container = json!({"name": "c", "image": "app:1", "command": ["run"],
        "startupProbe": {"exec": {"command": ["up?"]}, "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": {"exec": {"command": ["ready?"]}, "periodSeconds": 1},
        "livenessProbe": {"exec": {"command": ["alive?"]}, "periodSeconds": 1}});
    world.create("p", json!({"containers": [container]})).await;
    world
        .until_true("it's asked a few times", || {
            world.engine.execs.lock().len() >= 4
        })
        .await;
    assert!(world.engine.execs.lock().iter().all(|e| e == "up?"));
    let pod = world.get("p").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["started"], false);
    world.engine.exec_codes.lock().insert("up?".into(), 0);
    let pod = world.until_ready("p").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["started"], true);
}

#[tokio::test]
async fn a_startup_that_never_comes_is_restarted() {
    let world = World::new().await;
    world.engine.exec_codes.lock().insert("up?".into(), 1);
    let container = json!({"name": "c", "image": "app:1", "command": ["run"],
        "startupProbe": {"exec": {"command": ["up?"]}, "periodSeconds": 1, "failureThreshold": 1}});
    world
        .create(
            "p",
            json!({"restartPolicy": "Never", "containers": [container]}),
        )
        .await;
    world
        .until("p", |p| {
            p["status"]["containerStatuses"][0]["state"]["terminated"].is_object()
        })
        .await;
    world
        .until_event("p", |r, m| {
            r == "Killing" && m.contains("failed startup probe")
        })
        .await;
}

#[tokio::test]
async fn a_probe_that_cannot_be_run_is_told() {
    let world = World::new().await;
    world.engine.exec_codes.lock().insert("nowhere".into(), -1);
    let container = json!({"name": "c", "image": "app:1", "command": ["run"],
        "readinessProbe": {"exec": {"command": ["nowhere"]}, "periodSeconds": 1}});
    world.create("p", json!({"containers": [container]})).await;
    world
        .until_event("p", |r, m| {
            r == "Unhealthy" && m == "Readiness probe errored: no such command"
        })
        .await;
    let pod = world.get("p").await;
    assert_eq!(condition(&pod, "Ready"), "False");
}
