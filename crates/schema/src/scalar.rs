//! The checks of values that have a syntax of their own: quantities, times, base64.

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimeParser;

/// Whether `resource.ParseQuantity` takes the text.
pub(crate) fn check_quantity(text: &str) -> Result<(), String> {
    match knarr_quantity::Quantity::parse(text.trim()) {
        Ok(_) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

/// Go's `base64.StdEncoding`, which takes line breaks anywhere.
pub(crate) fn check_base64(text: &str) -> Result<(), String> {
    let kept: Vec<(usize, u8)> = text
        .bytes()
        .enumerate()
        .filter(|(_, b)| !matches!(b, b'\r' | b'\n'))
        .collect();
    let padding = kept
        .iter()
        .rev()
        .take(2)
        .take_while(|(_, b)| *b == b'=')
        .count();
    let body = &kept[..kept.len() - padding];
    if let Some((at, _)) = body
        .iter()
        .find(|(_, b)| !(b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/')))
    {
        return Err(format!("illegal base64 data at input byte {at}"));
    }
    if !kept.len().is_multiple_of(4) || body.len() % 4 == 1 {
        return Err(format!(
            "illegal base64 data at input byte {}",
            text.len()
                .saturating_sub(if padding > 0 { padding } else { text.len() % 4 })
        ));
    }
    Ok(())
}

/// RFC 3339 text as `metav1.Time` writes it: whole seconds, UTC.
pub(crate) fn time(text: &str) -> Result<String, String> {
    let at = parse_time(text, "2006-01-02T15:04:05Z07:00")?;
    Ok(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// RFC 3339 text as `metav1.MicroTime` writes it: microseconds, UTC.
pub(crate) fn micro_time(text: &str) -> Result<String, String> {
    let at = parse_time(text, "2006-01-02T15:04:05.000000Z07:00")?;
    Ok(at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}

fn parse_time(text: &str, layout: &str) -> Result<Timestamp, String> {
    static PARSER: DateTimeParser = DateTimeParser::new();
    let shaped = text.len() >= 20
        && text.as_bytes()[10] == b'T'
        && text.ends_with(|c: char| c == 'Z' || c.is_ascii_digit())
        && !text.contains('[');
    match PARSER.parse_timestamp(text) {
        Ok(at) if shaped => Ok(at),
        _ => {
            let text = quoted(text);
            Err(format!(
                "parsing time {text} as {layout:?}: cannot parse {text} as \"2006\""
            ))
        }
    }
}

/// As Go's package `time` quotes: what isn't ASCII byte by byte.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for b in text.bytes() {
        match b {
            b'"' | b'\\' => out.extend(['\\', char::from(b)]),
            b' '..=b'~' => out.push(char::from(b)),
            _ => out.push_str(&format!("\\x{b:02x}")),
        }
    }
    out.push('"');
    out
}

/// Nanoseconds of a text that Go's `time.ParseDuration` takes, as far as it's made of whole and decimal numbers with units.
pub fn duration(text: &str) -> Option<i64> {
    const UNITS: [(&str, i64); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("μs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: i64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (name, after) = after.split_at(end);
        let (_, unit) = UNITS.iter().find(|(n, _)| *n == name)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let whole: i64 = match whole {
            "" => 0,
            digits => digits.parse().ok()?,
        };
        total = total.checked_add(whole.checked_mul(*unit)?)?;
        let mut place = *unit;
        for digit in fraction.bytes() {
            place /= 10;
            total = total.checked_add(place * i64::from(digit.checked_sub(b'0')?))?;
        }
        rest = after;
    }
    total.checked_mul(sign)
}

/// Go's `Duration.String`.
pub(crate) fn duration_text(nanos: i64) -> String {
    let (sign, n) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let decimal = |n: u64, unit: u64, name: &str| {
        let width = unit.ilog10() as usize;
        let text = format!("{}.{:0width$}", n / unit, n % unit);
        let text = text.trim_end_matches('0').trim_end_matches('.');
        format!("{text}{name}")
    };
    let text = match n {
        0 => "0s".to_owned(),
        1..1_000 => format!("{n}ns"),
        1_000..1_000_000 => decimal(n, 1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(n, 1_000_000, "ms"),
        _ => {
            let minutes = n / 60_000_000_000;
            let seconds = decimal(n % 60_000_000_000, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, m) => format!("{m}m{seconds}"),
                (h, m) => format!("{h}h{m}m{seconds}"),
            }
        }
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_text() {
        for good in ["", "YQ==", "YWI=", "YWJj", "YW\nJj\n"] {
            assert!(check_base64(good).is_ok(), "{good:?}");
        }
        for bad in ["Y", "YQ", "YQ=", "YWJj=", "!!!!", "=YWJ", "a b="] {
            assert!(check_base64(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            check_base64("hell o").unwrap_err(),
            "illegal base64 data at input byte 4"
        );
    }

    #[test]
    fn times() {
        assert_eq!(
            time("2024-01-02T03:04:05Z").unwrap(),
            "2024-01-02T03:04:05Z"
        );
        assert_eq!(
            time("2024-01-02T03:04:05.9+02:00").unwrap(),
            "2024-01-02T01:04:05Z"
        );
        assert_eq!(
            micro_time("2024-01-02T03:04:05.123456789Z").unwrap(),
            "2024-01-02T03:04:05.123456Z"
        );
        assert_eq!(
            micro_time("2024-01-02T03:04:05Z").unwrap(),
            "2024-01-02T03:04:05.000000Z"
        );
        for bad in [
            "",
            "yesterday",
            "2024-01-02",
            "2024-01-02 03:04:05Z",
            "2024-13-02T03:04:05Z",
            "2024-01-02T03:04:05",
        ] {
            assert!(
                time(bad).unwrap_err().starts_with("parsing time"),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        for (text, nanos) in [
            ("0s", 0),
            ("15ns", 15),
            ("1.5µs", 1_500),
            ("20.5ms", 20_500_000),
            ("10.062s", 10_062_000_000),
            ("1m30s", 90_000_000_000),
            ("1h0m0.5s", 3_600_500_000_000),
            ("-2s", -2_000_000_000),
        ] {
            assert_eq!(duration(text), Some(nanos), "{text}");
            assert_eq!(duration_text(nanos), text);
        }
        for (text, wanted) in [
            ("0", Some(0)),
            ("2h", Some(7_200_000_000_000)),
            ("", None),
            ("5", None),
            ("s", None),
            (".s", None),
            ("1x", None),
            ("99999999999h", None),
        ] {
            assert_eq!(duration(text), wanted, "{text:?}");
        }
    }
}
