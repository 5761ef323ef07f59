//! From the watch of Pods to their tasks; and what's left of Pods that are no more.

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use knarr_runtime::{Container, State};
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    context::Context,
    eviction,
    inotify::Watcher,
    pod::{
        adopt::Found,
        backoff,
        entry::{Entry, HostPort, Registry},
        jobs,
        mailbox::Mailbox,
        resize::share::Requests,
        worker::Worker,
    },
    spec::{apparmor, build::labels, resources, sysctl},
    statics::{self, Reflection, Statics},
};

/// A default container may be named for `kubectl logs` and `exec`.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
const ORPHAN_GRACE_MAX: Duration = Duration::from_secs(30);
const ORPHAN_TRIES_MAX: u32 = 10;
const REVIVE_AFTER: Duration = Duration::from_secs(1);

pub(crate) struct Pods {
    pub context: Arc<Context>,
    pub registry: Registry,
    pub tasks: TaskTracker,
    pub cancel: CancellationToken,
    pub statics: Arc<Statics>,
}

impl Pods {
    /// Watches the node's Pods until cancelled; the first list decides what is adopted and what is orphaned.
    pub(crate) async fn run(self: Arc<Self>) {
        let api: Api<Pod> = Api::all(self.context.client.clone());
        let selector = format!("spec.nodeName={}", self.context.name);
        let config = watcher::Config::default().fields(&selector).page_size(50);
        let stream = watcher(api, config).default_backoff();
        let mut stream = Box::pin(stream);
        let mut found = self.found();
        let mut listed: HashSet<Box<str>> = HashSet::new();
        let mut first = true;
        loop {
            match stream.try_next().await {
                Ok(Some(watcher::Event::Init)) => listed.clear(),
                Ok(Some(watcher::Event::InitApply(pod))) => {
                    listed.insert(pod.metadata.uid.as_deref().unwrap_or_default().into());
                    self.upsert(pod, &mut found);
                }
                Ok(Some(watcher::Event::InitDone)) => {
                    for entry in self.registry.all() {
                        if !listed.contains(&entry.uid) && entry.mirror.is_none() {
                            entry.mailbox.pod_gone();
                        }
                    }
                    self.statics.mirrors_listed(&listed);
                    if std::mem::take(&mut first) {
                        listed.extend(self.statics.uids().into_iter().map(Into::into));
                        self.clear_orphans(&listed).await;
                        found.clear();
                        found.shrink_to_fit();
                    }
                    listed = HashSet::new();
                }
                Ok(Some(watcher::Event::Apply(pod))) => self.upsert(pod, &mut found),
                Ok(Some(watcher::Event::Delete(pod))) if statics::is_mirror(&pod) => {
                    self.statics.mirror_gone(&pod);
                }
                Ok(Some(watcher::Event::Delete(mut pod))) => {
                    pod.metadata.managed_fields = None;
                    let uid = pod.metadata.uid.clone().unwrap_or_default();
                    if let Some(entry) = self.registry.get(&uid) {
                        entry.mailbox.pod_changed(Arc::new(pod));
                        entry.mailbox.pod_gone();
                    }
                }
                Ok(None) => return,
                Err(error) => tracing::debug!(%error, "watch of Pods is retried"),
            }
        }
    }

    /// The runtime's containers by Pod.
    fn found(&self) -> HashMap<String, Vec<Container>> {
        let mut out: HashMap<String, Vec<Container>> = HashMap::new();
        for container in self.context.engine.containers() {
            if let Some(uid) = container.spec.labels.get(labels::POD_UID) {
                out.entry(uid.clone()).or_default().push(container);
            }
        }
        out
    }

    /// Runs a static Pod, or goes on with it.
    pub(crate) fn take_up_static(self: &Arc<Self>, pod: Pod) {
        self.take_up(pod, &mut self.found(), true);
    }

    fn upsert(self: &Arc<Self>, mut pod: Pod, found: &mut HashMap<String, Vec<Container>>) {
        // The better part of the object, and nothing here asks for it.
        pod.metadata.managed_fields = None;
        match statics::is_mirror(&pod) {
            true => self.statics.mirror_changed(&pod),
            false => self.take_up(pod, found, false),
        }
    }

    fn take_up(
        self: &Arc<Self>,
        pod: Pod,
        found: &mut HashMap<String, Vec<Container>>,
        is_static: bool,
    ) {
        let Some(uid) = pod.metadata.uid.clone() else {
            return;
        };
        let pod = Arc::new(pod);
        if let Some(entry) = self.registry.get(&uid) {
            entry.mailbox.pod_changed(pod);
            return;
        }
        let annotations = pod.metadata.annotations.as_ref();
        let default_container = annotations
            .and_then(|a| a.get(DEFAULT_CONTAINER))
            .map(|c| c.as_str().into());
        let entry = Arc::new(Entry {
            uid: uid.as_str().into(),
            namespace: pod.metadata.namespace.as_deref().unwrap_or_default().into(),
            name: pod.metadata.name.as_deref().unwrap_or_default().into(),
            default_container: Mutex::new(default_container),
            mailbox: Arc::new(Mailbox::default()),
            units: Mutex::default(),
            ports: Mutex::default(),
            share: Mutex::default(),
            probed: Mutex::default(),
            checks: Mutex::default(),
            burstable: resources::qos_class(&pod) == "Burstable",
            mirror: is_static.then(Reflection::default),
            storage: eviction::StorageLimits::of(&pod),
        });
        if is_static {
            // no watch will ever tell of it
            entry.mailbox.pod_changed(pod.clone());
        }
        self.registry.insert(entry.clone());
        let found = Found(found.remove(&uid).unwrap_or_default());
        let fresh = found.0.is_empty();
        let fits = self.registry.take_ports(&entry, HostPort::of(&pod)) || !found.0.is_empty();
        let runs = !fresh || Worker::ran(&pod);
        let mut worker = Box::new(Worker::new(
            self.context.clone(),
            self.registry.clone(),
            entry.clone(),
            &pod,
            found,
        ));
        let wanted = Requests::of(&worker.pod());
        let room = self
            .registry
            .admit(&entry, wanted, self.context.capacity(), runs);
        if foreign_os(&pod) {
            let why = "Failed to admit pod as the OS field doesn't match node OS";
            worker.refuse(&pod, "PodOSNotSupported", why.into());
        } else if let Err(lack) = room {
            worker.refuse(&pod, lack.reason(), lack.to_string());
        } else if !fits {
            worker.reject(
                &pod,
                "NodePorts",
                "node(s) didn't have free ports for the requested pod ports",
            );
        }
        if !runs {
            worker.is_new();
        }
        // what runs already was taken under the rules of then
        if fresh {
            let allowed = &self.context.settings.allowed_unsafe_sysctls;
            if let Some(why) = sysctl::forbidden(&pod, allowed) {
                worker.refuse(&pod, sysctl::FORBIDDEN, why);
            } else if let Some(why) = apparmor::refusal(&pod, &self.context.app_armor) {
                worker.refuse(&pod, "AppArmor", why);
            } else if let Some(why) = eviction::refusal(&pod, &self.context.pressure.borrow()) {
                worker.refuse(&pod, "Evicted", why);
            }
        }
        let pods = self.clone();
        let work = AssertUnwindSafe(Box::pin(worker.run(self.cancel.clone()))).catch_unwind();
        self.tasks.spawn(async move {
            let failed = work.await.is_err();
            match (failed, is_static) {
                // boxed: hardly ever needed, and each Pod's task would have room for it
                (true, false) => Box::pin(pods.revive(&uid)).await,
                // taken up again from its manifest
                (true, true) => pods.registry.remove(&uid),
                (false, _) => {}
            }
            if is_static {
                pods.statics.ended();
            }
        });
    }

    /// A Pod whose task has panicked is taken up again from what the API and the runtime know; the others never notice.
    async fn revive(self: &Arc<Self>, uid: &str) {
        let Some(entry) = self.registry.get(uid) else {
            return;
        };
        tracing::error!(pod = %entry.name, namespace = %entry.namespace, "a pod's task failed: this is a bug in knarr; the pod is taken up again");
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &entry.namespace);
        let again = async {
            loop {
                tokio::time::sleep(REVIVE_AFTER).await;
                if let Ok(found) = api.get_opt(&entry.name).await {
                    return found;
                }
            }
        };
        let Some(found) = self.cancel.run_until_cancelled(again).await else {
            return;
        };
        self.registry.remove(uid);
        match found.filter(|p| p.metadata.uid.as_deref() == Some(uid)) {
            Some(pod) => self.upsert(pod, &mut self.found()),
            None => clear_orphan(self.context.clone(), uid.to_owned()).await,
        }
    }

    /// Containers, sandboxes and folders of Pods that the API doesn't have: deleted while the platform was away.
    async fn clear_orphans(&self, listed: &HashSet<Box<str>>) {
        let engine = &self.context.engine;
        let mut uids: HashSet<String> = HashSet::new();
        uids.extend(
            engine
                .containers()
                .iter()
                .filter_map(|c| c.spec.labels.get(labels::POD_UID).cloned()),
        );
        uids.extend(engine.sandboxes().into_iter().map(|s| s.spec.id));
        let dir = self.context.data_dir.join("pods");
        let folders = tokio::task::spawn_blocking(move || -> Vec<String> {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries
                .filter_map(|e| e.file_name().into_string().ok())
                .collect()
        });
        uids.extend(folders.await.unwrap_or_default());
        let context = self.context.clone();
        let with_devices = tokio::task::spawn_blocking(move || context.devices.pods());
        uids.extend(with_devices.await.unwrap_or_default());
        for uid in uids {
            if listed.contains(uid.as_str()) || self.registry.get(&uid).is_some() {
                continue;
            }
            tracing::info!(%uid, "clearing what is left of a pod that is no more");
            let (context, cancel) = (self.context.clone(), self.cancel.clone());
            self.tasks.spawn(async move {
                let _ = cancel.run_until_cancelled(clear_orphan(context, uid)).await;
            });
        }
    }

    /// Wakes the Pods that wait for an image whenever one has come.
    pub(crate) async fn run_images(self: Arc<Self>) {
        let Some(dir) = self.context.images.watch_dir() else {
            return;
        };
        let watcher = match Watcher::on(&dir) {
            Ok(watcher) => watcher,
            Err(error) => {
                tracing::warn!(%error, dir = %dir.display(), "the image store can't be watched: new images are found with the usual back-off");
                return;
            }
        };
        while watcher.changed().await.is_ok() {
            for entry in self.registry.all() {
                entry.mailbox.images_changed();
            }
        }
    }
}

/// The Pod is for another operating system.
fn foreign_os(pod: &Pod) -> bool {
    let os = pod.spec.as_ref().and_then(|s| s.os.as_ref());
    os.is_some_and(|os| os.name != "linux")
}

async fn clear_orphan(context: Arc<Context>, uid: String) {
    let mine = |c: &Container| c.spec.labels.get(labels::POD_UID) == Some(&uid);
    let stops = context
        .engine
        .containers()
        .into_iter()
        .filter(mine)
        .map(|container| {
            let context = context.clone();
            async move {
                if !matches!(container.state, State::Running { .. }) {
                    return;
                }
                let label = |key: &str| container.spec.labels.get(key).cloned().unwrap_or_default();
                let grace = Duration::from_secs(label(labels::GRACE_SECONDS).parse().unwrap_or(0));
                let signal =
                    jobs::signal_number(&label(labels::STOP_SIGNAL)).unwrap_or(libc::SIGTERM);
                let id = &container.spec.id;
                let _ = context.engine.signal(id, signal).await;
                let until = Instant::now() + grace.min(ORPHAN_GRACE_MAX);
                // The clean-up kills what's left.
                let _ = tokio::time::timeout_at(until, context.engine.wait(id)).await;
            }
        });
    futures::future::join_all(stops).await;
    for tries in 0..ORPHAN_TRIES_MAX {
        match jobs::clean_up(&context, &uid, false).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(%uid, %error, "the clean-up of an orphaned pod is retried")
            }
        }
        let wait = backoff::doubling(Duration::from_millis(500), Duration::from_secs(60), tries);
        tokio::time::sleep(wait).await;
    }
    tracing::error!(%uid, "an orphaned pod could not be cleaned up; the next start tries again");
}
