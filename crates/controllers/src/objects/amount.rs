//! `resource.Quantity`, exact: added, compared, and written as upstream writes it (`apimachinery/pkg/api/resource`).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How a quantity is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// 1k, 100m
    Decimal,
    /// 1Ki
    Binary,
    /// 1e3
    Exponent,
}

/// An amount in billionths (finer is rounded up, as upstream's), with the way it is written.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    nano: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// By the power of 1000, from billionths on.
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

impl Amount {
    /// Nothing.
    pub const ZERO: Amount = Amount::whole(0);

    /// A number of things.
    pub const fn whole(n: i64) -> Amount {
        Amount {
            nano: n as i128 * NANO,
            format: Format::Decimal,
        }
    }
    /// None when it isn't a quantity.
    pub fn parse(text: &str) -> Option<Amount> {
        let end = text
            .char_indices()
            .find(|(i, c)| {
                !(c.is_ascii_digit() || *c == '.' || (*i == 0 && matches!(c, '+' | '-')))
            })
            .map_or(text.len(), |(i, _)| i);
        let (number, suffix) = text.split_at(end);
        let (sign, number) = match number.strip_prefix('-') {
            Some(n) => (-1, n),
            None => (1, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || digits.len() > 30 || fraction.contains('.') {
            return None;
        }
        let digits: i128 = digits.parse().ok()?;
        let (format, binary, decimal) = match BINARY.iter().position(|s| *s == suffix) {
            Some(i) if i > 0 => (Format::Binary, 10 * i as u32, 0),
            _ => match DECIMAL.iter().position(|s| *s == suffix) {
                Some(i) => (Format::Decimal, 0, 3 * (i as i32 - 3)),
                None => {
                    let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
                    (Format::Exponent, 0, exponent)
                }
            },
        };
        let power = decimal + 9 - i32::try_from(fraction.len()).ok()?;
        let mut nano = digits.checked_mul(1i128 << binary)?;
        if power >= 0 {
            nano = nano.checked_mul(10i128.checked_pow(power.unsigned_abs())?)?;
        } else {
            let by = 10i128.checked_pow(power.unsigned_abs())?;
            nano = nano / by + i128::from(nano % by != 0);
        }
        Some(Amount {
            nano: sign * nano,
            format,
        })
    }
    /// It is nothing.
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }
    /// Adds; nothing takes on the way the other is written.
    pub fn add(&mut self, other: Amount) {
        if self.is_zero() {
            self.format = other.format;
        }
        self.nano = self.nano.saturating_add(other.nano);
    }
    /// The larger.
    pub fn max(self, other: Amount) -> Amount {
        if other.nano > self.nano { other } else { self }
    }
    /// Rounded up to whole units.
    pub fn ceil(mut self) -> Amount {
        let rest = self.nano.rem_euclid(NANO);
        if rest != 0 {
            self.nano += NANO - rest;
        }
        self
    }
}

impl PartialEq for Amount {
    fn eq(&self, other: &Amount) -> bool {
        self.nano == other.nano
    }
}
impl Eq for Amount {}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let small = self.nano.abs() < 1024 * NANO;
        if self.format == Format::Binary && !small && self.nano % NANO == 0 {
            let mut units = self.nano / NANO;
            let mut suffix = 0;
            while units % 1024 == 0 && suffix + 1 < BINARY.len() {
                units /= 1024;
                suffix += 1;
            }
            return write!(f, "{units}{}", BINARY[suffix]);
        }
        let mut units = self.nano;
        let mut power = 0;
        while units % 1000 == 0 && power + 1 < DECIMAL.len() {
            units /= 1000;
            power += 1;
        }
        match self.format {
            Format::Exponent if power == 3 => write!(f, "{units}"),
            Format::Exponent => write!(f, "{units}e{}", 3 * (power as i32 - 3)),
            _ => write!(f, "{units}{}", DECIMAL[power]),
        }
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    /// What isn't a quantity is nothing: the server doesn't let it in.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form<'a> {
            Text(#[serde(borrow)] std::borrow::Cow<'a, str>),
            Number(serde_json::Number),
        }
        let amount = match Form::deserialize(d)? {
            Form::Text(t) => Amount::parse(&t),
            Form::Number(n) => Amount::parse(&n.to_string()),
        };
        Ok(amount.unwrap_or(Amount::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_as_upstream_does() {
        for (text, want) in [
            ("0", "0"),
            ("0Gi", "0"),
            ("500m", "500m"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1Gi", "1Gi"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("100Ki", "100Ki"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("12e6", "12e6"),
            ("5e0", "5"),
            ("1.0000000001", "1000000001n"),
            ("-2.5", "-2500m"),
            ("9E", "9E"),
        ] {
            let amount = Amount::parse(text).unwrap();
            assert_eq!(amount.to_string(), want, "{text}");
        }
        for bad in ["", "Gi", "1.2.3", "one", "1 Gi", "1e"] {
            assert!(Amount::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn sums() {
        let sum = |all: &[&str]| {
            let mut total = Amount::ZERO;
            for text in all {
                total.add(Amount::parse(text).unwrap());
            }
            total.to_string()
        };
        assert_eq!(sum(&["500m", "1.5"]), "2");
        assert_eq!(sum(&["100Mi", "156Mi"]), "256Mi");
        assert_eq!(sum(&["1Gi", "1G"]), "2073741824");
        assert_eq!(sum(&[]), "0");
        assert_eq!(Amount::parse("1500m").unwrap().ceil().to_string(), "2");
    }
}
