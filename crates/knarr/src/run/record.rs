//! What is kept of a stand-alone container, and where.
//!
//! ```text
//! <data>/run/lock                    held while names or addresses are given
//!           /settings.json           the instance's name and range of addresses
//!           /network/                addresses and ports given; see `resolver`
//!           /networks/<name>.json    networks of one's own
//!           /volumes/<name>/
//!           /containers/<id>/record.json
//!                           /runtime/    a runtime's root, for this container alone
//!                           /log /etc/
//! ```
//! Records aren't flushed to the disk: a machine that lost its power has ended what they tell of.

use super::{
    more::Given,
    options::{Network, Port, Restart, Volume},
};
use crate::{
    error::{Error, io},
    paths::Paths,
};
use knarr_runtime::{Resources, Rlimit, User};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// A container as it was asked for, resolved against its image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// 64 hexadecimal digits.
    pub id: String,
    pub name: String,
    /// The image as it was named, and its digest.
    pub image: String,
    pub image_digest: String,
    pub created: SystemTime,
    pub layers: Vec<PathBuf>,
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: PathBuf,
    pub user: User,
    pub hostname: String,
    pub network: Network,
    /// Networks of one's own; then `network` is `Bridge`.
    #[serde(default)]
    pub networks: Vec<Joined>,
    /// Others that it finds under names of its own.
    #[serde(default)]
    pub links: Vec<Linked>,
    /// Its link's hardware address; None: any.
    #[serde(default)]
    pub mac: Option<String>,
    /// What is only shown again.
    #[serde(default)]
    pub said: Said,
    pub ports: Vec<Port>,
    pub volumes: Vec<Volume>,
    pub labels: BTreeMap<String, String>,
    pub resources: Resources,
    #[serde(default)]
    pub devices: Vec<Given>,
    #[serde(default)]
    pub oom_score_adj: i32,
    #[serde(default)]
    pub host_pid: bool,
    #[serde(default)]
    pub host_ipc: bool,
    /// Containers, by id, whose processes it sees and whose network it has.
    #[serde(default)]
    pub pid_of: Option<String>,
    #[serde(default)]
    pub network_of: Option<String>,
    /// Sees all of the machine's cgroups.
    #[serde(default)]
    pub host_cgroups: bool,
    /// What it writes is kept nowhere.
    #[serde(default)]
    pub no_log: bool,
    /// The log's size and files, when they are others than usual.
    #[serde(default)]
    pub log_bounds: Option<(u64, u32)>,
    /// What of the kernel's tree is hidden and closed to others is open to it.
    #[serde(default)]
    pub open_paths: bool,
    #[serde(default)]
    pub dns_options: Vec<String>,
    #[serde(default)]
    pub paused: bool,
    pub rlimits: Vec<Rlimit>,
    pub sysctls: BTreeMap<String, String>,
    pub capabilities: Vec<String>,
    pub privileged: bool,
    pub no_new_privileges: bool,
    /// "", "unconfined" or a file's path
    pub seccomp: String,
    /// "", "unconfined" or a profile's name
    #[serde(default)]
    pub apparmor: String,
    pub read_only: bool,
    pub init: bool,
    pub tty: bool,
    pub interactive: bool,
    pub extra_hosts: Vec<(String, String)>,
    pub dns: Vec<std::net::IpAddr>,
    pub dns_search: Vec<String>,
    pub stop_signal: i32,
    pub stop_timeout: i64,
    pub remove: bool,
    pub restart: Restart,
    /// How it is asked whether it's well.
    #[serde(default)]
    pub health: Option<knarr_docker::Health>,
    /// How often it was started again since it ran for long.
    pub restarts: u32,
    /// Somebody stopped it: no policy starts it again.
    pub stopped: bool,
    /// What it holds of the network, given back when it ends.
    pub address: Option<std::net::Ipv4Addr>,
    /// When it ended and how, once that has been seen to.
    pub exit: Option<knarr_runtime::Exit>,
    /// Why it could not be started.
    pub failed: Option<String>,
}

impl Record {
    /// As people see it.
    pub fn short(&self) -> &str {
        &self.id[..12.min(self.id.len())]
    }

    /// By its whole name, as apps' services are called, too.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.short() == name || self.id == name
    }
}

/// A container's place in a network of one's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    pub name: String,
    /// The network's id; empty until it is looked up.
    #[serde(default)]
    pub id: String,
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The address that is asked for.
    #[serde(default)]
    pub asked: Option<Ipv4Addr>,
    /// In networks with subnets: its address there, now or when it ran last, and the subnet's bits and gateway.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    #[serde(default)]
    pub subnet: Option<(u8, Ipv4Addr)>,
}

/// Another container under a name of one's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linked {
    pub id: String,
    pub name: String,
    pub alias: String,
}

/// What a container was asked for with, in the words that `inspect` shows again; nothing goes by it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Said {
    pub image_id: String,
    pub user: String,
    pub domain: String,
    /// How many of the words are the entrypoint.
    pub entrypoint: usize,
    pub detached: bool,
    pub stop_signal: Option<String>,
    pub stop_timeout: Option<i64>,
    pub cpus: Option<f64>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub binds: Vec<String>,
    pub tmpfs: Vec<String>,
    pub volumes_from: Vec<String>,
    /// Ports that the image and `--expose` tell of, `80/tcp`.
    pub exposed: Vec<String>,
    pub publish_all: bool,
    pub groups: Vec<String>,
    pub security: Vec<String>,
    pub shm_size: Option<u64>,
    pub log_driver: Option<String>,
    pub log_options: Vec<(String, String)>,
}

/// All stand-alone containers of a data directory.
#[derive(Debug, Clone)]
pub struct Home {
    pub data: PathBuf,
    pub dir: PathBuf,
}

/// Chosen at the first container and kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// Names links, tables and cgroups; another one than the platform's.
    pub instance: String,
    /// The first address of a range of 65536.
    pub base: std::net::Ipv4Addr,
}

/// Ranges are looked for from here on: 10.64.0.0 to 10.127.0.0.
const RANGES: (u8, u8) = (64, 64);

impl Home {
    pub fn new(paths: &Paths) -> Home {
        Home {
            data: paths.data.clone(),
            dir: paths.sub("run"),
        }
    }

    /// State of the network of these containers.
    pub fn network(&self) -> PathBuf {
        self.dir.join("network")
    }

    pub fn containers(&self) -> PathBuf {
        self.dir.join("containers")
    }

    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// What the container wrote into its own files, from run to run.
    pub fn layer(&self, id: &str) -> PathBuf {
        self.container(id).join("layer")
    }

    pub fn log(&self, id: &str) -> PathBuf {
        self.container(id).join("log")
    }

    pub fn volume(&self, name: &str) -> PathBuf {
        self.dir.join("volumes").join(name)
    }

    /// Held while names or addresses are given. Blocking.
    pub fn lock(&self) -> Result<fs::File, Error> {
        let path = self.dir.join("lock");
        let context = path.display().to_string();
        fs::create_dir_all(&self.dir).map_err(io(&context))?;
        let file = fs::File::create(&path).map_err(io(&context))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|e| io(context)(e.into()))?;
        Ok(file)
    }

    fn lock_path(&self, id: &str) -> PathBuf {
        self.dir.join("locks").join(id)
    }

    /// Held by who changes a container's state; outside its folder, which may go meanwhile. Blocking, for `patience` at most.
    pub fn lock_one(&self, id: &str, patience: std::time::Duration) -> Result<fs::File, Error> {
        use rustix::{fs::FlockOperation::NonBlockingLockExclusive, io::Errno};
        let path = self.lock_path(id);
        let context = path.display().to_string();
        // not those above: who comes when all has been purged leaves nothing behind
        match fs::create_dir(self.dir.join("locks")) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(io(context)(e)),
            _ => {}
        }
        let file = fs::File::create(&path).map_err(io(&context))?;
        let end = std::time::Instant::now() + patience;
        loop {
            match rustix::fs::flock(&file, NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(Errno::WOULDBLOCK) if std::time::Instant::now() < end => {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::Failed(format!(
                        "container {id} is in another command's hand for {} s: try again",
                        patience.as_secs()
                    )));
                }
                Err(e) => return Err(io(context)(e.into())),
            }
        }
    }

    /// Takes away the lock of a container that is no more.
    pub fn forget_lock(&self, id: &str) {
        let _ = fs::remove_file(self.lock_path(id));
    }

    /// The instance's settings, if they have been chosen.
    pub fn known_settings(&self) -> Option<Settings> {
        read(&self.dir.join("settings.json"))
    }

    /// The instance's settings, chosen now if they aren't yet. [`Home::lock`] is held.
    pub fn settings(&self) -> Result<Settings, Error> {
        let path = self.dir.join("settings.json");
        if let Some(settings) = read(&path) {
            return Ok(settings);
        }
        use sha2::Digest;
        let digest = sha2::Sha256::digest(self.dir.as_os_str().as_encoded_bytes());
        let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
        let taken = routed(&routes);
        let first = digest[31] % RANGES.1;
        let mut candidates = (0..RANGES.1).map(|n| RANGES.0 + (first + n) % RANGES.1);
        let second = candidates
            .find(|second| {
                !taken
                    .iter()
                    .any(|(base, mask)| overlaps(*second, *base, *mask))
            })
            .ok_or_else(|| {
                Error::Failed("no range of addresses is free below 10.64.0.0/10".into())
            })?;
        let settings = Settings {
            instance: hex::encode(digest)[..6].to_string(),
            base: std::net::Ipv4Addr::new(10, second, 0, 0),
        };
        write(&path, &settings)?;
        Ok(settings)
    }

    pub fn save(&self, record: &Record) -> Result<(), Error> {
        write(&self.container(&record.id).join("record.json"), record)
    }

    pub fn load(&self, id: &str) -> Option<Record> {
        read(&self.container(id).join("record.json"))
    }

    /// All of them, the newest first. Blocking, a small file each.
    pub fn all(&self) -> Vec<Record> {
        let folders = fs::read_dir(self.dir.join("containers"));
        let folders = folders.into_iter().flatten().flatten();
        let mut all: Vec<Record> = folders
            .filter_map(|f| self.load(f.file_name().to_str()?))
            .collect();
        all.sort_by_key(|record| std::cmp::Reverse(record.created));
        all
    }

    /// By name, id, or the beginning of an id that no other has.
    pub fn find(&self, name: &str) -> Result<Record, Error> {
        pick(&self.all(), name)
    }
}

/// The one of these that is meant; see [`Home::find`].
pub fn pick(all: &[Record], name: &str) -> Result<Record, Error> {
    let plain = name.strip_prefix('/').unwrap_or(name);
    if let Some(found) = all.iter().find(|r| r.name == plain || r.id == plain) {
        return Ok(found.clone());
    }
    let mut begin = all
        .iter()
        .filter(|r| !plain.is_empty() && r.id.starts_with(plain));
    match (begin.next(), begin.next()) {
        (Some(found), None) => Ok(found.clone()),
        (Some(_), Some(_)) => Err(Error::Failed(format!(
            "multiple IDs found with provided prefix: {name}"
        ))),
        _ => Err(Error::Failed(format!(
            "No such container: {name}; `knarr ps -a` lists them"
        ))),
    }
}

/// Destinations and masks of all routes but the default one.
pub fn routed(text: &str) -> Vec<(u32, u32)> {
    let line = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let number = |word: &str| u32::from_str_radix(word, 16).ok().map(u32::swap_bytes);
        let base = number(words.next()?)?;
        let mask = number(words.nth(5)?)?;
        (mask != 0).then_some((base, mask))
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// Does 10.SECOND.0.0/16 share an address with this?
pub fn overlaps(second: u8, base: u32, mask: u32) -> bool {
    let ours = u32::from(std::net::Ipv4Addr::new(10, second, 0, 0));
    let both = mask & 0xffff_0000;
    ours & both == base & both
}

pub fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

pub fn write<T: Serialize + ?Sized>(path: &Path, value: &T) -> Result<(), Error> {
    let context = path.display().to_string();
    let temp = path.with_extension(format!("{}.new", std::process::id()));
    let bytes = serde_json::to_vec(value).map_err(|e| Error::Failed(e.to_string()))?;
    fs::write(&temp, bytes)
        .and_then(|()| fs::rename(&temp, path))
        .map_err(io(context))
}

#[cfg(test)]
pub fn test_record() -> serde_json::Value {
    serde_json::json!({
        "id": "0", "name": "n", "image": "i", "image_digest": "", "created": { "secs_since_epoch": 0, "nanos_since_epoch": 0 },
        "layers": [], "args": [], "env": [], "cwd": "", "user": { "uid": 0, "gid": 0, "additional_gids": [], "umask": null },
        "hostname": "h", "network": "Bridge", "ports": [], "volumes": [], "labels": {}, "resources": {}, "rlimits": [],
        "sysctls": {}, "capabilities": [], "privileged": false, "no_new_privileges": false, "seccomp": "", "read_only": false,
        "init": false, "tty": false, "interactive": false, "extra_hosts": [], "dns": [], "dns_search": [], "stop_signal": 15,
        "stop_timeout": 10, "remove": false, "restart": "No", "restarts": 0, "stopped": false, "address": null, "exit": null,
        "failed": null,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_lead_elsewhere_are_left_alone() {
        let text = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                    eth0 00000000 010011AC 0003 0 0 0 00000000 0 0 0\n\
                    docker0 0000480A 00000000 0001 0 0 0 0000FFFF 0 0 0\n\
                    eth0 0000500A 00000000 0001 0 0 0 0000F0FF 0 0 0\n\
                    kn 0502 0 0 0 0 0\n\
                    kn1 0205420A 00000000 0005 0 0 0 FFFFFFFF 0 0 0\n";
        let taken = routed(text);
        assert_eq!(taken.len(), 3);
        for (second, want) in [
            (72, true),
            (73, false),
            (80, true),
            (95, true),
            (96, false),
            (66, true),
            (67, false),
        ] {
            assert_eq!(
                taken.iter().any(|(b, m)| overlaps(second, *b, *m)),
                want,
                "10.{second}"
            );
        }
    }
}
