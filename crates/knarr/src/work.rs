//! All that `up` will apply, whichever kind of file it came from; and the checks that need no platform.

mod machine;
mod there;

pub use machine::{find_devices, make_bound_folders, own_docker_socket};
pub use there::{check_external, check_namespace, check_ports, machine_address, unpublished};

use crate::plan::{Document, Source};
use knarr_compose::{Dependency, ImageFacts, PullPolicy, Update};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How many replicas a service has that is stopped.
pub const REPLICAS: &str = "knarr.dev/replicas";
pub const CARGO_ANNOTATION: &str = "/metadata/annotations/knarr.dev~1cargo";
const WORKLOADS: &[&str] = &[
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "Job",
    "ReplicaSet",
    "ReplicationController",
    "Pod",
];

/// One workload to bring up.
pub struct Unit {
    pub name: String,
    pub namespace: String,
    pub document: Document,
    pub depends_on: Vec<Dependency>,
    /// A Job counts when it has ended well, not when it runs.
    pub to_end: bool,
    pub update: Option<Update>,
    /// How it is brought back when an update fails.
    pub rollback: Option<Update>,
    pub rollback_strategy: Option<Value>,
    /// Why its containers end before their successors start, when nobody asked for that.
    pub gap: Option<&'static str>,
    /// Of images, those that are asked for anew when they were last asked for so long ago.
    pub refresh: BTreeMap<String, Duration>,
    /// Of each container with a health check, after what time and how many failures it is unhealthy.
    pub patience: BTreeMap<String, (Duration, i64)>,
    /// Containers that end are started again because the file says so.
    pub restarts: bool,
    pub replace: Replace,
}

/// When the containers that a workload has are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replace {
    #[default]
    Changed,
    Always,
    Never,
}

/// A port on the host.
#[derive(Clone)]
pub struct Published {
    pub service: String,
    pub namespace: String,
    /// None: all addresses.
    pub ip: Option<String>,
    pub port: u16,
    pub udp: bool,
}

pub struct Work {
    /// Where objects go that name no namespace.
    pub namespace: String,
    /// What it is called when it is talked about.
    pub title: String,
    pub first: Vec<Document>,
    pub units: Vec<Unit>,
    pub published: Vec<Published>,
    /// Of a compose file: its Jobs are made anew when they change, and what failed is brought back as it was.
    pub composed: bool,
    /// Remove workloads and Services of the project that the file no longer has.
    pub prune: bool,
    /// (kind, name) that must be in the namespace, made elsewhere.
    pub external: Vec<(&'static str, String)>,
}

impl Work {
    /// From files, with the references of the images that were built.
    pub fn new(source: &Source, images: &BTreeMap<String, ImageFacts>) -> Work {
        match source {
            Source::Compose(project) => Work::of_compose(project, images),
            Source::Manifests { documents, .. } => of_manifests(documents, images),
        }
    }

    /// Of a compose project alone.
    pub fn of_compose(
        project: &knarr_compose::Project,
        images: &BTreeMap<String, ImageFacts>,
    ) -> Work {
        of_compose(project, images)
    }

    /// What is applied is not to run until it is started.
    pub fn hold(&mut self) {
        for unit in &mut self.units {
            let object = &mut unit.document.object;
            unit.to_end = false;
            match object["kind"].as_str() {
                Some("Deployment") => {
                    let replicas = object["spec"]["replicas"].as_i64().unwrap_or(1);
                    object["metadata"]["annotations"][REPLICAS] = json!(replicas.to_string());
                    object["spec"]["replicas"] = json!(0);
                }
                Some("Job") => object["spec"]["suspend"] = json!(true),
                _ => {}
            }
        }
    }

    /// Everything there is, in the order in which it is applied.
    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        self.first
            .iter()
            .chain(self.units.iter().map(|u| &u.document))
    }

    pub fn namespace_of<'a>(&'a self, object: &'a Value) -> &'a str {
        object
            .pointer("/metadata/namespace")
            .and_then(Value::as_str)
            .unwrap_or(&self.namespace)
    }

    /// Lets `--pull` go before what the objects say.
    pub fn pull(&mut self, policy: Option<&str>) {
        let policy = match policy {
            Some("always") => "Always",
            Some("never") => "Never",
            Some("missing") => "IfNotPresent",
            _ => return,
        };
        for unit in &mut self.units {
            unit.refresh.clear();
            let spec = unit.document.object.pointer_mut("/spec/template/spec");
            let containers = spec.and_then(|s| s["containers"].as_array_mut());
            for container in containers.into_iter().flatten() {
                // What was built here has no registry to ask.
                if container["image"]
                    .as_str()
                    .is_some_and(|i| !i.contains('@'))
                {
                    container["imagePullPolicy"] = json!(policy);
                }
            }
        }
    }

    /// (namespace, name) of the Services that publish ports.
    pub fn balanced(&self) -> BTreeSet<(String, String)> {
        let balanced = self
            .first
            .iter()
            .map(|d| &d.object)
            .filter(|o| is_balanced(o));
        balanced
            .map(|o| (self.namespace_of(o).to_string(), name_of(o)))
            .collect()
    }
}

/// The group and kind that a CustomResourceDefinition adds; None: it is something else.
pub fn defines(object: &Value) -> Option<(String, String)> {
    let text = |pointer: &str| Some(object.pointer(pointer)?.as_str()?.to_string());
    let definition = object["kind"] == "CustomResourceDefinition";
    definition.then_some((text("/spec/group")?, text("/spec/names/kind")?))
}

/// Of an object that may be of an added kind.
pub fn group_and_kind(object: &Value) -> (String, String) {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    let group = text("apiVersion").split_once('/').map_or("", |(g, _)| g);
    (group.to_string(), text("kind").to_string())
}

/// Whether others can be applied only when it is there.
pub fn goes_before(object: &Value) -> bool {
    object["kind"] == "Namespace" || defines(object).is_some()
}

fn is_balanced(object: &Value) -> bool {
    object["kind"] == "Service"
        && object
            .pointer("/spec/type")
            .is_some_and(|t| t == "LoadBalancer")
}

pub fn name_of(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_string()
}

fn of_compose(project: &knarr_compose::Project, images: &BTreeMap<String, ImageFacts>) -> Work {
    let made = knarr_compose::translate(project, images);
    let document = |object| Document {
        object,
        place: String::new(),
    };
    let (mut units, mut published) = (Vec::new(), Vec::new());
    for w in made.workloads {
        published.extend(
            w.published
                .into_iter()
                .map(|(ip, port, protocol)| Published {
                    service: w.service.clone(),
                    namespace: made.namespace.clone(),
                    ip,
                    port,
                    udp: protocol == "UDP",
                }),
        );

        units.push(Unit {
            name: w.service,
            namespace: made.namespace.clone(),
            document: document(w.object),
            depends_on: w.depends_on,
            to_end: w.completes,
            update: w.update,
            rollback: w.rollback,
            rollback_strategy: w.rollback_strategy,
            gap: w.gap,
            refresh: w
                .members
                .iter()
                .filter_map(|m| match project.services[m].pull_policy {
                    PullPolicy::Refresh(after) => Some((project.services[m].image.clone(), after)),
                    _ => None,
                })
                .collect(),
            patience: w.patience,
            restarts: w.restarts,
            replace: Replace::default(),
        });
    }
    Work {
        title: made.namespace.clone(),
        namespace: made.namespace,
        first: made.shared.into_iter().map(document).collect(),
        units,
        published,
        composed: true,
        prune: true,
        external: made.external,
    }
}

fn of_manifests(documents: &[Document], images: &BTreeMap<String, ImageFacts>) -> Work {
    let mut documents = documents.to_vec();
    // Namespaces and definitions before what lives in them and is of them; otherwise the files' order.
    documents.sort_by_key(|d| !goes_before(&d.object));
    let namespaces: BTreeSet<String> = documents
        .iter()
        .filter_map(|d| d.object.pointer("/metadata/namespace")?.as_str())
        .map(String::from)
        .collect();
    let mut work = Work {
        // As with `kubectl apply`, whatever namespace the other objects name.
        namespace: "default".into(),
        title: match namespaces.len() {
            1 => namespaces.into_iter().next().unwrap_or_default(),
            _ => "default".into(),
        },
        first: vec![],
        units: vec![],
        published: vec![],
        composed: false,
        prune: false,
        external: vec![],
    };
    for mut document in documents {
        let object = &mut document.object;
        let name = name_of(object);
        if is_balanced(object) {
            let namespace = work.namespace_of(object).to_string();
            let ports = object.pointer("/spec/ports").and_then(Value::as_array);
            let ports = ports.into_iter().flatten();
            work.published.extend(ports.filter_map(|p| {
                Some(Published {
                    service: name.clone(),
                    namespace: namespace.clone(),
                    ip: None,
                    port: u16::try_from(p["port"].as_u64()?).ok()?,
                    udp: p["protocol"] == "UDP",
                })
            }));
        }
        if let Some(reference) = images.get(&name).and_then(|f| f.reference.as_ref())
            && object.pointer(CARGO_ANNOTATION).is_some()
            && let Some(image) = object.pointer_mut("/spec/template/spec/containers/0/image")
        {
            *image = json!(reference);
        }
        let kind = document.object["kind"].as_str().unwrap_or_default();
        match WORKLOADS.contains(&kind) {
            true => work.units.push(Unit {
                name,
                namespace: work.namespace_of(&document.object).to_string(),
                document,
                depends_on: vec![],
                to_end: true,
                update: None,
                rollback: None,
                rollback_strategy: None,
                gap: None,
                refresh: BTreeMap::new(),
                patience: BTreeMap::new(),
                restarts: true,
                replace: Replace::default(),
            }),
            false => work.first.push(document),
        }
    }
    work
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(objects: Value) -> Vec<Document> {
        let objects = objects.as_array().unwrap().iter();
        let document = |object: &Value| Document {
            object: object.clone(),
            place: String::new(),
        };
        objects.map(document).collect()
    }

    #[test]
    fn manifests_go_where_kubectl_would_put_them() {
        let work = of_manifests(
            &documents(json!([
                { "kind": "Gauge", "apiVersion": "example.com/v1", "metadata": { "name": "mine" } },
                { "kind": "Role", "metadata": { "name": "reader", "namespace": "kube-system" } },
                { "kind": "Service", "metadata": { "name": "web" },
                  "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] } },
                { "kind": "Service", "metadata": { "name": "in", "namespace": "kube-system" },
                  "spec": { "type": "LoadBalancer", "ports": [{ "port": 81 }] } },
                { "kind": "CustomResourceDefinition", "metadata": { "name": "gauges.example.com" },
                  "spec": { "group": "example.com", "names": { "kind": "Gauge" } } },
                { "kind": "Namespace", "metadata": { "name": "other" } },
                { "kind": "Deployment", "metadata": { "name": "web" } },
            ])),
            &BTreeMap::new(),
        );
        let first: Vec<String> = work.first.iter().map(|d| name_of(&d.object)).collect();
        assert_eq!(
            first,
            ["gauges.example.com", "other", "mine", "reader", "web", "in"]
        );
        assert_eq!(work.units[0].namespace, "default");
        let published: Vec<(&str, u16)> = work
            .published
            .iter()
            .map(|p| (p.namespace.as_str(), p.port))
            .collect();
        assert_eq!(published, [("default", 80), ("kube-system", 81)]);
        let defined = work.first.iter().find_map(|d| defines(&d.object));
        assert_eq!(defined, Some(group_and_kind(&work.first[2].object)));
    }
}
