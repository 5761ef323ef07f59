//! Layer blobs: decompression by their magic, safe unpacking, whiteouts as overlayfs wants them.

use crate::{Error, io};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{BufReader, Read},
    os::unix::fs::FileTypeExt,
    path::{Component, Path},
};

/// The most that one layer may unpack to: past it the layer is taken for a decompression bomb.
const UNPACKED_BYTES_MAX: u64 = 64 << 30;

/// Reads a blob as plain tar, whichever compression it has.
pub(crate) fn open(path: &Path) -> Result<Box<dyn Read>, Error> {
    let mut file = fs::File::open(path).map_err(io(path))?;
    let mut magic = [0u8; 4];
    let n = file.read(&mut magic).map_err(io(path))?;
    let file = BufReader::with_capacity(1 << 16, fs::File::open(path).map_err(io(path))?);
    Ok(match &magic[..n] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::with_buffer(file).map_err(io(path))?),
        _ => Box::new(file),
    })
}

/// A reader that hashes and counts what passes.
pub(crate) struct Hashing<R> {
    pub inner: R,
    pub hash: Sha256,
    pub count: u64,
}

impl<R> Hashing<R> {
    pub fn new(inner: R) -> Self {
        Hashing {
            inner,
            hash: Sha256::new(),
            count: 0,
        }
    }
    pub fn digest(self) -> String {
        format!("sha256:{}", hex::encode(self.hash.finalize()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hash.update(&buf[..n]);
        self.count += n as u64;
        if self.count > UNPACKED_BYTES_MAX {
            return Err(std::io::Error::other(format!(
                "layer unpacks to more than {UNPACKED_BYTES_MAX} bytes"
            )));
        }
        Ok(n)
    }
}

/// Unpacks the tar stream of `blob` into the empty folder `into` and returns its diff id.
/// Names are confined to `into`: absolute and `..` names are refused, links are never followed out of it.
pub(crate) fn unpack(blob: &Path, into: &Path) -> Result<String, Error> {
    let mut reader = Hashing::new(open(blob)?);
    {
        let mut archive = tar::Archive::new(&mut reader);
        archive.set_preserve_permissions(true);
        archive.set_preserve_ownerships(rustix::process::geteuid().is_root());
        archive.set_preserve_mtime(true);
        archive.set_unpack_xattrs(false);
        for entry in archive.entries().map_err(io(blob))? {
            let mut entry = entry.map_err(io(blob))?;
            let path = entry.path().map_err(io(blob))?.into_owned();
            if path.components().any(|c| matches!(c, Component::ParentDir)) {
                return Err(Error::Corrupt {
                    digest: blob.display().to_string(),
                    why: format!(
                        "the layer holds the path {}, which leaves the image",
                        path.display()
                    ),
                });
            }
            if !whiteout(&path, into)? {
                entry.unpack_in(into).map_err(io(blob))?;
            }
        }
    }
    // What follows the archive's end marker belongs to the digest as well.
    std::io::copy(&mut reader, &mut std::io::sink()).map_err(io(blob))?;
    Ok(reader.digest())
}

/// OCI whiteouts (image-spec, layer.md) to overlayfs ones: `.wh.x` → char device 0:0, `.wh..wh..opq` → an xattr.
fn whiteout(path: &Path, into: &Path) -> Result<bool, Error> {
    let Some(name) = path
        .file_name()
        .and_then(|n| n.to_str())
        .and_then(|n| n.strip_prefix(".wh."))
    else {
        return Ok(false);
    };
    let parent = path.parent().unwrap_or(Path::new(""));
    // The parent must be a real folder inside `into`, not a link out of it.
    let mut dir = into.to_path_buf();
    for part in parent
        .components()
        .filter(|c| matches!(c, Component::Normal(_)))
    {
        dir.push(part);
        match fs::symlink_metadata(&dir) {
            Ok(m) if m.is_dir() => {}
            Ok(_) => return Ok(true),
            Err(_) => fs::create_dir(&dir).map_err(io(&dir))?,
        }
    }
    if name == ".wh..opq" {
        rustix::fs::setxattr(
            &dir,
            "trusted.overlay.opaque",
            b"y",
            rustix::fs::XattrFlags::empty(),
        )
        .map_err(|e| io(&dir)(e.into()))?;
        return Ok(true);
    }
    let target = dir.join(name);
    match fs::symlink_metadata(&target) {
        Ok(m) if m.file_type().is_char_device() => return Ok(true),
        Ok(m) if m.is_dir() => fs::remove_dir_all(&target).map_err(io(&target))?,
        Ok(_) => fs::remove_file(&target).map_err(io(&target))?,
        Err(_) => {}
    }
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &target,
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::empty(),
        0,
    )
    .map_err(|e| io(&target)(e.into()))?;
    Ok(true)
}
