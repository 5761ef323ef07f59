//! What is asked of a stand-alone container, in the words that Docker has for it.

mod mounts;
mod networks;
mod ports;

pub use mounts::{Volume, VolumeKind, mount, tmpfs, volume};
use networks::Asked;
pub use ports::{Port, ports};

use super::record::Joined;
use clap::Args;
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
    /// [SOURCE:]DESTINATION[:ro]; SOURCE is a path or a volume's name, none a volume without a name
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
    /// bridge (its own, with a way out), host, none, container:NAME (that of another container), or networks made by
    /// `knarr network create`: NAME or name=NAME,alias=NAME
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
    pub pull: String,
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
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS")]
    pub stop_timeout: Option<i64>,
    #[command(flatten)]
    pub health: super::health::HealthOptions,
    #[command(flatten)]
    pub more: super::more::MoreOptions,
    #[command(flatten)]
    pub further: super::further::FurtherOptions,
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
    pub fn networks(&self) -> Result<(Network, Vec<Joined>, Option<String>), String> {
        let asked = Asked {
            networks: &self.network,
            aliases: &self.network_alias,
            ip: self.further.ip.as_deref(),
            mac: self.further.mac_address.as_deref(),
        };
        let (kind, own, mac) = asked.read()?;
        if kind == Network::Container {
            // SOURCE: moby `runconfig/hostconfig_unix.go`
            let said = [
                ("hostname and the network mode", self.hostname.is_some()),
                (
                    "custom host-to-IP mapping and the network mode",
                    !self.add_host.is_empty(),
                ),
                ("dns and the network mode", !self.dns.is_empty()),
                (
                    "port publishing and the container type network mode",
                    !self.publish.is_empty() || self.more.publish_all,
                ),
                (
                    "port exposing and the container type network mode",
                    !self.more.expose.is_empty(),
                ),
            ];
            if let Some((what, _)) = said.iter().find(|(_, said)| *said) {
                return Err(format!("conflicting options: {what}"));
            }
        }
        Ok((kind, own, mac))
    }

    /// The container whose network it has.
    pub fn network_of(&self) -> Option<&str> {
        self.network
            .iter()
            .find_map(|n| n.strip_prefix("container:"))
    }

    pub fn command(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Its own, with a way out
    Bridge,
    /// This machine's
    Host,
    /// Nothing but loopback
    None,
    /// That of another container
    Container,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    Missing,
    Always,
    Never,
}

impl RunArguments {
    /// # Errors
    /// For another word.
    pub fn pull(&self) -> Result<Pull, String> {
        match self.pull.as_str() {
            "" | "missing" => Ok(Pull::Missing),
            "always" => Ok(Pull::Always),
            "never" => Ok(Pull::Never),
            other => Err(format!(
                "invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""
            )),
        }
    }
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
                    "invalid restart policy: unknown policy '{text}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
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
        _ => return Err(format!("invalid size: '{text}'")),
    };
    let number: f64 = lower[..end]
        .parse()
        .map_err(|_| format!("invalid size: '{text}'"))?;
    Ok((number * factor as f64) as u64)
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
