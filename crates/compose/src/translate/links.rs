//! The variables that tell a container of what it is linked to.
//!
//! Source: moby `daemon/links.Link.ToEnv`; Compose's first layout also linked `NAME_1`. Where the engine wrote the other
//! container's address, here is its name: addresses are not known before, and change.

use super::{Context, services};
use crate::Service;
use std::collections::{BTreeMap, BTreeSet};

/// Variables of the image, and of no use to others.
const KEPT_BACK: [&str; 2] = ["HOME", "PATH"];

/// What a service's own variables are put over.
pub(super) fn environment(context: &Context<'_>, service: &Service) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for link in service.links.iter().filter(|l| l.environment) {
        let Some(other) = context.project.services.get(&link.service) else {
            continue;
        };
        // TCP before UDP, and the lowest first.
        let ports: BTreeSet<(String, u16)> = services::ports(context, other)
            .into_iter()
            .map(|p| (p.protocol.to_lowercase(), p.target))
            .collect();
        let host = link.alias.to_lowercase();
        for alias in [link.alias.clone(), format!("{}_1", link.alias)] {
            let prefix = alias.to_uppercase().replace(['-', '.'], "_");
            all.insert(
                format!("{prefix}_NAME"),
                format!("/{}/{alias}", service.name),
            );
            if let Some((protocol, port)) = ports.first() {
                all.insert(
                    format!("{prefix}_PORT"),
                    format!("{protocol}://{host}:{port}"),
                );
            }
            for (protocol, port) in &ports {
                let one = format!("{prefix}_PORT_{port}_{}", protocol.to_uppercase());
                for (suffix, value) in [
                    ("", format!("{protocol}://{host}:{port}")),
                    ("_ADDR", host.clone()),
                    ("_PORT", port.to_string()),
                    ("_PROTO", protocol.clone()),
                ] {
                    all.insert(format!("{one}{suffix}"), value);
                }
            }
            for (key, value) in &other.environment {
                if !KEPT_BACK.contains(&key.as_str()) {
                    all.insert(format!("{prefix}_ENV_{key}"), value.clone());
                }
            }
        }
    }
    all
}
