//! Static Pods: manifests in a folder, one a file, run whether the API is there or not. The API shows a mirror of each.
//!
//! A static Pod's uid is made of its manifest, so a changed manifest is another Pod: the old one ends first. What the API
//! fills in is taken from the mirror once and kept beside the Pods' folders, for starts without the API.
//!
//! Source: kubelet `pkg/kubelet/config/{file,common}.go`, `pkg/kubelet/pod/mirror_client.go`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, Pod, PodSpec, Toleration},
    apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
};
use kube::{
    Api,
    api::{DeleteParams, PostParams, Preconditions},
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    context::Context,
    inotify::Watcher,
    pod::{entry::Entry, mailbox::Mailbox},
    pods::Pods,
};

pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";
const HASH: &str = "kubernetes.io/config.hash";
const SOURCE: &str = "kubernetes.io/config.source";
const SEEN: &str = "kubernetes.io/config.seen";
/// After a refusal of the API, or when the folder can't be watched.
const AGAIN: Duration = Duration::from_secs(5);
/// Folder, below the node's, of what the API filled in.
const KEPT: &str = "static";
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// A manifest is read whole.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// The kubelet has no bound; a folder with more is a mistake.
const MANIFESTS_MAX: usize = 1024;

/// Namespace and name.
type FullName = (Box<str>, Box<str>);

/// What a static Pod's task knows of its mirror.
#[derive(Default)]
pub(crate) struct Reflection {
    uid: Mutex<Option<Box<str>>>,
    /// its manifest is gone or another
    ending: AtomicBool,
}

impl Reflection {
    /// Whose status the API is told; None while there is no mirror.
    pub(crate) fn uid(&self) -> Option<Box<str>> {
        self.uid.lock().clone()
    }

    fn set(&self, uid: &str, mailbox: &Mailbox) {
        let mut now = self.uid.lock();
        if now.as_deref() != Some(uid) {
            *now = Some(uid.into());
            mailbox.nudge();
        }
    }
}

/// A mirror as the API has it.
#[derive(Clone, PartialEq)]
struct Seen {
    uid: Box<str>,
    hash: Box<str>,
    leaving: bool,
}

pub(crate) struct Statics {
    context: Arc<Context>,
    dir: PathBuf,
    files: Mutex<Files>,
    mirrors: Mutex<BTreeMap<FullName, Seen>>,
    /// None: changes count from the next start
    watcher: Option<Watcher>,
    wake: Notify,
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a String> {
    pod.metadata.annotations.as_ref()?.get(key)
}

fn full_name(pod: &Pod) -> FullName {
    let text = |t: &Option<String>| t.as_deref().unwrap_or_default().into();
    (text(&pod.metadata.namespace), text(&pod.metadata.name))
}

pub(crate) fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

/// The Pod of a manifest, as it runs on the node.
fn parse(text: &str, file: &Path, node: &str) -> Result<Pod, String> {
    let mut pod: Pod = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    let name = pod.metadata.name.clone().unwrap_or_default();
    let spec = pod.spec.as_mut().filter(|s| !s.containers.is_empty());
    let spec = spec.ok_or("it has no containers")?;
    if name.is_empty() {
        return Err("it has no metadata.name".into());
    }
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    for part in [node, "\0", &file.to_string_lossy(), "\0", text] {
        hash.update(part.as_bytes());
    }
    let uid = hex::encode(&hash.finish().as_ref()[..16]);
    let meta = &mut pod.metadata;
    meta.name = Some(format!("{name}-{node}").to_lowercase());
    meta.namespace.get_or_insert_with(|| "default".into());
    meta.uid = Some(uid.clone());
    meta.creation_timestamp = None;
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(HASH.into(), uid);
    annotations.insert(SOURCE.into(), "file".into());
    spec.node_name = Some(node.to_owned());
    // No taint ends it: nobody but its folder does.
    let all = Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Toleration::default()
    };
    spec.tolerations.get_or_insert_default().push(all);
    Ok(pod)
}

type Files = BTreeMap<PathBuf, Pod>;

/// The Pods of all manifests in a folder. What can't be read is told, and stays what it was: it may be being written.
/// Blocking.
fn read(dir: &Path, node: &str, before: &Files) -> Files {
    let mut all = Files::new();
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|e| e.path()).collect();
    files.sort();
    for file in files.into_iter().take(MANIFESTS_MAX) {
        let hidden = file
            .file_name()
            .is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
        let meta = std::fs::metadata(&file);
        let regular = meta.is_ok_and(|m| m.is_file() && m.len() <= MANIFEST_BYTES_MAX);
        if hidden || !regular {
            continue;
        }
        let text = std::fs::read_to_string(&file).map_err(|e| e.to_string());
        match text.and_then(|text| parse(&text, &file, node)) {
            Ok(pod) => drop(all.insert(file, pod)),
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "this manifest is no Pod: correct it or remove it");
                all.extend(before.get(&file).cloned().map(|pod| (file, pod)));
            }
        }
    }
    all
}

impl Statics {
    /// Makes the folder if need be and reads it.
    pub(crate) async fn open(context: Arc<Context>, dir: PathBuf) -> Arc<Statics> {
        let (folder, kept) = (dir.clone(), context.data_dir.join(KEPT));
        let make = move || {
            std::fs::create_dir_all(kept)?;
            std::fs::create_dir_all(&folder)?;
            Watcher::on(&folder)
        };
        // Watched before it is read: nothing is missed.
        let watcher = match tokio::task::spawn_blocking(make).await {
            Ok(Ok(watcher)) => Some(watcher),
            Ok(Err(error)) => {
                tracing::warn!(%error, dir = %dir.display(), "the folder of static Pods can't be watched: changes count from the next start");
                None
            }
            Err(_) => None,
        };
        let statics = Arc::new(Statics {
            watcher,
            context,
            dir,
            files: Mutex::default(),
            mirrors: Mutex::default(),
            wake: Notify::new(),
        });
        statics.load().await;
        statics
    }

    async fn load(&self) {
        let (dir, kept) = (self.dir.clone(), self.kept_dir());
        let (node, before) = (self.context.name.clone(), self.files.lock().clone());
        let work = move || {
            let files = read(&dir, &node, &before);
            let uids: BTreeSet<_> = files
                .values()
                .filter_map(|p| p.metadata.uid.clone())
                .collect();
            for entry in std::fs::read_dir(&kept).into_iter().flatten().flatten() {
                if !entry.file_name().to_str().is_some_and(|n| uids.contains(n)) {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
            files
        };
        if let Ok(files) = tokio::task::spawn_blocking(work).await {
            *self.files.lock() = files;
        }
    }

    /// By name; of two files with the same, the first counts.
    fn wanted(&self) -> BTreeMap<FullName, Pod> {
        let mut all = BTreeMap::new();
        for pod in self.files.lock().values() {
            all.entry(full_name(pod)).or_insert_with(|| pod.clone());
        }
        all
    }

    /// Where what the API filled in is kept, a file for each uid.
    fn kept_dir(&self) -> PathBuf {
        self.context.data_dir.join(KEPT)
    }

    /// The manifests' Pods: what is left of them is no orphan.
    pub(crate) fn uids(&self) -> Vec<String> {
        let files = self.files.lock();
        files
            .values()
            .filter_map(|p| p.metadata.uid.clone())
            .collect()
    }

    /// The watch shows a mirror.
    pub(crate) fn mirror_changed(&self, pod: &Pod) {
        let seen = Seen {
            uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
            hash: annotation(pod, MIRROR).map_or("", |h| h).into(),
            leaving: pod.metadata.deletion_timestamp.is_some(),
        };
        let before = self.mirrors.lock().insert(full_name(pod), seen.clone());
        if before.as_ref() != Some(&seen) {
            self.wake.notify_one();
        }
    }

    pub(crate) fn mirror_gone(&self, pod: &Pod) {
        let mut mirrors = self.mirrors.lock();
        let name = full_name(pod);
        if mirrors.get(&name).map(|s| &*s.uid) == pod.metadata.uid.as_deref() {
            mirrors.remove(&name);
            self.wake.notify_one();
        }
    }

    /// A list has shown all mirrors there are: others have gone unseen.
    pub(crate) fn mirrors_listed(&self, uids: &std::collections::HashSet<Box<str>>) {
        self.mirrors
            .lock()
            .retain(|_, seen| uids.contains(&seen.uid));
        self.wake.notify_one();
    }

    /// A static Pod's task has ended.
    pub(crate) fn ended(&self) {
        self.wake.notify_one();
    }

    /// Follows the folder until cancelled.
    pub(crate) async fn run(self: Arc<Self>, pods: Arc<Pods>) {
        let changed = async || match &self.watcher {
            Some(watcher) if watcher.changed().await.is_ok() => {}
            _ => std::future::pending().await,
        };
        loop {
            let again = self.reconcile(&pods).await;
            let pause = async {
                match again {
                    true => tokio::time::sleep(AGAIN).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed() => self.load().await,
                () = self.wake.notified() => {}
                () = pause => {}
            }
        }
    }

    /// Brings tasks and mirrors in line with the manifests; true when something has to be tried again.
    async fn reconcile(&self, pods: &Arc<Pods>) -> bool {
        let wanted = self.wanted();
        let running = pods
            .registry
            .all()
            .into_iter()
            .filter(|e| e.mirror.is_some());
        let running: BTreeMap<FullName, Arc<Entry>> = running
            .map(|e| ((e.namespace.clone(), e.name.clone()), e))
            .collect();
        let mut names: BTreeSet<FullName> = wanted.keys().cloned().collect();
        names.extend(running.keys().cloned());
        names.extend(self.mirrors.lock().keys().cloned());
        let mut again = false;
        for name in names {
            let done = match (running.get(&name), wanted.get(&name)) {
                (Some(entry), Some(pod)) if Some(&*entry.uid) == pod.metadata.uid.as_deref() => {
                    self.reflect(pod).await.map(|mirror| {
                        if let (Some(reflection), Some(uid)) = (&entry.mirror, &mirror.metadata.uid)
                        {
                            reflection.set(uid, &entry.mailbox);
                        }
                    })
                }
                // its end wakes us
                (Some(entry), _) => {
                    end(entry);
                    Ok(())
                }
                (None, Some(pod)) => self.start(pod, pods).await,
                (None, None) => self.remove_mirror(&name).await,
            };
            if let Err(error) = done {
                tracing::warn!(namespace = %name.0, pod = %name.1, %error, "a static Pod is tried again");
                again = true;
            }
        }
        again
    }

    async fn start(&self, pod: &Pod, pods: &Arc<Pods>) -> Result<(), String> {
        let kept = self
            .kept_dir()
            .join(pod.metadata.uid.as_deref().unwrap_or_default());
        let file = kept.clone();
        let spec = tokio::task::spawn_blocking(move || std::fs::read(file).ok());
        let spec = spec.await.ok().flatten();
        let spec: Option<PodSpec> = spec.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut whole = pod.clone();
        whole.spec = match spec {
            Some(spec) => Some(spec),
            None => {
                let spec = self.reflect(pod).await?.spec;
                let bytes = serde_json::to_vec(&spec).map_err(|e| e.to_string())?;
                let write = tokio::task::spawn_blocking(move || {
                    let temp = kept.with_extension("tmp");
                    std::fs::write(&temp, bytes).and_then(|()| std::fs::rename(temp, kept))
                });
                if let Ok(Err(error)) = write.await {
                    tracing::warn!(%error, "a static Pod needs the API at its next start");
                }
                spec
            }
        };
        let now = Timestamp::now();
        let annotations = whole.metadata.annotations.get_or_insert_default();
        annotations.insert(SEEN.into(), now.to_string());
        whole.metadata.creation_timestamp = Some(Time(now));
        pods.take_up_static(whole);
        // its mirror is looked after in the next round
        self.wake.notify_one();
        Ok(())
    }

    fn api(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.context.client.clone(), namespace)
    }

    /// The Pod's mirror; made anew when it is another's, or is being deleted.
    async fn reflect(&self, pod: &Pod) -> Result<Pod, String> {
        let name = full_name(pod);
        let api = self.api(&name.0);
        let hash = pod.metadata.uid.as_deref().unwrap_or_default();
        let look = async {
            match api.get_opt(&name.1).await {
                // The node authorizer lets nodes look at their own Pods only: one that isn't there is nobody's.
                Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
                found => found,
            }
        };
        let found = within(look).await?;
        if let Some(found) = found {
            let same = annotation(&found, MIRROR).is_some_and(|h| h == hash);
            if same && found.metadata.deletion_timestamp.is_none() {
                return Ok(found);
            }
            if !is_mirror(&found) {
                return Err("another Pod has its name".into());
            }
            self.delete(&name, found.metadata.uid.as_deref().unwrap_or_default())
                .await?;
        }
        let nodes: Api<Node> = Api::all(self.context.client.clone());
        let node = within(nodes.get(&self.context.name)).await?;
        let mut mirror = pod.clone();
        mirror.status = None;
        mirror.metadata.uid = None;
        let annotations = mirror.metadata.annotations.get_or_insert_default();
        annotations.insert(MIRROR.into(), hash.to_owned());
        annotations.insert(SEEN.into(), Timestamp::now().to_string());
        mirror.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: self.context.name.clone(),
            uid: node.metadata.uid.unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        }]);
        within(api.create(&PostParams::default(), &mirror)).await
    }

    async fn remove_mirror(&self, name: &FullName) -> Result<(), String> {
        let seen = self.mirrors.lock().get(name).cloned();
        match seen {
            Some(seen) => self.delete(name, &seen.uid).await,
            None => Ok(()),
        }
    }

    async fn delete(&self, name: &FullName, uid: &str) -> Result<(), String> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let api = self.api(&name.0);
        match tokio::time::timeout(CALL_DEADLINE, api.delete(&name.1, &params)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the API server did not answer in time".into()),
        }
    }
}

async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match tokio::time::timeout(CALL_DEADLINE, call).await {
        Ok(done) => done.map_err(|e| e.to_string()),
        Err(_) => Err("the API server did not answer in time".into()),
    }
}

/// Lets a static Pod end as one that is deleted.
fn end(entry: &Entry) {
    let Some(reflection) = &entry.mirror else {
        return;
    };
    let Some(mut pod) = entry.mailbox.latest() else {
        return;
    };
    if reflection.ending.swap(true, Ordering::Relaxed) {
        return;
    }
    let grace = pod
        .spec
        .as_ref()
        .and_then(|s| s.termination_grace_period_seconds);
    pod.metadata.deletion_grace_period_seconds = Some(grace.unwrap_or(30));
    pod.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
    entry.mailbox.pod_changed(Arc::new(pod));
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: c, image: i}]\n";

    #[test]
    fn a_manifest_is_a_pod_of_its_node() {
        let pod = parse(MANIFEST, Path::new("/m/web.yaml"), "Node-1").unwrap();
        assert_eq!(full_name(&pod), ("default".into(), "web-node-1".into()));
        let uid = pod.metadata.uid.clone().unwrap();
        assert_eq!(annotation(&pod, HASH), Some(&uid));
        assert_eq!(annotation(&pod, SOURCE).unwrap(), "file");
        assert!(!is_mirror(&pod));
        let same = parse(MANIFEST, Path::new("/m/web.yaml"), "Node-1").unwrap();
        assert_eq!(same.metadata.uid.unwrap(), uid, "so that it is found again");
        for (text, file, node) in [
            (
                &*MANIFEST.replace("image: i", "image: j"),
                "/m/web.yaml",
                "Node-1",
            ),
            (MANIFEST, "/m/other.yaml", "Node-1"),
            (MANIFEST, "/m/web.yaml", "node-2"),
        ] {
            let other = parse(text, Path::new(file), node).unwrap();
            assert_ne!(other.metadata.uid.unwrap(), uid, "{text} {file} {node}");
        }
    }

    #[test]
    fn what_is_no_pod_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("a.yaml", MANIFEST);
        write(
            "b.json",
            r#"{"metadata":{"name":"b","namespace":"x"},"spec":{"containers":[{"name":"c"}]}}"#,
        );
        write(".hidden.yaml", &MANIFEST.replace("web", "hidden"));
        write("empty.yaml", "");
        write("broken.yaml", "a: [");
        write(
            "nothing.yaml",
            "metadata: {name: n}\nspec: {containers: []}",
        );
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        let none = Files::new();
        let before = read(dir.path(), "n", &none);
        let all: Vec<_> = before.values().map(full_name).collect();
        assert_eq!(
            all,
            [
                ("default".into(), "web-n".into()),
                ("x".into(), "b-n".into())
            ]
        );
        // while it is written anew it is empty for a moment
        write("a.yaml", "");
        assert_eq!(read(dir.path(), "n", &before), before);
        std::fs::remove_file(dir.path().join("a.yaml")).unwrap();
        assert_eq!(read(dir.path(), "n", &before).len(), 1);
    }
}
