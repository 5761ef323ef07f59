//! A container's environment, in upstream's order: services, `envFrom`, `env`, over the image's own.
//!
//! Source: kubernetes `pkg/kubelet/kubelet_pods.go` makeEnvironmentVariables, `pkg/kubelet/envvars`.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Container, FileKeySelector, Pod};

use crate::{
    services::ServiceEntry,
    sources::{Data, Sources},
    spec::{
        env_file,
        expand::expand,
        fields::{self, Facts},
    },
    volumes::Paths,
};

/// Variables in order of first appearance; a later value replaces an earlier one.
#[derive(Default)]
pub(crate) struct Variables {
    order: Vec<String>,
    values: HashMap<String, String>,
}

impl Variables {
    pub(crate) fn set(&mut self, name: &str, value: String) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
    /// `NAME=value` lines for exec.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.order
            .iter()
            .filter_map(|name| self.values.get(name).map(|value| format!("{name}={value}")))
            .collect()
    }
}

/// The docker-links variables of the services (`REDIS_SERVICE_HOST`, `REDIS_PORT_6379_TCP_ADDR` …).
pub(crate) fn service_variables(services: &[ServiceEntry], into: &mut Variables) {
    for service in services {
        let Some(first) = service.ports.first() else {
            continue;
        };
        let prefix = service.name.to_uppercase().replace('-', "_");
        let ip = &service.cluster_ip;
        into.set(&format!("{prefix}_SERVICE_HOST"), ip.to_string());
        into.set(&format!("{prefix}_SERVICE_PORT"), first.port.to_string());
        for port in &service.ports {
            if let Some(name) = &port.name {
                let name = name.to_uppercase().replace('-', "_");
                into.set(
                    &format!("{prefix}_SERVICE_PORT_{name}"),
                    port.port.to_string(),
                );
            }
        }
        let host = if ip.is_ipv6() {
            format!("[{ip}]")
        } else {
            ip.to_string()
        };
        let url = |protocol: &str, port: u16| format!("{protocol}://{host}:{port}");
        let protocol = first.protocol.to_lowercase();
        into.set(&format!("{prefix}_PORT"), url(&protocol, first.port));
        for port in &service.ports {
            let protocol = port.protocol.to_lowercase();
            let base = format!("{prefix}_PORT_{}_{}", port.port, port.protocol);
            into.set(&base, url(&protocol, port.port));
            into.set(&format!("{base}_PROTO"), protocol);
            into.set(&format!("{base}_PORT"), port.port.to_string());
            into.set(&format!("{base}_ADDR"), ip.to_string());
        }
    }
}

/// Everything the Pod's own spec adds. Errors are upstream's texts for `CreateContainerConfigError`.
pub(crate) async fn container_variables(
    pod: &Pod,
    container: &Container,
    services: &[ServiceEntry],
    sources: &Sources,
    paths: &Paths,
    facts: &Facts<'_>,
) -> Result<Variables, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut out = Variables::default();
    let mut linked = Variables::default();
    service_variables(services, &mut linked);

    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let data = if let Some(reference) = &from.config_map_ref {
            let optional = reference.optional.unwrap_or(false);
            sources
                .config_map(namespace, &reference.name, optional)
                .await?
        } else if let Some(reference) = &from.secret_ref {
            let optional = reference.optional.unwrap_or(false);
            sources.secret(namespace, &reference.name, optional).await?
        } else {
            None
        };
        for (key, value) in data.iter().flat_map(Data::iter) {
            let text = String::from_utf8_lossy(value).into_owned();
            out.set(&format!("{prefix}{key}"), text);
        }
    }

    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => {
                expand(value, |name| out.get(name).or_else(|| linked.get(name)))
            }
            (_, Some(from)) => {
                if let Some(reference) = &from.field_ref {
                    fields::field(pod, &reference.field_path, facts)?
                } else if let Some(selector) = &from.resource_field_ref {
                    let target = selector.container_name.as_deref().unwrap_or_default();
                    let owner = find(pod, target).unwrap_or(container);
                    fields::resource(selector, pod, owner, facts)?
                } else if let Some(key) = &from.config_map_key_ref {
                    let optional = key.optional.unwrap_or(false);
                    let data = sources.config_map(namespace, &key.name, optional).await?;
                    match data.as_ref().and_then(|d| d.get(&key.key)) {
                        Some(value) => String::from_utf8_lossy(value).into_owned(),
                        None if optional => continue,
                        None => {
                            return Err(format!(
                                "couldn't find key {} in ConfigMap {namespace}/{}",
                                key.key, key.name
                            ));
                        }
                    }
                } else if let Some(key) = &from.secret_key_ref {
                    let optional = key.optional.unwrap_or(false);
                    let data = sources.secret(namespace, &key.name, optional).await?;
                    match data.as_ref().and_then(|d| d.get(&key.key)) {
                        Some(value) => String::from_utf8_lossy(value).into_owned(),
                        None if optional => continue,
                        None => {
                            return Err(format!(
                                "couldn't find key {} in Secret {namespace}/{}",
                                key.key, key.name
                            ));
                        }
                    }
                } else if let Some(reference) = &from.file_key_ref {
                    match of_file(reference, paths).await? {
                        Some(value) => value,
                        None => continue,
                    }
                } else {
                    String::new()
                }
            }
            _ => String::new(),
        };
        out.set(&variable.name, value);
    }

    // Services come last and never replace what the Pod says.
    for name in linked.order {
        if out.get(&name).is_none()
            && let Some(value) = linked.values.remove(&name)
        {
            out.set(&name, value);
        }
    }
    Ok(out)
}

/// None: there's no such key, and that is no obstacle.
async fn of_file(reference: &FileKeySelector, paths: &Paths) -> Result<Option<String>, String> {
    let volume = &reference.volume_name;
    let source = paths
        .get(volume.as_str())
        .ok_or_else(|| format!("cannot find the volume {volume:?} referenced by FileKeyRef"))?;
    let (folder, path) = (source.path.clone(), reference.path.clone());
    let text = tokio::task::spawn_blocking(move || env_file::read(&folder, &path))
        .await
        .map_err(|e| e.to_string())?
        .map_err(|error| {
            tracing::warn!(%volume, path = reference.path, %error, "an env file can't be read");
            "couldn't parse env file".to_owned()
        })?;
    let optional = reference.optional.unwrap_or(false);
    let text = match text {
        Some(text) => text,
        None if optional => return Ok(None),
        None => return Err("couldn't parse env file".into()),
    };
    let value = env_file::value(&text, &reference.key).map_err(|error| {
        tracing::warn!(%volume, path = reference.path, %error, "an env file is not as it should be");
        "couldn't parse env file".to_owned()
    })?;
    if value.is_empty() && !optional {
        return Err(format!(
            "environment variable key {:?} not found in file {:?}",
            reference.key, reference.path
        ));
    }
    Ok(Some(value).filter(|v| !v.is_empty()))
}

fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    let inits = spec.init_containers.iter().flatten();
    spec.containers.iter().chain(inits).find(|c| c.name == name)
}

/// `base` (the image's) with `over` on top.
pub(crate) fn merged(base: &[String], over: Variables) -> Variables {
    let mut out = Variables::default();
    for line in base {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        out.set(name, value.to_owned());
    }
    let Variables { order, mut values } = over;
    for name in order {
        let value = values.remove(&name).unwrap_or_default();
        out.set(&name, value);
    }
    out
}

/// Names of ConfigMaps and Secrets that a Pod's environment refers to.
pub(crate) fn references(pod: &Pod) -> (BTreeMap<String, ()>, BTreeMap<String, ()>) {
    let (mut maps, mut secrets) = (BTreeMap::new(), BTreeMap::new());
    let Some(spec) = &pod.spec else {
        return (maps, secrets);
    };
    let inits = spec.init_containers.iter().flatten();
    for container in spec.containers.iter().chain(inits) {
        for from in container.env_from.iter().flatten() {
            if let Some(reference) = &from.config_map_ref {
                maps.insert(reference.name.clone(), ());
            }
            if let Some(reference) = &from.secret_ref {
                secrets.insert(reference.name.clone(), ());
            }
        }
        for from in container
            .env
            .iter()
            .flatten()
            .filter_map(|e| e.value_from.as_ref())
        {
            if let Some(key) = &from.config_map_key_ref {
                maps.insert(key.name.clone(), ());
            }
            if let Some(key) = &from.secret_key_ref {
                secrets.insert(key.name.clone(), ());
            }
        }
    }
    (maps, secrets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::ServicePort;

    #[test]
    fn service_links() {
        let service = ServiceEntry {
            name: "redis-master".into(),
            cluster_ip: "10.0.0.11".parse().unwrap(),
            ports: vec![
                ServicePort {
                    name: Some("tcp-db".into()),
                    port: 6379,
                    protocol: "TCP",
                },
                ServicePort {
                    name: None,
                    port: 53,
                    protocol: "UDP",
                },
            ],
        };
        let mut out = Variables::default();
        service_variables(&[service], &mut out);
        assert_eq!(
            out.lines(),
            [
                "REDIS_MASTER_SERVICE_HOST=10.0.0.11",
                "REDIS_MASTER_SERVICE_PORT=6379",
                "REDIS_MASTER_SERVICE_PORT_TCP_DB=6379",
                "REDIS_MASTER_PORT=tcp://10.0.0.11:6379",
                "REDIS_MASTER_PORT_6379_TCP=tcp://10.0.0.11:6379",
                "REDIS_MASTER_PORT_6379_TCP_PROTO=tcp",
                "REDIS_MASTER_PORT_6379_TCP_PORT=6379",
                "REDIS_MASTER_PORT_6379_TCP_ADDR=10.0.0.11",
                "REDIS_MASTER_PORT_53_UDP=udp://10.0.0.11:53",
                "REDIS_MASTER_PORT_53_UDP_PROTO=udp",
                "REDIS_MASTER_PORT_53_UDP_PORT=53",
                "REDIS_MASTER_PORT_53_UDP_ADDR=10.0.0.11",
            ]
        );
    }

    #[test]
    fn the_pod_wins_over_the_image() {
        let mut over = Variables::default();
        over.set("PATH", "/mine".into());
        over.set("NEW", "1".into());
        let merged = merged(&["PATH=/bin".into(), "LANG=C".into()], over);
        assert_eq!(merged.lines(), ["PATH=/mine", "LANG=C", "NEW=1"]);
    }
}
