//! Kubernetes quantities (`500m`, `1.5Gi`, `2e3`) as exact integers of thousandths.
//!
//! Source: apimachinery `resource.Quantity`; values beyond `i128` thousandths can't be written in its grammar.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The value in thousandths of its unit, rounded up; None when it isn't a quantity.
pub(crate) fn milli(text: &str) -> Option<i128> {
    let (negative, body) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let digits = body
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(body.len());
    let (number, suffix) = body.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 24 {
        return None;
    }
    let mut mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let mut denominator: i128 = 10i128.checked_pow(fraction.len() as u32)?;
    mantissa = mantissa.checked_mul(1000)?;
    let decimal = |power: i32, mantissa: &mut i128, denominator: &mut i128| -> Option<()> {
        let factor = 10i128.checked_pow(power.unsigned_abs())?;
        if power >= 0 {
            *mantissa = mantissa.checked_mul(factor)?;
        } else {
            *denominator = denominator.checked_mul(factor)?;
        }
        Some(())
    };
    let binary = |shift: u32, mantissa: &mut i128| -> Option<()> {
        *mantissa = mantissa.checked_mul(1i128 << shift)?;
        Some(())
    };
    match suffix {
        "" => {}
        "n" => decimal(-9, &mut mantissa, &mut denominator)?,
        "u" => decimal(-6, &mut mantissa, &mut denominator)?,
        "m" => decimal(-3, &mut mantissa, &mut denominator)?,
        "k" => decimal(3, &mut mantissa, &mut denominator)?,
        "M" => decimal(6, &mut mantissa, &mut denominator)?,
        "G" => decimal(9, &mut mantissa, &mut denominator)?,
        "T" => decimal(12, &mut mantissa, &mut denominator)?,
        "P" => decimal(15, &mut mantissa, &mut denominator)?,
        "E" => decimal(18, &mut mantissa, &mut denominator)?,
        "Ki" => binary(10, &mut mantissa)?,
        "Mi" => binary(20, &mut mantissa)?,
        "Gi" => binary(30, &mut mantissa)?,
        "Ti" => binary(40, &mut mantissa)?,
        "Pi" => binary(50, &mut mantissa)?,
        "Ei" => binary(60, &mut mantissa)?,
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            if !(-18..=18).contains(&power) {
                return None;
            }
            decimal(power, &mut mantissa, &mut denominator)?;
        }
    }
    let value = (mantissa + denominator - 1) / denominator;
    Some(if negative { -value } else { value })
}

/// Whole units, rounded up; 0 when it isn't a quantity.
pub(crate) fn value(quantity: &Quantity) -> i64 {
    let milli = milli(&quantity.0).unwrap_or(0);
    i64::try_from((milli + 999).div_euclid(1000)).unwrap_or(i64::MAX)
}

/// Thousandths of a unit (millicores), rounded up; 0 when it isn't a quantity.
pub(crate) fn milli_value(quantity: &Quantity) -> i64 {
    i64::try_from(milli(&quantity.0).unwrap_or(0)).unwrap_or(i64::MAX)
}

/// `ceil(quantity / divisor)` as the downward API prints it (divisor 0 or absent counts as 1).
pub(crate) fn divided(quantity_milli: i128, divisor: Option<&Quantity>) -> i128 {
    let divisor = divisor.and_then(|d| milli(&d.0)).filter(|d| *d > 0);
    let divisor = divisor.unwrap_or(1000);
    (quantity_milli + divisor - 1).div_euclid(divisor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_as_upstream() {
        let check = |text: &str, want: Option<i128>| assert_eq!(milli(text), want, "{text}");
        check("1", Some(1000));
        check("500m", Some(500));
        check("0.5", Some(500));
        check(".5", Some(500));
        check("1.", Some(1000));
        check("100u", Some(1));
        check("1Ki", Some(1_024_000));
        check("1.5Gi", Some(1_610_612_736_000));
        check("2e3", Some(2_000_000));
        check("2E-2", Some(20));
        check("-1", Some(-1000));
        check("1E", Some(1_000_000_000_000_000_000_000));
        check("", None);
        check("m", None);
        check("1.2.3", None);
        check("1x", None);
        check("1 ", None);
    }

    #[test]
    fn rounds_up() {
        assert_eq!(value(&Quantity("1500m".into())), 2);
        assert_eq!(divided(250, None), 1);
        assert_eq!(divided(250, Some(&Quantity("1m".into()))), 250);
        assert_eq!(
            divided(64 * 1024 * 1024 * 1000, Some(&Quantity("1Mi".into()))),
            64
        );
    }
}
