//! How the two outputs share one connection when there is no terminal.
//!
//! Source: moby `pkg/stdcopy`: a byte for the stream, three zeroes, the length as four bytes (big endian), the bytes.

use bytes::{BufMut, Bytes, BytesMut};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout = 1,
    Stderr = 2,
}

/// One piece of output with its header.
pub fn frame(stream: Stream, bytes: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + bytes.len());
    out.put_u8(stream as u8);
    out.put_bytes(0, 3);
    out.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
    out.freeze()
}

/// As it is for a terminal, framed otherwise.
pub fn piece(stream: Stream, bytes: Bytes, raw: bool) -> Bytes {
    if raw { bytes } else { frame(stream, &bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_tells_its_stream_and_length() {
        let check = |stream, bytes: &[u8], wanted: &[u8]| {
            assert_eq!(frame(stream, bytes), wanted);
        };
        check(Stream::Stdout, b"hi\n", b"\x01\0\0\0\0\0\0\x03hi\n");
        check(Stream::Stderr, b"", b"\x02\0\0\0\0\0\0\0");
        let long = vec![b'x'; 0x10203];
        assert_eq!(
            frame(Stream::Stdout, &long)[..8],
            *b"\x01\0\0\0\0\x01\x02\x03"
        );
    }
}
