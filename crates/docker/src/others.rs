//! The containers of apps that `knarr up` runs, beside Docker's own: who watches the daemon for containers and their labels
//! (Traefik, nginx-proxy, Dozzle) finds them here. They are listed, inspected and told of, and no more: it is `knarr up`
//! that changes them.

use crate::{
    containers::Entry,
    create::health::Health,
    daemon::{self, Daemon},
    networks::Endpoint,
    pod::CONTAINER,
    record::Record,
};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use parking_lot::RwLock;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{OnceCell, watch};

/// On the Pods of every app; the first has the name of their namespace.
const PROJECT: &str = "app.kubernetes.io/part-of";
const SERVICE: &str = "app.kubernetes.io/name";
/// A compose file's labels that Kubernetes would not take, as JSON.
const LABELS: &str = "knarr.dev/labels";
/// How long the first list may take before an answer goes without it.
const LIST: Duration = Duration::from_secs(5);

/// By id.
pub struct Others {
    all: RwLock<HashMap<String, Arc<Entry>>>,
    listed: watch::Sender<bool>,
    begun: OnceCell<()>,
}

impl Default for Others {
    fn default() -> Others {
        Others {
            all: RwLock::default(),
            listed: watch::Sender::new(false),
            begun: OnceCell::new(),
        }
    }
}

impl Others {
    /// Newest first.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        let mut all: Vec<_> = self.all.read().values().cloned().collect();
        all.sort_by(|a, b| b.record.created.cmp(&a.record.created));
        all
    }

    /// By id, name, or by the only one of its kind: the beginning of an id, or the name that the container has for itself
    /// (`docker inspect $(hostname)`, where Docker's own have the beginning of their id).
    pub fn find(&self, reference: &str) -> Option<Arc<Entry>> {
        let bare = reference.strip_prefix('/').unwrap_or(reference);
        let all = self.all.read();
        let whole = |e: &&Arc<Entry>| e.record.id == bare || e.record.name == bare;
        if let Some(found) = all.values().find(whole) {
            return Some(found.clone());
        }
        let fits = |e: &&Arc<Entry>| {
            let begins = bare.len() >= 4 && e.record.id.starts_with(bare);
            begins || e.pod.metadata.name.as_deref() == Some(bare)
        };
        let mut some = all.values().filter(fits);
        some.next().filter(|_| some.next().is_none()).cloned()
    }
}

/// Knows them, from the first who asks on.
pub async fn awake(daemon: &Arc<Daemon>) {
    let others = &daemon.others;
    let begin = || async { drop(tokio::spawn(keep(daemon.clone()))) };
    others.begun.get_or_init(begin).await;
    let mut listed = others.listed.subscribe();
    // Without them the answer still has Docker's own.
    drop(tokio::time::timeout(LIST, listed.wait_for(|l| *l)).await);
}

async fn keep(daemon: Arc<Daemon>) {
    let pods: Api<Pod> = Api::all(daemon.client.clone());
    let config = watcher::Config::default().labels(&format!("{PROJECT},{SERVICE}"));
    let mut stream = std::pin::pin!(watcher(pods, config).default_backoff());
    let mut fresh = HashMap::new();
    loop {
        let event = match stream.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(e) => {
                tracing::debug!(error = %e, "the watch of the apps' containers is begun again");
                continue;
            }
        };
        match event {
            watcher::Event::Init => fresh.clear(),
            watcher::Event::InitApply(pod) => {
                fresh.extend(entries(&pod).map(|e| (e.record.id.clone(), Arc::new(e))));
            }
            watcher::Event::InitDone => {
                *daemon.others.all.write() = std::mem::take(&mut fresh);
                daemon.others.listed.send_replace(true);
            }
            watcher::Event::Apply(pod) => {
                for entry in entries(&pod) {
                    let now = Arc::new(entry);
                    let id = now.record.id.clone();
                    let before = daemon.others.all.write().insert(id, now.clone());
                    if let Some(before) = before {
                        daemon::tell_change(&daemon, &before.state(), &now, &now.state());
                    }
                }
            }
            watcher::Event::Delete(pod) => {
                for entry in entries(&pod) {
                    daemon.others.all.write().remove(&entry.record.id);
                    daemon.tell("die", &entry, &[("exitCode", "0".into())]);
                    daemon.tell("destroy", &entry, &[]);
                }
            }
        }
    }
}

/// The Pod's containers, as Docker would know them; none when it is no app's.
fn entries(pod: &Pod) -> impl Iterator<Item = Entry> {
    let labels = pod.metadata.labels.as_ref();
    let label = |key: &str| labels?.get(key).cloned();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let project = label(PROJECT).filter(|p| *p == namespace);
    let service = label(SERVICE).unwrap_or_default();
    let containers = pod.spec.as_ref().map(|s| s.containers.as_slice());
    let containers = containers.unwrap_or_default();
    let mut all = Vec::new();
    if let Some(project) = project {
        let only = containers.len() == 1;
        all.extend(containers.iter().map(|c| {
            let service = if only { &service } else { &c.name };
            entry(pod, c, &project, service, only)
        }));
    }
    all.into_iter()
}

fn entry(pod: &Pod, container: &Container, project: &str, service: &str, only: bool) -> Entry {
    let meta = &pod.metadata;
    let text = |of: &Option<String>| of.clone().unwrap_or_default();
    let status = pod.status.as_ref();
    let statuses = status.and_then(|s| s.container_statuses.as_ref());
    let mine = statuses.and_then(|all| all.iter().find(|c| c.name == container.name));
    let reference = text(&container.image);
    let (image, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name.to_string(), digest.to_string()),
        None => (reference.clone(), String::new()),
    };
    let mut name = format!("{project}-{}", text(&meta.name));
    if !only {
        name = format!("{name}-{}", container.name);
    }
    let host = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
    let network = match host {
        true => "host".to_string(),
        false => format!("{project}_default"),
    };
    let mut shown = meta.clone();
    shown.managed_fields = None;
    shown.annotations = None;
    let record = Record {
        id: hex(&[text(&meta.uid).as_str(), &container.name]),
        name,
        created: meta
            .creation_timestamp
            .as_ref()
            .map_or_else(|| crate::state::NEVER.into(), |t| t.0.to_string()),
        image,
        image_name: reference,
        image_id: mine.map_or_else(|| digest.clone(), |m| m.image_id.clone()),
        image_digest: digest,
        body: body(pod, container, project, service),
        run: 1,
        stopped: false,
        error: String::new(),
        mounts: vec![],
        bindings: BTreeMap::new(),
        endpoints: vec![Endpoint {
            network_id: hex(&["network", &network]),
            id: hex(&["endpoint", &text(&meta.uid)]),
            aliases: vec![service.to_string()],
            network: network.clone(),
            ..Endpoint::default()
        }],
        network_mode: network,
        restarts: 0,
        health: container.readiness_probe.as_ref().map(|_| Health {
            test: vec!["CMD".into(), "readiness".into()],
            ..Health::default()
        }),
    };
    Entry {
        record,
        pod: Pod {
            metadata: shown,
            spec: None,
            status: status.map(|status| PodStatus {
                container_statuses: mine.map(|m| {
                    let mut mine = m.clone();
                    mine.name = CONTAINER.into();
                    vec![mine]
                }),
                ..status.clone()
            }),
        },
        paused: false,
    }
}

/// What Docker would have been asked for.
fn body(pod: &Pod, container: &Container, project: &str, service: &str) -> Map<String, Value> {
    // `$$(` is how a manifest says `$(`.
    let plain = |text: &String| text.replace("$$(", "$(");
    let list = |of: &Option<Vec<String>>| of.iter().flatten().map(plain).collect::<Vec<_>>();
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in pod.metadata.annotations.iter().flatten() {
        if key == LABELS {
            labels.extend(
                serde_json::from_str::<BTreeMap<String, String>>(value).unwrap_or_default(),
            );
        } else if !key.starts_with("knarr.dev/") && !key.contains("kubernetes.io/") {
            labels.insert(key.clone(), value.clone());
        }
    }
    labels.insert("com.docker.compose.project".into(), project.into());
    labels.insert("com.docker.compose.service".into(), service.into());
    let env = container.env.iter().flatten();
    let env: Vec<String> = env
        .filter_map(|e| Some(format!("{}={}", e.name, plain(e.value.as_ref()?))))
        .collect();
    let ports = container.ports.iter().flatten().map(|p| {
        let protocol = p.protocol.as_deref().unwrap_or("TCP").to_lowercase();
        (format!("{}/{protocol}", p.container_port), json!({}))
    });
    let mut body = Map::new();
    body.insert("Env".into(), json!(env));
    body.insert("Labels".into(), json!(labels));
    body.insert("ExposedPorts".into(), Value::Object(ports.collect()));
    body.insert("HostConfig".into(), json!({}));
    if container.command.is_some() {
        body.insert("Entrypoint".into(), json!(list(&container.command)));
    }
    if container.args.is_some() {
        body.insert("Cmd".into(), json!(list(&container.args)));
    }
    if let Some(dir) = &container.working_dir {
        body.insert("WorkingDir".into(), json!(dir));
    }
    body
}

/// 64 hex digits that are always the same for the same.
fn hex(parts: &[&str]) -> String {
    let digest = Sha256::digest(parts.join("/"));
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{create::wanted::Wanted, list, state::Status};

    fn pod(part_of: &str, containers: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "web-7d4b-x", "namespace": "shop", "uid": "u1", "creationTimestamp": "2026-01-02T03:04:05Z",
                "labels": { PROJECT: part_of, SERVICE: "web" },
                "annotations": {
                    "traefik.enable": "true",
                    LABELS: "{\"traefik.http.routers.a.rule[0]\":\"Host(`a`)\"}",
                    "knarr.dev/container.web": "{}",
                    "kubectl.kubernetes.io/restartedAt": "now",
                },
            },
            "spec": { "containers": containers },
            "status": {
                "phase": "Running", "podIP": "10.42.0.9",
                "containerStatuses": [{
                    "name": "web", "ready": true, "restartCount": 0, "image": "web", "imageID": "sha256:11",
                    "state": { "running": { "startedAt": "2026-01-02T03:04:06Z" } },
                }],
            },
        }))
        .unwrap()
    }

    #[test]
    fn an_apps_container_looks_as_dockers_own() {
        let one = json!([{
            "name": "web", "image": "web:1@sha256:aa", "command": ["/bin/web"], "args": ["$$(x)"],
            "env": [{ "name": "A", "value": "b" }, { "name": "S", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }],
            "ports": [{ "containerPort": 80 }, { "containerPort": 53, "protocol": "UDP" }],
            "readinessProbe": { "exec": { "command": ["true"] } },
        }]);
        let found: Vec<Entry> = entries(&pod("shop", one.clone())).collect();
        let [entry] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(entry.record.name, "shop-web-7d4b-x");
        // As `knarr-node` shows it in the container.
        let id = "5b6fdc847cacc72d2dfa943c07f9998f0acfa115e7b99c3e8a19b498cf259b4b";
        assert_eq!(entry.record.id, id);
        let others = Others::default();
        let known = (id.to_string(), Arc::new(entry.clone()));
        others.all.write().extend([known]);
        for (reference, is_it) in [
            ("shop-web-7d4b-x", true),
            ("/shop-web-7d4b-x", true),
            ("web-7d4b-x", true),
            ("5b6f", true),
            ("5b6", false),
            ("web", false),
        ] {
            assert_eq!(others.find(reference).is_some(), is_it, "{reference}");
        }
        assert_eq!(entry.record.image, "web:1");
        let state = entry.state();
        assert_eq!(state.status, Status::Running);
        assert_eq!(
            (state.health, state.ip.as_str()),
            (Some("healthy"), "10.42.0.9")
        );
        let wanted = Wanted::read(&entry.record.body).unwrap();
        let labels: Vec<(&str, &str)> = wanted
            .labels
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            labels,
            [
                ("com.docker.compose.project", "shop"),
                ("com.docker.compose.service", "web"),
                ("traefik.enable", "true"),
                ("traefik.http.routers.a.rule[0]", "Host(`a`)"),
            ]
        );
        assert_eq!(wanted.env, ["A=b"]);
        assert_eq!(list::command(&wanted, None), ["/bin/web", "$(x)"]);
        assert_eq!(entry.record.endpoints[0].network, "shop_default");
        // the same container at another time, another container of the same Pod, and a Pod of no app
        let again: Vec<Entry> = entries(&pod("shop", one)).collect();
        assert_eq!(again[0].record.id, entry.record.id);
        let two = json!([{ "name": "web" }, { "name": "side" }]);
        let both: Vec<Entry> = entries(&pod("shop", two.clone())).collect();
        assert_eq!(both[0].record.id, entry.record.id);
        assert_ne!(both[1].record.id, entry.record.id);
        assert_eq!(both[1].record.name, "shop-web-7d4b-x-side");
        assert_eq!(both[1].state().status, Status::Created);
        assert_eq!(entries(&pod("other", two)).count(), 0);
    }

    #[test]
    fn one_is_found_by_name_id_and_a_beginning_of_its_own() {
        let others = Others::default();
        let two = json!([{ "name": "web" }, { "name": "side" }]);
        for entry in entries(&pod("shop", two)) {
            let id = entry.record.id.clone();
            others.all.write().insert(id, Arc::new(entry));
        }
        for entry in others.all() {
            for reference in [&entry.record.id, &entry.record.name, &entry.record.id[..12]] {
                let found = others.find(reference).unwrap();
                assert_eq!(found.record.id, entry.record.id, "{reference}");
            }
        }
        assert!(others.find("nobody").is_none());
        assert!(others.find("").is_none());
    }
}
