//! The checks of a PodSpec that people run into, in upstream's words (pkg/apis/core/validation/validation.go).

use super::json::{items, text};
use crate::registry::FieldError;
use serde_json::Value;
use std::collections::HashSet;

const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

/// DNS-1123 label, 63 characters at most.
pub(crate) fn is_dns_label(name: &str) -> bool {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    (1..=63).contains(&name.len())
        && ok(bytes[0])
        && ok(bytes[bytes.len() - 1])
        && bytes.iter().all(|b| ok(*b) || *b == b'-')
}

fn required(field: String) -> FieldError {
    FieldError::Required {
        field,
        detail: String::new(),
    }
}

fn not_supported(field: String, value: &str, supported: &[&str]) -> FieldError {
    FieldError::NotSupported {
        field,
        value: value.into(),
        supported: supported.iter().map(|s| s.to_string()).collect(),
    }
}

/// Checks a PodSpec at `path` (`spec`, `spec.template.spec`). `restart`: the restart policies allowed.
pub(crate) fn pod_spec(spec: &Value, path: &str, restart: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut volumes = HashSet::new();
    for (i, v) in items(spec, "/volumes").iter().enumerate() {
        let field = format!("{path}.volumes[{i}].name");
        name(text(v, "/name"), field, &mut volumes, &mut errors);
    }
    if items(spec, "/containers").is_empty() {
        errors.push(required(format!("{path}.containers")));
    }
    let mut names = HashSet::new();
    for list in ["initContainers", "containers"] {
        for (i, c) in items(spec, &format!("/{list}")).iter().enumerate() {
            container(
                c,
                &format!("{path}.{list}[{i}]"),
                &volumes,
                &mut names,
                &mut errors,
            );
        }
    }
    let policy = text(spec, "/restartPolicy");
    if !restart.contains(&policy) {
        errors.push(not_supported(
            format!("{path}.restartPolicy"),
            policy,
            restart,
        ));
    }
    let dns = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    if !dns.contains(&text(spec, "/dnsPolicy")) {
        errors.push(not_supported(
            format!("{path}.dnsPolicy"),
            text(spec, "/dnsPolicy"),
            &dns,
        ));
    }
    negative(spec, "terminationGracePeriodSeconds", path, &mut errors);
    errors
}

fn name(name: &str, field: String, seen: &mut HashSet<String>, errors: &mut Vec<FieldError>) {
    if name.is_empty() {
        errors.push(required(field));
    } else if !is_dns_label(name) {
        errors.push(FieldError::Invalid {
            field,
            value: name.into(),
            detail: LABEL_RULE.into(),
        });
    } else if !seen.insert(name.to_string()) {
        errors.push(FieldError::Duplicate {
            field,
            value: name.into(),
        });
    }
}

fn negative(o: &Value, key: &str, path: &str, errors: &mut Vec<FieldError>) {
    if o[key].as_i64().is_some_and(|n| n < 0) {
        let field = format!("{path}.{key}");
        errors.push(FieldError::Invalid {
            field,
            value: o[key].clone(),
            detail: "must be greater than or equal to 0".into(),
        });
    }
}

fn container(
    c: &Value,
    path: &str,
    volumes: &HashSet<String>,
    names: &mut HashSet<String>,
    errors: &mut Vec<FieldError>,
) {
    name(text(c, "/name"), format!("{path}.name"), names, errors);
    let image = text(c, "/image");
    if image.is_empty() {
        errors.push(required(format!("{path}.image")));
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace".into();
        errors.push(FieldError::Invalid {
            field: format!("{path}.image"),
            value: image.into(),
            detail,
        });
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    if !policies.contains(&text(c, "/imagePullPolicy")) {
        errors.push(not_supported(
            format!("{path}.imagePullPolicy"),
            text(c, "/imagePullPolicy"),
            &policies,
        ));
    }
    let mut port_names = HashSet::new();
    for (i, p) in items(c, "/ports").iter().enumerate() {
        let field = format!("{path}.ports[{i}]");
        let number = p["containerPort"].as_i64().unwrap_or(0);
        if number == 0 {
            errors.push(required(format!("{field}.containerPort")));
        } else if !(1..=65535).contains(&number) {
            errors.push(FieldError::Invalid {
                field: format!("{field}.containerPort"),
                value: number.into(),
                detail: "must be between 1 and 65535, inclusive".into(),
            });
        }
        let port_name = text(p, "/name");
        if !port_name.is_empty() && !port_names.insert(port_name) {
            errors.push(FieldError::Duplicate {
                field: format!("{field}.name"),
                value: port_name.into(),
            });
        }
        if !["TCP", "UDP", "SCTP"].contains(&text(p, "/protocol")) {
            errors.push(not_supported(
                format!("{field}.protocol"),
                text(p, "/protocol"),
                &["SCTP", "TCP", "UDP"],
            ));
        }
    }
    for (i, e) in items(c, "/env").iter().enumerate() {
        if text(e, "/name").is_empty() {
            errors.push(required(format!("{path}.env[{i}].name")));
        }
        if !text(e, "/value").is_empty() && e["valueFrom"].is_object() {
            let field = format!("{path}.env[{i}].valueFrom");
            errors.push(FieldError::Invalid {
                field,
                value: "".into(),
                detail: "may not be specified when `value` is not empty".into(),
            });
        }
    }
    let mut targets = HashSet::new();
    for (i, m) in items(c, "/volumeMounts").iter().enumerate() {
        let field = format!("{path}.volumeMounts[{i}]");
        let volume = text(m, "/name");
        if volume.is_empty() {
            errors.push(required(format!("{field}.name")));
        } else if !volumes.contains(volume) {
            errors.push(FieldError::NotFound {
                field: format!("{field}.name"),
                value: volume.into(),
            });
        }
        let target = text(m, "/mountPath");
        if target.is_empty() {
            errors.push(required(format!("{field}.mountPath")));
        } else if !targets.insert(target) {
            errors.push(FieldError::Invalid {
                field: format!("{field}.mountPath"),
                value: target.into(),
                detail: "must be unique".into(),
            });
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let p = &c[probe];
        if !p.is_object() {
            continue;
        }
        let field = format!("{path}.{probe}");
        let handlers = ["exec", "httpGet", "tcpSocket", "grpc"]
            .iter()
            .filter(|h| p[**h].is_object())
            .count();
        match handlers {
            0 => errors.push(FieldError::Required {
                field: field.clone(),
                detail: "must specify a handler type".into(),
            }),
            1 => {}
            _ => errors.push(FieldError::Forbidden {
                field: field.clone(),
                detail: "may not specify more than 1 handler type".into(),
            }),
        }
        for key in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            negative(p, key, &field, errors);
        }
        if probe != "readinessProbe" && p["successThreshold"].as_i64().is_some_and(|n| n > 1) {
            errors.push(FieldError::Invalid {
                field: format!("{field}.successThreshold"),
                value: p["successThreshold"].clone(),
                detail: "must be 1".into(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn faults_are_found_where_they_are() {
        let fields = |c: Value| -> Vec<String> {
            let mut spec = json!({ "containers": [c] });
            super::super::pod_defaults::pod_spec(&mut spec);
            pod_spec(&spec, "spec", &["Always", "OnFailure", "Never"])
                .iter()
                .map(|e| format!("{e:?}"))
                .collect()
        };
        for (name, container, want) in [
            ("good", json!({ "name": "c", "image": "i" }), None),
            (
                "no name",
                json!({ "image": "i" }),
                Some("Required { field: \"spec.containers[0].name\""),
            ),
            (
                "no image",
                json!({ "name": "c" }),
                Some("spec.containers[0].image"),
            ),
            (
                "capitals",
                json!({ "name": "C", "image": "i" }),
                Some("RFC 1123 label"),
            ),
            (
                "port",
                json!({ "name": "c", "image": "i", "ports": [{ "containerPort": 70000 }] }),
                Some("between 1 and 65535"),
            ),
            (
                "volume",
                json!({ "name": "c", "image": "i", "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }),
                Some("NotFound { field: \"spec.containers[0].volumeMounts[0].name\""),
            ),
            (
                "probe",
                json!({ "name": "c", "image": "i", "livenessProbe": {} }),
                Some("must specify a handler type"),
            ),
        ] {
            let found = fields(container);
            match want {
                None => assert!(found.is_empty(), "{name}: {found:?}"),
                Some(w) => assert!(
                    found.len() == 1 && found[0].contains(w),
                    "{name}: {found:?}"
                ),
            }
        }
    }
}
