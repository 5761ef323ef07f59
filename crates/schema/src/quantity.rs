//! Quantities as upstream writes them once it has rounded them: in canonical form.
//!
//! Follows apimachinery's `resource.Quantity`: `RoundUp(Milli)`, then `CanonicalizeBytes`. Upstream's defaulting does so to every ResourceList, and only to those.

/// Digits that surely fit the arithmetic here.
const DIGITS_MAX: usize = 18;

/// `0.1` → `100m`, `1024Mi` → `1Gi`, `1.5Gi` → `1536Mi`, `1000m` → `1`; fractions of a thousandth are rounded up. None for what isn't a quantity, and for numbers so long that their text is kept.
pub(crate) fn canonical(text: &str) -> Option<String> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + part.len() == 0 || whole.len() + part.len() > DIGITS_MAX {
        return None;
    }
    let mut value: i128 = format!("{whole}{part}").parse().ok()?;
    let mut scale = -(part.len() as i32);
    let format = match suffix {
        "" | "n" | "u" | "m" | "k" | "M" | "G" | "T" | "P" | "E" => {
            // "num" are 10^-9, 10^-6 and 10^-3; a blank stands for 10^0
            let at = "num kMGTPE".find(suffix).filter(|_| !suffix.is_empty());
            scale += at.map_or(0, |at| at as i32 * 3 - 9);
            Format::Decimal
        }
        "Ki" | "Mi" | "Gi" | "Ti" | "Pi" | "Ei" => {
            let power = "KMGTPE".find(&suffix[..1])? as u32 + 1;
            value = value.checked_mul(1024_i128.checked_pow(power)?)?;
            Format::Binary
        }
        exponent => {
            scale += exponent.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
            Format::Exponent
        }
    };
    // up to thousandths, away from zero
    while scale < -3 {
        value = (value + 9) / 10;
        scale += 1;
    }
    if value == 0 {
        return Some("0".into());
    }
    let sign = if negative { "-" } else { "" };
    let units = 10_i128.checked_pow(scale.unsigned_abs());
    let integral = match (scale >= 0, units) {
        (true, Some(units)) => value.checked_mul(units),
        (false, Some(units)) if value % units == 0 => Some(value / units),
        _ => None,
    };
    if format == Format::Binary
        && let Some(mut n) = integral.filter(|n| *n >= 1024)
    {
        let mut power = 0;
        while n % 1024 == 0 && power < 6 {
            n /= 1024;
            power += 1;
        }
        let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power];
        return Some(format!("{sign}{n}{suffix}"));
    }
    while value % 10 == 0 {
        value /= 10;
        scale += 1;
    }
    while scale.rem_euclid(3) != 0 {
        value = value.checked_mul(10)?;
        scale -= 1;
    }
    if format == Format::Exponent {
        return Some(match scale {
            0 => format!("{sign}{value}"),
            n => format!("{sign}{value}e{n}"),
        });
    }
    let at = usize::try_from(scale / 3 + 3).ok()?;
    let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"].get(at)?;
    Some(format!("{sign}{value}{suffix}"))
}

#[derive(PartialEq)]
enum Format {
    Decimal,
    Binary,
    Exponent,
}

#[cfg(test)]
mod tests {
    #[test]
    fn canonical_forms() {
        for (text, want) in [
            ("0", Some("0")),
            ("0.0Gi", Some("0")),
            ("1", Some("1")),
            ("0.1", Some("100m")),
            ("100m", Some("100m")),
            ("1000m", Some("1")),
            ("1500m", Some("1500m")),
            ("2500", Some("2500")),
            ("2000", Some("2k")),
            (".5", Some("500m")),
            ("1.", Some("1")),
            ("-1.5", Some("-1500m")),
            ("+4k", Some("4k")),
            ("64Mi", Some("64Mi")),
            ("1024Mi", Some("1Gi")),
            ("1.5Gi", Some("1536Mi")),
            ("0.5Ki", Some("512")),
            ("1000Ki", Some("1000Ki")),
            ("0.0001", Some("1m")),
            ("100n", Some("1m")),
            ("1500u", Some("2m")),
            ("12e6", Some("12e6")),
            ("1E3", Some("1e3")),
            ("100e-2", Some("1")),
            ("5E", Some("5E")),
            ("1e-3", Some("1e-3")),
            ("x", None),
            ("12345678901234567890", None),
        ] {
            assert_eq!(super::canonical(text).as_deref(), want, "{text}");
        }
    }
}
