//! What a container is to be: what is asked for, over what its image says.

use super::{
    life,
    options::{self, Network, RunArguments, Volume},
    record::{Home, Record, Said},
    variables::{go_words, read_text, variables},
};
use crate::error::Error;
use knarr_image::Image;
use knarr_runtime::{Resources, User};
use std::{collections::BTreeMap, path::Path, time::SystemTime};

const STOP_SECONDS: i64 = 10;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is mounted: as it is said, as others have it, and the volumes that the image wants.
fn mounted(home: &Home, a: &RunArguments, image: &Image) -> Result<Vec<Volume>, Error> {
    let bad = Error::Input;
    let mut volumes: Vec<Volume> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    // the same said twice is said once
    for text in a.volume.iter().filter(|text| seen.insert(text.as_str())) {
        volumes.push(options::volume(text).map_err(bad)?);
    }
    for text in &a.mount {
        volumes.push(options::mount(text).map_err(bad)?);
    }
    for text in &a.tmpfs {
        volumes.push(options::tmpfs(text).map_err(bad)?);
    }
    let own_shm = volumes.iter().any(|v| v.target == Path::new("/dev/shm"));
    if let Some(size) = a.more.shm_size.filter(|_| !own_shm) {
        let text = format!("/dev/shm:size={size},mode=1777,nosuid,nodev,noexec");
        volumes.push(options::tmpfs(&text).map_err(bad)?);
    }
    if let Some(twice) = volumes
        .iter()
        .enumerate()
        .find(|(n, v)| volumes[..*n].iter().any(|o| o.target == v.target))
    {
        return Err(bad(format!(
            "Duplicate mount point: {}",
            twice.1.target.display()
        )));
    }
    // SOURCE: moby `daemon/volumes.go` registerMountPoints: what is said counts over what others have
    let mut add = |volume: Volume| {
        if !volumes.iter().any(|v| v.target == volume.target) {
            volumes.push(volume);
        }
    };
    for text in &a.further.volumes_from {
        let (name, mode) = text.split_once(':').unwrap_or((text, ""));
        let read_only = match mode {
            "" | "rw" | "z" | "Z" => false,
            "ro" => true,
            other => return Err(bad(format!("invalid mode: {other}"))),
        };
        for volume in home.find(name)?.volumes {
            if !matches!(volume.kind, options::VolumeKind::Tmpfs(_)) {
                let read_only = volume.read_only || read_only;
                add(Volume {
                    read_only,
                    ..volume
                });
            }
        }
    }
    for place in &image.config.volumes {
        // one that is no place is the image's mistake, which Docker passes over, too
        if let Ok(volume) = options::volume(place) {
            add(volume);
        }
    }
    Ok(volumes)
}

/// What `inspect` shows again.
fn said(a: &RunArguments, image: &Image) -> Said {
    let config = &image.config;
    let exposed = config.exposed_ports.iter().chain(&a.more.expose);
    let exposed = exposed.flat_map(|text| options::ports(text)).flatten();
    let mut exposed: Vec<String> = exposed
        .map(|p| format!("{}/{}", p.container, p.protocol))
        .collect();
    exposed.sort();
    exposed.dedup();
    let option = |text: &String| {
        let (name, value) = text.split_once('=')?;
        Some((name.to_string(), value.to_string()))
    };
    let place = |text: &String| text.split(':').next().unwrap_or(text).to_string();
    Said {
        image_id: image.id.clone(),
        user: a.user.clone().unwrap_or_else(|| config.user.clone()),
        domain: a.further.domainname.clone().unwrap_or_default(),
        entrypoint: match &a.entrypoint {
            Some(program) => usize::from(!program.is_empty()),
            None => config.entrypoint.len(),
        },
        detached: a.detach,
        stop_signal: a.stop_signal.clone().or_else(|| config.stop_signal.clone()),
        stop_timeout: a.stop_timeout,
        cpus: a.cpus,
        cap_add: a.cap_add.clone(),
        cap_drop: a.cap_drop.clone(),
        // those without a source are no binds
        binds: a
            .volume
            .iter()
            .filter(|v| v.contains(':'))
            .cloned()
            .collect(),
        tmpfs: a.tmpfs.iter().map(place).collect(),
        volumes_from: a.further.volumes_from.clone(),
        exposed,
        publish_all: a.more.publish_all,
        groups: a.more.group_add.clone(),
        security: a.security_opt.clone(),
        shm_size: a.more.shm_size,
        log_driver: a.further.log_driver.clone().filter(|d| !d.is_empty()),
        log_options: a.further.log_opt.iter().filter_map(option).collect(),
    }
}

/// The record of what is asked for, the image's settings filled in.
pub fn describe(home: &Home, a: &RunArguments, image: &Image) -> Result<Record, Error> {
    let bad = Error::Input;
    let config = &image.config;
    let args = match (&a.entrypoint, a.command().is_empty()) {
        (Some(program), _) => {
            let program = (!program.is_empty()).then(|| program.clone());
            program
                .into_iter()
                .chain(a.command().iter().cloned())
                .collect()
        }
        (None, true) => [config.entrypoint.clone(), config.cmd.clone()].concat(),
        (None, false) => [config.entrypoint.clone(), a.command().to_vec()].concat(),
    };
    if args.is_empty() {
        return Err(Error::Failed("no command specified".into()));
    }
    let who = a.user.clone().unwrap_or_else(|| config.user.clone());
    let mut user = knarr_node::image_user(&who, &image.layers).map_err(Error::Failed)?;
    for group in &a.more.group_add {
        // as a user's group it is looked up by name, too
        let found = knarr_node::image_user(&format!("0:{group}"), &image.layers);
        user.additional_gids.push(found.map_err(Error::Failed)?.gid);
    }
    let mut env = variables(a, config)?;
    let mut default = |name: &str, value: &str| {
        if !env.contains_key(name) {
            env.insert(name.into(), value.into());
        }
    };
    default("PATH", DEFAULT_PATH);
    default("HOME", user.home.as_deref().unwrap_or("/"));
    if a.tty {
        default("TERM", "xterm");
    }
    let volumes = mounted(home, a, image)?;
    let other = |name: &str| home.find(name).map(|record| record.id);
    let pid_of = a
        .more
        .pid
        .as_deref()
        .and_then(|m| m.strip_prefix("container:"));
    let log = a.further.log().map_err(bad)?;
    let workdir = a
        .workdir
        .clone()
        .unwrap_or_else(|| config.working_dir.clone());
    if !workdir.is_empty() && !workdir.starts_with('/') {
        return Err(Error::Failed(format!(
            "the working directory '{workdir}' is invalid, it needs to be an absolute path"
        )));
    }
    let (network, networks, mac) = a.networks().map_err(bad)?;
    let links = super::links::read(home, &a.further.link, network)?;
    for text in &a.more.expose {
        if text.contains(':') || options::ports(text).is_err() {
            return Err(bad(format!("invalid range format for --expose: {text}")));
        }
    }
    let mut ports = Vec::new();
    for text in &a.publish {
        ports.extend(options::ports(text).map_err(bad)?);
    }
    if a.more.publish_all {
        let exposed = config.exposed_ports.iter().chain(&a.more.expose);
        for port in exposed.flat_map(|text| options::ports(text)).flatten() {
            let same =
                |p: &options::Port| (p.container, &p.protocol) == (port.container, &port.protocol);
            if !ports.iter().any(same) {
                ports.push(port);
            }
        }
    }
    if !ports.is_empty() && network != Network::Bridge {
        eprintln!(
            "WARNING: Published ports are discarded when using {} network mode",
            if network == Network::Host {
                "host"
            } else {
                "none"
            }
        );
        ports.clear();
    }
    let (no_new_privileges, seccomp, apparmor, open_paths) = security(&a.security_opt)?;
    let stop = a.stop_signal.clone().or_else(|| config.stop_signal.clone());
    Ok(Record {
        id: String::new(),
        name: String::new(),
        image: a.image().to_string(),
        image_digest: image.digest.clone(),
        created: SystemTime::now(),
        layers: image.layers.clone(),
        args,
        env: env
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect(),
        cwd: workdir.into(),
        user: User {
            uid: user.uid,
            gid: user.gid,
            additional_gids: user.additional_gids,
            umask: None,
        },
        hostname: match (&a.hostname, network) {
            (Some(name), _) => name.clone(),
            (None, _) if network == Network::Host || a.further.host_uts() => {
                rustix::system::uname()
                    .nodename()
                    .to_string_lossy()
                    .into_owned()
            }
            _ => String::new(),
        },
        network,
        networks,
        links,
        mac,
        said: said(a, image),
        ports,
        volumes,
        labels: labels(a)?,
        resources: resources(a)?,
        devices: a.more.device.clone(),
        oom_score_adj: a.more.oom_score_adj.unwrap_or(0),
        host_pid: a.more.pid.as_deref() == Some("host"),
        host_ipc: a.more.ipc.as_deref() == Some("host"),
        pid_of: pid_of.map(other).transpose()?,
        network_of: a.network_of().map(other).transpose()?,
        host_cgroups: a.further.host_cgroups(),
        no_log: log.none,
        log_bounds: (log.bytes != life::LOG_BYTES_MAX || log.files != life::LOG_FILES_MAX)
            .then_some((log.bytes, log.files)),
        open_paths,
        dns_options: a.further.dns_option.clone(),
        paused: false,
        rlimits: a.ulimit.clone(),
        sysctls: pairs(&a.sysctl),
        capabilities: knarr_node::capabilities(&a.cap_add, &a.cap_drop)
            .map_err(|why| bad(format!("invalid CapAdd: {why}")))?,
        privileged: a.privileged,
        no_new_privileges,
        seccomp,
        apparmor,
        read_only: a.read_only,
        init: a.init,
        tty: a.tty,
        interactive: a.interactive,
        extra_hosts: a
            .add_host
            .iter()
            .map(|text| extra_host(text))
            .collect::<Result<_, _>>()?,
        dns: a.dns.clone(),
        dns_search: a.dns_search.clone(),
        stop_signal: stop
            .map_or(Ok(15), |text| options::signal(&text))
            .map_err(Error::Input)?,
        stop_timeout: a.stop_timeout.unwrap_or(STOP_SECONDS),
        remove: a.rm,
        restart: a.restart,
        health: a.health.over(config.healthcheck.as_ref()).map_err(bad)?,
        restarts: 0,
        stopped: false,
        address: None,
        exit: None,
        failed: None,
    })
}

fn labels(a: &RunArguments) -> Result<BTreeMap<String, String>, Error> {
    let mut all = BTreeMap::new();
    for file in &a.more.label_file {
        let text = read_text(file)?;
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.starts_with('#'));
        all.extend(pairs(&lines.map(str::to_string).collect::<Vec<_>>()));
    }
    if let Some(label) = a.label.iter().find(|l| l.starts_with('=')) {
        return Err(Error::Input(format!("invalid label '{label}': empty name")));
    }
    all.extend(pairs(&a.label));
    Ok(all)
}

pub fn pairs(all: &[String]) -> BTreeMap<String, String> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_string(), value.to_string())
    };
    all.iter().map(pair).collect()
}

fn resources(a: &RunArguments) -> Result<Resources, Error> {
    const PERIOD_US: u64 = 100_000;
    let mut limits = Resources {
        cpu_shares: a.cpu_shares,
        cpu_quota_us: a.cpus.map(|cpus| (cpus * PERIOD_US as f64) as i64),
        cpu_period_us: a.cpus.map(|_| PERIOD_US),
        memory_limit_bytes: a.memory.map(|bytes| bytes as i64),
        pids_limit: a.pids_limit,
        ..Resources::default()
    };
    a.more.limit(&mut limits).map_err(Error::Input)?;
    limits.io = a.further.io().map_err(Error::Input)?;
    Ok(limits)
}

/// Whether privileges may grow, and the profiles of seccomp and AppArmor.
fn security(all: &[String]) -> Result<(bool, String, String, bool), Error> {
    let (mut no_new_privileges, mut seccomp, mut apparmor) = (false, String::new(), String::new());
    let mut open_paths = false;
    for option in all {
        let (name, value) = option.split_once(['=', ':']).unwrap_or((option, "true"));
        match (name, value) {
            ("no-new-privileges", value) => no_new_privileges = value != "false",
            ("seccomp", "unconfined") => seccomp = "unconfined".into(),
            ("seccomp", "builtin") => seccomp.clear(),
            ("seccomp", file) => {
                let path = std::path::absolute(file).map_err(crate::error::io(file.to_string()))?;
                std::fs::read_to_string(&path).map_err(|e| {
                    let why = go_words(&path, &e);
                    Error::Failed(format!("opening seccomp profile ({file}) failed: {why}"))
                })?;
                seccomp = path.display().to_string();
            }
            ("systempaths", "unconfined") => open_paths = true,
            ("apparmor", profile) => apparmor = profile.into(),
            ("label", _) => {} // nothing is confined by labels here
            _ => {
                return Err(Error::Input(format!("Invalid --security-opt: {option:?}")));
            }
        }
    }
    Ok((no_new_privileges, seccomp, apparmor, open_paths))
}

fn extra_host(text: &str) -> Result<(String, String), Error> {
    let bad = || Error::Input(format!("bad format for add-host: {text:?}"));
    let (name, address) = text.split_once(['=', ':']).ok_or_else(bad)?;
    if address == "host-gateway" {
        let first = crate::links::host_addresses(false);
        let ip = first.first().ok_or_else(bad)?;
        return Ok((name.into(), ip.to_string()));
    }
    let plain = address.trim_start_matches('[').trim_end_matches(']');
    let ip: std::net::IpAddr = plain
        .parse()
        .map_err(|_| Error::Input(format!("invalid IP address in add-host: {address:?}")))?;
    Ok((name.into(), ip.to_string()))
}
