//! Which endpoint a path names, and what names may look like (distribution-spec, "Endpoints" and "Pulling manifests").

use crate::{digest::Digest, error::Refusal};
use percent_encoding::percent_decode_str;

/// A repository's longest name; with the registry's own name before it, clients stop at 255.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/v2/`
    Base,
    /// `/v2/token`: where a Bearer token is got.
    Token,
    Catalog,
    Tags(String),
    Manifest(String, Reference),
    Blob(String, Digest),
    Referrers(String, Digest),
    /// `/v2/<name>/blobs/uploads/`
    Uploads(String),
    /// `/v2/<name>/blobs/uploads/<id>`
    Upload(String, String),
}

impl Target {
    /// The repository, if it is about one.
    pub fn repository(&self) -> Option<&str> {
        match self {
            Target::Base | Target::Token | Target::Catalog => None,
            Target::Tags(name)
            | Target::Manifest(name, _)
            | Target::Blob(name, _)
            | Target::Referrers(name, _)
            | Target::Uploads(name)
            | Target::Upload(name, _) => Some(name),
        }
    }
}

/// How a manifest is named in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    Tag(String),
    Digest(Digest),
    /// Neither a tag nor a digest: nothing can have this name.
    Neither(String),
}

impl Reference {
    fn parse(text: &str) -> Result<Reference, Refusal> {
        match text.contains(':') {
            true => Ok(Reference::Digest(
                text.parse().map_err(Refusal::digest_invalid)?,
            )),
            false if is_tag(text) => Ok(Reference::Tag(text.to_string())),
            false => Ok(Reference::Neither(text.to_string())),
        }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`
pub fn is_name(name: &str) -> bool {
    name.len() <= NAME_MAX && name.split('/').all(is_component)
}

fn is_component(part: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = part
        .bytes()
        .next()
        .zip(part.bytes().next_back())
        .is_some_and(|(first, last)| alnum(first) && alnum(last));
    let separators = part
        .as_bytes()
        .split(|b| alnum(*b))
        .filter(|separator| !separator.is_empty());
    ends && separators.into_iter().all(|separator| {
        matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
pub fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=TAG_MAX).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// Reads a request's path.
///
/// # Errors
/// 404 for no path of the API, `NAME_INVALID` and `DIGEST_INVALID` for what stands in it.
pub fn parse(path: &str) -> Result<Target, Refusal> {
    let unknown = || {
        Refusal::not_here(format!(
            "{path} is no path of a registry: its API is below /v2/"
        ))
    };
    let decoded = percent_decode_str(path)
        .decode_utf8()
        .map_err(|_| unknown())?;
    let rest = match decoded.strip_prefix("/v2") {
        Some("" | "/") => return Ok(Target::Base),
        Some(rest) => rest.strip_prefix('/').ok_or_else(unknown)?,
        None => return Err(unknown()),
    };
    match rest {
        "_catalog" => return Ok(Target::Catalog),
        "token" => return Ok(Target::Token),
        _ => {}
    }
    let named = |name: &str| match is_name(name) {
        true => Ok(name.to_string()),
        false => Err(Refusal::name_invalid(format!(
            "{name:?} is no repository's name: lower-case letters and digits, joined by single '.', '_', '__', '-' or '/'"
        ))),
    };
    let digest = |text: &str| text.parse().map_err(Refusal::digest_invalid);
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return Ok(Target::Tags(named(name)?));
    }
    let without_slash = rest.strip_suffix('/').unwrap_or(rest);
    if let Some(name) = without_slash.strip_suffix("/blobs/uploads") {
        return Ok(Target::Uploads(named(name)?));
    }
    let (before, last) = rest.rsplit_once('/').ok_or_else(unknown)?;
    if let Some(name) = before.strip_suffix("/blobs/uploads") {
        return Ok(Target::Upload(named(name)?, last.to_string()));
    }
    if let Some(name) = before.strip_suffix("/blobs") {
        return Ok(Target::Blob(named(name)?, digest(last)?));
    }
    if let Some(name) = before.strip_suffix("/manifests") {
        return Ok(Target::Manifest(named(name)?, Reference::parse(last)?));
    }
    if let Some(name) = before.strip_suffix("/referrers") {
        return Ok(Target::Referrers(named(name)?, digest(last)?));
    }
    Err(unknown())
}

/// A value of a query.
pub fn query(query: Option<&str>, key: &str) -> Option<String> {
    queries(query, key).next()
}

/// Every value of a query.
pub fn queries<'a>(query: Option<&'a str>, key: &'a str) -> impl Iterator<Item = String> + 'a {
    form_urlencoded::parse(query.unwrap_or("").as_bytes())
        .filter(move |(name, _)| name == key)
        .map(|(_, value)| value.into_owned())
}

/// A value as it stands in a path or a query.
pub fn quoted(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_what_the_specification_says() {
        let sha256 = "a".repeat(64);
        let name = |text: &str| text.to_string();
        let digest: Digest = format!("sha256:{sha256}").parse().unwrap();
        for (path, want) in [
            ("/v2".to_string(), Target::Base),
            ("/v2/".into(), Target::Base),
            ("/v2/_catalog".into(), Target::Catalog),
            ("/v2/a/b/tags/list".into(), Target::Tags(name("a/b"))),
            (
                "/v2/a/manifests/1.0".into(),
                Target::Manifest(name("a"), Reference::Tag(name("1.0"))),
            ),
            (
                format!("/v2/a/manifests/sha256%3A{sha256}"),
                Target::Manifest(name("a"), Reference::Digest(digest.clone())),
            ),
            (
                "/v2/a/manifests/.x".into(),
                Target::Manifest(name("a"), Reference::Neither(name(".x"))),
            ),
            (
                format!("/v2/blobs/uploads/blobs/sha256:{sha256}"),
                Target::Blob(name("blobs/uploads"), digest.clone()),
            ),
            ("/v2/a/blobs/uploads/".into(), Target::Uploads(name("a"))),
            ("/v2/a/blobs/uploads".into(), Target::Uploads(name("a"))),
            (
                "/v2/a/blobs/uploads/u".into(),
                Target::Upload(name("a"), name("u")),
            ),
            (
                format!("/v2/a/referrers/sha256:{sha256}"),
                Target::Referrers(name("a"), digest),
            ),
        ] {
            assert_eq!(parse(&path).ok(), Some(want), "{path}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for (path, code) in [
            ("/", "UNSUPPORTED"),
            ("/v3/", "UNSUPPORTED"),
            ("/v2x", "UNSUPPORTED"),
            ("/v2/a", "UNSUPPORTED"),
            ("/v2/A/tags/list", "NAME_INVALID"),
            ("/v2/a..b/tags/list", "NAME_INVALID"),
            ("/v2/../tags/list", "NAME_INVALID"),
            ("/v2/a/%2e%2e/b/tags/list", "NAME_INVALID"),
            ("/v2//tags/list", "NAME_INVALID"),
            ("/v2/a___b/tags/list", "NAME_INVALID"),
            ("/v2/_a/blobs/uploads/", "NAME_INVALID"),
            ("/v2/a/blobs/sha256:xyz", "DIGEST_INVALID"),
            ("/v2/a/blobs/md5:00", "DIGEST_INVALID"),
            ("/v2/a/manifests/sha256:baddigeststring", "DIGEST_INVALID"),
        ] {
            assert_eq!(parse(path).err().map(|e| e.code), Some(code), "{path}");
        }
    }
}
