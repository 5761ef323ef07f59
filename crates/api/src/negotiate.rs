//! What the client accepts, and what it sent. Follows apiserver's `endpoints/handlers/negotiation` and goautoneg.

use http::{HeaderMap, HeaderValue, header, request::Parts};

use crate::{query::Query, registry::Resource, status::Failure};

/// The form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The object itself.
    Plain,
    /// `meta.k8s.io` Table of this version (`v1`, `v1beta1`).
    Table(&'static str),
    /// PartialObjectMetadata of this version.
    Partial(&'static str),
    /// PartialObjectMetadataList of this version.
    PartialList(&'static str),
}

/// Encodings of objects, in the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// application/json
    Json,
    /// application/yaml
    Yaml,
    /// application/vnd.kubernetes.protobuf
    Protobuf,
}
impl Media {
    /// The name in headers.
    pub fn name(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
    /// There is a framing for watches.
    fn streams(self) -> bool {
        self != Media::Yaml
    }
}

/// Of built-in kinds.
pub const ALL: &[Media] = &[Media::Json, Media::Yaml, Media::Protobuf];
/// Of custom resources.
pub const TEXT: &[Media] = &[Media::Json, Media::Yaml];

/// What an endpoint can answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Objects of a built-in kind.
    BuiltIn,
    /// Objects of a CustomResourceDefinition.
    Custom,
    /// Documents and failures: no other forms.
    Document,
}
impl Endpoint {
    /// The endpoint that serves this resource.
    pub fn of(r: &Resource) -> Endpoint {
        if r.custom.is_some() {
            Endpoint::Custom
        } else {
            Endpoint::BuiltIn
        }
    }
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Encoding.
    pub media: Media,
    /// Form.
    pub form: Form,
    /// With line breaks and indentation (JSON only).
    pub pretty: bool,
}

/// What of a request bears on the encoding of its answer; kept when the request itself is gone.
#[derive(Debug, Clone, Default)]
pub struct Wants {
    accept: Option<HeaderValue>,
    /// Takes gzip.
    pub gzip: bool,
    pretty: bool,
}

impl Wants {
    /// Reads a request's head.
    pub fn of(parts: &Parts) -> Wants {
        Wants {
            accept: parts.headers.get(header::ACCEPT).cloned(),
            gzip: takes_gzip(&parts.headers),
            pretty: pretty(parts),
        }
    }
    /// The encoding and form for an answer of this endpoint; None when nothing it offers is accepted.
    pub fn choose(&self, endpoint: Endpoint) -> Option<Choice> {
        let accept = self.accept.as_ref().map_or("", text);
        let mut choice = choose(accept, endpoint)?;
        choice.pretty |= self.pretty;
        Some(choice)
    }
}

fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or("")
}

/// `?pretty`, or a client that people look at.
pub fn pretty(parts: &Parts) -> bool {
    let raw = parts.uri.query().unwrap_or("");
    if raw.contains("pretty")
        && let Some(given) = Query::parse(Some(raw)).get("pretty")
    {
        // strconv.ParseBool
        return matches!(given, "1" | "t" | "T" | "true" | "TRUE" | "True");
    }
    let agent = parts.headers.get(header::USER_AGENT).map_or("", text);
    ["curl", "Wget", "Mozilla/5.0"]
        .iter()
        .any(|human| agent.starts_with(human))
}

/// One media range of an Accept header.
pub struct Range<'a> {
    kind: &'a str,
    sub: &'a str,
    quality: f64,
    params: Vec<(&'a str, &'a str)>,
}
impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Range<'a>> {
        let (media, rest) = text.split_once(';').unwrap_or((text, ""));
        let (kind, sub) = match media.split_once('/') {
            Some((kind, sub)) if !sub.is_empty() && !sub.contains('/') => (kind, sub),
            Some((kind, "")) if kind.trim() == "*" => (kind, "*"),
            None if media.trim() == "*" => (media, "*"),
            _ => return None,
        };
        let mut range = Range {
            kind: kind.trim_matches(' '),
            sub: sub.trim_matches(' '),
            quality: 1.0,
            params: vec![],
        };
        for param in rest.split(';') {
            let Some((key, value)) = param.split_once('=') else {
                continue;
            };
            if value.is_empty() || value.contains('=') {
                continue;
            }
            match key.trim_matches(' ') {
                "q" => range.quality = value.parse().unwrap_or(0.0),
                key => range.params.push((key, value.trim_matches(' '))),
            }
        }
        Some(range)
    }
    /// Value of a parameter.
    pub fn param(&self, key: &str) -> Option<&'a str> {
        let mut found = self.params.iter().rev().filter(|(k, _)| *k == key);
        found.next().map(|(_, v)| *v)
    }
    /// The range covers this media type.
    pub fn covers(&self, media: &str) -> bool {
        let (kind, sub) = media.split_once('/').unwrap_or((media, ""));
        (self.kind == kind && (self.sub == sub || self.sub == "*"))
            || (self.kind == "*" && self.sub == "*")
    }
    /// Sorts before another: goautoneg's order, which isn't quite one.
    fn before(&self, other: &Range<'_>) -> bool {
        self.quality > other.quality
            || (self.kind != "*" && other.kind == "*")
            || (self.sub != "*" && other.sub == "*")
    }
}

/// Media ranges of an Accept header, best first. Ranges alike keep the client's order.
fn ranges(accept: &str) -> Vec<Range<'_>> {
    let mut out: Vec<Range<'_>> = Vec::new();
    for range in accept.split(',').filter_map(Range::parse) {
        // the insertion sort that Go's sort.Sort is for short slices
        let mut at = out.len();
        out.push(range);
        while at > 0 && out[at].before(&out[at - 1]) {
            out.swap(at, at - 1);
            at -= 1;
        }
    }
    out
}

/// The media ranges of a request, best first; empty when it has no Accept header.
pub fn accepts(headers: &HeaderMap) -> Vec<Range<'_>> {
    ranges(headers.get(header::ACCEPT).map_or("", text))
}

fn choose(accept: &str, endpoint: Endpoint) -> Option<Choice> {
    if accept.is_empty() {
        return Some(Choice {
            media: Media::Json,
            form: Form::Plain,
            pretty: false,
        });
    }
    for range in ranges(accept) {
        for media in ALL.iter().filter(|m| range.covers(m.name())) {
            if let Some(choice) = taken(&range, *media, endpoint) {
                return Some(choice);
            }
        }
    }
    None
}

/// A range's parameters, when the endpoint can do what they ask for.
fn taken(range: &Range<'_>, media: Media, endpoint: Endpoint) -> Option<Choice> {
    let stream = range.param("stream").unwrap_or("");
    let streams = media.streams() && stream == "watch";
    if !stream.is_empty() && !streams {
        return None;
    }
    let server = range.param("sv").unwrap_or("");
    if !server.is_empty() && (endpoint == Endpoint::Document || server != "v1") {
        return None;
    }
    let (kind, group, version) = (range.param("as"), range.param("g"), range.param("v"));
    let form = if kind.is_none() && group.is_none() && version.is_none() {
        if endpoint == Endpoint::Custom && media == Media::Protobuf {
            return None;
        }
        Form::Plain
    } else {
        if endpoint == Endpoint::Document || group != Some("meta.k8s.io") {
            return None;
        }
        let version = match version {
            Some("v1") => "v1",
            Some("v1beta1") => "v1beta1",
            _ => return None,
        };
        match kind {
            Some("Table") if media != Media::Protobuf => Form::Table(version),
            Some("PartialObjectMetadata") => Form::Partial(version),
            Some("PartialObjectMetadataList") => Form::PartialList(version),
            _ => return None,
        }
    };
    Some(Choice {
        media,
        form,
        pretty: range.param("pretty") == Some("1"),
    })
}

/// [`form`] of a collection, whose router's refusal names the streams, too.
pub fn form_of_list(r: &Resource, headers: &HeaderMap) -> Result<Form, Failure> {
    form(r, headers).map_err(|f| {
        if !f.message().starts_with("406:") {
            return f;
        }
        let streams = ALL.iter().filter(|m| m.streams());
        let streams: Vec<String> = streams
            .map(|m| format!("{};stream=watch", m.name()))
            .collect();
        let message = format!("{}, {}", f.message(), streams.join(", "));
        Failure::new(406, "NotAcceptable", message).with_details()
    })
}

/// Picks the form of a resource's answer; 406 when it can't be given.
pub fn form(r: &Resource, headers: &HeaderMap) -> Result<Form, Failure> {
    let endpoint = Endpoint::of(r);
    let accept = headers.get(header::ACCEPT).map_or("", text);
    if endpoint == Endpoint::BuiltIn {
        produces(accept, ALL)?;
    }
    choose(accept, endpoint)
        .map(|c| c.form)
        .ok_or_else(|| not_acceptable(endpoint, false))
}

/// Picks encoding and form of a watch; 406 when it can't be given.
pub fn stream(r: &Resource, headers: &HeaderMap) -> Result<(Media, Form), Failure> {
    let endpoint = Endpoint::of(r);
    let accept = headers.get(header::ACCEPT).map_or("", text);
    choose(accept, endpoint)
        .filter(|c| c.media.streams())
        .map(|c| (c.media, c.form))
        .ok_or_else(|| not_acceptable(endpoint, true))
}

/// 406 by the router's rules where a watch is asked for, which may be answered as a stream, too.
pub fn routed_watch(r: &Resource, headers: &HeaderMap) -> Result<(), Failure> {
    let accept = headers.get(header::ACCEPT).map_or("", text);
    if Endpoint::of(r) != Endpoint::BuiltIn || produces(accept, ALL).is_ok() {
        return Ok(());
    }
    let streams = ALL.iter().filter(|m| m.streams());
    let streams = streams.map(|m| format!("{};stream=watch", m.name()));
    let offered = ALL.iter().map(|m| m.name().to_string()).chain(streams);
    Err(unrepresented(&offered.collect::<Vec<_>>().join(", ")))
}

/// 406 when a document (discovery, failures) isn't taken in any encoding.
pub fn document(headers: &HeaderMap) -> Result<(), Failure> {
    let accept = headers.get(header::ACCEPT).map_or("", text);
    choose(accept, Endpoint::Document)
        .map(|_| ())
        .ok_or_else(|| not_acceptable(Endpoint::Document, false))
}

/// 406 at endpoints that write JSON alone, by the router's rules.
pub fn only_json(headers: &HeaderMap) -> Result<(), Failure> {
    produces(headers.get(header::ACCEPT).map_or("", text), &[Media::Json])
}

/// The router's own check, which knows neither qualities nor `application/*`.
fn produces(accept: &str, offered: &[Media]) -> Result<(), Failure> {
    let matches = |range: &str| {
        let media = range.split(';').next().unwrap_or("").trim();
        media == "*/*" || offered.iter().any(|m| m.name() == media)
    };
    if accept.is_empty() || accept.split(',').any(matches) {
        return Ok(());
    }
    Err(unrepresented(&names(offered)))
}

fn unrepresented(offered: &str) -> Failure {
    let message = format!("406: Not Acceptable\n\nAvailable representations: {offered}");
    Failure::new(406, "NotAcceptable", message).with_details()
}

fn names(media: &[Media]) -> String {
    media
        .iter()
        .map(|m| m.name())
        .collect::<Vec<_>>()
        .join(", ")
}

/// 406 in upstream's words.
fn not_acceptable(endpoint: Endpoint, stream: bool) -> Failure {
    let media = if endpoint == Endpoint::Custom {
        TEXT
    } else {
        ALL
    };
    let accepted = if stream {
        let streams = media.iter().filter(|m| m.streams());
        streams
            .map(|m| format!("{};stream=watch", m.name()))
            .collect::<Vec<_>>()
            .join(", ")
    } else {
        names(media)
    };
    Failure::new(
        406,
        "NotAcceptable",
        format!("only the following media types are accepted: {accepted}"),
    )
}

/// The body's media type without parameters, lower case.
pub fn content_type(headers: &HeaderMap) -> String {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split(';').next())
        .unwrap_or("")
        .trim()
        .to_ascii_lowercase()
}

/// Parameters that Go's mime.ParseMediaType takes: each with a value, but for an empty last one.
fn well_formed(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE).map_or("", text);
    let mut params: Vec<&str> = given.split(';').skip(1).map(str::trim).collect();
    if params.last() == Some(&"") {
        params.pop();
    }
    params.iter().all(|p| p.contains('='))
}

/// Encoding of an object body; 415 when it is none we read.
pub fn media(headers: &HeaderMap) -> Result<Media, Failure> {
    let names: Vec<&str> = ALL.iter().map(|m| m.name()).collect();
    if !well_formed(headers) {
        return Err(unsupported(&names));
    }
    match content_type(headers).as_str() {
        "" => Ok(Media::Json),
        given => ALL
            .iter()
            .copied()
            .find(|m| m.name() == given)
            .ok_or_else(|| unsupported(&names)),
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

/// Does the client take gzip? As upstream, without qualities.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT_ENCODING).map_or("", text);
    accepted.split(',').any(|e| e.trim() == "gzip")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices() {
        use Endpoint::{BuiltIn, Custom, Document};
        use Form::{Partial, PartialList, Plain, Table};
        use Media::{Json, Protobuf, Yaml};
        const PROTO: &str = "application/vnd.kubernetes.protobuf";
        const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let meta = |as_: &str| format!("{PROTO};as={as_};g=meta.k8s.io;v=v1");
        for (accept, endpoint, want) in [
            ("", BuiltIn, Some((Json, Plain))),
            ("*/*", BuiltIn, Some((Json, Plain))),
            ("*", BuiltIn, Some((Json, Plain))),
            ("application/*", BuiltIn, Some((Json, Plain))),
            ("image/png", BuiltIn, None),
            ("a", BuiltIn, None),
            ("application/yaml", BuiltIn, Some((Yaml, Plain))),
            (PROTO, BuiltIn, Some((Protobuf, Plain))),
            (PROTO, Custom, None),
            (
                &format!("{PROTO},application/json"),
                Custom,
                Some((Json, Plain)),
            ),
            (
                &format!("{PROTO},application/json"),
                BuiltIn,
                Some((Protobuf, Plain)),
            ),
            (
                "application/json;q=0.1,application/yaml",
                BuiltIn,
                Some((Yaml, Plain)),
            ),
            ("*/*,application/yaml", BuiltIn, Some((Yaml, Plain))),
            (TABLE, BuiltIn, Some((Json, Table("v1")))),
            (TABLE, Document, None),
            (
                &format!("{TABLE},application/json"),
                Document,
                Some((Json, Plain)),
            ),
            (&meta("Table"), BuiltIn, None),
            (
                &meta("PartialObjectMetadata"),
                BuiltIn,
                Some((Protobuf, Partial("v1"))),
            ),
            (
                &meta("PartialObjectMetadata"),
                Custom,
                Some((Protobuf, Partial("v1"))),
            ),
            (
                &meta("PartialObjectMetadataList"),
                BuiltIn,
                Some((Protobuf, PartialList("v1"))),
            ),
            (
                "application/json;as=Table;g=meta.k8s.io;v=v1beta1",
                BuiltIn,
                Some((Json, Table("v1beta1"))),
            ),
            (
                "application/json;as=Table;g=meta.k8s.io;v=v9, application/json",
                BuiltIn,
                Some((Json, Plain)),
            ),
            (
                "application/json;as=Nonsense;g=meta.k8s.io;v=v1",
                BuiltIn,
                None,
            ),
            ("application/json;v=v1", BuiltIn, None),
            (
                "application/json;stream=watch",
                BuiltIn,
                Some((Json, Plain)),
            ),
            ("application/yaml;stream=watch", BuiltIn, None),
            ("application/json;stream=other", BuiltIn, None),
            ("application/json;foo=bar", BuiltIn, Some((Json, Plain))),
            (
                "application/cbor,application/json",
                BuiltIn,
                Some((Json, Plain)),
            ),
        ] {
            let got = choose(accept, endpoint).map(|c| (c.media, c.form));
            assert_eq!(got, want, "{accept} of {endpoint:?}");
        }
        assert!(
            choose("application/json;pretty=1", Endpoint::BuiltIn)
                .unwrap()
                .pretty
        );
    }
}
