//! Image references as Docker reads them (distribution reference grammar, "familiar" names).

use crate::Error;

/// `redis:7` → `docker.io/library/redis:7`; a missing tag becomes `latest`.
///
/// # Errors
/// [`Error::Reference`] when the name is outside the grammar.
pub fn normalize(name: &str) -> Result<String, Error> {
    let bad = || Error::Reference(name.to_string());
    let (rest, digest) = match name.split_once('@') {
        Some((r, d)) => (r, Some(d)),
        None => (name, None),
    };
    if digest.is_some_and(|d| !is_digest(d)) {
        return Err(bad());
    }
    let slash = rest.rfind('/').map_or(0, |i| i + 1);
    let (path, tag) = match rest[slash..].rfind(':') {
        Some(i) => (&rest[..slash + i], Some(&rest[slash + i + 1..])),
        None => (rest, None),
    };
    if let Some(t) = tag {
        let ok = !t.is_empty()
            && t.len() <= 128
            && !t.starts_with(['.', '-'])
            && t.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if !ok {
            return Err(bad());
        }
    }
    let (domain, repository) = match path.split_once('/') {
        Some((d, r))
            if d.contains(['.', ':']) || d == "localhost" || d.chars().any(char::is_uppercase) =>
        {
            (d, r.to_string())
        }
        Some(_) => ("docker.io", path.to_string()),
        None => ("docker.io", format!("library/{path}")),
    };
    let domain = if domain == "index.docker.io" {
        "docker.io"
    } else {
        domain
    };
    // SOURCE: `distribution/reference` splitDockerDomain: `docker.io/redis` is `redis`
    let repository = match domain == "docker.io" && !repository.contains('/') {
        true => format!("library/{repository}"),
        false => repository,
    };
    let domain_ok = domain.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
        && domain
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'));
    if !domain_ok || repository.len() > 255 || !repository.split('/').all(is_component) {
        return Err(bad());
    }
    let tail = match (tag, digest) {
        (Some(t), Some(d)) => format!(":{t}@{d}"),
        (Some(t), None) => format!(":{t}"),
        (None, Some(d)) => format!("@{d}"),
        (None, None) => ":latest".to_string(),
    };
    Ok(format!("{domain}/{repository}{tail}"))
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_component(s: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = s.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(f), Some(l)) if alnum(*f) && alnum(*l) => {}
        _ => return false,
    }
    bytes
        .split(|b| alnum(*b))
        .filter(|separator| !separator.is_empty())
        .all(|separator| {
            matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
        })
}

/// `sha256:` and 64 lower-case hexadecimal digits.
pub(crate) fn is_digest(s: &str) -> bool {
    s.strip_prefix("sha256:").is_some_and(|h| {
        h.len() == 64
            && h.bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_normalise_as_docker_does() {
        for (given, want) in [
            ("redis", "docker.io/library/redis:latest"),
            ("redis:7", "docker.io/library/redis:7"),
            ("a/b", "docker.io/a/b:latest"),
            ("docker.io/redis", "docker.io/library/redis:latest"),
            ("index.docker.io/redis:7", "docker.io/library/redis:7"),
            ("docker.io/a/b", "docker.io/a/b:latest"),
            ("localhost/x:1", "localhost/x:1"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("ghcr.io/o/r:v1.2", "ghcr.io/o/r:v1.2"),
            (
                "index.docker.io/library/redis",
                "docker.io/library/redis:latest",
            ),
            ("a__b/c--d.e:x", "docker.io/a__b/c--d.e:x"),
        ] {
            assert_eq!(normalize(given).unwrap(), want, "{given}");
        }
    }

    #[test]
    fn bad_names_are_refused() {
        for bad in [
            "",
            "Redis",
            "a//b",
            "a:",
            "a:-x",
            "-a",
            "a_",
            "a___b",
            "a@sha256:12",
            "../x",
            "a b",
            "a:b c",
        ] {
            assert!(matches!(normalize(bad), Err(Error::Reference(_))), "{bad}");
        }
    }
}
