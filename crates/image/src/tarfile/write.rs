//! Headers, written canonically: ustar, with a PAX header before it for what ustar can't say.

use super::{BLOCK, Kind, Member, padding};

/// The two empty blocks that end an archive.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The most that an octal field of 12 bytes can say.
const OCTAL_11_MAX: u64 = 0o777_7777_7777;
/// The most that an octal field of 8 bytes can say.
const OCTAL_7_MAX: u64 = 0o777_7777;

/// Everything that comes before the member's content.
pub(crate) fn header(member: &Member) -> Vec<u8> {
    let mut path = member.path.clone();
    if member.kind == Kind::Folder {
        path.push(b'/');
    }
    let mut records = Vec::new();
    if member.uid as u64 > OCTAL_7_MAX {
        record(&mut records, b"uid", member.uid.to_string().as_bytes());
    }
    if member.gid as u64 > OCTAL_7_MAX {
        record(&mut records, b"gid", member.gid.to_string().as_bytes());
    }
    if member.mtime < 0 || member.mtime as u64 > OCTAL_11_MAX {
        record(&mut records, b"mtime", member.mtime.to_string().as_bytes());
    }
    if member.size > OCTAL_11_MAX {
        record(&mut records, b"size", member.size.to_string().as_bytes());
    }
    for (name, value) in &member.xattrs {
        let key = [b"SCHILY.xattr.", name.as_slice()].concat();
        record(&mut records, &key, value);
    }
    let split = split_path(&path);
    if split.is_none() {
        record(&mut records, b"path", &path);
    }
    if member.target.len() > 100 || !member.target.is_ascii() {
        record(&mut records, b"linkpath", &member.target);
    }

    let mut out = Vec::with_capacity(BLOCK);
    if !records.is_empty() {
        let mut pax = Block::new(b'x');
        let base = path.iter().rev().position(|b| *b == b'/');
        let base = base.map_or(&path[..], |from_end| &path[path.len() - from_end..]);
        pax.bytes(0, 100, &[b"PaxHeaders.0/", base].concat());
        pax.octal(124, 12, records.len() as u64);
        out.extend_from_slice(&pax.done());
        let fill = padding(records.len() as u64);
        out.extend_from_slice(&records);
        out.resize(out.len() + fill, 0);
    }
    let mut block = Block::new(match member.kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::SymLink => b'2',
        Kind::CharDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Folder => b'5',
        Kind::Fifo => b'6',
    });
    let (prefix, name) = split.unwrap_or((b"", &path[..]));
    block.bytes(0, 100, name);
    block.bytes(345, 155, prefix);
    block.octal(100, 8, u64::from(member.mode & 0o7777));
    block.octal(108, 8, u64::from(member.uid));
    block.octal(116, 8, u64::from(member.gid));
    block.octal(124, 12, member.size);
    block.octal(136, 12, member.mtime.max(0) as u64);
    block.bytes(157, 100, &member.target);
    if matches!(member.kind, Kind::CharDevice | Kind::BlockDevice) {
        block.octal(329, 8, u64::from(member.device.0));
        block.octal(337, 8, u64::from(member.device.1));
    }
    out.extend_from_slice(&block.done());
    out
}

/// Prefix and name of ustar; None when the path fits neither.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= 100 {
        return Some((b"", path));
    }
    // the name keeps a folder's slash at its end
    let end = path.len() - usize::from(path.ends_with(b"/"));
    let cut = (0..end.min(156))
        .rev()
        .find(|at| path[*at] == b'/' && *at > 0)?;
    let (prefix, name) = (&path[..cut], &path[cut + 1..]);
    (name.len() <= 100 && !name.is_empty()).then_some((prefix, name))
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

struct Block([u8; BLOCK]);

impl Block {
    fn new(kind: u8) -> Block {
        let mut block = [0; BLOCK];
        block[156] = kind;
        block[257..263].copy_from_slice(b"ustar\0");
        block[263..265].copy_from_slice(b"00");
        let mut block = Block(block);
        for at in [100, 108, 116] {
            block.octal(at, 8, 0);
        }
        block.octal(136, 12, 0);
        block
    }

    /// As much of the value as fits: what doesn't is in the PAX header.
    fn bytes(&mut self, at: usize, room: usize, value: &[u8]) {
        let n = value.len().min(room);
        self.0[at..at + n].copy_from_slice(&value[..n]);
    }

    /// Zero where the value is too great: then the PAX header has it.
    fn octal(&mut self, at: usize, room: usize, value: u64) {
        let digits = room - 1;
        let text = format!("{value:0digits$o}");
        let text = if text.len() > digits {
            "0".repeat(digits)
        } else {
            text
        };
        self.0[at..at + digits].copy_from_slice(text.as_bytes());
    }

    fn done(mut self) -> [u8; BLOCK] {
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|b| u32::from(*b)).sum();
        let text = format!("{sum:06o}\0 ");
        self.0[148..156].copy_from_slice(text.as_bytes());
        self.0
    }
}
