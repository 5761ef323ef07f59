//! All that `up` will apply, whichever kind of file it came from; and the checks that need no platform.

use crate::{
    error::Error,
    paths::Paths,
    plan::{Document, Source},
};
use knarr_compose::Dependency;
use knarr_image::ImageStore;
use kube::{Api, Client, api::ListParams};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

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
}

/// A port on the host.
#[derive(Clone)]
pub struct Published {
    pub service: String,
    /// None: all addresses.
    pub ip: Option<String>,
    pub port: u16,
}

pub struct Work {
    /// Where objects go that name no namespace.
    pub namespace: String,
    pub first: Vec<Document>,
    pub units: Vec<Unit>,
    pub published: Vec<Published>,
    /// Remove workloads and Services of the project that the file no longer has.
    pub prune: bool,
}

impl Work {
    /// From files, with the references of the images that were built.
    pub fn new(source: &Source, images: &BTreeMap<String, String>) -> Work {
        match source {
            Source::Compose(project) => of_compose(project, images),
            Source::Manifests { documents, .. } => of_manifests(documents, images),
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

fn of_compose(project: &knarr_compose::Project, images: &BTreeMap<String, String>) -> Work {
    let made = knarr_compose::translate(project, images);
    let document = |object| Document {
        object,
        place: String::new(),
    };
    let (mut units, mut published) = (Vec::new(), Vec::new());
    for w in made.workloads {
        published.extend(w.published.into_iter().map(|(ip, port)| Published {
            service: w.service.clone(),
            ip,
            port,
        }));
        units.push(Unit {
            name: w.service,
            namespace: made.namespace.clone(),
            document: document(w.object),
            depends_on: w.depends_on,
        });
    }
    Work {
        namespace: made.namespace,
        first: made.shared.into_iter().map(document).collect(),
        units,
        published,
        prune: true,
    }
}

fn of_manifests(documents: &[Document], images: &BTreeMap<String, String>) -> Work {
    let mut documents = documents.to_vec();
    // Namespaces before what lives in them; otherwise the files' order.
    documents.sort_by_key(|d| d.object["kind"] != "Namespace");
    let namespaces: BTreeSet<String> = documents
        .iter()
        .filter_map(|d| d.object.pointer("/metadata/namespace")?.as_str())
        .map(String::from)
        .collect();
    let mut work = Work {
        namespace: match namespaces.len() {
            1 => namespaces.into_iter().next().unwrap_or_default(),
            _ => "default".into(),
        },
        first: vec![],
        units: vec![],
        published: vec![],
        prune: false,
    };
    for mut document in documents {
        let object = &mut document.object;
        let name = name_of(object);
        if is_balanced(object) {
            let ports = object.pointer("/spec/ports").and_then(Value::as_array);
            let ports = ports.into_iter().flatten();
            work.published.extend(ports.filter_map(|p| {
                Some(Published {
                    service: name.clone(),
                    ip: None,
                    port: u16::try_from(p["port"].as_u64()?).ok()?,
                })
            }));
        }
        if let Some(reference) = images.get(&name)
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
            }),
            false => work.first.push(document),
        }
    }
    work
}

/// Every image must be here before anything is changed.
pub fn check_images(paths: &Paths, work: &Work) -> Result<(), Error> {
    let store = ImageStore::open(&paths.images())?;
    for unit in &work.units {
        let object = &unit.document.object;
        let spec = object.pointer("/spec/template/spec").or(object.get("spec"));
        let Some(spec) = spec else { continue };
        for list in ["initContainers", "containers"] {
            for image in spec[list]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|c| c["image"].as_str())
            {
                if store.resolve(image)?.is_none() {
                    return Err(Error::Input(format!(
                        "{}: image {image} is not on this machine, and pulling is not built yet: load it with `knarr image load`, or make it with `knarr image pack`",
                        unit.name
                    )));
                }
            }
        }
    }
    Ok(())
}

/// The ports that are not served by an existing Service already.
pub async fn unpublished(client: &Client, work: &Work) -> Result<Vec<Published>, Error> {
    use k8s_openapi::api::core::v1::Service;
    let services = Api::<Service>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    let mut held: BTreeMap<i32, String> = BTreeMap::new();
    for service in services {
        let spec = service.spec.unwrap_or_default();
        if spec.type_.as_deref() == Some("LoadBalancer") {
            let namespace = service.metadata.namespace.unwrap_or_default();
            let ports = spec.ports.unwrap_or_default();
            held.extend(ports.into_iter().map(|p| (p.port, namespace.clone())));
        }
    }
    let mut free = Vec::new();
    for published in &work.published {
        match held.get(&i32::from(published.port)) {
            Some(namespace) if *namespace == work.namespace => {}
            Some(namespace) => {
                return Err(Error::Input(format!(
                    "port {} of {} is already published by the app {namespace}: choose another port, or `knarr down -p {namespace}`",
                    published.port, published.service
                )));
            }
            None => free.push(published.clone()),
        }
    }
    Ok(free)
}

/// Fails when another program holds a port, and changes nothing.
pub fn check_ports(published: &[Published]) -> Result<(), Error> {
    for Published { service, ip, port } in published {
        let address = ip
            .as_ref()
            .and_then(|i| i.parse().ok())
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        if let Err(e) = std::net::TcpListener::bind(SocketAddr::new(address, *port)) {
            let why = match e.kind() {
                std::io::ErrorKind::AddrInUse => {
                    "another program holds it: stop that program, or change `ports`".to_string()
                }
                std::io::ErrorKind::AddrNotAvailable => {
                    format!("this machine has no address {address}: change `ports`")
                }
                _ => e.to_string(),
            };
            return Err(Error::Input(format!(
                "{service}: port {port} can't be published: {why}"
            )));
        }
    }
    Ok(())
}
