//! Volumes of CSI drivers, from registration to the last unstage.

use serde_json::{Value, json};

use super::{
    csi_driver::{FakeDriver, NAME},
    fake::World,
};

impl World {
    pub(super) async fn make(&self, path: &str, object: Value) {
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&object).unwrap())
            .unwrap();
        self.client.request::<Value>(request).await.unwrap();
    }

    pub(super) async fn read(&self, path: &str) -> Value {
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        self.client
            .request::<Value>(request)
            .await
            .unwrap_or_default()
    }

    pub(super) async fn until_read(&self, path: &str, fits: impl Fn(&Value) -> bool) {
        let work = async {
            while !fits(&self.read(path).await) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(super::fake::DEADLINE, work)
            .await
            .is_err()
        {
            panic!("never: {path}: {}", self.read(path).await);
        }
    }

    async fn csi_driver(&self, spec: Value) {
        let object = json!({"metadata": {"name": NAME}, "spec": spec});
        self.make("/apis/storage.k8s.io/v1/csidrivers", object)
            .await;
    }

    /// A claim bound to a volume of the driver.
    async fn csi_volume(&self, name: &str) {
        self.csi_volume_of(name, "ReadWriteOnce").await;
    }

    async fn csi_volume_of(&self, name: &str, mode: &str) {
        let modes = json!([mode]);
        self.put(
            "persistentvolumeclaims",
            json!({"metadata": {"name": name}, "spec": {"volumeName": name, "accessModes": modes,
                "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}}}),
        )
        .await;
        let claim = self
            .read(&format!(
                "/api/v1/namespaces/default/persistentvolumeclaims/{name}"
            ))
            .await;
        let volume = json!({"metadata": {"name": name}, "spec": {
            "csi": {"driver": NAME, "volumeHandle": format!("handle-{name}"), "fsType": "ext4",
                "volumeAttributes": {"colour": "blue"}},
            "accessModes": modes, "capacity": {"storage": "1Gi"},
            "claimRef": {"namespace": "default", "name": name, "uid": claim["metadata"]["uid"]}}});
        self.make("/api/v1/persistentvolumes", volume).await;
        let status = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
        self.patch(&format!("persistentvolumeclaims/{name}/status"), status)
            .await;
    }

    async fn nothing_is_mounted(&self) {
        self.until_true("nothing is mounted", || {
            crate::volumes::mounts::below(self.dir.path())
                .unwrap()
                .is_empty()
        })
        .await;
    }
}

fn user_of(volume: Value) -> Value {
    let mut volume = volume;
    volume["name"] = "v".into();
    json!({
        "securityContext": {"fsGroup": 4242},
        "volumes": [volume],
        "containers": [{"name": "c", "image": "app:1", "command": ["run"],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
    })
}

#[tokio::test]
async fn a_volume_is_staged_once_and_taken_back() {
    let world = World::new().await;
    world
        .csi_driver(json!({"attachRequired": false, "podInfoOnMount": true}))
        .await;
    world.csi_volume("one").await;
    let claim = json!({"persistentVolumeClaim": {"claimName": "one"}});
    world.create("p", user_of(claim.clone())).await;
    // comes after its first Pod
    let driver = FakeDriver::start(&world.dir.path().join("node"));
    world.until_ready("p").await;
    world.create("q", user_of(claim)).await;
    world.until_ready("q").await;
    assert_eq!(
        driver.calls(),
        [
            "Stage handle-one",
            "Publish handle-one",
            "Publish handle-one"
        ]
    );
    let attributes = driver.attributes();
    assert_eq!(attributes["colour"], "blue");
    assert_eq!(attributes["csi.storage.k8s.io/pod.name"], "q");
    assert_eq!(attributes["csi.storage.k8s.io/ephemeral"], "false");
    let source = &world.engine.spec_of("c").unwrap().mounts[0].source;
    assert!(
        source.ends_with("kubernetes.io~csi/one/mount"),
        "{source:?}"
    );
    let meta = std::fs::metadata(source).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::gid(&meta), 4242);

    let node = world.read("/apis/storage.k8s.io/v1/csinodes/n1").await;
    let entry = json!([{"name": NAME, "nodeID": "fake-node", "topologyKeys": ["zone.fake"], "allocatable": {"count": 7}}]);
    assert_eq!(node["spec"]["drivers"], entry);
    let node = world.read("/api/v1/nodes/n1").await;
    assert_eq!(node["metadata"]["labels"]["zone.fake"], "a");

    world.delete("p", None).await;
    world.until("p", |p| p.is_null()).await;
    assert_eq!(driver.calls().last().unwrap(), "Unpublish handle-one");
    world.delete("q", None).await;
    world.until("q", |p| p.is_null()).await;
    assert_eq!(
        driver.calls()[3..],
        [
            "Unpublish handle-one",
            "Unpublish handle-one",
            "Unstage handle-one"
        ]
    );
    world.nothing_is_mounted().await;
    drop(driver);
    world
        .until_read("/apis/storage.k8s.io/v1/csinodes/n1", |n| {
            n["spec"]["drivers"].as_array().is_none_or(Vec::is_empty)
        })
        .await;
}

#[tokio::test]
async fn failures_are_told_and_tried_again() {
    let world = World::new().await;
    world.csi_driver(json!({"attachRequired": false})).await;
    world.csi_volume("one").await;
    let driver = FakeDriver::start(&world.dir.path().join("node"));
    driver.fail("Publish", Some((13, "no such disk")));
    let claim = json!({"persistentVolumeClaim": {"claimName": "one"}});
    world.create("p", user_of(claim)).await;
    world
        .until_event("p", |r, m| {
            r == "FailedMount"
                && m == "MountVolume.SetUp failed for volume \"one\" : rpc error: code = Internal desc = no such disk"
        })
        .await;
    driver.fail("Publish", None);
    world.until_ready("p").await;
    driver.fail("Unpublish", Some((14, "busy")));
    world.delete("p", None).await;
    world
        .until_true("it is asked twice", || {
            let calls = driver.calls();
            calls.iter().filter(|c| c.starts_with("Unpublish")).count() > 1
        })
        .await;
    driver.fail("Unpublish", None);
    world.until("p", |p| p.is_null()).await;
    world.nothing_is_mounted().await;
}

#[tokio::test]
async fn an_inline_volume_is_its_pods_own() {
    let world = World::new().await;
    world
        .csi_driver(json!({
            "attachRequired": false, "podInfoOnMount": true, "volumeLifecycleModes": ["Ephemeral"],
            "tokenRequests": [{"audience": "vault"}],
        }))
        .await;
    world
        .put("serviceaccounts", json!({"metadata": {"name": "default"}}))
        .await;
    let driver = FakeDriver::start(&world.dir.path().join("node"));
    let inline = json!({"csi": {"driver": NAME, "volumeAttributes": {"size": "s"}}});
    world.create("p", user_of(inline)).await;
    world.until_ready("p").await;
    let attributes = driver.attributes();
    assert_eq!(attributes["size"], "s");
    assert_eq!(attributes["csi.storage.k8s.io/ephemeral"], "true");
    let tokens: Value =
        serde_json::from_str(&attributes["csi.storage.k8s.io/serviceAccount.tokens"]).unwrap();
    assert!(tokens["vault"]["token"].as_str().unwrap().len() > 20);
    assert!(tokens["vault"]["expirationTimestamp"].is_string());
    assert_eq!(driver.calls().len(), 1, "it is not staged");
    world.delete("p", None).await;
    world.until("p", |p| p.is_null()).await;
    world.nothing_is_mounted().await;
    // a persistent volume is not what this driver is for
    world.csi_volume("one").await;
    let claim = json!({"persistentVolumeClaim": {"claimName": "one"}});
    world.create("q", user_of(claim)).await;
    world
        .until_event("q", |_, m| {
            m.contains("volume mode \"Persistent\" not supported by driver")
        })
        .await;
}

#[tokio::test]
async fn a_volume_waits_for_its_attachment_and_grows() {
    let world = World::new().await;
    world.csi_driver(json!({})).await;
    world.csi_volume("one").await;
    let driver = FakeDriver::start(&world.dir.path().join("node"));
    let claim = json!({"persistentVolumeClaim": {"claimName": "one"}});
    world.create("p", user_of(claim)).await;
    let name = crate::volumes::csi::record::attachment("handle-one", NAME, "n1");
    let attachments = "/apis/storage.k8s.io/v1/volumeattachments";
    world
        .make(
            attachments,
            json!({"metadata": {"name": name}, "spec": {
            "attacher": NAME, "nodeName": "n1", "source": {"persistentVolumeName": "one"}}}),
        )
        .await;
    assert_eq!(driver.calls(), [""; 0]);
    let request = http::Request::patch(format!("{attachments}/{name}/status"))
        .header("content-type", "application/merge-patch+json")
        .body(serde_json::to_vec(&json!({"status": {"attached": true}})).unwrap())
        .unwrap();
    world.client.request::<Value>(request).await.unwrap();
    let unique = crate::volumes::csi::record::unique(NAME, "handle-one");
    let attached = json!({"status": {"volumesAttached": [{"name": unique, "devicePath": ""}]}});
    let request = http::Request::patch("/api/v1/nodes/n1/status")
        .header("content-type", "application/merge-patch+json")
        .body(serde_json::to_vec(&attached).unwrap())
        .unwrap();
    world.client.request::<Value>(request).await.unwrap();
    world.until_ready("p").await;
    let in_use = json!([format!("kubernetes.io/csi/{NAME}^handle-one")]);
    let node = world.read("/api/v1/nodes/n1").await;
    assert_eq!(node["status"]["volumesInUse"], in_use);

    let path = "persistentvolumeclaims/one/status";
    let status = json!({"allocatedResources": {"storage": "2Gi"},
        "allocatedResourceStatuses": {"storage": "NodeResizePending"}});
    world.patch(path, json!({"status": status})).await;
    world
        .until_read(
            "/api/v1/namespaces/default/persistentvolumeclaims/one",
            |c| {
                c["status"]["capacity"]["storage"] == "2Gi"
                    && c["status"]["allocatedResourceStatuses"].is_null()
            },
        )
        .await;
    assert_eq!(driver.calls().last().unwrap(), "Expand handle-one");
    world
        .until_event("p", |r, _| r == "FileSystemResizeSuccessful")
        .await;
    world.delete("p", None).await;
    world.until("p", |p| p.is_null()).await;
    world
        .until_read("/api/v1/nodes/n1", |n| {
            n["status"]["volumesInUse"]
                .as_array()
                .is_none_or(Vec::is_empty)
        })
        .await;
    world.nothing_is_mounted().await;
}

#[tokio::test]
async fn a_volume_for_one_pod_is_one_pods() {
    let world = World::new().await;
    world.csi_driver(json!({"attachRequired": false})).await;
    world.csi_volume_of("one", "ReadWriteOncePod").await;
    let _driver = FakeDriver::start(&world.dir.path().join("node"));
    let claim = json!({"persistentVolumeClaim": {"claimName": "one"}});
    world.create("p", user_of(claim.clone())).await;
    world.until_ready("p").await;
    world.create("q", user_of(claim)).await;
    world
        .until_event("q", |r, m| {
            r == "FailedMount"
                && m.ends_with("volume uses the ReadWriteOncePod access mode and is already in use by another pod")
        })
        .await;
    world.delete("p", None).await;
    world.until_ready("q").await;
}

#[tokio::test]
async fn limits_change_and_a_pod_beyond_them_is_rejected() {
    let world = World::new().await;
    world
        .csi_driver(json!({"nodeAllocatableUpdatePeriodSeconds": 10}))
        .await;
    world.csi_volume("one").await;
    let driver = FakeDriver::start(&world.dir.path().join("node"));
    let node = "/apis/storage.k8s.io/v1/csinodes/n1";
    let count = |n: &Value| n["spec"]["drivers"][0]["allocatable"]["count"].as_u64();
    world.until_read(node, |n| count(n) == Some(7)).await;
    driver.limit(9);
    world.until_read(node, |n| count(n) == Some(9)).await;

    let name = crate::volumes::csi::record::attachment("handle-one", NAME, "n1");
    let attachments = "/apis/storage.k8s.io/v1/volumeattachments";
    let attachment = json!({"metadata": {"name": name}, "spec": {
        "attacher": NAME, "nodeName": "n1", "source": {"persistentVolumeName": "one"}}});
    world.make(attachments, attachment).await;
    let full =
        json!({"status": {"attached": false, "attachError": {"errorCode": 8, "message": "full"}}});
    let request = http::Request::patch(format!("{attachments}/{name}/status"))
        .header("content-type", "application/merge-patch+json")
        .body(serde_json::to_vec(&full).unwrap())
        .unwrap();
    world.client.request::<Value>(request).await.unwrap();
    driver.limit(3);
    let claim = json!({"persistentVolumeClaim": {"claimName": "one"}});
    world.create("p", user_of(claim)).await;
    world
        .until("p", |p| {
            let status = &p["status"];
            let message = status["message"].as_str().unwrap_or_default();
            status["phase"] == "Failed"
                && status["reason"] == "VolumeAttachmentLimitExceeded"
                && message.starts_with("Pod was rejected: Node has reached its volume attachment limit, rejecting pod. unmounted volumes=[v]")
        })
        .await;
    world.until_read(node, |n| count(n) == Some(3)).await;
    world.nothing_is_mounted().await;
}
