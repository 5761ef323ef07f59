//! What the shapes can't say (compose-go's `validation` package).

use crate::{Error, tree::Node};

pub(super) fn validate(tree: &Node) -> Result<(), Error> {
    let section = |kind: &str| {
        let all = tree.get(kind).and_then(Node::map);
        all.into_iter().flatten()
    };
    for (name, volume) in section("volumes") {
        if !volume.bool_of("external") {
            continue;
        }
        for (key, value) in volume.entries() {
            if !matches!(key.as_str(), "name" | "external") {
                return Err(value.error(format!(
                    "volumes.{name}: conflicting parameters \"external\" and {key:?} specified"
                )));
            }
        }
    }
    file_objects(
        section("configs"),
        "configs",
        &["file", "environment", "content"],
    )?;
    file_objects(section("secrets"), "secrets", &["file", "environment"])?;
    for (name, service) in section("services") {
        for (i, port) in items(service, "ports").iter().enumerate() {
            if let Some(ip) = port.text_of("host_ip")
                && ip.parse::<std::net::IpAddr>().is_err()
            {
                return Err(port.error(format!(
                    "services.{name}.ports[{i}]: invalid ip address: {ip}"
                )));
            }
        }
        let watch = service.get("develop").and_then(|d| d.get("watch"));
        for rule in watch.map(Node::items).unwrap_or_default() {
            if rule.text_of("path").is_none_or(|p| p.is_empty()) {
                return Err(rule.error(format!(
                    "services.{name}.develop.watch.path: value can't be blank"
                )));
            }
        }
        let reserved = service
            .get("deploy")
            .and_then(|d| d.get("resources")?.get("reservations"));
        let devices = reserved.map(|r| items(r, "devices")).unwrap_or_default();
        for request in items(service, "gpus").iter().chain(devices) {
            if request.get("count").is_some() && request.get("device_ids").is_some() {
                return Err(request.error(format!(
                    "services.{name}: \"count\" and \"device_ids\" attributes are exclusive"
                )));
            }
        }
    }
    Ok(())
}

fn items<'a>(node: &'a Node, key: &str) -> &'a [Node] {
    node.get(key).map(Node::items).unwrap_or_default()
}

fn file_objects<'a>(
    all: impl Iterator<Item = (&'a String, &'a Node)>,
    kind: &str,
    keys: &[&str],
) -> Result<(), Error> {
    for (name, object) in all {
        let map = object.map();
        let has = |key: &str| map.is_some_and(|m| m.contains_key(key));
        let said = keys.iter().filter(|k| has(k)).count();
        let keys = keys.join("|");
        if said > 1 {
            return Err(object.error(format!(
                "{kind}.{name}: {keys} attributes are mutually exclusive"
            )));
        }
        if said == 0 && !has("driver") && !has("external") {
            return Err(object.error(format!("{kind}.{name}: one of {keys} must be set")));
        }
    }
    Ok(())
}
