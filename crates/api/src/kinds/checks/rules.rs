//! What names, ports, addresses and keys may look like, in upstream's words (apimachinery `pkg/util/validation` and
//! `pkg/api/validate/content`). Each rule gives its messages; none means good.

use super::path::{Errors, Path};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

/// Go's `ParseIPSloppy`: leading zeros are decimal, IPv4 in IPv6 is read.
pub(crate) fn sloppy_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts
            .next()
            .filter(|p| !p.is_empty() && p.len() <= 8 && p.bytes().all(|b| b.is_ascii_digit()))?;
        *octet = part
            .parse::<u32>()
            .ok()
            .and_then(|n| u8::try_from(n).ok())?;
    }
    parts
        .next()
        .is_none()
        .then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

/// An IP address as fields from before the strict rule take it; what was there before (`kept`) stays.
pub(crate) fn legacy_ip(text: &str, kept: &[Value], at: &Path<'_>, errors: &mut Errors) -> bool {
    if kept.iter().any(|k| k == text) {
        return true;
    }
    let problem = match sloppy_ip(text) {
        None => Some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        Some(IpAddr::V4(_)) if text.parse::<Ipv4Addr>().is_err() => {
            Some("must not have leading 0s")
        }
        Some(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            Some("must not be an IPv4-mapped IPv6 address")
        }
        Some(_) => None,
    };
    if let Some(problem) = problem {
        errors.invalid(at, text, problem);
    }
    problem.is_none()
}

/// An IP address in its one canonical form.
pub(crate) fn strict_ip(text: &str, at: &Path<'_>, errors: &mut Errors) {
    if legacy_ip(text, &[], at, errors)
        && let Some(ip) = sloppy_ip(text)
        && ip.to_string() != text
    {
        errors.invalid(at, text, format!("must be in canonical form (\"{ip}\")"));
    }
}

/// A warning for each address that is not in its one canonical form.
pub(crate) fn unusual_ips<'a>(
    ips: impl Iterator<Item = &'a Value>,
    at: &Path<'_>,
    warnings: &mut Vec<String>,
) {
    for (i, text) in ips.filter_map(Value::as_str).enumerate() {
        let at = at.index(i);
        let Some(ip) = sloppy_ip(text) else { continue };
        let v4 = ip.is_ipv4() && text.parse::<Ipv4Addr>().is_err();
        let mapped = matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
        if v4 || mapped {
            let canonical = ip.to_canonical();
            warnings.push(format!(
                "{at}: non-standard IP address {text:?} is invalid: use \"{canonical}\""
            ));
        } else if ip.to_string() != text {
            warnings.push(format!(
                "{at}: IPv6 address {text:?} should be in RFC 5952 canonical format (\"{ip}\")"
            ));
        }
    }
}

/// A CIDR as fields from before the strict rule take it.
pub(crate) fn legacy_cidr(text: &str, kept: &[Value], at: &Path<'_>, errors: &mut Errors) {
    if kept.iter().any(|k| k == text) {
        return;
    }
    let problem = match sloppy_cidr(text) {
        None => "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        Some((ip, bits)) => {
            let (address, length) = text.split_once('/').unwrap_or_default();
            let mapped = matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
            let beyond = match ip {
                IpAddr::V4(ip) => u32::from(ip).checked_shl(bits).unwrap_or(0) != 0,
                IpAddr::V6(ip) => u128::from(ip).checked_shl(bits).unwrap_or(0) != 0,
            };
            if address.parse::<IpAddr>().is_err() || (length.len() > 1 && length.starts_with('0')) {
                "must not have leading 0s in IP or prefix length"
            } else if mapped {
                "must not have an IPv4-mapped IPv6 address"
            } else if beyond {
                "must not have bits set beyond the prefix length"
            } else {
                return;
            }
        }
    };
    errors.invalid(at, text, problem);
}

/// A CIDR in its one canonical form.
pub(crate) fn strict_cidr(text: &str, at: &Path<'_>, errors: &mut Errors) {
    let before = errors.0.len();
    legacy_cidr(text, &[], at, errors);
    if errors.0.len() == before
        && let Some((ip, bits)) = sloppy_cidr(text)
    {
        let canonical = format!("{ip}/{bits}");
        if canonical != text {
            let detail = format!("must be in canonical form (\"{canonical}\")");
            errors.invalid(at, text, detail);
        }
    }
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

/// Address and prefix length of a CIDR.
pub(crate) fn sloppy_cidr(text: &str) -> Option<(IpAddr, u32)> {
    let (address, length) = text.split_once('/')?;
    let ip = sloppy_ip(address)?;
    let max = if ip.is_ipv4() { 32 } else { 128 };
    let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    let bits = length.parse::<u32>().ok().filter(|b| digits && *b <= max)?;
    Some((ip, bits))
}

/// An address that traffic can be sent to: not unspecified, loopback or link-local.
pub(crate) fn endpoint_ip(text: &str, at: &Path<'_>, errors: &mut Errors) {
    let Some(ip) = sloppy_ip(text) else {
        errors.invalid(at, text, "must be a valid IP address");
        return;
    };
    // Go looks at an IPv4 address in IPv6 clothes as at the IPv4 address.
    let ip = ip.to_canonical();
    if ip.is_unspecified() {
        errors.invalid(at, text, format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        let detail = "may not be in the loopback range (127.0.0.0/8, ::1/128)";
        errors.invalid(at, text, detail);
    }
    let (local, multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (
            ip.is_unicast_link_local(),
            ip.octets()[0] == 0xff && ip.octets()[1] & 0x0f == 2,
        ),
    };
    if local {
        let detail = "may not be in the link-local range (169.254.0.0/16, fe80::/10)";
        errors.invalid(at, text, detail);
    }
    if multicast {
        let detail = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
        errors.invalid(at, text, detail);
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
    let caught = text.split('/').any(|part| part == "..");
    if text.starts_with("..") && !caught {
        errors.invalid(at, text, "must not start with '..'");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_says_what_is_wrong() {
        let long = "a".repeat(64);
        for (rule, text, want) in [
            (dns_label as fn(&str) -> Vec<String>, "a-1", ""),
            (dns_label, "a.b", "must not contain dots"),
            (dns_label, "A", LABEL),
            (dns_label, &long, "must be no more than 63 characters"),
            (dns_label, "", LABEL),
            (dns_subdomain, "a.b", ""),
            (dns_subdomain, "a..b", SUBDOMAIN),
            (dns_1035_label, "1a", LABEL_1035),
            (dns_search, "_svc.x_y", ""),
            (dns_search, "__a", SEARCH),
            (wildcard, "*.a", ""),
            (wildcard, "a.*", WILDCARD),
            (qualified, "example.com/App_1", ""),
            (qualified, "/a", "prefix part must be non-empty"),
            (label_value, "", ""),
            (label_value, &long, "must be no more than 63 bytes"),
            (config_key, "a.B-_", ""),
            (config_key, "..", "must not be '..'"),
            (config_key, "..a", "must not start with '..'"),
            (env_name, "a b!", ""),
            (env_name, "a=b", ENV),
            (port_name, "http-2", ""),
            (port_name, "12", "must contain at least one letter (a-z)"),
            (port_name, "a--b", "must not contain consecutive hyphens"),
            (header, "X-A", ""),
            (header, "X:", HEADER),
            (percent, "25%", ""),
            (percent, "25", PERCENT),
            (path_segment, "system:x", ""),
            (path_segment, "a/b", "may not contain '/'"),
        ] {
            assert_eq!(rule(text).join("|"), want, "{text}");
        }
    }

    #[test]
    fn addresses_follow_gos_sloppy_and_strict_readings() {
        let at = Path::Root("ip");
        for (text, want) in [
            ("10.1.2.3", ""),
            ("fe80::1", ""),
            ("010.1.2.3", "must not have leading 0s"),
            ("::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address"),
            (
                "1.2.3",
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
            (
                "1.2.3.256",
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
        ] {
            let mut errors = Errors::default();
            legacy_ip(text, &[], &at, &mut errors);
            let found: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
            let want = match want {
                "" => vec![],
                w => vec![format!("ip: Invalid value: {text:?}: {w}")],
            };
            assert_eq!(found, want, "{text}");
        }
        for (text, good) in [
            ("10.0.0.0/8", true),
            ("10.0.0.1/8", false),
            ("10.0.0.0/33", false),
            ("2001:db8::/64", true),
            ("0.0.0.0/0", true),
            ("1.2.3.4/32", true),
            ("10.0.0.0/08", false),
        ] {
            let mut errors = Errors::default();
            legacy_cidr(text, &[], &at, &mut errors);
            assert_eq!(errors.0.is_empty(), good, "{text}");
        }
    }
}
