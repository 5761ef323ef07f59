//! What headers hold: numbers, times and lists as text of several forms.

use super::BLOCK;
use std::io;

/// A file with holes: where its parts lie, (offset, bytes).
pub(crate) type Sparse = Vec<(u64, u64)>;

/// The most parts of a sparse file.
pub(super) const SPARSE_PARTS_MAX: usize = 1 << 16;

pub(super) fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("not a tar archive: {}", why.into()),
    )
}

/// Up to the first NUL.
pub(super) fn text(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

pub(super) fn check_sum(block: &[u8; BLOCK]) -> io::Result<()> {
    let want = number(&block[148..156])?;
    let blank = |at: usize| (148..156).contains(&at);
    let (mut plain, mut minus) = (0i64, 0i64);
    for (at, byte) in block.iter().enumerate() {
        let byte = if blank(at) { b' ' } else { *byte };
        plain += i64::from(byte);
        // some old writers had signed characters
        minus += i64::from(byte as i8);
    }
    match i64::try_from(want).is_ok_and(|want| want == plain || want == minus) {
        true => Ok(()),
        false => Err(bad("a header whose check sum is wrong")),
    }
}

/// Octal, or GNU's base 256.
pub(super) fn number(bytes: &[u8]) -> io::Result<u64> {
    u64::try_from(signed(bytes)?).map_err(|_| bad("a negative number"))
}

pub(super) fn signed(bytes: &[u8]) -> io::Result<i64> {
    if let [first, rest @ ..] = bytes
        && first & 0x80 != 0
    {
        let start: i128 = match first & 0x40 {
            0 => i128::from(first & 0x3f),
            _ => i128::from(first & 0x3f) - 0x40,
        };
        let mut value = start;
        for byte in rest {
            value = value
                .checked_mul(256)
                .map(|v| v + i128::from(*byte))
                .filter(|v| v.unsigned_abs() <= u64::MAX as u128)
                .ok_or_else(|| bad("a number that is too large"))?;
        }
        return i64::try_from(value).map_err(|_| bad("a number that is too large"));
    }
    let digits = text(bytes).trim_ascii();
    let mut value = 0i64;
    for byte in digits {
        if !(b'0'..=b'7').contains(byte) {
            return Err(bad("a number that is none"));
        }
        value = value
            .checked_mul(8)
            .and_then(|v| v.checked_add(i64::from(byte - b'0')))
            .ok_or_else(|| bad("a number that is too large"))?;
    }
    Ok(value)
}

pub(super) fn id(number: u64) -> io::Result<u32> {
    // the highest one means "unchanged" to the kernel
    u32::try_from(number)
        .ok()
        .filter(|n| *n != u32::MAX)
        .ok_or_else(|| bad(format!("an owner {number} that can't be")))
}

/// `SECONDS[.FRACTION]`, perhaps negative.
pub(super) fn time(value: &[u8]) -> io::Result<(i64, u32)> {
    let wrong = || bad("a PAX time that is none");
    let text = std::str::from_utf8(value).map_err(|_| wrong())?;
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| wrong())?;
    if !part.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let digits: String = part.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().map_err(|_| wrong())?;
    Ok(match (text.starts_with('-'), nanos) {
        (true, 1..) => (
            seconds.checked_sub(1).ok_or_else(wrong)?,
            1_000_000_000 - nanos,
        ),
        _ => (seconds, nanos),
    })
}

/// `a,b,a,b`: parts of a sparse file.
pub(super) fn list(value: &[u8]) -> io::Result<Sparse> {
    let wrong = || bad("the map of a sparse file is none");
    let text = std::str::from_utf8(value).map_err(|_| wrong())?;
    let numbers: Result<Vec<u64>, _> = text.split(',').map(str::parse).collect();
    let numbers = numbers.map_err(|_| wrong())?;
    if numbers.len() % 2 != 0 || numbers.len() > 2 * SPARSE_PARTS_MAX {
        return Err(wrong());
    }
    let parts = numbers.chunks_exact(2).map(|p| (p[0], p[1]));
    Ok(parts.filter(|(_, n)| *n > 0).collect())
}

/// The records of a PAX header.
pub(super) fn pax(mut bytes: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let wrong = || bad("a PAX header that is none");
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let space = bytes
            .iter()
            .take(20)
            .position(|b| *b == b' ')
            .ok_or_else(wrong)?;
        let length = std::str::from_utf8(&bytes[..space])
            .ok()
            .and_then(|t| t.parse::<usize>().ok());
        let length = length
            .filter(|n| *n > space + 1 && *n <= bytes.len())
            .ok_or_else(wrong)?;
        let record = &bytes[space + 1..length];
        let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
        let at = record.iter().position(|b| *b == b'=').ok_or_else(wrong)?;
        let (key, value) = (&record[..at], &record[at + 1..]);
        if key.is_empty() || (!key.starts_with(b"SCHILY.xattr.") && value.contains(&0)) {
            return Err(wrong());
        }
        if !value.is_empty() || key.starts_with(b"SCHILY.xattr.") {
            found.push((key.to_vec(), value.to_vec()));
        }
        bytes = &bytes[length..];
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_bounded() {
        for (bytes, want) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"  644 \0", Some(0o644)),
            (b"\0\0\0", Some(0)),
            (b"\x80\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff", Some(-1)),
            (b"9", None),
            (b"7777777777777777777777777", None),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(signed(bytes).ok(), want, "{bytes:?}");
        }
        assert_eq!(time(b"1.5").unwrap(), (1, 500_000_000));
        assert_eq!(time(b"-1.25").unwrap(), (-2, 750_000_000));
        assert!(time(b"x").is_err());
        assert!(pax(b"11 path=ab\nx").is_err());
        assert!(pax(b"99999999999999999999 path=ab\n").is_err());
    }
}
