//! All that `up` will apply, whichever kind of file it came from; and the checks that need no platform.

use crate::{
    error::Error,
    plan::{Document, Source},
};
use knarr_compose::{Dependency, ImageFacts, PROJECT_NAME, PullPolicy, Update};
use kube::{Api, Client, api::ListParams};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
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

/// Where Docker listens by default, under both of the names that compose files use.
const DOCKER_SOCKETS: [&str; 2] = ["/var/run/docker.sock", "/run/docker.sock"];

/// A service that mounts Docker's socket wants to see the containers of its project (as Traefik does), and they are here:
/// it gets the platform's own socket. Where that isn't served, the mount stays what the file says.
pub fn own_docker_socket(project: &mut knarr_compose::Project, own: &std::path::Path) {
    if !own.exists() {
        return;
    }
    let mounts = project.services.values_mut().flat_map(|s| &mut s.mounts);
    for mount in mounts {
        if let knarr_compose::Source::Bind { path, .. } = &mut mount.source
            && DOCKER_SOCKETS.iter().any(|d| path.as_os_str() == *d)
        {
            *path = own.to_path_buf();
        }
    }
}

/// Makes the folders that services bind and that aren't there, as Docker does. They are there before the resources are made
/// of the file, so that those say the same at the next `up`.
///
/// # Errors
/// When one can't be made.
pub fn make_bound_folders(project: &knarr_compose::Project) -> Result<(), Error> {
    for (name, service) in &project.services {
        for mount in &service.mounts {
            if let knarr_compose::Source::Bind { path, create, .. } = &mount.source
                && *create
                && !path.exists()
            {
                std::fs::create_dir_all(path).map_err(|e| {
                    let path = path.display();
                    Error::Input(format!(
                        "{name}: error while creating mount source path '{path}': {e}"
                    ))
                })?;
            }
        }
    }
    Ok(())
}

/// Writes the numbers of the disks that services limit in place of their paths, as the node reads them.
///
/// # Errors
/// When one is not there.
pub fn find_devices(project: &mut knarr_compose::Project) -> Result<(), Error> {
    for (name, service) in &mut project.services {
        let io = service.settings.limits.get_mut("io");
        let kinds = io.and_then(Value::as_object_mut).into_iter().flatten();
        let limits = kinds
            .filter_map(|(_, all)| all.as_array_mut())
            .flatten()
            .filter_map(Value::as_object_mut);
        for limit in limits {
            let Some(Value::String(path)) = limit.remove("path") else {
                continue;
            };
            let found = rustix::fs::stat(&path).map_err(|e| {
                Error::Input(format!(
                    "{name}: blkio_config: cannot look up {path:?}: {e}"
                ))
            })?;
            limit.insert("major".into(), json!(rustix::fs::major(found.st_rdev)));
            limit.insert("minor".into(), json!(rustix::fs::minor(found.st_rdev)));
        }
    }
    Ok(())
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

/// The address by which containers reach this machine.
pub async fn machine_address(client: &Client) -> Result<Option<String>, Error> {
    use k8s_openapi::api::core::v1::Node;
    let nodes = Api::<Node>::all(client.clone());
    let nodes = nodes.list(&ListParams::default()).await?;
    let mut addresses = nodes
        .items
        .into_iter()
        .filter_map(|n| n.status?.addresses)
        .flatten();
    Ok(addresses
        .find(|a| a.type_ == "InternalIP")
        .map(|a| a.address))
}

/// Fails when something is not there that the file says was made elsewhere.
pub async fn check_external(client: &Client, work: &Work) -> Result<(), Error> {
    for (kind, name) in &work.external {
        let gvk = kube::core::GroupVersionKind::gvk("", "v1", kind);
        let resource = kube::api::ApiResource::from_gvk(&gvk);
        let api: Api<kube::api::DynamicObject> =
            Api::namespaced_with(client.clone(), &work.namespace, &resource);
        if api.get_metadata_opt(name).await?.is_none() {
            let what = match *kind {
                "PersistentVolumeClaim" => "volume",
                "ConfigMap" => "config",
                _ => "secret",
            };
            return Err(Error::Input(format!(
                "external {what} {name:?} not found: make the {kind} {name} in the namespace {}, or leave external out",
                work.namespace
            )));
        }
    }
    Ok(())
}

/// Namespaces that are the cluster's own.
const CLUSTERS: &str = "kube-";

/// Fails when the project's namespace is another's: `my_app` and `my-app` are one to Kubernetes.
///
/// # Errors
/// That; and when the platform doesn't answer.
pub async fn check_namespace(client: &Client, work: &Work) -> Result<(), Error> {
    use k8s_openapi::api::core::v1::Namespace;
    let own = work.first.iter().find(|d| d.object["kind"] == "Namespace");
    let own = own.and_then(|d| d.object["metadata"]["annotations"][PROJECT_NAME].as_str());
    let Some(name) = own else {
        return Ok(());
    };
    if work.namespace.starts_with(CLUSTERS) {
        return Err(Error::Input(format!(
            "a project can't be called {name:?}, as parts of the cluster are: choose another name with -p"
        )));
    }
    let there = Api::<Namespace>::all(client.clone())
        .get_opt(&work.namespace)
        .await?;
    let other = there.and_then(|n| n.metadata.annotations?.remove(PROJECT_NAME));
    match other.filter(|other| other != name) {
        None => Ok(()),
        Some(other) => Err(Error::Input(format!(
            "the project {name:?} is {:?} to Kubernetes, and so is the project {other:?}, which is up: choose another name with -p, or `knarr down -p {other}`",
            work.namespace
        ))),
    }
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
            Some(namespace) if *namespace == published.namespace => {}
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

/// Fails when another program holds a port, and changes nothing. `free`: what gives way to who publishes it.
pub fn check_ports(published: &[Published], free: Option<SocketAddr>) -> Result<(), Error> {
    for Published {
        service,
        ip,
        port,
        udp,
        ..
    } in published
    {
        if !udp && free.is_some_and(|f| f.port() == *port) {
            continue;
        }
        let address = ip
            .as_ref()
            .and_then(|i| i.parse().ok())
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let address_and_port = SocketAddr::new(address, *port);
        let tried = match udp {
            true => knarr_gateway::udp_on_machine(address_and_port).map(drop),
            false => knarr_gateway::tcp_on_machine(address_and_port).map(drop),
        };
        if let Err(e) = tried {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

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

    #[test]
    fn what_is_bound_and_missing_is_made_once() {
        let folder = std::env::temp_dir().join(format!("knarr-bound-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = "services: {a: {image: a, volumes: ['./made/deep:/m', {type: bind, source: ./not, target: /n, bind: {create_host_path: false}}]}}";
        std::fs::write(folder.join("compose.yaml"), file).unwrap();
        let options = knarr_compose::Options {
            folder: folder.clone(),
            ..Default::default()
        };
        let up = || {
            let project = knarr_compose::load(&options).unwrap();
            make_bound_folders(&project).unwrap();
            let work = of_compose(&project, &BTreeMap::new());
            work.units[0].document.object.clone()
        };
        let first = up();
        assert!(folder.join("made/deep").is_dir());
        assert!(!folder.join("not").exists());
        assert_eq!(
            first,
            up(),
            "nothing is rolled out when nothing was changed"
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn limited_disks_are_known_by_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let found = |disk: &str| {
            let file = format!(
                "services: {{a: {{image: a, blkio_config: {{weight: 300, device_read_bps: [{{path: {disk}, rate: 1mb}}]}}}}, b: {{image: b}}}}"
            );
            std::fs::write(folder.path().join("compose.yaml"), file).unwrap();
            let options = knarr_compose::Options {
                folder: folder.path().to_path_buf(),
                ..Default::default()
            };
            let mut project = knarr_compose::load(&options).unwrap();
            // what is found stays found
            find_devices(&mut project)?;
            find_devices(&mut project)?;
            Ok::<_, Error>(Value::Object(project.services["a"].settings.limits.clone()))
        };
        let device = json!({ "major": 1, "minor": 3, "rate": 1_048_576 });
        let wanted = json!({ "io": { "weight": 300, "read_bps": [device] } });
        assert_eq!(found("/dev/null").unwrap(), wanted);
        let missing = found("/dev/none-such").unwrap_err().to_string();
        assert!(missing.contains("a: blkio_config"), "{missing}");
        assert!(missing.contains("/dev/none-such"), "{missing}");
    }

    #[test]
    fn who_mounts_dockers_socket_gets_the_platforms() {
        let folder = std::env::temp_dir().join(format!("knarr-work-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = "services: {a: {image: a, volumes: ['/var/run/docker.sock:/var/run/docker.sock:ro', '/run/docker.sock:/d', '/run:/r']}}";
        std::fs::write(folder.join("compose.yaml"), file).unwrap();
        let options = knarr_compose::Options {
            folder: folder.clone(),
            ..Default::default()
        };
        let sources = |own: &std::path::Path| {
            let mut project = knarr_compose::load(&options).unwrap();
            own_docker_socket(&mut project, own);
            let mounts = project.services["a"].mounts.iter();
            let path = |m: &knarr_compose::Mount| match &m.source {
                knarr_compose::Source::Bind { path, .. } => path.clone(),
                other => panic!("{other:?}"),
            };
            mounts.map(path).collect::<Vec<_>>()
        };
        let said = ["/var/run/docker.sock", "/run/docker.sock", "/run"];
        assert_eq!(sources(&folder.join("none")), said.map(PathBuf::from));
        let own = folder.join("compose.yaml");
        assert_eq!(
            sources(&own),
            [own.clone(), own.clone(), PathBuf::from("/run")]
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
