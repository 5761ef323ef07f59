//! The project as Kubernetes resources. Pure: same project and images, same resources.
//!
//! A project is a namespace. A service is a Deployment (a Job when it runs once), a Service by its name, a second
//! Service of type LoadBalancer for the ports it publishes on the host, and a PersistentVolumeClaim for each volume.

use crate::{
    Project, Service,
    model::Dependency,
    ports::Port,
    volumes::{Mount, Source},
};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Size asked for a named volume; the local provisioner gives the disk's free space and enforces nothing.
const VOLUME_SIZE: &str = "1Gi";
/// Prefix of knarr's own annotations.
const HOST_IP: &str = "knarr.dev/host-ip";

/// What the project becomes.
#[derive(Debug, Clone)]
pub struct Resources {
    pub namespace: String,
    /// To be applied first, in order: Namespace, PersistentVolumeClaims, Services.
    pub shared: Vec<Value>,
    /// One a service, in name order.
    pub workloads: Vec<Workload>,
}

/// A service's Deployment or Job, and what must be so before it starts.
#[derive(Debug, Clone)]
pub struct Workload {
    pub service: String,
    pub object: Value,
    pub depends_on: Vec<Dependency>,
    /// (host address, host port) it publishes.
    pub published: Vec<(Option<String>, u16)>,
}

/// Translates. `images` gives, by service, the reference to run instead of the file's (a digest of what was built).
pub fn translate(project: &Project, images: &BTreeMap<String, String>) -> Resources {
    let namespace = dns_name(&project.name);
    let mut shared = vec![json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": namespace, "labels": { "app.kubernetes.io/managed-by": "knarr" } },
    })];
    let meta = |name: String, service: Option<&str>| {
        let mut labels = Map::new();
        labels.insert("app.kubernetes.io/part-of".into(), json!(namespace));
        labels.insert("app.kubernetes.io/managed-by".into(), json!("knarr"));
        if let Some(s) = service {
            labels.insert("app.kubernetes.io/name".into(), json!(dns_name(s)));
        }
        json!({ "name": name, "namespace": namespace, "labels": labels })
    };
    for volume in &project.volumes {
        shared.push(json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta(dns_name(volume), None),
            "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": VOLUME_SIZE } } },
        }));
    }
    let mut workloads = Vec::new();
    for service in project.services.values() {
        let name = dns_name(&service.name);
        let selector =
            json!({ "app.kubernetes.io/name": name, "app.kubernetes.io/part-of": namespace });
        shared.push(cluster_service(
            service,
            meta(name.clone(), Some(&service.name)),
            &selector,
        ));
        let published: Vec<&Port> = service
            .ports
            .iter()
            .filter(|p| p.published.is_some())
            .collect();
        let addresses: BTreeSet<Option<&String>> =
            published.iter().map(|p| p.host_ip.as_ref()).collect();
        for (i, address) in addresses.into_iter().enumerate() {
            let suffix = if i == 0 {
                String::new()
            } else {
                format!("-{i}")
            };
            let mut metadata = meta(format!("{name}-published{suffix}"), Some(&service.name));
            if let Some(ip) = address {
                metadata["annotations"] = json!({ HOST_IP: ip });
            }
            let ports: Vec<Value> = published
                .iter()
                .filter(|p| p.host_ip.as_ref() == address)
                .map(|p| port(p, p.published.unwrap_or(p.target)))
                .collect();
            shared.push(json!({
                "apiVersion": "v1", "kind": "Service", "metadata": metadata,
                "spec": { "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "selector": selector, "ports": ports },
            }));
        }
        let image = images.get(&service.name).unwrap_or(&service.image);
        workloads.push(Workload {
            service: service.name.clone(),
            object: workload(service, meta(name, Some(&service.name)), &selector, image),
            depends_on: service.depends_on.clone(),
            published: published
                .iter()
                .filter_map(|p| Some((p.host_ip.clone(), p.published?)))
                .collect(),
        });
    }
    Resources {
        namespace,
        shared,
        workloads,
    }
}

/// A DNS-1123 label: Compose names may hold capitals, `_` and `.`.
fn dns_name(name: &str) -> String {
    let mapped: String = name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    mapped.trim_matches('-').to_string()
}

fn port(p: &Port, number: u16) -> Value {
    let mut port = json!({
        "name": format!("{}-{number}", p.protocol.to_lowercase()), "port": number, "targetPort": p.target, "protocol": p.protocol,
    });
    if let Some(a) = &p.app_protocol {
        port["appProtocol"] = json!(a);
    }
    port
}

/// The name other services use. With known ports it has a virtual address; without, the name leads straight to the
/// containers (headless), so that any port works, as it does between Compose containers.
fn cluster_service(service: &Service, metadata: Value, selector: &Value) -> Value {
    let mut seen = BTreeSet::new();
    let exposed = service.expose.iter().map(|e| Port {
        target: *e,
        published: None,
        host_ip: None,
        protocol: "TCP".into(),
        app_protocol: None,
    });
    let ports: Vec<Value> = service
        .ports
        .iter()
        .cloned()
        .chain(exposed)
        .filter(|p| seen.insert((p.target, p.protocol.clone())))
        .map(|p| port(&p, p.target))
        .collect();
    let mut spec = json!({ "selector": selector });
    if ports.is_empty() {
        spec["clusterIP"] = json!("None");
    } else {
        spec["ports"] = json!(ports);
    }
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec })
}

fn workload(service: &Service, metadata: Value, selector: &Value, image: &str) -> Value {
    let mut pod = json!({ "containers": [container(service, image)], "enableServiceLinks": false });
    let volumes: Vec<Value> = service
        .mounts
        .iter()
        .enumerate()
        .map(|(i, m)| volume(i, m))
        .collect();
    if !volumes.is_empty() {
        pod["volumes"] = json!(volumes);
    }
    if let Some(grace) = service.stop_grace {
        pod["terminationGracePeriodSeconds"] = json!(grace.as_secs_f64().ceil() as i64);
    } else {
        pod["terminationGracePeriodSeconds"] = json!(10);
    }
    if let Some(hostname) = &service.hostname {
        pod["hostname"] = json!(hostname);
    }
    let mut template = json!({ "metadata": { "labels": selector }, "spec": pod });
    if !service.labels.is_empty() {
        template["metadata"]["annotations"] = json!(service.labels);
    }
    if service.once {
        template["spec"]["restartPolicy"] = json!("Never");
        return json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata,
            "spec": { "backoffLimit": 0, "template": template },
        });
    }
    // A lone writer of a volume must not run twice at once; everything else is replaced without a gap.
    let writes = service
        .mounts
        .iter()
        .any(|m| !m.read_only && !matches!(m.source, Source::Tmpfs { .. } | Source::Anonymous));
    let start_first = service
        .start_first
        .unwrap_or(!(writes && service.replicas <= 1));
    let strategy = if start_first {
        json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } })
    } else {
        json!({ "type": "Recreate" })
    };
    let mut spec = json!({ "replicas": service.replicas, "selector": { "matchLabels": selector }, "strategy": strategy, "template": template });
    if let Some(delay) = service.update_delay {
        spec["minReadySeconds"] = json!(delay.as_secs());
    }
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec })
}

fn container(service: &Service, image: &str) -> Value {
    let mut c = json!({ "name": dns_name(&service.name), "image": image, "imagePullPolicy": "IfNotPresent" });
    // Compose: `entrypoint` replaces the image's entrypoint and drops its command; `command` replaces the command.
    if let Some(entrypoint) = &service.entrypoint {
        c["command"] = json!(entrypoint);
    }
    if let Some(command) = &service.command {
        c["args"] = json!(command);
    }
    // `$(…)` means something to Kubernetes and nothing to Compose.
    let env: Vec<Value> = service
        .environment
        .iter()
        .map(|(k, v)| json!({ "name": k, "value": v.replace("$(", "$$(") }))
        .collect();
    if !env.is_empty() {
        c["env"] = json!(env);
    }
    let mut seen = BTreeSet::new();
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|p| (p.target, p.protocol.as_str()))
        .chain(service.expose.iter().map(|e| (*e, "TCP")))
        .filter(|p| seen.insert(*p))
        .map(|(number, protocol)| json!({ "containerPort": number, "protocol": protocol }))
        .collect();
    if !ports.is_empty() {
        c["ports"] = json!(ports);
    }
    let mounts: Vec<Value> = service
        .mounts
        .iter()
        .enumerate()
        .map(|(i, m)| {
            let mut mount = json!({ "name": volume_name(i, m), "mountPath": m.target });
            if m.read_only {
                mount["readOnly"] = json!(true);
            }
            mount
        })
        .collect();
    if !mounts.is_empty() {
        c["volumeMounts"] = json!(mounts);
    }
    if let Some(health) = &service.health {
        c["readinessProbe"] = health.probe();
    }
    if let Some(dir) = &service.working_dir {
        c["workingDir"] = json!(dir);
    }
    let amounts = |(cpus, memory): &(Option<String>, Option<u64>)| {
        let mut m = Map::new();
        m.extend(cpus.as_ref().map(|c| ("cpu".to_string(), json!(c))));
        m.extend(memory.map(|b| ("memory".to_string(), json!(b.to_string()))));
        m
    };
    let (limits, requests) = (amounts(&service.limits), amounts(&service.reservations));
    if !limits.is_empty() || !requests.is_empty() {
        let mut resources = Map::new();
        for (key, value) in [("limits", limits), ("requests", requests)] {
            if !value.is_empty() {
                resources.insert(key.into(), Value::Object(value));
            }
        }
        c["resources"] = Value::Object(resources);
    }
    let security = security(service);
    if !security.is_empty() {
        c["securityContext"] = Value::Object(security);
    }
    c
}

fn security(service: &Service) -> Map<String, Value> {
    let mut s = Map::new();
    if let Some(user) = &service.user {
        let (uid, gid) = user
            .split_once(':')
            .map_or((user.as_str(), None), |(u, g)| (u, Some(g)));
        s.extend(
            uid.parse::<i64>()
                .ok()
                .map(|u| ("runAsUser".to_string(), json!(u))),
        );
        s.extend(
            gid.and_then(|g| g.parse::<i64>().ok())
                .map(|g| ("runAsGroup".to_string(), json!(g))),
        );
    }
    if service.read_only {
        s.insert("readOnlyRootFilesystem".into(), json!(true));
    }
    if service.privileged {
        s.insert("privileged".into(), json!(true));
    }
    let names = |list: &[String]| {
        list.iter()
            .map(|c| c.trim_start_matches("CAP_").to_string())
            .collect::<Vec<_>>()
    };
    let mut capabilities = Map::new();
    for (key, list) in [("add", &service.cap_add), ("drop", &service.cap_drop)] {
        if !list.is_empty() {
            capabilities.insert(key.into(), json!(names(list)));
        }
    }
    if !capabilities.is_empty() {
        s.insert("capabilities".into(), Value::Object(capabilities));
    }
    s
}

fn volume_name(index: usize, mount: &Mount) -> String {
    match &mount.source {
        Source::Named(name) => dns_name(name),
        Source::Bind(_) => format!("bind-{index}"),
        Source::Anonymous => format!("scratch-{index}"),
        Source::Tmpfs { .. } => format!("tmpfs-{index}"),
    }
}

fn volume(index: usize, mount: &Mount) -> Value {
    let mut v = json!({ "name": volume_name(index, mount) });
    match &mount.source {
        Source::Named(name) => v["persistentVolumeClaim"] = json!({ "claimName": dns_name(name) }),
        Source::Bind(path) => v["hostPath"] = json!({ "path": path }),
        Source::Anonymous => v["emptyDir"] = json!({}),
        Source::Tmpfs { size_bytes } => {
            v["emptyDir"] = json!({ "medium": "Memory" });
            if let Some(size) = size_bytes {
                v["emptyDir"]["sizeLimit"] = json!(size.to_string());
            }
        }
    }
    v
}
