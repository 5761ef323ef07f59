//! All that there is to tell of a node at one moment, read at once.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use knarr_runtime::{Resources, State, Usage};

use super::{
    MACHINE,
    files::{Folders, Room, Taken},
    network::{self, Interface},
    processes::{self, Processes},
    sampler::{Rate, Sampler},
};
use crate::{
    context::Context,
    pod::entry::{Entry, Registry},
    volumes,
};

/// A cgroup's usage, and its CPU's rate when there was something to count from.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    pub path: PathBuf,
    pub at: Timestamp,
    pub usage: Usage,
    pub rate: Option<Rate>,
}

pub(crate) struct ContainerSeen {
    pub name: Box<str>,
    /// in the runtime
    pub id: Box<str>,
    pub image: String,
    pub since: Timestamp,
    pub limits: Resources,
    pub counted: Counted,
    /// what it wrote into its own root file system
    pub root: Option<Taken>,
    pub logs: Option<Taken>,
    pub processes: Processes,
}

pub(crate) struct VolumeSeen {
    pub name: String,
    /// the claim behind it
    pub claim: Option<String>,
    pub room: Room,
    pub taken: Taken,
    /// counts towards the Pod's ephemeral storage
    pub ephemeral: bool,
}

pub(crate) struct PodSeen {
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
    pub started: Option<Timestamp>,
    pub counted: Option<Counted>,
    /// empty on the host's network
    pub interfaces: Vec<Interface>,
    pub containers: Vec<ContainerSeen>,
    pub volumes: Vec<VolumeSeen>,
}

pub(crate) struct Seen {
    pub node: String,
    pub at: Timestamp,
    pub booted: Option<Timestamp>,
    pub machine: Option<Counted>,
    pub memory_bytes: u64,
    /// the cgroup of all Pods
    pub all_pods: Option<Counted>,
    /// this very process
    pub own: Own,
    pub root: Option<Room>,
    pub images: Option<Room>,
    pub images_taken: Option<Taken>,
    pub interfaces: Vec<Interface>,
    pub default_interface: Option<String>,
    pub pids_max: Option<u64>,
    pub tasks: Option<u64>,
    pub pods: Vec<PodSeen>,
}

/// What this process itself has used.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Own {
    pub cpu_ns: u64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub started: Option<Timestamp>,
}

/// How much of it is wanted: what is on disk and in processes costs more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// CPU and memory
    Shallow,
    Whole,
}

pub(crate) struct Gatherer {
    pub context: Arc<Context>,
    pub registry: Registry,
    pub sampler: Arc<Sampler>,
    pub folders: Arc<Folders>,
}

impl Gatherer {
    /// Reads it all. Waits a second when nobody has asked lately.
    pub(crate) async fn gather(self: &Arc<Self>, depth: Depth) -> Option<Seen> {
        self.sampler.asked(&self.context, &self.registry).await;
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.read(depth))
            .await
            .ok()
    }

    fn read(&self, depth: Depth) -> Seen {
        let whole = depth == Depth::Whole;
        let context = &self.context;
        let groups = context.engine.group();
        let booted = booted();
        let mut pods: Vec<PodSeen> = self
            .registry
            .all()
            .iter()
            .filter_map(|entry| self.pod(entry, whole))
            .collect();
        pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let number = |path: &str| {
            let text = std::fs::read_to_string(path).ok()?;
            text.trim().parse().ok()
        };
        let images = context.images.watch_dir();
        let images = images.as_deref().and_then(Path::parent);
        let own_pid = std::process::id() as i32;
        Seen {
            node: context.name.clone(),
            at: Timestamp::now(),
            booted,
            machine: self.counted(MACHINE.as_ref(), None),
            memory_bytes: u64::try_from(context.memory_bytes).unwrap_or(0),
            all_pods: groups
                .and_then(|g| self.counted(&g.join(crate::spec::pod_resources::ALL), None)),
            own: own(booted),
            root: Room::of(&context.data_dir),
            images: images.and_then(Room::of),
            images_taken: images
                .filter(|_| whole)
                .and_then(|dir| self.folders.taken(dir)),
            interfaces: network::of_process(own_pid),
            default_interface: network::default_name(),
            pids_max: number("/proc/sys/kernel/pid_max"),
            tasks: tasks(),
            pods,
        }
    }

    fn counted(&self, path: &Path, since: Option<SystemTime>) -> Option<Counted> {
        let usage = self.context.engine.usage(path)?;
        Some(Counted {
            at: Timestamp::now(),
            rate: self.sampler.rate(path, usage.cpu.total_ns, since),
            path: path.to_owned(),
            usage,
        })
    }

    fn pod(&self, entry: &Entry, whole: bool) -> Option<PodSeen> {
        let pod = entry.mailbox.latest()?;
        let units = entry.units.lock().clone();
        let mut seen = PodSeen {
            namespace: entry.namespace.clone(),
            name: entry.name.clone(),
            uid: entry.uid.clone(),
            started: None,
            counted: None,
            interfaces: Vec::new(),
            containers: Vec::new(),
            volumes: Vec::new(),
        };
        let mut first_since = None;
        let mut mounts = Vec::new();
        for unit in units {
            let Some(id) = unit.running else { continue };
            let Some(container) = self.context.engine.container(&id) else {
                continue;
            };
            let State::Running { pid, since } = container.state else {
                continue;
            };
            let Some(group) = self.context.engine.cgroup(&id) else {
                continue;
            };
            let Some(counted) = self.counted(&group, Some(since)) else {
                continue;
            };
            first_since = Some(first_since.map_or(since, |s: SystemTime| s.min(since)));
            if seen.counted.is_none() {
                let above = group.parent();
                seen.counted = above.and_then(|g| self.counted(g, Some(since)));
                if whole && !network::is_ours(pid) {
                    seen.interfaces = network::of_process(pid);
                }
            }
            let folder =
                |f: Option<PathBuf>| f.filter(|_| whole).and_then(|f| self.folders.taken(&f));
            let log = container.spec.log_path.parent().map(Path::to_owned);
            let processes = match whole {
                true => processes::of(&self.context.engine.processes(&group)),
                false => Processes::default(),
            };
            seen.containers.push(ContainerSeen {
                image: image_of(&pod, &unit.name),
                name: unit.name,
                since: Timestamp::try_from(since).unwrap_or_default(),
                limits: container.spec.resources,
                root: folder(self.context.engine.written_dir(&id)),
                logs: folder(log),
                processes,
                counted,
                id,
            });
            mounts.push((container.spec.mounts, seen.containers.len() - 1));
        }
        if seen.containers.is_empty() {
            return None;
        }
        let status = pod.status.as_ref();
        seen.started = status
            .and_then(|s| s.start_time.as_ref())
            .map(|t| t.0)
            .or_else(|| Timestamp::try_from(first_since?).ok());
        if whole {
            let named: Vec<(&str, &[knarr_runtime::Mount])> = mounts
                .iter()
                .map(|(all, at)| (&*seen.containers[*at].name, all.as_slice()))
                .collect();
            seen.volumes = self.volumes(&pod, &entry.uid, &named);
        }
        Some(seen)
    }

    /// Volumes that are measured: those the node made for the Pod, and claims that a container has mounted.
    fn volumes(
        &self,
        pod: &Pod,
        uid: &str,
        mounts: &[(&str, &[knarr_runtime::Mount])],
    ) -> Vec<VolumeSeen> {
        let spec = pod.spec.as_ref();
        let all = spec.and_then(|s| s.volumes.as_ref()).into_iter().flatten();
        all.filter_map(|volume| {
            let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
                (Some(claim), _) => Some(claim.claim_name.clone()),
                (None, Some(_)) => {
                    let name = pod.metadata.name.as_deref().unwrap_or_default();
                    Some(format!("{name}-{}", volume.name))
                }
                _ => None,
            };
            let own = volumes::volume_dir(&self.context.data_dir, uid, &volume.name);
            let path = match claim {
                // where it is mounted from is told by a container that has all of it
                Some(_) => mounted_from(pod, &volume.name, mounts)?,
                None if own.is_dir() => own,
                None => return None,
            };
            let room = Room::of(&path)?;
            let mounted = super::files::is_mount(&path);
            let taken = match mounted {
                true => Taken {
                    bytes: room.used_bytes(),
                    inodes: room.inodes_used(),
                },
                false => self.folders.taken(&path)?,
            };
            let ephemeral = claim.is_none() && !mounted;
            Some(VolumeSeen {
                name: volume.name.clone(),
                claim,
                room,
                taken,
                ephemeral,
            })
        })
        .collect()
    }
}

fn mounted_from(
    pod: &Pod,
    volume: &str,
    mounts: &[(&str, &[knarr_runtime::Mount])],
) -> Option<PathBuf> {
    let spec = pod.spec.as_ref()?;
    let containers = spec.init_containers.iter().flatten();
    containers.chain(&spec.containers).find_map(|c| {
        let wanted = c
            .volume_mounts
            .iter()
            .flatten()
            .find(|m| m.name == volume && m.sub_path.is_none() && m.sub_path_expr.is_none())?;
        let (_, all) = mounts.iter().find(|(name, _)| *name == c.name)?;
        let found = all
            .iter()
            .find(|m| m.destination == Path::new(&wanted.mount_path))?;
        Some(found.source.clone())
    })
}

/// The image as the Pod names it.
fn image_of(pod: &Pod, container: &str) -> String {
    let Some(spec) = pod.spec.as_ref() else {
        return String::new();
    };
    let ordinary = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    ordinary
        .map(|c| (&c.name, &c.image))
        .chain(ephemeral.map(|c| (&c.name, &c.image)))
        .find(|(name, _)| *name == container)
        .and_then(|(_, image)| image.clone())
        .unwrap_or_default()
}

fn stat_line(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    line.trim().parse().ok()
}

/// Tasks of the machine: the fourth word of `/proc/loadavg`, after the slash.
fn tasks() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    let word = text.split_ascii_whitespace().nth(3)?;
    word.split_once('/')?.1.parse().ok()
}

fn page_bytes() -> u64 {
    let known = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let known = known.ok().flatten();
    known.and_then(|n| u64::try_from(n).ok()).unwrap_or(4096)
}

/// When this process was started.
pub(crate) fn started() -> Option<Timestamp> {
    own(booted()).started
}

fn booted() -> Option<Timestamp> {
    let seconds = stat_line("btime")?;
    Timestamp::from_second(seconds as i64).ok()
}

fn own(booted: Option<Timestamp>) -> Own {
    let Ok(text) = std::fs::read_to_string("/proc/self/stat") else {
        return Own::default();
    };
    // the name, in brackets, may have blanks in it
    let rest = text.rsplit_once(')').map_or("", |(_, r)| r);
    let words: Vec<u64> = rest
        .split_ascii_whitespace()
        .map(|w| w.parse().unwrap_or(0))
        .collect();
    let word = |at: usize| words.get(at - 3).copied().unwrap_or(0);
    let tick_ns = 10_000_000;
    let started = jiff::SignedDuration::from_millis((word(22) * 10) as i64);
    Own {
        cpu_ns: (word(14) + word(15)) * tick_ns,
        virtual_bytes: word(23),
        resident_bytes: word(24) * page_bytes(),
        started: booted.and_then(|b| b.checked_add(started).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen() {
        let own = own(booted());
        assert!(own.resident_bytes > 100_000 && own.virtual_bytes > own.resident_bytes);
        let age = Timestamp::now().duration_since(own.started.unwrap());
        assert!(age.as_secs().abs() < 3600, "{age:?}");
        assert!(tasks().unwrap() > 0);
    }
}
