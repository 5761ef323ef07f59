//! Pods that are changed while they run.

use serde_json::json;

use crate::{Test, world::World};

pub const ALL: &[(&str, Test)] = &[
    ("resized_and_looked_into", || {
        Box::pin(resized_and_looked_into())
    }),
    ("an_image_as_a_volume", || Box::pin(an_image_as_a_volume())),
];

/// Prints the container's own limits whenever they change.
const WATCH: &str = "old=; while true; do new=$(cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null); [ \"$new\" = \"$old\" ] || echo limit $new; old=$new; sleep 0.05; done";

async fn resized_and_looked_into() {
    let world = World::new().await;
    let limits = |memory: &str| json!({"limits": {"cpu": "500m", "memory": memory}, "requests": {"cpu": "500m", "memory": memory}});
    let container = |memory: &str| json!({"name": "main", "image": "busybox:1", "command": ["sh", "-c", WATCH], "resources": limits(memory)});
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [container("32Mi")]});
    world.create("p", spec).await;
    world.until_ready("p").await;
    world.logs_with("p", "main", "limit 33554432\n").await;
    for (memory, bytes) in [("64Mi", 64 << 20), ("48Mi", 48 << 20)] {
        let path = "pods/p/resize";
        let mut containers = world.get("p").await["spec"]["containers"].clone();
        containers[0]["resources"] = limits(memory);
        world
            .patch(path, json!({"spec": {"containers": containers}}))
            .await;
        world
            .logs_with("p", "main", &format!("limit {bytes}\n"))
            .await;
        let pod = world
            .until("p", |p| {
                let shown = &p["status"]["containerStatuses"][0]["resources"];
                shown["limits"]["memory"] == memory
            })
            .await;
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    }
    // less than it uses is not forced upon it
    let mut containers = world.get("p").await["spec"]["containers"].clone();
    containers[0]["resources"] = limits("4Ki");
    world
        .patch("pods/p/resize", json!({"spec": {"containers": containers}}))
        .await;
    world
        .until("p", |p| {
            let conditions = p["status"]["conditions"].as_array().cloned();
            let mut conditions = conditions.unwrap_or_default().into_iter();
            conditions.any(|c| {
                let message = c["message"].as_str().unwrap_or_default();
                c["type"] == "PodResizeInProgress" && message.starts_with("cannot decrease memory")
            })
        })
        .await;

    let look = json!({"name": "look", "image": "busybox:1", "targetContainerName": "main", "command": ["sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline; echo; exec sleep 1000"]});
    world
        .patch(
            "pods/p/ephemeralcontainers",
            json!({"spec": {"ephemeralContainers": [look]}}),
        )
        .await;
    let log = world.logs_with("p", "look", "\n").await;
    assert!(log.starts_with("sh -c old="), "{log}");
    world.delete("p").await;
}

async fn an_image_as_a_volume() {
    let world = World::new().await;
    let script = "cat /image/bin/busybox | wc -c; /image/bin/busybox true || echo cannot run; touch /image/x || echo cannot write; ls /sub | head -1; exec sleep 1000";
    let spec = json!({
        "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "i", "image": {"reference": "busybox:1", "pullPolicy": "IfNotPresent"}}],
        "containers": [{
            "name": "main", "image": "busybox:1", "command": ["sh", "-c", script],
            "volumeMounts": [
                {"name": "i", "mountPath": "/image"},
                {"name": "i", "mountPath": "/sub", "subPath": "bin"},
            ],
        }],
    });
    world.create("p", spec).await;
    let log = world.logs_with("p", "main", "cannot write\n").await;
    assert!(log.contains("cannot run\n"), "{log}");
    // what came by the other stream may stand before it
    let bytes = log.lines().find_map(|line| line.trim().parse::<u64>().ok());
    assert!(bytes > Some(100_000), "{log}");
    world.delete("p").await;
}
