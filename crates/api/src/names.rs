//! Name rules of apimachinery `pkg/util/validation` and `pkg/api/validation`, with their messages.

use rand::Rng;
use serde_json::Value;

use crate::kinds::checks::{path::Go, rules};
use crate::registry::{FieldError, NameRule};

const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Messages for a name that breaks the rule; a `prefix` (generateName) may end in a dash.
pub fn check(rule: NameRule, name: &str, prefix: bool) -> Vec<String> {
    let mut name = name.to_string();
    if prefix && name.ends_with('-') && name.len() > 1 {
        name.pop();
        name.push('a');
    }
    match rule {
        NameRule::DnsSubdomain => rules::dns_subdomain(&name),
        NameRule::DnsLabel => rules::dns_label(&name),
        NameRule::Dns1035Label => rules::dns_1035_label(&name),
        NameRule::PathSegment => rules::path_segment(&name),
        NameRule::Ip => crate::kinds::canonical_ip(&name),
    }
}

/// Messages for a label key, annotation key or finalizer that isn't `[prefix/]name`.
pub fn qualified_name(key: &str) -> Vec<String> {
    rules::qualified(key)
}

/// Message for a bad label value.
pub fn label_value(value: &str) -> Option<String> {
    rules::label_value(value).into_iter().next()
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
    let prefix = text("generateName");
    if !prefix.is_empty() {
        for m in check(rule, prefix, true) {
            errors.push(invalid("metadata.generateName".into(), prefix, m));
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
    for f in list(metadata, "finalizers") {
        let f = f.as_str().unwrap_or("");
        for m in qualified_name(f) {
            errors.push(invalid("metadata.finalizers".into(), f, m));
        }
    }
    if list(metadata, "finalizers").iter().any(|f| f == "orphan")
        && list(metadata, "finalizers")
            .iter()
            .any(|f| f == "foregroundDeletion")
    {
        errors.push(FieldError::Invalid {
            field: "metadata.finalizers".into(),
            value: list(metadata, "finalizers").to_vec().into(),
            detail: "finalizer foregroundDeletion and orphan cannot be both set".into(),
        });
    }
}

/// What the finalizers of built-in kinds must fulfil besides: a domain, unless they are Kubernetes' own.
pub fn kube_finalizers(metadata: &Value, errors: &mut Vec<FieldError>) {
    for (i, f) in list(metadata, "finalizers").iter().enumerate() {
        let f = f.as_str().unwrap_or("");
        if !f.contains('/') && !matches!(f, "orphan" | "foregroundDeletion" | "kubernetes") {
            errors.push(FieldError::Invalid {
                field: format!("metadata.finalizers[{i}]"),
                value: f.into(),
                detail: "name is neither a standard finalizer name nor is it fully qualified"
                    .into(),
            });
        }
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

const OWNER: Go = Go::Api(&[
    ("apiVersion", Go::Plain),
    ("kind", Go::Plain),
    ("name", Go::Plain),
    ("uid", Go::Plain),
    ("controller", Go::Plain),
    ("blockOwnerDeletion", Go::Plain),
]);

/// Owners that are named twice are named once; what the client is told of that.
pub fn once_each(o: &mut Value) -> Option<String> {
    let owners = o.pointer_mut("/metadata/ownerReferences")?.as_array_mut()?;
    let (mut seen, mut twice) = (Vec::new(), Vec::new());
    owners.retain(|o| {
        let new = !seen.contains(o);
        if new {
            seen.push(o.clone());
        } else {
            twice.push(o["uid"].as_str().unwrap_or_default().to_string());
        }
        new
    });
    if twice.is_empty() {
        return None;
    }
    twice.dedup();
    Some(format!(
        ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        twice.join(", ")
    ))
}

fn owner_references(metadata: &Value, errors: &mut Vec<FieldError>) {
    let mut controller: Option<String> = None;
    for o in list(metadata, "ownerReferences") {
        let at = "metadata.ownerReferences".to_string();
        let version = o.get("apiVersion").and_then(Value::as_str).unwrap_or("");
        if version.is_empty() || version.matches('/').count() > 1 || version.ends_with('/') {
            errors.push(FieldError::Invalid {
                field: format!("{at}.apiVersion"),
                value: version.into(),
                detail: "version must not be empty".into(),
            });
        }
        for (key, what) in [
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
        if version == "v1" && o.get("kind").is_some_and(|k| k == "Event") {
            errors.push(FieldError::InvalidShown {
                field: at.clone(),
                shown: Some(OWNER.write(o)),
                detail: "/v1, Kind=Event is disallowed from being an owner".into(),
            });
        }
        if o.get("controller") == Some(&Value::Bool(true)) {
            let kind = o.get("kind").and_then(Value::as_str).unwrap_or("");
            let name = o.get("name").and_then(Value::as_str).unwrap_or("");
            match &controller {
                Some(first) => errors.push(FieldError::InvalidShown {
                    field: at,
                    shown: Some(Go::List(&OWNER).write(&metadata["ownerReferences"])),
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
