//! Durations (`1m30s`) and byte counts (`64m`) of the Compose specification.

use std::time::Duration;

/// Go-like durations: `ns us µs ms s m h d w`, in any combination; a bare 0 needs no unit.
/// SOURCE: xhit/go-str2duration, which compose-go reads them with.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (mut total, mut rest, mut any) = (Duration::ZERO, text.trim(), false);
    if rest == "0" {
        return Some(total);
    }
    while !rest.is_empty() {
        let digits = rest
            .bytes()
            .take_while(|b| b.is_ascii_digit() || *b == b'.')
            .count();
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, seconds) = [
            ("ns", 1e-9),
            ("us", 1e-6),
            ("µs", 1e-6),
            ("ms", 1e-3),
            ("s", 1.0),
            ("m", 60.0),
            ("h", 3600.0),
            ("d", 86_400.0),
            ("w", 604_800.0),
        ]
        .into_iter()
        .find(|(u, _)| {
            rest.starts_with(u) && !rest[u.len()..].starts_with(|c: char| c.is_ascii_alphabetic())
        })?;
        rest = &rest[unit.len()..];
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        any = true;
    }
    any.then_some(total)
}

/// `b`, and `k m g t p` with `b` or `ib` behind or without, powers of 1024; plain numbers are bytes.
/// SOURCE: docker/go-units, RAMInBytes.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text
        .bytes()
        .take_while(|b| b.is_ascii_digit() || *b == b'.')
        .count();
    let number: f64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim();
    let power = unit.trim_end_matches('b').trim_end_matches('i');
    let power = match power {
        "" if matches!(unit, "" | "b") => 0,
        one => "kmgtp".find(one).filter(|_| one.len() == 1)? as i32 + 1,
    };
    let rest = &unit[usize::from(power > 0)..];
    matches!(rest, "" | "b" | "i" | "ib").then_some((number * 1024f64.powi(power)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes() {
        for (text, ms) in [
            ("5s", Some(5000)),
            ("1m30s", Some(90_000)),
            ("250ms", Some(250)),
            ("1.5h", Some(5_400_000)),
            ("0", Some(0)),
            ("1w2d", Some(777_600_000)),
            ("1500µs", Some(1)),
            ("5", None),
            ("", None),
            ("5x", None),
        ] {
            assert_eq!(duration(text).map(|d| d.as_millis()), ms, "{text}");
        }
        for (text, n) in [
            ("64m", Some(64 << 20)),
            ("1gb", Some(1 << 30)),
            ("12", Some(12)),
            ("1.5k", Some(1536)),
            ("5t", Some(5 << 40)),
            ("2GiB", Some(2 << 30)),
            ("512 Mi", Some(512 << 20)),
            ("x", None),
            ("5kk", None),
            ("5bb", None),
            ("5i", None),
            ("5 ", Some(5)),
        ] {
            assert_eq!(bytes(text), n, "{text}");
        }
    }
}
