//! What the client accepts, and what it sent.

use http::HeaderMap;

use crate::status::Failure;

/// The form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The object itself.
    Plain,
    /// `meta.k8s.io` Table of this version (`v1`, `v1beta1`).
    Table(&'static str),
    /// PartialObjectMetadata (or its List for collections) of this version.
    Partial(&'static str),
    /// The same, but the client asked for the List kind.
    PartialList(&'static str),
}

/// One media range of an Accept header.
pub struct Range<'a> {
    /// e.g. `application/json`
    pub media: &'a str,
    params: Vec<(&'a str, &'a str)>,
}
impl<'a> Range<'a> {
    /// Value of a parameter.
    pub fn param(&self, key: &str) -> Option<&'a str> {
        self.params.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
    }
    /// The range covers JSON.
    pub fn takes_json(&self) -> bool {
        matches!(
            self.media,
            "application/json" | "*/*" | "application/*" | "text/plain" | "text/html"
        )
    }
}

/// Media ranges in the client's order (kubectl's and client-go's order is their preference); empty when there is no header.
pub fn accepts(headers: &HeaderMap) -> Vec<Range<'_>> {
    headers
        .get_all(http::header::ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|range| {
            let mut parts = range.split(';').map(str::trim);
            Range {
                media: parts.next().unwrap_or(""),
                params: parts.filter_map(|p| p.split_once('=')).collect(),
            }
        })
        .filter(|r| !r.media.is_empty())
        .collect()
}

/// Picks the form of a resource's answer; 406 when JSON isn't accepted.
pub fn form(headers: &HeaderMap) -> Result<Form, Failure> {
    let ranges = accepts(headers);
    if ranges.is_empty() {
        return Ok(Form::Plain);
    }
    for range in ranges.iter().filter(|r| r.takes_json()) {
        let version = match range.param("v") {
            Some("v1") | None => "v1",
            Some("v1beta1") => "v1beta1",
            Some(_) => continue,
        };
        match (range.param("as"), range.param("g")) {
            (None, _) => return Ok(Form::Plain),
            (Some("Table"), Some("meta.k8s.io")) => return Ok(Form::Table(version)),
            (Some("PartialObjectMetadata"), Some("meta.k8s.io")) => {
                return Ok(Form::Partial(version));
            }
            (Some("PartialObjectMetadataList"), Some("meta.k8s.io")) => {
                return Ok(Form::PartialList(version));
            }
            _ => {}
        }
    }
    Err(not_acceptable())
}

/// 406 in upstream's words.
pub fn not_acceptable() -> Failure {
    Failure::new(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json",
    )
}

/// Encodings a body may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// application/json, or no header
    Json,
    /// application/yaml
    Yaml,
    /// application/vnd.kubernetes.protobuf
    Protobuf,
}

/// The body's media type without parameters, lower case.
pub fn content_type(headers: &HeaderMap) -> String {
    headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split(';').next())
        .unwrap_or("")
        .trim()
        .to_ascii_lowercase()
}

/// Encoding of an object body; 415 when it is none we read.
pub fn media(headers: &HeaderMap) -> Result<Media, Failure> {
    match content_type(headers).as_str() {
        "" | "application/json" | "text/plain" => Ok(Media::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(Media::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Media::Protobuf),
        _ => Err(unsupported(&[
            "application/json",
            "application/yaml",
            "application/vnd.kubernetes.protobuf",
        ])),
    }
}

/// 415 in upstream's words.
pub fn unsupported(accepted: &[&str]) -> Failure {
    Failure::new(
        415,
        "UnsupportedMediaType",
        format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        ),
    )
}

/// Does the client take gzip?
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(http::header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|e| {
            let mut parts = e.split(';').map(str::trim);
            parts.next() == Some("gzip") && parts.next() != Some("q=0")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (accept, want) in [
            ("", Some(Form::Plain)),
            ("*/*", Some(Form::Plain)),
            ("application/vnd.kubernetes.protobuf", None),
            (
                "application/vnd.kubernetes.protobuf, application/json",
                Some(Form::Plain),
            ),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Some(Form::Table("v1")),
            ),
            (
                "application/json;as=Table;g=meta.k8s.io;v=v1beta1",
                Some(Form::Table("v1beta1")),
            ),
            (
                "application/json;as=Table;g=meta.k8s.io;v=v9, application/json",
                Some(Form::Plain),
            ),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Some(Form::PartialList("v1")),
            ),
            ("application/json;as=Nonsense;g=meta.k8s.io;v=v1", None),
        ] {
            let mut h = HeaderMap::new();
            if !accept.is_empty() {
                h.insert("accept", accept.parse().unwrap());
            }
            assert_eq!(form(&h).ok(), want, "{accept}");
        }
    }
}
