//! A machine's worth of folders, an API server, the real runtime, and the promise that nothing stays.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Event, Pod};
use knarr_image::{ImageConfig, ImageStore, PackSpec};
use knarr_node::{LogRequest, Node, PodNetwork};
use knarr_runtime::{Config, Runtime};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, json};

/// Generous: the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// Addresses without links: what's tested here is the node. The same Pod always has the same.
pub struct NoNetwork;

#[async_trait::async_trait]
impl PodNetwork for NoNetwork {
    async fn attach(&self, pod: &Pod, netns: &Path) -> Result<Ipv4Addr, String> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if !netns.exists() {
            return Err(format!("{} does not exist", netns.display()));
        }
        let sum = uid.bytes().fold(0u16, |sum, b| {
            sum.wrapping_mul(31).wrapping_add(u16::from(b))
        });
        let [high, low] = sum.to_be_bytes();
        Ok(Ipv4Addr::new(10, 99, high, low))
    }
    async fn detach(&self, _uid: &str) -> Result<(), String> {
        Ok(())
    }
}

/// Everything of a platform but its API server.
pub async fn start_node(
    dir: &Path,
    cgroup_parent: &str,
    api: &knarr_api::ApiServer,
) -> (Runtime, Node) {
    let config = runtime_config(dir, cgroup_parent);
    let runtime = tokio::task::spawn_blocking(move || open_runtime(config).unwrap())
        .await
        .unwrap();
    let images = image_store(dir);
    let api = api.clone();
    let node = Node::start(knarr_node::Config {
        share: 1,
        port: 0,
        manifests: dir.join("manifests"),
        name: "n1".into(),
        data_dir: dir.join("node"),
        host_ip: IpAddr::from([127, 0, 0, 1]),
        dns_ip: Ipv4Addr::new(10, 43, 0, 10),
        cluster_domain: "cluster.local".into(),
        runtime: runtime.clone(),
        images,
        registries: Default::default(),
        image_users: std::sync::Arc::new(Vec::new),
        network: Arc::new(NoNetwork),
        client: Arc::new(move || api.client("system:node:n1", &["system:masters"], "kubelet")),
        settings: settings(),
    })
    .await
    .unwrap();
    (runtime, node)
}

/// The lock of a platform that was just killed is gone when the kernel has buried it, and what it was starting.
fn open_runtime(config: Config) -> Result<Runtime, String> {
    let end = std::time::Instant::now() + DEADLINE;
    loop {
        match Runtime::open(config.clone()) {
            Ok(runtime) => return Ok(runtime),
            Err(error) if std::time::Instant::now() > end => return Err(error.to_string()),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn runtime_config(dir: &Path, cgroup_parent: &str) -> Config {
    Config {
        root: dir.join("rt"),
        exe: std::env::current_exe().unwrap(),
        cgroup_parent: cgroup_parent.into(),
        host: Default::default(),
    }
}

pub fn api_server(dir: &Path) -> knarr_api::ApiServer {
    knarr_api::ApiServer::for_tests(&dir.join("api"))
}

fn image_store(dir: &Path) -> ImageStore {
    ImageStore::open(&dir.join("images")).unwrap()
}

/// Busybox with its applets, and a user of its own.
fn pack(dir: &Path) {
    let root = dir.join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    for name in [
        "sh", "sleep", "cat", "echo", "id", "ls", "grep", "touch", "true", "test", "head",
        "hostname", "env", "tail", "kill", "seq", "mkdir",
    ] {
        let _ = std::os::unix::fs::symlink("/bin/busybox", root.join("bin").join(name));
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n",
    )
    .unwrap();
    fs::write(
        root.join("etc/group"),
        "root:x:0:\nweb:x:1000:\nstaff:x:50:web\n",
    )
    .unwrap();
    let mut add: Vec<(PathBuf, PathBuf)> = vec![];
    for part in ["bin", "etc"] {
        for entry in fs::read_dir(root.join(part)).unwrap().flatten() {
            add.push((
                entry.path(),
                PathBuf::from("/").join(part).join(entry.file_name()),
            ));
        }
    }
    let spec = PackSpec {
        executables: vec!["/bin/busybox".into()],
        add,
        name: "busybox:1".into(),
        bare: true,
        config: ImageConfig {
            cmd: vec!["sh".into()],
            env: vec!["PATH=/bin".into(), "FROM_IMAGE=yes".into()],
            ..ImageConfig::default()
        },
    };
    image_store(dir)
        .pack(&spec)
        .expect("these tests need Debian's busybox-static in /bin/busybox");
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub cgroup_parent: String,
    pub client: Client,
    pub here: Option<(Runtime, Node)>,
}

impl World {
    /// Folders and an image; who talks to which API is up to the test.
    pub async fn bare(client: impl AsyncFnOnce(&Path, &str) -> Client) -> World {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().to_owned();
        tokio::task::spawn_blocking(move || pack(&at))
            .await
            .unwrap();
        let cgroup_parent = format!(
            "/knarr-node-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let client = client(dir.path(), &cgroup_parent).await;
        World {
            dir,
            cgroup_parent,
            client,
            here: None,
        }
    }

    /// With the platform in this process.
    pub async fn new() -> World {
        let mut server = None;
        let mut world = World::bare(async |dir, _| {
            let dir = dir.to_owned();
            let api = tokio::task::spawn_blocking(move || api_server(&dir))
                .await
                .unwrap();
            let client = api.client("test", &["system:masters"], "test");
            server = Some(api);
            client
        })
        .await;
        world.here =
            Some(start_node(world.dir.path(), &world.cgroup_parent, &server.unwrap()).await);
        world
    }

    pub fn node(&self) -> &Node {
        &self.here.as_ref().unwrap().1
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub async fn create(&self, name: &str, mut spec: Value) {
        spec["nodeName"] = json!("n1");
        // nobody publishes the CA's ConfigMap here, for which the token's volume would wait
        spec["automountServiceAccountToken"] = json!(false);
        let pod = serde_json::from_value(
            json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}),
        )
        .unwrap();
        self.pods()
            .create(&PostParams::default(), &pod)
            .await
            .unwrap();
    }

    pub async fn post(&self, plural: &str, object: Value) {
        let uri = format!("/api/v1/namespaces/default/{plural}");
        let body = serde_json::to_vec(&object).unwrap();
        let request = http::Request::post(uri)
            .header("content-type", "application/json")
            .body(body)
            .unwrap();
        self.client.request::<Value>(request).await.unwrap();
    }

    pub async fn patch(&self, path: &str, patch: Value) {
        let uri = format!("/api/v1/namespaces/default/{path}");
        let body = serde_json::to_vec(&patch).unwrap();
        let request = http::Request::patch(uri)
            .header("content-type", "application/merge-patch+json")
            .body(body)
            .unwrap();
        self.client.request::<Value>(request).await.unwrap();
    }

    pub async fn get(&self, name: &str) -> Value {
        match self.pods().get_opt(name).await {
            Ok(Some(pod)) => serde_json::to_value(pod).unwrap(),
            Ok(None) => Value::Null,
            // The platform may be down at the moment.
            Err(_) => json!({"unknown": true}),
        }
    }

    pub async fn until(&self, name: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let work = async {
            loop {
                let pod = self.get(name).await;
                if fits(&pod) {
                    return pod;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        match tokio::time::timeout(DEADLINE, work).await {
            Ok(pod) => pod,
            Err(_) => {
                let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
                let events = events
                    .list(&ListParams::default())
                    .await
                    .map(|l| l.items)
                    .unwrap_or_default();
                let told: Vec<_> = events.iter().map(|e| (&e.reason, &e.message)).collect();
                panic!(
                    "{name} is still {:#}\n{told:#?}",
                    self.get(name).await["status"]
                );
            }
        }
    }

    pub async fn until_ready(&self, name: &str) -> Value {
        self.until(name, |p| {
            let conditions = p["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            conditions
                .iter()
                .any(|c| c["type"] == "Ready" && c["status"] == "True")
        })
        .await
    }

    pub async fn until_phase(&self, name: &str, phase: &str) -> Value {
        self.until(name, |p| p["status"]["phase"] == phase).await
    }

    pub async fn delete(&self, name: &str) {
        self.pods()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
        self.until(name, |p| p.is_null()).await;
    }

    pub async fn logs(&self, pod: &str, container: &str, previous: bool) -> String {
        let request = LogRequest {
            namespace: "default".into(),
            pod: pod.into(),
            container: Some(container.into()),
            previous,
            ..LogRequest::default()
        };
        // The container may not have started yet.
        let Ok(stream) = self.node().logs(request).await else {
            return String::new();
        };
        let chunks: Vec<_> = stream.map(Result::unwrap).collect().await;
        String::from_utf8(chunks.concat()).unwrap()
    }

    /// Waits until the log has the text, and gives all of it.
    pub async fn logs_with(&self, pod: &str, container: &str, text: &str) -> String {
        let work = async {
            loop {
                let log = self.logs(pod, container, false).await;
                if log.contains(text) {
                    return log;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(DEADLINE, work).await {
            Ok(log) => log,
            Err(_) => panic!(
                "no {text:?} in {:?}",
                self.logs(pod, container, false).await
            ),
        }
    }

    /// What of this world can be seen on the machine.
    fn traces(&self) -> Vec<String> {
        let mut found = Vec::new();
        let dir = self.dir.path().to_str().unwrap().to_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        found.extend(
            mounts
                .lines()
                .filter(|l| l.contains(&dir))
                .map(|l| format!("mount {l}")),
        );
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let text = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            if text.contains(&self.cgroup_parent) {
                let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
                let field = |name: &str| {
                    let line = status.lines().find_map(|l| l.strip_prefix(name));
                    line.unwrap_or_default().trim().to_owned()
                };
                let (name, state, parent) = (field("Name:"), field("State:"), field("PPid:"));
                // dead, and only waiting for the machine's first process to take note of it
                if state.starts_with('Z') && parent == "1" {
                    continue;
                }
                let path = entry.path();
                found.push(format!("process {} {name} {state}", path.display()));
            }
        }
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let here = self.here.take();
        let config = runtime_config(self.dir.path(), &self.cgroup_parent);
        let purged = std::thread::spawn(move || {
            let tokio = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            tokio.block_on(async {
                let runtime = match here {
                    Some((runtime, node)) => {
                        node.stop().await;
                        runtime
                    }
                    None => open_runtime(config)?,
                };
                runtime.purge().await.map_err(|e| e.to_string())
            })
        })
        .join();
        // Volumes of pods that a test left running.
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.dir.path().join("node");
        for mount in table
            .lines()
            .rev()
            .filter_map(|l| l.split(' ').nth(4))
            .filter(|m| Path::new(m).starts_with(&dir))
        {
            let _ = nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH);
        }
        let traces = self.traces();
        if !std::thread::panicking() {
            assert!(matches!(purged, Ok(Ok(()))), "purge: {purged:?}");
            assert!(traces.is_empty(), "left behind: {traces:#?}");
        }
    }
}

/// No shortage of the machine's makes a Pod go: the tests are to pass on a full disk.
fn settings() -> knarr_node::Settings {
    let text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
        evictionHard: {memory.available: 0%}\nimageGCHighThresholdPercent: 100\n";
    knarr_node::Settings::parse(text).expect("a configuration")
}
