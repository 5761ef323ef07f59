//! What must be true of the platform and the machine before anything is applied: names, ports, what was made elsewhere.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use knarr_compose::PROJECT_NAME;
use kube::{Api, Client, api::ListParams};

use super::{Published, Work};
use crate::error::Error;

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
