//! Layer blobs as streams: decompressed by their magic, hashed, and bounded.

use crate::{Error, io};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{BufReader, Read, Write},
    path::Path,
};

/// The most that one layer may unpack to: past it the layer is taken for a decompression bomb.
const UNPACKED_BYTES_MAX: u64 = 64 << 30;
/// What a layer may unpack to, whatever its blob's size, and how many times its size beyond that.
const BOMB_BYTES: u64 = 2 << 30;
const BOMB_RATIO: u64 = 256;

/// Reads a blob as plain tar, whichever compression it has.
pub(crate) fn open(path: &Path) -> Result<Box<dyn Read>, Error> {
    let mut file = fs::File::open(path).map_err(io(path))?;
    let mut magic = [0u8; 4];
    let n = file.read(&mut magic).map_err(io(path))?;
    let blob_bytes = file.metadata().map_err(io(path))?.len();
    let file = BufReader::with_capacity(1 << 16, fs::File::open(path).map_err(io(path))?);
    let plain: Box<dyn Read> = match &magic[..n] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        // a frame, or one that says it is to be skipped
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            let mut decoder = zstd::Decoder::with_buffer(file).map_err(io(path))?;
            // 128 MiB: what `zstd` itself takes without being asked
            decoder.window_log_max(27).map_err(io(path))?;
            Box::new(decoder)
        }
        _ => return Ok(Box::new(file)),
    };
    let allowed = blob_bytes
        .saturating_mul(BOMB_RATIO)
        .saturating_add(BOMB_BYTES);
    Ok(Box::new(Bounded {
        inner: plain,
        left: allowed.min(UNPACKED_BYTES_MAX),
    }))
}

/// Ends in an error past so many bytes.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            std::io::Error::other(
                "it unpacks to so much more than its own size that it is taken for a decompression bomb",
            )
        })?;
        Ok(n)
    }
}

/// A reader or writer that hashes and counts what passes.
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
                "it has more than {UNPACKED_BYTES_MAX} bytes"
            )));
        }
        Ok(n)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hash.update(&buf[..n]);
        self.count += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
