//! Pods of manifests in a folder, and their mirrors in the API.

use serde_json::{Value, json};

use super::fake::World;

const MIRROR: &str = "kubernetes.io/config.mirror";

fn write(world: &World, file: &str, image: &str) {
    let dir = world.dir.path().join("manifests");
    std::fs::create_dir_all(&dir).unwrap();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"a": "b"}},
        "spec": {"terminationGracePeriodSeconds": 5,
            "containers": [{"name": "c", "image": image, "command": ["run"]}]}});
    std::fs::write(dir.join(file), pod.to_string()).unwrap();
}

fn hash(pod: &Value) -> String {
    let text = &pod["metadata"]["annotations"][MIRROR];
    text.as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_manifest_runs_with_a_mirror() {
    let world = World::new().await;
    write(&world, "web.json", "app:1");
    let mirror = world.until_ready("web-n1").await;
    let meta = &mirror["metadata"];
    let annotations = &meta["annotations"];
    assert_eq!(
        annotations[MIRROR],
        annotations["kubernetes.io/config.hash"]
    );
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(meta["labels"], json!({"a": "b"}));
    let owner = &meta["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["name"]),
        (&json!("Node"), &json!("n1"))
    );
    assert_eq!(mirror["spec"]["nodeName"], "n1");
    assert_eq!(mirror["status"]["podIP"], "127.0.1.1");
    // the mirror alone is deleted: the container never notices
    let id = world.engine.id_of("c").unwrap();
    world.delete("web-n1", None).await;
    let again = world
        .until("web-n1", |p| {
            !p.is_null() && p["metadata"]["uid"] != mirror["metadata"]["uid"]
        })
        .await;
    assert_eq!(hash(&again), hash(&mirror));
    world.until_ready("web-n1").await;
    assert_eq!(world.engine.id_of("c").unwrap(), id);
    // removed
    std::fs::remove_file(world.dir.path().join("manifests/web.json")).unwrap();
    world.until("web-n1", |p| p.is_null()).await;
    world.until_clean().await;
    assert_eq!(*world.engine.signals.lock(), ["c 15"]);
}

#[tokio::test]
async fn a_changed_manifest_is_another_pod() {
    let world = World::new().await;
    write(&world, "web.json", "app:1");
    let first = world.until_ready("web-n1").await;
    let id = world.engine.id_of("c").unwrap();
    let dir = world.dir.path().join("manifests");
    let text = std::fs::read_to_string(dir.join("web.json")).unwrap();
    std::fs::write(dir.join("web.json"), text.replace("\"b\"", "\"d\"")).unwrap();
    let second = world
        .until("web-n1", |p| {
            hash(p) != hash(&first) && p["status"]["phase"] == "Running"
        })
        .await;
    assert_eq!(second["metadata"]["labels"], json!({"a": "d"}));
    assert_ne!(world.engine.id_of("c").unwrap(), id);
    assert_eq!(
        *world.engine.signals.lock(),
        ["c 15"],
        "the first was stopped"
    );
}

#[tokio::test]
async fn a_restart_finds_them_again_and_ends_those_whose_manifest_is_gone() {
    let mut world = World::new().await;
    write(&world, "web.json", "app:1");
    let first = world.until_ready("web-n1").await;
    let id = world.engine.id_of("c").unwrap();
    world.stop_node().await;
    world.start_node().await;
    let other = std::fs::read_to_string(world.dir.path().join("manifests/web.json")).unwrap();
    let other = other
        .replace("\"web\"", "\"more\"")
        .replace("\"c\"", "\"d\"");
    std::fs::write(world.dir.path().join("manifests/more.json"), other).unwrap();
    // the folder is looked at by now
    world.until_ready("more-n1").await;
    let again = world.get("web-n1").await;
    assert_eq!(again["metadata"]["uid"], first["metadata"]["uid"]);
    assert_eq!(world.engine.id_of("c").unwrap(), id);
    assert!(world.engine.signals.lock().is_empty());
    world.stop_node().await;
    std::fs::remove_dir_all(world.dir.path().join("manifests")).unwrap();
    world.start_node().await;
    world.until("web-n1", |p| p.is_null()).await;
    world.until("more-n1", |p| p.is_null()).await;
    world.until_clean().await;
}
