//! Files of a client, brought here: of a build's context, and of its Dockerfile.
//!
//! The client tells what there is, entry by entry in the order of their paths; we ask for the files that we want, by their
//! numbers, and get their pieces in any order. Nothing that a client tells leads out of the folder: each entry is made below
//! its parent's own descriptor, links are never followed.
//!
//! SOURCE: tonistiigi/fsutil `{receive,send,diskwriter}.go`, moby/buildkit `session/filesync`

use super::session::Session;
use ::http::{HeaderMap, HeaderName, HeaderValue};
use knarr_grpc::{
    Outgoing, Status,
    proto::{Fields, Message},
};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use std::{
    collections::HashMap,
    fs::File,
    io::Write,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
};

/// What is sent between the two, of a `Packet`.
pub mod packet {
    pub const STAT: i64 = 0;
    pub const REQ: i64 = 1;
    pub const DATA: i64 = 2;
    pub const FIN: i64 = 3;
    pub const ERR: i64 = 4;
}

/// Go's `os.FileMode`.
pub mod go {
    pub const DIR: u32 = 1 << 31;
    pub const SYMLINK: u32 = 1 << 27;
    pub const DEVICE: u32 = 1 << 26;
    pub const PIPE: u32 = 1 << 25;
    pub const SOCKET: u32 = 1 << 24;
    pub const SETUID: u32 = 1 << 23;
    pub const SETGID: u32 = 1 << 22;
    pub const IRREGULAR: u32 = 1 << 19;
    pub const STICKY: u32 = 1 << 20;
}

/// Files that are open at once.
const OPEN_MAX: usize = 512;
/// More than this is no context.
const ENTRIES_MAX: usize = 4_000_000;

/// Which files are wanted.
#[derive(Debug, Default)]
pub struct Wanted {
    /// `context`, `dockerfile`, or a named one
    pub dir: String,
    /// patterns of `.dockerignore`
    pub exclude: Vec<String>,
    /// these, and what they lead to; empty: all
    pub follow: Vec<String>,
}

/// Text of any kind in a header, as fsutil's clients read it.
fn headers(wanted: &Wanted) -> Result<HeaderMap, Status> {
    let mut map = HeaderMap::new();
    let dir = [wanted.dir.clone()];
    for (key, list) in [
        ("dir-name", &dir[..]),
        ("exclude-patterns", &wanted.exclude[..]),
        ("followpaths", &wanted.follow[..]),
    ] {
        let encode = list.iter().any(|text| !text.is_ascii());
        let name = HeaderName::from_static(key);
        for text in list {
            let text = match encode {
                true => form_urlencoded::byte_serialize(text.as_bytes()).collect(),
                false => text.clone(),
            };
            let value = HeaderValue::try_from(text).map_err(Status::unknown)?;
            map.append(name.clone(), value);
        }
        if encode {
            let name = HeaderName::try_from(format!("{key}-encoded")).map_err(Status::unknown)?;
            map.insert(name, HeaderValue::from_static("1"));
        }
    }
    Ok(map)
}

/// An entry that the client told of.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Stat {
    pub path: String,
    /// Go's
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: i64,
    /// nanoseconds since 1970
    pub time: i64,
    pub link: String,
    pub major: i64,
    pub minor: i64,
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Stat {
    pub fn read(fields: Fields) -> Stat {
        let mut stat = Stat::default();
        for (field, value) in fields {
            match field {
                1 => stat.path = value.text(),
                2 => stat.mode = value.number() as u32,
                3 => stat.uid = value.number() as u32,
                4 => stat.gid = value.number() as u32,
                5 => stat.size = value.number(),
                6 => stat.time = value.number(),
                7 => stat.link = value.text(),
                8 => stat.major = value.number(),
                9 => stat.minor = value.number(),
                10 => {
                    let mut pair = (String::new(), Vec::new());
                    for (field, value) in value.fields() {
                        match field {
                            1 => pair.0 = value.text(),
                            2 => pair.1 = value.bytes().to_vec(),
                            _ => {}
                        }
                    }
                    stat.xattrs.push(pair);
                }
                _ => {}
            }
        }
        stat
    }

    pub fn message(&self) -> Message {
        let mut message = Message::default()
            .text(1, &self.path)
            .number(2, self.mode.into())
            .number(3, self.uid.into())
            .number(4, self.gid.into())
            .number(5, self.size)
            .number(6, self.time)
            .text(7, &self.link)
            .number(8, self.major)
            .number(9, self.minor);
        for (name, value) in &self.xattrs {
            message = message.message(10, &Message::default().text(1, name).data(2, value));
        }
        message
    }

    /// The kind says that it's a file with something in it, not another name of one.
    fn is_file(&self) -> bool {
        let special = go::DIR | go::SYMLINK | go::DEVICE | go::PIPE | go::SOCKET | go::IRREGULAR;
        self.mode & special == 0
    }

    fn permissions(&self) -> Mode {
        let mut bits = self.mode & 0o777;
        for (flag, bit) in [
            (go::SETUID, 0o4000),
            (go::SETGID, 0o2000),
            (go::STICKY, 0o1000),
        ] {
            if self.mode & flag != 0 {
                bits |= bit;
            }
        }
        Mode::from_raw_mode(bits)
    }
}

/// The folder that is being filled. Blocking.
struct Target {
    root: OwnedFd,
    /// the last entry's folder: entries come in order
    here: Option<(String, OwnedFd)>,
    /// folders' times, set when all is there
    times: Vec<(String, i64)>,
    /// files that were asked for and aren't whole, by their numbers
    coming: HashMap<u32, Coming>,
    /// how many of them are open
    open: usize,
}

/// A file whose content comes.
struct Coming {
    path: String,
    /// none: there are enough that are open; opened again for each piece
    file: Option<File>,
    time: i64,
    /// set when all is written: a write takes a program's capabilities away
    xattrs: Vec<(String, Vec<u8>)>,
}

fn io(path: &str) -> impl Fn(rustix::io::Errno) -> Status + '_ {
    move |e| Status::unknown(format!("{path}: {e}"))
}

/// Components of a path that leads nowhere else.
fn parts(path: &str) -> Result<Vec<&str>, Status> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let odd = parts.iter().any(|p| matches!(*p, "." | "..")) || path.starts_with('/');
    match parts.is_empty() || odd || path.contains('\0') {
        true => Err(Status::unknown(format!("invalid path {path:?}"))),
        false => Ok(parts),
    }
}

impl Target {
    fn new(root: &Path) -> Result<Target, Status> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty()).map_err(Status::unknown)?;
        Ok(Target {
            root,
            here: None,
            times: Vec::new(),
            coming: HashMap::new(),
            open: 0,
        })
    }

    fn folder(&self, parts: &[&str]) -> Result<OwnedFd, Status> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let told = parts.join("/");
        let mut at = self.root.try_clone().map_err(Status::unknown)?;
        for part in parts {
            at = rustix::fs::openat(&at, *part, flags, Mode::empty()).map_err(io(&told))?;
        }
        Ok(at)
    }

    /// The entry's folder and its name in it.
    fn place<'a>(&mut self, path: &'a str) -> Result<(&OwnedFd, &'a str), Status> {
        let parts = parts(path)?;
        let (name, above) = parts
            .split_last()
            .ok_or_else(|| Status::unknown("no path"))?;
        let folder = above.join("/");
        if self.here.as_ref().is_none_or(|(known, _)| *known != folder) {
            let fd = self.folder(above)?;
            self.here = Some((folder, fd));
        }
        match &self.here {
            Some((_, fd)) => Ok((fd, *name)),
            None => Err(Status::unknown("no folder")),
        }
    }

    /// Makes an entry. True: what is in it is wanted.
    fn make(&mut self, number: u32, stat: &Stat) -> Result<bool, Status> {
        let path = stat.path.as_str();
        let permissions = stat.permissions();
        if stat.mode & go::DIR != 0 {
            let (folder, name) = self.place(path)?;
            rustix::fs::mkdirat(folder, name, permissions).map_err(io(path))?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(io(path))?;
            own(&made, stat)?;
            rustix::fs::fchmod(&made, permissions).map_err(io(path))?;
            self.times.push((stat.path.clone(), stat.time));
            return Ok(false);
        }
        if stat.mode & go::SYMLINK != 0 {
            let (folder, name) = self.place(path)?;
            rustix::fs::symlinkat(&stat.link, folder, name).map_err(io(path))?;
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            chown_at(folder, name, stat)?;
            let _ = rustix::fs::utimensat(folder, name, &times(stat.time), flags);
            return Ok(false);
        }
        if stat.mode & (go::DEVICE | go::PIPE | go::SOCKET) != 0 {
            // a context's are never copied into an image: fsutil makes them, COPY of one fails
            return Ok(false);
        }
        if !stat.is_file() {
            return Err(Status::unknown(format!("{path}: an unknown kind of file")));
        }
        if !stat.link.is_empty() {
            let link = parts(&stat.link)?;
            let (last, above) = link
                .split_last()
                .ok_or_else(|| Status::unknown("no link"))?;
            let from = self.folder(above)?;
            let (folder, name) = self.place(path)?;
            rustix::fs::linkat(&from, *last, folder, name, AtFlags::empty()).map_err(io(path))?;
            return Ok(false);
        }
        let (folder, name) = self.place(path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR).map_err(io(path))?;
        own(&file, stat)?;
        rustix::fs::fchmod(&file, permissions).map_err(io(path))?;
        let file = (self.open < OPEN_MAX).then(|| File::from(file));
        self.open += usize::from(file.is_some());
        let coming = Coming {
            path: stat.path.clone(),
            file,
            time: stat.time,
            xattrs: stat.xattrs.clone(),
        };
        self.coming.insert(number, coming);
        Ok(true)
    }

    /// A file that was made before, once more.
    fn reopen(&mut self, path: &str) -> Result<File, Status> {
        let (folder, name) = self.place(path)?;
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, name, flags, Mode::empty());
        file.map(File::from).map_err(io(path))
    }

    /// A piece of a file; an empty one ends it.
    fn write(&mut self, number: u32, bytes: &[u8]) -> Result<(), Status> {
        let Some(mut coming) = self.coming.remove(&number) else {
            return Err(Status::unknown(format!(
                "data of file {number}, which nobody asked for"
            )));
        };
        let again;
        let mut file = match &coming.file {
            Some(file) => file,
            None => {
                again = self.reopen(&coming.path)?;
                &again
            }
        };
        if !bytes.is_empty() {
            file.write_all(bytes).map_err(Status::unknown)?;
            self.coming.insert(number, coming);
            return Ok(());
        }
        for (name, value) in &coming.xattrs {
            // as with tar: where the file system has none, none are kept
            let _ = rustix::fs::fsetxattr(file, name, value, rustix::fs::XattrFlags::empty());
        }
        rustix::fs::futimens(file.as_fd(), &times(coming.time)).map_err(io("times"))?;
        self.open -= usize::from(coming.file.take().is_some());
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Status> {
        for (path, time) in std::mem::take(&mut self.times) {
            let (folder, name) = self.place(&path)?;
            rustix::fs::utimensat(folder, name, &times(time), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(io(&path))?;
        }
        Ok(())
    }
}

fn own(fd: &impl AsFd, stat: &Stat) -> Result<(), Status> {
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(stat.uid),
        rustix::fs::Gid::from_raw(stat.gid),
    );
    rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(io(&stat.path))
}

fn chown_at(folder: &OwnedFd, name: &str, stat: &Stat) -> Result<(), Status> {
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(stat.uid),
        rustix::fs::Gid::from_raw(stat.gid),
    );
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(folder, name, Some(uid), Some(gid), flags).map_err(io(&stat.path))
}

fn times(nanos: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: nanos.div_euclid(1_000_000_000),
        tv_nsec: nanos.rem_euclid(1_000_000_000),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Fills an empty folder; bytes that came are told as they come.
///
/// # Errors
/// The client's, or that something can't be made here.
pub async fn receive(
    session: &Arc<Session>,
    wanted: &Wanted,
    to: &Path,
    came: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), Status> {
    let method = "/moby.filesync.v1.FileSync/DiffCopy";
    if !session.offers(method) {
        return Err(Status::unknown("no local sources enabled"));
    }
    let (out, mut answers) = session.channel.stream(method, headers(wanted)?).await?;
    let mut target = Target::new(to)?;
    let (mut number, mut told, mut bytes) = (0u32, false, 0u64);
    loop {
        if told && target.coming.is_empty() {
            break;
        }
        let Some(message) = answers.next().await? else {
            return Err(Status::unavailable(
                "the client ended before all files came",
            ));
        };
        bytes += message.len() as u64;
        came(bytes);
        let (mut kind, mut stat, mut id, mut data) = (packet::STAT, None, 0u32, &b""[..]);
        for (field, value) in Fields(&message) {
            match field {
                1 => kind = value.number(),
                2 => stat = Some(Stat::read(value.fields())),
                3 => id = value.number() as u32,
                4 => data = value.bytes(),
                _ => {}
            }
        }
        match (kind, stat) {
            (packet::ERR, _) => {
                let told = String::from_utf8_lossy(data);
                return Err(Status::unknown(format!("error from sender: {told}")));
            }
            (packet::STAT, None) => told = true,
            (packet::STAT, Some(stat)) => {
                if number as usize >= ENTRIES_MAX {
                    return Err(Status::unknown("too many files"));
                }
                let want = target.make(number, &stat)?;
                if want {
                    ask(&out, number).await?;
                }
                number += 1;
            }
            (packet::DATA, _) => target.write(id, data)?,
            (packet::FIN, _) => break,
            _ => {}
        }
    }
    target.finish()?;
    out.send(&Message::default().number(1, packet::FIN)).await?;
    // the client's own end of it
    while let Some(message) = answers.next().await? {
        if Fields(&message).any(|(f, v)| f == 1 && v.number() == packet::FIN) {
            break;
        }
    }
    Ok(())
}

async fn ask(out: &Outgoing, number: u32) -> Result<(), Status> {
    let message = Message::default()
        .number(1, packet::REQ)
        .number(3, number.into());
    out.send(&message).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(path: &str, mode: u32, link: &str) -> Stat {
        Stat {
            path: path.into(),
            mode,
            link: link.into(),
            time: 1_500_000_000_000_000_000,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            ..Stat::default()
        }
    }

    #[test]
    fn entries_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let mut target = Target::new(dir.path()).unwrap();
        assert_eq!(target.make(0, &stat("d", go::DIR | 0o750, "")), Ok(false));
        assert_eq!(target.make(1, &stat("d/f", 0o640, "")), Ok(true));
        target.write(1, b"hello").unwrap();
        target.write(1, b"").unwrap();
        target.write(1, b"").unwrap_err();
        assert_eq!(target.make(2, &stat("d/h", 0o640, "d/f")), Ok(false));
        assert_eq!(
            target.make(3, &stat("s", go::SYMLINK | 0o777, "d/f")),
            Ok(false)
        );
        target.finish().unwrap();
        let text = std::fs::read_to_string(dir.path().join("s")).unwrap();
        assert_eq!(text, "hello");
        use std::os::unix::fs::MetadataExt;
        let meta = |path: &str| std::fs::metadata(dir.path().join(path)).unwrap();
        let nlink = meta("d/f").nlink();
        assert_eq!((nlink, meta("d/f").mtime()), (2, 1_500_000_000));
        assert_eq!(
            (meta("d").mode() & 0o7777, meta("d").mtime()),
            (0o750, 1_500_000_000)
        );
    }

    #[test]
    fn more_files_come_than_are_held_open() {
        let dir = tempfile::tempdir().unwrap();
        let mut target = Target::new(dir.path()).unwrap();
        let last = OPEN_MAX as u32 + 1;
        for n in 0..=last {
            target.make(n, &stat(&n.to_string(), 0o600, "")).unwrap();
        }
        assert_eq!(target.open, OPEN_MAX);
        // piece by piece, in turns
        for piece in [&b"a"[..], b"b", b""] {
            for n in [0, last - 1, last] {
                target.write(n, piece).unwrap();
            }
        }
        for n in [0, last - 1, last] {
            let text = std::fs::read_to_string(dir.path().join(n.to_string()));
            assert_eq!(text.unwrap(), "ab", "{n}");
        }
        assert_eq!(target.open, OPEN_MAX - 1);
    }

    #[test]
    fn a_program_keeps_its_capabilities() {
        const NAME: &str = "security.capability";
        // cap_net_raw=ep
        let value = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        let dir = tempfile::tempdir().unwrap();
        let mut target = Target::new(dir.path()).unwrap();
        let mut program = stat("f", 0o755, "");
        program.xattrs.push((NAME.into(), value.to_vec()));
        target.make(0, &program).unwrap();
        target.write(0, b"text").unwrap();
        target.write(0, b"").unwrap();
        let mut got = [0; 20];
        let read = rustix::fs::lgetxattr(dir.path().join("f"), NAME, &mut got);
        assert_eq!((read, &got), (Ok(20), value));
    }

    #[test]
    fn nothing_leads_outside() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        let place = outside.path().to_string_lossy().into_owned();
        for (name, entries) in [
            ("a path up", vec![stat("../x", 0o644, "")]),
            ("a path from the root", vec![stat("/x", 0o644, "")]),
            ("an empty one", vec![stat("", 0o644, "")]),
            (
                "below a link",
                vec![stat("l", go::SYMLINK, &place), stat("l/x", 0o644, "")],
            ),
            (
                "over a link",
                vec![
                    stat("l", go::SYMLINK, &format!("{place}/secret")),
                    stat("l", 0o644, ""),
                ],
            ),
            (
                "another name of a file outside",
                vec![stat("h", 0o644, "../secret")],
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut target = Target::new(dir.path()).unwrap();
            let mut made = entries.iter().enumerate();
            let refused = made.any(|(n, s)| target.make(n as u32, s).is_err());
            assert!(refused, "{name}");
            assert_eq!(
                std::fs::read_dir(outside.path()).unwrap().count(),
                1,
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_told_is_read() {
        let mut told = stat("a/b", go::DIR | 0o755, "");
        told.xattrs.push(("user.x".into(), b"1".to_vec()));
        let message = told.message();
        assert_eq!(Stat::read(Fields(message.as_bytes())), told);
    }
}
