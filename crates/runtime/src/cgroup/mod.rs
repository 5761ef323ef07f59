//! Control groups, v1, v2, and hybrid (v1 with a v2 tree beside it that has the controllers v1 left free).
//!
//! A [`Group`] is a folder in each hierarchy: a container's, a pod's, or that of a class of pods. Here: which hierarchies there are, and how a process gets in. `limits` sets what a group may use, `devices` which devices its processes may open, `usage` reads what it has used, `tree` makes, empties and removes it.
//!
//! Joining on v1 is done by a single-threaded process writing `0` to `tasks`: the kernel then skips the global lock whose RCU grace period costs 14 ms when a pid is written to `cgroup.procs` (cgroup_procs_write_start, kernel/cgroup/cgroup.c). On v2 the process is born in its group (`CLONE_INTO_CGROUP`), which skips it too.

mod device_program;
mod devices;
mod limits;
mod more;
mod tree;
mod usage;

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

pub(crate) use self::{devices::has_programs, tree::remove_tree};
use crate::{
    error::{During, Error},
    spec::Resources,
};

const MOUNT: &str = "/sys/fs/cgroup";
const V1_CONTROLLERS: [&str; 7] = [
    "cpu", "cpuacct", "memory", "pids", "devices", "hugetlb", "blkio",
];
/// Hierarchies that a group is in only when its limits ask for it.
const V1_SELDOM: [&str; 1] = ["cpuset"];
/// Stands for what the v2 tree of a hybrid machine is for when it has no controller: it counts for what processes wait.
const PRESSURE: &str = "pressure";
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// The hierarchies of this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Hierarchies {
    /// with the v2 tree that is mounted beside them, if it's of any use
    V1(Vec<V1>, Option<Unified>),
    V2(PathBuf),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct V1 {
    pub(crate) mount: PathBuf,
    pub(crate) controllers: Vec<String>,
    /// see [`V1_SELDOM`]
    #[serde(default)]
    pub(crate) seldom: bool,
}

/// Which hierarchies a group is in besides those that all are in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Besides {
    pub(crate) huge_pages: bool,
    pub(crate) cpuset: bool,
}

impl Besides {
    /// Wherever a group may be: for removing it.
    pub(crate) const ALL: Besides = Besides {
        huge_pages: true,
        cpuset: true,
    };

    pub(crate) fn of(limits: &Resources) -> Besides {
        Besides {
            huge_pages: limits.huge_pages.values().any(|bytes| *bytes > 0),
            cpuset: !limits.cpuset_cpus.is_empty() || !limits.cpuset_mems.is_empty(),
        }
    }

    fn wants(self, controller: &str) -> bool {
        match controller {
            "cpuset" => self.cpuset,
            _ => false,
        }
    }
}

/// The v2 tree of a hybrid machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Unified {
    pub(crate) mount: PathBuf,
    /// it has controllers that v1 left free
    controllers: bool,
    /// the kernel counts pressure in it
    pressure: bool,
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
        if found.iter().all(|h| h.seldom) {
            return Err(Error::Other(format!(
                "no cgroup controllers under {MOUNT}: mount cgroup2 there, or the v1 controllers {V1_CONTROLLERS:?}"
            )));
        }
        Ok(Hierarchies::V1(found, unified(&mounts)))
    }

    /// The same cgroup in each hierarchy that containers always are in.
    pub(crate) fn group(&self, parent: &str, path: &str) -> Group {
        let relative = Path::new(parent.trim_start_matches('/')).join(path.trim_matches('/'));
        let leaves = match self {
            Hierarchies::V1(all, unified) => {
                let counted = unified.iter().filter(|u| u.pressure).map(|u| Leaf {
                    path: u.mount.join(&relative),
                    controllers: vec![PRESSURE.into()],
                    v2: true,
                });
                all.iter()
                    .filter(|h| !h.seldom)
                    .map(|h| Leaf {
                        path: h.mount.join(&relative),
                        controllers: h.controllers.clone(),
                        v2: false,
                    })
                    .chain(counted)
                    .collect()
            }
            Hierarchies::V2(mount) => vec![Leaf {
                path: mount.join(&relative),
                controllers: Vec::new(),
                v2: true,
            }],
        };
        Group {
            v2: matches!(self, Hierarchies::V2(_)),
            depth: relative.components().count(),
            leaves,
        }
    }

    /// As [`Hierarchies::group`], and in further hierarchies; with the controller in the v2 tree of a hybrid machine when only that can limit huge pages.
    pub(crate) fn group_for(&self, parent: &str, path: &str, besides: Besides) -> Group {
        let mut group = self.group(parent, path);
        if let Hierarchies::V1(all, _) = self {
            let relative = Path::new(parent.trim_start_matches('/')).join(path.trim_matches('/'));
            let wanted = |h: &&V1| h.seldom && h.controllers.iter().any(|c| besides.wants(c));
            group.leaves.extend(all.iter().filter(wanted).map(|h| Leaf {
                path: h.mount.join(&relative),
                controllers: h.controllers.clone(),
                v2: false,
            }));
        }
        if let (Hierarchies::V1(all, Some(unified)), true) = (self, besides.huge_pages)
            && unified.controllers
            && !all
                .iter()
                .any(|h| h.controllers.iter().any(|c| c == "hugetlb"))
        {
            let relative = Path::new(parent.trim_start_matches('/')).join(path.trim_matches('/'));
            group.leaves.retain(|leaf| !leaf.v2);
            group.leaves.push(Leaf {
                path: unified.mount.join(relative),
                controllers: vec!["hugetlb".into()],
                v2: true,
            });
        }
        group
    }
}

/// The v2 tree that is mounted on a machine whose other controllers are v1's.
fn unified(mounts: &str) -> Option<Unified> {
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (mount, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(mount))
    })?;
    // the root has no such file while no controller is free
    let controllers = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    let found = Unified {
        controllers: !controllers.trim().is_empty(),
        pressure: mount.join("cpu.pressure").exists(),
        mount,
    };
    (found.controllers || found.pressure).then_some(found)
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
            .filter(|o| V1_CONTROLLERS.contains(o) || V1_SELDOM.contains(o))
            .map(str::to_owned)
            .collect();
        let seldom = controllers.iter().all(|c| V1_SELDOM.contains(&c.as_str()));
        let seen = found
            .iter()
            .any(|h| controllers.iter().any(|c| h.controllers.contains(c)));
        if !controllers.is_empty() && !seen {
            found.push(V1 {
                mount: PathBuf::from(mount),
                controllers,
                seldom,
            });
        }
    }
    found
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Leaf {
    pub(crate) path: PathBuf,
    /// empty: all (a machine that has v2 only)
    pub(crate) controllers: Vec<String>,
    pub(crate) v2: bool,
}

/// One cgroup: a folder in each hierarchy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Group {
    /// the machine has v2 only
    pub(crate) v2: bool,
    /// components from the hierarchy's root to the leaf
    depth: usize,
    pub(crate) leaves: Vec<Leaf>,
}

impl Group {
    fn leaf(&self, controller: &str) -> Option<&Leaf> {
        let has =
            |l: &&Leaf| l.controllers.is_empty() || l.controllers.iter().any(|c| c == controller);
        self.leaves.iter().find(has)
    }

    fn v1_leaves(&self) -> impl Iterator<Item = &Leaf> {
        self.leaves.iter().filter(|l| !l.v2)
    }

    /// Moves the calling, single-threaded process in (v1). On v2 processes are born in the group: see [`Group::fd`].
    pub(crate) fn join_self_v1(&self) -> Result<(), Error> {
        for leaf in self.v1_leaves() {
            let tasks = leaf.path.join("tasks");
            write_to(&tasks, "0").during(|| format!("joining the cgroup {}", tasks.display()))?;
        }
        Ok(())
    }

    /// Open doors to the group (v1), for a process that will not see the cgroup file systems any more when it walks through: see [`enter`].
    pub(crate) fn doors(&self) -> Result<Vec<fs::File>, Error> {
        self.v1_leaves()
            .map(|leaf| {
                let tasks = leaf.path.join("tasks");
                fs::OpenOptions::new()
                    .write(true)
                    .open(&tasks)
                    .during(|| format!("opening the cgroup {}", tasks.display()))
            })
            .collect()
    }

    /// The folder to give to `CLONE_INTO_CGROUP`; None without a v2 tree.
    pub(crate) fn fd(&self) -> Result<Option<OwnedFd>, Error> {
        let Some(leaf) = self.leaves.iter().find(|l| l.v2) else {
            return Ok(None);
        };
        let opened = rustix::fs::open(
            &leaf.path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        match opened {
            // a container from before its machine's v2 tree was used runs on without
            Err(rustix::io::Errno::NOENT) if !self.v2 => Ok(None),
            other => other
                .map(Some)
                .during(|| format!("opening the cgroup {}", leaf.path.display())),
        }
    }
}

/// Moves the calling, single-threaded process through the doors.
pub(crate) fn enter(doors: &[fs::File]) -> io::Result<()> {
    doors
        .iter()
        .try_for_each(|mut door| io::Write::write_all(&mut door, b"0"))
}

fn write_to(path: &Path, value: &str) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    io::Write::write_all(&mut &file, value.as_bytes())
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
    fn a_hybrid_machines_groups_are_in_the_tree_that_counts_pressure() {
        let v1 = |name: &str| V1 {
            mount: Path::new("/c").join(name),
            controllers: vec![name.into()],
            seldom: false,
        };
        for (controllers, pressure, huge_pages, want) in [
            (false, false, true, vec![]),
            (false, true, true, vec![PRESSURE]),
            (true, false, false, vec![]),
            (true, false, true, vec!["hugetlb"]),
            (true, true, false, vec![PRESSURE]),
            (true, true, true, vec!["hugetlb"]),
        ] {
            let unified = Unified {
                mount: "/c/unified".into(),
                controllers,
                pressure,
            };
            let machine = Hierarchies::V1(vec![v1("cpu"), v1("memory")], Some(unified));
            let group = machine.group_for(
                "/k",
                "pod1/a",
                Besides {
                    huge_pages,
                    ..Besides::default()
                },
            );
            assert!(!group.v2 && !group.leaves[0].v2 && !group.leaves[1].v2);
            let v2: Vec<&Leaf> = group.leaves.iter().filter(|l| l.v2).collect();
            let of: Vec<&str> = v2
                .iter()
                .flat_map(|l| &l.controllers)
                .map(|c| &**c)
                .collect();
            assert_eq!(of, want, "{controllers} {pressure} {huge_pages}");
            for leaf in v2 {
                assert_eq!(leaf.path, Path::new("/c/unified/k/pod1/a"));
            }
            // a container from before that is entered without it
            assert!(group.fd().unwrap().is_none());
        }
    }

    #[test]
    fn the_v2_tree_beside_v1_is_used_for_what_it_has() {
        for (files, want) in [
            (vec![], None),
            (vec![("cgroup.controllers", "\n")], None),
            (
                vec![("cgroup.controllers", "hugetlb\n")],
                Some((true, false)),
            ),
            (
                vec![("cgroup.controllers", "\n"), ("cpu.pressure", "")],
                Some((false, true)),
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            for (name, text) in &files {
                fs::write(dir.path().join(name), text).unwrap();
            }
            let mounts = format!("cgroup2 {} cgroup2 rw 0 0\n", dir.path().display());
            let got = unified(&mounts).map(|u| (u.controllers, u.pressure));
            assert_eq!(got, want, "{files:?}");
        }
    }

    #[test]
    fn a_group_lies_below_the_parent_in_each_hierarchy() {
        let v2 = Hierarchies::V2("/c".into()).group("/knarr-1", "pod1/a");
        assert_eq!(v2.leaves[0].path, Path::new("/c/knarr-1/pod1/a"));
        assert_eq!(v2.depth, 3);
    }
}
