//! The options of `run` that say how this process and the container are joined, what of other containers it has, and those
//! that are Docker's alone: accepted where they change nothing, refused by name where they would.

use super::{
    foreground::{How, Keys},
    options::bytes,
};
use crate::error::Error;
use clap::Args;
use knarr_runtime::{IoLimit, IoLimits};
use rustix::fs::FileType;

#[derive(Args, Clone, Default)]
pub struct FurtherOptions {
    /// Join only this one of stdin, stdout and stderr; may be repeated
    #[arg(short, long, value_name = "STREAM")]
    pub attach: Vec<String>,
    #[command(flatten)]
    pub keys: Keys,
    /// Say nothing of the image's coming
    #[arg(short, long)]
    pub quiet: bool,
    /// The volumes of another container, with :ro to read alone; may be repeated
    #[arg(long, value_name = "CONTAINER")]
    pub volumes_from: Vec<String>,
    /// A line for the options of /etc/resolv.conf, e.g. ndots:2; may be repeated
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// json-file or local, which are the same here, or none
    #[arg(long, value_name = "DRIVER")]
    pub log_driver: Option<String>,
    /// max-size=10m or max-file=5; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub log_opt: Vec<String>,
    /// Its share of the disks when they are short, 10 to 1000
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,
    /// The same for one disk: DEVICE:N; may be repeated
    #[arg(long, value_name = "DEVICE:N")]
    blkio_weight_device: Vec<String>,
    /// Most bytes a second read from a disk: DEVICE:BYTES; may be repeated
    #[arg(long, value_name = "DEVICE:BYTES")]
    device_read_bps: Vec<String>,
    /// Most bytes a second written to a disk
    #[arg(long, value_name = "DEVICE:BYTES")]
    device_write_bps: Vec<String>,
    /// Most reads a second of a disk
    #[arg(long, value_name = "DEVICE:N")]
    device_read_iops: Vec<String>,
    /// Most writes a second of a disk
    #[arg(long, value_name = "DEVICE:N")]
    device_write_iops: Vec<String>,
    /// NAME[:ALIAS], another container under a name of its own; may be repeated
    #[arg(long, value_name = "CONTAINER")]
    pub link: Vec<String>,
    /// Its address, in a network that has a subnet
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// Its hardware address, e.g. 92:d0:c6:0a:29:33
    #[arg(long, value_name = "ADDRESS")]
    pub mac_address: Option<String>,
    /// The domain of its host name
    #[arg(long, value_name = "DOMAIN")]
    pub domainname: Option<String>,
    /// `host` to see all of the machine's cgroups
    #[arg(long, value_name = "MODE")]
    cgroupns: Option<String>,
    /// `host` to have the machine's name
    #[arg(long, value_name = "MODE")]
    uts: Option<String>,
    /// Only `host`, which it is anyway
    #[arg(long, value_name = "MODE")]
    userns: Option<String>,
    #[command(flatten)]
    theirs: Theirs,
}

/// Docker's, without a meaning here.
#[derive(Args, Clone, Default)]
struct Theirs {
    #[arg(long, hide = true)]
    annotation: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    disable_content_trust: Option<String>,
    #[arg(long, hide = true)]
    kernel_memory: Option<String>,
    #[arg(long, hide = true)]
    isolation: Option<String>,
    #[arg(long, hide = true)]
    runtime: Option<String>,
    #[arg(long, hide = true)]
    volume_driver: Option<String>,
    #[arg(long, hide = true)]
    cpu_count: Option<String>,
    #[arg(long, hide = true)]
    cpu_percent: Option<String>,
    #[arg(long, hide = true)]
    io_maxbandwidth: Option<String>,
    #[arg(long, hide = true)]
    io_maxiops: Option<String>,
    // what is not there
    #[arg(long, hide = true)]
    cgroup_parent: Option<String>,
    #[arg(long, hide = true)]
    cpu_rt_period: Option<String>,
    #[arg(long, hide = true)]
    cpu_rt_runtime: Option<String>,
    #[arg(long, hide = true)]
    device_cgroup_rule: Vec<String>,
    #[arg(long, hide = true)]
    gpus: Option<String>,
    #[arg(long, hide = true)]
    ip6: Option<String>,
    #[arg(long, hide = true)]
    link_local_ip: Vec<String>,
    #[arg(long, hide = true)]
    storage_opt: Vec<String>,
    #[arg(long, hide = true)]
    use_api_socket: bool,
}

impl Theirs {
    /// SOURCE of the words: moby `daemon`, docker/cli `opts`
    fn check(&self) -> Result<(), String> {
        if self.gpus.is_some() {
            return Err("could not select device driver \"\" with capabilities: [[gpu]]".into());
        }
        match self.runtime.as_deref() {
            None | Some("" | "runc" | "io.containerd.runc.v2") => {}
            Some(other) => return Err(format!("unknown or invalid runtime name: {other}")),
        }
        match self.isolation.as_deref() {
            None | Some("" | "default") => {}
            Some(other) => {
                return Err(format!(
                    "invalid isolation ({other}): linux only supports 'default'"
                ));
            }
        }
        match self.volume_driver.as_deref() {
            None | Some("" | "local") => {}
            Some(other) => return Err(format!("plugin {other:?} not found")),
        }
        let said = [
            ("cgroup-parent", self.cgroup_parent.is_some()),
            ("cpu-rt-period", self.cpu_rt_period.is_some()),
            ("cpu-rt-runtime", self.cpu_rt_runtime.is_some()),
            ("device-cgroup-rule", !self.device_cgroup_rule.is_empty()),
            ("ip6", self.ip6.is_some()),
            ("link-local-ip", !self.link_local_ip.is_empty()),
            ("storage-opt", !self.storage_opt.is_empty()),
            ("use-api-socket", self.use_api_socket),
        ];
        match said.iter().find(|(_, said)| *said) {
            Some((name, _)) => Err(format!(
                "--{name} is not there: Docker's API (`knarr serve`, docs/docker.md) may have it"
            )),
            None => Ok(()),
        }
    }
}

/// A container's log: none, or so large and so many files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    pub none: bool,
    pub bytes: u64,
    pub files: u32,
}

impl FurtherOptions {
    /// # Errors
    /// What can't be done, before anything is.
    pub fn check(&self, detach: bool) -> Result<(), Error> {
        let bad = Error::Input;
        self.theirs.check().map_err(bad)?;
        if detach && !self.attach.is_empty() {
            return Err(bad(super::BOTH_ATTACHED.into()));
        }
        self.how(true)?;
        self.log().map_err(bad)?;
        let modes = [
            (
                "cgroupns",
                "CGROUP",
                &self.cgroupns,
                &["host", "private"][..],
            ),
            ("uts", "UTS", &self.uts, &["host"]),
            ("userns", "USER", &self.userns, &["host"]),
        ];
        for (flag, kind, said, known) in modes {
            let said = said.as_deref().unwrap_or_default();
            if !said.is_empty() && !known.contains(&said) {
                return Err(bad(format!("--{flag}: invalid {kind} mode")));
            }
        }
        Ok(())
    }

    pub fn host_cgroups(&self) -> bool {
        self.cgroupns.as_deref() == Some("host")
    }

    pub fn host_uts(&self) -> bool {
        self.uts.as_deref() == Some("host")
    }

    /// Which streams are joined. `interactive`: its input is kept open.
    ///
    /// # Errors
    /// For a stream or keys that are none.
    pub fn how(&self, interactive: bool) -> Result<How, Error> {
        let all: Vec<String> = self.attach.iter().map(|s| s.to_lowercase()).collect();
        let has = |stream: &str| all.is_empty() || all.iter().any(|s| s == stream);
        if let Some(other) = (self.attach.iter().zip(&all))
            .find(|(_, low)| !matches!(low.as_str(), "stdin" | "stdout" | "stderr"))
        {
            return Err(Error::Input(format!(
                "invalid argument {:?} for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR",
                other.0
            )));
        }
        Ok(How {
            input: interactive && has("stdin"),
            stdout: has("stdout"),
            stderr: has("stderr"),
            ..self.keys.how()?
        })
    }

    /// SOURCE: moby `daemon/logger/jsonfilelog`; here the local driver's bounds count when nothing is said.
    pub fn log(&self) -> Result<Log, String> {
        let mut log = Log {
            none: false,
            bytes: super::life::LOG_BYTES_MAX,
            files: super::life::LOG_FILES_MAX,
        };
        let driver = self.log_driver.as_deref().unwrap_or_default();
        match driver {
            "" | "json-file" | "local" => {}
            "none" => log.none = true,
            other => {
                return Err(format!(
                    "error looking up logging plugin {other}: plugin {other:?} not found"
                ));
            }
        }
        for option in &self.log_opt {
            let (name, value) = option
                .split_once('=')
                .ok_or_else(|| format!("invalid logging opts for driver {driver}: {option}"))?;
            match name {
                _ if log.none => {
                    return Err("invalid logging opts for driver none".into());
                }
                "max-size" if value == "-1" => log.bytes = 0,
                "max-size" => log.bytes = bytes(value)?,
                "max-file" => {
                    let files = value.parse().ok().filter(|n| *n > 0);
                    log.files = files.ok_or("max-file cannot be less than 1")?;
                }
                "mode" | "max-buffer-size" | "compress" | "labels" | "labels-regex" | "env"
                | "env-regex" | "tag" => {}
                other => {
                    return Err(format!(
                        "unknown log opt '{other}' for json-file log driver"
                    ));
                }
            }
        }
        Ok(log)
    }

    /// What of the disks it may use.
    pub fn io(&self) -> Result<IoLimits, String> {
        let weight = |n: u16| match n {
            0 => Ok(None),
            10..=1000 => Ok(Some(n)),
            _ => Err("Range of blkio weight is from 10 to 1000".to_string()),
        };
        let rates = |all: &[String]| all.iter().map(|text| rate(text)).collect::<Result<_, _>>();
        Ok(IoLimits {
            weight: weight(self.blkio_weight.unwrap_or(0))?,
            weights: rates(&self.blkio_weight_device)?,
            read_bps: rates(&self.device_read_bps)?,
            write_bps: rates(&self.device_write_bps)?,
            read_iops: rates(&self.device_read_iops)?,
            write_iops: rates(&self.device_write_iops)?,
        })
    }
}

/// `DEVICE:AMOUNT`
fn rate(text: &str) -> Result<IoLimit, String> {
    let bad = || {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        )
    };
    let (path, amount) = text.rsplit_once(':').ok_or_else(bad)?;
    let rate = bytes(amount).map_err(|_| bad())?;
    let stat = rustix::fs::stat(path).map_err(|_| format!("no such device: {path}"))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => Ok(IoLimit {
            major: rustix::fs::major(stat.st_rdev),
            minor: rustix::fs::minor(stat.st_rdev),
            rate,
        }),
        _ => Err(format!("{path} is no disk")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_and_logs() {
        let how = |attach: &[&str], interactive| {
            let options = FurtherOptions {
                attach: attach.iter().map(|a| a.to_string()).collect(),
                ..FurtherOptions::default()
            };
            options
                .how(interactive)
                .ok()
                .map(|h| (h.input, h.stdout, h.stderr))
        };
        for (attach, interactive, wanted) in [
            (&[][..], true, Some((true, true, true))),
            (&[], false, Some((false, true, true))),
            (&["stdout"], true, Some((false, true, false))),
            (&["STDIN", "STDERR"], true, Some((true, false, true))),
            (&["stdin"], false, Some((false, false, false))),
            (&["all"], false, None),
        ] {
            assert_eq!(how(attach, interactive), wanted, "{attach:?}");
        }
        let log = |driver: &str, all: &[&str]| {
            let options = FurtherOptions {
                log_driver: Some(driver.into()),
                log_opt: all.iter().map(|a| a.to_string()).collect(),
                ..FurtherOptions::default()
            };
            options.log().ok().map(|l| (l.none, l.bytes, l.files))
        };
        for (driver, all, wanted) in [
            ("none", &[][..], Some((true, 10 << 20, 5))),
            (
                "json-file",
                &["max-size=1m", "max-file=2"],
                Some((false, 1 << 20, 2)),
            ),
            ("local", &["max-size=-1"], Some((false, 0, 5))),
            ("json-file", &["max-file=0"], None),
            ("json-file", &["colour=red"], None),
            ("none", &["max-size=1m"], None),
            ("syslog", &[], None),
        ] {
            assert_eq!(log(driver, all), wanted, "{driver} {all:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            further: FurtherOptions,
        }
        let check = |words: &[&str], detach| {
            let line = Line::try_parse_from([&["x"], words].concat()).unwrap();
            line.further.check(detach).map_err(|e| e.to_string())
        };
        for words in [
            &["--runtime=runc"][..],
            &["--isolation", "default"],
            &["--annotation", "a=b", "--userns=host", "--uts=host"],
            &["--cgroupns=private", "--disable-content-trust"],
            &["--sig-proxy=false", "--detach-keys=ctrl-x"],
        ] {
            assert_eq!(check(words, false), Ok(()), "{words:?}");
        }
        for (words, part) in [
            (&["--gpus", "all"][..], "could not select device driver"),
            (&["--runtime=kata"], "invalid runtime name: kata"),
            (&["--userns=keep-id"], "--userns: invalid USER mode"),
            (&["--ip6", "2001:db8::1"], "--ip6 is not there"),
            (&["--storage-opt", "size=1g"], "--storage-opt is not there"),
            (&["--detach-keys=nope"], "Invalid escape keys"),
        ] {
            let said = check(words, false).unwrap_err();
            assert!(said.contains(part), "{words:?}: {said}");
        }
        assert!(check(&["-a", "stdout"], true).is_err());
    }

    #[test]
    fn rates_of_disks() {
        for bad in [
            "",
            "/dev/null",
            "/dev/null:1mb",
            "/dev/none-such:1",
            "/dev/null:x",
        ] {
            assert!(rate(bad).is_err(), "{bad}");
        }
        let weights = [(0, Ok(None)), (300, Ok(Some(300))), (5, Err(()))];
        for (weight, wanted) in weights {
            let options = FurtherOptions {
                blkio_weight: Some(weight),
                ..FurtherOptions::default()
            };
            assert_eq!(
                options.io().map(|io| io.weight).map_err(drop),
                wanted,
                "{weight}"
            );
        }
    }
}
