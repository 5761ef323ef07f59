//! Volumes beyond their binding, against the API server: copies, growth, attachment, protection.

mod cluster;

use cluster::{Cluster, eventually, same, start, template};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

fn claim(name: &str, class: &str) -> Value {
    json!({"metadata":{"name":name},"spec":{"storageClassName":class,"accessModes":["ReadWriteOnce"],
        "resources":{"requests":{"storage":"1Gi"}}}})
}

fn user(name: &str, claim: &str) -> Value {
    let mut pod = template("web", "v1");
    pod["metadata"]["name"] = json!(name);
    pod["spec"]["volumes"] = json!([{"name":"d","persistentVolumeClaim":{"claimName":claim}}]);
    pod
}

async fn bound(c: &Cluster, claim: &str) -> String {
    eventually("bound", || async {
        same(c.field("pvc", claim, "/status/phase").await, json!("Bound"))
    })
    .await;
    let volume = c.field("pvc", claim, "/spec/volumeName").await;
    volume.as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_volume_grows_and_is_copied() {
    let c = start().await;
    c.create("pvc", claim("one", "local-path")).await;
    c.create("pod", user("p", "one")).await;
    let volume = bound(&c, "one").await;
    let path = c.field("pv", &volume, "/spec/local/path").await;
    std::fs::write(format!("{}/row", path.as_str().unwrap()), "1").unwrap();
    let more = json!({"spec":{"resources":{"requests":{"storage":"2Gi"}}}});
    c.patch("pvc", "one", more).await;
    eventually("grown", || async {
        same(
            (
                c.field("pvc", "one", "/status/capacity/storage").await,
                c.field("pv", &volume, "/spec/capacity/storage").await,
            ),
            (json!("2Gi"), json!("2Gi")),
        )
    })
    .await;

    // a volume that comes later is known, so the growth is
    c.create(
        "pv",
        json!({"metadata":{"name":"later"},"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],
            "storageClassName":"hand","hostPath":{"path":"/nonexistent/later"}}}),
    )
    .await;
    eventually("known", || async {
        same(
            c.field("pv", "later", "/status/phase").await,
            json!("Available"),
        )
    })
    .await;
    let mut copy = claim("two", "local-path");
    copy["spec"]["dataSource"] = json!({"kind":"PersistentVolumeClaim","name":"one"});
    c.create("pvc", copy.clone()).await;
    c.create("pod", user("q", "two")).await;
    eventually("it is too small", || async {
        let events = c.events("two").await.join("\n");
        same(events.contains("requested 1Gi but source is 2Gi"), true)
    })
    .await;
    c.delete("pod", "q", DeleteParams::default()).await;
    c.delete("pvc", "two", DeleteParams::default()).await;
    c.gone("pvc", "two").await;
    copy["metadata"]["name"] = json!("three");
    copy["spec"]["resources"]["requests"]["storage"] = json!("2Gi");
    c.create("pvc", copy).await;
    c.create("pod", user("r", "three")).await;
    let copy = bound(&c, "three").await;
    let path = c.field("pv", &copy, "/spec/local/path").await;
    let row = std::fs::read_to_string(format!("{}/row", path.as_str().unwrap()));
    assert_eq!(row.unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_are_attached_while_they_are_used() {
    let c = start().await;
    for (driver, attaches) in [("attaches", true), ("does-not", false)] {
        c.create(
            "csidriver",
            json!({"metadata":{"name":driver},"spec":{"attachRequired":attaches}}),
        )
        .await;
        c.create(
            "pv",
            json!({"metadata":{"name":driver},"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],
                "storageClassName":"hand","csi":{"driver":driver,"volumeHandle":"h"},
                "claimRef":{"namespace":"default","name":driver}}}),
        )
        .await;
        c.create("pvc", claim(driver, "hand")).await;
        bound(&c, driver).await;
        c.create("pod", user(driver, driver)).await;
    }
    let made = eventually("attachment", || async {
        match &c.list("va").await[..] {
            // the other goes when its driver is heard of
            [one] if one["spec"]["attacher"] == "attaches" => Ok(one.clone()),
            all => Err(format!("{all:?}")),
        }
    })
    .await;
    assert_eq!(made["spec"]["source"]["persistentVolumeName"], "attaches");
    let node = made["spec"]["nodeName"].as_str().unwrap().to_owned();
    let name = made["metadata"]["name"].as_str().unwrap().to_owned();
    let attached = json!({"status":{"attached":true}});
    c.api("va")
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(attached))
        .await
        .unwrap();
    let unique = "kubernetes.io/csi/attaches^h";
    eventually("the node hears of it", || async {
        same(
            c.field("node", &node, "/status/volumesAttached/0/name")
                .await,
            json!(unique),
        )
    })
    .await;
    eventually("the pod hears of it", || async {
        let events = c.events("attaches").await.join("\n");
        same(
            events.contains(
                "SuccessfulAttachVolume AttachVolume.Attach succeeded for volume \"attaches\"",
            ),
            true,
        )
    })
    .await;
    // mounted: it stays
    c.node_status(&node, json!({"volumesInUse":[unique]})).await;
    c.delete("pod", "attaches", DeleteParams::default()).await;
    c.gone("pod", "attaches").await;
    eventually("it is about to be detached", || async {
        let attached = c.field("node", &node, "/status/volumesAttached").await;
        same(attached.as_array().is_none_or(Vec::is_empty), true)
    })
    .await;
    assert_eq!(c.list("va").await.len(), 1);
    c.node_status(&node, json!({"volumesInUse":null})).await;
    c.gone("va", &name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_named_stays() {
    let c = start().await;
    c.create(
        "vac",
        json!({"metadata":{"name":"gold"},"driverName":"d","parameters":{"iops":"1"}}),
    )
    .await;
    eventually("protected", || async {
        same(
            c.field("vac", "gold", "/metadata/finalizers").await,
            json!(["kubernetes.io/vac-protection"]),
        )
    })
    .await;
    let mut of_gold = claim("one", "hand");
    of_gold["spec"]["volumeAttributesClassName"] = json!("gold");
    c.create("pvc", of_gold).await;
    eventually("seen", || async {
        let events = c.events("one").await.join("\n");
        same(
            events.contains("storageclass.storage.k8s.io \"hand\" not found"),
            true,
        )
    })
    .await;
    c.delete("vac", "gold", DeleteParams::default()).await;
    assert!(c.get("vac", "gold").await.is_some());
    c.delete("pvc", "one", DeleteParams::default()).await;
    c.gone("vac", "gold").await;
}
