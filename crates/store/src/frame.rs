//! One frame is one batch of operations: what one `pwrite` writes and one `fdatasync` makes durable.
//!
//! Pure bytes, no files. Layout: `FORMAT.md`.

/// Frames start and end on this boundary, so that no sector holding acknowledged bytes is ever written again.
pub(crate) const SECTOR_BYTES: usize = 512;
pub(crate) const HEADER_BYTES: usize = 32;
/// kind (1), key length (4), value length (4)
pub(crate) const OP_HEADER_BYTES: usize = 9;

const MAGIC: [u8; 4] = *b"KFRM";
const KIND_PUT: u8 = 1;
const KIND_DELETE: u8 = 2;
/// In place of a value length: a delete without a `last` value of its own.
const NO_VALUE: u32 = u32::MAX;

/// `n` rounded up to whole sectors.
pub(crate) fn padded(n: usize) -> usize {
    n.next_multiple_of(SECTOR_BYTES)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) payload_bytes: u32,
    payload_crc: u32,
    pub(crate) first_revision: u64,
    pub(crate) ops: u32,
}

impl Header {
    /// Bytes from the start of this frame to the start of the next.
    pub(crate) fn frame_bytes(&self) -> u64 {
        padded(HEADER_BYTES + self.payload_bytes as usize) as u64
    }

    /// `None` when these bytes aren't a header written with this salt.
    pub(crate) fn decode(bytes: &[u8], salt: u64) -> Option<Header> {
        let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        if bytes[..4] != MAGIC || u32_at(bytes, 4) != crc(salt, &bytes[8..]) {
            return None;
        }
        Some(Header {
            payload_bytes: u32_at(bytes, 8),
            payload_crc: u32_at(bytes, 12),
            first_revision: u64_at(bytes, 16),
            ops: u32_at(bytes, 24),
        })
    }

    pub(crate) fn payload_is_intact(&self, payload: &[u8], salt: u64) -> bool {
        payload.len() == self.payload_bytes as usize && crc(salt, payload) == self.payload_crc
    }
}

/// A frame being built in a buffer that is used again and again.
#[derive(Default)]
pub(crate) struct Builder {
    buf: Vec<u8>,
    ops: u32,
}

/// A place to go back to when a commit of the batch turns out not to apply.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    len: usize,
    ops: u32,
}

impl Builder {
    /// Starts an empty frame; gives back memory that an unusually large one took.
    pub(crate) fn start(&mut self, keep_bytes_max: usize) {
        self.buf.clear();
        self.buf.shrink_to(keep_bytes_max);
        self.buf.resize(HEADER_BYTES, 0);
        self.ops = 0;
    }

    pub(crate) fn ops(&self) -> u32 {
        self.ops
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark {
            len: self.buf.len(),
            ops: self.ops,
        }
    }

    pub(crate) fn rewind(&mut self, mark: Mark) {
        self.buf.truncate(mark.len);
        self.ops = mark.ops;
    }

    pub(crate) fn put(&mut self, key: &str, value: &[u8]) {
        self.op(KIND_PUT, key, value.len() as u32, value);
    }

    pub(crate) fn delete(&mut self, key: &str, last: Option<&[u8]>) {
        let last_bytes = last.map_or(NO_VALUE, |last| last.len() as u32);
        self.op(KIND_DELETE, key, last_bytes, last.unwrap_or_default());
    }

    fn op(&mut self, kind: u8, key: &str, value_bytes: u32, value: &[u8]) {
        self.buf.push(kind);
        self.buf
            .extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.buf.extend_from_slice(&value_bytes.to_le_bytes());
        self.buf.extend_from_slice(key.as_bytes());
        self.buf.extend_from_slice(value);
        self.ops += 1;
    }

    /// Size of the finished frame.
    pub(crate) fn frame_bytes(&self) -> u64 {
        padded(self.buf.len()) as u64
    }

    /// Seals the frame: checksums and padding.
    pub(crate) fn finish(&mut self, salt: u64, first_revision: u64) -> &[u8] {
        let payload = &self.buf[HEADER_BYTES..];
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        header[12..16].copy_from_slice(&crc(salt, payload).to_le_bytes());
        header[16..24].copy_from_slice(&first_revision.to_le_bytes());
        header[24..28].copy_from_slice(&self.ops.to_le_bytes());
        let header_crc = crc(salt, &header[8..]);
        header[4..8].copy_from_slice(&header_crc.to_le_bytes());
        self.buf[..HEADER_BYTES].copy_from_slice(&header);
        self.buf.resize(padded(self.buf.len()), 0);
        &self.buf
    }
}

/// One operation as logged.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Logged<'a> {
    Put {
        key: &'a str,
        value: &'a [u8],
    },
    Delete {
        key: &'a str,
        last: Option<&'a [u8]>,
    },
}

/// The operations of a payload whose checksum held. An `Err` therefore means a bug or a forgery, not bit rot.
pub(crate) fn decode_ops(payload: &[u8]) -> impl Iterator<Item = Result<Logged<'_>, String>> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let op = decode_op(&mut rest);
        if op.is_err() {
            rest = &[];
        }
        Some(op)
    })
}

fn decode_op<'a>(rest: &mut &'a [u8]) -> Result<Logged<'a>, String> {
    let mut take = |n: usize| -> Result<&'a [u8], String> {
        let (taken, left) = rest
            .split_at_checked(n)
            .ok_or_else(|| format!("an operation of {n} more bytes ends outside its frame"))?;
        *rest = left;
        Ok(taken)
    };
    let header = take(OP_HEADER_BYTES)?;
    let (kind, key_bytes, value_bytes) = (header[0], u32_at(header, 1), u32_at(header, 5));
    let key = std::str::from_utf8(take(key_bytes as usize)?)
        .map_err(|_| "a key is not UTF-8".to_owned())?;
    match kind {
        KIND_PUT => Ok(Logged::Put {
            key,
            value: take(value_bytes as usize)?,
        }),
        KIND_DELETE if value_bytes == NO_VALUE => Ok(Logged::Delete { key, last: None }),
        KIND_DELETE => Ok(Logged::Delete {
            key,
            last: Some(take(value_bytes as usize)?),
        }),
        other => Err(format!("unknown operation kind {other}")),
    }
}

/// CRC-32 of the bytes, begun with a segment's salt: what another use of the same disk blocks left there never fits.
pub(crate) fn crc(salt: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// Little-endian field of a header whose size the caller has checked.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

/// Little-endian field of a header whose size the caller has checked.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Vec<u8> {
        let mut builder = Builder::default();
        builder.start(0);
        builder.put("a/1", b"one");
        let mark = builder.mark();
        builder.put("a/2", b"not to be");
        builder.rewind(mark);
        builder.delete("a/3", None);
        builder.delete("a/4", Some(b""));
        builder.finish(7, 42).to_vec()
    }

    #[test]
    fn round_trip() {
        let bytes = frame();
        assert_eq!(bytes.len(), SECTOR_BYTES);
        let header = Header::decode(&bytes, 7).unwrap();
        assert_eq!((header.first_revision, header.ops), (42, 3));
        let payload = &bytes[HEADER_BYTES..][..header.payload_bytes as usize];
        assert!(header.payload_is_intact(payload, 7));
        let ops: Vec<_> = decode_ops(payload).collect::<Result<_, _>>().unwrap();
        assert_eq!(
            ops,
            [
                Logged::Put {
                    key: "a/1",
                    value: b"one"
                },
                Logged::Delete {
                    key: "a/3",
                    last: None
                },
                Logged::Delete {
                    key: "a/4",
                    last: Some(b"")
                },
            ]
        );
    }

    #[test]
    fn another_salt_or_any_flipped_bit_is_noticed() {
        let bytes = frame();
        assert_eq!(Header::decode(&bytes, 8), None);
        let used = HEADER_BYTES + Header::decode(&bytes, 7).unwrap().payload_bytes as usize;
        for bit in 0..used * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let intact = Header::decode(&flipped, 7).is_some_and(|header| {
                flipped[HEADER_BYTES..]
                    .get(..header.payload_bytes as usize)
                    .is_some_and(|payload| header.payload_is_intact(payload, 7))
            });
            assert!(!intact, "bit {bit}");
        }
    }

    #[test]
    fn malformed_operations_are_errors() {
        let check = |name: &str, payload: &[u8]| {
            assert!(decode_ops(payload).any(|op| op.is_err()), "{name}");
        };
        check("short header", &[1, 0, 0]);
        check("key past the end", &[1, 9, 0, 0, 0, 0, 0, 0, 0, b'k']);
        check("value past the end", &[1, 1, 0, 0, 0, 9, 0, 0, 0, b'k']);
        check("unknown kind", &[9, 1, 0, 0, 0, 0, 0, 0, 0, b'k']);
        check("not UTF-8", &[1, 1, 0, 0, 0, 0, 0, 0, 0, 0xff]);
    }
}
