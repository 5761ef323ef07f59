//! A mount namespace with next to nothing in it, of which containers' own are copies.
//!
//! A new mount namespace begins as a copy of another one, mount by mount, under a lock that the whole machine shares; what isn't needed of it is taken off again the same way. Each sandbox adds a handful of mounts to the host's, and so on a machine with a thousand of them a container's start would copy five thousand mounts to throw them away. Copied instead is a namespace that has the root, the mounts on the way to the runtime's folder, `/proc`, `/sys` and `/dev`. What a container is given of the host (volumes, `/dev/shm`) is taken before, with the host's in sight.
//!
//! It is no more than a short cut: a container whose image or folder looks otherwise from there starts from the host's.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags},
    mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags},
};

use crate::{privileges::os_text, sandbox::is_mount, sys};

/// Starts after which making it pays: who starts one container only does without.
const STARTS_MIN: u32 = 4;

/// The namespace, made when it's of use.
#[derive(Default)]
pub(crate) struct Lean {
    starts: AtomicU32,
    made: OnceLock<Option<Arc<OwnedFd>>>,
}

impl Lean {
    /// The namespace for one more start, of a runtime in `root`. Blocking for some milliseconds, once.
    pub(crate) fn next(&self, root: &Path) -> Option<Arc<OwnedFd>> {
        if self.starts.fetch_add(1, Ordering::Relaxed) < STARTS_MIN {
            return None;
        }
        let make = || match in_a_thread(root) {
            Ok(namespace) => Some(Arc::new(namespace)),
            Err(error) => {
                tracing::debug!(%error, "containers' mount namespaces are copies of the host's");
                None
            }
        };
        self.made.get_or_init(make).clone()
    }
}

/// Namespaces belong to a thread: this one makes it and is never used for anything else.
fn in_a_thread(root: &Path) -> io::Result<OwnedFd> {
    let root = root.canonicalize()?;
    std::thread::Builder::new()
        .name("lean".into())
        .stack_size(256 * 1024)
        .spawn(move || make(&root))?
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("a bug in making it")))
}

fn make(root: &Path) -> io::Result<OwnedFd> {
    sys::unshare(libc::CLONE_FS | libc::CLONE_NEWNS)?;
    make_private()?;
    let base = clone("/", false)?;
    let mut way = root
        .ancestors()
        .filter(|path| path.parent().is_some() && is_mount(path))
        .map(|path| Ok((path.to_owned(), clone(path, false)?)))
        .collect::<io::Result<Vec<(PathBuf, OwnedFd)>>>()?;
    way.reverse();
    // before the root is attached, which may be below one of them
    let whole = ["/proc", "/sys", "/dev"]
        .into_iter()
        .filter(|path| is_mount(Path::new(path)))
        .map(|path| Ok((path, clone(path, true)?)))
        .collect::<io::Result<Vec<(&str, OwnedFd)>>>()?;
    // anywhere: it becomes the root in a moment, and until then hides what is there
    attach(&base, &open(CWD, root)?)?;
    for (path, tree) in way {
        attach(&tree, &inside(&base, &path)?)?;
    }
    for (path, tree) in whole {
        attach(&tree, &inside(&base, Path::new(path))?)?;
    }
    rustix::process::fchdir(&base)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    own_namespace()
}

fn own_namespace() -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open("/proc/thread-self/ns/mnt", flags, Mode::empty()).map_err(Into::into)
}

fn open(dir: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    rustix::fs::openat(dir, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(Into::into)
}

fn inside(base: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    rustix::fs::openat2(
        base,
        path.strip_prefix("/").unwrap_or(path),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(Into::into)
}

fn clone(path: impl AsRef<Path>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(CWD, path.as_ref(), flags).map_err(Into::into)
}

fn attach(tree: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, "", target, "", flags).map_err(Into::into)
}

fn make_private() -> io::Result<()> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).map_err(Into::into)
}

/// Gives the calling process, which has one thread, a mount namespace of its own, whose mounts are nobody else's: a copy of the lean one if these paths lead to the same there, else of its present one.
pub(crate) fn enter(lean: Option<&OwnedFd>, paths: &[&Path]) -> Result<(), String> {
    if lean.is_some_and(|lean| looks_the_same(lean, paths)) {
        return sys::unshare(libc::CLONE_NEWNS).map_err(told);
    }
    sys::unshare(libc::CLONE_NEWNS).map_err(told)?;
    make_private().map_err(|e| format!("making mounts private: {}", os_text(&e)))
}

fn told(error: io::Error) -> String {
    format!("making a mount namespace: {}", os_text(&error))
}

/// True: the process is in the lean one now.
fn looks_the_same(lean: &OwnedFd, paths: &[&Path]) -> bool {
    let marks = |paths: &[&Path]| paths.iter().map(|p| mark(p)).collect::<Option<Vec<_>>>();
    let (Some(before), Ok(home)) = (marks(paths), own_namespace()) else {
        return false;
    };
    if sys::setns(lean, libc::CLONE_NEWNS).is_err() {
        return false;
    }
    if marks(paths).is_some_and(|now| now == before) {
        return true;
    }
    // a start goes on from where it was, or, if that can't be, fails at the first path that is missing
    let _ = sys::setns(&home, libc::CLONE_NEWNS);
    false
}

/// What stands for a folder.
fn mark(path: &Path) -> Option<(u32, u32, u64)> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::INO).ok()?;
    Some((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    fn run(program: &str, arguments: &[&str]) {
        let status = Command::new(program).args(arguments).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    }

    /// In a thread with the host's mounts as they are now, and its own from here on.
    fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = std::thread::spawn(move || {
            sys::unshare(libc::CLONE_FS | libc::CLONE_NEWNS).expect("this test needs root");
            make_private().unwrap();
            work()
        });
        thread.join().unwrap()
    }

    #[test]
    fn it_has_the_way_to_the_runtime_and_no_other_mounts() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let points: Vec<String> = apart(move || {
            let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
            for name in ["data", "disk"] {
                fs::create_dir(at(name)).unwrap();
                run("mount", &["-t", "tmpfs", name, &at(name)]);
            }
            let (runtime, pins) = (at("data/rt"), at("data/rt/pins"));
            for folder in [&runtime, &pins] {
                fs::create_dir(folder).unwrap();
            }
            run("mount", &["-t", "tmpfs", "pins", &pins]);
            let lean = in_a_thread(Path::new(&runtime)).unwrap();

            let (known, other) = (at("data/rt"), at("disk"));
            // what it hasn't is no trap: the host's is taken
            assert!(!looks_the_same(
                &lean,
                &[Path::new(&known), Path::new(&other)]
            ));
            assert!(Path::new(&pins).join("..").exists());
            assert!(looks_the_same(&lean, &[Path::new(&known)]));
            let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let fifth = |line: &str| line.split(' ').nth(4).map(str::to_owned);
            let points = mounts.lines().filter_map(fifth);
            points.map(|p| p.replace(&at(""), "")).collect()
        });
        let kept = |p: &String| {
            ["/", "data"].contains(&p.as_str())
                || ["/proc", "/sys", "/dev"]
                    .iter()
                    .any(|top| p.starts_with(top))
        };
        let strange: Vec<&String> = points.iter().filter(|p| !kept(p)).collect();
        assert_eq!(strange, [""; 0], "of {points:?}");
        for point in ["/", "data", "/proc"] {
            assert!(points.iter().any(|p| p == point), "{point} in {points:?}");
        }
    }

    #[test]
    fn a_runtime_below_a_folder_that_is_taken_whole_is_found() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = dir.path().to_owned();
        let same = apart(move || {
            let inside = root.join("layer");
            fs::create_dir(&inside).unwrap();
            let lean = in_a_thread(&root).unwrap();
            looks_the_same(&lean, &[&root, &inside])
        });
        assert!(same);
    }

    #[test]
    fn it_is_made_when_it_pays() {
        let dir = tempfile::tempdir().unwrap();
        let lean = Lean::default();
        for start in 0..STARTS_MIN + 2 {
            let got = lean.next(dir.path()).is_some();
            assert_eq!(got, start >= STARTS_MIN, "start {start}");
        }
    }
}
