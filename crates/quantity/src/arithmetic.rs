//! Adding, comparing, rounding.

use crate::{Format, Quantity};
use std::cmp::Ordering;

/// 10^`exponent`, if it is a whole number that fits.
pub(crate) fn pow10(exponent: i32) -> Option<i128> {
    10i128.checked_pow(u32::try_from(exponent).ok()?)
}

/// `value` · 10^`scale` in units of 10^`to`, away from zero.
pub(crate) fn rounded(value: i128, scale: i32, to: i32) -> i128 {
    let signum = value.signum();
    match to.checked_sub(scale).and_then(pow10) {
        Some(by) => value / by + if value % by == 0 { 0 } else { signum },
        None => signum,
    }
}

/// Upstream's 64-bit sum: None where it goes on with arbitrary precision.
fn small_sum(a: &Quantity, b: &Quantity) -> Option<(i128, i32)> {
    if !(a.small && b.small) {
        return None;
    }
    if b.value == 0 {
        return Some((a.value, a.scale));
    }
    if a.value == 0 {
        return Some((b.value, b.scale));
    }
    let fits = |n: i128| i64::try_from(n).ok().map(i128::from);
    let scale = a.scale.min(b.scale);
    let at = |q: &Quantity| fits(q.value.checked_mul(pow10(q.scale - scale)?)?);
    Some((fits(at(a)? + at(b)?)?, scale))
}

impl Quantity {
    /// The sum, written as the first is, or as the other when the first is nothing.
    #[must_use]
    pub fn plus(&self, other: &Quantity) -> Quantity {
        let format = match self.value {
            0 => other.format,
            _ => self.format,
        };
        self.sum(other, format)
    }

    /// The difference, written as the first is, or as the other when the first is nothing.
    #[must_use]
    pub fn minus(&self, other: &Quantity) -> Quantity {
        self.plus(&other.negated())
    }

    /// Adds the other to it.
    pub fn add(&mut self, other: &Quantity) {
        *self = self.plus(other);
    }

    /// Takes the other from it.
    pub fn sub(&mut self, other: &Quantity) {
        *self = self.minus(other);
    }

    /// With the other sign.
    #[must_use]
    pub fn negated(&self) -> Quantity {
        self.with(self.value.saturating_neg(), self.scale)
    }

    /// So many times it.
    #[must_use]
    pub fn times(&self, n: i64) -> Quantity {
        self.with(self.value.saturating_mul(n.into()), self.scale)
    }

    /// Written as this one is.
    fn with(&self, value: i128, scale: i32) -> Quantity {
        Quantity {
            value,
            scale,
            format: self.format,
            small: self.small && i64::try_from(value).is_ok(),
            text: None,
        }
    }

    /// Drops what is finer than 10^`scale`, away from zero.
    pub fn round_up(&mut self, scale: i32) {
        // as upstream: a text that need not be rounded stays as it is
        if self.scale < scale {
            *self = self.with(rounded(self.value, self.scale, scale), scale);
        }
    }

    fn sum(&self, other: &Quantity, format: Format) -> Quantity {
        let whole = |value, scale, small| Quantity {
            value,
            scale,
            format,
            small,
            text: None,
        };
        if let Some((value, scale)) = small_sum(self, other) {
            return whole(value, scale, true);
        }
        if other.value == 0 {
            return whole(self.value, self.scale, false);
        }
        if self.value == 0 {
            return whole(other.value, other.scale, false);
        }
        let scale = self.scale.min(other.scale);
        let at = |q: &Quantity| {
            pow10(q.scale - scale)
                .and_then(|by| q.value.checked_mul(by))
                // beyond 38 digits: as far as there is room
                .unwrap_or(i128::MAX / 4 * q.value.signum())
        };
        whole(at(self).saturating_add(at(other)), scale, false)
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
        if self.sign() != other.sign() || self.value == 0 {
            return self.sign().cmp(&other.sign());
        }
        let scale = self.scale.min(other.scale);
        let at = |q: &Quantity| pow10(q.scale - scale).and_then(|by| q.value.checked_mul(by));
        match (at(self), at(other)) {
            (Some(a), Some(b)) => a.cmp(&b),
            // only the one with the larger scale can be too large to write out: it is further from zero
            (None, _) => self.sign().cmp(&0),
            (_, None) => 0.cmp(&other.sign()),
        }
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(all: I) -> Quantity {
        all.fold(Quantity::ZERO, |sum, q| sum.plus(&q))
    }
}
