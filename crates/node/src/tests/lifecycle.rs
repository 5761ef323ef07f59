//! A Pod's life from creation to deletion.

use serde_json::json;

use super::fake::{World, condition};

#[tokio::test]
async fn a_pod_runs_is_ready_and_goes_without_a_trace() {
    let world = World::new().await;
    let made = world
        .create(
            "web",
            json!({"containers": [{"name": "c", "image": "app:1", "command": ["run"]}]}),
        )
        .await;
    let pod = world.until_ready("web").await;
    let status = &pod["status"];
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIP"], "127.0.1.1");
    assert_eq!(status["podIPs"], json!([{"ip": "127.0.1.1"}]));
    assert_eq!(status["hostIP"], "127.0.0.1");
    assert_eq!(status["qosClass"], "BestEffort");
    for type_ in [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ] {
        assert_eq!(condition(&pod, type_), "True", "{type_}");
    }
    let container = &status["containerStatuses"][0];
    let id = world.engine.id_of("c").unwrap();
    assert_eq!(container["containerID"], format!("knarr://{id}"));
    assert_eq!(container["imageID"], "docker.io/library/app@sha256:0123");
    assert_eq!(
        (
            &container["ready"],
            &container["started"],
            &container["restartCount"]
        ),
        (&json!(true), &json!(true), &json!(0))
    );
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
    world
        .until_true("the folder is gone", || {
            !world.dir.path().join("node/pods").join(&uid).exists()
        })
        .await;
    world
        .until_event("web", |r, m| r == "Killing" && m == "Stopping container c")
        .await;
}

#[tokio::test]
async fn init_containers_run_in_order_and_sidecars_stay() {
    let world = World::new().await;
    let spec = json!({
        "terminationGracePeriodSeconds": 20,
        "initContainers": [
            {"name": "first", "image": "app:1", "command": ["exit", "0"]},
            {"name": "side", "image": "app:1", "command": ["run"], "restartPolicy": "Always"},
            {"name": "second", "image": "app:1", "command": ["run"]},
        ],
        "containers": [{"name": "main", "image": "app:1", "command": ["run"]}],
    });
    world.create("p", spec).await;
    let pod = world
        .until("p", |p| {
            p["status"]["initContainerStatuses"][2]["state"]["running"].is_object()
        })
        .await;
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(condition(&pod, "Initialized"), "False");
    assert_eq!(
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"],
        "PodInitializing"
    );
    assert_eq!(
        pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["reason"],
        "Completed"
    );
    assert_eq!(pod["status"]["initContainerStatuses"][0]["ready"], true);
    assert_eq!(pod["status"]["initContainerStatuses"][1]["started"], true);
    assert_eq!(*world.engine.runs.lock(), ["first", "side", "second"]);
    world
        .engine
        .end(&world.engine.id_of("second").unwrap(), 0, None, false);
    let pod = world.until_ready("p").await;
    assert_eq!(condition(&pod, "Initialized"), "True");
    assert_eq!(
        *world.engine.runs.lock(),
        ["first", "side", "second", "main"]
    );
    world.delete("p", None).await;
    world.until("p", |p| p.is_null()).await;
    assert_eq!(
        *world.engine.signals.lock(),
        ["main 15", "side 15"],
        "the sidecar goes last"
    );
}

#[tokio::test]
async fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let world = World::new().await;
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "i", "image": "app:1", "command": ["exit", "3"]}],
        "containers": [{"name": "main", "image": "app:1", "command": ["run"]}],
    });
    world.create("p", spec).await;
    let pod = world.until_phase("p", "Failed").await;
    assert_eq!(
        pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"],
        3
    );
    assert_eq!(*world.engine.runs.lock(), ["i"]);
    world.until_clean().await;
}

#[tokio::test]
async fn phases_follow_the_restart_policy() {
    let world = World::new().await;
    let check = async |name: &str, policy: &str, code: &str, want: &str| {
        let container = json!({"name": "c", "image": "app:1", "command": ["exit", code]});
        world
            .create(
                name,
                json!({"restartPolicy": policy, "containers": [container]}),
            )
            .await;
        let pod = world.until_phase(name, want).await;
        if want != "Running" {
            assert_eq!(condition(&pod, "Ready"), "False");
            assert_eq!(
                pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
                    .to_string(),
                code
            );
        }
    };
    check("never-0", "Never", "0", "Succeeded").await;
    check("never-1", "Never", "1", "Failed").await;
    check("fail-0", "OnFailure", "0", "Succeeded").await;
    check("fail-1", "OnFailure", "1", "Running").await;
    check("always-0", "Always", "0", "Running").await;
    let ready = world.get("never-0").await;
    let conditions = ready["status"]["conditions"].as_array().unwrap().clone();
    let reason = conditions.iter().find(|c| c["type"] == "Ready").unwrap()["reason"].clone();
    assert_eq!(reason, "PodCompleted");
}

#[tokio::test]
async fn a_crash_is_restarted_at_once_and_then_waits() {
    let world = World::new().await;
    world
        .create(
            "p",
            json!({"containers": [{"name": "c", "image": "app:1", "command": ["exit", "7"]}]}),
        )
        .await;
    let pod = world
        .until("p", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .await;
    let container = &pod["status"]["containerStatuses"][0];
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 7);
    assert_eq!(container["lastState"]["terminated"]["reason"], "Error");
    // the first restart was at once; on a machine that stood still it is no longer the first wait that is seen
    let restarts = container["restartCount"].as_u64().unwrap();
    let wait = match restarts {
        1 => "10s",
        2 => "20s",
        _ => "40s",
    };
    let message = container["state"]["waiting"]["message"].as_str().unwrap();
    let begin = format!("back-off {wait} restarting failed container=c pod=p_default(");
    assert!(message.starts_with(&begin), "{restarts}: {message}");
    assert_eq!(pod["status"]["phase"], "Running");
    world
        .until_event("p", |r, m| {
            r == "BackOff"
                && m.starts_with("Back-off restarting failed container c in pod p_default(")
        })
        .await;
    // and more than these two when the wait was over meanwhile
    assert!(
        world
            .engine
            .runs
            .lock()
            .starts_with(&["c".into(), "c".into()])
    );
    world.delete("p", None).await;
    world.until("p", |p| p.is_null()).await;
    world.until_clean().await;
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let world = World::new().await;
    let container = json!({"name": "c", "image": "app:1", "command": ["broken"]});
    world
        .create(
            "p",
            json!({"restartPolicy": "Never", "containers": [container]}),
        )
        .await;
    let pod = world.until_phase("p", "Failed").await;
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&ended["reason"], &ended["exitCode"]),
        (&json!("StartError"), &json!(128))
    );
    assert!(
        ended["message"]
            .as_str()
            .unwrap()
            .contains("executable file not found in $PATH")
    );
}

#[tokio::test]
async fn out_of_memory_is_named() {
    let world = World::new().await;
    world.create("p", json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "app:1", "command": ["run"]}]})).await;
    world.until_ready("p").await;
    world
        .engine
        .end(&world.engine.id_of("c").unwrap(), 0, Some(9), true);
    let pod = world.until_phase("p", "Failed").await;
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&ended["reason"], &ended["exitCode"]),
        (&json!("OOMKilled"), &json!(137))
    );
}

#[tokio::test]
async fn a_sandbox_that_fails_is_retried() {
    let world = World::new().await;
    *world.engine.sandbox_error.lock() = Some("no space left on device".into());
    world
        .create(
            "p",
            json!({"containers": [{"name": "c", "image": "app:1", "command": ["run"]}]}),
        )
        .await;
    world
        .until_event("p", |r, m| {
            r == "FailedCreatePodSandBox" && m.contains("no space left")
        })
        .await;
    let pod = world
        .until("p", |p| p["status"]["phase"] == "Pending")
        .await;
    assert_eq!(condition(&pod, "PodReadyToStartContainers"), "False");
    *world.engine.sandbox_error.lock() = None;
    world.until_ready("p").await;
}

#[tokio::test]
async fn readiness_gates_hold_a_pod_back() {
    let world = World::new().await;
    let spec = json!({
        "readinessGates": [{"conditionType": "example.com/warm"}],
        "containers": [{"name": "c", "image": "app:1", "command": ["run"]}],
    });
    world.create("p", spec).await;
    let pod = world
        .until("p", |p| condition(p, "ContainersReady") == "True")
        .await;
    assert_eq!(condition(&pod, "Ready"), "False");
    let mut conditions = pod["status"]["conditions"].clone();
    conditions
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "example.com/warm", "status": "True"}));
    world
        .patch(
            "pods/p/status",
            json!({"status": {"conditions": conditions}}),
        )
        .await;
    let pod = world.until_ready("p").await;
    assert_eq!(
        condition(&pod, "example.com/warm"),
        "True",
        "others' conditions stay"
    );
}

#[tokio::test]
async fn a_new_image_replaces_the_container_whatever_the_policy() {
    let world = World::new().await;
    world.create("p", json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "app:1", "command": ["run"]}]})).await;
    world.until_ready("p").await;
    let containers = json!([{"name": "c", "image": "app:2", "command": ["run"]}]);
    world
        .patch("pods/p", json!({"spec": {"containers": containers}}))
        .await;
    let pod = world
        .until("p", |p| {
            p["status"]["containerStatuses"][0]["restartCount"] == 1
                && condition(p, "Ready") == "True"
        })
        .await;
    assert_eq!(
        pod["status"]["containerStatuses"][0]["image"],
        "docker.io/library/app:2"
    );
    world
        .until_event("p", |r, m| {
            r == "Killing" && m == "Container c definition changed, will be restarted"
        })
        .await;
}

#[tokio::test]
async fn a_runtime_class_may_name_the_ordinary_runtime_only() {
    let world = World::new().await;
    for (name, handler) in [("plain", "runc"), ("other", "kata")] {
        let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": handler});
        let request = http::Request::post("/apis/node.k8s.io/v1/runtimeclasses")
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&class).unwrap())
            .unwrap();
        world
            .client
            .request::<serde_json::Value>(request)
            .await
            .unwrap();
        let container = json!({"name": "c", "image": "app:1", "command": ["run"]});
        let spec = json!({"runtimeClassName": name, "containers": [container]});
        world.create(name, spec).await;
    }
    world.until_ready("plain").await;
    world
        .until_event("other", |reason, message| {
            reason == "FailedCreatePodSandBox"
                && message.contains("no runtime for \"kata\" is configured")
        })
        .await;
    assert_eq!(world.get("other").await["status"]["phase"], "Pending");
}
