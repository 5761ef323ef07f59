//! Amounts of resources: `500m`, `1Gi`, `1e3` (apimachinery `pkg/api/resource`), with upstream's canonical form.

use super::path::{Errors, Path};
use serde_json::Value;
use std::cmp::Ordering;

/// How an amount was written; arithmetic keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    Binary,
    /// `12M`
    Decimal,
}

/// Digits that fit an `int64` for certain: upstream's bound for its quick way, which keeps some inputs as written.
const QUICK_DIGITS: i32 = 18;
/// The finest amount: 10^-9.
const NANO: i32 = -9;

/// `value` · 10^`scale`.
#[derive(Debug, Clone)]
pub(crate) struct Quantity {
    value: i128,
    scale: i32,
    format: Format,
    /// The input, when upstream hands it back unchanged.
    text: Option<String>,
}

fn pow10(exponent: i32) -> Option<i128> {
    10i128.checked_pow(u32::try_from(exponent).ok()?)
}

/// Division away from zero.
fn div_up(value: i128, by: i128) -> i128 {
    let rest = value % by;
    value / by + if rest == 0 { 0 } else { rest.signum() }
}

fn suffix(text: &str) -> Option<(bool, i32, Format)> {
    const DECIMAL: [(&str, i32); 10] = [
        ("n", -9),
        ("u", -6),
        ("m", -3),
        ("", 0),
        ("k", 3),
        ("M", 6),
        ("G", 9),
        ("T", 12),
        ("P", 15),
        ("E", 18),
    ];
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some((_, e)) = DECIMAL.iter().find(|(s, _)| *s == text) {
        return Some((false, *e, Format::Decimal));
    }
    if let Some(i) = BINARY.iter().position(|s| *s == text) {
        return Some((true, 10 * (i as i32 + 1), Format::Binary));
    }
    let exponent = text.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
    Some((false, exponent, Format::DecimalExponent))
}

impl Quantity {
    /// Reads an amount as `resource.ParseQuantity` does. None when it isn't one, or has more than 38 digits.
    pub(crate) fn parse(input: &str) -> Option<Quantity> {
        let text = input.trim();
        let negative = text.starts_with('-');
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let end = unsigned
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(unsigned.len());
        let (number, unit) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if number.is_empty() || fraction.contains('.') || number == "." {
            return None;
        }
        let (binary, exponent, format) = suffix(unit)?;
        let whole = match whole.trim_start_matches('0') {
            "" => "0",
            w => w,
        };
        let digits = format!("{whole}{fraction}");
        let mut value: i128 = digits.parse().ok()?;
        let mut scale = -i32::try_from(fraction.len()).ok()?;
        let small = value;
        if binary {
            value = value.checked_mul(1i128 << exponent)?;
        } else {
            scale = scale.checked_add(exponent)?;
        }
        if negative {
            value = -value;
        }
        let mut q = Quantity {
            value,
            scale,
            format,
            text: None,
        };
        let length = i32::try_from(digits.len()).ok()?;
        let quick = if binary {
            fraction.is_empty() && 15 - length - exponent * 3 / 10 > 0
        } else {
            length <= QUICK_DIGITS
        };
        if quick && scale >= NANO {
            let kept = if binary {
                exponent % 10 == 0 && small & 7 != 0
            } else {
                scale % 3 == 0 && !digits.ends_with("000") && !digits.starts_with('0')
            };
            if kept {
                q.text = Some(text.to_string());
            }
            return Some(q);
        }
        q.round_up(NANO);
        if binary {
            let max = i128::from(i64::MAX);
            if q.scale <= 0 && pow10(-q.scale).is_some_and(|p| q.value.abs() / p > max) {
                (q.value, q.scale) = (max * q.value.signum(), 0);
            }
            if q.value != 0 && pow10(-q.scale).is_some_and(|p| q.value.abs() < p) {
                q.format = Format::Decimal;
            }
        }
        Some(q)
    }

    /// A number of things.
    pub(crate) fn whole_number(n: i128) -> Quantity {
        Quantity {
            value: n,
            scale: 0,
            format: Format::Decimal,
            text: None,
        }
    }

    /// Reads an amount from JSON: text or a bare number. None when there is none.
    pub(crate) fn of(value: &Value) -> Option<Quantity> {
        match value {
            Value::String(s) => Quantity::parse(s),
            Value::Number(n) => Quantity::parse(&n.to_string()),
            _ => None,
        }
    }

    /// Drops what is finer than 10^`scale`, away from zero.
    pub(crate) fn round_up(&mut self, scale: i32) {
        if self.scale >= scale {
            return;
        }
        self.text = None;
        match pow10(scale - self.scale) {
            Some(by) => self.value = div_up(self.value, by),
            None => self.value = self.value.signum(),
        }
        self.scale = scale;
    }

    /// Upstream's canonical text.
    pub(crate) fn canonical(&self) -> String {
        if let Some(text) = &self.text {
            return text.clone();
        }
        if self.value == 0 {
            return "0".into();
        }
        let (mut mantissa, mut exponent) = (self.value, self.scale);
        if self.format == Format::Binary
            && let Some(n) = self.whole()
            && n.abs() >= 1024
        {
            const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
            let (mut n, mut unit) = (n, 0);
            while n % 1024 == 0 && unit + 1 < UNITS.len() {
                n /= 1024;
                unit += 1;
            }
            return format!("{n}{}", UNITS[unit]);
        }
        while mantissa % 10 == 0 {
            mantissa /= 10;
            exponent += 1;
        }
        while exponent % 3 != 0 {
            match mantissa.checked_mul(10) {
                Some(v) => mantissa = v,
                None => break,
            }
            exponent -= 1;
        }
        let unit = match (self.format, exponent) {
            (_, 0) => String::new(),
            (Format::DecimalExponent, e) => format!("e{e}"),
            (_, e) => ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"]
                .get(usize::try_from(e / 3 + 3).unwrap_or(usize::MAX))
                .copied()
                .unwrap_or_default()
                .to_string(),
        };
        format!("{}{unit}", mantissa)
    }

    /// The amount when it has no fraction and fits.
    fn whole(&self) -> Option<i128> {
        if self.scale >= 0 {
            return self.value.checked_mul(pow10(self.scale)?);
        }
        let by = pow10(-self.scale)?;
        (self.value % by == 0).then(|| self.value / by)
    }

    /// The amount as a whole number, rounded up, capped to what fits (`Quantity.Value`).
    pub(crate) fn ceil(&self) -> i64 {
        let mut q = self.clone();
        q.round_up(0);
        let n = q
            .whole()
            .unwrap_or(if self.value < 0 { i128::MIN } else { i128::MAX });
        i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
    }

    /// Thousandths, rounded up, capped to what fits (`Quantity.MilliValue`).
    pub(crate) fn milli(&self) -> i64 {
        let mut q = self.clone();
        q.scale = q.scale.saturating_add(3);
        q.ceil()
    }

    /// The amount as the nearest floating point number.
    pub(crate) fn float(&self) -> f64 {
        self.value as f64 * 10f64.powi(self.scale)
    }

    /// Difference; the format is the first's, or the other's when the first is zero.
    pub(crate) fn sub(&self, other: &Quantity) -> Quantity {
        let mut negative = other.clone();
        negative.value = -negative.value;
        self.add(&negative)
    }

    /// Below zero, zero, or above.
    pub(crate) fn sign(&self) -> i128 {
        self.value.signum()
    }

    /// A whole number of units: what `extended` resources must be.
    pub(crate) fn is_whole(&self) -> bool {
        self.value == 0 || self.whole().is_some()
    }

    /// Sum; the format is the first's, or the other's when the first is zero.
    pub(crate) fn add(&self, other: &Quantity) -> Quantity {
        let scale = self.scale.min(other.scale);
        let at = |q: &Quantity| {
            pow10(q.scale - scale)
                .and_then(|p| q.value.checked_mul(p))
                .unwrap_or(i128::MAX / 4 * q.value.signum())
        };
        Quantity {
            value: at(self).saturating_add(at(other)),
            scale,
            format: if self.value == 0 {
                other.format
            } else {
                self.format
            },
            text: None,
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        if self.sign() != other.sign() {
            return self.sign().cmp(&other.sign());
        }
        let scale = self.scale.min(other.scale);
        let at = |q: &Quantity| pow10(q.scale - scale).and_then(|p| q.value.checked_mul(p));
        match (at(self), at(other)) {
            (Some(a), Some(b)) => a.cmp(&b),
            // Only the one with the larger scale can be too large to write out: it is further from zero.
            (None, _) => self.sign().cmp(&0),
            (_, None) => 0.cmp(&other.sign()),
        }
    }
}

/// Writes an amount the way upstream's server sends it back.
pub(crate) fn canonical(value: &mut Value) {
    if let Some(q) = Quantity::of(value) {
        let text = q.canonical();
        if value.as_str() != Some(&text) {
            *value = text.into();
        }
    }
}

/// The amounts of a ResourceList, canonical; `milli`: rounded up to thousandths, as pods' and volumes' are.
pub(crate) fn canonical_list(list: Option<&mut Value>, milli: bool) {
    for (_, value) in list.and_then(Value::as_object_mut).into_iter().flatten() {
        if let Some(mut q) = Quantity::of(value) {
            if milli {
                q.round_up(-3);
            }
            let text = q.canonical();
            if value.as_str() != Some(&text) {
                *value = text.into();
            }
        }
    }
}

/// `must be greater than or equal to 0` for an amount that isn't; `value` may be absent.
pub(crate) fn nonnegative(value: &Value, at: &Path<'_>, errors: &mut Errors) {
    if let Some(q) = value.as_str().and_then(Quantity::parse)
        && q.sign() < 0
    {
        errors.invalid(at, q.canonical(), "must be greater than or equal to 0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_texts_are_upstreams() {
        for (input, want) in [
            ("0", "0"),
            ("0Mi", "0"),
            ("1", "1"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("100m", "100m"),
            ("1024Mi", "1Gi"),
            ("1Gi", "1Gi"),
            ("1500Mi", "1500Mi"),
            ("512", "512"),
            ("1e3", "1e3"),
            ("1000", "1k"),
            ("1000000", "1M"),
            ("0.001Ki", "1024m"),
            ("1.5Gi", "1536Mi"),
            ("0.1Mi", "104857600m"),
            ("-1", "-1"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("10Ei", "9223372036854775807"),
            ("12e6", "12e6"),
            ("2048Ki", "2Mi"),
            ("1k", "1k"),
        ] {
            let q = Quantity::parse(input).unwrap_or_else(|| panic!("{input}"));
            assert_eq!(q.canonical(), want, "{input}");
        }
        for bad in ["", "1.2.3", "1x", "Mi", "e3", "--1", "1 Gi"] {
            assert!(Quantity::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn amounts_compare_by_size() {
        let q = |s: &str| Quantity::parse(s).unwrap_or_else(|| panic!("{s}"));
        for (a, b, want) in [
            ("1", "1000m", Ordering::Equal),
            ("1Gi", "1G", Ordering::Greater),
            ("1Ki", "1024", Ordering::Equal),
            ("-1", "1n", Ordering::Less),
            ("1e30", "1Ei", Ordering::Greater),
            ("1n", "1e30", Ordering::Less),
        ] {
            assert_eq!(q(a).cmp(&q(b)), want, "{a} {b}");
        }
        assert_eq!(q("1500m").ceil(), 2);
        assert_eq!(q("100m").add(&q("1")).canonical(), "1100m");
        assert!(!q("1500m").is_whole());
    }
}
