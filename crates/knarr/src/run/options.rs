//! What is asked of a stand-alone container, in the words that Docker has for it.

use super::record::Joined;
use clap::{Args, ValueEnum};
use knarr_runtime::Rlimit;
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, path::PathBuf, str::FromStr};

#[derive(Args, Clone)]
#[command(disable_help_flag = true)]
pub struct RunArguments {
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Run it in the background and print its id
    #[arg(short, long)]
    pub detach: bool,
    /// Remove it when it ends
    #[arg(long)]
    pub rm: bool,
    /// What it is called; else a name is made
    #[arg(long)]
    pub name: Option<String>,
    /// A variable: NAME=value, or NAME to take this shell's
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// A file of variables, one a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// SOURCE:DESTINATION[:ro]; SOURCE is a path or a volume's name
    #[arg(short, long = "volume", value_name = "VOLUME")]
    pub volume: Vec<String>,
    /// type=bind|volume|tmpfs,source=…,target=…[,readonly]
    #[arg(long, value_name = "MOUNT")]
    pub mount: Vec<String>,
    /// A file system in memory: PATH[:size=64m,mode=1777]
    #[arg(long, value_name = "PATH")]
    pub tmpfs: Vec<String>,
    /// [[ADDRESS:]PORT:]PORT[/udp] of the machine that leads to it
    #[arg(short, long, value_name = "PORTS")]
    pub publish: Vec<String>,
    /// The folder it starts in
    #[arg(short, long, value_name = "FOLDER")]
    pub workdir: Option<String>,
    /// USER[:GROUP], by name or number
    #[arg(short, long)]
    pub user: Option<String>,
    /// Instead of the image's entrypoint; "" takes it away
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// bridge (its own, with a way out), host, none, or networks made by `knarr network create`: NAME or name=NAME,alias=NAME
    #[arg(long, default_value = "bridge", alias = "net", value_name = "NETWORK")]
    network: Vec<String>,
    /// What it is also called in its network
    #[arg(long, alias = "net-alias", value_name = "NAME")]
    network_alias: Vec<String>,
    /// Its host name, instead of its id
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Most memory, e.g. 512m
    #[arg(short, long, value_parser = bytes, value_name = "BYTES")]
    pub memory: Option<u64>,
    /// How many CPUs, e.g. 1.5
    #[arg(long, value_name = "N")]
    pub cpus: Option<f64>,
    /// Share of the CPUs when they are short; 1024 is usual
    #[arg(short, long, value_name = "N")]
    pub cpu_shares: Option<u64>,
    /// Most processes; -1 = no limit
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    pub pids_limit: Option<i64>,
    /// Its own files can't be changed
    #[arg(long)]
    pub read_only: bool,
    /// All powers, and the machine's devices
    #[arg(long)]
    pub privileged: bool,
    /// A capability, e.g. NET_ADMIN or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// A capability to do without
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// no-new-privileges, seccomp=unconfined or seccomp=FILE
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// A small first process that takes care of what its program leaves
    #[arg(long)]
    pub init: bool,
    /// NAME=value
    #[arg(short, long, value_name = "LABEL")]
    pub label: Vec<String>,
    /// When to ask the registry for the image
    #[arg(long, default_value = "missing")]
    pub pull: Pull,
    /// When to start it again: no, on-failure[:N], always or unless-stopped
    #[arg(long, default_value = "no", value_name = "POLICY")]
    pub restart: Restart,
    /// NAME:ADDRESS, a line of its /etc/hosts; host-gateway is this machine
    #[arg(long, value_name = "HOST")]
    pub add_host: Vec<String>,
    /// A name server
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<IpAddr>,
    /// A domain in which names without a dot are looked for
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// NAME=SOFT[:HARD], e.g. nofile=1024:2048
    #[arg(long, value_name = "LIMIT")]
    pub ulimit: Vec<Rlimit>,
    /// NAME=value, a kernel parameter of its namespaces
    #[arg(long, value_name = "PARAMETER")]
    pub sysctl: Vec<String>,
    /// The signal that asks it to stop
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Seconds after which it's killed that was asked to stop
    #[arg(long, value_name = "SECONDS")]
    pub stop_timeout: Option<u64>,
    #[command(flatten)]
    pub health: super::health::HealthOptions,
    #[command(flatten)]
    pub more: super::more::MoreOptions,
    /// Write its id to this file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// The image, and the command and its arguments instead of the image's
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_names = ["IMAGE", "COMMAND"])]
    words: Vec<String>,
}

impl RunArguments {
    pub fn image(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The kind of network, and those of one's own.
    ///
    /// # Errors
    /// When they don't go together.
    pub fn networks(&self) -> Result<(Network, Vec<Joined>), String> {
        networks(&self.network, &self.network_alias)
    }

    pub fn command(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

/// SOURCE: docker/cli `opts/network.go`, moby `runconfig` for what does not go together.
fn networks(asked: &[String], aliases: &[String]) -> Result<(Network, Vec<Joined>), String> {
    let mut kinds = Vec::new();
    let mut all: Vec<Joined> = Vec::new();
    for text in asked {
        let mut joined = Joined::default();
        if text.contains('=') {
            for part in text.split(',') {
                match part.split_once('=') {
                    Some(("name", name)) => joined.name = name.into(),
                    Some(("alias", alias)) => joined.aliases.push(alias.into()),
                    _ => {
                        return Err(format!(
                            "invalid field {part:?} in --network {text}: only name and alias are known"
                        ));
                    }
                }
            }
        } else {
            joined.name.clone_from(text);
        }
        match joined.name.as_str() {
            "bridge" | "default" => kinds.push(Network::Bridge),
            "host" => kinds.push(Network::Host),
            "none" => kinds.push(Network::None),
            name if name.starts_with("container:") => {
                return Err(format!(
                    "--network {name}: the network of another container can't be had"
                ));
            }
            _ if all.iter().any(|n| n.name == joined.name) => {
                return Err(format!(
                    "network {:?} is specified multiple times",
                    joined.name
                ));
            }
            _ => {
                all.push(joined);
                continue;
            }
        }
        if !joined.aliases.is_empty() {
            return Err(
                "network-scoped aliases are only supported for user-defined networks".into(),
            );
        }
    }
    match (kinds.as_slice(), all.first_mut()) {
        ([], Some(first)) => first.aliases.extend(aliases.iter().cloned()),
        ([_], None) if !aliases.is_empty() => {
            return Err(
                "network-scoped aliases are only supported for user-defined networks".into(),
            );
        }
        ([kind], None) => return Ok((*kind, all)),
        _ => {
            return Err(
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
                    .into(),
            );
        }
    }
    Ok((Network::Bridge, all))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Its own, with a way out
    Bridge,
    /// This machine's
    Host,
    /// Nothing but loopback
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pull {
    Missing,
    Always,
    Never,
}

/// When a container that ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Restart {
    #[default]
    No,
    /// So often at most; 0 = always.
    OnFailure(u32),
    Always,
    UnlessStopped,
}

impl FromStr for Restart {
    type Err = String;
    fn from_str(text: &str) -> Result<Restart, String> {
        match text.split_once(':') {
            Some(("on-failure", most)) => {
                let most = most.parse().map(Restart::OnFailure);
                most.map_err(|_| format!("{text}: maximum retry count must be a number"))
            }
            None => match text {
                "" | "no" => Ok(Restart::No),
                "on-failure" => Ok(Restart::OnFailure(0)),
                "always" => Ok(Restart::Always),
                "unless-stopped" => Ok(Restart::UnlessStopped),
                _ => Err(format!(
                    "invalid restart policy: {text}: use no, on-failure[:N], always or unless-stopped"
                )),
            },
            Some(_) => Err(format!(
                "invalid restart policy: {text}: only on-failure has a number"
            )),
        }
    }
}

/// `512m`, `1g`, `64k`, `100`
pub fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let end = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let factor: u64 = match lower[end..].trim_end_matches("ib").trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return Err(format!("invalid size: '{text}': expected e.g. 512m")),
    };
    let number: f64 = lower[..end]
        .parse()
        .map_err(|_| format!("invalid size: '{text}'"))?;
    Ok((number * factor as f64) as u64)
}

/// A port of the machine that leads to one of the container's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub ip: Option<IpAddr>,
    /// 0: any that is free
    pub host: u16,
    pub container: u16,
    /// tcp, udp or sctp
    pub protocol: String,
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ip = self.ip.map_or("0.0.0.0".into(), |ip| ip.to_string());
        write!(
            f,
            "{ip}:{}->{}/{}",
            self.host, self.container, self.protocol
        )
    }
}

/// `[[ADDRESS:]PORT:]PORT[/PROTOCOL]`, each port also a range.
pub fn ports(text: &str) -> Result<Vec<Port>, String> {
    let bad = |why: &str| format!("invalid publish: {text:?}: {why}");
    let (plain, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(bad("the protocol is tcp, udp or sctp"));
    }
    let (rest, inner) = plain
        .rsplit_once(':')
        .map_or((None, plain), |(rest, inner)| (Some(rest), inner));
    let (ip, outer) = match rest {
        None => (None, None),
        Some(rest) => match rest.rsplit_once(':') {
            None => (None, Some(rest)),
            Some((ip, outer)) => {
                let ip = ip.trim_start_matches('[').trim_end_matches(']');
                let parsed = (!ip.is_empty()).then(|| ip.parse()).transpose();
                (
                    parsed.map_err(|_| bad("what comes first is no address"))?,
                    Some(outer),
                )
            }
        },
    };
    let range = |text: &str| -> Result<(u16, u16), String> {
        let number = |t: &str| {
            t.parse::<u16>()
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| bad("a port is a number from 1 to 65535"))
        };
        match text.split_once('-') {
            Some((first, last)) => Ok((number(first)?, number(last)?)),
            None => Ok((number(text)?, number(text)?)),
        }
    };
    let (first, last) = range(inner)?;
    let outer = outer
        .filter(|outer| !outer.is_empty())
        .map(range)
        .transpose()?;
    if last < first || outer.is_some_and(|(from, to)| to < from || to - from != last - first) {
        return Err(bad("the ranges are not of one length"));
    }
    let port = |n: u16| Port {
        ip,
        host: outer.map_or(0, |(from, _)| from + n),
        container: first + n,
        protocol: protocol.clone(),
    };
    Ok((0..=last - first).map(port).collect())
}

/// What is mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub kind: VolumeKind,
    pub target: PathBuf,
    pub read_only: bool,
    /// "private" | "rslave" | "rshared"
    pub propagation: String,
    /// What the image has at its place isn't copied into it.
    #[serde(default)]
    pub no_copy: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeKind {
    /// A path of the machine; made as a folder where there is nothing, if so asked.
    Bind(PathBuf, bool),
    Named(String),
    Tmpfs(String),
}

fn volume_name(text: &str) -> Result<VolumeKind, String> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let good = text.len() > 1
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(word);
    match good {
        true => Ok(VolumeKind::Named(text.into())),
        false => Err(format!(
            "{text:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        )),
    }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    match text.starts_with('/') && text != "/" {
        true => Ok(text.into()),
        false => Err(format!(
            "invalid mount path: '{text}' mount path must be absolute, and not '/'"
        )),
    }
}

fn source(text: &str) -> Result<VolumeKind, String> {
    if text.starts_with(['/', '.', '~']) {
        let path = std::path::absolute(text).map_err(|e| format!("{text}: {e}"))?;
        return Ok(VolumeKind::Bind(path, true));
    }
    volume_name(text)
}

/// `SOURCE:DESTINATION[:OPTIONS]`
pub fn volume(text: &str) -> Result<Volume, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (from, target, options) = match parts.as_slice() {
        [from, target] => (*from, *target, ""),
        [from, target, options] => (*from, *target, *options),
        _ => {
            return Err(format!(
                "invalid volume specification: '{text}': expected SOURCE:DESTINATION[:ro]"
            ));
        }
    };
    let mut volume = Volume {
        kind: source(from)?,
        target: absolute(target)?,
        read_only: false,
        propagation: "private".into(),
        no_copy: false,
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => volume.read_only = true,
            "nocopy" => volume.no_copy = true,
            "z" | "Z" if std::path::Path::new("/sys/fs/selinux/enforce").exists() => {
                return Err(format!(
                    "{text}: files are not relabelled for SELinux: leave out {option}"
                ));
            }
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" | "private" | "rprivate" => {}
            "slave" | "rslave" => volume.propagation = "rslave".into(),
            "shared" | "rshared" => volume.propagation = "rshared".into(),
            other => {
                return Err(format!(
                    "invalid volume specification: '{text}': unknown option {other}"
                ));
            }
        }
    }
    Ok(volume)
}

/// `type=…,source=…,target=…`
pub fn mount(text: &str) -> Result<Volume, String> {
    let (mut kind, mut from, mut target) = ("volume".to_string(), None, None);
    let (mut read_only, mut propagation, mut options) = (false, "private".to_string(), Vec::new());
    let mut no_copy = false;
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, "true"));
        match key {
            "type" => kind = value.into(),
            "source" | "src" => from = Some(value),
            "target" | "dst" | "destination" => target = Some(value),
            "readonly" | "ro" => read_only = value == "true" || value == "1",
            "bind-propagation" if matches!(value, "rslave" | "slave") => {
                propagation = "rslave".into()
            }
            "bind-propagation" if matches!(value, "rshared" | "shared") => {
                propagation = "rshared".into()
            }
            "volume-nocopy" => no_copy = value != "false" && value != "0",
            "bind-propagation" if matches!(value, "private" | "rprivate") => {}
            "consistency" => {}
            "tmpfs-size" => options.push(format!("size={value}")),
            "tmpfs-mode" => options.push(format!("mode={value}")),
            other => {
                return Err(format!(
                    "invalid argument \"{text}\" for \"--mount\": unexpected key '{other}'"
                ));
            }
        }
    }
    let target = absolute(target.ok_or("invalid mount: target is required")?)?;
    let kind = match (kind.as_str(), from) {
        ("bind", Some(from)) => {
            VolumeKind::Bind(std::path::absolute(from).map_err(|e| e.to_string())?, false)
        }
        ("volume", Some(from)) => volume_name(from)?,
        ("tmpfs", None) => VolumeKind::Tmpfs(options.join(",")),
        ("bind" | "volume", None) => return Err("invalid mount: source is required".into()),
        (other, _) => {
            return Err(format!(
                "invalid mount: type {other} is not possible here: use bind, volume or tmpfs"
            ));
        }
    };
    Ok(Volume {
        kind,
        target,
        read_only,
        propagation,
        no_copy,
    })
}

/// `PATH[:OPTIONS]`
pub fn tmpfs(text: &str) -> Result<Volume, String> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    Ok(Volume {
        kind: VolumeKind::Tmpfs(options.into()),
        target: absolute(path)?,
        read_only: false,
        propagation: "private".into(),
        no_copy: false,
    })
}

/// `KILL`, `SIGKILL` or `9`.
pub fn signal(text: &str) -> Result<i32, String> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let upper = text.to_ascii_uppercase();
    let plain = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real = |name: &str, from: i32, sign: i32| {
        let rest = plain.strip_prefix(name)?;
        let offset = match rest {
            "" => 0,
            rest => rest
                .strip_prefix(if sign > 0 { '+' } else { '-' })?
                .parse()
                .ok()?,
        };
        Some(from + sign * offset)
    };
    let number = plain.parse().ok();
    let named = NAMES
        .iter()
        .position(|name| *name == plain)
        .map(|at| at as i32 + 1);
    number
        .or(named)
        .or_else(|| real("RTMIN", 34, 1))
        .or_else(|| real("RTMAX", 64, -1))
        .filter(|n| (1..=64).contains(n))
        .ok_or_else(|| format!("invalid signal: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_ports() {
        let check = |text: &str, want: Option<&str>| {
            let got = ports(text).ok().map(|all| {
                all.iter()
                    .map(Port::to_string)
                    .collect::<Vec<_>>()
                    .join(" ")
            });
            assert_eq!(got.as_deref(), want, "{text}");
        };
        check("80", Some("0.0.0.0:0->80/tcp"));
        check("8080:80", Some("0.0.0.0:8080->80/tcp"));
        check("127.0.0.1:8080:80/udp", Some("127.0.0.1:8080->80/udp"));
        check("[::1]:8080:80", Some("::1:8080->80/tcp"));
        check("127.0.0.1::80", Some("127.0.0.1:0->80/tcp"));
        check(
            "8000-8001:80-81",
            Some("0.0.0.0:8000->80/tcp 0.0.0.0:8001->81/tcp"),
        );
        for bad in ["", "x", "0", "80/icmp", "8000-8002:80-81", "a:1:2", "70000"] {
            check(bad, None);
        }
    }

    #[test]
    fn volumes_and_mounts() {
        let bind = |path: &str, make| VolumeKind::Bind(path.into(), make);
        for (got, want) in [
            (volume("/a:/b"), Some((bind("/a", true), "/b", false))),
            (
                volume("data:/b:ro"),
                Some((VolumeKind::Named("data".into()), "/b", true)),
            ),
            (volume("/a"), None),
            (volume("/a:b"), None),
            (volume("a b:/c"), None),
            (volume("/a:/b:odd"), None),
            (
                mount("type=bind,source=/a,target=/b,readonly"),
                Some((bind("/a", false), "/b", true)),
            ),
            (
                mount("source=v1,dst=/b"),
                Some((VolumeKind::Named("v1".into()), "/b", false)),
            ),
            (
                mount("type=tmpfs,target=/t,tmpfs-size=64m"),
                Some((VolumeKind::Tmpfs("size=64m".into()), "/t", false)),
            ),
            (mount("type=bind,target=/b"), None),
            (mount("type=image,source=a,target=/b"), None),
            (mount("type=bind,source=/a,target=/b,odd=1"), None),
            (
                tmpfs("/t:size=1m"),
                Some((VolumeKind::Tmpfs("size=1m".into()), "/t", false)),
            ),
            (tmpfs("t"), None),
        ] {
            let said = format!("{got:?}");
            let got = got
                .ok()
                .map(|v| (v.kind, v.target.display().to_string(), v.read_only));
            let want = want.map(|(kind, target, read_only)| (kind, target.to_string(), read_only));
            assert_eq!(got, want, "{said}");
        }
    }

    #[test]
    fn small_words() {
        for (text, want) in [
            ("512m", Some(512 << 20)),
            ("1.5g", Some(3 << 29)),
            ("64kb", Some(64 << 10)),
            ("10", Some(10)),
            ("x", None),
            ("1q", None),
        ] {
            assert_eq!(bytes(text).ok(), want, "{text}");
        }
        for (text, want) in [
            ("KILL", Some(9)),
            ("sigterm", Some(15)),
            ("2", Some(2)),
            ("RTMIN+3", Some(37)),
            ("SIGRTMAX", Some(64)),
            ("0", None),
            ("NOPE", None),
        ] {
            assert_eq!(signal(text).ok(), want, "{text}");
        }
        for (text, want) in [
            ("no", Some(Restart::No)),
            ("on-failure:3", Some(Restart::OnFailure(3))),
            ("always", Some(Restart::Always)),
            ("always:3", None),
            ("often", None),
        ] {
            assert_eq!(text.parse().ok(), want, "{text}");
        }
        for (text, good) in [
            ("nofile=1:2", true),
            ("core=-1", true),
            ("nofile=3:2", false),
            ("odd=1", false),
            ("nofile", false),
        ] {
            assert_eq!(text.parse::<Rlimit>().is_ok(), good, "{text}");
        }
    }
}
