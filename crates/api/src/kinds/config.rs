//! ConfigMap, Secret, ServiceAccount, LimitRange, ResourceQuota.

use super::{
    PLAIN,
    cells::{AGE, NAME, column},
    json::{child, default, map, text},
};
use crate::registry::{FieldError, Lookup, Resource, Strategy};
use serde_json::{Value, json};

/// The most bytes of data one object may hold.
const DATA_BYTES_MAX: usize = 1 << 20;

fn keys(o: &Value, fields: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for field in fields {
        for (key, value) in map(o, &format!("/{field}")).into_iter().flatten() {
            size += value.as_str().map_or(0, str::len);
            let ok = !key.is_empty()
                && key.len() <= 253
                && key
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
                && key != "."
                && key != "..";
            if !ok {
                errors.push(FieldError::Invalid {
                    field: format!("{field}[{key}]"),
                    value: key.as_str().into(),
                    detail: "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')".into(),
                });
            }
        }
    }
    if size > DATA_BYTES_MAX {
        errors.push(FieldError::TooLong {
            field: String::new(),
            value: Value::Null,
            max: DATA_BYTES_MAX,
        });
    }
    errors
}

fn immutable(new: &Value, old: &Value) -> Vec<FieldError> {
    if old["immutable"] != true {
        return vec![];
    }
    let forbidden = |field: &str, detail: &str| FieldError::Forbidden {
        field: field.into(),
        detail: detail.into(),
    };
    let mut errors = Vec::new();
    if new["immutable"] != true {
        errors.push(forbidden(
            "immutable",
            "field is immutable when `immutable` is set",
        ));
    }
    for field in ["data", "binaryData"] {
        if new[field] != old[field] {
            errors.push(forbidden(
                field,
                "field is immutable when `immutable` is set",
            ));
        }
    }
    errors
}

struct ConfigMap;
impl Strategy for ConfigMap {
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        keys(o, &["data", "binaryData"])
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        immutable(new, old)
    }
}

struct Secret;
impl Strategy for Secret {
    fn default(&self, o: &mut Value) {
        default(o, "type", "Opaque");
        // stringData is write-only: it goes into data.
        let given = o.as_object_mut().and_then(|m| m.remove("stringData"));
        if let Some(Value::Object(given)) = given
            && let Some(data) = child(o, "data")
        {
            use base64::{Engine, engine::general_purpose::STANDARD};
            for (key, value) in given {
                data[key] = STANDARD.encode(value.as_str().unwrap_or_default()).into();
            }
        }
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        let mut errors = keys(o, &["data"]);
        let needed: &[&str] = match text(o, "/type") {
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            _ => &[],
        };
        for key in needed {
            if o["data"].get(*key).is_none() {
                errors.push(FieldError::Required {
                    field: format!("data[{key}]"),
                    detail: String::new(),
                });
            }
        }
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = immutable(new, old);
        if new["type"] != old["type"] {
            errors.push(FieldError::Invalid {
                field: "type".into(),
                value: new["type"].clone(),
                detail: "field is immutable".into(),
            });
        }
        errors
    }
}

struct Quota;
impl Strategy for Quota {
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({});
        Ok(())
    }
}

/// `cpu: 1/2, memory: 1Gi/4Gi`: what is used of what there is, of limits or of all else.
fn quotas(o: &Value, limits: bool) -> Value {
    let all: Vec<String> = map(o, "/status/hard")
        .into_iter()
        .flatten()
        .filter(|(name, _)| name.starts_with("limits.") == limits)
        .map(|(name, hard)| {
            let used = o["status"]["used"][name].as_str().unwrap_or("0");
            format!("{name}: {used}/{}", hard.as_str().unwrap_or("0"))
        })
        .collect();
    all.join(", ").into()
}

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            kind: "ConfigMap",
            plural: "configmaps",
            singular: "configmap",
            short_names: &["cm"],
            strategy: &ConfigMap,
            columns: const {
                &[
                    NAME,
                    column("Data", "string", |o| {
                        (map(o, "/data").map_or(0, |m| m.len())
                            + map(o, "/binaryData").map_or(0, |m| m.len()))
                        .into()
                    }),
                    AGE,
                ]
            },
            ..PLAIN
        },
        Resource {
            kind: "Secret",
            plural: "secrets",
            singular: "secret",
            strategy: &Secret,
            selectable_fields: &[("type", |o| text(o, "/type").into())],
            columns: const {
                &[
                    NAME,
                    column("Type", "string", |o| text(o, "/type").into()),
                    column("Data", "string", |o| {
                        map(o, "/data").map_or(0, |m| m.len()).into()
                    }),
                    AGE,
                ]
            },
            ..PLAIN
        },
        Resource {
            kind: "ServiceAccount",
            plural: "serviceaccounts",
            subresources: &["token"],
            singular: "serviceaccount",
            short_names: &["sa"],
            columns: const { &[NAME, AGE] },
            ..PLAIN
        },
        Resource {
            kind: "LimitRange",
            plural: "limitranges",
            singular: "limitrange",
            short_names: &["limits"],
            columns: const {
                &[
                    NAME,
                    column("Created At", "date", |o| {
                        o["metadata"]["creationTimestamp"].clone()
                    }),
                ]
            },
            ..PLAIN
        },
        Resource {
            kind: "ResourceQuota",
            plural: "resourcequotas",
            singular: "resourcequota",
            short_names: &["quota"],
            has_status: true,
            strategy: &Quota,
            columns: const {
                &[
                    NAME,
                    column("Request", "string", |o| quotas(o, false)),
                    column("Limit", "string", |o| quotas(o, true)),
                    AGE,
                ]
            },
            ..PLAIN
        },
    ]
}
