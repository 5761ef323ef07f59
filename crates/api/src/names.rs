//! Name rules of apimachinery `pkg/util/validation` and `pkg/api/validation`, with their messages.

use rand::Rng;
use serde_json::Value;

use crate::registry::{FieldError, NameRule};

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Messages for a name that breaks the rule; a `prefix` (generateName) may end in a dash.
pub fn check(rule: NameRule, name: &str, prefix: bool) -> Vec<String> {
    let mut name = name.to_string();
    if prefix && name.ends_with('-') && name.len() > 1 {
        name.pop();
        name.push('a');
    }
    match rule {
        NameRule::DnsSubdomain => subdomain(&name),
        NameRule::DnsLabel => label(&name, LABEL, |c| {
            c.is_ascii_lowercase() || c.is_ascii_digit()
        }),
        NameRule::Dns1035Label => label(&name, LABEL_1035, |c| c.is_ascii_lowercase()),
        NameRule::PathSegment => path_segment(&name),
        NameRule::Ip => crate::kinds::canonical_ip(&name),
    }
}

fn lower(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn subdomain(name: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if name.len() > 253 {
        errors.push(too_long(253));
    }
    let part = |p: &str| {
        p.starts_with(lower) && p.ends_with(lower) && p.chars().all(|c| lower(c) || c == '-')
    };
    if !name.split('.').all(part) {
        errors.push(SUBDOMAIN.into());
    }
    errors
}

fn label(name: &str, message: &str, first: fn(char) -> bool) -> Vec<String> {
    let mut errors = Vec::new();
    if name.len() > 63 {
        errors.push(too_long(63));
    }
    if !(name.starts_with(first)
        && name.ends_with(lower)
        && name.chars().all(|c| lower(c) || c == '-'))
    {
        errors.push(message.into());
    }
    errors
}

fn path_segment(name: &str) -> Vec<String> {
    if name == "." || name == ".." {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"]
        .iter()
        .filter(|c| name.contains(**c))
        .map(|c| format!("may not contain '{c}'"))
        .collect()
}

fn word(c: char) -> bool {
    c.is_ascii_alphanumeric()
}
fn is_qualified(s: &str) -> bool {
    s.starts_with(word)
        && s.ends_with(word)
        && s.chars().all(|c| word(c) || matches!(c, '-' | '_' | '.'))
}

/// Messages for a label key, annotation key or finalizer that isn't `[prefix/]name`.
pub fn qualified_name(key: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let mut parts = key.split('/');
    let (prefix, name) = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => (None, name),
        (Some(prefix), Some(name), None) => (Some(prefix), name),
        _ => {
            return vec![format!(
                "a qualified name {QUALIFIED} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            errors.push("prefix part must be non-empty".to_string());
        } else {
            errors.extend(
                subdomain(prefix)
                    .into_iter()
                    .map(|m| format!("prefix part {m}")),
            );
        }
    }
    if name.is_empty() {
        errors.push("name part must be non-empty".to_string());
    } else if name.len() > 63 {
        errors.push(format!("name part {}", too_long(63)));
    }
    if !is_qualified(name) {
        errors.push(format!("name part {QUALIFIED}"));
    }
    errors
}

/// Message for a bad label value.
pub fn label_value(value: &str) -> Option<String> {
    if value.len() > 63 {
        return Some(too_long(63));
    }
    (!value.is_empty() && !is_qualified(value)).then(|| LABEL_VALUE.to_string())
}

/// ValidateObjectMeta: what every object's metadata must fulfil.
pub fn object_meta(
    metadata: &Value,
    rule: NameRule,
    namespaced: bool,
    errors: &mut Vec<FieldError>,
) {
    let text = |k: &str| metadata.get(k).and_then(Value::as_str).unwrap_or("");
    let invalid = |field: String, value: &str, detail: String| FieldError::Invalid {
        field,
        value: value.into(),
        detail,
    };
    let generate = text("generateName");
    if !generate.is_empty() {
        for m in check(rule, generate, true) {
            errors.push(invalid("metadata.generateName".into(), generate, m));
        }
    }
    let name = text("name");
    if name.is_empty() {
        errors.push(FieldError::Required {
            field: "metadata.name".into(),
            detail: "name or generateName is required".into(),
        });
    } else {
        for m in check(rule, name, false) {
            errors.push(invalid("metadata.name".into(), name, m));
        }
    }
    let namespace = text("namespace");
    if namespaced {
        if namespace.is_empty() {
            errors.push(FieldError::Required {
                field: "metadata.namespace".into(),
                detail: String::new(),
            });
        } else {
            for m in check(NameRule::DnsLabel, namespace, false) {
                errors.push(invalid("metadata.namespace".into(), namespace, m));
            }
        }
    } else if !namespace.is_empty() {
        errors.push(FieldError::Forbidden {
            field: "metadata.namespace".into(),
            detail: "not allowed on this type".into(),
        });
    }
    labels(metadata.get("labels"), "metadata.labels", errors);
    let mut bytes = 0;
    for (k, v) in metadata
        .get("annotations")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        for m in qualified_name(&k.to_lowercase()) {
            errors.push(invalid("metadata.annotations".into(), k, m));
        }
        bytes += k.len() + v.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.push(FieldError::TooLong {
            field: "metadata.annotations".into(),
            value: "".into(),
            max: ANNOTATIONS_BYTES_MAX,
        });
    }
    owner_references(metadata, errors);
    for (i, f) in list(metadata, "finalizers").iter().enumerate() {
        let f = f.as_str().unwrap_or("");
        for m in qualified_name(f) {
            errors.push(invalid("metadata.finalizers".into(), f, m));
        }
        if !f.contains('/') && !matches!(f, "orphan" | "foregroundDeletion" | "kubernetes") {
            errors.push(invalid(
                format!("metadata.finalizers[{i}]"),
                f,
                "name is neither a standard finalizer name nor is it fully qualified".into(),
            ));
        }
    }
    if list(metadata, "finalizers").iter().any(|f| f == "orphan")
        && list(metadata, "finalizers")
            .iter()
            .any(|f| f == "foregroundDeletion")
    {
        errors.push(invalid(
            "metadata.finalizers".into(),
            "",
            "finalizer orphan and foregroundDeletion cannot be both set".into(),
        ));
    }
}

/// Label keys and values.
pub fn labels(map: Option<&Value>, field: &str, errors: &mut Vec<FieldError>) {
    for (k, v) in map.and_then(Value::as_object).into_iter().flatten() {
        for m in qualified_name(k) {
            errors.push(FieldError::Invalid {
                field: field.into(),
                value: k.as_str().into(),
                detail: m,
            });
        }
        if let Some(m) = label_value(v.as_str().unwrap_or("")) {
            errors.push(FieldError::Invalid {
                field: field.into(),
                value: v.clone(),
                detail: m,
            });
        }
    }
}

fn owner_references(metadata: &Value, errors: &mut Vec<FieldError>) {
    let mut controller: Option<String> = None;
    for (i, o) in list(metadata, "ownerReferences").iter().enumerate() {
        let at = format!("metadata.ownerReferences[{i}]");
        for (key, what) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if o.get(key).and_then(Value::as_str).unwrap_or("").is_empty() {
                errors.push(FieldError::Invalid {
                    field: format!("{at}.{key}"),
                    value: "".into(),
                    detail: what.into(),
                });
            }
        }
        if o.get("controller") == Some(&Value::Bool(true)) {
            let kind = o.get("kind").and_then(Value::as_str).unwrap_or("");
            let name = o.get("name").and_then(Value::as_str).unwrap_or("");
            match &controller {
                Some(first) => errors.push(FieldError::Invalid {
                    field: "metadata.ownerReferences".into(),
                    value: o.clone(),
                    detail: format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {kind}/{name}"
                    ),
                }),
                None => controller = Some(format!("{kind}/{name}")),
            }
        }
    }
}

fn list<'a>(metadata: &'a Value, key: &str) -> &'a [Value] {
    metadata
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// generateName's suffix: five characters of upstream's alphabet without vowels and look-alikes.
pub fn generate(base: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    const BASE_BYTES_MAX: usize = 63 - 5;
    let mut cut = base.len().min(BASE_BYTES_MAX);
    while !base.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut name = base[..cut].to_string();
    let mut rng = rand::rng();
    for _ in 0..5 {
        name.push(ALPHABET[rng.random_range(0..ALPHABET.len())] as char);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = "a".repeat(64);
        for (rule, name, prefix, good) in [
            (NameRule::DnsSubdomain, "a.b-c", false, true),
            (NameRule::DnsSubdomain, "A", false, false),
            (NameRule::DnsSubdomain, "a.", false, false),
            (NameRule::DnsSubdomain, &long, false, true),
            (NameRule::DnsSubdomain, "web-", true, true),
            (NameRule::DnsSubdomain, "web-", false, false),
            (NameRule::DnsLabel, "1a", false, true),
            (NameRule::DnsLabel, "a.b", false, false),
            (NameRule::DnsLabel, &long, false, false),
            (NameRule::Dns1035Label, "1a", false, false),
            (NameRule::Dns1035Label, "a1", false, true),
            (NameRule::PathSegment, "system:node", false, true),
            (NameRule::PathSegment, "a/b", false, false),
            (NameRule::PathSegment, "..", false, false),
        ] {
            assert_eq!(
                check(rule, name, prefix).is_empty(),
                good,
                "{rule:?} {name}"
            );
        }
    }

    #[test]
    fn qualified_names() {
        for (key, good) in [
            ("app", true),
            ("example.com/App_1", true),
            ("/app", false),
            ("a/b/c", false),
            ("-a", false),
            ("a/", false),
            ("A.com/x", false),
        ] {
            assert_eq!(qualified_name(key).is_empty(), good, "{key}");
        }
    }
}
