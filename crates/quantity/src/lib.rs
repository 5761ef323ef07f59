//! Amounts of resources as Kubernetes writes them: `500m`, `1.5Gi`, `2e3` (apimachinery `pkg/api/resource`, v1.36).
//!
//! It is: reading, writing in canonical form, comparing, adding, rounding; exact, with upstream's rounding and errors.
//! It is not: what an amount means, or which amounts an object may have.
//! It must never know: Kubernetes' objects, requests, time.
//!
//! Two bounds differ from upstream's arbitrary precision: an amount has 38 significant digits at most, and a whole number
//! that doesn't fit 64 bits is the nearest one that does (upstream's wraps around).
#![forbid(unsafe_code)]

mod arithmetic;
mod json;
mod parse;
mod write;

pub use parse::ParseError;

use arithmetic::{pow10, rounded};

/// The finest amount is 10^-9.
const NANO: i32 = -9;

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

/// An amount: `value` · 10^`scale`. Equal amounts are equal however they are written.
#[derive(Debug, Clone)]
pub struct Quantity {
    value: i128,
    scale: i32,
    format: Format,
    /// Whether upstream holds it as a 64-bit number: only those can be whole numbers to it (`AsInt64`).
    small: bool,
    /// The input, when upstream hands it back unchanged.
    text: Option<Box<str>>,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity::whole(0);

    /// A number of things.
    pub const fn whole(n: i64) -> Quantity {
        Quantity::scaled(n, 0, Format::Decimal)
    }

    /// A number of bytes, written with `Ki`, `Mi`, ….
    pub const fn bytes(n: i64) -> Quantity {
        Quantity::scaled(n, 0, Format::Binary)
    }

    /// Thousandths: millicores, for one.
    pub const fn millis(n: i64) -> Quantity {
        Quantity::scaled(n, -3, Format::Decimal)
    }

    /// `n` · 10^`scale`.
    const fn scaled(n: i64, scale: i32, format: Format) -> Quantity {
        Quantity {
            value: n as i128,
            scale,
            format,
            small: true,
            text: None,
        }
    }

    /// It is nothing.
    pub fn is_zero(&self) -> bool {
        self.value == 0
    }

    /// -1 below zero, 0, or 1 above.
    pub fn sign(&self) -> i32 {
        self.value.signum() as i32
    }

    /// It has no fraction.
    pub fn is_whole(&self) -> bool {
        self.value == 0
            || self.scale >= 0
            || pow10(-self.scale).is_some_and(|by| self.value % by == 0)
    }

    /// Whole units, rounded away from zero, held to what fits (`Value`).
    pub fn value(&self) -> i64 {
        self.in_units_of(0)
    }

    /// Thousandths, rounded away from zero, held to what fits (`MilliValue`).
    pub fn milli_value(&self) -> i64 {
        self.in_units_of(-3)
    }

    /// Units of 10^`scale`, rounded away from zero, held to what fits (`ScaledValue`).
    pub fn in_units_of(&self, scale: i32) -> i64 {
        let end = match self.sign() {
            0 => return 0,
            1 => i64::MAX,
            _ => i64::MIN,
        };
        let n = if self.scale < scale {
            Some(rounded(self.value, self.scale, scale))
        } else {
            pow10(self.scale.saturating_sub(scale)).and_then(|by| self.value.checked_mul(by))
        };
        n.and_then(|n| i64::try_from(n).ok()).unwrap_or(end)
    }

    /// The whole number that it is, if upstream takes it for one: `1000m` and what has more than 64 bits are none to it
    /// (`AsInt64`).
    pub fn as_int(&self) -> Option<i64> {
        if !self.small || self.scale < 0 {
            return None;
        }
        let n = self.value.checked_mul(pow10(self.scale)?)?;
        i64::try_from(n).ok()
    }

    /// The nearest floating-point number (`AsApproximateFloat64`).
    pub fn float(&self) -> f64 {
        match self.scale {
            0 => self.value as f64,
            e => self.value as f64 * 10f64.powi(e),
        }
    }

    /// How many of `divisor` it holds, rounded up; nothing counts as a divisor of 1 (the downward API's rule). Below zero
    /// there are none.
    pub fn divided(&self, divisor: &Quantity) -> i64 {
        if self.value <= 0 {
            return 0;
        }
        if divisor.value <= 0 {
            return self.value();
        }
        let scale = self.scale.min(divisor.scale);
        let at = |q: &Quantity| pow10(q.scale - scale).and_then(|by| q.value.checked_mul(by));
        match (at(self), at(divisor)) {
            (Some(n), Some(by)) => {
                let n = n / by + i128::from(n % by != 0);
                i64::try_from(n).unwrap_or(i64::MAX)
            }
            (None, _) => i64::MAX,
            (_, None) => 1,
        }
    }
}

/// Reads the text and rounds it to whole units (`Value`); None when it isn't an amount.
pub fn units(text: &str) -> Option<i64> {
    Quantity::parse(text).ok().map(|q| q.value())
}

/// Reads the text and rounds it to thousandths (`MilliValue`); None when it isn't an amount.
pub fn milli(text: &str) -> Option<i64> {
    Quantity::parse(text).ok().map(|q| q.milli_value())
}
