//! Numbers as Go sees them: int64 when they were written without a fraction, else float64.

use serde_json::Number;

/// Whether two numbers are the same.
pub fn equal(a: &Number, b: &Number) -> bool {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a == b,
        _ => a.as_f64() == b.as_f64(),
    }
}

/// Whether a float stands for an integer: go-openapi/swag's `IsFloat64AJSONInteger`.
pub fn is_integer(f: f64) -> bool {
    const SAFE: f64 = ((1u64 << 53) - 1) as f64;
    const EPSILON: f64 = 1e-9;
    if !f.is_finite() || f.abs() > SAFE {
        return false;
    }
    let whole = f.trunc();
    if f == whole {
        return true;
    }
    let difference = (f - whole).abs();
    difference / (f.abs() + whole.abs()) < EPSILON
}

/// `%v` of a float64.
pub fn go_float(f: f64) -> String {
    let exponent = if f == 0.0 {
        0.0
    } else {
        f.abs().log10().floor()
    };
    if (-4.0..21.0).contains(&exponent) {
        return format!("{f}");
    }
    // Go writes at least two digits of exponent, and its sign
    let text = format!("{f:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(d) => ('-', d),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_go() {
        for (f, want) in [
            (1.0, "1"),
            (0.5, "0.5"),
            (1e21, "1e+21"),
            (1.5e-7, "1.5e-07"),
            (123456789.0, "123456789"),
            (0.0, "0"),
            (-2.0, "-2"),
        ] {
            assert_eq!(go_float(f), want);
        }
        assert!(is_integer(3.0) && !is_integer(3.5) && !is_integer(1e300));
    }
}
