//! Frame headers, both ways.

use bytes::{BufMut, BytesMut};

pub(crate) const VERSION: u16 = 3;
pub(crate) const FLAG_FIN: u8 = 1;
/// The opener takes no data back.
pub(crate) const FLAG_UNIDIRECTIONAL: u8 = 2;

pub(crate) const SYN_STREAM: u16 = 1;
pub(crate) const SYN_REPLY: u16 = 2;
pub(crate) const RST_STREAM: u16 = 3;
pub(crate) const SETTINGS: u16 = 4;
pub(crate) const PING: u16 = 6;
pub(crate) const GOAWAY: u16 = 7;
pub(crate) const HEADERS: u16 = 8;
pub(crate) const WINDOW_UPDATE: u16 = 9;

/// The eight bytes every frame begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    Control {
        version: u16,
        kind: u16,
        flags: u8,
        bytes: u32,
    },
    Data {
        stream: u32,
        flags: u8,
        bytes: u32,
    },
}

impl Head {
    pub(crate) fn decode(head: [u8; 8]) -> Head {
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let bytes = u32::from_be_bytes([0, head[5], head[6], head[7]]);
        let flags = head[4];
        match word >> 31 {
            0 => Head::Data {
                stream: word,
                flags,
                bytes,
            },
            _ => Head::Control {
                version: (word >> 16) as u16 & 0x7fff,
                kind: word as u16,
                flags,
                bytes,
            },
        }
    }
}

/// Appends a whole control frame. Payloads of ours are far below the 16 MiB that fit.
pub(crate) fn control(out: &mut BytesMut, kind: u16, flags: u8, payload: &[u8]) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | payload.len() as u32);
    out.put_slice(payload);
}

/// Appends the head of a data frame.
pub(crate) fn data_head(out: &mut BytesMut, stream: u32, flags: u8, bytes: usize) {
    out.put_u32(stream);
    out.put_u32(u32::from(flags) << 24 | bytes as u32);
}
