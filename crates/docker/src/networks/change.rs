//! Networks made, removed, joined and left.

use super::{Endpoint, Network, all, api, find, ipam, pick, policy};
use crate::{
    containers::Entry,
    daemon::Daemon,
    error::{Fault, Result},
    filters::Filters,
    http::{self, Answer, Ask, Fields},
    names,
    record::Record,
    state::Status,
};
use http::json;
use k8s_openapi::api::{
    core::v1::{ConfigMap, Service},
    discovery::v1::EndpointSlice,
    networking::v1::NetworkPolicy,
};
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json as value};
use std::sync::Arc;

/// `POST /networks/create`
pub async fn create(daemon: &Arc<Daemon>, mut ask: Ask) -> Result<Answer> {
    let mut f = Fields::new(ask.object().await?, "NetworkCreateRequest");
    let name = f.text("Name")?.unwrap_or_default();
    if name.trim().is_empty() {
        return Err(Fault::bad("network name cannot be empty"));
    }
    let driver = f.text("Driver")?.unwrap_or("bridge".into());
    let pools = ipam::read(f.object("IPAM")?)?;
    let network = Network {
        id: names::id(),
        name: name.clone(),
        created: jiff::Timestamp::now().to_string(),
        driver: driver.clone(),
        labels: f.strings("Labels")?,
        options: f.strings("Options")?,
        internal: f.flag("Internal")?,
        attachable: f.flag("Attachable")?,
        pools,
    };
    match driver.as_str() {
        "bridge" | "default" => {}
        "host" | "null" => {
            return Err(Fault::forbidden(format!(
                "only one instance of \"{driver}\" network is allowed"
            )));
        }
        "overlay" => {
            return Err(Fault::unavailable(
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
            ));
        }
        "macvlan" | "ipvlan" => {
            return Err(Fault::unsupported(format!("--driver={driver}")));
        }
        other => {
            return Err(Fault::not_found(format!("plugin \"{other}\" not found")));
        }
    }
    let mut options = network.options.iter();
    if let Some((option, value)) = options.find(|(o, v)| !is_usual(o, v, daemon)) {
        return Err(Fault::unsupported(format!("--opt {option}={value}")));
    }
    f.take("CheckDuplicate");
    if f.present("EnableIPv4") == Some(Value::Bool(false)) {
        return Err(Fault::unsupported("--ipv4=false (EnableIPv4)"));
    }
    if f.flag("EnableIPv6")? && !daemon.pod_ranges.iter().any(|r| r.contains(':')) {
        return Err(Fault::unsupported(
            "--ipv6 (EnableIPv6; the platform has addresses of IPv4 alone)",
        ));
    }
    for (key, flag) in [
        ("Ingress", "--ingress"),
        ("ConfigOnly", "--config-only"),
        ("ConfigFrom", "--config-from"),
    ] {
        if f.take(key).is_some() {
            return Err(Fault::unsupported(format!("{flag} ({key})")));
        }
    }
    match f.text("Scope")?.as_deref() {
        None | Some("local") => {}
        Some(scope) => return Err(Fault::unsupported(format!("--scope={scope}"))),
    }
    f.finish_but(&[])?;
    let _one = daemon.changing.lock().await;
    daemon.namespace().await?;
    let all = all(daemon).await?;
    if matches!(name.as_str(), "bridge" | "host" | "none") {
        return Err(Fault::forbidden(format!(
            "operation is not permitted on predefined {name} network"
        )));
    }
    if all.iter().any(|n| n.name == name) {
        return Err(Fault::conflict(format!(
            "network with name {name} already exists"
        )));
    }
    ipam::check_free(daemon, &network.pools, &all)?;
    let parameters = PostParams::default();
    // The description last: without it, the rest is nobody's, and made again under another id.
    api::<Service>(daemon)
        .create(&parameters, &policy::service(&network)?)
        .await?;
    api::<NetworkPolicy>(daemon)
        .create(&parameters, &policy::policy(daemon, &network)?)
        .await?;
    api::<ConfigMap>(daemon)
        .create(&parameters, &policy::description(&network)?)
        .await?;
    tell(daemon, "create", &network, None);
    let answer = value!({ "Id": network.id, "Warning": "" });
    Ok(http::json_with(::http::StatusCode::CREATED, &answer))
}

/// What asks for what is so anyway.
fn is_usual(option: &str, value: &str, daemon: &Daemon) -> bool {
    let v6 = daemon.pod_ranges.iter().any(|r| r.contains(':'));
    match option {
        "com.docker.network.bridge.enable_icc"
        | "com.docker.network.bridge.enable_ip_masquerade"
        | "com.docker.network.enable_ipv4" => matches!(value, "true" | "1"),
        "com.docker.network.enable_ipv6" => v6 || matches!(value, "false" | "0"),
        "com.docker.network.bridge.host_binding_ipv4" => matches!(value, "0.0.0.0" | ""),
        "com.docker.network.driver.mtu" => value == "1500",
        _ => false,
    }
}

fn tell(daemon: &Daemon, action: &str, network: &Network, container: Option<&str>) {
    let mut attributes = value!({ "name": network.name, "type": network.driver });
    if let Some(container) = container {
        attributes["container"] = value!(container);
    }
    let attributes = attributes.as_object().cloned().unwrap_or_default();
    daemon
        .events
        .tell("network", action, &network.id, attributes);
}

/// The policy of `none` is made with its first container.
pub async fn ready(daemon: &Daemon, network: &Network) -> Result<()> {
    if network.name == "none" {
        let policies = api::<NetworkPolicy>(daemon);
        let nothing = policy::nothing(network)?;
        let made = policies.create(&PostParams::default(), &nothing).await;
        match made {
            Ok(_) => {}
            Err(kube::Error::Api(e)) if e.code == 409 => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

async fn delete(daemon: &Daemon, network: &Network) -> Result<()> {
    let (name, parameters) = (network.object(), DeleteParams::default());
    let gone = |done: Result<(), kube::Error>| match done {
        Err(kube::Error::Api(e)) if e.code == 404 => Ok(()),
        other => other.map_err(Fault::from),
    };
    gone(
        api::<ConfigMap>(daemon)
            .delete(&name, &parameters)
            .await
            .map(drop),
    )?;
    gone(
        api::<NetworkPolicy>(daemon)
            .delete(&name, &parameters)
            .await
            .map(drop),
    )?;
    gone(
        api::<EndpointSlice>(daemon)
            .delete(&name, &parameters)
            .await
            .map(drop),
    )?;
    gone(
        api::<Service>(daemon)
            .delete(&name, &parameters)
            .await
            .map(drop),
    )?;
    tell(daemon, "destroy", network, None);
    Ok(())
}

/// Containers that have a place in it.
pub fn members(daemon: &Daemon, network: &Network) -> Vec<Arc<Entry>> {
    let mut all = daemon.containers.all();
    all.retain(|e| {
        e.record
            .endpoints
            .iter()
            .any(|n| n.network_id == network.id)
    });
    all
}

fn active(entry: &Entry) -> bool {
    !matches!(entry.state().status, Status::Created | Status::Exited)
}

/// `DELETE /networks/{id}`
pub async fn remove(daemon: &Arc<Daemon>, reference: &str) -> Result<Answer> {
    let _one = daemon.changing.lock().await;
    let network = find(daemon, reference).await?;
    if !network.is_own() {
        return Err(Fault::forbidden(format!(
            "{} is a pre-defined network and cannot be removed",
            network.name
        )));
    }
    let mut there = members(daemon, &network);
    there.retain(|e| active(e));
    if !there.is_empty() {
        let short = |e: &Entry| {
            let mine = e
                .record
                .endpoints
                .iter()
                .find(|n| n.network_id == network.id);
            mine.and_then(|n| n.id.get(..12))
                .unwrap_or_default()
                .to_string()
        };
        let told = there
            .iter()
            .map(|e| format!("name:{:?} id:{:?}", e.record.name, short(e)));
        return Err(Fault::forbidden(format!(
            "error while removing network: network {} has active endpoints ({})",
            network.name,
            told.collect::<Vec<_>>().join(", ")
        )));
    }
    delete(daemon, &network).await?;
    Ok(http::done())
}

/// `POST /networks/prune`
pub async fn prune(daemon: &Arc<Daemon>, ask: Ask) -> Result<Answer> {
    let filters = Filters::read(&ask.query)?;
    filters.only(&["label", "label!", "until"])?;
    let until = super::show::until(&filters)?;
    let _one = daemon.changing.lock().await;
    let mut gone = Vec::new();
    for network in all(daemon).await? {
        let made = network.created.parse::<jiff::Timestamp>().ok();
        let fits = filters.labels("label", &network.labels)
            && filters.not_labels("label!", &network.labels)
            && until.is_none_or(|u| made.is_some_and(|m| m < u));
        if network.is_own() && fits && members(daemon, &network).is_empty() {
            delete(daemon, &network).await?;
            gone.push(network.name);
        }
    }
    Ok(json(&value!({ "NetworksDeleted": gone })))
}

/// `POST /networks/{id}/connect`
///
/// One that hasn't been started gets another Pod, which searches the network's names; one that runs is found by the
/// others at once, and finds them from its next start.
pub async fn connect(daemon: &Arc<Daemon>, reference: &str, mut ask: Ask) -> Result<Answer> {
    let mut f = Fields::new(ask.object().await?, "NetworkConnectRequest");
    let container = f.text("Container")?.unwrap_or_default();
    let config = f.object("EndpointConfig")?;
    f.finish_but(&[])?;
    let _one = daemon.changing.lock().await;
    let network = find(daemon, reference).await?;
    let entry = daemon.containers.find(&container)?;
    // SOURCE: moby `daemon/container_operations.go`, `runconfig/errors.go`
    let refused = match (entry.record.network_mode.as_str(), network.name.as_str()) {
        (mode, "host") if mode != "host" => Some(
            "cannot connect container to host network - container must be created in host network mode",
        ),
        (mode, _) if mode == "host" || mode.starts_with("container:") => Some(
            "container sharing network namespace with another container or host cannot be connected to any other network",
        ),
        ("none", _) | (_, "none") => Some(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        ),
        _ => None,
    };
    if let Some(told) = refused {
        return Err(Fault::bad(told));
    }
    let mut endpoint = Endpoint::read(&network.name, &Value::Object(config))?;
    ipam::check_asked(&endpoint, &network)?;
    if endpoint.asked.is_some() && active(&entry) {
        return Err(Fault::unsupported(
            "--ip for a container that runs (EndpointsConfig.IPAMConfig.IPv4Address; stop it before)",
        ));
    }
    let has_mac = |e: &Endpoint| !e.mac.is_empty();
    if has_mac(&endpoint) && (!entry.gated() || entry.record.endpoints.iter().any(has_mac)) {
        return Err(Fault::unsupported(
            "--mac-address (EndpointsConfig.MacAddress; of the network that it starts with)",
        ));
    }
    endpoint.network_id = network.id.clone();
    endpoint.id = names::id();
    let mut record = entry.record.clone();
    if record.endpoints.iter().any(|e| e.network_id == network.id) {
        return Err(Fault::forbidden(format!(
            "endpoint with name {} already exists in network {}",
            record.name, network.name
        )));
    }
    record.endpoints.push(endpoint);
    rejoin(daemon, &entry, record).await?;
    tell(daemon, "connect", &network, Some(&entry.record.id));
    Ok(http::empty(::http::StatusCode::OK))
}

/// `POST /networks/{id}/disconnect`
pub async fn disconnect(daemon: &Arc<Daemon>, reference: &str, mut ask: Ask) -> Result<Answer> {
    let mut f = Fields::new(ask.object().await?, "NetworkDisconnectRequest");
    let container = f.text("Container")?.unwrap_or_default();
    let force = f.flag("Force")?;
    f.finish_but(&[])?;
    let _one = daemon.changing.lock().await;
    let network = find(daemon, reference).await?;
    let entry = match daemon.containers.find(&container) {
        Err(_) if force => {
            return Err(Fault::not_found(format!("endpoint {container} not found")));
        }
        found => found?,
    };
    if network.name == "host" && entry.record.network_mode == "host" {
        return Err(Fault::bad(
            "cannot disconnect container from host network - container was created in host network mode",
        ));
    }
    let mut record = entry.record.clone();
    let before = record.endpoints.len();
    record.endpoints.retain(|e| e.network_id != network.id);
    if record.endpoints.len() == before {
        return Err(Fault::forbidden(format!(
            "container {} is not connected to network {}",
            record.id, network.name
        )));
    }
    rejoin(daemon, &entry, record).await?;
    tell(daemon, "disconnect", &network, Some(&entry.record.id));
    Ok(http::empty(::http::StatusCode::OK))
}

async fn rejoin(daemon: &Arc<Daemon>, entry: &Entry, record: Record) -> Result<()> {
    if entry.gated() {
        // An unstarted Pod's way of asking for names can't be changed: another takes its place.
        crate::lifecycle::replace(daemon, entry, record).await?;
    } else {
        daemon.rewrite(entry, &record).await?;
    }
    super::sync(daemon).await
}

/// Endpoints settled: by the networks' ids, with ids of their own.
pub fn settle(
    all: &[Network],
    mode: &str,
    asked: &[Endpoint],
) -> Result<(String, Vec<Endpoint>, Vec<Network>)> {
    if mode.starts_with("container:") {
        return match asked.is_empty() {
            true => Ok((mode.into(), vec![], vec![])),
            // SOURCE: moby `daemon/container_operations.go` validateEndpointSettings
            false => Err(Fault::bad(
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
            )),
        };
    }
    let main = pick(all, if mode.is_empty() { "bridge" } else { mode })?;
    if matches!(main.name.as_str(), "host" | "none") && asked.iter().any(|e| e.network != main.name)
    {
        return Err(Fault::bad(format!(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes ({})",
            main.name
        )));
    }
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let mut networks = Vec::new();
    let named = asked.iter().map(|e| (e.network.as_str(), Some(e)));
    for (name, endpoint) in std::iter::once((main.name.as_str(), None)).chain(named) {
        let network = pick(all, name)?;
        let known = endpoints.iter_mut().find(|e| e.network_id == network.id);
        let known = match known {
            Some(known) => known,
            None => {
                networks.push(network.clone());
                endpoints.push(Endpoint {
                    network: network.name.clone(),
                    network_id: network.id.clone(),
                    id: names::id(),
                    ..Endpoint::default()
                });
                match endpoints.last_mut() {
                    Some(last) => last,
                    None => continue,
                }
            }
        };
        let Some(endpoint) = endpoint else { continue };
        if !endpoint.aliases.is_empty() && !network.is_own() {
            return Err(Fault::bad(
                "invalid endpoint settings:\nnetwork-scoped aliases are only supported for user-defined networks",
            ));
        }
        ipam::check_asked(endpoint, network)?;
        known.asked = endpoint.asked.or(known.asked);
        if !endpoint.mac.is_empty() {
            known.mac.clone_from(&endpoint.mac);
        }
        known.aliases.extend(endpoint.aliases.iter().cloned());
        known.links.extend(endpoint.links.iter().cloned());
    }
    Ok((main.name.clone(), endpoints, networks))
}
