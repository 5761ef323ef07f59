//! ConfigMap, Secret, ServiceAccount, LimitRange, ResourceQuota.

use super::{
    PLAIN,
    cells::{AGE, NAME, column},
    checks::{data, quantity, quotas},
    json::{child, default, items_mut, map, text},
    key_pair,
};
use crate::registry::{FieldError, Lookup, Resource, Strategy};
use serde_json::{Value, json};

struct ConfigMap;
impl Strategy for ConfigMap {
    fn validates_updates_itself(&self) -> bool {
        true
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        data::config_map(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        data::config_map_update(new, old)
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
    fn validates_updates_itself(&self) -> bool {
        true
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        data::secret(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        data::secret_update(new, old)
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        if o["type"] != "kubernetes.io/tls" {
            return vec![];
        }
        let part = |k: &str| {
            let text = o["data"][k].as_str().unwrap_or("");
            STANDARD.decode(text).unwrap_or_default()
        };
        let fault = key_pair::fault(&part("tls.crt"), &part("tls.key"));
        fault.into_iter().collect()
    }
}

struct LimitRange;
impl Strategy for LimitRange {
    fn default(&self, o: &mut Value) {
        let Some(spec) = child(o, "spec") else {
            return;
        };
        default(spec, "limits", Value::Null);
        for limit in items_mut(spec, "limits") {
            quotas::fill_limits(limit);
            for field in LIMITS {
                quantity::canonical_list(limit.get_mut(field), true);
            }
        }
    }
    fn create_on_update(&self) -> bool {
        true
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        quotas::limit_range(o)
    }
}
const LIMITS: [&str; 5] = [
    "max",
    "min",
    "default",
    "defaultRequest",
    "maxLimitRequestRatio",
];

struct Quota;
impl Strategy for Quota {
    fn default(&self, o: &mut Value) {
        for (part, field) in [("spec", "hard"), ("status", "hard"), ("status", "used")] {
            if let Some(part) = o.get_mut(part) {
                quantity::canonical_list(part.get_mut(field), true);
            }
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({});
        Ok(())
    }
    fn validates_updates_itself(&self) -> bool {
        true
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        quotas::quota(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        quotas::quota_update(new, old)
    }
    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        (subresource == "status").then_some(&QuotaStatus)
    }
}

/// `…/status`
struct QuotaStatus;
impl Strategy for QuotaStatus {
    fn validate_update(&self, new: &Value, _: &Value) -> Vec<FieldError> {
        quotas::status(new)
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
            strategy: &LimitRange,
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
