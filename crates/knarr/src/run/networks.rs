//! `knarr network`: networks of one's own for the containers of `run`. Containers in one find each other by name and reach
//! each other; those in different ones do neither.

use super::{
    named, network as link,
    options::Network as Kind,
    record::{self, Home, Joined, Record},
    subnets,
};
use crate::{
    error::{Error, io},
    listing::{Filters, Shape},
    paths::Paths,
};
use clap::{Args, Subcommand};
use knarr_docker::{Pool, Range};
use knarr_runtime::State;
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
    Create(Box<CreateArguments>),
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
        /// Its address there, in a network that has a subnet
        #[arg(long, value_name = "ADDRESS")]
        ip: Option<std::net::Ipv4Addr>,
        /// NAME[:ALIAS], another container under a name of its own
        #[arg(long, value_name = "CONTAINER")]
        link: Vec<String>,
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
    #[arg(short, long, default_value = "bridge")]
    driver: String,
    #[command(flatten)]
    subnets: subnets::SubnetArguments,
    /// There for scripts: anybody may join
    #[arg(long, hide = true)]
    attachable: bool,
    /// There for scripts: with addresses of IPv4
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set)]
    ipv4: bool,
    #[command(flatten)]
    theirs: Theirs,
    name: String,
}

/// Docker's that are refused by name, unless they say what is so anyway.
#[derive(Args)]
struct Theirs {
    #[arg(long, hide = true)]
    scope: Option<String>,
    #[arg(long, hide = true)]
    ipam_driver: Option<String>,
    #[arg(short = 'o', long = "opt", hide = true)]
    options: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = clap::ArgAction::Set)]
    ipv6: bool,
    #[arg(long, hide = true)]
    ingress: bool,
    #[arg(long, hide = true)]
    config_only: bool,
    #[arg(long, hide = true)]
    config_from: Option<String>,
    #[arg(long, hide = true)]
    ipam_opt: Vec<String>,
}

impl Theirs {
    fn check(&self) -> Result<(), Error> {
        let other = |said: &Option<String>, same: &str| {
            said.as_deref().is_some_and(|s| !s.is_empty() && s != same)
        };
        let said = [
            ("scope", other(&self.scope, "local")),
            ("ipam-driver", other(&self.ipam_driver, "default")),
            ("ipv6", self.ipv6),
            ("ingress", self.ingress),
            ("config-only", self.config_only),
            ("config-from", self.config_from.is_some()),
            ("ipam-opt", !self.ipam_opt.is_empty()),
        ];
        if let Some((name, _)) = said.iter().find(|(_, said)| *said) {
            return Err(Error::Input(format!(
                "--{name} is not there for these networks"
            )));
        }
        for option in &self.options {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            // what is so anyway, or is only shown again
            let fits = match name {
                "com.docker.network.bridge.enable_icc"
                | "com.docker.network.bridge.enable_ip_masquerade" => value == "true",
                "com.docker.network.bridge.host_binding_ipv4" => matches!(value, "0.0.0.0" | ""),
                "com.docker.network.bridge.name" => true,
                name => !name.starts_with("com.docker.network."),
            };
            if !fits {
                return Err(Error::Input(format!(
                    "--opt {option} is not there for these networks"
                )));
            }
        }
        Ok(())
    }
}

/// What is kept of a network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Own {
    pub name: String,
    /// 64 hexadecimal digits.
    pub id: String,
    created: SystemTime,
    labels: BTreeMap<String, String>,
    internal: bool,
    /// Subnets; none: addresses are of the range that all have.
    #[serde(default)]
    pub pools: Vec<Pool>,
    #[serde(default)]
    attachable: bool,
    #[serde(default)]
    options: BTreeMap<String, String>,
}

/// Those that are always there, with their drivers.
const ALWAYS: [(&str, &str); 3] = [("bridge", "bridge"), ("host", "host"), ("none", "null")];

impl Own {
    fn driver(&self) -> &str {
        let always = ALWAYS.iter().find(|(name, _)| *name == self.name);
        always.map_or("bridge", |(_, driver)| driver)
    }

    fn is_made(&self) -> bool {
        ALWAYS.iter().all(|(name, _)| *name != self.name)
    }

    /// Its containers that run.
    fn has(&self, record: &Record) -> bool {
        match (self.name.as_str(), record.network) {
            ("bridge", Kind::Bridge) | ("host", Kind::Host) | ("none", Kind::None) => {
                record.networks.is_empty()
            }
            _ => record.networks.iter().any(|n| n.id == self.id),
        }
    }
}

/// Those that are always there, too, by name.
fn with_always(home: &Home) -> Vec<Own> {
    use sha2::Digest;
    let always = ALWAYS.map(|(name, _)| {
        let place = home.dir.join("networks").join(name);
        let digest = sha2::Sha256::digest(place.as_os_str().as_encoded_bytes());
        let made = fs::metadata(&home.dir).and_then(|m| m.modified());
        let range = home.known_settings().map(|s| format!("{}/17", s.base));
        let range = range
            .and_then(|r| Range::parse(&r))
            .filter(|_| name == "bridge");
        let pool = range.map(|subnet| Pool {
            subnet,
            range: None,
            gateway: link::gateway(),
            auxiliary: BTreeMap::new(),
        });
        Own {
            name: name.into(),
            id: hex::encode(digest),
            created: made.unwrap_or(SystemTime::UNIX_EPOCH),
            labels: BTreeMap::new(),
            internal: false,
            pools: pool.into_iter().collect(),
            attachable: false,
            options: BTreeMap::new(),
        }
    });
    let mut all = all(home);
    all.extend(always);
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn path(home: &Home, name: &str) -> PathBuf {
    home.dir.join("networks").join(format!("{name}.json"))
}

pub fn all(home: &Home) -> Vec<Own> {
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
    among(all(home), name)
}

fn among(all: Vec<Own>, name: &str) -> Result<Own, Error> {
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
        subnets::check_asked(place, &found)?;
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
    all.retain(|r| network.has(r));
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
            println!("{}", create(&home, *arguments)?.id);
        }
        NetworkVerb::Inspect(asked) => {
            let known = |name: &str| known(&home, name);
            return asked.print(known);
        }
        NetworkVerb::Rm(asked) => {
            let there = |name: &str| find(&home, name).is_ok();
            return Ok(asked.each(|name| remove(&home, name), there, |_| {}));
        }
        NetworkVerb::Prune(asked) => {
            let asked = asked.read()?;
            let mut any = false;
            for network in all(&home) {
                let made = jiff::Timestamp::try_from(network.created).unwrap_or_default();
                if !asked.fits(made, &network.labels) {
                    continue;
                }
                if users(&home, &network).is_empty() && remove(&home, &network.name).is_ok() {
                    if !std::mem::replace(&mut any, true) {
                        println!("Deleted Networks:");
                    }
                    println!("{}", network.name);
                }
            }
        }
        NetworkVerb::Connect {
            alias,
            ip,
            link,
            network,
            container,
        } => {
            let place = Joined {
                aliases: alias,
                asked: ip,
                ..Joined::default()
            };
            connect(&home, &network, &container, place, &link).await?;
        }
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
    let mut all = with_always(home);
    all.retain(|n| {
        filters.name(&n.name)
            && filters.any("id", |said| n.id.starts_with(said))
            && filters.labels(&n.labels)
            && filters.any("driver", |said| said == n.driver())
            && filters.any("scope", |said| said == "local")
            && filters.any("type", |said| (said == "custom") == n.is_made())
            && filters.any("dangling", |said| {
                matches!(said, "true" | "1") == (n.is_made() && users(home, n).is_empty())
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
            "ID": id(n), "Name": n.name, "Driver": n.driver(), "Scope": "local", "IPv4": "true", "IPv6": "false",
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
    among(with_always(home), name).map(|n| inspected(home, &n))
}

fn create(home: &Home, arguments: CreateArguments) -> Result<Own, Error> {
    let name = arguments.name;
    if arguments.driver != "bridge" {
        return Err(Error::Failed(format!(
            "plugin {:?} not found",
            arguments.driver
        )));
    }
    arguments.theirs.check()?;
    if !arguments.ipv4 {
        return Err(Error::Input("IPv4 or IPv6 must be enabled".into()));
    }
    let pools = arguments.subnets.read()?;
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
    subnets::check_free(home, &pools)?;
    let dir = home.dir.join("networks");
    fs::create_dir_all(&dir).map_err(io(dir.display().to_string()))?;
    let own = Own {
        name,
        id: super::claim::new_id(),
        created: SystemTime::now(),
        labels: super::describe::pairs(&arguments.label),
        internal: arguments.internal,
        pools,
        attachable: arguments.attachable,
        options: super::describe::pairs(&arguments.theirs.options),
    };
    record::write(&at, &own)?;
    Ok(own)
}

fn remove(home: &Home, name: &str) -> Result<(), Error> {
    if let Some((name, _)) = ALWAYS.iter().find(|(always, _)| *always == name) {
        return Err(Error::Failed(format!(
            "{name} is a pre-defined network and cannot be removed"
        )));
    }
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
            let place = r.networks.iter().find(|n| n.id == network.id);
            let further = place.and_then(|n| n.address.zip(n.subnet));
            let (ip, bits) = match (further, r.network) {
                _ if matches!(
                    super::show::state(home, &r),
                    State::Created | State::Exited { .. } | State::Failed(_)
                ) =>
                {
                    return None;
                }
                (_, Kind::Host | Kind::None | Kind::Container) => (String::new(), String::new()),
                (Some((ip, (bits, _))), _) => (ip.to_string(), format!("/{bits}")),
                (None, _) => (r.address?.to_string(), "/32".into()),
            };
            let shown = json!({
                "Name": r.name, "EndpointID": r.id, "MacAddress": r.mac.unwrap_or_default(),
                "IPv4Address": ip + &bits, "IPv6Address": "",
            });
            Some((r.id, shown))
        })
        .collect();
    let created = jiff::Timestamp::try_from(network.created);
    json!({
        "Name": network.name, "Id": network.id, "Created": created.map_or(String::new(), |t| t.to_string()),
        "Scope": "local", "Driver": network.driver(), "EnableIPv4": true, "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": {}, "Config": network.pools.iter().map(Pool::shown).collect::<Vec<_>>() },
        "Internal": network.internal, "Attachable": network.attachable, "Ingress": false,
        "ConfigFrom": { "Network": "" }, "ConfigOnly": false,
        "Containers": containers, "Options": network.options, "Labels": network.labels,
    })
}

async fn connect(
    home: &Home,
    network: &str,
    container: &str,
    mut place: Joined,
    linked: &[String],
) -> Result<(), Error> {
    let found = find(home, network)?;
    subnets::check_asked(&place, &found)?;
    let links = super::links::read(home, linked, Kind::Bridge)?;
    (place.name, place.id) = (found.name.clone(), found.id.clone());
    change(home, container, |record| {
        if record.network != Kind::Bridge {
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
        record.networks.push(place);
        record.links.extend(links);
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
    if record.address.is_none() {
        return home.save(&record);
    }
    let before: Vec<_> = subnets::addresses(&record).map(|(_, a)| a).collect();
    subnets::give(home, &mut record)?;
    home.save(&record)?;
    if subnets::addresses(&record).any(|(_, a)| !before.contains(&a)) {
        let pins = home.container(&record.id).join("runtime/pins");
        let netns = pins.join(super::life::inner_id(&record)).join("net");
        return held.connect(home, &mut record, &netns).await.map(drop);
    }
    held.settle(home, &record, record.address).await
}
