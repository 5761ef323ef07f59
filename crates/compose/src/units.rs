//! Durations (`1m30s`) and byte counts (`64m`) of the Compose specification.

use std::time::Duration;

/// Go-like durations: `us ms s m h`, in any combination.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (mut total, mut rest, mut any) = (Duration::ZERO, text.trim(), false);
    while !rest.is_empty() {
        let digits = rest
            .bytes()
            .take_while(|b| b.is_ascii_digit() || *b == b'.')
            .count();
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, seconds) = [
            ("us", 1e-6),
            ("ms", 1e-3),
            ("s", 1.0),
            ("m", 60.0),
            ("h", 3600.0),
        ]
        .into_iter()
        .find(|(u, _)| {
            rest.starts_with(u) && !rest[u.len()..].starts_with(|c: char| c.is_ascii_alphabetic())
        })?;
        rest = &rest[unit.len()..];
        total += Duration::try_from_secs_f64(number * seconds).ok()?;
        any = true;
    }
    any.then_some(total)
}

/// `b k kb m mb g gb`, powers of 1024; plain numbers are bytes.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text
        .bytes()
        .take_while(|b| b.is_ascii_digit() || *b == b'.')
        .count();
    let number: f64 = text[..digits].parse().ok()?;
    let factor = match text[digits..].trim() {
        "" | "b" => 1u64,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return None,
    };
    Some((number * factor as f64) as u64)
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
            ("x", None),
            ("5t", None),
        ] {
            assert_eq!(bytes(text), n, "{text}");
        }
    }
}
