//! What comes out of a build as files, given to the client.
//!
//! SOURCE: moby/buildkit `exporter/{local,tar}`, `session/filesync`; tonistiigi/fsutil `send.go`

use super::{
    files::{Stat, go, packet},
    session::Session,
};
use ::http::HeaderMap;
use knarr_grpc::{
    Status,
    proto::{Fields, Message},
};
use std::{
    fs::{self, Metadata},
    io::Read,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

const PIECE: usize = 32 << 10;
const METHOD: &str = "/moby.filesync.v1.FileSend/DiffCopy";

/// Which of the build's exports it is.
fn headers(number: usize) -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert("buildkit-attachable-exporter-id", number.into());
    map
}

/// An archive, as it is. Blocks between pieces.
///
/// # Errors
/// The client's, or that the file can't be read.
pub async fn archive(session: &Arc<Session>, number: usize, file: &Path) -> Result<(), Status> {
    let (out, mut answers) = session.channel.stream(METHOD, headers(number)).await?;
    let mut file = fs::File::open(file).map_err(Status::unknown)?;
    let mut piece = vec![0; PIECE];
    loop {
        let n = file.read(&mut piece).map_err(Status::unknown)?;
        if n == 0 {
            break;
        }
        out.send(&Message::default().data(1, &piece[..n])).await?;
    }
    drop(out);
    // until the client has it all
    while answers.next().await?.is_some() {}
    Ok(())
}

/// All of a folder in the order of paths' components, as the client expects it. Blocking.
fn list(root: &Path, below: &str, all: &mut Vec<(PathBuf, Stat)>) -> std::io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(root.join(below))?.collect::<Result<_, _>>()?;
    entries.sort_by_key(|e| e.file_name());
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = match below {
            "" => name,
            below => format!("{below}/{name}"),
        };
        let meta = fs::symlink_metadata(entry.path())?;
        let stat = stat(&path, &entry.path(), &meta)?;
        let is_dir = meta.is_dir();
        all.push((entry.path(), stat));
        if is_dir {
            list(root, &path, all)?;
        }
    }
    Ok(())
}

fn stat(path: &str, at: &Path, meta: &Metadata) -> std::io::Result<Stat> {
    let kind = meta.file_type();
    let mut mode = meta.mode() & 0o777;
    for (flag, bit) in [
        (go::SETUID, 0o4000),
        (go::SETGID, 0o2000),
        (go::STICKY, 0o1000),
    ] {
        if meta.mode() & bit != 0 {
            mode |= flag;
        }
    }
    let mut stat = Stat {
        path: path.into(),
        uid: meta.uid(),
        gid: meta.gid(),
        time: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
        ..Stat::default()
    };
    if kind.is_dir() {
        mode |= go::DIR;
    } else if kind.is_symlink() {
        mode |= go::SYMLINK | 0o777;
        stat.link = fs::read_link(at)?.to_string_lossy().into_owned();
        stat.size = stat.link.len() as i64;
    } else if kind.is_fifo() {
        mode |= go::PIPE;
    } else if kind.is_file() {
        stat.size = meta.len() as i64;
    } else {
        mode |= go::IRREGULAR;
    }
    stat.mode = mode;
    Ok(stat)
}

/// The files of a folder. Blocks between pieces.
///
/// # Errors
/// The client's, or that a file can't be read.
pub async fn folder(session: &Arc<Session>, number: usize, root: &Path) -> Result<(), Status> {
    let mut all = Vec::new();
    list(root, "", &mut all).map_err(Status::unknown)?;
    all.retain(|(_, stat)| stat.mode & go::IRREGULAR == 0);
    let (out, mut answers) = session.channel.stream(METHOD, headers(number)).await?;
    for (_, stat) in &all {
        let message = Message::default()
            .number(1, packet::STAT)
            .message(2, &stat.message());
        out.send(&message).await?;
    }
    out.send(&Message::default().number(1, packet::STAT))
        .await?;
    let mut piece = vec![0; PIECE];
    while let Some(message) = answers.next().await? {
        let (mut kind, mut id, mut data) = (packet::STAT, 0u32, &b""[..]);
        for (field, value) in Fields(&message) {
            match field {
                1 => kind = value.number(),
                3 => id = value.number() as u32,
                4 => data = value.bytes(),
                _ => {}
            }
        }
        match kind {
            packet::REQ => {
                let (path, _) = all
                    .get(id as usize)
                    .ok_or_else(|| Status::unknown(format!("there is no file {id}")))?;
                let mut file = fs::File::open(path).map_err(Status::unknown)?;
                let part = || {
                    Message::default()
                        .number(1, packet::DATA)
                        .number(3, id.into())
                };
                loop {
                    let n = file.read(&mut piece).map_err(Status::unknown)?;
                    out.send(&part().data(4, &piece[..n])).await?;
                    if n == 0 {
                        break;
                    }
                }
            }
            packet::FIN => {
                out.send(&Message::default().number(1, packet::FIN)).await?;
                drop(out);
                while answers.next().await?.is_some() {}
                return Ok(());
            }
            packet::ERR => {
                let told = String::from_utf8_lossy(data);
                return Err(Status::unknown(format!("error from receiver: {told}")));
            }
            _ => {}
        }
    }
    Err(Status::unavailable(
        "the client ended before it had all files",
    ))
}
