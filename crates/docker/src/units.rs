//! Amounts of bytes in Docker's words.
//!
//! Source: docker/go-units `size.go`: HumanSizeWithPrecision, BytesSize, which print by Go's `%.Ng`.

/// In powers of 1,000 with so many digits that count: `12.3MB` for 12,345,678 with 3. Docker's clients show 4, Compose 3.
pub fn human_size(bytes: u64, digits: usize) -> String {
    amount(
        bytes,
        1000.0,
        digits,
        &["B", "kB", "MB", "GB", "TB", "PB", "EB"],
    )
}

/// In powers of 1,024 with four digits that count, as `docker stats`: `7.379MiB`.
pub fn bytes_size(bytes: u64) -> String {
    amount(
        bytes,
        1024.0,
        4,
        &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"],
    )
}

fn amount(bytes: u64, base: f64, digits: usize, units: &[&str]) -> String {
    let (mut number, mut unit) = (bytes as f64, 0);
    while number >= base && unit + 1 < units.len() {
        (number, unit) = (number / base, unit + 1);
    }
    let before_point = (number.max(1.0).log10().floor() as usize) + 1;
    let text = format!("{number:.*}", digits.saturating_sub(before_point));
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{}", units[unit])
}

/// Nanoseconds as Go prints a `time.Duration`: `50ms`, `1m30s`.
pub fn duration(nanos: i64) -> String {
    let small = |unit: i64, name: &str| {
        let number = nanos as f64 / unit as f64;
        format!("{number}{name}")
    };
    match nanos {
        0 => "0s".into(),
        1..1_000 => small(1, "ns"),
        1_000..1_000_000 => small(1_000, "µs"),
        1_000_000..1_000_000_000 => small(1_000_000, "ms"),
        _ => {
            let (minutes, rest) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
            let seconds = rest as f64 / 1e9;
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (nanos, wanted) in [
            (0, "0s"),
            (50_000_000, "50ms"),
            (1_500_000, "1.5ms"),
            (30_000_000_000, "30s"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(duration(nanos), wanted);
        }
    }

    #[test]
    fn amounts() {
        for (bytes, three, four, binary) in [
            (0, "0B", "0B", "0B"),
            (5, "5B", "5B", "5B"),
            (999, "999B", "999B", "999B"),
            (1500, "1.5kB", "1.5kB", "1.465KiB"),
            (12_345_678, "12.3MB", "12.35MB", "11.77MiB"),
            (123_456_789, "123MB", "123.5MB", "117.7MiB"),
            (2_000_000_000, "2GB", "2GB", "1.863GiB"),
            (1 << 30, "1.07GB", "1.074GB", "1GiB"),
        ] {
            assert_eq!(human_size(bytes, 3), three, "{bytes}");
            assert_eq!(human_size(bytes, 4), four, "{bytes}");
            assert_eq!(bytes_size(bytes), binary, "{bytes}");
        }
    }
}
