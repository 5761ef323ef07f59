//! Writing (`CanonicalizeBytes`).

use crate::{Format, Quantity, arithmetic::pow10};
use std::fmt;

/// By the power of 1000, from billionths on.
pub(crate) const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

impl Quantity {
    /// Upstream's canonical text; the input where upstream leaves it alone.
    pub fn canonical(&self) -> String {
        self.to_string()
    }

    /// The amount when it has no fraction and fits.
    fn exact(&self) -> Option<i128> {
        if self.scale >= 0 {
            return self.value.checked_mul(pow10(self.scale)?);
        }
        let by = pow10(-self.scale)?;
        (self.value % by == 0).then(|| self.value / by)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            return f.write_str(text);
        }
        if self.value == 0 {
            return f.write_str("0");
        }
        if self.format == Format::Binary
            && let Some(mut n) = self.exact().filter(|n| n.abs() >= 1024)
        {
            let mut unit = 0;
            while n % 1024 == 0 && unit + 1 < BINARY.len() {
                n /= 1024;
                unit += 1;
            }
            return write!(f, "{n}{}", BINARY[unit]);
        }
        let (mut mantissa, mut exponent) = (self.value, self.scale);
        while mantissa % 10 == 0 {
            mantissa /= 10;
            exponent = exponent.saturating_add(1);
        }
        while exponent % 3 != 0 {
            match mantissa.checked_mul(10) {
                Some(v) => mantissa = v,
                None => break,
            }
            exponent -= 1;
        }
        match (self.format, exponent) {
            (_, 0) => write!(f, "{mantissa}"),
            (Format::DecimalExponent, e) => write!(f, "{mantissa}e{e}"),
            (_, e) => {
                // beyond the largest suffix upstream writes none
                let at = usize::try_from(e / 3 + 3).unwrap_or(usize::MAX);
                let suffix = DECIMAL.get(at).copied().unwrap_or_default();
                write!(f, "{mantissa}{suffix}")
            }
        }
    }
}
