//! Order of versions: apimachinery `pkg/version`, `v2` before `v1` before `v1beta2` before `v1alpha1` before others.

use std::cmp::Ordering;

/// Whether `a` is less preferred (Less) or more preferred (Greater) than `b`.
pub fn compare(a: &str, b: &str) -> Ordering {
    match (parse(a), parse(b)) {
        (Some(x), Some(y)) => x.cmp(&y),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        // others by the alphabet, the first first
        (None, None) => b.cmp(a),
    }
}

/// Stability, major, minor.
fn parse(version: &str) -> Option<(u8, u64, u64)> {
    let rest = version.strip_prefix('v')?;
    let digits = |t: &str| -> Option<u64> {
        let good = !t.is_empty() && !t.starts_with('0') && t.bytes().all(|b| b.is_ascii_digit());
        t.parse().ok().filter(|_| good)
    };
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let major = digits(&rest[..end])?;
    let tail = &rest[end..];
    if tail.is_empty() {
        return Some((2, major, 0));
    }
    let (stability, minor) = match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
        (Some(minor), _) => (1, minor),
        (_, Some(minor)) => (0, minor),
        _ => return None,
    };
    Some((stability, major, digits(minor)?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_most_preferred_comes_first() {
        let mut all = vec![
            "foo10",
            "v1beta1",
            "v11alpha2",
            "v10",
            "v2",
            "foo1",
            "v3beta1",
            "v1",
            "v12alpha1",
            "v11beta2",
        ];
        all.sort_by(|a, b| super::compare(b, a));
        assert_eq!(
            all,
            [
                "v10",
                "v2",
                "v1",
                "v11beta2",
                "v3beta1",
                "v1beta1",
                "v12alpha1",
                "v11alpha2",
                "foo1",
                "foo10"
            ]
        );
    }
}
