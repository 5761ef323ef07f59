//! What programs say of themselves: Go's build info and `cargo auditable`'s list, in sections of ELF files.

use super::packages::{Package, cargo_audit, go_modules};
use std::{fs::File, io::Read, os::unix::fs::FileExt};

/// No section that is read is longer, in bytes.
const SECTION_MAX: u64 = 16 << 20;
const SECTIONS_MAX: u64 = 10_000;

/// A number of an ELF file, in its own byte order.
struct Reader<'a> {
    file: &'a File,
    wide: bool,
    big: bool,
}

impl Reader<'_> {
    fn number(&self, bytes: &[u8]) -> u64 {
        let add = |sum: u64, b: &u8| sum << 8 | u64::from(*b);
        match self.big {
            true => bytes.iter().fold(0, add),
            false => bytes.iter().rev().fold(0, add),
        }
    }
    fn bytes(&self, at: u64, size: u64) -> Option<Vec<u8>> {
        if size > SECTION_MAX {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(size).ok()?];
        self.file.read_exact_at(&mut bytes, at).ok()?;
        Some(bytes)
    }
    /// Offset and size of the sections of these names.
    fn sections<const N: usize>(&self, names: [&str; N]) -> Option<[Option<(u64, u64)>; N]> {
        let head = self.bytes(0, if self.wide { 64 } else { 52 })?;
        let (table, size, count, names_at) = match self.wide {
            true => (&head[40..48], &head[58..60], &head[60..62], &head[62..64]),
            false => (&head[32..36], &head[46..48], &head[48..50], &head[50..52]),
        };
        let [table, size, count, names_at] = [table, size, count, names_at].map(|b| self.number(b));
        if !(40..=1024).contains(&size) || count > SECTIONS_MAX || names_at >= count {
            return None;
        }
        let all = self.bytes(table, size * count)?;
        let place = |section: &[u8]| match self.wide {
            true => (self.number(&section[24..32]), self.number(&section[32..40])),
            false => (self.number(&section[16..20]), self.number(&section[20..24])),
        };
        let section = |i: u64| {
            let at = usize::try_from(i * size).ok()?;
            all.get(at..at + usize::try_from(size).ok()?)
        };
        let (at, length) = place(section(names_at)?);
        let text = self.bytes(at, length)?;
        let mut found = [None; N];
        for section in (0..count).filter_map(section) {
            let name = usize::try_from(self.number(&section[..4])).ok()?;
            let name = text.get(name..)?.split(|b| *b == 0).next()?;
            if let Some(i) = names.iter().position(|n| n.as_bytes() == name) {
                found[i] = Some(place(section));
            }
        }
        Some(found)
    }
}

/// Packages of a program, if it is one that tells.
pub(crate) fn packages(file: &File, path: &str) -> Vec<Package> {
    let mut start = [0; 6];
    if file.read_exact_at(&mut start, 0).is_err() || start[..4] != *b"\x7fELF" {
        return vec![];
    }
    let reader = Reader {
        file,
        wide: start[4] == 2,
        big: start[5] == 2,
    };
    let Some([go, rust]) = reader.sections([".go.buildinfo", ".dep-v0"]) else {
        return vec![];
    };
    let bytes = |section: Option<(u64, u64)>| {
        let (at, size) = section?;
        reader.bytes(at, size)
    };
    let go = bytes(go).and_then(|b| build_info(&b));
    let mut found = go
        .map(|(go, text)| go_modules(&text, &go, path))
        .unwrap_or_default();
    if let Some(packed) = bytes(rust) {
        let mut text = String::new();
        let unpacked = flate2::read::ZlibDecoder::new(&packed[..])
            .take(SECTION_MAX)
            .read_to_string(&mut text);
        if unpacked.is_ok() {
            found.extend(cargo_audit(&text, path));
        }
    }
    found
}

/// Go's version and its list of modules (Go's `debug/buildinfo`, the format since 1.18).
fn build_info(section: &[u8]) -> Option<(String, String)> {
    let head = section.strip_prefix(b"\xff Go buildinf:")?;
    // two bytes of flags (the second one: strings follow), then padding to 32
    if head.get(1)? & 2 == 0 {
        return None;
    }
    let mut rest = section.get(32..)?;
    let mut word = || {
        let (mut size, mut shift) = (0_usize, 0);
        loop {
            let (byte, behind) = rest.split_first()?;
            rest = behind;
            size |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 28 {
                return None;
            }
        }
        let text = rest.get(..size)?;
        rest = &rest[size..];
        Some(text.to_vec())
    };
    let (go, modules) = (word()?, word()?);
    // between two marks of 16 bytes
    let modules = match modules.len() {
        33.. => &modules[16..modules.len() - 16],
        _ => &[],
    };
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    Some((text(&go), text(modules)))
}
