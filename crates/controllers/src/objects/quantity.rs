//! `resource.Quantity`, read only.

/// The quantity in thousandths, rounded up as upstream's `MilliValue`; None when it isn't a quantity.
pub fn milli(text: &str) -> Option<i64> {
    let text = text.trim();
    let end = text
        .char_indices()
        .find(|(i, c)| !(c.is_ascii_digit() || *c == '.' || (*i == 0 && (*c == '+' || *c == '-'))))
        .map_or(text.len(), |(i, _)| i);
    let (number, suffix) = text.split_at(end);
    let (negative, number) = match number.strip_prefix('-') {
        Some(n) => (true, n),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || whole.len() > 18 || fraction.contains('.') {
        return None;
    }
    // digits × 10^-scale
    let fraction = &fraction[..fraction.len().min(9)];
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = fraction.len() as i32;
    let (binary, decimal): (u32, i32) = match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            (0, exponent.parse::<i32>().ok()?)
        }
    };
    let exponent = decimal + 3 - scale;
    if !(-40..=40).contains(&exponent) {
        return None;
    }
    let mut value = digits.checked_mul(1i128 << binary)?;
    if exponent >= 0 {
        value = value.checked_mul(10i128.checked_pow(exponent as u32)?)?;
    } else {
        let by = 10i128.checked_pow(-exponent as u32)?;
        value = value.div_euclid(by) + i128::from(value.rem_euclid(by) != 0);
    }
    let value = if negative { -value } else { value };
    Some(value.clamp(i64::MIN as i128, i64::MAX as i128) as i64)
}

/// The quantity in whole units, rounded up as upstream's `Value`.
pub fn units(text: &str) -> Option<i64> {
    let m = milli(text)?;
    if m == i64::MAX {
        return Some(whole_large(text).unwrap_or(i64::MAX));
    }
    Some(m.div_euclid(1000) + i64::from(m.rem_euclid(1000) != 0))
}

/// Values whose thousandths don't fit 64 bits (above 9 PB).
fn whole_large(text: &str) -> Option<i64> {
    const SHIFT: i64 = 1000;
    let (number, suffix) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number: i64 = number.parse().ok()?;
    let unit = milli(&format!("1{suffix}"))? / SHIFT;
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (text, want) in [
            ("1", Some(1000)),
            ("100m", Some(100)),
            ("0.1", Some(100)),
            (".5", Some(500)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("1k", Some(1_000_000)),
            ("1e3", Some(1_000_000)),
            ("1E3", Some(1_000_000)),
            ("2E", Some(i64::MAX)),
            ("1u", Some(1)),
            ("0", Some(0)),
            ("-1", Some(-1000)),
            ("", None),
            ("x", None),
            ("1.2.3", None),
            ("1Qi", None),
        ] {
            assert_eq!(milli(text), want, "{text}");
        }
        assert_eq!(units("128Mi"), Some(134_217_728));
        assert_eq!(units("1500m"), Some(2));
        assert_eq!(units("10P"), Some(10_000_000_000_000_000));
    }
}
