//! Making, emptying and removing the folders of cgroups.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Besides, Group, Leaf, more, write_to};
use crate::{
    error::{During, Error},
    spec::Resources,
};

impl Group {
    /// Makes the folders and sets the limits. A parent can be removed under our feet by a neighbour's delete, hence the few retries.
    pub(crate) fn create(&self, limits: &Resources) -> Result<(), Error> {
        let besides = Besides::of(limits);
        for leaf in &self.leaves {
            let mut left = 5;
            loop {
                let made = make_all(&leaf.path, self.depth, leaf, besides);
                match made {
                    Err(e) if e.kind() == io::ErrorKind::NotFound && left > 0 => left -= 1,
                    other => {
                        break other
                            .during(|| format!("making the cgroup {}", leaf.path.display()))?;
                    }
                }
            }
        }
        self.limit(limits)
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
            if let Some(leaf) = self.leaves.iter().find(|l| l.v2) {
                let _ = write_to(&leaf.path.join("cgroup.kill"), "1");
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

    /// Removes the folders bottom-up. A folder that can't be removed yet is left and reported.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let mut failed = None;
        for leaf in &self.leaves {
            if let Err(e) = remove_tree(&leaf.path) {
                failed = Some(e);
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// On v2 a controller counts for a folder when its parent has switched it on for its children.
const V2_CONTROLLERS: [&str; 5] = ["cpu", "io", "memory", "pids", "hugetlb"];

fn make_all(path: &Path, depth: usize, leaf: &Leaf, besides: Besides) -> io::Result<()> {
    if !leaf.v2 {
        fs::create_dir_all(path)?;
        return match besides.cpuset && leaf.controllers.iter().any(|c| c == "cpuset") {
            true => more::inherit_cpuset(path, depth),
            false => Ok(()),
        };
    }
    let cpuset = (besides.cpuset && leaf.controllers.is_empty()).then_some("cpuset");
    let controllers: Vec<&str> = V2_CONTROLLERS.into_iter().chain(cpuset).collect();
    let mut folders: Vec<&Path> = path.ancestors().take(depth + 1).collect();
    folders.reverse();
    for pair in folders.windows(2) {
        let control = pair[0].join("cgroup.subtree_control");
        let on = fs::read_to_string(&control).unwrap_or_default();
        for controller in &controllers {
            let wanted =
                leaf.controllers.is_empty() || leaf.controllers.iter().any(|c| c == controller);
            if wanted && !on.split_whitespace().any(|c| c == *controller) {
                // a controller that the parent doesn't have shows when its limit is set
                let _ = write_to(&control, &format!("+{controller}"));
            }
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
