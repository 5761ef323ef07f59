//! `--link`: another container under a name of one's own; on the default network variables tell of it, too.
//!
//! The name is a line of `/etc/hosts`: written when the container starts, and anew when the other starts again.
//!
//! SOURCE: moby `daemon/links`, `daemon/container_operations.go`

use super::{
    options::Network,
    record::{Home, Linked, Record},
};
use crate::error::{Error, io};
use std::{fs, net::Ipv4Addr};

/// Finds out who is meant.
///
/// # Errors
/// When there is no such container, or neither of them has a network for it.
pub fn read(home: &Home, all: &[String], network: Network) -> Result<Vec<Linked>, Error> {
    if !all.is_empty() && network != Network::Bridge {
        return Err(Error::Input(
            "conflicting options: host type networking can't be used with links. This would result in undefined behavior".into(),
        ));
    }
    let one = |text: &String| {
        let (name, alias) = knarr_docker::split_link(text);
        if name.is_empty() || alias.is_empty() || text.split(':').count() > 2 {
            return Err(Error::Input(format!("bad format for links: {text}")));
        }
        let other = home.find(name).map_err(|error| {
            Error::Failed(format!("could not get container for {name}: {error}"))
        })?;
        if other.network == Network::Host {
            return Err(Error::Input(
                "conflicting options: host type networking can't be used with links. This would result in undefined behavior".into(),
            ));
        }
        Ok(Linked {
            id: other.id,
            name: other.name,
            alias: alias.into(),
        })
    };
    all.iter().map(one).collect()
}

/// The address by which a container finds the other, when they are in one network.
fn address(record: &Record, other: &Record) -> Option<Ipv4Addr> {
    let first = other.address?;
    if record.networks.is_empty() {
        return other.networks.is_empty().then_some(first);
    }
    let both = |mine: &super::record::Joined| other.networks.iter().find(|o| o.id == mine.id);
    let theirs = record.networks.iter().find_map(both)?;
    Some(
        theirs
            .address
            .filter(|_| theirs.subnet.is_some())
            .unwrap_or(first),
    )
}

/// A line of `/etc/hosts`; who reads it knows it again by its names.
fn names(link: &Linked, other: &Record) -> String {
    let mut names = vec![link.alias.as_str()];
    for name in [other.short(), other.name.as_str()] {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(" ")
}

/// The lines of a container's `/etc/hosts`; of others that run now.
pub fn lines(home: &Home, record: &Record) -> String {
    let one = |link: &Linked| {
        let other = home.load(&link.id)?;
        let ip = address(record, &other)?;
        Some(format!("{ip}\t{}\n", names(link, &other)))
    };
    record.links.iter().filter_map(one).collect()
}

/// The variables that tell of those on the default network.
///
/// # Errors
/// When one of them doesn't run, or isn't there.
pub fn variables(home: &Home, record: &Record) -> Result<Vec<(String, String)>, Error> {
    let mut all = Vec::new();
    if !record.networks.is_empty() {
        return Ok(all);
    }
    for link in &record.links {
        let other = home.load(&link.id);
        let other = other.ok_or_else(|| {
            let name = &link.name;
            Error::Failed(format!(
                "could not get container for {name}: No such container: {name}"
            ))
        })?;
        if !other.networks.is_empty() {
            return Err(Error::Failed(format!(
                "Cannot link to /{}, as it does not belong to the default network",
                other.name
            )));
        }
        let Some(ip) = address(record, &other) else {
            return Err(Error::Failed(format!(
                "Cannot link to a non running container: /{} AS /{}/{}",
                other.name, record.name, link.alias
            )));
        };
        let exposed = other.said.exposed.iter().filter_map(|port| {
            let (number, protocol) = port.split_once('/')?;
            Some((number.parse().ok()?, protocol.to_string()))
        });
        let published = other
            .ports
            .iter()
            .map(|p| (p.container, p.protocol.clone()));
        let mut open: Vec<(u16, String)> = exposed.chain(published).collect();
        let own = |v: &&str| !v.starts_with("HOSTNAME=") && !v.starts_with("TERM=");
        let env: Vec<&str> = other.env.iter().map(String::as_str).filter(own).collect();
        let name = format!("/{}/{}", record.name, link.alias);
        let told =
            knarr_docker::link_variables(&link.alias, &name, &ip.to_string(), &mut open, &env);
        all.extend(told);
    }
    Ok(all)
}

/// Tells those that link to a container which address it has now.
///
/// # Errors
/// When a file can't be written.
pub fn refresh(home: &Home, other: &Record) -> Result<(), Error> {
    for record in home.all() {
        let Some(link) = record.links.iter().find(|l| l.id == other.id) else {
            continue;
        };
        let (Some(_), Some(ip)) = (record.address, address(&record, other)) else {
            continue;
        };
        let path = home.container(&record.id).join("etc/hosts");
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let names = names(link, other);
        let kept = text
            .lines()
            .filter(|line| line.split_once('\t').is_none_or(|(_, n)| n != names));
        let mut text: String = kept.map(|line| format!("{line}\n")).collect();
        text.push_str(&format!("{ip}\t{names}\n"));
        // in place: it is mounted
        fs::write(&path, text).map_err(io(path.display().to_string()))?;
    }
    Ok(())
}

/// `rm --link /NAME/ALIAS`
///
/// # Errors
/// When there is none.
pub fn remove(home: &Home, said: &str) -> Result<(), Error> {
    let plain = said.trim_start_matches('/');
    let (name, alias) = plain.split_once('/').ok_or_else(|| {
        Error::Failed(format!(
            "Conflict, cannot remove the default link name of the container: {said}"
        ))
    })?;
    let mut record = home.find(name)?;
    let before = record.links.len();
    record.links.retain(|l| l.alias != alias);
    match record.links.len() == before {
        false => home.save(&record),
        true => Err(Error::Failed(format!(
            "could not get child by name: /{name}/{alias}"
        ))),
    }
}
