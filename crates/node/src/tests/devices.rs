//! Devices of ResourceClaims, from registration to the last claim given back.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::UnixListener;

use super::{
    csi_driver::{Answer, serve},
    fake::World,
};
use crate::volumes::csi::{Fields, Message};

const DRIVER: &str = "cards.example.com";
const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";

/// A driver of devices; it ends when it's dropped.
struct FakeDriver {
    /// `Method claim`, in order
    calls: Arc<Mutex<Vec<String>>>,
    /// what the next calls end with
    error: Arc<Mutex<Option<&'static str>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    registry: PathBuf,
}

impl FakeDriver {
    /// Registers with the node whose data folder this is.
    fn start(node: &Path) -> FakeDriver {
        let kubelet = node.join("kubelet");
        let endpoint = kubelet.join("plugins").join(DRIVER);
        std::fs::create_dir_all(&endpoint).unwrap();
        let registry = kubelet.join(format!("plugins_registry/{DRIVER}-reg.sock"));
        let calls: Arc<Mutex<Vec<String>>> = Arc::default();
        let error: Arc<Mutex<Option<&'static str>>> = Arc::default();
        let (said, fails) = (calls.clone(), error.clone());
        let answer: Answer =
            Arc::new(move |method, request| answer(&said, &fails, method, request));
        let tasks = [endpoint.join("dra.sock"), registry.clone()]
            .into_iter()
            .map(|path| {
                let _ = std::fs::remove_file(&path);
                let listener = UnixListener::bind(&path).unwrap();
                tokio::spawn(serve(listener, answer.clone()))
            })
            .collect();
        FakeDriver {
            calls,
            error,
            tasks,
            registry,
        }
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().clone()
    }
}

impl Drop for FakeDriver {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.registry);
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn answer(
    calls: &Mutex<Vec<String>>,
    error: &Mutex<Option<&'static str>>,
    method: &str,
    request: &[u8],
) -> Result<Message, (u32, &'static str)> {
    let empty = Message::default;
    Ok(match method {
        "GetInfo" => empty()
            .text(1, "DRAPlugin")
            .text(2, DRIVER)
            .text(3, &format!("/var/lib/kubelet/plugins/{DRIVER}/dra.sock"))
            .texts(4, ["v1.DRAPlugin"]),
        "NodePrepareResources" | "NodeUnprepareResources" => {
            let mut answer = empty();
            for (_, claim) in Fields(request) {
                let of = |field: u32| {
                    let found = claim.fields().find(|(f, _)| *f == field);
                    found.map(|(_, v)| v.text()).unwrap()
                };
                calls.lock().push(format!("{method} {}", of(3)));
                let result = match *error.lock() {
                    Some(why) if method == "NodePrepareResources" => empty().text(2, why),
                    Some(why) => empty().text(1, why),
                    None if method == "NodePrepareResources" => {
                        let device = |request: &str, name: &str| {
                            empty()
                                .texts(1, [request])
                                .text(2, "pool")
                                .text(3, name)
                                .texts(4, [&*format!("{DRIVER}/card={name}")])
                        };
                        empty()
                            .message(1, &device("big", "0"))
                            .message(1, &device("small", "1"))
                    }
                    None => empty(),
                };
                answer = answer.message(1, &empty().text(1, &of(2)).message(2, &result));
            }
            answer
        }
        _ => empty(),
    })
}

impl World {
    /// What drivers would have written for their two devices.
    fn edits(&self) {
        let dir = self.dir.path().join("cdi");
        std::fs::create_dir_all(&dir).unwrap();
        let device = |name: &str| json!({"name": name, "containerEdits": {"env": [format!("CARD_{name}=yes")]}});
        let file = json!({"cdiVersion": "0.6.0", "kind": format!("{DRIVER}/card"), "devices": [device("0"), device("1")]});
        std::fs::write(dir.join("cards.json"), file.to_string()).unwrap();
    }

    /// A claim of two requests, with devices, for the Pods.
    async fn claim_for(&self, name: &str, pods: &[&str]) {
        let request = |name: &str| json!({"name": name, "exactly": {"deviceClassName": "c"}});
        let spec = json!({"devices": {"requests": [request("big"), request("small")]}});
        self.make(CLAIMS, json!({"metadata": {"name": name}, "spec": spec}))
            .await;
        let mut users = Vec::new();
        for pod in pods {
            let uid = self.get(pod).await["metadata"]["uid"].clone();
            users.push(json!({"resource": "pods", "name": pod, "uid": uid}));
        }
        let result = |name: &str, device: &str| json!({"request": name, "driver": DRIVER, "pool": "pool", "device": device});
        let status =
            json!({"metadata": {"finalizers": ["resource.kubernetes.io/delete-protection"]}});
        self.merge(&format!("{CLAIMS}/{name}"), status).await;
        let status = json!({"status": {"reservedFor": users, "allocation": {"devices": {
            "results": [result("big", "0"), result("small", "1")]}}}});
        self.merge(&format!("{CLAIMS}/{name}/status"), status).await;
    }

    async fn merge(&self, path: &str, patch: Value) {
        let request = http::Request::patch(path)
            .header("content-type", "application/merge-patch+json")
            .body(patch.to_string().into_bytes())
            .unwrap();
        self.client.request::<Value>(request).await.unwrap();
    }

    fn env_of(&self, container: &str) -> Vec<String> {
        let env = self.engine.spec_of(container).unwrap().env;
        env.into_iter().filter(|v| v.starts_with("CARD")).collect()
    }
}

fn user(claim: &str) -> Value {
    let container = |name: &str, claims: Value| json!({"name": name, "image": "app:1", "command": ["run"], "resources": {"claims": claims}});
    json!({
        "resourceClaims": [{"name": "x", "resourceClaimName": claim}],
        "containers": [
            container("all", json!([{"name": "x"}])),
            container("part", json!([{"name": "x", "request": "small"}])),
            container("none", json!([])),
        ],
    })
}

#[tokio::test]
async fn devices_are_made_ready_and_given_back() {
    let world = World::new().await;
    world.edits();
    world.create("p", user("k")).await;
    world
        .until_event("p", |r, m| {
            r == "FailedPrepareDynamicResources"
                && m.starts_with("Failed to prepare dynamic resources: prepare dynamic resources: fetch ResourceClaim k: ")
        })
        .await;
    world.create("q", user("k")).await;
    world.claim_for("k", &["p", "q"]).await;
    world
        .until_event("p", |_, m| {
            m.ends_with(&format!("DRA driver {DRIVER} is not registered"))
        })
        .await;
    let driver = FakeDriver::start(&world.dir.path().join("node"));
    world.until_ready("p").await;
    assert_eq!(world.env_of("all"), ["CARD_0=yes", "CARD_1=yes"]);
    assert_eq!(world.env_of("part"), ["CARD_1=yes"]);
    assert_eq!(world.env_of("none"), [""; 0]);
    world.until_ready("q").await;
    // both have it, and it is given back by the last
    world.delete("p", None).await;
    world.until("p", |p| p.is_null()).await;
    assert_eq!(driver.calls(), ["NodePrepareResources k"]);
    *driver.error.lock() = Some("in use");
    world.delete("q", None).await;
    world
        .until_true("it is asked for", || driver.calls().len() > 1)
        .await;
    *driver.error.lock() = None;
    world.until("q", |p| p.is_null()).await;
    assert_eq!(driver.calls()[1], "NodeUnprepareResources k");
    let left = std::fs::read_dir(world.dir.path().join("node/devices")).unwrap();
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn what_a_driver_refuses_is_told() {
    let world = World::new().await;
    world.edits();
    let driver = FakeDriver::start(&world.dir.path().join("node"));
    *driver.error.lock() = Some("no more fuel");
    world.create("p", user("k")).await;
    world.claim_for("k", &["p"]).await;
    world
        .until_event("p", |_, m| {
            m == "Failed to prepare dynamic resources: prepare dynamic resources: NodePrepareResources failed for ResourceClaim k: no more fuel"
        })
        .await;
    *driver.error.lock() = None;
    world.until_ready("p").await;
    // one that nobody let in
    world.create("thief", user("k")).await;
    world
        .until_event("thief", |_, m| {
            m.contains("is not allowed to use ResourceClaim k (")
        })
        .await;
}

#[tokio::test]
async fn a_restart_knows_what_a_pod_that_is_gone_had() {
    let mut world = World::new().await;
    world.edits();
    let driver = FakeDriver::start(&world.dir.path().join("node"));
    world.create("p", user("k")).await;
    world.claim_for("k", &["p"]).await;
    world.until_ready("p").await;
    world.stop_node().await;
    // nobody is there to wait for
    world.delete("p", Some(0)).await;
    // a slice of a driver that nobody has heard of since
    let spec = json!({"driver": "other.example.com", "nodeName": "n1", "devices": [{"name": "0"}],
        "pool": {"name": "n1", "generation": 1, "resourceSliceCount": 1}});
    world
        .make(SLICES, json!({"metadata": {"name": "s"}, "spec": spec}))
        .await;
    world.start_node().await;
    world
        .until_true("it is given back", || {
            driver.calls().last().unwrap() == "NodeUnprepareResources k"
        })
        .await;
    world
        .until_read(SLICES, |list| list["items"] == json!([]))
        .await;
    world.until_clean().await;
}

#[tokio::test]
async fn a_new_claim_waits_for_the_old_one_of_its_name() {
    let world = World::new().await;
    world.edits();
    let driver = FakeDriver::start(&world.dir.path().join("node"));
    world.create("p", user("k")).await;
    world.claim_for("k", &["p"]).await;
    world.until_ready("p").await;
    *driver.error.lock() = Some("not yet");
    world.delete("p", Some(0)).await;
    let claim = format!("{CLAIMS}/k");
    let freed = json!({"status": {"allocation": null, "reservedFor": null}});
    world.merge(&format!("{claim}/status"), freed).await;
    let unprotected = json!({"metadata": {"finalizers": null}});
    world.merge(&claim, unprotected).await;
    let request = http::Request::delete(&claim).body(Vec::new()).unwrap();
    world.client.request::<Value>(request).await.unwrap();
    world.create("q", user("k")).await;
    world.claim_for("k", &["q"]).await;
    world
        .until_event("q", |_, m| {
            m.contains("old ResourceClaim with same name k and different UID ")
                && m.ends_with(" still exists (previous pod force-deleted?!)")
        })
        .await;
    *driver.error.lock() = None;
    world.until_ready("q").await;
}

#[tokio::test]
async fn a_claim_of_a_template_stays_through_restarts() {
    let world = World::new().await;
    world.edits();
    let driver = FakeDriver::start(&world.dir.path().join("node"));
    let mut spec = user("k");
    spec["resourceClaims"] = json!([{"name": "x", "resourceClaimTemplateName": "t"}]);
    let made = world.create("p", spec).await;
    world.claim_for("k", &["p"]).await;
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": made.metadata.uid, "controller": true});
    let owned = json!({"metadata": {"ownerReferences": [owner]}});
    world.merge(&format!("{CLAIMS}/k"), owned).await;
    let told =
        json!({"status": {"resourceClaimStatuses": [{"name": "x", "resourceClaimName": "k"}]}});
    world.patch("pods/p/status", told).await;
    world.until_ready("p").await;
    let id = world.engine.id_of("all").unwrap();
    world.engine.end(&id, 1, None, false);
    world
        .until("p", |p| {
            let mut all = p["status"]["containerStatuses"]
                .as_array()
                .into_iter()
                .flatten();
            all.any(|c| c["name"] == "all" && c["restartCount"] == 1 && c["ready"] == true)
        })
        .await;
    assert_eq!(world.env_of("all"), ["CARD_0=yes", "CARD_1=yes"]);
    assert_eq!(driver.calls(), ["NodePrepareResources k"]);
}
