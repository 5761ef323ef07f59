//! Devices of ResourceClaims, from registration to the last claim given back.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use knarr_grpc::{Call, Status};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::UnixListener, sync::mpsc};

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
    /// who listens to the devices' health
    listeners: Listeners,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    registry: PathBuf,
}

type Listeners = Arc<Mutex<Vec<mpsc::Sender<Result<Message, Status>>>>>;

/// The plugin's own socket: calls, and streams of health.
async fn plugin(listener: UnixListener, answer: Answer, listeners: Listeners) {
    while let Ok((stream, _)) = listener.accept().await {
        let (answer, listeners) = (answer.clone(), listeners.clone());
        tokio::spawn(knarr_grpc::serve(stream, move |mut call: Call| {
            let (answer, listeners) = (answer.clone(), listeners.clone());
            async move {
                let method = call.method.rsplit('/').next().unwrap().to_owned();
                let message = call.message().await?;
                if method == "NodeWatchResources" {
                    assert_eq!(
                        call.method,
                        "/v1alpha1.DRAResourceHealth/NodeWatchResources"
                    );
                    let (send, receive) = mpsc::channel(16);
                    listeners.lock().push(send);
                    return Ok(knarr_grpc::Answer::Many(receive));
                }
                let answered = answer(&method, &message);
                let answered = answered.map_err(|(code, why)| Status::new(code, why));
                answered.map(knarr_grpc::Answer::One)
            }
        }));
    }
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
        let bind = |path: &Path| {
            let _ = std::fs::remove_file(path);
            UnixListener::bind(path).unwrap()
        };
        let listeners = Listeners::default();
        let own = bind(&endpoint.join("dra.sock"));
        let tasks = vec![
            tokio::spawn(plugin(own, answer.clone(), listeners.clone())),
            tokio::spawn(serve(bind(&registry), answer)),
        ];
        FakeDriver {
            calls,
            error,
            listeners,
            tasks,
            registry,
        }
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().clone()
    }

    /// Device, health and message, to all who listen.
    fn say(&self, devices: &[(&str, i64, &str)]) {
        let mut said = Message::default();
        for (name, health, message) in devices {
            let id = Message::default().text(1, "pool").text(2, name);
            let device = Message::default().message(1, &id).number(2, *health);
            said = said.message(1, &device.number(4, 3600).text(5, message));
        }
        for listener in &*self.listeners.lock() {
            // one that has left needs none
            let _ = listener.try_send(Ok(said.clone()));
        }
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

/// What a container's status says of its devices.
fn health(pod: &Value, container: &str) -> Value {
    let all = pod["status"]["containerStatuses"].as_array();
    let mut all = all.into_iter().flatten();
    let found = all.find(|c| c["name"] == container);
    found.map_or(Value::Null, |c| c["allocatedResourcesStatus"].clone())
}

#[tokio::test]
async fn the_health_of_devices_is_told() {
    let world = World::new().await;
    world.edits();
    let driver = FakeDriver::start(&world.dir.path().join("node"));
    world.create("p", user("k")).await;
    world.claim_for("k", &["p"]).await;
    let card = |n: u8, health: Value| {
        let mut card = json!({"resourceID": format!("{DRIVER}/card={n}")});
        card.as_object_mut()
            .unwrap()
            .extend(health.as_object().unwrap().clone());
        card
    };
    let told = |first: &Value, second: &Value| {
        let both = json!([card(0, first.clone()), card(1, second.clone())]);
        let all = json!([{"name": "claim:x", "resources": both}]);
        let part = json!([{"name": "claim:x/small", "resources": [card(1, second.clone())]}]);
        move |p: &Value| {
            health(p, "all") == all && health(p, "part") == part && health(p, "none").is_null()
        }
    };
    let unknown = json!({"health": "Unknown"});
    let (well, hot) = (
        json!({"health": "Healthy"}),
        json!({"health": "Unhealthy", "message": "too hot"}),
    );
    world.until("p", told(&unknown, &unknown)).await;
    let listened = || driver.listeners.lock().iter().any(|l| !l.is_closed());
    world.until_true("it is listened to", listened).await;
    driver.say(&[("0", 1, ""), ("1", 2, "too hot")]);
    world.until("p", told(&well, &hot)).await;
    driver.say(&[("1", 1, "")]);
    world.until("p", told(&well, &well)).await;
    // what was said doesn't count when the stream ends, and another is begun
    driver.listeners.lock().clear();
    world.until("p", told(&unknown, &unknown)).await;
    world.until_true("it is listened to again", listened).await;
    driver.say(&[("0", 1, ""), ("1", 2, "too hot")]);
    world.until("p", told(&well, &hot)).await;
}
