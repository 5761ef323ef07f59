//! What the handlers share, and what goes on without a client.

use crate::{
    Config, NAMESPACE, buildkit,
    containers::{Change, Containers, Entry},
    create::wanted::{Restart, Wanted},
    error::{Fault, Result},
    events::Events,
    exec::Execs,
    lifecycle,
    machine::{Machine, PodName},
    networks, pod,
    record::{ANNOTATION, LABEL, Record},
    state::{State, Status},
};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams},
    runtime::watcher,
};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Notify, OnceCell};

/// How long the first list of containers may take.
const LIST: Duration = Duration::from_secs(30);

/// Opens our builder; what it asks registries for is asked with these logins, too.
pub type Builder = Arc<
    dyn Fn(Option<knarr_image::client::Logins>) -> std::result::Result<knarr_build::Engine, String>
        + Send
        + Sync,
>;

pub struct Daemon {
    pub client: kube::Client,
    pub images: knarr_image::ImageStore,
    pub machine: Arc<dyn Machine>,
    pub builder: Builder,
    pub data_dir: PathBuf,
    pub seccomp_dir: PathBuf,
    pub node: String,
    pub pod_ranges: Vec<String>,
    pub version: String,
    gateway: IpAddr,
    pub containers: Containers,
    pub others: crate::others::Others,
    pub events: Events,
    pub execs: Execs,
    pub sessions: buildkit::session::Sessions,
    pub builds: buildkit::Builds,
    /// the names of each network as they were written last
    pub names_written: tokio::sync::Mutex<HashMap<String, String>>,
    /// held while names are given and networks change
    pub changing: tokio::sync::Mutex<()>,
    /// held while containers are given addresses in networks with subnets
    pub giving: tokio::sync::Mutex<()>,
    /// held while volumes come and go
    pub volumes: Mutex<()>,
    /// how many read a container's output: it isn't removed under their eyes
    readers: Mutex<HashMap<String, usize>>,
    read: Notify,
    names_changed: Notify,
    turns: Mutex<HashMap<String, std::sync::Weak<tokio::sync::Mutex<()>>>>,
    awake: OnceCell<()>,
    namespace: OnceCell<()>,
}

/// Held by who reads a container's output.
pub struct Reader {
    daemon: Arc<Daemon>,
    id: String,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut readers = self.daemon.readers.lock();
        if let Some(count) = readers.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                readers.remove(&self.id);
            }
        }
        drop(readers);
        self.daemon.read.notify_waiters();
    }
}

impl Daemon {
    pub fn new(config: Config) -> Arc<Daemon> {
        Arc::new(Daemon {
            client: config.client,
            images: config.images,
            machine: config.machine,
            builder: config.builder,
            data_dir: config.data_dir,
            seccomp_dir: config.seccomp_dir,
            node: config.node,
            pod_ranges: config.pod_ranges,
            version: config.version,
            gateway: config.gateway,
            containers: Containers::default(),
            others: Default::default(),
            events: Events::default(),
            execs: Execs::default(),
            sessions: buildkit::session::Sessions::default(),
            builds: buildkit::Builds::default(),
            names_written: tokio::sync::Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            giving: tokio::sync::Mutex::default(),
            volumes: Mutex::default(),
            readers: Mutex::default(),
            read: Notify::new(),
            names_changed: Notify::new(),
            turns: Mutex::default(),
            awake: OnceCell::new(),
            namespace: OnceCell::new(),
        })
    }

    /// A folder for what comes or goes with one request. The image store's own would be swept by the next who opens it.
    /// Blocking.
    pub fn temp(&self) -> Result<tempfile::TempDir> {
        let dir = self.data_dir.join("tmp");
        std::fs::create_dir_all(&dir)?;
        Ok(tempfile::tempdir_in(dir)?)
    }

    /// The machine, as containers reach it.
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub fn pod_name(&self, entry: &Entry) -> PodName {
        PodName {
            namespace: entry
                .pod
                .metadata
                .namespace
                .clone()
                .unwrap_or_else(|| NAMESPACE.into()),
            name: entry.pod_name().into(),
        }
    }

    /// After a start: who has containers is awake at once, for their names and policies.
    pub async fn resume(self: Arc<Self>) {
        let left = self.data_dir.join("tmp");
        let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(left)).await;
        let one = ListParams::default().labels(LABEL).limit(1);
        match self.pods().list(&one).await {
            Ok(list) if list.items.is_empty() => {}
            _ => drop(self.awake().await),
        }
    }

    /// Knows all containers; begins to watch them with the first who asks.
    pub async fn awake(self: &Arc<Self>) -> Result<()> {
        let begun = self.awake.get_or_try_init(|| async {
            tokio::spawn(watch(self.clone()));
            tokio::spawn(keep_names(self.clone()));
            let mut listed = self.containers.listed().subscribe();
            let listed = tokio::time::timeout(LIST, listed.wait_for(|l| *l)).await;
            match listed {
                Ok(Ok(_)) => Ok(()),
                _ => Err(Fault::server("the API did not tell the containers in time")),
            }
        });
        begun.await.copied()
    }

    /// Makes the namespace when it isn't there.
    pub async fn namespace(&self) -> Result<()> {
        let made = self.namespace.get_or_try_init(|| async {
            let namespaces: Api<Namespace> = Api::all(self.client.clone());
            let wanted = json!({ "metadata": { "name": NAMESPACE } });
            let wanted = serde_json::from_value(wanted)?;
            let made = namespaces.create(&PostParams::default(), &wanted).await;
            match made {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(e)) if e.code == 409 => Ok(()),
                Err(e) => Err(Fault::from(e)),
            }
        });
        made.await.copied()
    }

    /// Writes what is known of a container into its Pod.
    pub async fn rewrite(&self, entry: &Entry, record: &Record) -> Result<()> {
        let mut labels = pod::labels(record);
        for old in entry.pod.metadata.labels.iter().flat_map(|l| l.keys()) {
            if old.contains("docker.knarr.dev/") && !labels.contains_key(old) {
                labels.insert(old.clone(), Value::Null);
            }
        }
        let patch = json!({ "metadata": {
            "labels": labels,
            "annotations": { ANNOTATION: serde_json::to_string(record)? },
        } });
        self.patch(entry, &patch).await
    }

    pub async fn patch(&self, entry: &Entry, patch: &Value) -> Result<()> {
        let pod = self
            .pods()
            .patch(
                entry.pod_name(),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await?;
        self.take(pod);
        Ok(())
    }

    /// A Pod as an answer to our own write: it's known before the watch tells.
    pub fn take(&self, pod: Pod) {
        drop(self.containers.put(pod));
    }

    /// Tells an event of a container.
    pub fn tell(&self, action: &str, entry: &Entry, more: &[(&str, String)]) {
        let labels = Wanted::read(&entry.record.body).map(|w| w.labels);
        let labels = labels.unwrap_or_default().into_iter();
        let mut attributes: Map<String, Value> = labels.map(|(k, v)| (k, json!(v))).collect();
        attributes.insert("image".into(), json!(entry.record.image));
        attributes.insert("name".into(), json!(entry.record.name));
        for (key, value) in more {
            attributes.insert((*key).into(), json!(value));
        }
        self.events
            .tell("container", action, &entry.record.id, attributes);
    }

    /// What is done with a container one after the other.
    pub fn turn(&self, id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock();
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(id).and_then(std::sync::Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(id.to_string(), Arc::downgrade(&turn));
        turn
    }

    pub fn reader(self: &Arc<Self>, id: &str) -> Reader {
        *self.readers.lock().entry(id.to_string()).or_insert(0) += 1;
        Reader {
            daemon: self.clone(),
            id: id.to_string(),
        }
    }

    /// Until nobody reads the container's output, or for so long.
    pub async fn unread(&self, id: &str, patience: Duration) {
        let _ = tokio::time::timeout(patience, async {
            loop {
                let told = self.read.notified();
                if !self.readers.lock().contains_key(id) {
                    return;
                }
                told.await;
            }
        })
        .await;
    }
}

/// Names follow who runs.
async fn keep_names(daemon: Arc<Daemon>) {
    loop {
        daemon.names_changed.notified().await;
        if let Err(e) = networks::sync(&daemon).await {
            tracing::warn!(error = %e, "the names of Docker's networks could not be written; with the next change, again");
        }
    }
}

async fn watch(daemon: Arc<Daemon>) {
    use kube::runtime::WatchStreamExt;
    let config = watcher::Config::default().labels(LABEL);
    let stream = watcher(daemon.pods(), config).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut listed: HashSet<String> = HashSet::new();
    let mut first = true;
    loop {
        let event = match stream.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(e) => {
                tracing::debug!(error = %e, "the watch of Docker's containers is begun again");
                continue;
            }
        };
        let mut changes = Vec::new();
        match event {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(pod) => {
                listed.extend(pod.metadata.uid.clone());
                changes.extend(daemon.containers.put(pod));
            }
            watcher::Event::InitDone => {
                changes.extend(daemon.containers.retain(&listed));
                listed.clear();
                daemon.containers.listed().send_replace(true);
                first = false;
            }
            watcher::Event::Apply(pod) => changes.extend(daemon.containers.put(pod)),
            watcher::Event::Delete(pod) => changes.extend(daemon.containers.remove(&pod)),
        }
        for change in changes {
            react(&daemon, change, first);
        }
    }
}

/// Tells what became of a container: it began, it ended, it is well or not.
pub fn tell_change(daemon: &Daemon, was: &State, now: &Entry, state: &State) {
    let ran = |s: Status| matches!(s, Status::Running | Status::Paused);
    let ended = state.end.is_some() && state.end != was.end;
    if ended {
        if state.oom {
            daemon.tell("oom", now, &[]);
        }
        daemon.tell("die", now, &[("exitCode", state.exit_code.to_string())]);
    }
    if ran(state.status) && (!ran(was.status) || ended) {
        daemon.tell("start", now, &[]);
    }
    if let Some(health) = state
        .health
        .filter(|h| ran(state.status) && was.health != Some(h) && *h != "starting")
    {
        daemon.tell(&format!("health_status: {health}"), now, &[]);
    }
}

/// What follows of a change: events, names, and what a policy says.
fn react(daemon: &Arc<Daemon>, change: Change, silent: bool) {
    let (before, now) = match change {
        Change::Gone(entry) => {
            daemon.tell("destroy", &entry, &[]);
            daemon.names_changed.notify_one();
            return;
        }
        Change::Appeared(now) => (None, now),
        Change::Changed { before, now } => (Some(before), now),
    };
    let state = now.state();
    let was = before.as_ref().map(|b| b.state());
    let ran = |s: Status| matches!(s, Status::Running | Status::Paused);
    if was.as_ref().is_none_or(|w| {
        ran(w.status) != ran(state.status) || w.ip != state.ip || w.end != state.end
    }) {
        daemon.names_changed.notify_one();
    }
    if let Some(was) = was.filter(|_| !silent) {
        tell_change(daemon, &was, &now, &state);
    }
    let policy = Wanted::read(&now.record.body).map(|w| w.host).ok();
    let Some(policy) = policy else { return };
    if policy.auto_remove && state.status == Status::Exited {
        let daemon = daemon.clone();
        let entry = now.clone();
        tokio::spawn(async move { lifecycle::auto_remove(&daemon, &entry).await });
    }
    if let Restart::OnFailure(most) = policy.restart
        && most > 0
        && state.status == Status::Restarting
        && state.restarts >= most
    {
        let daemon = daemon.clone();
        tokio::spawn(async move { drop(lifecycle::end(&daemon, &now).await) });
    }
}
