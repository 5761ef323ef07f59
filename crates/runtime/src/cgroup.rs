//! Control groups, v1 (and hybrid) and v2, for the five controllers that containers need: cpu, cpuacct, memory, pids, devices.
//!
//! Joining on v1 is done by a single-threaded process writing `0` to `tasks`: the kernel then skips the global lock whose RCU grace period costs 14 ms when a pid is written to `cgroup.procs` (cgroup_procs_write_start, kernel/cgroup/cgroup.c). On v2 the process is born in its group (`CLONE_INTO_CGROUP`), which skips it too.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::{
    error::{During, Error},
    spec::{Resources, Stats},
};

const MOUNT: &str = "/sys/fs/cgroup";
const V1_CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "devices"];
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// The hierarchies of this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Hierarchies {
    V1(Vec<V1>),
    V2(PathBuf),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct V1 {
    pub(crate) mount: PathBuf,
    pub(crate) controllers: Vec<String>,
}

impl Hierarchies {
    pub(crate) fn detect() -> Result<Hierarchies, Error> {
        let stat = rustix::fs::statfs(MOUNT).during(|| {
            format!("no cgroups at {MOUNT} (mount them: `mount -t cgroup2 none {MOUNT}`)")
        })?;
        if stat.f_type as u64 == CGROUP2_MAGIC {
            return Ok(Hierarchies::V2(PathBuf::from(MOUNT)));
        }
        let mounts = fs::read_to_string("/proc/self/mounts")
            .during(|| "reading /proc/self/mounts".into())?;
        let found = v1_hierarchies(&mounts);
        if found.is_empty() {
            return Err(Error::Other(format!(
                "no cgroup controllers under {MOUNT}: mount cgroup2 there, or the v1 controllers {V1_CONTROLLERS:?}"
            )));
        }
        Ok(Hierarchies::V1(found))
    }

    /// The same cgroup in each hierarchy.
    pub(crate) fn group(&self, parent: &str, path: &str) -> Group {
        let relative = Path::new(parent.trim_start_matches('/')).join(path.trim_matches('/'));
        let parent_depth = Path::new(parent.trim_start_matches('/'))
            .components()
            .count();
        let leaves = match self {
            Hierarchies::V1(all) => all
                .iter()
                .map(|h| Leaf {
                    path: h.mount.join(&relative),
                    controllers: h.controllers.clone(),
                })
                .collect(),
            Hierarchies::V2(mount) => vec![Leaf {
                path: mount.join(&relative),
                controllers: Vec::new(),
            }],
        };
        Group {
            v2: matches!(self, Hierarchies::V2(_)),
            depth: relative.components().count(),
            parent_depth,
            leaves,
        }
    }
}

fn v1_hierarchies(mounts: &str) -> Vec<V1> {
    let mut found: Vec<V1> = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some(_), Some(mount), Some(kind), Some(options)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if kind != "cgroup" {
            continue;
        }
        let controllers: Vec<String> = options
            .split(',')
            .filter(|o| V1_CONTROLLERS.contains(o))
            .map(str::to_owned)
            .collect();
        let seen = found
            .iter()
            .any(|h| controllers.iter().any(|c| h.controllers.contains(c)));
        if !controllers.is_empty() && !seen {
            found.push(V1 {
                mount: PathBuf::from(mount),
                controllers,
            });
        }
    }
    found
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Leaf {
    pub(crate) path: PathBuf,
    /// v1 only
    pub(crate) controllers: Vec<String>,
}

/// One container's cgroup: a folder in each hierarchy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) v2: bool,
    /// components from the hierarchy's root to the leaf
    depth: usize,
    parent_depth: usize,
    pub(crate) leaves: Vec<Leaf>,
}

impl Group {
    fn leaf(&self, controller: &str) -> Option<&Path> {
        self.leaves
            .iter()
            .find(|l| self.v2 || l.controllers.iter().any(|c| c == controller))
            .map(|l| l.path.as_path())
    }

    /// Makes the folders and sets the limits. A parent can be removed under our feet by a neighbour's delete, hence the few retries.
    pub(crate) fn create(&self, limits: &Resources, any_device: bool) -> Result<(), Error> {
        for leaf in &self.leaves {
            let mut left = 5;
            loop {
                let made = make_all(&leaf.path, self.depth, self.v2);
                match made {
                    Err(e) if e.kind() == io::ErrorKind::NotFound && left > 0 => left -= 1,
                    other => {
                        break other
                            .during(|| format!("making the cgroup {}", leaf.path.display()))?;
                    }
                }
            }
        }
        self.limit(limits)?;
        if !self.v2 && !any_device {
            self.restrict_devices_v1()?;
        }
        if self.v2 {
            // SOURCE: kubelet singleProcessOOMKill=false: one process out of memory takes the container down
            self.write_if_there("memory", "memory.oom.group", "1")?;
        }
        Ok(())
    }

    fn write(&self, controller: &str, file: &str, value: &str) -> Result<(), Error> {
        let absent = || {
            Error::Other(format!(
                "this machine has no cgroup controller {controller:?}, which the limits ask for: enable it or leave the limit out"
            ))
        };
        let path = self.leaf(controller).ok_or_else(absent)?.join(file);
        match write_to(&path, value) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(absent()),
            other => other.during(|| format!("writing {value:?} to {}", path.display())),
        }
    }

    /// For what not every kernel has.
    fn write_if_there(&self, controller: &str, file: &str, value: &str) -> Result<(), Error> {
        match self.leaf(controller).map(|leaf| leaf.join(file)) {
            Some(path) if path.exists() => self.write(controller, file, value),
            _ => Ok(()),
        }
    }

    /// Sets what is given and leaves the rest.
    pub(crate) fn limit(&self, limits: &Resources) -> Result<(), Error> {
        if let Some(shares) = limits.cpu_shares.filter(|s| *s > 0) {
            let shares = shares.clamp(2, 262_144);
            match self.v2 {
                // SOURCE: KEP-2254, the linear conversion
                true => self.write(
                    "cpu",
                    "cpu.weight",
                    &(1 + (shares - 2) * 9999 / 262_142).to_string(),
                )?,
                false => self.write("cpu", "cpu.shares", &shares.to_string())?,
            }
        }
        if let Some(quota) = limits.cpu_quota_us {
            let period = limits.cpu_period_us.filter(|p| *p > 0).unwrap_or(100_000);
            match self.v2 {
                true if quota <= 0 => self.write("cpu", "cpu.max", &format!("max {period}"))?,
                true => self.write("cpu", "cpu.max", &format!("{quota} {period}"))?,
                false => {
                    self.write("cpu", "cpu.cfs_period_us", &period.to_string())?;
                    let quota = if quota <= 0 { -1 } else { quota };
                    self.write("cpu", "cpu.cfs_quota_us", &quota.to_string())?;
                }
            }
        }
        if let Some(bytes) = limits.memory_limit_bytes {
            let text = if bytes <= 0 {
                if self.v2 { "max".into() } else { "-1".into() }
            } else {
                bytes.to_string()
            };
            if self.v2 {
                self.write("memory", "memory.max", &text)?;
                // SOURCE: KEP-2400, NoSwap is the default
                self.write_if_there("memory", "memory.swap.max", "0")?;
            } else {
                // memory+swap must never be below memory: raise it first, and lower it last
                let swap = self.write_if_there("memory", "memory.memsw.limit_in_bytes", &text);
                self.write("memory", "memory.limit_in_bytes", &text)?;
                if swap.is_err() {
                    self.write_if_there("memory", "memory.memsw.limit_in_bytes", &text)?;
                }
            }
        }
        if let Some(pids) = limits.pids_limit {
            let text = if pids <= 0 {
                "max".into()
            } else {
                pids.to_string()
            };
            self.write("pids", "pids.max", &text)?;
        }
        Ok(())
    }

    /// SOURCE: runc libcontainer/specconv AllowedDevices.
    fn restrict_devices_v1(&self) -> Result<(), Error> {
        let Some(leaf) = self.leaf("devices") else {
            return Ok(());
        };
        let deny = leaf.join("devices.deny");
        write_to(&deny, "a").during(|| format!("writing {}", deny.display()))?;
        let allow = leaf.join("devices.allow");
        let file = fs::OpenOptions::new()
            .write(true)
            .open(&allow)
            .during(|| format!("opening {}", allow.display()))?;
        for rule in [
            "c *:* m",
            "b *:* m",
            "c 1:3 rwm",
            "c 1:5 rwm",
            "c 1:7 rwm",
            "c 1:8 rwm",
            "c 1:9 rwm",
            "c 5:0 rwm",
            "c 5:1 rwm",
            "c 5:2 rwm",
            "c 136:* rwm",
        ] {
            io::Write::write_all(&mut &file, rule.as_bytes())
                .during(|| format!("writing {rule:?} to {}", allow.display()))?;
        }
        Ok(())
    }

    /// Moves the calling, single-threaded process in (v1). On v2 processes are born in the group: see [`Group::fd`].
    pub(crate) fn join_self_v1(&self) -> Result<(), Error> {
        if self.v2 {
            return Ok(());
        }
        for leaf in &self.leaves {
            let tasks = leaf.path.join("tasks");
            write_to(&tasks, "0").during(|| format!("joining the cgroup {}", tasks.display()))?;
        }
        Ok(())
    }

    /// Open doors to the group (v1), for a process that will not see the cgroup file systems any more when it walks through: see [`enter`].
    pub(crate) fn doors(&self) -> Result<Vec<fs::File>, Error> {
        if self.v2 {
            return Ok(Vec::new());
        }
        self.leaves
            .iter()
            .map(|leaf| {
                let tasks = leaf.path.join("tasks");
                fs::OpenOptions::new()
                    .write(true)
                    .open(&tasks)
                    .during(|| format!("opening the cgroup {}", tasks.display()))
            })
            .collect()
    }

    /// The folder to give to `CLONE_INTO_CGROUP`; None on v1.
    pub(crate) fn fd(&self) -> Result<Option<OwnedFd>, Error> {
        if !self.v2 {
            return Ok(None);
        }
        let path = &self.leaves[0].path;
        rustix::fs::open(
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map(Some)
        .during(|| format!("opening the cgroup {}", path.display()))
    }

    /// Processes killed by the kernel for want of memory so far.
    pub(crate) fn oom_kills(&self) -> u64 {
        let Some(leaf) = self.leaf("memory") else {
            return 0;
        };
        let file = if self.v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        fs::read_to_string(leaf.join(file))
            .map(|text| keyed(&text, "oom_kill"))
            .unwrap_or(0)
    }

    pub(crate) fn stats(&self) -> io::Result<Stats> {
        let read = |controller: &str, file: &str| -> io::Result<String> {
            let leaf = self
                .leaf(controller)
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            fs::read_to_string(leaf.join(file))
        };
        let number = |text: String| text.trim().parse::<u64>().unwrap_or(0);
        let (cpu_ns, memory_bytes, inactive) = if self.v2 {
            (
                keyed(&read("cpu", "cpu.stat")?, "usage_usec").saturating_mul(1000),
                number(read("memory", "memory.current").unwrap_or_default()),
                keyed(
                    &read("memory", "memory.stat").unwrap_or_default(),
                    "inactive_file",
                ),
            )
        } else {
            (
                number(read("cpuacct", "cpuacct.usage").unwrap_or_default()),
                number(read("memory", "memory.usage_in_bytes").unwrap_or_default()),
                keyed(
                    &read("memory", "memory.stat").unwrap_or_default(),
                    "total_inactive_file",
                ),
            )
        };
        Ok(Stats {
            cpu_ns,
            memory_bytes,
            // SOURCE: cadvisor, container/libcontainer/handler.go setMemoryStats
            memory_working_set_bytes: memory_bytes.saturating_sub(inactive),
            pids: number(read("pids", "pids.current").unwrap_or_default()),
        })
    }

    pub(crate) fn pids(&self) -> Vec<i32> {
        let mut all = Vec::new();
        if let Some(leaf) = self.leaves.first() {
            pids_below(&leaf.path, &mut all);
        }
        all
    }

    /// Kills everything inside, below it too, and waits until it's gone, until `deadline`. Tells whether it is empty.
    pub(crate) fn kill(&self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        loop {
            let pids = self.pids();
            if pids.is_empty() {
                return true;
            }
            if self.v2 {
                let _ = write_to(&self.leaves[0].path.join("cgroup.kill"), "1");
            }
            // a handle each, so that a number reused between reading and killing hits nobody outside
            let handles: Vec<OwnedFd> = pids
                .iter()
                .filter_map(|p| crate::sys::pidfd_open(*p).ok())
                .collect();
            let inside = self.pids();
            for (handle, pid) in handles.iter().zip(&pids) {
                if inside.contains(pid) {
                    let _ = crate::sys::pidfd_signal(handle, libc::SIGKILL);
                }
            }
            if end.saturating_duration_since(Instant::now()).is_zero() {
                return false;
            }
            for handle in &handles {
                let left = end.saturating_duration_since(Instant::now());
                crate::sys::wait_readable(handle, left.min(Duration::from_secs(1)));
            }
            if handles.is_empty() {
                // zombies that their parent has not waited for yet
                std::thread::yield_now();
            }
        }
    }

    /// Removes the folders bottom-up, then the parents that became empty, but for the runtime's own parent. A folder that can't be removed yet is left and reported.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let mut failed = None;
        for leaf in &self.leaves {
            if let Err(e) = remove_tree(&leaf.path) {
                failed = Some(e);
                continue;
            }
            let mut up = leaf.path.parent();
            for _ in self.parent_depth + 1..self.depth {
                match up {
                    Some(dir) if fs::remove_dir(dir).is_ok() => up = dir.parent(),
                    _ => break,
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Moves the calling, single-threaded process through the doors.
pub(crate) fn enter(doors: &[fs::File]) -> io::Result<()> {
    doors
        .iter()
        .try_for_each(|mut door| io::Write::write_all(&mut door, b"0"))
}

/// `key value` lines.
fn keyed(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|l| l.split_once(' '))
        .find(|(k, _)| *k == key)
        .and_then(|(_, v)| v.trim().parse().ok())
        .unwrap_or(0)
}

fn write_to(path: &Path, value: &str) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    io::Write::write_all(&mut &file, value.as_bytes())
}

fn make_all(leaf: &Path, depth: usize, v2: bool) -> io::Result<()> {
    if !v2 {
        return fs::create_dir_all(leaf);
    }
    let mut folders: Vec<&Path> = leaf.ancestors().take(depth + 1).collect();
    folders.reverse();
    for pair in folders.windows(2) {
        let control = pair[0].join("cgroup.subtree_control");
        for controller in ["cpu", "memory", "pids"] {
            // a controller that the parent doesn't have shows when its limit is set
            let _ = write_to(&control, &format!("+{controller}"));
        }
        match fs::create_dir(pair[1]) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
    }
    Ok(())
}

fn pids_below(dir: &Path, into: &mut Vec<i32>) {
    if let Ok(text) = fs::read_to_string(dir.join("cgroup.procs")) {
        into.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
    }
    for child in children(dir) {
        pids_below(&child, into);
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .map(|entries| {
            entries
                .flatten()
                .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
                .map(|e| e.path())
                .collect()
        })
        .unwrap_or_default()
}

/// Removes a cgroup and those below it, bottom-up. Absent is done.
pub(crate) fn remove_tree(dir: &Path) -> io::Result<()> {
    // almost always a leaf: try before listing
    match fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    for child in children(dir) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_mounts_give_one_hierarchy_per_controller() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
            cgroup /elsewhere/memory cgroup rw,relatime,memory 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found = v1_hierarchies(mounts);
        let seen: Vec<(&str, usize)> = found
            .iter()
            .map(|h| (h.mount.to_str().unwrap(), h.controllers.len()))
            .collect();
        assert_eq!(
            seen,
            [
                ("/sys/fs/cgroup/cpu,cpuacct", 2),
                ("/sys/fs/cgroup/memory", 1)
            ]
        );
    }

    #[test]
    fn keyed_files() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(keyed(text, "oom_kill"), 3);
        assert_eq!(keyed(text, "absent"), 0);
    }

    #[test]
    fn a_group_lies_below_the_parent_in_each_hierarchy() {
        let v2 = Hierarchies::V2("/c".into()).group("/knarr-1", "pod1/a");
        assert_eq!(v2.leaves[0].path, Path::new("/c/knarr-1/pod1/a"));
        assert_eq!((v2.depth, v2.parent_depth), (3, 1));
    }
}
