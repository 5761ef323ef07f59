//! Networks listed and inspected.

use super::{Network, all, change::members, find};
use crate::{
    daemon::Daemon,
    error::{Fault, Result},
    filters::Filters,
    http::{Answer, Ask, json},
    state::Status,
};
use serde_json::{Map, Value, json as value};
use std::sync::Arc;

fn show(daemon: &Daemon, network: &Network, containers: bool) -> Value {
    let range = daemon.pod_ranges.first().cloned().unwrap_or_default();
    let config = match network.name.as_str() {
        "host" | "none" => value!([]),
        _ if !network.pools.is_empty() => network.pools.iter().map(|p| p.shown()).collect(),
        _ => value!([{ "Subnet": range, "Gateway": daemon.gateway().to_string() }]),
    };
    let options = if network.is_own() {
        value!({})
    } else {
        Value::Null
    };
    let mut shown = value!({
        "Name": network.name,
        "Id": network.id,
        "Created": network.created,
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": options, "Config": config },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": {},
        "Options": network.options,
        "Labels": network.labels,
    });
    if containers {
        let mut map = Map::new();
        for entry in members(daemon, network) {
            let state = entry.state();
            if !matches!(state.status, Status::Running | Status::Paused) {
                continue;
            }
            let mut endpoints = entry.record.endpoints.iter();
            let endpoint = endpoints.find(|e| e.network_id == network.id);
            let bits = range.split_once('/').map_or("16", |(_, bits)| bits);
            let own = endpoint.and_then(|e| e.address);
            let address = own.map_or_else(|| format!("{}/{bits}", state.ip), |a| a.to_string());
            map.insert(
                entry.record.id.clone(),
                value!({
                    "Name": entry.record.name,
                    "EndpointID": endpoint.map(|e| e.id.clone()).unwrap_or_default(),
                    "MacAddress": endpoint.map(|e| e.mac.clone()).unwrap_or_default(),
                    "IPv4Address": address,
                    "IPv6Address": "",
                }),
            );
        }
        shown["Containers"] = Value::Object(map);
    }
    shown
}

/// `until` of a prune: a moment, or so long ago (`24h`).
pub fn until(filters: &Filters) -> Result<Option<jiff::Timestamp>> {
    let Some(text) = filters.get("until").first() else {
        return Ok(None);
    };
    if let Ok(ago) = text.parse::<jiff::SignedDuration>() {
        return Ok(Some(jiff::Timestamp::now() - ago));
    }
    crate::names::time(text).map_err(|_| {
        Fault::bad(format!(
            "failed to parse value as time or duration: {text:?}"
        ))
    })
}

/// `GET /networks`
pub async fn list(daemon: &Arc<Daemon>, ask: Ask) -> Result<Answer> {
    let filters = Filters::read(&ask.query)?;
    filters.only(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
    let dangling = filters.flag("dangling")?;
    let kinds = filters.get("type");
    if let Some(kind) = kinds
        .iter()
        .find(|k| !matches!(k.as_str(), "custom" | "builtin"))
    {
        return Err(Fault::bad(format!("invalid filter: 'type'='{kind}'")));
    }
    let mut shown = Vec::new();
    for network in all(daemon).await? {
        let fits = filters.any("name", |v| network.name.contains(v))
            && filters.any("id", |v| network.id.starts_with(v))
            && filters.any("driver", |v| network.driver == v)
            && filters.any("scope", |v| v == "local")
            && filters.any("type", |v| (v == "custom") == network.is_own())
            && filters.labels("label", &network.labels)
            && dangling
                .is_none_or(|d| d == (network.is_own() && members(daemon, &network).is_empty()));
        if fits {
            // before 1.28 a list told of containers, too
            shown.push(show(daemon, &network, !ask.at_least(1, 28)));
        }
    }
    Ok(json(&Value::Array(shown)))
}

/// `GET /networks/{id}`
pub async fn inspect(daemon: &Arc<Daemon>, reference: &str, ask: Ask) -> Result<Answer> {
    match ask.query.get("scope") {
        None | Some("local") => {}
        Some(_) => return Err(Fault::not_found(format!("network {reference} not found"))),
    }
    let network = find(daemon, reference).await?;
    Ok(json(&show(daemon, &network, true)))
}
