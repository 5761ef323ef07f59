//! `knarr network`: networks of one's own for the containers of `run`. Containers in one find each other by name and reach
//! each other; those in different ones do neither.

use super::{
    named, network as link,
    record::{self, Home, Joined, Record},
};
use crate::{
    error::{Error, io},
    listing::{Filters, Shape},
    paths::Paths,
};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::PathBuf, time::SystemTime};

#[derive(Subcommand)]
pub enum NetworkVerb {
    /// List them
    #[command(visible_alias = "list")]
    Ls {
        /// Ids only
        #[arg(short, long)]
        quiet: bool,
        /// Whole ids
        #[arg(long)]
        no_trunc: bool,
        /// Only those of which this holds: name=app, id=0123, label=NAME=value, driver=bridge; may be repeated
        #[arg(short, long, value_name = "KEY=VALUE")]
        filter: Vec<String>,
        /// A template like {{.Name}}, `table …` or `json`
        #[arg(long, value_name = "TEMPLATE")]
        format: Option<String>,
    },
    /// Make one
    Create(CreateArguments),
    /// All that is known of them
    Inspect(named::Inspect),
    /// Remove some that no running container is in
    #[command(visible_alias = "remove")]
    Rm(named::Remove),
    /// Remove all that no container is in
    Prune(named::Prune),
    /// Put a container into one, also while it runs
    Connect {
        /// What it is also called there
        #[arg(long, value_name = "NAME")]
        alias: Vec<String>,
        network: String,
        container: String,
    },
    /// Take a container out of one
    Disconnect {
        #[arg(short, long)]
        force: bool,
        network: String,
        container: String,
    },
    /// Answers names in networks, while a container is in one
    #[command(hide = true)]
    Resolver,
}

#[derive(Args)]
pub struct CreateArguments {
    /// Without a way out
    #[arg(long)]
    internal: bool,
    /// NAME=value
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// Only bridge
    #[arg(short, long, default_value = "bridge", value_parser = ["bridge"])]
    driver: String,
    name: String,
}

/// What is kept of a network.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Own {
    name: String,
    /// 64 hexadecimal digits.
    id: String,
    created: SystemTime,
    labels: BTreeMap<String, String>,
    internal: bool,
}

fn path(home: &Home, name: &str) -> PathBuf {
    home.dir.join("networks").join(format!("{name}.json"))
}

fn all(home: &Home) -> Vec<Own> {
    let files = fs::read_dir(home.dir.join("networks"));
    let files = files.into_iter().flatten().flatten().map(|f| f.path());
    let mut all: Vec<Own> = files
        .filter(|p| p.extension().is_some_and(|e| e == "json"))
        .filter_map(|p| record::read(&p))
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn unknown(name: &str) -> Error {
    Error::Failed(format!(
        "network {name} not found; `knarr network ls` lists them"
    ))
}

/// By name, id, or the beginning of an id that no other has.
fn find(home: &Home, name: &str) -> Result<Own, Error> {
    let all = all(home);
    if let Some(found) = all.iter().find(|n| n.name == name || n.id == name) {
        return Ok(found.clone());
    }
    let mut begin = all
        .iter()
        .filter(|n| !name.is_empty() && n.id.starts_with(name));
    match (begin.next(), begin.next()) {
        (Some(found), None) => Ok(found.clone()),
        (Some(_), Some(_)) => Err(Error::Failed(format!("network {name} is ambiguous"))),
        _ => Err(unknown(name)),
    }
}

/// Sees that the networks are there, as they were when the container was made.
pub fn look_up(home: &Home, joined: &mut [Joined]) -> Result<(), Error> {
    for place in joined {
        let found = find(home, &place.name)?;
        if !place.id.is_empty() && place.id != found.id {
            return Err(unknown(&place.name));
        }
        (place.name, place.id) = (found.name, found.id);
    }
    Ok(())
}

/// Those without a way out.
pub fn internal(home: &Home) -> knarr_network::Internal {
    let all = all(home).into_iter().filter(|n| n.internal);
    all.map(|n| n.id).collect()
}

/// Containers that are in it, those that run first.
fn users(home: &Home, network: &Own) -> Vec<Record> {
    let mut all = home.all();
    all.retain(|r| r.networks.iter().any(|n| n.id == network.id));
    all.sort_by_key(|r| r.address.is_none());
    all
}

pub async fn network(paths: &Paths, verb: NetworkVerb) -> Result<u8, Error> {
    let home = Home::new(paths);
    match verb {
        NetworkVerb::Ls {
            quiet,
            no_trunc,
            filter,
            format,
        } => list(&home, quiet, no_trunc, &filter, format.as_deref())?,
        NetworkVerb::Create(arguments) => {
            paths.create()?;
            println!("{}", create(&home, arguments)?.id);
        }
        NetworkVerb::Inspect(asked) => {
            return asked.print(|name| known(&home, name));
        }
        NetworkVerb::Rm(asked) => {
            let there = |name: &str| find(&home, name).is_ok();
            return Ok(asked.each(|name| remove(&home, name), there));
        }
        NetworkVerb::Prune(asked) => {
            let asked = asked.read()?;
            for network in all(&home) {
                if !asked.fits(network.created, &network.labels) {
                    continue;
                }
                if users(&home, &network).is_empty() && remove(&home, &network.name).is_ok() {
                    println!("{}", network.name);
                }
            }
        }
        NetworkVerb::Connect {
            alias,
            network,
            container,
        } => connect(&home, &network, &container, alias).await?,
        NetworkVerb::Disconnect {
            force: _,
            network,
            container,
        } => disconnect(&home, &network, &container).await?,
        NetworkVerb::Resolver => super::resolver::serve(paths).await?,
    }
    Ok(0)
}

/// SOURCE: docker/cli `cli/command/network/formatter.go`
const SHAPE: Shape = Shape {
    heads: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ],
    shown: &["ID", "Name", "Driver", "Scope"],
};

fn list(
    home: &Home,
    quiet: bool,
    whole: bool,
    filter: &[String],
    format: Option<&str>,
) -> Result<(), Error> {
    let known = [
        "name", "id", "label", "label!", "driver", "scope", "type", "dangling",
    ];
    let filters = Filters::read(filter, &known)?;
    let mut all = all(home);
    all.retain(|n| {
        filters.name(&n.name)
            && filters.any("id", |said| n.id.starts_with(said))
            && filters.labels(&n.labels)
            && filters.any("driver", |said| said == "bridge")
            && filters.any("scope", |said| said == "local")
            && filters.any("type", |said| said == "custom")
            && filters.any("dangling", |said| {
                matches!(said, "true" | "1") == users(home, n).is_empty()
            })
    });
    let id = |n: &Own| match whole {
        true => n.id.clone(),
        false => n.id[..12.min(n.id.len())].to_string(),
    };
    if quiet && format.is_none() {
        all.iter().for_each(|n| println!("{}", id(n)));
        return Ok(());
    }
    let row = |n: &Own| {
        let labels = n.labels.iter().map(|(k, v)| format!("{k}={v}"));
        let created = jiff::Timestamp::try_from(n.created).unwrap_or_default();
        json!({
            "ID": id(n), "Name": n.name, "Driver": "bridge", "Scope": "local", "IPv4": "true", "IPv6": "false",
            "Internal": n.internal.to_string(), "Labels": labels.collect::<Vec<_>>().join(","),
            "CreatedAt": crate::listing::moment(created),
        })
    };
    let rows: Vec<Value> = all.iter().map(row).collect();
    SHAPE.print(&rows, format)
}

/// What is known of a network.
///
/// # Errors
/// When there is none.
pub fn known(home: &Home, name: &str) -> Result<Value, Error> {
    find(home, name).map(|n| inspected(home, &n))
}

fn create(home: &Home, arguments: CreateArguments) -> Result<Own, Error> {
    let name = arguments.name;
    super::claim::check_name(&name)?;
    if matches!(&*name, "bridge" | "host" | "none" | "default") {
        return Err(Error::Failed(format!(
            "operation is not permitted on predefined {name} network"
        )));
    }
    let _lock = home.lock()?;
    let at = path(home, &name);
    if at.exists() {
        return Err(Error::Failed(format!(
            "network with name {name} already exists"
        )));
    }
    let dir = home.dir.join("networks");
    fs::create_dir_all(&dir).map_err(io(dir.display().to_string()))?;
    let own = Own {
        name,
        id: super::claim::new_id(),
        created: SystemTime::now(),
        labels: super::describe::pairs(&arguments.label),
        internal: arguments.internal,
    };
    record::write(&at, &own)?;
    Ok(own)
}

fn remove(home: &Home, name: &str) -> Result<(), Error> {
    let _lock = home.lock()?;
    let network = find(home, name)?;
    let running = users(home, &network).into_iter();
    if let Some(user) = running.into_iter().find(|r| r.address.is_some()) {
        return Err(Error::Failed(format!(
            "error while removing network: network {} has active endpoints (name:{:?} id:{:?})",
            network.name,
            user.name,
            user.short()
        )));
    }
    let at = path(home, &network.name);
    fs::remove_file(&at).map_err(io(at.display().to_string()))
}

fn inspected(home: &Home, network: &Own) -> Value {
    let containers: serde_json::Map<String, Value> = users(home, network)
        .into_iter()
        .filter_map(|r| {
            let shown = json!({ "Name": r.name, "IPv4Address": format!("{}/32", r.address?) });
            Some((r.id, shown))
        })
        .collect();
    let created = jiff::Timestamp::try_from(network.created);
    json!({
        "Name": network.name, "Id": network.id, "Created": created.map_or(String::new(), |t| t.to_string()),
        "Scope": "local", "Driver": "bridge", "Internal": network.internal, "Labels": network.labels, "Options": {},
        "Containers": containers,
    })
}

async fn connect(
    home: &Home,
    network: &str,
    container: &str,
    aliases: Vec<String>,
) -> Result<(), Error> {
    let found = find(home, network)?;
    change(home, container, |record| {
        if record.network != super::options::Network::Bridge {
            return Err(Error::Failed(format!(
                "container cannot be connected to multiple networks with one of the networks in private ({:?}) mode",
                record.network
            )
            .to_lowercase()));
        }
        if record.networks.iter().any(|n| n.id == found.id) {
            return Err(Error::Failed(format!(
                "endpoint with name {} already exists in network {}",
                record.name, found.name
            )));
        }
        record.networks.push(Joined {
            name: found.name.clone(),
            id: found.id.clone(),
            aliases,
        });
        Ok(())
    })
    .await
}

async fn disconnect(home: &Home, network: &str, container: &str) -> Result<(), Error> {
    let found = find(home, network)?;
    change(home, container, |record| {
        let before = record.networks.len();
        record.networks.retain(|n| n.id != found.id);
        match record.networks.len() == before {
            false => Ok(()),
            true => Err(Error::Failed(format!(
                "container {} is not connected to network {}",
                record.name, found.name
            ))),
        }
    })
    .await
}

/// Changes a container's networks, and rules and names with them when it runs.
async fn change(
    home: &Home,
    container: &str,
    change: impl FnOnce(&mut Record) -> Result<(), Error>,
) -> Result<(), Error> {
    let record = home.find(container)?;
    let _hand = super::life::open(home, &record).await?;
    let mut record = home.find(&record.id)?;
    let held = link::open(home).await?;
    change(&mut record)?;
    home.save(&record)?;
    match record.address {
        Some(address) => held.settle(home, &record, Some(address)).await,
        None => Ok(()),
    }
}
