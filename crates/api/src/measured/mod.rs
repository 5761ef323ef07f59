//! `metrics.k8s.io/v1beta1`: what Pods and nodes use now, as metrics-server serves it, straight from the nodes' agents.
//!
//! Nothing of it is stored. A user's own APIService of that name, with a Service of its own, takes its place.
//!
//! Source: sigs.k8s.io/metrics-server `pkg/api`, `pkg/storage`; k8s.io/metrics `pkg/apis/metrics/v1beta1`.

mod quantity;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    catalog::{self, Target},
    computed,
    list::Filter,
    negotiate, object,
    registry::{Handle, Resource},
    resource::Outcome,
    server::{Call, Inner},
    status::Failure,
};

pub use quantity::{binary_bytes, nano_cores, total_cpu, total_memory};

/// The API group.
pub const GROUP: &str = "metrics.k8s.io";
/// How often the group's priorities in discovery come before others: metrics-server's own.
pub const PRIORITIES: (i64, i64) = (100, 100);

/// What the API server asks of a node's agent.
#[async_trait::async_trait]
pub trait NodeAgent: Send + Sync + 'static {
    /// Usage of the node and of the containers that run there, over the last seconds.
    async fn measure(&self) -> NodeUse;
    /// Answers a GET of the agent's own HTTP API, at a decoded path with decoded parameters.
    async fn get(&self, path: &str, query: &[(String, String)]) -> AgentAnswer;
}

/// What a node's agent answers.
pub struct AgentAnswer {
    /// HTTP status.
    pub status: u16,
    /// Content-Type.
    pub content_type: &'static str,
    /// As it comes.
    pub body: futures::stream::BoxStream<'static, std::io::Result<Bytes>>,
}

/// Usage over a window that ends at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Use {
    /// CPU seconds per second, times 10⁹.
    pub cpu_nano_cores: u64,
    /// Memory in bytes without what can be taken back at once.
    pub working_set_bytes: u64,
    /// End of the window.
    pub at: jiff::Timestamp,
    /// Over which the CPU was counted.
    pub window: Duration,
}

/// A node's usage.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeUse {
    /// Of the whole machine; None when it isn't known.
    pub node: Option<Use>,
    /// Of each running container that has been measured.
    pub containers: Vec<ContainerUse>,
}

/// One container's usage.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerUse {
    /// Of the Pod.
    pub namespace: String,
    /// Of the Pod.
    pub pod: String,
    /// As in the Pod.
    pub container: String,
    /// How much.
    pub used: Use,
}

/// The agents by their nodes' names.
#[derive(Default)]
pub struct Agents(arc_swap::ArcSwap<HashMap<String, Arc<dyn NodeAgent>>>);

impl Agents {
    /// From now on this one answers for the node.
    pub fn set(&self, node: &str, agent: Arc<dyn NodeAgent>) {
        self.0.rcu(|old| {
            let mut new = HashMap::clone(old);
            new.insert(node.to_owned(), agent.clone());
            new
        });
    }

    /// Of a node; None when it has none here (yet).
    pub fn of(&self, node: &str) -> Option<Arc<dyn NodeAgent>> {
        self.0.load().get(node).cloned()
    }

    async fn of_nodes(&self) -> HashMap<String, NodeUse> {
        let all = self.0.load_full();
        let asked = all.iter().map(|(name, agent)| async move {
            let answer = tokio::time::timeout(PATIENCE, agent.measure()).await;
            Some((name.clone(), answer.ok()?))
        });
        futures::future::join_all(asked)
            .await
            .into_iter()
            .flatten()
            .collect()
    }
}

/// A node that takes longer is left out, as one that can't be scraped.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who may look at Pods may look at what they use: metrics-server's own role, which the roles for users take in.
pub async fn bootstrap(inner: &Inner) -> Result<(), Failure> {
    let Some(r) = inner
        .catalog()
        .preferred("rbac.authorization.k8s.io", "clusterroles")
    else {
        return Ok(());
    };
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "system:aggregated-metrics-reader", "labels": {
            "rbac.authorization.k8s.io/aggregate-to-admin": "true",
            "rbac.authorization.k8s.io/aggregate-to-edit": "true",
            "rbac.authorization.k8s.io/aggregate-to-view": "true",
        }},
        "rules": [{"apiGroups": [GROUP], "resources": ["nodes", "pods"], "verbs": ["get", "list", "watch"]}],
    });
    crate::bootstrap::ensure(inner, &r, "", role).await
}

/// Whether this is served from here and not from the store.
pub fn is(r: &Resource) -> bool {
    r.group == GROUP && r.custom.is_none()
}

/// Answers `get` and `list`.
pub async fn answer(
    inner: &Inner,
    call: &Call,
    t: &Target,
    verb: &str,
) -> Result<Outcome, Failure> {
    let r = &t.resource;
    let list = match verb {
        "get" => false,
        "list" => true,
        _ => return Err(Failure::method_not_allowed()),
    };
    let form = match list {
        true => negotiate::form_of_list(r, &call.parts.headers)?,
        false => negotiate::form(r, &call.parts.headers)?,
    };
    let filter = match list {
        true => Filter::read(r, &call.query)?,
        false => Filter::default(),
    };
    let behind = behind(inner, r)?;
    if !list {
        let key = catalog::key(&behind, &t.namespace, &t.name);
        if inner.store.snapshot().get(&key).is_none() {
            return Err(Failure::not_found(&behind, &t.name));
        }
    }
    let mut objects = measured(inner, t, &behind, &filter).await?;
    let body = if list {
        computed::listed(call, r, form, objects)?
    } else {
        let Some(o) = objects.pop_front() else {
            return Err(unmeasured(t));
        };
        crate::resource::in_form(call, t, form, &o)?
    };
    Ok(computed::answered(t, body))
}

/// The objects whose usage this is.
fn behind(inner: &Inner, r: &Resource) -> Result<Handle, Failure> {
    inner
        .catalog()
        .find("", "v1", r.plural)
        .ok_or_else(Failure::no_such_path)
}

/// 404 for what is there but has not been measured (yet).
fn unmeasured(t: &Target) -> Failure {
    match t.resource.namespaced {
        true => {
            Failure::not_found_named(GROUP, "podmetrics", &format!("{}/{}", t.namespace, t.name))
        }
        false => Failure::not_found_named(GROUP, "nodemetrics", &t.name),
    }
}

/// The objects that are there, are wanted, and have been measured; in the order of their names.
async fn measured(
    inner: &Inner,
    t: &Target,
    behind: &Resource,
    filter: &Filter,
) -> Result<VecDeque<Bytes>, Failure> {
    let nodes = inner.agents.of_nodes().await;
    let mut pods: HashMap<(&str, &str), Vec<&ContainerUse>> = HashMap::new();
    if t.resource.namespaced {
        for c in nodes.values().flat_map(|n| &n.containers) {
            let pod = (c.namespace.as_str(), c.pod.as_str());
            pods.entry(pod).or_default().push(c);
        }
    }
    let snapshot = inner.store.snapshot();
    let prefix = catalog::prefix(behind, &t.namespace);
    let only = format!("{prefix}{}", t.name);
    let entries: Box<dyn Iterator<Item = &knarr_store::Entry>> = match t.name.as_str() {
        "" => Box::new(snapshot.range(&prefix, None)),
        _ => Box::new(snapshot.get(&only).into_iter()),
    };
    let mut found = VecDeque::new();
    for e in entries.filter(|e| filter.takes(behind, &e.key, &e.value)) {
        let (namespace, name) = catalog::split_key(behind, &e.key);
        let object = match t.resource.namespaced {
            true => match pods.get_mut(&(namespace, name)) {
                Some(containers) => {
                    containers.sort_by(|a, b| a.container.cmp(&b.container));
                    pod(metadata(&e.value)?, containers)
                }
                None => continue,
            },
            false => match nodes.get(name).and_then(|n| n.node.as_ref()) {
                Some(used) => node(metadata(&e.value)?, used),
                None => continue,
            },
        };
        found.push_back(computed::written(&t.resource, &object));
    }
    Ok(found)
}

/// What the object says of itself: its name, namespace and labels, and that it is of this moment.
fn metadata(bytes: &[u8]) -> Result<Value, Failure> {
    let m = object::metadata(bytes)
        .ok_or_else(|| Failure::internal("stored object has no metadata"))?;
    let mut kept = json!({"name": m["name"], "creationTimestamp": object::now()});
    for key in ["namespace", "labels"] {
        if !m[key].is_null() {
            kept[key] = m[key].clone();
        }
    }
    Ok(kept)
}

fn usage(used: &Use) -> Value {
    json!({
        "cpu": nano_cores(used.cpu_nano_cores),
        "memory": binary_bytes(used.working_set_bytes),
    })
}

/// Go's way to write a `time.Duration`, to the millisecond.
fn window(d: Duration) -> String {
    let millis = d.as_millis();
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let seconds = match rest % 1000 {
        0 => format!("{}s", rest / 1000),
        fraction => {
            let text = format!("{}.{fraction:03}", rest / 1000);
            format!("{}s", text.trim_end_matches('0'))
        }
    };
    match minutes {
        0 => seconds,
        m if m < 60 => format!("{m}m{seconds}"),
        m => format!("{}h{}m{seconds}", m / 60, m % 60),
    }
}

fn node(metadata: Value, used: &Use) -> Value {
    json!({
        "metadata": metadata, "timestamp": object::timestamp(used.at),
        "window": window(used.window), "usage": usage(used),
    })
}

fn pod(metadata: Value, containers: &[&ContainerUse]) -> Value {
    let earliest = containers.iter().min_by_key(|c| c.used.at);
    let all: Vec<Value> = containers
        .iter()
        .map(|c| json!({"name": c.container, "usage": usage(&c.used)}))
        .collect();
    let mut o = json!({"metadata": metadata, "containers": all});
    if let Some(c) = earliest {
        o["timestamp"] = object::timestamp(c.used.at).into();
        o["window"] = window(c.used.window).into();
    }
    o
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_written_as_go_does() {
        for (millis, wanted) in [
            (0, "0s"),
            (15_000, "15s"),
            (10_062, "10.062s"),
            (1_500, "1.5s"),
            (90_000, "1m30s"),
            (3_723_040, "1h2m3.04s"),
        ] {
            assert_eq!(window(Duration::from_millis(millis)), wanted);
        }
    }
}
