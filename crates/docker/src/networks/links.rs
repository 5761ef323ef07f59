//! `--link`: another container under a name of one's own, and, on the default network, variables that tell of it.
//!
//! A link is settled when the container starts: it's a line of its `/etc/hosts`, with the address that the other has then.
//!
//! SOURCE: moby `daemon/links`, `daemon/libnetwork` (sandbox's hosts)

use crate::{
    containers::Entry,
    create::{ports, wanted::Wanted},
    daemon::Daemon,
    error::{Fault, Result},
    record::Record,
};
use std::{collections::BTreeSet, sync::Arc};

/// A link with who it leads to.
struct Link {
    entry: Arc<Entry>,
    alias: String,
    /// on the default network
    legacy: bool,
}

pub fn split(link: &str) -> (&str, &str) {
    let (target, alias) = link.split_once(':').unwrap_or((link, link));
    (
        target.trim_start_matches('/'),
        alias.rsplit('/').next().unwrap_or(alias),
    )
}

/// Whether it has any.
pub fn any(record: &Record, wanted: &Wanted) -> bool {
    !wanted.host.links.is_empty() || record.endpoints.iter().any(|e| !e.links.is_empty())
}

/// Those of networks of one's own count when their container is there.
fn all(daemon: &Daemon, record: &Record, wanted: &Wanted) -> Result<Vec<Link>> {
    let mut found = Vec::new();
    let of_networks = record.endpoints.iter().flat_map(|e| &e.links);
    let legacy = wanted.host.links.iter().map(|l| (l, true));
    for (link, legacy) in legacy.chain(of_networks.map(|l| (l, false))) {
        let (target, alias) = split(link);
        let entry = match daemon.containers.find(target) {
            Ok(entry) => entry,
            Err(_) if !legacy => continue,
            Err(_) => {
                return Err(Fault::bad(format!(
                    "could not get container for {target}: No such container: {target}"
                )));
            }
        };
        found.push(Link {
            entry,
            alias: alias.into(),
            legacy,
        });
    }
    Ok(found)
}

/// # Errors
/// When one leads to no container, or out of the container's networks.
pub fn check(daemon: &Daemon, record: &Record, wanted: &Wanted) -> Result<()> {
    for link in all(daemon, record, wanted)? {
        let mine: BTreeSet<&str> = record
            .endpoints
            .iter()
            .map(|e| e.network_id.as_str())
            .collect();
        let theirs = &link.entry.record.endpoints;
        if link.entry.record.network_mode == "host" {
            return Err(Fault::bad(
                "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
            ));
        }
        if !theirs.iter().any(|e| mine.contains(e.network_id.as_str())) {
            return Err(Fault::bad(format!(
                "Cannot link to {}, as it does not belong to any of the container's networks",
                link.entry.record.name
            )));
        }
    }
    Ok(())
}

/// # Errors
/// When one leads to a container that doesn't run.
pub fn check_running(daemon: &Daemon, record: &Record, wanted: &Wanted) -> Result<()> {
    for link in all(daemon, record, wanted)?.iter().filter(|l| l.legacy) {
        let state = link.entry.state();
        if state.ip.is_empty() || !crate::lifecycle::active(state.status) {
            return Err(Fault::server(format!(
                "Cannot link to a non running container: /{} AS /{}/{}",
                link.entry.record.name, record.name, link.alias
            )));
        }
    }
    Ok(())
}

/// Lines of `/etc/hosts`, and variables; of those that run now.
pub fn settle(
    daemon: &Daemon,
    record: &Record,
    wanted: &Wanted,
) -> (Vec<String>, Vec<(String, String)>) {
    let (mut lines, mut env) = (Vec::new(), Vec::new());
    for link in all(daemon, record, wanted).unwrap_or_default() {
        let (other, ip) = (&link.entry.record, link.entry.state().ip);
        if ip.is_empty() {
            continue;
        }
        let mut names = vec![link.alias.as_str()];
        for name in [other.short(), other.name.as_str()] {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        lines.push(format!("{ip}\t{}", names.join(" ")));
        if link.legacy {
            env.extend(variables(daemon, record, &link, &ip));
        }
    }
    (lines, env)
}

fn variables(daemon: &Daemon, record: &Record, link: &Link, ip: &str) -> Vec<(String, String)> {
    let other = &link.entry.record;
    let Ok(wanted) = Wanted::read(&other.body) else {
        return Vec::new();
    };
    let image = daemon.images.resolve(&other.image_name).ok().flatten();
    let image = image.map(|i| i.config).unwrap_or_default();
    let mut open: Vec<(u16, String)> = (wanted.exposed.iter())
        .chain(&image.exposed_ports)
        .chain(other.bindings.keys())
        .filter_map(|port| ports::parse(port).ok())
        .map(|(number, protocol)| (number, protocol.to_lowercase()))
        .collect();
    let env: Vec<&str> = wanted
        .env
        .iter()
        .chain(&image.env)
        .map(String::as_str)
        .collect();
    let name = format!("/{}/{}", record.name, link.alias);
    variables_of(&link.alias, &name, ip, &mut open, &env)
}

/// What tells of who is linked to: its open ports and its own variables.
/// SOURCE: moby `daemon/links/links.go` ToEnv
pub fn variables_of(
    alias: &str,
    name: &str,
    ip: &str,
    open: &mut Vec<(u16, String)>,
    env: &[&str],
) -> Vec<(String, String)> {
    let prefix = alias.to_uppercase().replace('-', "_");
    open.sort_by(|a, b| (&b.1 == "tcp", a.0).cmp(&(&a.1 == "tcp", b.0)));
    open.dedup();
    let mut all = Vec::new();
    if let Some((number, protocol)) = open.first() {
        all.push((
            format!("{prefix}_PORT"),
            format!("{protocol}://{ip}:{number}"),
        ));
    }
    for (number, protocol) in open.iter() {
        let name = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        all.push((name.clone(), format!("{protocol}://{ip}:{number}")));
        all.push((format!("{name}_ADDR"), ip.to_string()));
        all.push((format!("{name}_PORT"), number.to_string()));
        all.push((format!("{name}_PROTO"), protocol.clone()));
    }
    all.push((format!("{prefix}_NAME"), name.to_string()));
    for variable in env {
        if let Some((name, value)) = variable.split_once('=')
            && !matches!(name, "HOME" | "PATH")
        {
            all.push((format!("{prefix}_ENV_{name}"), value.to_string()));
        }
    }
    all
}
