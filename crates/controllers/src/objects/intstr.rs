//! `intstr.IntOrString`: a number, or a percentage of a total.

use serde::Deserialize;

/// A number or a percentage.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// an absolute number
    Int(i32),
    /// e.g. `25%`
    Text(Box<str>),
}

impl IntOrString {
    /// The number it means for `total`; percentages are rounded up or down. None when it's neither a number nor a percentage.
    pub fn of(&self, total: i32, up: bool) -> Option<i32> {
        match self {
            IntOrString::Int(n) => Some(*n),
            IntOrString::Text(t) => {
                let percent: i64 = t.strip_suffix('%')?.parse().ok()?;
                let product = percent * i64::from(total);
                let rounded = if up {
                    product.div_euclid(100) + i64::from(product.rem_euclid(100) != 0)
                } else {
                    product.div_euclid(100)
                };
                i32::try_from(rounded).ok()
            }
        }
    }
}

/// maxSurge and maxUnavailable in pods, as `ResolveFenceposts`: surge rounds up, unavailable down, and not both are 0.
pub fn fenceposts(surge: &IntOrString, unavailable: &IntOrString, total: i32) -> (i32, i32) {
    let surge = surge.of(total, true).unwrap_or(0).max(0);
    let unavailable = unavailable.of(total, false).unwrap_or(0).max(0);
    if surge == 0 && unavailable == 0 {
        (0, 1)
    } else {
        (surge, unavailable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(t: &str) -> IntOrString {
        serde_json::from_str(t).unwrap()
    }

    #[test]
    fn rounding() {
        for (surge, unavailable, total, want) in [
            ("\"25%\"", "\"25%\"", 1, (1, 0)),
            ("\"25%\"", "\"25%\"", 4, (1, 1)),
            ("\"25%\"", "\"25%\"", 10, (3, 2)),
            ("\"0%\"", "\"0%\"", 10, (0, 1)),
            ("0", "\"10%\"", 5, (0, 1)),
            ("2", "0", 5, (2, 0)),
            ("\"39%\"", "\"39%\"", 10, (4, 3)),
            ("\"x\"", "1", 5, (0, 1)),
        ] {
            assert_eq!(
                fenceposts(&parse(surge), &parse(unavailable), total),
                want,
                "{surge} {unavailable} of {total}"
            );
        }
    }
}
