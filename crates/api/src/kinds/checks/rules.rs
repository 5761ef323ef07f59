//! What names, ports, addresses and keys may look like, in upstream's words (apimachinery `pkg/util/validation` and
//! `pkg/api/validate/content`). Each rule gives its messages; none means good.

mod addresses;

pub(crate) use addresses::*;

use super::path::{Errors, Path};
use serde_json::Value;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const SEARCH: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const ENV: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";
const HEADER: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

fn lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}
/// Starts and ends with `edge`, and has `edge` or `inner` between.
fn framed(text: &str, edge: fn(u8) -> bool, inner: &[u8]) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|b| edge(*b))
        && bytes.last().is_some_and(|b| edge(*b))
        && bytes.iter().all(|b| edge(*b) || inner.contains(b))
}
fn is_label(text: &str) -> bool {
    framed(text, lower, b"-")
}
fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}
fn bounded(text: &str, max: usize, unit: &str, errors: &mut Vec<String>) {
    if text.len() > max {
        errors.push(format!("must be no more than {max} {unit}"));
    }
}

/// DNS-1123 label: container and volume names.
pub(crate) fn dns_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    bounded(text, 63, "characters", &mut errors);
    if !is_label(text) {
        let dots = is_subdomain(text);
        errors.push(if dots { "must not contain dots" } else { LABEL }.into());
    }
    errors
}

/// DNS-1123 subdomain: most names.
pub(crate) fn dns_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    bounded(text, 253, "characters", &mut errors);
    if !is_subdomain(text) {
        errors.push(SUBDOMAIN.into());
    }
    errors
}

/// DNS-1035 label: names of what becomes a Service.
pub(crate) fn dns_1035_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    bounded(text, 63, "characters", &mut errors);
    if !(is_label(text) && text.as_bytes()[0].is_ascii_lowercase()) {
        errors.push(LABEL_1035.into());
    }
    errors
}

/// A search domain: a subdomain that may have underscores.
pub(crate) fn dns_search(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    bounded(text, 253, "characters", &mut errors);
    let part = |p: &str| framed(p.strip_prefix('_').unwrap_or(p), lower, b"-_");
    if !text.split('.').all(part) {
        errors.push(SEARCH.into());
    }
    errors
}

/// `*.` and a subdomain.
pub(crate) fn wildcard(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    bounded(text, 253, "characters", &mut errors);
    if !text.strip_prefix("*.").is_some_and(is_subdomain) {
        errors.push(WILDCARD.into());
    }
    errors
}

fn word(b: u8) -> bool {
    b.is_ascii_alphanumeric()
}
fn is_word(text: &str) -> bool {
    framed(text, word, b"-_.")
}

/// `[prefix/]name`: label keys, resource names, condition types.
pub(crate) fn qualified(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let mut parts = text.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_string());
            } else {
                let mut long = Vec::new();
                bounded(prefix, 253, "bytes", &mut long);
                if !is_subdomain(prefix) {
                    long.push(SUBDOMAIN.into());
                }
                errors.extend(long.iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {QUALIFIED} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_string());
    } else if name.len() > 63 {
        errors.push("name part must be no more than 63 bytes".to_string());
    }
    if !is_word(name) {
        errors.push(format!("name part {QUALIFIED}"));
    }
    errors
}

/// A label's value.
pub(crate) fn label_value(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    bounded(text, 63, "bytes", &mut errors);
    if !(text.is_empty() || is_word(text)) {
        errors.push(LABEL_VALUE.into());
    }
    errors
}

/// Keys and values of a mapping of labels.
pub(crate) fn labels(map: &Value, at: &Path<'_>, errors: &mut Errors) {
    for (key, value) in map.as_object().into_iter().flatten() {
        errors.broken(at, key.as_str(), qualified(key));
        let value = value.as_str().unwrap_or_default();
        errors.broken(at, value, label_value(value));
    }
}

/// Keys and size of a mapping of annotations.
pub(crate) fn annotations(map: &Value, at: &Path<'_>, errors: &mut Errors) {
    const BYTES_MAX: usize = 256 * 1024;
    let mut bytes = 0;
    for (key, value) in map.as_object().into_iter().flatten() {
        errors.broken(at, key.as_str(), qualified(&key.to_lowercase()));
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > BYTES_MAX {
        errors.too_long(at, BYTES_MAX);
    }
}

/// `example.com/signer-name`.
pub(crate) fn signer_name(name: &str, at: &Path<'_>, errors: &mut Errors) {
    const SUBDOMAIN_BYTES_MAX: usize = 253;
    const PATH_BYTES_MAX: usize = SUBDOMAIN_BYTES_MAX + 63 + 1;
    if name.is_empty() {
        errors.required(at, "");
        return;
    }
    let (domain, path) = match name.split_once('/') {
        Some((domain, path)) if !path.contains('/') => (domain, path),
        _ => {
            let detail =
                "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            errors.invalid(at, name, detail);
            return;
        }
    };
    if domain.len() > SUBDOMAIN_BYTES_MAX {
        errors.too_long(at, SUBDOMAIN_BYTES_MAX);
    }
    labels_of(domain, dns_label, at, errors);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.invalid(at, domain, detail);
    }
    labels_of(path, dns_subdomain, at, errors);
    if path.len() > PATH_BYTES_MAX {
        errors.too_long(at, PATH_BYTES_MAX);
    }
}

/// The first of a text's dotted parts that breaks the rule.
fn labels_of(text: &str, rule: fn(&str) -> Vec<String>, at: &Path<'_>, errors: &mut Errors) {
    for label in text.split('.') {
        let messages = rule(label);
        for message in &messages {
            errors.invalid(at, text, format!("validating label {label:?}: {message}"));
        }
        if !messages.is_empty() {
            return;
        }
    }
}

/// A list of `metav1.Condition`.
pub(crate) fn conditions(all: &[Value], at: &Path<'_>, errors: &mut Errors) {
    const REASON_BYTES_MAX: usize = 1024;
    const MESSAGE_BYTES_MAX: usize = 32768;
    const REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
    let text = |c: &'_ Value, field: &str| c[field].as_str().unwrap_or_default().to_string();
    let mut seen = std::collections::HashSet::new();
    for (i, c) in all.iter().enumerate() {
        let at = at.index(i);
        let kind = text(c, "type");
        if !seen.insert(kind.clone()) {
            errors.duplicate(&at.child("type"), kind.as_str());
        }
        errors.broken(&at.child("type"), kind.as_str(), qualified(&kind));
        let status = text(c, "status");
        if !["True", "False", "Unknown"].contains(&status.as_str()) {
            errors.not_supported(&at.child("status"), status, &["False", "True", "Unknown"]);
        }
        if let Some(n) = c["observedGeneration"].as_i64().filter(|n| *n < 0) {
            let detail = "must be greater than or equal to zero";
            errors.invalid(&at.child("observedGeneration"), n, detail);
        }
        if !c["lastTransitionTime"].is_string() {
            errors.required(&at.child("lastTransitionTime"), "");
        }
        let reason = text(c, "reason");
        let place = at.child("reason");
        if reason.is_empty() {
            errors.required(&place, "");
        } else {
            let bytes = reason.as_bytes();
            let end = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
            let good = bytes[0].is_ascii_alphabetic()
                && bytes.iter().all(|b| end(b) || b",:".contains(b))
                && bytes.last().is_some_and(end);
            if !good {
                errors.invalid(&place, reason.as_str(), REASON);
            }
            if reason.len() > REASON_BYTES_MAX {
                errors.too_long(&place, REASON_BYTES_MAX);
            }
        }
        if text(c, "message").len() > MESSAGE_BYTES_MAX {
            errors.too_long(&at.child("message"), MESSAGE_BYTES_MAX);
        }
    }
}

/// A key of a ConfigMap or Secret.
pub(crate) fn config_key(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    bounded(text, 253, "characters", &mut errors);
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if text.is_empty() || !text.bytes().all(good) {
        errors.push(CONFIG_KEY.into());
    }
    if text == "." || text == ".." {
        errors.push(format!("must not be '{text}'"));
    } else if text.starts_with("..") {
        errors.push("must not start with '..'".into());
    }
    errors
}

/// An environment variable's name.
pub(crate) fn env_name(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".into()];
    }
    let good = |c: char| (' '..='~').contains(&c) && c != '=';
    if text.chars().all(good) {
        vec![]
    } else {
        vec![ENV.into()]
    }
}

/// A port's name (IANA_SVC_NAME).
pub(crate) fn port_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    bounded(text, 15, "characters", &mut errors);
    if text.is_empty() || !text.bytes().all(|b| lower(b) || b == b'-') {
        errors.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_string(),
        );
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        errors.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        errors.push("must not begin or end with a hyphen".into());
    }
    errors
}

/// `must be between 1 and 65535, inclusive`, unless it is.
pub(crate) fn port(number: i64) -> Vec<String> {
    between(number, 1, 65535)
}

/// Bounds, both ends allowed.
pub(crate) fn between(number: i64, low: i64, high: i64) -> Vec<String> {
    if (low..=high).contains(&number) {
        vec![]
    } else {
        vec![format!("must be between {low} and {high}, inclusive")]
    }
}

/// A number that is a port, or a name of one. Absent is port 0.
pub(crate) fn port_or_name(value: &Value, at: &Path<'_>, errors: &mut Errors) {
    match value.as_str() {
        Some(name) => errors.broken(at, name, port_name(name)),
        None => {
            let number = value.as_i64().unwrap_or(0);
            errors.broken(at, number, port(number));
        }
    }
}

/// An HTTP header's name.
pub(crate) fn header(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|b| word(b) || b == b'-') {
        vec![]
    } else {
        vec![HEADER.into()]
    }
}

/// `25%`.
pub(crate) fn percent(text: &str) -> Vec<String> {
    let digits = text.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        vec![]
    } else {
        vec![PERCENT.into()]
    }
}

/// The number of a count or of a percentage; 0 for anything else.
pub(crate) fn share_of(value: &Value) -> i64 {
    match value.as_str() {
        Some(text) => text.trim_end_matches('%').parse().unwrap_or(0),
        None => value.as_i64().unwrap_or(0),
    }
}

/// One segment of a URL's path: RBAC names.
pub(crate) fn path_segment(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"]
        .into_iter()
        .filter(|c| text.contains(c))
        .map(|c| format!("may not contain '{c}'"))
        .collect()
}

/// `acme.io/foo`: a domain and a path.
pub(crate) fn domain_prefixed_path(text: &str, at: &Path<'_>, errors: &mut Errors) {
    if text.is_empty() {
        errors.required(at, "");
        return;
    }
    match text.split_once('/') {
        Some((host, path)) if !host.is_empty() && !path.is_empty() => {
            errors.broken(at, host, dns_subdomain(host));
            let good = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
            if !path.bytes().all(good) {
                let detail = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
                errors.invalid(at, path, detail);
            }
        }
        _ => errors.invalid(
            at,
            text,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        ),
    }
}

/// At least two labels, with or without the dot at the end.
pub(crate) fn fqdn(text: &str, at: &Path<'_>, errors: &mut Errors) {
    if text.is_empty() {
        errors.required(at, "");
        return;
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let messages = dns_subdomain(name);
    if !messages.is_empty() {
        errors.invalid(at, name, messages.join(","));
    } else if !name.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.invalid(at, name, detail);
    } else if let Some(label) = name.split('.').find(|l| !dns_label(l).is_empty()) {
        errors.invalid(at, label, dns_label(label).join(","));
    }
}

/// A path inside a volume: relative, without `..`.
pub(crate) fn descending_path(text: &str, at: &Path<'_>, errors: &mut Errors) {
    if text.starts_with('/') {
        errors.invalid(at, text, "must be a relative path");
    }
    no_backsteps(text, at, errors);
}

/// No `..` among a path's elements.
pub(crate) fn no_backsteps(text: &str, at: &Path<'_>, errors: &mut Errors) {
    if text.split('/').any(|part| part == "..") {
        errors.invalid(at, text, "must not contain '..'");
    }
}

/// A descending path that doesn't start with `..` either: that prefix is the volume writer's own.
pub(crate) fn unreserved_path(text: &str, at: &Path<'_>, errors: &mut Errors) {
    descending_path(text, at, errors);
    if text.starts_with("..") && !text.starts_with("../") {
        errors.invalid(at, text, "must not start with '..'");
    }
}

#[cfg(test)]
mod tests;
