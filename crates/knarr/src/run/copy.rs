//! `knarr container cp`: files of a container, out and in.
//!
//! A running container's tree is seen through its first process, a stopped one's is put together for the moment. Paths of
//! the container are resolved inside its root by the kernel, and copying follows no links: a container can't lead it
//! elsewhere.
//!
//! SOURCE: docker/cli `cli/command/container/cp.go` (what lands where)

use super::{
    life,
    record::{Home, Record},
    show,
};
use crate::error::{Error, io as io_error};
use clap::Args;
use knarr_runtime::State;
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
};
use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

#[derive(Args)]
pub struct CopyArguments {
    /// Keep users and groups
    #[arg(short, long)]
    archive: bool,
    /// There for scripts: nothing is told of it
    #[arg(short, long, hide = true)]
    quiet: bool,
    /// Follow a link that is the source
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// CONTAINER:PATH, or a path of the machine; `-` for an archive on standard input or output
    source: String,
    /// As the source; one of the two is a container's
    destination: String,
}

/// `NAME:PATH`; a path of the machine begins with a slash or a dot.
fn of_container(text: &str) -> Option<(&str, &str)> {
    let (name, path) = text.split_once(':')?;
    (!name.is_empty() && !text.starts_with(['/', '.'])).then_some((name, path))
}

pub fn run(home: &Home, arguments: &CopyArguments) -> Result<u8, Error> {
    let from = of_container(&arguments.source);
    let to = of_container(&arguments.destination);
    let (name, out) = match (from, to) {
        (Some((name, _)), None) => (name, true),
        (None, Some((name, _))) => (name, false),
        (Some(_), Some(_)) => {
            return Err(Error::Input(
                "copying between containers is not supported".into(),
            ));
        }
        (None, None) => {
            return Err(Error::Input(
                "must specify at least one container source: CONTAINER:PATH".into(),
            ));
        }
    };
    let record = home.find(name)?;
    let (source, destination) = (
        from.map_or(arguments.source.as_str(), |(_, path)| path),
        to.map_or(arguments.destination.as_str(), |(_, path)| path),
    );
    if source.is_empty() || destination.is_empty() {
        return Err(Error::Input(
            "source and destination can not be empty".into(),
        ));
    }
    let work = || {
        let root = root(home, &record)?;
        match (out, source, destination) {
            (true, _, "-") => pack(&root, source),
            (false, "-", _) => unpack(&root, destination),
            _ => {
                let machine = open(Path::new("/"), OFlags::PATH)?;
                let here =
                    |path: &str| std::path::absolute(path).map_err(io_error(path.to_string()));
                let keep = arguments.archive;
                match out {
                    true => {
                        let trailing = destination.ends_with('/');
                        let to = Place::new(&machine, &here(destination)?, trailing);
                        let mine =
                            (!keep).then(|| (rustix::process::getuid(), rustix::process::getgid()));
                        copy(
                            &Place::new(&root, Path::new(source), false),
                            source,
                            &to,
                            arguments.follow_link,
                            mine,
                        )
                    }
                    false => {
                        let trailing = destination.ends_with('/');
                        let to = Place::new(&root, Path::new(destination), trailing);
                        let its = (!keep).then_some((Uid::ROOT, Gid::ROOT));
                        copy(
                            &Place::new(&machine, &here(source)?, false),
                            source,
                            &to,
                            arguments.follow_link,
                            its,
                        )
                    }
                }
            }
        }
    };
    work().map(|()| 0)
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Error> {
    let opened = rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
    opened.map_err(|e| io_error(path.display().to_string())(e.into()))
}

/// The container's tree.
fn root(home: &Home, record: &Record) -> Result<OwnedFd, Error> {
    if let State::Running { pid, .. } = show::state(home, record) {
        let path = PathBuf::from(format!("/proc/{pid}/root"));
        return open(&path, OFlags::PATH | OFlags::DIRECTORY);
    }
    if record.remove {
        return Err(Error::Failed(format!("{} is not running", record.name)));
    }
    // nobody starts it meanwhile: two mounts of one layer would be no good
    let lock = home.lock_one(&record.id, life::HELD)?;
    super::tree::mounted(home, record).inspect(|_| std::mem::forget(lock))
}

/// A path below a root.
struct Place<'a> {
    root: &'a OwnedFd,
    path: PathBuf,
    /// it must be a folder
    folder: bool,
}

impl<'a> Place<'a> {
    fn new(root: &'a OwnedFd, path: &Path, folder: bool) -> Place<'a> {
        Place {
            root,
            path: path.into(),
            folder,
        }
    }

    fn told(&self) -> impl Fn(rustix::io::Errno) -> Error + '_ {
        |e| io_error(self.path.display().to_string())(e.into())
    }

    fn open(&self, path: &Path, follow: bool) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let flags = if follow {
            flags
        } else {
            flags | OFlags::NOFOLLOW
        };
        rustix::fs::openat2(self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)
    }

    fn stat(&self, follow: bool) -> Option<Stat> {
        rustix::fs::fstat(self.open(&self.path, follow).ok()?).ok()
    }

    /// The folder it is in, and its name there.
    fn above(&self) -> Result<(OwnedFd, PathBuf), Error> {
        let name = self.path.file_name().map(PathBuf::from);
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        let parent = if parent.as_os_str().is_empty() {
            Path::new("/")
        } else {
            parent
        };
        let folder = self.open(parent, true).map_err(self.told())?;
        Ok((folder, name.unwrap_or_else(|| ".".into())))
    }
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

type Owner = Option<(Uid, Gid)>;

fn copy(from: &Place, written: &str, to: &Place, follow: bool, owner: Owner) -> Result<(), Error> {
    let contents_alone = written.ends_with("/.") || written == ".";
    let mut stat = from.stat(follow || written.ends_with('/') || contents_alone);
    let stat = stat
        .take()
        .ok_or_else(|| Error::Failed(format!("Could not find the file {written}")))?;
    let is_folder = kind(&stat) == FileType::Directory;
    let there = to.stat(true);
    let into = there
        .as_ref()
        .is_some_and(|s| kind(s) == FileType::Directory);
    match &there {
        None if to.folder && !is_folder => {
            return Err(Error::Failed(format!(
                "no such directory: {}",
                to.path.display()
            )));
        }
        Some(_) if !into && (is_folder || to.folder) => {
            return Err(Error::Failed("cannot copy directory".into()));
        }
        _ => {}
    }
    let source = {
        let flags = follow || is_folder;
        from.open(&from.path, flags).map_err(from.told())?
    };
    let last = from.path.file_name().map(PathBuf::from);
    let (folder, name) = match (into, contents_alone || last.is_none()) {
        // its contents go into what is there
        (true, true) => {
            let folder = to.open(&to.path, true).map_err(to.told())?;
            return contents(&source, &folder, owner);
        }
        (true, false) => {
            let folder = to.open(&to.path, true).map_err(to.told())?;
            (folder, last.unwrap_or_default())
        }
        (false, _) => to.above()?,
    };
    one(&source, &stat, &folder, &name, owner)
}

fn told(path: &Path) -> impl Fn(rustix::io::Errno) -> Error + '_ {
    |e| io_error(path.display().to_string())(e.into())
}

/// A folder's entries into another folder.
fn contents(from: &OwnedFd, to: &OwnedFd, owner: Owner) -> Result<(), Error> {
    let here = Path::new(".");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listed = rustix::fs::openat(from, ".", flags, Mode::empty()).map_err(told(here))?;
    for entry in Dir::read_from(&listed).map_err(told(here))? {
        let entry = entry.map_err(told(here))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let path = PathBuf::from(OsStr::from_bytes(name.to_bytes()));
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let source = rustix::fs::openat(from, name, flags, Mode::empty()).map_err(told(&path))?;
        let stat = rustix::fs::fstat(&source).map_err(told(&path))?;
        one(&source, &stat, to, &path, owner)?;
    }
    Ok(())
}

/// One entry, whatever it is, under a name in a folder.
fn one(
    from: &OwnedFd,
    stat: &Stat,
    folder: &OwnedFd,
    name: &Path,
    owner: Owner,
) -> Result<(), Error> {
    let told = told(name);
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let there = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok();
    let is_folder = kind(stat) == FileType::Directory;
    match there.map(|s| kind(&s)) {
        Some(FileType::Directory) if is_folder => {}
        Some(FileType::Directory) => {
            return Err(Error::Failed(format!(
                "cannot overwrite directory {:?} with non-directory",
                name.display()
            )));
        }
        Some(_) => rustix::fs::unlinkat(folder, name, AtFlags::empty()).map_err(&told)?,
        None => {}
    }
    match kind(stat) {
        FileType::Directory => {
            match rustix::fs::mkdirat(folder, name, mode) {
                Err(rustix::io::Errno::EXIST) => {}
                other => other.map_err(&told)?,
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(&told)?;
            contents(from, &made, owner)?;
            set_owner(folder, name, stat, owner)?;
            rustix::fs::fchmod(&made, mode).map_err(&told)?;
        }
        FileType::RegularFile => {
            let path = PathBuf::from(format!(
                "/proc/self/fd/{}",
                std::os::fd::AsRawFd::as_raw_fd(from)
            ));
            let mut source = File::open(&path).map_err(io_error(name.display().to_string()))?;
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made =
                rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR).map_err(&told)?;
            let mut made = File::from(made);
            io::copy(&mut source, &mut made).map_err(io_error(name.display().to_string()))?;
            set_owner(folder, name, stat, owner)?;
            // a new owner takes the bits away that make a program another's
            rustix::fs::fchmod(made.as_fd(), mode).map_err(&told)?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, "", Vec::new()).map_err(&told)?;
            rustix::fs::symlinkat(&target, folder, name).map_err(&told)?;
            set_owner(folder, name, stat, owner)?;
        }
        other => {
            rustix::fs::mknodat(folder, name, other, mode, stat.st_rdev).map_err(&told)?;
            set_owner(folder, name, stat, owner)?;
        }
    }
    let time = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: stat.st_mtime_nsec as _,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    // not every file system keeps a link's
    let _ = rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW);
    Ok(())
}

fn set_owner(folder: &OwnedFd, name: &Path, stat: &Stat, owner: Owner) -> Result<(), Error> {
    let (uid, gid) =
        owner.unwrap_or_else(|| (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid)));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(folder, name, Some(uid), Some(gid), flags).map_err(told(name))
}

/// An archive of a path on standard output.
fn pack(root: &OwnedFd, source: &str) -> Result<(), Error> {
    let place = Place::new(root, Path::new(source), false);
    let fd = place
        .open(&place.path, false)
        .map_err(|_| Error::Failed(format!("Could not find the file {source}")))?;
    let name = place.path.file_name().map(Path::new);
    let name = name.unwrap_or(Path::new("."));
    knarr_docker::pack(fd, name, &mut io::stdout().lock()).map_err(io_error(source.to_string()))
}

/// An archive from standard input into a folder.
fn unpack(root: &OwnedFd, destination: &str) -> Result<(), Error> {
    let place = Place::new(root, Path::new(destination), true);
    let folder = place.open(&place.path, true).map_err(place.told())?;
    let rules = knarr_docker::UnpackRules::default();
    knarr_docker::unpack_into(io::stdin().lock(), &folder, &rules)
        .map_err(|fault| Error::Failed(format!("{destination}: {}", fault.message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/f"), "f").unwrap();
        std::fs::write(dir.path().join("a/b/g"), "g").unwrap();
        std::os::unix::fs::symlink("f", dir.path().join("a/l")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        let root = open(dir.path(), OFlags::PATH | OFlags::DIRECTORY).unwrap();
        (dir, root)
    }

    #[test]
    fn what_lands_where() {
        let mine = Some((rustix::process::getuid(), rustix::process::getgid()));
        for (name, source, destination, folder, wanted) in [
            (
                "a file to a new name",
                "/a/f",
                "/x",
                false,
                Some(("x", "f")),
            ),
            (
                "a file into a folder",
                "/a/f",
                "/d",
                false,
                Some(("d/f", "f")),
            ),
            (
                "a file over a file",
                "/a/f",
                "/old",
                false,
                Some(("old", "f")),
            ),
            ("a file to no folder", "/a/f", "/none/", true, None),
            (
                "a folder to a new name",
                "/a",
                "/x",
                false,
                Some(("x/b/g", "g")),
            ),
            (
                "a folder into a folder",
                "/a",
                "/d",
                false,
                Some(("d/a/b/g", "g")),
            ),
            (
                "its contents alone",
                "/a/.",
                "/d",
                false,
                Some(("d/b/g", "g")),
            ),
            ("a folder over a file", "/a", "/old", false, None),
            ("nothing", "/none", "/x", false, None),
            // the link leads to the root's own /etc, which isn't there
            ("out of the root", "/out/passwd", "/x", false, None),
        ] {
            let (_from, from) = tree();
            let (to_dir, to) = tree();
            std::fs::create_dir(to_dir.path().join("d")).unwrap();
            std::fs::write(to_dir.path().join("old"), "old").unwrap();
            let done = copy(
                &Place::new(&from, Path::new(source), false),
                source,
                &Place::new(&to, Path::new(destination), folder),
                false,
                mine,
            );
            let told = done.as_ref().err().map(ToString::to_string);
            assert_eq!(done.is_ok(), wanted.is_some(), "{name}: {told:?}");
            if let Some((path, text)) = wanted {
                let got = std::fs::read_to_string(to_dir.path().join(path)).unwrap();
                assert_eq!(got, text, "{name}");
            }
        }
    }

    #[test]
    fn names_and_modes_stay() {
        let (from_dir, from) = tree();
        let (to_dir, to) = tree();
        let odd = OsStr::from_bytes(b"a/\xff");
        std::fs::write(from_dir.path().join(odd), "odd").unwrap();
        let set_user = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
        std::fs::set_permissions(from_dir.path().join("a/f"), set_user).unwrap();
        let copied = copy(
            &Place::new(&from, Path::new("/a"), false),
            "/a",
            &Place::new(&to, Path::new("/x"), false),
            false,
            Some((rustix::process::getuid(), rustix::process::getgid())),
        );
        copied.unwrap();
        let at = |name: &[u8]| to_dir.path().join("x").join(OsStr::from_bytes(name));
        assert_eq!(std::fs::read(at(b"\xff")).unwrap(), b"odd");
        let meta = std::fs::metadata(at(b"f")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&meta) & 0o7777, 0o4755);
    }

    #[test]
    fn sides_are_told_apart() {
        for (text, wanted) in [
            ("web:/a", Some(("web", "/a"))),
            ("web:a:b", Some(("web", "a:b"))),
            ("./web:a", None),
            ("/web:a", None),
            ("file", None),
            (":x", None),
        ] {
            assert_eq!(of_container(text), wanted, "{text}");
        }
    }
}
