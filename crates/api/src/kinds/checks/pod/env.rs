//! Environment variables and where they come from.

use crate::kinds::{
    checks::path::{Errors, Path},
    checks::quantity::Quantity,
    checks::rules,
    json::{list, str_of},
};
use serde_json::Value;

const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// The list `env`.
pub(super) fn env(all: &[Value], at: &Path<'_>, errors: &mut Errors) {
    for (i, e) in all.iter().enumerate() {
        let at = at.index(i);
        let name = str_of(e, "name");
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else {
            errors.broken(&at.child("name"), name, rules::env_name(name));
        }
        if e["valueFrom"].is_object() {
            value_from(e, &at.child("valueFrom"), errors);
        }
    }
}

fn value_from(e: &Value, at: &Path<'_>, errors: &mut Errors) {
    let from = &e["valueFrom"];
    let mut sources = 0;
    for source in [
        "fieldRef",
        "resourceFieldRef",
        "configMapKeyRef",
        "secretKeyRef",
        "fileKeyRef",
    ] {
        let s = &from[source];
        if s.is_null() {
            continue;
        }
        sources += 1;
        let at = at.child(source);
        match source {
            "fieldRef" => field_ref(s, &FIELDS, &at, errors),
            "resourceFieldRef" => resource_field_ref(s, false, &at, errors),
            "fileKeyRef" => file_key(s, &at, errors),
            _ => key_ref(s, &at, errors),
        }
    }
    if sources == 0 {
        errors.invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`");
    } else if !str_of(e, "value").is_empty() {
        errors.invalid(at, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        errors.invalid(
            at,
            "",
            "may not have more than one field specified at a time",
        );
    }
}

fn key_ref(s: &Value, at: &Path<'_>, errors: &mut Errors) {
    let name = str_of(s, "name");
    errors.broken(&at.child("name"), name, rules::dns_subdomain(name));
    let key = str_of(s, "key");
    if key.is_empty() {
        errors.required(&at.child("key"), "");
    } else {
        errors.broken(&at.child("key"), key, rules::config_key(key));
    }
}

fn file_key(s: &Value, at: &Path<'_>, errors: &mut Errors) {
    for (field, rule) in [
        ("key", Some(rules::env_name as fn(&str) -> Vec<String>)),
        ("volumeName", Some(rules::dns_label)),
        ("path", None),
    ] {
        let at = at.child(field);
        match (str_of(s, field), rule) {
            ("", _) => errors.required(&at, ""),
            (text, Some(rule)) => errors.broken(&at, text, rule(text)),
            (text, None) => rules::no_backsteps(text, &at, errors),
        }
    }
}

/// A field of the Pod, one of `known` or a label or annotation by subscript.
pub(crate) fn field_ref(s: &Value, known: &[&str], at: &Path<'_>, errors: &mut Errors) {
    let version = str_of(s, "apiVersion");
    if version.is_empty() {
        errors.required(&at.child("apiVersion"), "");
        return;
    }
    let path = str_of(s, "fieldPath");
    let place = at.child("fieldPath");
    if path.is_empty() {
        errors.required(&place, "");
        return;
    }
    let fault = |why: String| format!("error converting fieldPath: {why}");
    if version != "v1" {
        let detail = fault(format!("unsupported pod version: {version}"));
        errors.invalid(&place, path, detail);
        return;
    }
    if let Some((base, subscript)) = subscripted(path) {
        return match base {
            "metadata.annotations" => {
                let key = subscript.to_lowercase();
                errors.broken(at, key.as_str(), rules::qualified(&key));
            }
            "metadata.labels" => errors.broken(at, subscript, rules::qualified(subscript)),
            _ => {
                let detail = fault("field label does not support subscript".into());
                errors.invalid(&place, path, detail);
            }
        };
    }
    const CONVERTIBLE: [&str; 8] = [
        "metadata.annotations",
        "metadata.labels",
        "spec.restartPolicy",
        "spec.schedulerName",
        "status.phase",
        "status.hostIP",
        "status.hostIPs",
        "metadata.uid",
    ];
    // What the downward API's own conversion knows at all.
    let path = if path == "spec.host" {
        "spec.nodeName"
    } else {
        path
    };
    if !FIELDS.contains(&path) && !CONVERTIBLE.contains(&path) {
        let detail = fault(format!("field label not supported: {path}"));
        errors.invalid(&place, path, detail);
    } else if !known.contains(&path) {
        let mut sorted = known.to_vec();
        sorted.sort_unstable();
        errors.not_supported(&place, path, &sorted);
    }
}

/// `metadata.labels['app']` as its two parts.
fn subscripted(path: &str) -> Option<(&str, &str)> {
    let (base, rest) = path.strip_suffix("']")?.split_once("['")?;
    (!base.is_empty()).then_some((base, rest))
}

/// An amount of a container's resources, in units of `divisor`.
pub(crate) fn resource_field_ref(s: &Value, volume: bool, at: &Path<'_>, errors: &mut Errors) {
    let resource = str_of(s, "resource");
    let huge = ["requests.hugepages-", "limits.hugepages-"]
        .iter()
        .any(|p| resource.starts_with(p));
    if volume && str_of(s, "containerName").is_empty() {
        errors.required(&at.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&at.child("resource"), "");
    } else if !RESOURCES.contains(&resource) && !huge {
        errors.not_supported(&at.child("resource"), resource, &RESOURCES);
    }
    let Some(divisor) = Quantity::of(&s["divisor"]).filter(|d| d.sign() != 0) else {
        return;
    };
    const BYTES: [&str; 13] = [
        "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
    ];
    let text = divisor.canonical();
    let detail = match resource {
        "limits.cpu" | "requests.cpu" => {
            if ["1m", "1"].contains(&text.as_str()) {
                return;
            }
            "only divisor's values 1m and 1 are supported with the cpu resource".to_string()
        }
        _ => {
            let what = match resource {
                "limits.memory" | "requests.memory" => "memory",
                "limits.ephemeral-storage" | "requests.ephemeral-storage" => {
                    "local ephemeral storage"
                }
                _ if huge => "hugepages",
                _ => return,
            };
            if BYTES.contains(&text.as_str()) {
                return;
            }
            format!(
                "only divisor's values {} are supported with the {what} resource",
                BYTES.join(", ")
            )
        }
    };
    errors.invalid(&at.child("divisor"), resource, detail);
}

/// The list `envFrom`.
pub(super) fn env_from(all: &[Value], at: &Path<'_>, errors: &mut Errors) {
    for (i, e) in all.iter().enumerate() {
        let place = at.index(i);
        let prefix = str_of(e, "prefix");
        if !prefix.is_empty() {
            errors.broken(&place.child("prefix"), prefix, rules::env_name(prefix));
        }
        let mut sources = 0;
        for source in ["configMapRef", "secretRef"] {
            if e[source].is_null() {
                continue;
            }
            sources += 1;
            let place = place.child(source);
            let name = str_of(&e[source], "name");
            if name.is_empty() {
                errors.required(&place.child("name"), "");
            } else {
                // Upstream lets a trailing dash pass here, as in a prefix of names.
                let masked = masked(name);
                errors.broken(&place.child("name"), name, rules::dns_subdomain(&masked));
            }
        }
        match sources {
            0 => errors.invalid(at, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(
                at,
                "",
                "may not have more than one field specified at a time",
            ),
        }
    }
}

fn masked(name: &str) -> String {
    match name.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => name.to_string(),
    }
}

/// Files of variables are read from emptyDirs only.
pub(super) fn file_volumes(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        let at = at.child(field);
        for (i, c) in list(spec, field).iter().enumerate() {
            let at = at.index(i);
            let at = at.child("env");
            for (j, e) in list(c, "env").iter().enumerate() {
                let source = &e["valueFrom"]["fileKeyRef"];
                if source.is_null() {
                    continue;
                }
                let name = str_of(source, "volumeName");
                let at = at.index(j);
                let at = at.child("valueFrom.fileKeyRef.volumeName");
                match list(spec, "volumes")
                    .iter()
                    .rfind(|v| str_of(v, "name") == name)
                {
                    None => errors.not_found(&at, name),
                    Some(v) if v["emptyDir"].is_null() => {
                        errors.invalid(&at, name, "referenced volume must be of type emptyDir");
                    }
                    Some(_) => {}
                }
            }
        }
    }
}
