//! A cgroup for what this process does at a low priority: its threads go in for a piece of work, and out again.
//!
//! A thread's nice value counts among its likes only: to an app in a cgroup of its own the whole of this process is one
//! competitor, however nice its threads are. On cgroup v1 the group stands beside the apps' and has a share of its own; on v2
//! threads can't leave their process's group, so it is below that, and has a share of what that gets.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

const MOUNT: &str = "/sys/fs/cgroup";
const PREFIX: &str = "knarr-build-own-";
/// Those of v1 that threads may be in by themselves, and that share something out.
const V1: [&str; 2] = ["cpu", "blkio"];

/// A thread may start another while the group is emptied.
const EMPTIED_MOST: usize = 8;

static CURRENT: Mutex<Weak<Lane>> = Mutex::new(Weak::new());

/// The group, made when the first thread goes in, gone with the last who holds it.
#[derive(Debug)]
pub struct Lane {
    shares: u64,
    made: OnceLock<Option<Made>>,
}

#[derive(Debug)]
struct Made {
    doors: Vec<File>,
    back: Vec<File>,
    folders: Vec<Folder>,
}

/// A group of this process's, locked for as long as it is: so [`sweep`] knows it from what is left, whoever has its pid now
/// and whatever namespace of pids it looks from.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    fn make(path: PathBuf) -> Option<Folder> {
        fs::create_dir(&path).ok()?;
        let locked = lock(&path);
        if locked.is_none() {
            let _ = fs::remove_dir(&path);
        }
        // another's sweep may have come in between: then nothing is there to be opened, and there is no lane this time
        Some(Folder {
            _lock: locked?,
            path,
        })
    }
}

/// None where somebody else has the lock.
fn lock(folder: &Path) -> Option<File> {
    let file = File::open(folder).ok()?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}

impl Lane {
    /// This process's, for as long as it is held. `shares` of the processors against 1024 for an app; who comes first says it.
    pub fn hold(shares: u64) -> Arc<Lane> {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        current.upgrade().unwrap_or_else(|| {
            sweep(Path::new(MOUNT));
            let lane = Arc::new(Lane {
                shares,
                made: OnceLock::new(),
            });
            *current = Arc::downgrade(&lane);
            lane
        })
    }

    /// Moves this thread in; None where nobody holds a lane, or the machine lets us make none.
    pub(crate) fn enter() -> Option<Inside> {
        let lane = CURRENT
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .upgrade()?;
        let made = lane.made.get_or_init(|| {
            let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
            make(Path::new(MOUNT), &own, lane.shares)
        });
        let inside = made.as_ref().is_some_and(|made| made.pass(&made.doors));
        inside.then_some(Inside(lane))
    }
}

/// A thread is in the lane; at the end it is back where it was.
#[derive(Debug)]
pub(crate) struct Inside(Arc<Lane>);

impl Drop for Inside {
    fn drop(&mut self) {
        if let Some(Some(made)) = self.0.made.get() {
            made.pass(&made.back);
        }
    }
}

impl Made {
    /// `0` is the thread that writes: that way the kernel takes no lock of the whole process, and it costs 20 µs.
    fn pass(&self, doors: &[File]) -> bool {
        doors.iter().all(|mut door| door.write_all(b"0").is_ok())
    }

    /// Threads that were started in the lane are in it for life, e.g. those of a runtime that keeps them for its next work:
    /// they go where the others went.
    fn empty(&self) {
        for (folder, mut back) in self.folders.iter().zip(&self.back) {
            for list in ["tasks", "cgroup.threads"] {
                let threads = fs::read_to_string(folder.path.join(list)).unwrap_or_default();
                for thread in threads.lines() {
                    // it may have ended
                    let _ = back.write_all(thread.as_bytes());
                }
            }
        }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for _ in 0..EMPTIED_MOST {
            self.empty();
            let left = |folder: &Folder| match fs::remove_dir(&folder.path) {
                Err(e) => e.kind() != std::io::ErrorKind::NotFound,
                Ok(()) => false,
            };
            // all are tried; one that still holds somebody goes with the next build's
            if self.folders.iter().filter(|folder| left(folder)).count() == 0 {
                break;
            }
        }
    }
}

fn write(path: PathBuf, text: &str) -> bool {
    fs::write(path, text).is_ok()
}

fn door(path: PathBuf) -> Option<File> {
    OpenOptions::new().write(true).open(path).ok()
}

/// The path of this process in a hierarchy, of `/proc/self/cgroup`.
fn own_path<'a>(own: &'a str, controller: &str) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let named = fields.next()?.split(',').any(|c| c == controller);
        fields.next().filter(|_| named)
    })
}

fn make(mount: &Path, own: &str, shares: u64) -> Option<Made> {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    let name = format!("{PREFIX}{}-{:x}", std::process::id(), now.as_nanos());
    match mount.join("cgroup.controllers").exists() {
        true => make_v2(mount, own, &name, shares),
        false => make_v1(mount, own, &name, shares),
    }
}

fn make_v1(mount: &Path, own: &str, name: &str, shares: u64) -> Option<Made> {
    let mut made = Made {
        doors: vec![],
        back: vec![],
        folders: vec![],
    };
    for controller in V1 {
        let tree = mount.join(controller);
        let Some(path) = own_path(own, controller) else {
            continue;
        };
        let Some(out) = door(tree.join(path.trim_start_matches('/')).join("tasks")) else {
            continue;
        };
        let Some(kept) = Folder::make(tree.join(name)) else {
            continue;
        };
        let folder = kept.path.clone();
        let into = door(folder.join("tasks"));
        made.folders.push(kept);
        made.back.push(out);
        let Some(into) = into else {
            continue;
        };
        write(folder.join("cpu.shares"), &shares.to_string());
        // of 1000, where 100 is what all have
        let weight = (shares * 100 / 1024).clamp(10, 1000).to_string();
        let _ = write(folder.join("blkio.bfq.weight"), &weight)
            || write(folder.join("blkio.weight"), &weight);
        made.doors.push(into);
    }
    Some(made).filter(|made| !made.doors.is_empty())
}

fn make_v2(mount: &Path, own: &str, name: &str, shares: u64) -> Option<Made> {
    let path = own_path(own, "")?.trim_start_matches('/');
    let parent = mount.join(path);
    let mut below = fs::read_dir(&parent).ok()?.flatten();
    // a group with threaded ones below it can have no others; the root can
    if !path.is_empty() && below.any(|entry| entry.path().is_dir()) {
        return None;
    }
    let back = door(parent.join("cgroup.threads"))?;
    let kept = Folder::make(parent.join(name))?;
    let folder = kept.path.clone();
    let mut made = Made {
        doors: vec![],
        back: vec![back],
        folders: vec![kept],
    };
    if !write(folder.join("cgroup.type"), "threaded") {
        return None;
    }
    write(parent.join("cgroup.subtree_control"), "+cpu");
    // SOURCE: runc ConvertCPUSharesToCgroupV2Value
    let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142;
    write(folder.join("cpu.weight"), &weight.to_string());
    made.doors.push(door(folder.join("cgroup.threads"))?);
    Some(made)
}

/// Removes what killed processes left: on v2 beside where this process would make its own.
fn sweep(mount: &Path) {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let v2 = own_path(&own, "").map(|path| mount.join(path.trim_start_matches('/')));
    let trees = V1.map(|controller| mount.join(controller));
    for tree in trees.into_iter().chain(v2) {
        for entry in fs::read_dir(tree).into_iter().flatten().flatten() {
            let path = entry.path();
            let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
            // who is in one that nobody holds has been left there, too, and it stays
            if let Some(_lock) = ours.then(|| lock(&path)).flatten() {
                let _ = fs::remove_dir(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_this_process_is() {
        let own = "5:cpu,cpuacct:/a/b:c\n4:memory:/m\n1:name=systemd:/x\n0::/u\n";
        for (controller, want) in [
            ("cpu", Some("/a/b:c")),
            ("cpuacct", Some("/a/b:c")),
            ("memory", Some("/m")),
            ("blkio", None),
            ("", Some("/u")),
        ] {
            assert_eq!(own_path(own, controller), want, "{controller}");
        }
    }

    /// On the trees that this machine has: a thread goes in and comes out, and the group is gone at the end.
    #[test]
    fn a_thread_goes_in_and_out() {
        assert!(rustix::process::geteuid().is_root(), "needs root");
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let here = || fs::read_to_string("/proc/thread-self/cgroup").unwrap();
        let mut seen = 0;
        for mount in [Path::new(MOUNT), &Path::new(MOUNT).join("unified")] {
            let Some(made) = make(mount, &own, 256) else {
                continue;
            };
            seen += 1;
            let before = here();
            assert!(made.pass(&made.doors), "{made:?}");
            let name = made.folders[0].path.file_name().unwrap().to_str().unwrap();
            assert!(here().contains(name), "{}", here());
            assert!(made.pass(&made.back), "{made:?}");
            assert_eq!(here(), before);
            let folders = paths(&made);
            drop(made);
            assert!(folders.iter().all(|folder| !folder.exists()), "{folders:?}");
        }
        assert!(seen > 0, "no cgroups could be made at {MOUNT}");
    }

    fn paths(made: &Made) -> Vec<PathBuf> {
        made.folders.iter().map(|f| f.path.clone()).collect()
    }

    /// A thread that was started inside and lives on is put out, so that the group can go.
    #[test]
    fn who_was_born_in_the_lane_does_not_keep_it() {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let here = || fs::read_to_string("/proc/thread-self/cgroup").unwrap();
        for mount in [Path::new(MOUNT), &Path::new(MOUNT).join("unified")] {
            let Some(made) = make(mount, &own, 256) else {
                continue;
            };
            let before = here();
            assert!(made.pass(&made.doors), "{made:?}");
            let (go, wait) = std::sync::mpsc::channel::<()>();
            let (say, hear) = std::sync::mpsc::channel();
            let born = std::thread::spawn(move || {
                say.send(here()).unwrap();
                let _ = wait.recv();
                here()
            });
            assert_ne!(hear.recv().unwrap(), before);
            assert!(made.pass(&made.back), "{made:?}");
            let folders = paths(&made);
            drop(made);
            assert!(folders.iter().all(|folder| !folder.exists()), "{folders:?}");
            drop(go);
            assert_eq!(born.join().unwrap(), before);
        }
    }

    /// What nobody holds goes with the next lane, even when a living process has the pid now; what is held stays.
    #[test]
    fn what_is_left_is_swept_and_what_is_held_is_not() {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        for mount in [Path::new(MOUNT), &Path::new(MOUNT).join("unified")] {
            let Some(held) = make(mount, &own, 256) else {
                continue;
            };
            let left: Vec<PathBuf> = paths(&held)
                .iter()
                .map(|path| path.with_file_name(format!("{PREFIX}1-left{}", std::process::id())))
                .collect();
            for path in &left {
                fs::create_dir(path).unwrap();
            }
            sweep(mount);
            assert!(left.iter().all(|path| !path.exists()), "{left:?}");
            assert!(paths(&held).iter().all(|path| path.exists()), "{held:?}");
        }
    }
}
