//! One block of a layer, compressed always to the same bytes.

use crate::client::Compression;
use flate2::{Compress, FlushCompress, Status};

/// Bytes of a block. It belongs to the format of what was made before: a change needs a new [`MAKER`].
pub(crate) const BLOCK_BYTES: usize = 1 << 20;
/// Who makes it now. What others made is made again as they did it, so all of them stay in here.
const MAKER: u32 = 2;
/// The first that keeps as it is what doesn't compress, instead of finding that out at 80 MB/s.
const NOISE_SINCE: u32 = 2;
const GZIP_LEVEL: u32 = 3;
const ZSTD_LEVEL: i32 = 3;

/// How a layer is compressed, to the bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    pub kind: Compression,
    pub maker: u32,
}

impl Way {
    /// As it is done now.
    pub fn now(kind: Compression) -> Way {
        Way { kind, maker: MAKER }
    }

    /// As another version did it; none: a later one did.
    pub fn of(kind: Compression, maker: u32) -> Option<Way> {
        (1..=MAKER).contains(&maker).then_some(Way { kind, maker })
    }

    /// All ways of this kind, the present one first.
    pub fn all(kind: Compression) -> impl Iterator<Item = Way> {
        (1..=MAKER).rev().map(move |maker| Way { kind, maker })
    }
}

/// Noise is looked for in pieces of so many bytes, at two places of so many in each.
const PIECE_BYTES: usize = 32 << 10;
const SAMPLE_BYTES: usize = 4 << 10;
/// What a stored block of deflate has at most.
const STORED_BYTES_MAX: usize = 0xffff;

/// Whether the bytes are as evenly spread as those of pictures, archives and ciphers, which a Huffman code can't make
/// smaller by a hundredth. Whole numbers alone, so that each machine says the same.
fn is_noise(piece: &[u8]) -> bool {
    if piece.len() < 4 * SAMPLE_BYTES {
        return false;
    }
    let mut counts = [0u64; 256];
    let middle = piece.len() / 2;
    for start in [0, middle] {
        for byte in &piece[start..start + SAMPLE_BYTES] {
            counts[usize::from(*byte)] += 1;
        }
    }
    let total = 2 * SAMPLE_BYTES as u64;
    // the chance that two bytes are the same: 1/256 for noise, of so few bytes 1.03 of that
    let pairs: u64 = counts.iter().map(|n| n * n).sum();
    pairs * 256 * 100 < total * total * 106
}

/// Compresses one block; `last` ends a gzip stream.
pub(crate) fn block(way: Way, bytes: &[u8], last: bool) -> std::io::Result<Vec<u8>> {
    if way.kind == Compression::Zstd {
        return zstd::bulk::compress(bytes, ZSTD_LEVEL);
    }
    let mut out = Vec::with_capacity(bytes.len() / 2 + 1024);
    let mut deflate = Compress::new(flate2::Compression::new(GZIP_LEVEL), false);
    if way.maker < NOISE_SINCE || bytes.is_empty() {
        packed(&mut deflate, bytes, last, &mut out)?;
        return Ok(out);
    }
    // runs of pieces that are noise, or that are none
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut pieces = rest.chunks(PIECE_BYTES);
        let noise = pieces.next().is_some_and(is_noise);
        let more = pieces.take_while(|piece| is_noise(piece) == noise).count();
        let run = rest.len().min((1 + more) * PIECE_BYTES);
        let (run, after) = rest.split_at(run);
        let ends = last && after.is_empty();
        if noise {
            stored(run, ends, &mut out);
        } else {
            packed(&mut deflate, run, ends, &mut out)?;
            deflate.reset();
        }
        rest = after;
    }
    Ok(out)
}

/// Blocks of deflate that hold the bytes as they are. What came before ended at a whole byte.
fn stored(bytes: &[u8], ends: bool, out: &mut Vec<u8>) {
    let count = bytes.len().div_ceil(STORED_BYTES_MAX);
    out.reserve(bytes.len() + 5 * count);
    for (at, part) in bytes.chunks(STORED_BYTES_MAX).enumerate() {
        let length = part.len() as u16;
        out.push(u8::from(ends && at + 1 == count));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(part);
    }
}

/// Deflates; ends at a whole byte.
fn packed(
    deflate: &mut Compress,
    bytes: &[u8],
    ends: bool,
    out: &mut Vec<u8>,
) -> std::io::Result<()> {
    let flush = match ends {
        true => FlushCompress::Finish,
        false => FlushCompress::Full,
    };
    loop {
        let used = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX);
        let room = out.capacity() - out.len();
        let status = deflate
            .compress_vec(&bytes[used.min(bytes.len())..], out, flush)
            .map_err(std::io::Error::other)?;
        let done = match ends {
            true => status == Status::StreamEnd,
            // all is out when it didn't need the room that was left
            false => deflate.total_in() == bytes.len() as u64 && out.len() < out.capacity(),
        };
        if done {
            return Ok(());
        }
        if room < 1024 || out.len() == out.capacity() {
            out.reserve(bytes.len() / 4 + 1024);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_compress_is_kept_as_it_is() {
        let mut state = 88_172_645_463_325_252u64;
        let mut noise = Vec::new();
        while noise.len() < BLOCK_BYTES {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            noise.extend_from_slice(&state.to_le_bytes());
        }
        let text = b"fn main() { println!(\"hello\"); }\n".repeat(BLOCK_BYTES / 32);
        let way = Way::now(Compression::Gzip);
        let packed = block(
            way,
            &std::fs::read(std::env::current_exe().unwrap()).unwrap(),
            true,
        )
        .unwrap();
        let mut mixed = Vec::new();
        for (at, part) in noise.chunks(100_000).enumerate() {
            mixed.extend_from_slice(part);
            mixed.extend_from_slice(&text[..at * 10_000]);
        }
        for (name, bytes, most) in [
            ("noise", noise.as_slice(), BLOCK_BYTES + 1000),
            ("a little noise", &noise[..1000], 1020),
            ("text", text.as_slice(), 20_000),
            ("zeros", &[0; BLOCK_BYTES], 20_000),
            ("what is packed already", &packed[..500_000], 501_000),
            ("both", mixed.as_slice(), noise.len() + 60_000),
            ("nothing", &[], 10),
        ] {
            for (end, way) in [
                (true, way),
                (false, way),
                (true, Way::of(Compression::Gzip, 1).unwrap()),
            ] {
                let made = block(way, bytes, end).unwrap();
                assert!(made.len() <= most, "{name} {way:?}: {} bytes", made.len());
                let mut back = Vec::new();
                let made = match end {
                    true => made,
                    false => [made, block(way, &[], true).unwrap()].concat(),
                };
                let mut reader = flate2::read::DeflateDecoder::new(made.as_slice());
                std::io::Read::read_to_end(&mut reader, &mut back).unwrap();
                assert!(back == bytes, "{name} {way:?}");
                assert_eq!(reader.total_in(), made.len() as u64, "{name}");
            }
        }
        assert!(is_noise(&noise[..PIECE_BYTES]) && !is_noise(&text[..PIECE_BYTES]));
    }
}
