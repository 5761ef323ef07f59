//! Streams decompressed by their first bytes (`moby/go-archive/compression`): gzip, bzip2, xz, zstd, or plain.

use std::io::{BufRead, BufReader, Chain, Cursor, Read};

/// A stream may unpack to so many bytes: past it, it is taken for a decompression bomb.
pub const UNPACKED_BYTES_MAX: u64 = 64 << 30;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

/// As many bytes as [`Compression::of`] looks at.
const MAGIC_MAX: usize = 6;

impl Compression {
    /// By a stream's first bytes.
    pub fn of(start: &[u8]) -> Compression {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Compression::Gzip,
            [b'B', b'Z', b'h', ..] => Compression::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // a skippable frame comes first
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }
}

type Whole<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// The plain bytes of a stream, no more than [`UNPACKED_BYTES_MAX`].
///
/// # Errors
/// When the stream can't be read, or isn't what its first bytes say.
pub fn decompress<'a, R: Read + 'a>(mut stream: R) -> std::io::Result<Box<dyn Read + 'a>> {
    let mut start = vec![];
    stream
        .by_ref()
        .take(MAGIC_MAX as u64)
        .read_to_end(&mut start)?;
    let compression = Compression::of(&start);
    let whole: Whole<R> = BufReader::with_capacity(64 << 10, Cursor::new(start).chain(stream));
    Ok(Box::new(Bounded {
        inner: plain(compression, whole)?,
        left: UNPACKED_BYTES_MAX,
    }))
}

fn plain<'a>(
    compression: Compression,
    stream: impl BufRead + 'a,
) -> std::io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(stream),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(stream)),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(stream)),
        Compression::Xz => Box::new(lzma_rust2::XzReader::new(stream, true)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(stream)?),
    })
}

struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            std::io::Error::other(format!(
                "it unpacks to more than {UNPACKED_BYTES_MAX} bytes"
            ))
        })?;
        Ok(n)
    }
}
