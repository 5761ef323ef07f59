//! Reading (`ParseQuantity`).

use crate::{Format, NANO, Quantity, arithmetic::pow10};
use std::str::FromStr;

/// Why a text is no amount, in upstream's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It isn't written like one.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// It has no number, or one with more digits than are kept.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// Its suffix isn't known.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// Digits that fit an `int64` for certain: upstream's bound for its quick way, which keeps some inputs as written.
const QUICK_DIGITS: i32 = 18;
/// Digits looked at. Beyond them an amount is held to its bound, or the digit is finer than any amount.
const DIGITS_MAX: usize = 256;

/// A text in its parts.
struct Parts<'a> {
    negative: bool,
    /// Without leading zeros, but "0" for none.
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
    /// There is a digit before the suffix, be it a zero: upstream's quick way does without.
    numeric: bool,
}

fn split(text: &str) -> Result<Parts<'_>, ParseError> {
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let negative = text.starts_with('-');
    let rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    let rest = rest.trim_start_matches('0');
    let (whole, rest) = rest.split_at(digits(rest));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let letters = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let exponent = letters.strip_prefix(['-', '+']).unwrap_or(letters);
    if text.is_empty() || exponent.len() != digits(exponent) {
        return Err(ParseError::Format);
    }
    let number = &text[..text.len() - suffix.len()];
    let numeric = number.contains(|c: char| c.is_ascii_digit());
    let whole = if whole.is_empty() { "0" } else { whole };
    Ok(Parts {
        negative,
        whole,
        fraction,
        suffix,
        numeric,
    })
}

/// What a suffix stands for: 2 or 10 (true, false) to the power of so much.
fn unit(suffix: &str) -> Option<(bool, i32, Format)> {
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some(e) = crate::write::DECIMAL.iter().position(|s| *s == suffix) {
        return Some((false, 3 * (e as i32 - 3), Format::Decimal));
    }
    if let Some(i) = BINARY.iter().position(|s| *s == suffix) {
        return Some((true, 10 * (i as i32 + 1), Format::Binary));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
    Some((false, exponent, Format::DecimalExponent))
}

impl Quantity {
    /// Reads an amount. Blanks around it are no part of one.
    pub fn parse(text: &str) -> Result<Quantity, ParseError> {
        let parts = split(text)?;
        let (binary, exponent, format) = unit(parts.suffix).ok_or(ParseError::Suffix)?;
        if let Some(q) = quick(text, &parts, binary, exponent, format) {
            return Ok(q);
        }
        slow(&parts, binary, exponent, format)
    }
}

impl FromStr for Quantity {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Quantity, ParseError> {
        Quantity::parse(text)
    }
}

/// What upstream reads into a 64-bit number; None for what it doesn't.
fn quick(
    text: &str,
    parts: &Parts<'_>,
    binary: bool,
    exponent: i32,
    format: Format,
) -> Option<Quantity> {
    let length = i32::try_from(parts.whole.len() + parts.fraction.len()).ok()?;
    let precision = match binary {
        true if parts.fraction.is_empty() => 15 - length - exponent * 3 / 10 - 1,
        true => -1,
        false => QUICK_DIGITS - length,
    };
    let power = if binary { 0 } else { exponent };
    let scale = power.checked_sub(parts.fraction.len() as i32)?;
    if precision < 0 || scale < NANO {
        return None;
    }
    // 18 digits at most
    let digits: i64 = format!("{}{}", parts.whole, parts.fraction).parse().ok()?;
    let factor = if binary { 1i64 << exponent } else { 1 };
    let value = digits.checked_mul(factor)?;
    let kept = if binary {
        digits & 7 != 0
    } else {
        let last = [parts.whole, parts.fraction].concat();
        scale % 3 == 0 && !last.ends_with("000") && !last.starts_with('0')
    };
    Some(Quantity {
        value: i128::from(if parts.negative { -value } else { value }),
        scale,
        format,
        small: true,
        text: kept.then(|| text.into()),
    })
}

/// Decimal digits, the most significant first, times 2^`power` (60 at most).
fn times_two_to(digits: &mut Vec<u8>, power: i32) {
    let mut carry = 0u128;
    for d in digits.iter_mut().rev() {
        let n = (u128::from(*d) << power) + carry;
        *d = (n % 10) as u8;
        carry = n / 10;
    }
    let mut front = Vec::new();
    while carry > 0 {
        front.push((carry % 10) as u8);
        carry /= 10;
    }
    front.reverse();
    digits.splice(0..0, front);
}

fn slow(
    parts: &Parts<'_>,
    binary: bool,
    exponent: i32,
    format: Format,
) -> Result<Quantity, ParseError> {
    if !parts.numeric || parts.whole.len() + parts.fraction.len() > DIGITS_MAX {
        return Err(ParseError::Number);
    }
    let all = parts.whole.bytes().chain(parts.fraction.bytes());
    let mut digits: Vec<u8> = all.map(|b| b - b'0').collect();
    let mut scale = -(parts.fraction.len() as i32);
    if binary {
        times_two_to(&mut digits, exponent);
    } else {
        scale = scale.checked_add(exponent).ok_or(ParseError::Suffix)?;
    }
    round_up(&mut digits, &mut scale);
    while digits.last() == Some(&0) {
        digits.pop();
        scale = scale.saturating_add(1);
    }
    let value = number(&digits);
    let capped = binary && exceeds(value, scale);
    let mut q = match value {
        _ if capped => Quantity::whole(i64::MAX),
        Some(value) => Quantity {
            scale: if value == 0 { 0 } else { scale },
            value,
            ..Quantity::ZERO
        },
        None => return Err(ParseError::Number),
    };
    let below_one = q.scale < 0 && pow10(-q.scale).is_none_or(|one| q.value < one);
    q.format = match format {
        Format::Binary if below_one && q.value > 0 => Format::Decimal,
        format => format,
    };
    q.small = false;
    if parts.negative {
        q.value = -q.value;
    }
    Ok(q)
}

/// Whether a whole number of bytes is more than fits 64 bits.
fn exceeds(value: Option<i128>, scale: i32) -> bool {
    let max = i128::from(i64::MAX);
    match (value, scale) {
        (None, _) => true,
        (Some(v), 0..) => pow10(scale)
            .and_then(|by| v.checked_mul(by))
            .is_none_or(|v| v > max),
        (Some(v), _) => pow10(-scale).is_some_and(|by| v / by >= max && v > max),
    }
}

/// Away from zero to 10^-9.
fn round_up(digits: &mut Vec<u8>, scale: &mut i32) {
    if *scale >= NANO {
        return;
    }
    let drop = usize::try_from(NANO.saturating_sub(*scale)).unwrap_or(usize::MAX);
    let kept = digits.len().saturating_sub(drop);
    let rest = digits[kept..].iter().any(|d| *d != 0);
    digits.truncate(kept);
    *scale = NANO;
    if !rest {
        return;
    }
    for d in digits.iter_mut().rev() {
        if *d < 9 {
            *d += 1;
            return;
        }
        *d = 0;
    }
    digits.insert(0, 1);
}

fn number(digits: &[u8]) -> Option<i128> {
    digits
        .iter()
        .try_fold(0i128, |n, d| n.checked_mul(10)?.checked_add(i128::from(*d)))
}
