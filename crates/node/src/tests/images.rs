//! Images by name and pull policy, and images as volumes.

use serde_json::{Value, json};

use super::fake::World;

fn waiting<'a>(pod: &'a Value, field: &str) -> &'a str {
    pod["status"]["containerStatuses"][0]["state"]["waiting"][field]
        .as_str()
        .unwrap_or_default()
}

#[tokio::test]
async fn what_cannot_be_had_says_why() {
    let world = World::new().await;
    let check =
        async |name: &str, image: &str, policy: &str, reason: &str, message: &str, event: &str| {
            let container = json!({"name": "c", "image": image, "imagePullPolicy": policy});
            world.create(name, json!({"containers": [container]})).await;
            let pod = world.until(name, |p| waiting(p, "reason") == reason).await;
            let shown = waiting(&pod, "message");
            assert!(shown.starts_with(message), "{image} {policy}: {shown}");
            world
                .until_event(name, |r, m| r == event && m.starts_with(message))
                .await;
            let error = format!("Error: {reason}");
            world
                .until_event(name, |r, m| r == "Failed" && m == error)
                .await;
        };
    check(
        "never",
        "missing:1",
        "Never",
        "ErrImageNeverPull",
        "Container image \"missing:1\" is not present with pull policy of Never",
        "ErrImageNeverPull",
    )
    .await;
    check(
        "invalid",
        "Not Valid",
        "IfNotPresent",
        "InvalidImageName",
        "Failed to apply default image tag \"Not Valid\": couldn't parse image name \"Not Valid\": invalid reference format",
        "InspectFailed",
    )
    .await;
    world
        .create(
            "backoff",
            json!({"containers": [{"name": "c", "image": "missing:1", "imagePullPolicy": "Always"}]}),
        )
        .await;
    let pod = world
        .until("backoff", |p| waiting(p, "reason") == "ImagePullBackOff")
        .await;
    let shown = waiting(&pod, "message");
    assert!(
        shown.starts_with("Back-off pulling image \"missing:1\": ErrImagePull: "),
        "{shown}"
    );
    world
        .until_event("backoff", |r, m| {
            r == "BackOff" && m == "Back-off pulling image \"missing:1\""
        })
        .await;
}

#[tokio::test]
async fn a_volume_is_an_image() {
    let world = World::new().await;
    let spec = json!({
        "imagePullSecrets": [{"name": "none"}],
        "containers": [
            {"name": "c", "image": "app:1", "command": ["run"], "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
            {"name": "other", "image": "app:1", "command": ["run"]},
        ],
        "volumes": [{"name": "data", "image": {"reference": "missing-data:1", "pullPolicy": "Always"}}],
    });
    world.create("p", spec).await;
    // only who mounts it waits for it
    let pod = world
        .until("p", |p| {
            waiting(p, "reason") == "ErrImagePull"
                && p["status"]["containerStatuses"][1]["state"]["running"].is_object()
        })
        .await;
    assert!(waiting(&pod, "message").contains("missing-data:1"));
    world
        .until_event("p", |r, m| {
            r == "FailedToRetrieveImagePullSecret" && m.contains("(none)")
        })
        .await;
    world.images.added.lock().push("missing-data:1".into());
    std::fs::write(world.images.dir.as_ref().unwrap().join("new"), "").unwrap();
    world.until_ready("p").await;
    let labels = world.engine.spec_of("c").unwrap().labels;
    assert_eq!(
        labels["knarr.io/image-volumes"], "sha256:0123",
        "it is in use"
    );
    let mounts = world.engine.spec_of("c").unwrap().mounts;
    let mount = mounts
        .iter()
        .find(|m| m.destination.ends_with("data"))
        .unwrap();
    assert!(mount.read_only);
    assert!(
        mount.source.ends_with(".volumes/data"),
        "{:?}",
        mount.source
    );
}
