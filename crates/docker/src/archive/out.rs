//! Archives made and read.

use crate::{
    daemon::Daemon,
    error::{Fault, Result},
    http::{self, Answer},
    images::files::{self, Node},
};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{
    fs, io,
    io::{BufReader, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::mpsc;

const PIECE: usize = 64 << 10;

/// Bytes into a bounded channel.
struct Sink {
    send: mpsc::Sender<io::Result<Bytes>>,
    kept: Vec<u8>,
}

impl Sink {
    fn pass(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.kept);
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.send.blocking_send(Ok(bytes.into())).map_err(gone)
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.kept.extend_from_slice(bytes);
        if self.kept.len() >= PIECE {
            self.pass()?;
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        match self.kept.is_empty() {
            true => Ok(()),
            false => self.pass(),
        }
    }
}

pub type Tar<'a> = tar::Builder<&'a mut dyn Write>;

/// A tar that is written while it is read. An error breaks the connection: nothing half looks whole.
pub fn stream(
    write: impl FnOnce(&mut Tar<'_>) -> io::Result<()> + Send + 'static,
) -> impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (send, receive) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let mut sink = Sink {
            send: send.clone(),
            kept: Vec::new(),
        };
        let done = {
            let mut tar = tar::Builder::new(&mut sink as &mut dyn Write);
            tar.follow_symlinks(false);
            write(&mut tar).and_then(|()| tar.finish())
        };
        if let Err(e) = done.and_then(|()| sink.flush()) {
            // the client may be gone
            let _ = send.blocking_send(Err(e));
        }
    });
    crate::events::tokio_stream(receive)
}

/// One file, link, device or empty folder; sockets are passed over.
pub fn append(tar: &mut Tar<'_>, path: &Path, name: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.file_type().is_socket() {
        return Ok(());
    }
    let mut header = tar::Header::new_gnu();
    header.set_metadata(&meta);
    if meta.is_dir() {
        return named(tar, &mut header, &name.join(""), None, io::empty());
    }
    if meta.file_type().is_symlink() {
        header.set_size(0);
        let target = files::read_link(path)?;
        return named(tar, &mut header, name, Some(&target), io::empty());
    }
    if meta.is_file() {
        let file = files::open(path)?;
        // as long as it was, whatever is written to it meanwhile
        let padded = file.take(meta.len()).chain(io::repeat(0)).take(meta.len());
        return named(tar, &mut header, name, None, padded);
    }
    header.set_size(0);
    if meta.file_type().is_char_device() || meta.file_type().is_block_device() {
        let device = meta.rdev();
        header.set_device_major(rustix::fs::major(device))?;
        header.set_device_minor(rustix::fs::minor(device))?;
    }
    named(tar, &mut header, name, None, io::empty())
}

/// An entry under just this name, also one like `./a` or `/a`, which the archive's writer would make `a`, or refuse.
pub fn named<W: Write>(
    tar: &mut tar::Builder<W>,
    header: &mut tar::Header,
    name: &Path,
    link: Option<&Path>,
    content: impl Read,
) -> io::Result<()> {
    let bytes = name.as_os_str().as_bytes();
    if !bytes.starts_with(b"./") && !bytes.starts_with(b"/") {
        return match link {
            Some(link) => tar.append_link(header, name, link),
            None => tar.append_data(header, name, content),
        };
    }
    if let Some(link) = link {
        let target = link.as_os_str().as_bytes();
        if header.set_link_name_literal(target).is_err() {
            long(tar, tar::EntryType::GNULongLink, target)?;
        }
    }
    let field = &mut header.as_old_mut().name;
    if bytes.len() > field.len() {
        long(tar, tar::EntryType::GNULongName, bytes)?;
    }
    let header_name = &bytes[..bytes.len().min(100)];
    let field = &mut header.as_old_mut().name;
    field.fill(0);
    field[..header_name.len()].copy_from_slice(header_name);
    header.set_cksum();
    tar.append(header, content)
}

/// SOURCE: GNU tar's manual, `Extensions`: what doesn't fit the next header comes before it, with a zero at its end.
fn long<W: Write>(tar: &mut tar::Builder<W>, kind: tar::EntryType, text: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    let place = b"././@LongLink";
    header.as_old_mut().name[..place.len()].copy_from_slice(place);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(text.len() as u64 + 1);
    header.set_cksum();
    tar.append(&header, text.chain(&[0u8][..]))
}

/// What layers make, with all that is in it. What runs may take things away meanwhile: those below are left out then.
pub fn append_node(tar: &mut Tar<'_>, node: &Node, name: &Path) -> io::Result<()> {
    if !name.as_os_str().is_empty() {
        append(tar, node.place(), name)?;
    }
    if let Node::Folder(folders) = node {
        for (child, node) in files::children(folders)? {
            match append_node(tar, &node, &name.join(child)) {
                // nothing of it has been written
                Err(e) if files::has_gone(&e) => {}
                done => done?,
            }
        }
    }
    Ok(())
}

/// What layers make, as one archive.
pub fn tar_of(
    layers: Vec<PathBuf>,
) -> impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream(move |tar| append_node(tar, &Node::Folder(layers), Path::new("")))
}

/// `GET /containers/{id}/export`
pub async fn export(daemon: &Arc<Daemon>, reference: &str) -> Result<Answer> {
    let entry = daemon.containers.find(reference)?;
    let worker = daemon.clone();
    let record = entry.record.clone();
    let layers = crate::error::blocking(move || {
        let image = worker.images.resolve(&record.image_name)?;
        let image =
            image.ok_or_else(|| Fault::not_found(format!("No such image: {}", record.image)))?;
        let mut layers = image.layers;
        let upper = worker.machine.layer(crate::NAMESPACE, &record.id);
        if upper.is_dir() {
            layers.insert(0, upper);
        }
        Ok(layers)
    })
    .await?;
    daemon.tell("export", &entry, &[]);
    Ok(http::streamed("application/x-tar", tar_of(layers)))
}

/// What an archive is when it's decompressed: gzip and zstd are known by their first bytes.
pub fn plain(file: fs::File) -> io::Result<Box<dyn Read + Send>> {
    let mut file = BufReader::with_capacity(PIECE, file);
    let head = io::BufRead::fill_buf(&mut file)?;
    Ok(match head {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::with_buffer(file)?),
        [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', b'X', ..] => {
            return Err(io::Error::other(
                "bzip2 and xz archives are not supported by knarr: use gzip or zstd",
            ));
        }
        _ => Box::new(file),
    })
}

/// What the node put there to mount on: nobody wrote it.
pub fn is_mount_point(path: &Path, meta: &fs::Metadata) -> bool {
    const FOLDERS: [&str; 3] = ["/dev", "/proc", "/sys"];
    const FILES: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];
    let is = |list: &[&str]| list.iter().any(|p| Path::new(p) == path);
    (meta.is_dir() && is(&FOLDERS)) || (meta.is_file() && meta.len() == 0 && is(&FILES))
}

fn holds_mount_points(folder: &Path, shown: &Path) -> io::Result<bool> {
    let mut any = false;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !is_mount_point(&shown.join(entry.file_name()), &entry.metadata()?) {
            return Ok(false);
        }
        any = true;
    }
    Ok(any)
}

/// Paths that an upper layer changed (0), added (1) or took away (2).
pub fn changes(upper: &Path, layers: &[PathBuf]) -> io::Result<Vec<Value>> {
    let mut list = Vec::new();
    let mut left = vec![PathBuf::from("/")];
    while let Some(path) = left.pop() {
        let inside = upper.join(path.strip_prefix("/").unwrap_or(&path));
        let entries = match fs::read_dir(&inside) {
            Ok(entries) => entries,
            // nothing has been written
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = entry?;
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                // what runs took it away since the folder was listed
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let shown = path.join(entry.file_name());
            let below = files::Tree(layers).find(&shown.to_string_lossy(), false);
            let whiteout = meta.file_type().is_char_device() && meta.rdev() == 0;
            if is_mount_point(&shown, &meta) {
                continue;
            }
            let kind = match (whiteout, below.is_some()) {
                (true, _) => 2,
                (false, true) => 0,
                (false, false) => 1,
            };
            // made for what is mounted there, and nothing else
            let for_mounts =
                kind == 0 && meta.is_dir() && holds_mount_points(&entry.path(), &shown)?;
            if !for_mounts {
                list.push((shown.clone(), kind));
            }
            if meta.is_dir() {
                left.push(shown);
            }
        }
    }
    list.sort();
    let told = list.into_iter();
    Ok(told
        .map(|(path, kind)| json!({ "Path": path, "Kind": kind }))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    #[test]
    fn what_comes_and_goes_meanwhile_is_left_out_and_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (layer, secret) = (dir.path().join("layer"), dir.path().join("secret"));
        fs::create_dir(&layer).unwrap();
        fs::write(&secret, "the machine's").unwrap();
        fs::write(layer.join("stays"), "stays").unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let at = |number| layer.join(format!("goes-{number}"));
                for number in (0..20).cycle() {
                    fs::write(at(number), "goes").unwrap();
                    let old = at((number + 7) % 20);
                    let _ = fs::remove_file(&old);
                    let _ = std::os::unix::fs::symlink(&secret, &old);
                    let _ = fs::remove_file(&old);
                    let _ = fs::create_dir(&old);
                    let _ = fs::remove_dir(&old);
                    if done.load(Relaxed) {
                        break;
                    }
                }
            });
            let whole = |round| {
                let mut bytes = Vec::new();
                let mut tar: Tar<'_> = tar::Builder::new(&mut bytes as &mut dyn Write);
                tar.follow_symlinks(false);
                let node = Node::Folder(vec![layer.clone()]);
                append_node(&mut tar, &node, Path::new("")).map_err(|e| (round, e))?;
                tar.finish().map_err(|e| (round, e))?;
                drop(tar);
                let to = dir.path().join(format!("copy-{round}"));
                fs::create_dir(&to).map_err(|e| (round, e))?;
                files::copy_raw(&layer, &to).map_err(|e| (round, e))?;
                Ok::<_, (usize, io::Error)>((bytes, fs::read(to.join("stays"))))
            };
            let all: Result<Vec<_>, _> = (0..100).map(whole).collect();
            done.store(true, Relaxed);
            for (bytes, copied) in all.unwrap() {
                assert_eq!(copied.unwrap(), b"stays");
                let text = String::from_utf8_lossy(&bytes);
                assert!(text.contains("stays") && !text.contains("the machine's"));
            }
        });
    }
}
