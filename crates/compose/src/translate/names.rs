//! Names and texts that mean the same to Kubernetes as to Compose.

/// A DNS-1123 label: Compose names may hold capitals, `_` and `.`, and be longer.
pub(crate) fn dns_name(name: &str) -> String {
    let mapped: String = name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let mapped = mapped.trim_matches('-');
    match mapped.len() {
        0 => "x".into(),
        1..=63 => mapped.to_string(),
        _ => format!(
            "{}-{}",
            mapped[..54].trim_end_matches('-'),
            digest(name.as_bytes(), 8)
        ),
    }
}

/// A text that Kubernetes expands no `$(VARIABLE)` in.
pub(crate) fn literal(text: &str) -> String {
    match text.contains("$(") || text.contains("$$") {
        true => text.replace('$', "$$"),
        false => text.to_string(),
    }
}

/// The first hexadecimal digits of a SHA-256.
pub(super) fn digest(bytes: &[u8], digits: usize) -> String {
    use sha2::Digest as _;
    let all = sha2::Sha256::digest(bytes);
    let hex: String = all.iter().map(|b| format!("{b:02x}")).collect();
    hex[..digits].to_string()
}

/// Whether a text may be the key of a label or annotation (`[PREFIX/]NAME`).
pub(super) fn is_qualified(key: &str) -> bool {
    let (prefix, name) = key
        .rsplit_once('/')
        .map_or((None, key), |(p, n)| (Some(p), n));
    let ends = |s: &str| {
        let ok = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        ok(s.chars().next()) && ok(s.chars().last())
    };
    let name_ok = name.len() <= 63
        && ends(name)
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let prefix_ok = prefix.is_none_or(|p| {
        p.len() <= 253
            && p.split('.').all(|label| {
                ends(label)
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            })
    });
    name_ok && prefix_ok
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_texts_and_keys() {
        for (name, want) in [("My_Web.1", "my-web-1"), ("a", "a"), ("-_-", "x")] {
            assert_eq!(dns_name(name), want);
        }
        assert_eq!(dns_name(&"a".repeat(80)).len(), 63);
        for (text, want) in [("a $(b) $$", "a $$(b) $$$$"), ("$x", "$x")] {
            assert_eq!(literal(text), want);
        }
        for (key, want) in [
            ("traefik.http.routers.web.rule", true),
            ("com.example/x", true),
            ("a b", false),
            ("", false),
            ("x/", false),
            ("Caps.com/x", false),
        ] {
            assert_eq!(is_qualified(key), want, "{key}");
        }
    }
}
