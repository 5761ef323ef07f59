//! Kubernetes quantities: `1.5Gi`, `500m`, `1e3` (k8s.io/apimachinery/pkg/api/resource).

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use super::Function;
use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::value::Value;

const NANO: i128 = 1_000_000_000;
/// Larger amounts are held at this.
const MAX: i128 = i128::MAX / 4;
const FORMAT: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// An amount in units of 10⁻⁹, rounded up to it.
#[derive(Debug, Clone)]
pub struct Quantity {
    nanos: i128,
    /// Whether upstream holds the amount as a whole number: `1000m` is not one to it.
    whole: bool,
    text: Option<Box<str>>,
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
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
        self.nanos.cmp(&other.nanos)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            return f.write_str(text);
        }
        let (whole, rest) = (self.nanos / NANO, self.nanos % NANO);
        match rest {
            0 => write!(f, "{whole}"),
            _ if self.nanos % 1_000_000 == 0 => write!(f, "{}m", self.nanos / 1_000_000),
            _ if self.nanos % 1_000 == 0 => write!(f, "{}u", self.nanos / 1_000),
            _ => write!(f, "{}n", self.nanos),
        }
    }
}

impl Quantity {
    /// Reads a quantity; the error is upstream's.
    pub fn parse(s: &str) -> Result<Quantity, &'static str> {
        let (sign, rest) = match s.as_bytes().first() {
            None => return Err(FORMAT),
            Some(b'-') => (-1, &s[1..]),
            Some(b'+') => (1, &s[1..]),
            _ => (1, s),
        };
        let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
        let (int, rest) = rest.split_at(digits(rest));
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(f) => f.split_at(digits(f)),
            None => ("", rest),
        };
        if int.is_empty() && fraction.is_empty() {
            return Err(FORMAT);
        }
        let unit = Unit::parse(suffix)?;
        // rounded away from zero
        let nanos = sign * amount(int, fraction.trim_end_matches('0'), unit);
        let plain = fraction.is_empty() && !matches!(unit, Unit::Ten(e) if e < 0);
        let whole = nanos % NANO == 0 && (plain || matches!(unit, Unit::Two(_)));
        Ok(Quantity {
            nanos,
            whole,
            text: Some(s.into()),
        })
    }

    fn of(nanos: i128, whole: bool) -> Quantity {
        Quantity {
            nanos,
            whole,
            text: None,
        }
    }

    fn as_int(&self) -> Option<i64> {
        (self.whole && self.nanos % NANO == 0).then(|| i64::try_from(self.nanos / NANO).ok())?
    }
}

#[derive(Clone, Copy)]
enum Unit {
    Two(u32),
    Ten(i32),
}

impl Unit {
    fn parse(s: &str) -> Result<Unit, &'static str> {
        Ok(match s {
            "" => Unit::Ten(0),
            "Ki" => Unit::Two(10),
            "Mi" => Unit::Two(20),
            "Gi" => Unit::Two(30),
            "Ti" => Unit::Two(40),
            "Pi" => Unit::Two(50),
            "Ei" => Unit::Two(60),
            "n" => Unit::Ten(-9),
            "u" => Unit::Ten(-6),
            "m" => Unit::Ten(-3),
            "k" => Unit::Ten(3),
            "M" => Unit::Ten(6),
            "G" => Unit::Ten(9),
            "T" => Unit::Ten(12),
            "P" => Unit::Ten(15),
            "E" => Unit::Ten(18),
            _ => {
                let exponent = s.strip_prefix(['e', 'E']).and_then(|e| e.parse().ok());
                Unit::Ten(exponent.ok_or(
                    if s.bytes().all(|b| b"eEinumkKMGTP+-0123456789".contains(&b)) {
                        "unable to parse quantity's suffix"
                    } else {
                        FORMAT
                    },
                )?)
            }
        })
    }
}

/// `int.fraction` of a unit in nanos, rounded up, at most `MAX`.
fn amount(int: &str, fraction: &str, unit: Unit) -> i128 {
    // digits beyond these are past the cap or below the rounding
    let (binary, exponent) = match unit {
        Unit::Two(bits) => (1i128 << bits, 0),
        Unit::Ten(e) => (1, e.clamp(-60, 60)),
    };
    let fraction = &fraction[..fraction.len().min(30)];
    let int = int.trim_start_matches('0');
    if int.len() > 30 {
        return MAX;
    }
    let digits = format!("{int}{fraction}");
    let mut value: i128 = if digits.len() > 37 {
        i128::MAX
    } else {
        digits.parse().unwrap_or(0)
    };
    let mut scale = exponent + 9 - fraction.len() as i32;
    value = value.saturating_mul(binary);
    while scale > 0 && value < MAX && value != 0 {
        value = value.saturating_mul(10);
        scale -= 1;
    }
    if scale < 0 {
        let divisor = 10i128
            .checked_pow(scale.unsigned_abs())
            .unwrap_or(i128::MAX);
        value = value / divisor + i128::from(value % divisor != 0);
    }
    value.min(MAX)
}

fn parsed(args: &[Value<'_>]) -> Result<Result<Quantity, &'static str>, EvalError> {
    match args {
        [Value::String(s)] => Ok(Quantity::parse(s.as_str())),
        _ => Err(EvalError::no_overload()),
    }
}

pub(super) fn quantity<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    parsed(args)?
        .map(|q| Value::Quantity(Arc::new(q)))
        .map_err(EvalError::new)
}

pub(super) fn is_quantity<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(parsed(args)?.is_ok()))
}

pub(super) fn method(name: &str) -> Option<Function> {
    Some(match name {
        "sign" => |a| of(a, |q| Ok(Value::Int(q.nanos.signum() as i64))),
        "isInteger" => |a| of(a, |q| Ok(Value::Bool(q.as_int().is_some()))),
        "asInteger" => |a| {
            of(a, |q| {
                q.as_int()
                    .map(Value::Int)
                    .ok_or_else(|| EvalError::new("cannot convert value to integer"))
            })
        },
        "asApproximateFloat" => |a| of(a, |q| Ok(Value::Double(q.nanos as f64 / NANO as f64))),
        "add" => |a| sum(a, 1),
        "sub" => |a| sum(a, -1),
        _ => return None,
    })
}

fn of<'a>(args: &[Value<'a>], f: fn(&Quantity) -> Evaluated<'static>) -> Evaluated<'a> {
    match args {
        [Value::Quantity(q)] => f(q),
        _ => Err(EvalError::no_overload()),
    }
}

fn sum<'a>(args: &[Value<'a>], sign: i128) -> Evaluated<'a> {
    let (a, nanos, whole) = match args {
        [Value::Quantity(a), Value::Quantity(b)] => (a, b.nanos, b.whole),
        [Value::Quantity(a), Value::Int(i)] => (a, i128::from(*i) * NANO, true),
        _ => return Err(EvalError::no_overload()),
    };
    // both are within a small multiple of MAX, far from i128's ends
    let total = a.nanos.saturating_add(sign * nanos);
    Ok(Value::Quantity(Arc::new(Quantity::of(
        total,
        a.whole && whole,
    ))))
}
