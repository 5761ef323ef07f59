//! One service.

use super::{
    Build, Condition, Dependency, FileMount, Hook, Link, Mode, Mount, Name, Notes, Port, Prelude,
    Restarts, Update, Watch, build, deploy, hooks, mounts, networking, values, watch,
};
use crate::{
    Error, dotenv,
    health::{self, Health},
    tree::Node,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
    time::Duration,
};

/// Where a service's health check comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthCheck {
    /// The image's own, if it has one; what the file says goes over parts of it.
    Image,
    /// None, whatever the image says.
    Disabled,
    Own(Health),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    Missing,
    Always,
    Never,
    Build,
    /// When what is here was asked for longer ago than this.
    Refresh(Duration),
}

/// The namespaces it shares with others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    pub host_network: bool,
    pub no_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    /// The service in whose Pod it runs, to share what it has.
    pub joins: Option<String>,
    /// Processes are seen by all of the Pod.
    pub share_pid: bool,
}

/// What it may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    pub user: Option<String>,
    pub groups: Vec<String>,
    pub read_only: bool,
    pub privileged: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    /// `security_opt`, taken apart at `=` or `:`.
    pub options: Vec<(String, String)>,
}

/// Settings that Kubernetes has no field for; knarr's node reads them from an annotation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    pub pids_limit: Option<i64>,
    pub oom_score_adj: Option<i64>,
    pub umask: Option<i64>,
    /// It sees the machine's cgroups.
    pub host_cgroups: bool,
    /// (source, target, of `r`, `w` and `m`)
    pub devices: Vec<(String, String, String)>,
    /// Further devices that it may open or make, as `c 189:* rwm`.
    pub device_rules: Vec<String>,
    /// Name → (soft, hard); -1: none.
    pub ulimits: BTreeMap<String, (i64, i64)>,
    /// Further ones, as the node takes them.
    pub limits: serde_json::Map<String, serde_json::Value>,
    /// The keys that other clusters know nothing of.
    pub own_keys: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Service {
    pub name: String,
    pub image: String,
    pub build: Option<Build>,
    pub pull_policy: PullPolicy,
    pub platform: Option<String>,
    pub command: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub environment: BTreeMap<String, String>,
    pub ports: Vec<Port>,
    /// Container ports that other services use (`expose`), and `TCP` or `UDP`.
    pub expose: Vec<(u16, String)>,
    pub mounts: Vec<Mount>,
    /// Services whose volumes without a name it has too, and whether only to read them.
    pub volumes_from: Vec<(String, bool)>,
    pub configs: Vec<FileMount>,
    pub secrets: Vec<FileMount>,
    pub depends_on: Vec<Dependency>,
    pub health: HealthCheck,
    pub mode: Mode,
    pub restart: Restarts,
    pub working_dir: Option<String>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub stop_grace: Option<Duration>,
    pub stop_signal: Option<String>,
    pub security: Security,
    pub namespaces: Namespaces,
    /// (thousandths of a CPU, memory in bytes)
    pub limits: (Option<u64>, Option<u64>),
    pub reservations: (Option<u64>, Option<u64>),
    pub settings: Settings,
    pub update: Option<Update>,
    pub rollback: Option<Update>,
    /// Node labels it must find: (key, value, is it so).
    pub placement: Vec<(String, String, bool)>,
    /// No virtual address: its name leads to the containers.
    pub dns_round_robin: bool,
    pub networks: BTreeSet<String>,
    /// Addresses it is also reached at, and whether anything of the files asks for them.
    pub addresses: Vec<(Ipv4Addr, bool)>,
    /// Of its interface, as `02:42:ac:11:00:02`.
    pub mac: Option<String>,
    /// What its interface is called.
    pub interface: Option<String>,
    /// Labels of the service itself, not of its containers (`deploy.labels`).
    pub own_labels: BTreeMap<String, String>,
    /// The names it is found by, its own first.
    pub names: Vec<Name>,
    pub links: Vec<Link>,
    /// Containers that others have made, each with what it is called here.
    pub external_links: Vec<(String, String)>,
    pub extra_hosts: Vec<(String, String)>,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    pub sysctls: Vec<(String, String)>,
    /// An idle first process reaps what others leave.
    pub init: bool,
    pub tty: bool,
    pub stdin: bool,
    /// Its output is shown by an attached `up`.
    pub attach: bool,
    pub preludes: Vec<Prelude>,
    pub post_start: Vec<Hook>,
    pub pre_stop: Vec<Hook>,
    pub watch: Vec<Watch>,
}

pub(super) struct Reader<'a> {
    pub project: &'a str,
    pub tree: &'a Node,
    pub variables: &'a BTreeMap<String, String>,
    pub active: &'a BTreeSet<String>,
}

impl Reader<'_> {
    pub fn service(&self, name: &str, node: &Node, notes: &mut Notes) -> Result<Service, Error> {
        let build = build::build(node)?;
        let image = node.text_of("image").filter(|i| !i.is_empty());
        let deploy = node.get("deploy");
        let list = |key: &str| node.get(key).map(Node::texts);
        let (limits, reservations, pids) = resources(node)?;
        let labels = self.labels(node)?;
        Ok(Service {
            name: name.to_string(),
            image: image.unwrap_or_else(|| format!("{}-{name}", self.project)),
            build,
            pull_policy: pull_policy(node)?,
            platform: node.text_of("platform").filter(|p| !p.is_empty()),
            command: list("command"),
            entrypoint: list("entrypoint"),
            environment: self.environment(node)?,
            ports: networking::ports(node)?,
            expose: networking::expose(node)?,
            mounts: mounts::mounts(node, notes)?,
            volumes_from: vec![],
            configs: mounts::files(node, "configs", notes)?,
            secrets: mounts::files(node, "secrets", notes)?,
            depends_on: self.depends_on(node),
            health: health::health(node.get("healthcheck"))?,
            mode: deploy::mode(node)?,
            restart: deploy::restart(node)?,
            working_dir: node.text_of("working_dir").filter(|d| !d.is_empty()),
            hostname: node.text_of("hostname").filter(|d| !d.is_empty()),
            domainname: node.text_of("domainname").filter(|d| !d.is_empty()),
            labels,
            annotations: values::pairs(node, "annotations").into_iter().collect(),
            stop_grace: values::duration(node, "stop_grace_period")?,
            stop_signal: stop_signal(node)?,
            security: security(node),
            namespaces: namespaces(node)?,
            limits,
            reservations,
            settings: settings(node, pids)?,
            update: deploy::update(deploy, "update_config")?,
            rollback: deploy::rollback(deploy, notes)?,
            placement: placement(deploy, notes),
            dns_round_robin: deploy.and_then(|d| d.text_of("endpoint_mode")).as_deref()
                == Some("dnsrr"),
            networks: node
                .get("networks")
                .and_then(Node::map)
                .into_iter()
                .flat_map(|m| m.keys().cloned())
                .collect(),
            addresses: networking::addresses(node, self.tree)?,
            mac: super::link::mac(name, node)?,
            interface: super::link::interface(name, node)?,
            own_labels: deploy
                .map(|d| values::pairs(d, "labels").into_iter().collect())
                .unwrap_or_default(),
            names: vec![],
            links: vec![],
            external_links: super::names::external_links(name, node)?,
            extra_hosts: networking::extra_hosts(node),
            dns: node.texts_of("dns"),
            dns_search: node.texts_of("dns_search"),
            dns_options: node.texts_of("dns_opt"),
            sysctls: values::pairs(node, "sysctls"),
            init: node.bool_of("init"),
            tty: node.bool_of("tty"),
            stdin: node.bool_of("stdin_open"),
            attach: node.get("attach").is_none() || node.bool_of("attach"),
            preludes: hooks::preludes(node),
            post_start: hooks::hooks(node, "post_start")?,
            pre_stop: hooks::hooks(node, "pre_stop")?,
            watch: watch::watch(node),
        })
    }

    /// What the files of `env_file` say, then `environment` over it.
    fn environment(&self, node: &Node) -> Result<BTreeMap<String, String>, Error> {
        let mut all = env_files(node, self.variables)?;
        let own = node.get("environment").and_then(Node::map);
        for (key, value) in own.into_iter().flatten() {
            match value.scalar() {
                Some(value) => all.insert(key.clone(), value),
                None => all.remove(key),
            };
        }
        Ok(all)
    }

    fn labels(&self, node: &Node) -> Result<BTreeMap<String, String>, Error> {
        let mut all = BTreeMap::new();
        for file in node.get("label_file").map(Node::items).unwrap_or_default() {
            let path = PathBuf::from(file.scalar().unwrap_or_default());
            let text = std::fs::read_to_string(&path)
                .map_err(|e| file.error(format!("label file {}: {e}", path.display())))?;
            dotenv::parse(&text, &mut all, &|key, _| self.variables.get(key).cloned())
                .map_err(|e| file.error(format!("failed to read {}: {e}", path.display())))?;
        }
        all.extend(values::pairs(node, "labels"));
        Ok(all)
    }

    fn depends_on(&self, node: &Node) -> Vec<Dependency> {
        let all = node.get("depends_on").and_then(Node::map);
        all.into_iter()
            .flatten()
            // Others are in a profile that is off, and not required: the check has seen to that.
            .filter(|(service, _)| self.active.contains(*service))
            .filter(|(service, _)| {
                self.tree
                    .get("services")
                    .is_some_and(|s| s.get(service).is_some())
            })
            .map(|(service, d)| Dependency {
                service: service.clone(),
                condition: match d.text_of("condition").as_deref() {
                    Some("service_healthy") => Condition::Healthy,
                    Some("service_completed_successfully") => Condition::CompletedSuccessfully,
                    _ => Condition::Started,
                },
                restart: d.bool_of("restart"),
            })
            .collect()
    }
}

type Amounts = (Option<u64>, Option<u64>);

/// Limits, reservations, and the limit of processes.
fn resources(node: &Node) -> Result<(Amounts, Amounts, Option<i64>), Error> {
    let resources = node.get("deploy").and_then(|d| d.get("resources"));
    let of = |key: &str| resources.and_then(|r| r.get(key));
    let amounts = |at: Option<&Node>| -> Result<Amounts, Error> {
        match at {
            None => Ok((None, None)),
            Some(at) => Ok((values::cpus(at, "cpus")?, values::size(at, "memory")?)),
        }
    };
    let (mut limits, mut reserved) = (amounts(of("limits"))?, amounts(of("reservations"))?);
    if limits.0.is_none() {
        limits.0 = values::cpus(node, "cpus")?;
    }
    if let (None, Some(quota)) = (
        limits.0,
        values::integer(node, "cpu_quota")?.filter(|q| *q > 0),
    ) {
        let period = values::integer(node, "cpu_period")?.filter(|p| *p > 0);
        limits.0 = u64::try_from(quota * 1000 / period.unwrap_or(100_000)).ok();
    }
    limits.1 = limits
        .1
        .or(values::size(node, "mem_limit")?)
        .filter(|b| *b > 0);
    reserved.1 = reserved
        .1
        .or(values::size(node, "mem_reservation")?)
        .filter(|b| *b > 0);
    if let (None, Some(shares)) = (reserved.0, values::integer(node, "cpu_shares")?) {
        reserved.0 = u64::try_from(shares * 1000 / 1024).ok().filter(|s| *s > 0);
    }
    let pids = match of("limits")
        .map(|l| values::integer(l, "pids"))
        .transpose()?
        .flatten()
    {
        Some(pids) => Some(pids),
        None => values::integer(node, "pids_limit")?,
    };
    Ok((limits, reserved, pids.filter(|p| *p > 0)))
}

/// Whether its processes may mount file systems.
pub(super) fn may_mount(node: &Node) -> bool {
    let added = node.texts_of("cap_add");
    let all = |c: &String| {
        let c = c.to_uppercase();
        matches!(c.trim_start_matches("CAP_"), "SYS_ADMIN" | "ALL")
    };
    node.bool_of("privileged") || added.iter().any(all)
}

/// Name → (soft, hard); -1: none.
pub(super) fn ulimits(node: &Node) -> Result<BTreeMap<String, (i64, i64)>, Error> {
    let mut ulimits = BTreeMap::new();
    for (name, limit) in node.get("ulimits").map(Node::entries).into_iter().flatten() {
        let one = |key: &str| values::integer(limit, key).map(Option::unwrap_or_default);
        let pair = match limit.map() {
            Some(_) => (one("soft")?, one("hard")?),
            None => {
                let both = limit
                    .scalar()
                    .and_then(|t| t.parse().ok())
                    .unwrap_or_default();
                (both, both)
            }
        };
        ulimits.insert(name.clone(), pair);
    }
    Ok(ulimits)
}

fn settings(node: &Node, pids_limit: Option<i64>) -> Result<Settings, Error> {
    let (limits, mut own_keys) = super::limits::limits(node)?;
    let device_rules = super::devices::rules(node)?;
    if !device_rules.is_empty() {
        own_keys.push("device_cgroup_rules".into());
    }
    Ok(Settings {
        device_rules,
        limits,
        own_keys,
        pids_limit,
        oom_score_adj: values::integer(node, "oom_score_adj")?,
        umask: values::integer(node, "umask")?,
        host_cgroups: node.text_of("cgroup").as_deref() == Some("host"),
        devices: super::devices::devices(node)?,
        ulimits: ulimits(node)?,
    })
}

fn security(node: &Node) -> Security {
    let capabilities = |key: &str| -> Vec<String> {
        let plain = |c: String| c.to_uppercase().trim_start_matches("CAP_").to_string();
        node.texts_of(key).into_iter().map(plain).collect()
    };
    Security {
        user: node.text_of("user").filter(|u| !u.is_empty()),
        groups: node.texts_of("group_add"),
        read_only: node.bool_of("read_only"),
        privileged: node.bool_of("privileged"),
        cap_add: capabilities("cap_add"),
        cap_drop: capabilities("cap_drop"),
        options: node
            .texts_of("security_opt")
            .iter()
            .map(|o| {
                let at = o.find(['=', ':']);
                let (key, value) = at.map_or((o.as_str(), ""), |i| (&o[..i], &o[i + 1..]));
                (key.to_string(), value.to_string())
            })
            .collect(),
    }
}

fn namespaces(node: &Node) -> Result<Namespaces, Error> {
    let mut all = Namespaces::default();
    for key in ["network_mode", "pid", "ipc"] {
        let Some(at) = node.get(key) else {
            continue;
        };
        let mode = at.scalar().unwrap_or_default();
        if let Some(service) = mode.strip_prefix("service:") {
            if all.joins.as_deref().is_some_and(|j| j != service) {
                return Err(at.error(format!(
                    "{key}: it can share namespaces with one other service only"
                )));
            }
            all.joins = Some(service.to_string());
            all.share_pid |= key == "pid";
            continue;
        }
        match (key, mode.as_str()) {
            ("network_mode", "host") => all.host_network = true,
            ("network_mode", "none") => all.no_network = true,
            ("network_mode", "bridge" | "default" | "") => {}
            ("pid", "host") => all.host_pid = true,
            ("ipc", "host") => all.host_ipc = true,
            ("ipc", "private" | "shareable" | "") | ("pid", "") => {}
            (_, other) => {
                return Err(at.error(format!(
                    "{key}: knarr cannot honour {other:?}: say host or service:NAME{}",
                    if key == "network_mode" {
                        ", none or bridge"
                    } else {
                        ""
                    }
                )));
            }
        }
    }
    Ok(all)
}

/// `SIGTERM`, `TERM` or `15`, as Kubernetes names signals.
fn stop_signal(node: &Node) -> Result<Option<String>, Error> {
    const NAMES: [(&str, &str); 15] = [
        ("1", "SIGHUP"),
        ("2", "SIGINT"),
        ("3", "SIGQUIT"),
        ("4", "SIGILL"),
        ("5", "SIGTRAP"),
        ("6", "SIGABRT"),
        ("7", "SIGBUS"),
        ("8", "SIGFPE"),
        ("9", "SIGKILL"),
        ("10", "SIGUSR1"),
        ("11", "SIGSEGV"),
        ("12", "SIGUSR2"),
        ("13", "SIGPIPE"),
        ("14", "SIGALRM"),
        ("15", "SIGTERM"),
    ];
    const MORE: [&str; 8] = [
        "SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGWINCH", "SIGPWR",
    ];
    let Some(at) = node.get("stop_signal") else {
        return Ok(None);
    };
    let text = at.scalar().unwrap_or_default().to_uppercase();
    if text.is_empty() {
        return Ok(None);
    }
    let name = match text.starts_with("SIG") || text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.clone(),
        false => format!("SIG{text}"),
    };
    let known = NAMES
        .iter()
        .find(|(n, s)| *n == name || *s == name)
        .map(|(_, s)| *s);
    let known = known.or(MORE.iter().find(|s| **s == name).copied());
    let real_time = name.starts_with("SIGRTMIN") || name.starts_with("SIGRTMAX");
    match known.map(String::from).or(real_time.then_some(name)) {
        Some(signal) => Ok(Some(signal)),
        None => Err(at.error(format!("stop_signal: invalid signal: {text}"))),
    }
}

/// `deploy.placement`: labels of the node. Docker Compose asks for none of it, so nothing of it is refused.
fn placement(deploy: Option<&Node>, notes: &mut Notes) -> Vec<(String, String, bool)> {
    let Some(node) = deploy.and_then(|d| d.get("placement")) else {
        return vec![];
    };
    for key in ["preferences", "max_replicas_per_node"] {
        if let Some(at) = node.get(key) {
            notes.say(at, format!("placement.{key} is ignored: there is one node"));
        }
    }
    let mut all = Vec::new();
    for constraint in node.get("constraints").map(Node::items).unwrap_or_default() {
        let text = constraint.scalar().unwrap_or_default();
        let parts = text
            .split_once("==")
            .map(|(k, v)| (k, v, true))
            .or(text.split_once("!=").map(|(k, v)| (k, v, false)));
        let Some((key, value, is)) = parts.map(|(k, v, is)| (k.trim(), v.trim(), is)) else {
            notes.say(
                constraint,
                format!("placement.constraints: {text:?} is ignored: say KEY==VALUE or KEY!=VALUE"),
            );
            continue;
        };
        let label = match key {
            // The one node is its own manager.
            "node.role" if (value == "manager") == is => continue,
            "node.hostname" => "kubernetes.io/hostname",
            "node.platform.os" => "kubernetes.io/os",
            "node.platform.arch" => "kubernetes.io/arch",
            key => match key.strip_prefix("node.labels.") {
                Some(label) => label,
                None => {
                    notes.say(
                        constraint,
                        format!("placement.constraints: {text:?} is ignored: it is of Swarm's"),
                    );
                    continue;
                }
            },
        };
        let value = match value {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            v => v,
        };
        all.push((label.to_string(), value.to_string(), is));
    }
    all
}

/// SOURCE: compose-go `types.ServiceConfig.GetPullPolicy`.
fn pull_policy(node: &Node) -> Result<PullPolicy, Error> {
    let (at, said) = match node.get("pull_policy") {
        None => return Ok(PullPolicy::Missing),
        Some(at) => (at, at.scalar().unwrap_or_default()),
    };
    let after = match said.as_str() {
        "missing" | "if_not_present" => return Ok(PullPolicy::Missing),
        "always" => return Ok(PullPolicy::Always),
        "never" => return Ok(PullPolicy::Never),
        "build" => return Ok(PullPolicy::Build),
        "daily" => "1d".into(),
        "weekly" => "7d".into(),
        "refresh" => node.text_of("pull_refresh_after").unwrap_or("0".into()),
        other => other.strip_prefix("every_").unwrap_or_default().to_string(),
    };
    crate::units::duration(&after)
        .map(PullPolicy::Refresh)
        .ok_or_else(|| {
            at.error(format!(
                "pull_policy: {said:?}: always, never, missing, build, daily, weekly or every_<time> such as every_12h"
            ))
        })
}

/// What the files of a service's `env_file` say, later ones over earlier ones.
pub(super) fn env_files(
    node: &Node,
    variables: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Error> {
    let mut all = BTreeMap::new();
    for file in node.get("env_file").map(Node::items).unwrap_or_default() {
        let path = PathBuf::from(file.text_of("path").unwrap_or_default());
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(_) if !file.bool_of("required") => continue,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(file.error(format!("env file {} not found", path.display())));
            }
            Err(e) => return Err(file.error(format!("env file {}: {e}", path.display()))),
        };
        let before = all.clone();
        let lookup = |key: &str, _: bool| {
            let known: Option<&String> = variables.get(key).or_else(|| before.get(key));
            known.cloned()
        };
        match file.text_of("format").as_deref() {
            Some("raw") => dotenv::parse_raw(&text, &mut all, &lookup),
            None | Some("" | ".env") => dotenv::parse(&text, &mut all, &lookup)
                .map_err(|e| file.error(format!("failed to read {}: {e}", path.display())))?,
            Some(other) => {
                return Err(file.error(format!("unsupported env_file format {other:?}")));
            }
        }
    }
    Ok(all)
}
