//! Docker's create request, read: what of it is understood, and by name what is not.

use super::{
    devices::{self, Asked},
    health::{self, Health},
    limits::Limits,
    mounts::{self, Mount},
    ports::{self, Bindings},
};
use crate::{
    error::{Fault, Result},
    http::Fields,
    networks::Endpoint,
};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A container as its maker wants it.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub image: String,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub env: Vec<String>,
    pub user: String,
    pub workdir: String,
    pub hostname: String,
    pub domainname: String,
    pub tty: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    pub labels: BTreeMap<String, String>,
    /// `80/tcp`
    pub exposed: Vec<String>,
    /// Paths that are to be anonymous volumes.
    pub volumes: Vec<String>,
    pub stop_signal: Option<String>,
    pub stop_timeout: Option<i64>,
    pub health: Option<Health>,
    pub host: Host,
    pub endpoints: Vec<Endpoint>,
    /// As old clients say it; of the network that it starts with.
    pub mac: String,
    /// What is done otherwise than asked for, in sentences.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restart {
    #[default]
    No,
    Always,
    UnlessStopped,
    /// with at most so many tries; 0: any number
    OnFailure(i64),
}

/// What becomes of the output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    /// nothing is kept
    pub none: bool,
    /// bytes of a file
    pub max_size: Option<i64>,
    pub max_file: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Seccomp {
    #[default]
    Usual,
    Unconfined,
    /// in Docker's format
    Profile(String),
}

/// Whose shared memory, semaphores and message queues it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Ipc {
    #[default]
    Private,
    /// its own, which others may join
    Shareable,
    /// its own, without /dev/shm
    None,
    Host,
    /// another container's
    Of(String),
}

/// Whose processes it sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Pid {
    #[default]
    Private,
    Host,
    /// another container's
    Of(String),
}

#[derive(Debug, Clone, Default)]
pub struct Host {
    pub mounts: Vec<Mount>,
    pub volumes_from: Vec<String>,
    pub bindings: Bindings,
    pub publish_all: bool,
    /// ports are named in its bindings
    pub publishes: bool,
    pub network_mode: String,
    pub restart: Restart,
    pub auto_remove: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub privileged: bool,
    pub read_only: bool,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    /// a profile's name, or `unconfined`; empty: the usual one
    pub apparmor: String,
    /// of /proc and /sys, in place of the usual lists
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
    pub devices: Vec<Asked>,
    pub host_cgroups: bool,
    /// `container:alias`, on the default network
    pub links: Vec<String>,
    /// rows, columns; of a terminal, at the start
    pub console: Option<(u16, u16)>,
    pub memory: i64,
    /// thousandths of a CPU
    pub cpu_milli: i64,
    pub limits: Limits,
    pub extra_hosts: Vec<String>,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    pub groups: Vec<String>,
    pub ipc: Ipc,
    pub pid: Pid,
    pub shm_size: i64,
    pub sysctls: BTreeMap<String, String>,
    pub init: bool,
    pub log: Log,
    /// name → soft, hard; -1: none
    pub ulimits: BTreeMap<String, (i64, i64)>,
}

impl Wanted {
    /// # Errors
    /// 400 for what is wrong, 501 by name for what can't be had.
    pub fn read(body: &Map<String, Value>) -> Result<Wanted> {
        let mut f = Fields::new(body.clone(), "Config");
        let mut wanted = Wanted {
            image: f.text("Image")?.unwrap_or_default(),
            entrypoint: f.texts("Entrypoint")?,
            cmd: f.texts("Cmd")?,
            env: f.texts("Env")?.unwrap_or_default(),
            user: f.text("User")?.unwrap_or_default(),
            mac: f.text("MacAddress")?.unwrap_or_default(),
            workdir: f.text("WorkingDir")?.unwrap_or_default(),
            hostname: f.text("Hostname")?.unwrap_or_default(),
            domainname: f.text("Domainname")?.unwrap_or_default(),
            tty: f.flag("Tty")?,
            open_stdin: f.flag("OpenStdin")?,
            stdin_once: f.flag("StdinOnce")?,
            labels: f.strings("Labels")?,
            stop_signal: f.text("StopSignal")?,
            stop_timeout: body.get("StopTimeout").and_then(Value::as_i64),
            ..Wanted::default()
        };
        let keys = |map: Map<String, Value>| map.into_iter().map(|(k, _)| k).collect::<Vec<_>>();
        // `{"80/tcp": {}}` says something
        wanted.exposed = keys(object(body, "ExposedPorts"));
        wanted.volumes = keys(object(body, "Volumes"));
        wanted.health = health::read(f.object("Healthcheck")?)?;
        for key in [
            "AttachStdin",
            "AttachStdout",
            "AttachStderr",
            "ExposedPorts",
            "Volumes",
            "StopTimeout",
            "ArgsEscaped",
            "OnBuild",
            "Shell",
        ] {
            f.take(key);
        }
        if f.flag("NetworkDisabled")? {
            wanted.host.network_mode = "none".into();
        }
        let mut host = object(body, "HostConfig");
        // a network says something by its name alone
        let endpoints = match f.present("NetworkingConfig") {
            None => Map::new(),
            Some(Value::Object(map)) => map,
            Some(_) => {
                return Err(Fault::bad(
                    "invalid JSON: Config.NetworkingConfig must be an object",
                ));
            }
        };
        f.take("HostConfig");
        // old clients say it here
        if let Some(runtime) = f.take("Runtime") {
            host.entry("Runtime").or_insert(runtime);
        }
        f.finish_but(&REFUSED.map(|(key, _)| key))?;
        wanted.read_host(host)?;
        wanted.endpoints = Endpoint::read_all(&endpoints)?;
        wanted.check()?;
        Ok(wanted)
    }

    fn read_host(&mut self, map: Map<String, Value>) -> Result<()> {
        let mut f = Fields::new(map, "HostConfig");
        let h = &mut self.host;
        for bind in f.texts("Binds")?.unwrap_or_default() {
            h.mounts.push(mounts::bind(&bind)?);
        }
        for mount in f.list("Mounts")? {
            h.mounts.push(mounts::mount(mount)?);
        }
        for (path, options) in f.strings("Tmpfs")? {
            h.mounts.push(mounts::tmpfs(&path, &options)?);
        }
        // `{"80/tcp": null}` and `[{}]` say something, too
        let ports = f.take("PortBindings");
        h.publishes = ports.is_some_and(|p| p.as_object().is_some_and(|p| !p.is_empty()));
        h.volumes_from = f.texts("VolumesFrom")?.unwrap_or_default();
        h.publish_all = f.flag("PublishAllPorts")?;
        if let Some(mode) = f.text("NetworkMode")? {
            h.network_mode = mode;
        }
        h.restart = restart(f.object("RestartPolicy")?)?;
        h.auto_remove = f.flag("AutoRemove")?;
        h.cap_add = f.texts("CapAdd")?.unwrap_or_default();
        h.cap_drop = f.texts("CapDrop")?.unwrap_or_default();
        h.privileged = f.flag("Privileged")?;
        h.read_only = f.flag("ReadonlyRootfs")?;
        for option in f.texts("SecurityOpt")?.unwrap_or_default() {
            match option.replace(':', "=").as_str() {
                "no-new-privileges" | "no-new-privileges=true" => h.no_new_privileges = true,
                "seccomp=unconfined" => h.seccomp = Seccomp::Unconfined,
                "no-new-privileges=false" | "label=disable" | "seccomp=builtin" => {}
                profile if profile.starts_with("apparmor=") => {
                    h.apparmor = profile["apparmor=".len()..].to_owned();
                }
                // clients send the file's text, whose colons are its own
                _ => match option.strip_prefix("seccomp=") {
                    Some(profile) => h.seccomp = Seccomp::Profile(seccomp(profile)?),
                    None => return Err(Fault::unsupported(format!("--security-opt {option}"))),
                },
            }
        }
        h.masked_paths = paths(&mut f, "MaskedPaths")?;
        h.readonly_paths = paths(&mut f, "ReadonlyPaths")?;
        h.memory = f.int("Memory")?.unwrap_or(0);
        (h.limits, h.cpu_milli) = Limits::read(&mut f, h.memory, &mut self.warnings)?;
        h.devices = devices::read(f.list("Devices")?)?;
        h.extra_hosts = f.texts("ExtraHosts")?.unwrap_or_default();
        h.dns = f.texts("Dns")?.unwrap_or_default();
        h.dns_search = f.texts("DnsSearch")?.unwrap_or_default();
        h.dns_options = f.texts("DnsOptions")?.unwrap_or_default();
        h.groups = f.texts("GroupAdd")?.unwrap_or_default();
        h.ipc = ipc(f.text("IpcMode")?)?;
        h.pid = pid(f.text("PidMode")?)?;
        if own_or_host(&mut f, "UTSMode")? && h.network_mode != "host" {
            return Err(Fault::unsupported(
                "--uts=host (HostConfig.UTSMode) without --network=host",
            ));
        }
        // nothing is mapped: the machine's is what there is
        own_or_host(&mut f, "UsernsMode")?;
        h.shm_size = f.int("ShmSize")?.unwrap_or(0);
        if h.shm_size < 0 {
            return Err(Fault::bad("SHM size can not be less than 0"));
        }
        h.sysctls = f.strings("Sysctls")?;
        h.init = f.flag("Init")?;
        h.log = log_config(&mut self.warnings, f.object("LogConfig")?)?;
        for limit in f.list("Ulimits")? {
            let number = |key: &str| limit.get(key).and_then(Value::as_i64).unwrap_or(0);
            let name = limit
                .get("Name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let (soft, hard) = (number("Soft"), number("Hard"));
            if !ULIMITS.contains(&name) {
                return Err(Fault::bad(format!("invalid ulimit type: {name}")));
            }
            if hard != -1 && (soft == -1 || soft > hard) {
                return Err(Fault::bad(format!(
                    "ulimit soft limit must be less than or equal to hard limit: soft: {soft} > hard: {hard}"
                )));
            }
            h.ulimits.insert(name.into(), (soft, hard));
        }
        h.links = f.texts("Links")?.unwrap_or_default();
        h.host_cgroups = match f.text("CgroupnsMode")?.as_deref() {
            None | Some("private") => false,
            Some("host") => true,
            Some(mode) => return Err(Fault::bad(format!("invalid cgroup namespace mode: {mode}"))),
        };
        if let Some(driver) = f.text("VolumeDriver")?.filter(|d| d != "local") {
            return Err(Fault::not_found(format!(
                "error looking up volume plugin {driver}: plugin \"{driver}\" not found"
            )));
        }
        if let Some(runtime) = f
            .text("Runtime")?
            .filter(|r| r != "runc" && r != "io.containerd.runc.v2")
        {
            return Err(Fault::bad(format!(
                "unknown or invalid runtime name: {runtime}"
            )));
        }
        match f.text("Isolation")?.as_deref() {
            None | Some("default") => {}
            Some(other) => {
                return Err(Fault::bad(format!("invalid isolation '{other}' on linux")));
            }
        }
        h.console = console(f.list("ConsoleSize")?);
        // they are for other runtimes, and shown
        if f.strings("Annotations")?.contains_key("") {
            return Err(Fault::bad(
                "invalid Annotations: the empty string is not permitted as an annotation key",
            ));
        }
        // where the client wrote the id to
        f.take("ContainerIDFile");
        f.finish_but(&REFUSED.map(|(key, _)| key))
    }

    /// What can't be said of a container in the network of another.
    ///
    /// SOURCE: moby `runconfig/hostconfig.go` validateNetContainerMode, with its order
    fn check_network(&self) -> Result<()> {
        let Some(other) = self.host.network_mode.strip_prefix("container:") else {
            return Ok(());
        };
        let host = &self.host;
        let told = if other.is_empty() {
            "invalid network mode: invalid container format container:<name|id>"
        } else if !self.hostname.is_empty() {
            "conflicting options: hostname and the network mode"
        } else if !host.links.is_empty() {
            "conflicting options: container type network can't be used with links. This would result in undefined behavior"
        } else if !host.dns.is_empty() {
            "conflicting options: dns and the network mode"
        } else if !host.extra_hosts.is_empty() {
            "conflicting options: custom host-to-IP mapping and the network mode"
        } else if host.publish_all || host.publishes {
            "conflicting options: port publishing and the container type network mode"
        } else if !self.exposed.is_empty() {
            "conflicting options: port exposing and the container type network mode"
        } else {
            return Ok(());
        };
        Err(Fault::bad(told))
    }

    /// The parts of the request that go by their presence alone.
    pub(super) fn read_bindings(&mut self, body: &Map<String, Value>) -> Result<()> {
        let host = object(body, "HostConfig");
        self.host.bindings = ports::bindings(&object(&host, "PortBindings"))?;
        Ok(())
    }

    fn check(&self) -> Result<()> {
        self.check_network()?;
        if self.host.auto_remove && self.host.restart != Restart::No {
            return Err(Fault::bad(
                "can't create 'AutoRemove' container with restart policy",
            ));
        }
        if let Some(signal) = &self.stop_signal {
            crate::names::signal(signal)?;
        }
        if !self.workdir.is_empty() && !self.workdir.starts_with('/') {
            return Err(Fault::bad(format!(
                "the working directory '{}' is invalid, it needs to be an absolute path",
                self.workdir
            )));
        }
        for variable in &self.env {
            if variable.is_empty() || variable.starts_with('=') {
                return Err(Fault::bad(format!(
                    "invalid environment variable: {variable}"
                )));
            }
        }
        Ok(())
    }
}

/// A profile as the client read it; a name of a file can't be meant, it would be the daemon's.
fn seccomp(profile: &str) -> Result<String> {
    let parsed: Result<Value, _> = serde_json::from_str(profile);
    match parsed {
        Ok(Value::Object(_)) => Ok(profile.into()),
        _ => Err(Fault::bad(format!(
            "opening seccomp profile ({profile}) failed: give the profile's text, as clients do"
        ))),
    }
}

/// A list in place of the usual one, also when it's empty, as `--security-opt systempaths=unconfined` sends it.
///
/// SOURCE: moby `daemon/create.go`, `daemon/oci_linux.go` WithCommonOptions
fn paths(f: &mut Fields, key: &str) -> Result<Option<Vec<String>>> {
    let asked = f.present(key).filter(Value::is_array);
    let read = asked.map(serde_json::from_value::<Vec<String>>);
    let bad = |e| Fault::bad(format!("invalid JSON: HostConfig.{key}: {e}"));
    read.transpose().map_err(bad)
}

/// `[rows, columns]`
fn console(list: Vec<Value>) -> Option<(u16, u16)> {
    let number = |at: usize| {
        let number = list.get(at).and_then(Value::as_u64)?;
        u16::try_from(number).ok().filter(|n| *n > 0)
    };
    Some((number(0)?, number(1)?))
}

/// What of Docker's requests is refused whenever it says something, and the flag it comes from.
pub const REFUSED: [(&str, &str); 11] = [
    ("CgroupParent", "--cgroup-parent"),
    ("CpuRealtimePeriod", "--cpu-rt-period"),
    ("CpuRealtimeRuntime", "--cpu-rt-runtime"),
    ("DeviceCgroupRules", "--device-cgroup-rule"),
    ("DeviceRequests", "--gpus"),
    ("CpuCount", "--cpu-count"),
    ("CpuPercent", "--cpu-percent"),
    ("IOMaximumIOps", "--io-maxiops"),
    ("IOMaximumBandwidth", "--io-maxbandwidth"),
    ("Cgroup", "a cgroup of one's own"),
    ("StorageOpt", "--storage-opt"),
];

/// SOURCE: docker/go-units `ulimit.go`
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// An object as it was sent, with what looks like nothing.
pub fn object(map: &Map<String, Value>, key: &str) -> Map<String, Value> {
    match map.get(key) {
        Some(Value::Object(map)) => map.clone(),
        _ => Map::new(),
    }
}

/// SOURCE: moby `daemon/daemon_unix.go`, `api/types/container` Valid
fn own_or_host(f: &mut Fields, key: &str) -> Result<bool> {
    match f.text(key)?.as_deref() {
        None => Ok(false),
        Some("host") => Ok(true),
        Some(mode) => {
            let what = key.trim_end_matches("Mode").to_uppercase();
            let what = if what == "USERNS" { "userns" } else { &what };
            Err(Fault::bad(format!("invalid {what} mode: {mode}")))
        }
    }
}

fn ipc(mode: Option<String>) -> Result<Ipc> {
    Ok(match mode.as_deref() {
        None | Some("private") => Ipc::Private,
        Some("shareable") => Ipc::Shareable,
        Some("none") => Ipc::None,
        Some("host") => Ipc::Host,
        Some(mode) => match mode.strip_prefix("container:") {
            Some(other) => Ipc::Of(other.into()),
            None => return Err(Fault::bad(format!("invalid IPC mode: {mode}"))),
        },
    })
}

fn pid(mode: Option<String>) -> Result<Pid> {
    Ok(match mode.as_deref() {
        None | Some("private") => Pid::Private,
        Some("host") => Pid::Host,
        Some(mode) => match mode.strip_prefix("container:") {
            Some(other) if !other.is_empty() => Pid::Of(other.into()),
            _ => return Err(Fault::bad(format!("invalid PID mode: {mode}"))),
        },
    })
}

/// SOURCE: moby `api/types/container` ValidateRestartPolicy
fn restart(map: Map<String, Value>) -> Result<Restart> {
    let mut f = Fields::new(map, "RestartPolicy");
    let (name, count) = (f.text("Name")?, f.int("MaximumRetryCount")?.unwrap_or(0));
    let name = name.unwrap_or_default();
    if count != 0 && name != "on-failure" {
        let mut told =
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
                .to_string();
        if count < 0 {
            told += " and cannot be negative";
        }
        return Err(Fault::bad(told));
    }
    match name.as_str() {
        "" | "no" => Ok(Restart::No),
        "always" => Ok(Restart::Always),
        "unless-stopped" => Ok(Restart::UnlessStopped),
        "on-failure" if count < 0 => Err(Fault::bad(
            "invalid restart policy: maximum retry count cannot be negative",
        )),
        "on-failure" => Ok(Restart::OnFailure(count)),
        other => Err(Fault::bad(format!(
            "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        ))),
    }
}

/// What is to be kept of the output.
///
/// SOURCE: moby `daemon/logger/{jsonfilelog,local}` ValidateLogOpt, `daemon/logger/factory.go`
fn log_config(warnings: &mut Vec<String>, map: Map<String, Value>) -> Result<Log> {
    let mut f = Fields::new(map, "LogConfig");
    let (driver, options) = (f.text("Type")?, f.strings("Config")?);
    match driver.as_deref() {
        None | Some("json-file" | "local") => {
            let mut log = Log::default();
            for (option, value) in &options {
                let invalid = || Fault::bad(format!("invalid value for {option}: {value:?}"));
                match option.as_str() {
                    "max-size" if value == "-1" => log.max_size = Some(0),
                    "max-size" => {
                        let size = crate::names::bytes(value).filter(|s| *s > 0);
                        log.max_size = Some(size.ok_or_else(invalid)?);
                    }
                    "max-file" => {
                        let count = value.parse().ok().filter(|n: &i64| *n > 0);
                        log.max_file = Some(
                            count.ok_or_else(|| Fault::bad("max-file cannot be less than 1"))?,
                        );
                    }
                    "mode" if matches!(value.as_str(), "blocking" | "") => {}
                    "compress" if matches!(value.as_str(), "false" | "") => {}
                    // a container never waits for its log here
                    "mode" if value == "non-blocking" => {}
                    "compress" | "max-buffer-size" | "labels" | "labels-regex" | "env"
                    | "env-regex" | "tag" => {
                        warnings.push(format!("the log option {option}={value} is not applied"));
                    }
                    _ => {
                        let driver = driver.as_deref().unwrap_or("json-file");
                        return Err(Fault::bad(format!(
                            "unknown log opt '{option}' for {driver} log driver"
                        )));
                    }
                }
            }
            Ok(log)
        }
        Some("none") => Ok(Log {
            none: true,
            ..Log::default()
        }),
        Some(driver) => Err(Fault::bad(format!(
            "logger: no log driver named '{driver}' is registered"
        ))),
    }
}
