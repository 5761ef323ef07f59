//! A runtime and image store of the mind: containers do what their command says, at once.
//!
//! `["run"]` runs until a signal, `["exit", "3"]` ends at once, `["stubborn"]` only dies from SIGKILL, `["broken"]` can't be started.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use k8s_openapi::api::core::v1::{Event, Pod};
use knarr_image::{Image, ImageConfig};
use knarr_runtime::{
    Container, ContainerSpec, ExecProcess, ExecSpec, Exit, Resources, Sandbox, SandboxSpec, State,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    Node, Parts, PodNetwork,
    engine::{ContainerEngine, ImageSource},
};

pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

struct Made {
    spec: ContainerSpec,
    since: SystemTime,
    exit: watch::Sender<Option<Exit>>,
}

#[derive(Default)]
pub(crate) struct FakeEngine {
    sandboxes: Mutex<BTreeMap<String, SandboxSpec>>,
    containers: Mutex<BTreeMap<String, Made>>,
    /// the last word of an exec'd command → its exit code; below 0 it can't be run
    pub exec_codes: Mutex<HashMap<String, i32>>,
    /// commands run, in order
    pub execs: Mutex<Vec<String>>,
    /// `name signal`, in order
    pub signals: Mutex<Vec<String>>,
    /// runs so far, by container name
    pub runs: Mutex<Vec<String>>,
    /// cgroups above containers' that were set
    pub groups: Mutex<BTreeMap<String, Resources>>,
    /// bytes of memory in use, by container name
    pub memory_used: Mutex<HashMap<String, u64>>,
    /// the next so many runs panic
    pub panics: Mutex<u32>,
    /// sandboxes can't be made while this holds
    pub sandbox_error: Mutex<Option<String>>,
}

impl FakeEngine {
    fn name(spec: &ContainerSpec) -> String {
        spec.labels
            .get("io.kubernetes.container.name")
            .cloned()
            .unwrap_or_default()
    }
    pub(crate) fn end(&self, id: &str, code: i32, signal: Option<i32>, oom_killed: bool) {
        if let Some(made) = self.containers.lock().get(id) {
            made.exit.send_if_modified(|exit| {
                let first = exit.is_none();
                if first {
                    *exit = Some(Exit {
                        code,
                        signal,
                        oom_killed,
                        at: SystemTime::now(),
                    });
                }
                first
            });
        }
    }
    /// The running container of this name.
    pub(crate) fn id_of(&self, name: &str) -> Option<String> {
        let containers = self.containers.lock();
        let found = containers
            .iter()
            .find(|(_, m)| Self::name(&m.spec) == name && m.exit.borrow().is_none());
        found.map(|(id, _)| id.clone())
    }
    pub(crate) fn spec_of(&self, name: &str) -> Option<ContainerSpec> {
        let containers = self.containers.lock();
        containers
            .values()
            .find(|m| Self::name(&m.spec) == name)
            .map(|m| m.spec.clone())
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.containers.lock().is_empty() && self.sandboxes.lock().is_empty()
    }
}

fn shown(made: &Made) -> Container {
    let exit = made.exit.borrow().clone();
    Container {
        spec: made.spec.clone(),
        state: match exit {
            Some(exit) => State::Exited {
                since: Some(made.since),
                exit,
            },
            None => State::Running {
                pid: 1,
                since: made.since,
            },
        },
    }
}

#[async_trait::async_trait]
impl ContainerEngine for FakeEngine {
    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, String> {
        if let Some(error) = self.sandbox_error.lock().clone() {
            return Err(error);
        }
        let netns = (!spec.host_network).then(|| PathBuf::from("/nowhere"));
        self.sandboxes.lock().insert(spec.id.clone(), spec.clone());
        Ok(Sandbox { spec, netns })
    }
    async fn delete_sandbox(&self, id: &str) -> Result<(), String> {
        self.sandboxes.lock().remove(id);
        Ok(())
    }
    fn sandboxes(&self) -> Vec<Sandbox> {
        let sandboxes = self.sandboxes.lock();
        let one = |spec: &SandboxSpec| Sandbox {
            spec: spec.clone(),
            netns: (!spec.host_network).then(|| PathBuf::from("/nowhere")),
        };
        sandboxes.values().map(one).collect()
    }
    async fn run(&self, spec: ContainerSpec) -> Result<Container, String> {
        self.runs.lock().push(Self::name(&spec));
        let log: String = spec.args.join(" ");
        std::fs::write(
            &spec.log_path,
            format!("2026-01-01T00:00:00Z stdout F {log}\n"),
        )
        .unwrap();
        if spec.args[0] == "broken" {
            return Err("exec: \"broken\": executable file not found in $PATH".into());
        }
        {
            let mut panics = self.panics.lock();
            if *panics > 0 {
                *panics -= 1;
                drop(panics);
                panic!("the fake runtime was told to");
            }
        }
        let made = Made {
            spec: spec.clone(),
            since: SystemTime::now(),
            exit: watch::Sender::new(None),
        };
        let container = shown(&made);
        self.containers.lock().insert(spec.id.clone(), made);
        if spec.args[0] == "exit" {
            self.end(&spec.id, spec.args[1].parse().unwrap(), None, false);
        }
        Ok(container)
    }
    fn containers(&self) -> Vec<Container> {
        self.containers.lock().values().map(shown).collect()
    }
    fn container(&self, id: &str) -> Option<Container> {
        self.containers.lock().get(id).map(shown)
    }
    async fn wait(&self, id: &str) -> Result<Exit, String> {
        let mut exit = match self.containers.lock().get(id) {
            Some(made) => made.exit.subscribe(),
            None => return Err(format!("no container {id}")),
        };
        let exit = exit
            .wait_for(Option::is_some)
            .await
            .map_err(|_| format!("container {id} is gone"))?;
        exit.clone().ok_or_else(|| "unreachable".into())
    }
    async fn signal(&self, id: &str, signal: i32) -> Result<(), String> {
        let spec = self
            .containers
            .lock()
            .get(id)
            .map(|m| m.spec.clone())
            .ok_or("no such container")?;
        self.signals
            .lock()
            .push(format!("{} {signal}", Self::name(&spec)));
        if signal == libc::SIGKILL {
            self.end(id, 0, Some(signal), false);
        } else if spec.args[0] != "stubborn" {
            self.end(id, 0, None, false);
        }
        Ok(())
    }
    async fn delete(&self, id: &str) -> Result<(), String> {
        self.end(id, 0, Some(libc::SIGKILL), false);
        self.containers.lock().remove(id);
        Ok(())
    }
    async fn attach(&self, _id: &str) -> Result<knarr_runtime::Attachment, String> {
        Err("the fake runs no processes".into())
    }
    async fn exec(&self, _id: &str, _spec: ExecSpec) -> Result<ExecProcess, String> {
        Err("the fake runs no processes".into())
    }
    async fn update_resources(&self, id: &str, resources: Resources) -> Result<(), String> {
        if let Some(made) = self.containers.lock().get_mut(id) {
            made.spec.resources = made.spec.resources.overlaid(&resources);
        }
        Ok(())
    }
    async fn set_group(&self, path: &str, resources: Resources) -> Result<(), String> {
        self.groups.lock().insert(path.to_owned(), resources);
        Ok(())
    }
    fn memory(&self, id: &str) -> Option<u64> {
        let containers = self.containers.lock();
        let name = Self::name(&containers.get(id)?.spec);
        self.memory_used.lock().get(&name).copied()
    }
    async fn exec_capture(
        &self,
        _id: &str,
        args: Vec<String>,
        _max: usize,
    ) -> Result<(i32, Vec<u8>), String> {
        let word = args.last().cloned().unwrap_or_default();
        self.execs.lock().push(args.join(" "));
        let code = self.exec_codes.lock().get(&word).copied().unwrap_or(0);
        if code < 0 {
            return Err("no such command".into());
        }
        Ok((code, format!("{word} says {code}").into_bytes()))
    }
}

/// Has every image whose name doesn't contain `missing`, and those put there.
#[derive(Default)]
pub(crate) struct FakeImages {
    pub dir: Option<PathBuf>,
    pub added: Mutex<Vec<String>>,
    pub config: Mutex<ImageConfig>,
}

impl ImageSource for FakeImages {
    fn resolve(&self, name: &str) -> Result<Option<Image>, String> {
        if name.contains("missing") && !self.added.lock().iter().any(|n| n == name) {
            return Ok(None);
        }
        Ok(Some(Image {
            name: format!("docker.io/library/{name}"),
            digest: "sha256:0123".into(),
            manifest: "sha256:0123".into(),
            id: "sha256:4567".into(),
            config: self.config.lock().clone(),
            layers: vec![],
            size_bytes: 0,
            created: None,
            pulled: false,
        }))
    }
    fn watch_dir(&self) -> Option<PathBuf> {
        self.dir.clone()
    }
}

#[derive(Default)]
pub(crate) struct FakeNetwork(Mutex<BTreeMap<String, Ipv4Addr>>);

#[async_trait::async_trait]
impl PodNetwork for FakeNetwork {
    async fn attach(&self, pod: &Pod, _netns: &Path) -> Result<Ipv4Addr, String> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut leases = self.0.lock();
        // Loopback, so that network probes reach what a test listens on.
        let next = Ipv4Addr::from(0x7f00_0101 + leases.len() as u32);
        Ok(*leases.entry(uid.to_owned()).or_insert(next))
    }
    async fn detach(&self, uid: &str) -> Result<(), String> {
        self.0.lock().remove(uid);
        Ok(())
    }
}

/// An API server, a fake machine, and the node on it.
pub(crate) struct World {
    pub dir: tempfile::TempDir,
    pub client: Client,
    pub engine: Arc<FakeEngine>,
    pub images: Arc<FakeImages>,
    pub image_users: crate::ImageUsers,
    pub network: Arc<FakeNetwork>,
    api: knarr_api::ApiServer,
    pub settings: crate::Settings,
    pub node: Option<Node>,
}

impl World {
    pub(crate) async fn new() -> World {
        let mut world = World::without_node().await;
        world.start_node().await;
        world
    }

    pub(crate) async fn without_node() -> World {
        let dir = tempfile::tempdir().unwrap();
        let api = {
            let dir = dir.path().join("api");
            let make = move || knarr_api::ApiServer::for_tests(&dir);
            tokio::task::spawn_blocking(make).await.unwrap()
        };
        let client = api.client("test", &["system:masters"], "test");
        let images = dir.path().join("images");
        std::fs::create_dir_all(&images).unwrap();
        World {
            client,
            engine: Arc::default(),
            images: Arc::new(FakeImages {
                dir: Some(images),
                ..FakeImages::default()
            }),
            image_users: Arc::new(Vec::new),
            network: Arc::default(),
            api,
            settings: crate::Settings::without_evictions(),
            node: None,
            dir,
        }
    }

    pub(crate) async fn start_node(&mut self) {
        let api = self.api.clone();
        let parts = Parts {
            share: 1,
            port: 0,
            manifests: self.dir.path().join("manifests"),
            name: "n1".into(),
            data_dir: self.dir.path().join("node"),
            host_ip: IpAddr::from([127, 0, 0, 1]),
            dns_ip: Ipv4Addr::new(10, 43, 0, 10),
            cluster_domain: "cluster.local".into(),
            operations: Default::default(),
            engine: self.engine.clone(),
            images: self.images.clone(),
            image_users: self.image_users.clone(),
            network: self.network.clone(),
            client: Arc::new(move || api.client("system:node:n1", &["system:masters"], "kubelet")),
            settings: self.settings.clone(),
            edits: vec![self.dir.path().join("cdi")],
        };
        self.node = Some(Node::start_with(parts).await.unwrap());
    }

    /// As if the platform were killed: the machine and the API stay.
    pub(crate) async fn stop_node(&mut self) {
        self.node.take().unwrap().stop().await;
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Makes a Pod on the node; `spec` may leave out what every Pod has.
    pub(crate) async fn create(&self, name: &str, spec: Value) -> Pod {
        let pod = pod(name, spec);
        self.pods()
            .create(&PostParams::default(), &pod)
            .await
            .unwrap()
    }

    pub(crate) async fn get(&self, name: &str) -> Value {
        match self.pods().get_opt(name).await.unwrap() {
            Some(pod) => serde_json::to_value(pod).unwrap(),
            None => Value::Null,
        }
    }

    /// Waits until the Pod (Null when there's none) fits; by watch, with a deadline that shows what it was last.
    pub(crate) async fn until(&self, name: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let work = async {
            loop {
                let pod = self.get(name).await;
                if fits(&pod) {
                    return pod;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(DEADLINE, work).await {
            Ok(pod) => pod,
            Err(_) => panic!("{name} is still {:#}", self.get(name).await["status"]),
        }
    }

    pub(crate) async fn until_ready(&self, name: &str) -> Value {
        self.until(name, |p| condition(p, "Ready") == "True").await
    }

    pub(crate) async fn until_phase(&self, name: &str, phase: &str) -> Value {
        self.until(name, |p| p["status"]["phase"] == phase).await
    }

    pub(crate) async fn delete(&self, name: &str, grace_seconds: Option<u32>) {
        let params = DeleteParams {
            grace_period_seconds: grace_seconds,
            ..DeleteParams::default()
        };
        self.pods().delete(name, &params).await.unwrap();
    }

    pub(crate) async fn until_clean(&self) {
        let work = async {
            while !self.engine.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, work)
            .await
            .expect("containers or sandboxes are left");
    }

    pub(crate) async fn put(&self, plural: &str, object: Value) {
        let body = serde_json::to_vec(&object).unwrap();
        let uri = format!("/api/v1/namespaces/default/{plural}");
        let request = http::Request::post(uri)
            .header("content-type", "application/json")
            .body(body)
            .unwrap();
        self.client.request::<Value>(request).await.unwrap();
    }

    pub(crate) async fn patch(&self, path: &str, patch: Value) {
        self.send_patch(path, patch, "application/merge-patch+json")
            .await;
    }

    /// Lists of containers are merged by name.
    pub(crate) async fn patch_strategic(&self, path: &str, patch: Value) {
        self.send_patch(path, patch, "application/strategic-merge-patch+json")
            .await;
    }

    async fn send_patch(&self, path: &str, patch: Value, content_type: &str) {
        let body = serde_json::to_vec(&patch).unwrap();
        let uri = format!("/api/v1/namespaces/default/{path}");
        let request = http::Request::patch(uri)
            .header("content-type", content_type)
            .body(body)
            .unwrap();
        self.client.request::<Value>(request).await.unwrap();
    }

    pub(crate) async fn until_true(&self, what: &str, fits: impl Fn() -> bool) {
        let work = async {
            while !fits() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, work)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }

    /// The folder of a Pod on the fake machine.
    pub(crate) async fn folder(&self, name: &str) -> PathBuf {
        let pod = self.get(name).await;
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        self.dir.path().join("node/pods").join(uid)
    }

    pub(crate) async fn until_event(&self, name: &str, fits: impl Fn(&str, &str) -> bool) {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let work = async {
            loop {
                let events = api.list(&ListParams::default()).await.unwrap();
                let found = events.items.iter().any(|e| {
                    e.involved_object.name.as_deref() == Some(name)
                        && fits(
                            e.reason.as_deref().unwrap_or_default(),
                            e.message.as_deref().unwrap_or_default(),
                        )
                });
                if found {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(DEADLINE, work).await.is_err() {
            let events = api.list(&ListParams::default()).await.unwrap();
            let all: Vec<_> = events
                .items
                .iter()
                .map(|e| (&e.reason, &e.message))
                .collect();
            panic!("no such event of {name} in {all:#?}");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Whatever a failed test left mounted.
        for mount in crate::volumes::mounts::below(self.dir.path()).unwrap_or_default() {
            let _ = nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

pub(crate) fn pod(name: &str, spec: Value) -> Pod {
    let mut spec = spec;
    // nobody publishes the CA here, which a token's volume would wait for
    if spec.get("automountServiceAccountToken").is_none() {
        spec["automountServiceAccountToken"] = false.into();
    }
    spec["nodeName"] = json!("n1");
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": spec,
    }))
    .unwrap()
}

pub(crate) fn condition<'a>(pod: &'a Value, type_: &str) -> &'a str {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.into_iter().find(|c| c["type"] == type_);
    found.and_then(|c| c["status"].as_str()).unwrap_or("none")
}
