//! `docker cp`: files in and out of containers, as tar archives.
//!
//! A running container is reached through its first process' root, a stopped one through its layers. In both, no link
//! leads out of the container: paths are opened by the kernel within its root, or looked up layer by layer.

mod into;
mod opened;
mod out;
mod place;

pub use into::{Rules, unpack_into};
pub use opened::pack;
pub use out::{changes as changes_of, export, is_mount_point, plain};

use crate::{
    containers::Entry,
    create::wanted::Wanted,
    daemon::Daemon,
    error::{Fault, Result, blocking},
    http::{self, Answer, Ask},
    pod::accounts,
};
use ::http::{StatusCode, header};
use axum::body::Body;
use base64::Engine;
use place::Place;
use serde_json::{Value, json};
use std::{fs, os::unix::fs::MetadataExt, sync::Arc};

const STAT: &str = "x-docker-container-path-stat";

/// Go's `os.FileMode` of a mode of ours.
fn go_mode(mode: u32) -> u32 {
    use rustix::fs::FileType;
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => (1 << 26) | (1 << 21),
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special = special.iter().filter(|(bit, _)| mode & bit != 0);
    special.fold(kind | (mode & 0o777), |all, (_, bit)| all | bit)
}

/// What a client is told of a path.
fn stat(name: &str, meta: &fs::Metadata, link: &str) -> Value {
    let at = jiff::Timestamp::new(meta.mtime(), i32::try_from(meta.mtime_nsec()).unwrap_or(0));
    json!({
        "name": name,
        "size": meta.len(),
        "mode": go_mode(meta.mode()),
        "mtime": at.map_or_else(|_| crate::state::NEVER.to_string(), |t| t.to_string()),
        "linkTarget": link,
    })
}

fn path_of(ask: &Ask) -> Result<String> {
    let path = ask.query.get("path").unwrap_or_default();
    match path.is_empty() {
        true => Err(Fault::bad("bad parameter: path cannot be empty")),
        false => Ok(path.to_string()),
    }
}

fn missing(id: &str, path: &str) -> Fault {
    Fault::not_found(format!("Could not find the file {path} in container {id}"))
}

fn last(path: &str) -> String {
    let name = path
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default();
    // SOURCE: moby `daemon/archive_unix.go`: Go's filepath.Base
    if name.is_empty() {
        "/".into()
    } else {
        name.to_string()
    }
}

fn stat_header(stat: &Value) -> String {
    base64::engine::general_purpose::STANDARD.encode(stat.to_string())
}

/// `HEAD /containers/{id}/archive`
pub async fn head(daemon: &Arc<Daemon>, reference: &str, ask: Ask) -> Result<Answer> {
    let path = path_of(&ask)?;
    let entry = daemon.containers.find(reference)?;
    let (daemon, id) = (daemon.clone(), reference.to_string());
    let told = blocking(move || {
        let place = Place::of(&daemon, &entry)?;
        let found = place
            .find(&path, path.ends_with("/.") || path.ends_with('/'))
            .ok_or_else(|| missing(&id, &path))?;
        Ok(stat_header(&stat(&last(&path), &found.meta, &found.link)))
    });
    let head = http::answer(StatusCode::OK).header(STAT, told.await?);
    Ok(http::with(head, Body::empty()))
}

/// `GET /containers/{id}/archive`
pub async fn get(daemon: &Arc<Daemon>, reference: &str, ask: Ask) -> Result<Answer> {
    let path = path_of(&ask)?;
    let entry = daemon.containers.find(reference)?;
    let (daemon, id) = (daemon.clone(), reference.to_string());
    let (told, node) = blocking(move || {
        let place = Place::of(&daemon, &entry)?;
        let follow = path.ends_with("/.") || path.ends_with('/');
        let found = place
            .find(&path, follow)
            .ok_or_else(|| missing(&id, &path))?;
        let name = last(&path);
        let told = stat_header(&stat(&name, &found.meta, &found.link));
        // SOURCE: moby `daemon/archive_unix.go`: only a folder's path ends so
        if follow && !found.meta.is_dir() {
            return Err(Fault::server(format!("{path}: not a directory")));
        }
        Ok((told, (place, found, name)))
    })
    .await?;
    let (place, found, name) = node;
    let body = out::stream(move |tar| place.write(tar, &found, &name));
    let head = http::answer(StatusCode::OK)
        .header(STAT, told)
        .header(header::CONTENT_TYPE, "application/x-tar");
    Ok(http::with(head, Body::from_stream(body)))
}

/// `PUT /containers/{id}/archive`
pub async fn put(daemon: &Arc<Daemon>, reference: &str, ask: Ask) -> Result<Answer> {
    let path = crate::create::mounts::clean(&path_of(&ask)?);
    let entry = daemon.containers.find(reference)?;
    let no_overwrite = ask.query.flag("noOverwriteDirNonDir");
    let copy_owner = ask.query.flag("copyUIDGID");
    let worker = daemon.clone();
    let temp = blocking(move || worker.temp()).await?;
    let archive = temp.path().join("archive");
    crate::images::spool(ask.body, archive.clone()).await?;
    let (daemon, id) = (daemon.clone(), reference.to_string());
    blocking(move || {
        let place = Place::of(&daemon, &entry)?;
        let found = place.find(&path, true).ok_or_else(|| missing(&id, &path))?;
        if !found.meta.is_dir() {
            return Err(Fault::bad("extraction point is not a directory"));
        }
        if let Some(mount) = entry.record.mounts.iter().find(|m| {
            m.read_only && (path == m.target || path.starts_with(&format!("{}/", m.target)))
        }) {
            return Err(Fault::forbidden(format!(
                "mounted volume is marked read-only: {}",
                mount.target
            )));
        }
        let host = Wanted::read(&entry.record.body)?;
        let in_mount = entry
            .record
            .mounts
            .iter()
            .any(|m| path == m.target || path.starts_with(&format!("{}/", m.target)));
        if host.host.read_only && !in_mount {
            return Err(Fault::forbidden("container rootfs is marked read-only"));
        }
        let archive = plain(fs::File::open(&archive)?)?;
        let owner = match copy_owner {
            true => owner(&daemon, &entry, &host, &place)?,
            false => None,
        };
        let rules = Rules {
            no_overwrite,
            owner,
        };
        place.unpack(archive, &found, &rules)?;
        drop(temp);
        Ok(())
    })
    .await?;
    Ok(http::empty(StatusCode::OK))
}

/// Whose the container's files are when they are to be its user's; none for a container without one.
///
/// SOURCE: moby `daemon/archive_tarcopyoptions_unix.go`
fn owner(
    daemon: &Daemon,
    entry: &Entry,
    wanted: &Wanted,
    place: &Place,
) -> Result<Option<(u32, u32)>> {
    let image = daemon.images.resolve(&entry.record.image_name)?;
    let image = image.map(|i| i.config.user).unwrap_or_default();
    let user = match wanted.user.as_str() {
        "" => image.as_str(),
        own => own,
    };
    if user.is_empty() {
        return Ok(None);
    }
    let (uid, gid) = accounts::ids(user, &|path: &str| place.read(path))?;
    let number = |id: i64| {
        u32::try_from(id).map_err(|_| Fault::bad(format!("{id} is no number of a user or group")))
    };
    Ok(Some((number(uid)?, number(gid)?)))
}

/// `GET /containers/{id}/changes`
pub async fn changes(daemon: &Arc<Daemon>, reference: &str) -> Result<Answer> {
    let entry = daemon.containers.find(reference)?;
    let daemon = daemon.clone();
    let list = blocking(move || {
        let upper = daemon.machine.layer(crate::NAMESPACE, &entry.record.id);
        let image = daemon.images.resolve(&entry.record.image_name)?;
        let layers = image.map(|i| i.layers).unwrap_or_default();
        Ok(out::changes(&upper, &layers)?)
    });
    Ok(http::json(&Value::Array(list.await?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_gos() {
        for (mode, wanted) in [
            (0o100_644, 0o644),
            (0o040_755, 0x8000_0000 | 0o755),
            (0o120_777, 0x0800_0000 | 0o777),
            (0o104_755, 0x0080_0000 | 0o755),
            (0o041_777, 0x8010_0000 | 0o777),
        ] {
            assert_eq!(go_mode(mode), wanted, "{mode:o}");
        }
    }

    #[test]
    fn last_names_are_found() {
        for (path, wanted) in [
            ("/etc/passwd", "passwd"),
            ("/etc/", "etc"),
            ("/", "/"),
            ("a", "a"),
            ("/.", "."),
            ("/etc/.", "."),
        ] {
            assert_eq!(last(path), wanted);
        }
    }
}
