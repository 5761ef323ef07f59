//! The project as the file says it, checked: what is unknown, missing, circular or not to be honoured is an error by name and line.

use crate::{
    Error, Options,
    health::{Health, health},
    interpolate::{self, Variables},
    node::{Document, Node},
    ports::{Port, ports},
    units,
    volumes::{Mount, Source, mounts},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// A compose file's size limit.
const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, Clone)]
pub struct Project {
    /// `[a-z0-9][a-z0-9_-]*`
    pub name: String,
    /// The folder that relative paths start from.
    pub folder: PathBuf,
    /// The active services by name.
    pub services: BTreeMap<String, Service>,
    /// Named volumes that active services use.
    pub volumes: BTreeSet<String>,
}

/// How a service's image is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Absolute.
    pub context: PathBuf,
    pub dockerfile: String,
    /// `x-knarr: {cargo: <package>}`: built by the machine's cargo and packed.
    pub cargo: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Started,
    Healthy,
    CompletedSuccessfully,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    pub service: String,
    pub condition: Condition,
}

#[derive(Debug, Clone)]
pub struct Service {
    pub name: String,
    pub image: String,
    pub build: Option<Build>,
    pub command: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub environment: BTreeMap<String, String>,
    pub ports: Vec<Port>,
    /// Container ports that other services use (`expose`), TCP.
    pub expose: Vec<u16>,
    pub mounts: Vec<Mount>,
    pub depends_on: Vec<Dependency>,
    pub health: Option<Health>,
    pub replicas: i64,
    /// `restart: "no"` given: it runs once.
    pub once: bool,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    pub hostname: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub stop_grace: Option<Duration>,
    pub read_only: bool,
    pub privileged: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    /// (cpus, memory bytes)
    pub limits: (Option<String>, Option<u64>),
    pub reservations: (Option<String>, Option<u64>),
    /// `deploy.update_config.order`
    pub start_first: Option<bool>,
    pub update_delay: Option<Duration>,
}

const SERVICE_KEYS: &[&str] = &[
    "image",
    "build",
    "command",
    "entrypoint",
    "environment",
    "env_file",
    "ports",
    "expose",
    "volumes",
    "tmpfs",
    "depends_on",
    "healthcheck",
    "deploy",
    "scale",
    "restart",
    "profiles",
    "user",
    "working_dir",
    "hostname",
    "labels",
    "stop_grace_period",
    "read_only",
    "privileged",
    "cap_add",
    "cap_drop",
    "container_name",
    "init",
    "platform",
    "pull_policy",
    "stdin_open",
    "tty",
    "mem_limit",
    "cpus",
    "logging",
];
/// In the specification, not yet in knarr.
const SERVICE_LATER: &[&str] = &[
    "annotations",
    "attach",
    "blkio_config",
    "cgroup",
    "cgroup_parent",
    "configs",
    "cpu_count",
    "cpu_percent",
    "cpu_period",
    "cpu_quota",
    "cpu_rt_period",
    "cpu_rt_runtime",
    "cpu_shares",
    "cpuset",
    "credential_spec",
    "develop",
    "device_cgroup_rules",
    "devices",
    "dns",
    "dns_opt",
    "dns_search",
    "domainname",
    "driver_opts",
    "extends",
    "external_links",
    "extra_hosts",
    "gpus",
    "group_add",
    "ipc",
    "isolation",
    "label_file",
    "links",
    "mac_address",
    "mem_reservation",
    "mem_swappiness",
    "memswap_limit",
    "models",
    "network_mode",
    "networks",
    "oom_kill_disable",
    "oom_score_adj",
    "pid",
    "pids_limit",
    "post_start",
    "pre_stop",
    "provider",
    "runtime",
    "secrets",
    "security_opt",
    "shm_size",
    "stop_signal",
    "storage_opt",
    "sysctls",
    "ulimits",
    "use_api_socket",
    "userns_mode",
    "uts",
    "volumes_from",
];

/// Reads and checks a compose file.
///
/// # Errors
/// [`Error`] with file, line, path of keys, and the fix.
pub fn load(options: &Options) -> Result<Project, Error> {
    let file = options.file.display().to_string();
    let plain = |message: String| Error {
        file: file.clone(),
        line: None,
        path: String::new(),
        message,
    };
    let size = fs::metadata(&options.file)
        .map_err(|e| plain(e.to_string()))?
        .len();
    if size > FILE_BYTES_MAX {
        return Err(plain(format!(
            "the file has {size} bytes; the limit is {FILE_BYTES_MAX}"
        )));
    }
    let text = fs::read_to_string(&options.file).map_err(|e| plain(e.to_string()))?;
    // As Docker Compose reads it: `mode: 0440` is octal.
    let octal = serde_saphyr::options! { legacy_octal_numbers: true };
    let mut root: Value = serde_saphyr::from_str_with_options(&text, octal)
        .map_err(|e| plain(format!("not valid YAML: {e}")))?;
    let document = Document {
        file: file.clone(),
        text,
    };
    let folder = std::path::absolute(&options.file).map_err(|e| plain(e.to_string()))?;
    let folder = folder.parent().unwrap_or(Path::new("/")).to_path_buf();

    let variables = variables(options, &folder);
    interpolate::tree(&mut root, &variables, &document, &mut vec![])?;
    project(options, &document, &root, &folder, &variables)
}

/// The environment, then `.env`, then the profiles asked for on the command line.
fn variables(options: &Options, folder: &Path) -> Variables {
    let mut variables = fs::read_to_string(folder.join(".env"))
        .map(|t| interpolate::env_file(&t))
        .unwrap_or_default();
    variables.extend(options.environment.clone());
    if !options.profiles.is_empty() {
        let known = variables
            .get("COMPOSE_PROFILES")
            .cloned()
            .unwrap_or_default();
        let mut all: Vec<&str> = Vec::new();
        let asked = options.profiles.iter().map(String::as_str);
        for name in known.split(',').map(str::trim).chain(asked) {
            // Named twice is switched on once: files interpolate the variable.
            if !name.is_empty() && !all.contains(&name) {
                all.push(name);
            }
        }
        variables.insert("COMPOSE_PROFILES".into(), all.join(","));
    }
    variables
}

fn project(
    options: &Options,
    document: &Document,
    root: &Value,
    folder: &Path,
    variables: &Variables,
) -> Result<Project, Error> {
    let root = Node {
        document,
        value: root,
        path: vec![],
    };
    root.check_keys(
        &["name", "version", "services", "volumes"],
        &["networks", "configs", "secrets", "include", "models"],
    )?;
    let given = options
        .project
        .clone()
        .or(root.get("name").string()?)
        .or_else(|| variables.get("COMPOSE_PROJECT_NAME").cloned());
    let name = match given {
        Some(name) if is_project_name(&name) => name,
        Some(name) => {
            return Err(root.get("name").error(format!("project name {name:?} must start with a letter or digit and hold only lower-case letters, digits, - and _")));
        }
        None => folder_name(folder),
    };
    let profiles: BTreeSet<&str> = variables
        .get("COMPOSE_PROFILES")
        .map(|v| v.split(',').map(str::trim).collect())
        .unwrap_or_default();
    let volumes = root.get("volumes");
    for (_, volume) in volumes.entries()? {
        volume.check_keys(&["labels", "name"], &["driver", "driver_opts", "external"])?;
    }
    let all = root.get("services").entries()?;
    if all.is_empty() {
        return Err(root.get("services").error("no services: name at least one"));
    }
    let mut services = BTreeMap::new();
    let mut off = BTreeSet::new();
    let mut nodes = BTreeMap::new();
    for (key, node) in &all {
        let wanted = node.get("profiles").strings()?;
        let parsed = service(&name, key, node, folder, variables)?;
        if wanted.is_empty()
            || wanted.iter().any(|p| profiles.contains(p.as_str()))
            || profiles.contains("*")
        {
            nodes.insert(key.clone(), node.clone());
            services.insert(key.clone(), parsed);
        } else {
            off.insert(key.clone());
        }
    }
    let mut used = BTreeSet::new();
    for (key, service) in &services {
        for mount in &service.mounts {
            if let Source::Named(volume) = &mount.source {
                if volumes.get(volume).is_null()
                    && !volumes
                        .value
                        .as_object()
                        .is_some_and(|m| m.contains_key(volume))
                {
                    return Err(nodes[key].get("volumes").error(format!(
                        "volume {volume:?} is not declared: add it below the top-level volumes:"
                    )));
                }
                used.insert(volume.clone());
            }
        }
    }
    dependencies(&mut services, &nodes, &off)?;
    Ok(Project {
        name,
        folder: folder.to_path_buf(),
        services,
        volumes: used,
    })
}

fn is_project_name(name: &str) -> bool {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.bytes().next().is_some_and(ok)
        && name.len() <= 63
        && name.bytes().all(|b| ok(b) || matches!(b, b'-' | b'_'))
}

/// The folder's name made a project name, as Compose does.
fn folder_name(folder: &Path) -> String {
    let name = folder
        .file_name()
        .map(|n| n.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    let kept: String = name
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'))
        .take(63)
        .collect();
    let kept = kept.trim_start_matches(['-', '_']).to_string();
    if kept.is_empty() {
        "default".into()
    } else {
        kept
    }
}

fn service(
    project: &str,
    name: &str,
    node: &Node<'_>,
    folder: &Path,
    variables: &Variables,
) -> Result<Service, Error> {
    node.check_keys(SERVICE_KEYS, SERVICE_LATER)?;
    let name_ok = !name.is_empty()
        && name.len() <= 63
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !name_ok {
        return Err(node.error("a service's name holds letters, digits, '.', '_' and '-'"));
    }
    let build = build(&node.get("build"), folder)?;
    let image = match (node.get("image").string()?, &build) {
        (Some(image), _) => image,
        (None, Some(_)) => format!("{project}-{name}"),
        (None, None) => {
            return Err(node.error("it has neither image nor build: say which image it runs"));
        }
    };
    let deploy = node.get("deploy");
    deploy.check_keys(
        &[
            "replicas",
            "resources",
            "restart_policy",
            "update_config",
            "rollback_config",
            "labels",
            "mode",
        ],
        &["endpoint_mode", "placement"],
    )?;
    let update = deploy.get("update_config");
    update.check_keys(
        &[
            "parallelism",
            "delay",
            "order",
            "failure_action",
            "monitor",
            "max_failure_ratio",
        ],
        &[],
    )?;
    let start_first = match update.get("order").string()?.as_deref() {
        None => None,
        Some("start-first") => Some(true),
        Some("stop-first") => Some(false),
        Some(other) => {
            return Err(update
                .get("order")
                .error(format!("{other:?}: start-first or stop-first")));
        }
    };
    let resources = deploy.get("resources");
    resources.check_keys(&["limits", "reservations"], &[])?;
    let mut limits = amounts(&resources.get("limits"))?;
    let reservations = amounts(&resources.get("reservations"))?;
    limits.0 = limits.0.or(cpus(&node.get("cpus"))?);
    limits.1 = limits.1.or(size(&node.get("mem_limit"))?);

    let mut environment = BTreeMap::new();
    for (path, required) in env_files(&node.get("env_file"))? {
        match fs::read_to_string(folder.join(&path)) {
            Ok(text) => environment.extend(interpolate::env_file(&text)),
            Err(e) if required => return Err(node.get("env_file").error(format!("{path}: {e}"))),
            Err(_) => {}
        }
    }
    for (key, value) in node.get("environment").pairs()? {
        match value.or_else(|| variables.get(&key).cloned()) {
            Some(value) => environment.insert(key, value),
            None => environment.remove(&key),
        };
    }
    let (restart, policy) = (node.get("restart"), deploy.get("restart_policy"));
    policy.check_keys(&["condition", "delay", "max_attempts", "window"], &[])?;
    let once = match restart
        .string()?
        .or(policy.get("condition").string()?)
        .as_deref()
    {
        Some("no" | "none" | "false") => true,
        None | Some("always" | "unless-stopped" | "any" | "on-failure") => false,
        Some(s) if s.starts_with("on-failure:") => false,
        Some(other) => {
            return Err(restart.error(format!(
                "{other:?}: no, always, on-failure or unless-stopped"
            )));
        }
    };
    let replicas = deploy
        .get("replicas")
        .integer()?
        .or(node.get("scale").integer()?)
        .unwrap_or(1);
    if !(0..=1000).contains(&replicas) {
        return Err(deploy
            .get("replicas")
            .error(format!("{replicas} replicas: say 0 to 1000")));
    }
    let time = |n: Node<'_>| -> Result<Option<Duration>, Error> {
        n.string()?
            .map(|t| {
                units::duration(&t)
                    .ok_or_else(|| n.error(format!("{t:?} is not a duration such as 10s or 1m30s")))
            })
            .transpose()
    };
    let mut expose = Vec::new();
    for item in node.get("expose").list()? {
        let text = item.string()?.unwrap_or_default();
        expose.push(
            text.trim_end_matches("/tcp")
                .parse()
                .map_err(|_| item.error(format!("{text:?} is not a TCP port")))?,
        );
    }
    Ok(Service {
        name: name.to_string(),
        image,
        build,
        command: node.get("command").words()?,
        entrypoint: node.get("entrypoint").words()?,
        environment,
        ports: ports(&node.get("ports"))?,
        expose,
        mounts: mounts(node, folder)?,
        depends_on: depends_on(&node.get("depends_on"))?,
        health: health(&node.get("healthcheck"))?,
        replicas,
        once,
        user: node.get("user").string()?,
        working_dir: node.get("working_dir").string()?,
        hostname: node.get("hostname").string()?,
        labels: node
            .get("labels")
            .pairs()?
            .into_iter()
            .map(|(k, v)| (k, v.unwrap_or_default()))
            .collect(),
        stop_grace: time(node.get("stop_grace_period"))?,
        read_only: node.get("read_only").boolean()?.unwrap_or(false),
        privileged: node.get("privileged").boolean()?.unwrap_or(false),
        cap_add: node.get("cap_add").strings()?,
        cap_drop: node.get("cap_drop").strings()?,
        limits,
        reservations,
        start_first,
        update_delay: time(update.get("delay"))?,
    })
}

fn build(node: &Node<'_>, folder: &Path) -> Result<Option<Build>, Error> {
    if node.is_null() {
        return Ok(None);
    }
    let (context, dockerfile, cargo) = match node.value {
        Value::String(s) => (s.clone(), None, None),
        _ => {
            node.check_keys(
                &[
                    "context",
                    "dockerfile",
                    "args",
                    "target",
                    "tags",
                    "labels",
                    "pull",
                    "no_cache",
                ],
                &[
                    "additional_contexts",
                    "cache_from",
                    "cache_to",
                    "dockerfile_inline",
                    "entitlements",
                    "extra_hosts",
                    "isolation",
                    "network",
                    "platforms",
                    "privileged",
                    "provenance",
                    "sbom",
                    "secrets",
                    "shm_size",
                    "ssh",
                    "ulimits",
                ],
            )?;
            let own = node.get("x-knarr");
            own.check_keys(&["cargo"], &[])?;
            (
                node.get("context").string()?.unwrap_or(".".into()),
                node.get("dockerfile").string()?,
                own.get("cargo").string()?,
            )
        }
    };
    let place = if node.get("context").is_null() {
        node.clone()
    } else {
        node.get("context")
    };
    let path: PathBuf = folder.join(&context).components().collect();
    if !path.is_dir() {
        return Err(place.error(format!(
            "the build context {} is not a folder: create it, or correct the path",
            path.display()
        )));
    }
    Ok(Some(Build {
        context: path,
        dockerfile: dockerfile.unwrap_or("Dockerfile".into()),
        cargo,
    }))
}

fn size(node: &Node<'_>) -> Result<Option<u64>, Error> {
    node.string()?
        .map(|t| {
            units::bytes(&t).ok_or_else(|| node.error(format!("{t:?} is not a size such as 64m")))
        })
        .transpose()
}

fn cpus(node: &Node<'_>) -> Result<Option<String>, Error> {
    let Some(text) = node.string()? else {
        return Ok(None);
    };
    match text.parse::<f64>() {
        Ok(n) if n > 0.0 && n < 10_000.0 => Ok(Some(format!("{}m", (n * 1000.0).round() as u64))),
        _ => Err(node.error(format!("{text:?} is not a number of CPUs such as 0.5"))),
    }
}

fn amounts(node: &Node<'_>) -> Result<(Option<String>, Option<u64>), Error> {
    node.check_keys(
        &["cpus", "memory"],
        &["pids", "devices", "generic_resources"],
    )?;
    Ok((cpus(&node.get("cpus"))?, size(&node.get("memory"))?))
}

fn env_files(node: &Node<'_>) -> Result<Vec<(String, bool)>, Error> {
    if let Value::String(s) = node.value {
        return Ok(vec![(s.clone(), true)]);
    }
    node.list()?
        .iter()
        .map(|item| {
            if !item.value.is_object() {
                return Ok((item.string()?.unwrap_or_default(), true));
            }
            item.check_keys(&["path", "required"], &["format"])?;
            let path = item
                .get("path")
                .string()?
                .ok_or_else(|| item.error("path is missing"))?;
            Ok((path, item.get("required").boolean()?.unwrap_or(true)))
        })
        .collect()
}

fn depends_on(node: &Node<'_>) -> Result<Vec<Dependency>, Error> {
    if node.value.is_array() {
        let started = |service| Dependency {
            service,
            condition: Condition::Started,
        };
        return Ok(node.strings()?.into_iter().map(started).collect());
    }
    let mut all = Vec::new();
    for (service, entry) in node.entries()? {
        entry.check_keys(&["condition", "restart", "required"], &[])?;
        let condition =
            match entry.get("condition").string()?.as_deref() {
                None | Some("service_started") => Condition::Started,
                Some("service_healthy") => Condition::Healthy,
                Some("service_completed_successfully") => Condition::CompletedSuccessfully,
                Some(other) => return Err(entry.get("condition").error(format!(
                    "{other:?}: service_started, service_healthy or service_completed_successfully"
                ))),
            };
        all.push(Dependency { service, condition });
    }
    Ok(all)
}

/// Drops optional dependencies on services that are off, and refuses unknown ones, impossible ones and cycles.
fn dependencies(
    services: &mut BTreeMap<String, Service>,
    nodes: &BTreeMap<String, Node<'_>>,
    off: &BTreeSet<String>,
) -> Result<(), Error> {
    let health: BTreeMap<String, (bool, bool)> = services
        .iter()
        .map(|(k, s)| (k.clone(), (s.health.is_some(), s.once)))
        .collect();
    for (key, service) in services.iter_mut() {
        let node = nodes[key].get("depends_on");
        let mut kept = Vec::new();
        for dependency in std::mem::take(&mut service.depends_on) {
            let place = if node.value.is_object() {
                node.get(&dependency.service)
            } else {
                node.clone()
            };
            let optional =
                place.value.is_object() && place.get("required").boolean()? == Some(false);
            match (health.get(&dependency.service), dependency.condition) {
                (None, _) if optional => continue,
                (None, _) if off.contains(&dependency.service) => {
                    return Err(place.error(format!("service {:?} is in a profile that is not switched on: use --profile, or required: false", dependency.service)));
                }
                (None, _) => {
                    return Err(place.error(format!(
                        "service {:?} is not in this file",
                        dependency.service
                    )));
                }
                (Some((false, _)), Condition::Healthy) => {
                    return Err(place.error(format!(
                        "service {:?} has no healthcheck, so it can never be healthy: give it one",
                        dependency.service
                    )));
                }
                (Some((_, false)), Condition::CompletedSuccessfully) => {
                    return Err(place.error(format!("service {:?} restarts for ever, so it never completes: give it restart: \"no\"", dependency.service)));
                }
                _ => kept.push(dependency),
            }
        }
        service.depends_on = kept;
    }
    // Depth-first: `trail` is the path from the root to where we are.
    fn visit<'a>(
        at: &'a str,
        services: &'a BTreeMap<String, Service>,
        done: &mut BTreeSet<&'a str>,
        trail: &mut Vec<&'a str>,
    ) -> Option<Vec<String>> {
        if let Some(start) = trail.iter().position(|t| *t == at) {
            return Some(
                trail[start..]
                    .iter()
                    .chain([&at])
                    .map(|s| s.to_string())
                    .collect(),
            );
        }
        if !done.insert(at) {
            return None;
        }
        trail.push(at);
        let cycle = services[at]
            .depends_on
            .iter()
            .find_map(|d| visit(&d.service, services, done, trail));
        trail.pop();
        cycle
    }
    let mut done = BTreeSet::new();
    for key in services.keys() {
        if let Some(cycle) = visit(key, services, &mut done, &mut vec![]) {
            return Err(nodes[&cycle[0]].get("depends_on").error(format!(
                "the services depend on each other in a circle: {}",
                cycle.join(" → ")
            )));
        }
    }
    Ok(())
}
