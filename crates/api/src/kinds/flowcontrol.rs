//! FlowSchema and PriorityLevelConfiguration: the rules of kubernetes `pkg/apis/flowcontrol/validation`.

mod levels;
mod schemas;

use levels::PriorityLevel;
use schemas::FlowSchema;

use super::{
    PLAIN,
    cells::{AGE, NAME, column},
    json::{items, text},
};
use crate::registry::{FieldError, Resource, Strategy};
use serde_json::Value;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

type Errors = Vec<FieldError>;

fn invalid(field: String, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
    FieldError::Invalid {
        field,
        value: value.into(),
        detail: detail.into(),
    }
}
fn required(field: String, detail: &str) -> FieldError {
    FieldError::Required {
        field,
        detail: detail.into(),
    }
}
fn forbidden(field: String, detail: &str) -> FieldError {
    FieldError::Forbidden {
        field,
        detail: detail.into(),
    }
}
fn unsupported(field: String, value: &Value, supported: &[&str]) -> FieldError {
    FieldError::NotSupported {
        field,
        value: value.clone(),
        supported: supported.iter().map(|s| s.to_string()).collect(),
    }
}
fn present(o: &Value, key: &str) -> bool {
    o.get(key).is_some_and(|v| !v.is_null())
}

/// `status.conditions` of both kinds: each type once.
fn condition_errors(o: &Value) -> Errors {
    let mut errors = Vec::new();
    let all = items(o, "/status/conditions");
    for (i, c) in all.iter().enumerate() {
        let field = format!("status.conditions[{i}].type");
        if all[..i].iter().any(|other| other["type"] == c["type"]) {
            errors.push(FieldError::Duplicate {
                field: field.clone(),
                value: c["type"].clone(),
            });
        }
        if text(c, "/type").is_empty() {
            errors.push(required(field, ""));
        }
    }
    errors
}

/// The rules of `status` of both kinds.
struct Status;
impl Strategy for Status {
    fn validate_update(&self, new: &Value, _: &Value) -> Errors {
        condition_errors(new)
    }
}

/// A field's value, or `<none>`.
fn or_none(o: &Value, pointer: &str) -> Value {
    match o.pointer(pointer) {
        None | Some(Value::Null) => "<none>".into(),
        Some(v) => v.clone(),
    }
}

pub(crate) fn resources() -> Vec<Resource> {
    let base = || Resource {
        group: GROUP,
        namespaced: false,
        has_status: true,
        ..PLAIN
    };
    vec![
        Resource {
            kind: "FlowSchema",
            plural: "flowschemas",
            singular: "flowschema",
            strategy: &FlowSchema,
            columns: const {
                &[
                    NAME,
                    column("PriorityLevel", "string", |o| {
                        text(o, "/spec/priorityLevelConfiguration/name").into()
                    }),
                    column("MatchingPrecedence", "string", |o| {
                        o["spec"]["matchingPrecedence"].clone()
                    }),
                    column("DistinguisherMethod", "string", |o| {
                        or_none(o, "/spec/distinguisherMethod/type")
                    }),
                    AGE,
                    column("MissingPL", "string", |o| {
                        let all = items(o, "/status/conditions");
                        let found = all.iter().find(|c| c["type"] == "Dangling");
                        found.map_or("?", |c| text(c, "/status")).into()
                    }),
                ]
            },
            ..base()
        },
        Resource {
            kind: "PriorityLevelConfiguration",
            plural: "prioritylevelconfigurations",
            singular: "prioritylevelconfiguration",
            strategy: &PriorityLevel,
            columns: const {
                &[
                    NAME,
                    column("Type", "string", |o| text(o, "/spec/type").into()),
                    column("NominalConcurrencyShares", "string", |o| {
                        or_none(o, "/spec/limited/nominalConcurrencyShares")
                    }),
                    column("Queues", "string", |o| {
                        or_none(o, "/spec/limited/limitResponse/queuing/queues")
                    }),
                    column("HandSize", "string", |o| {
                        or_none(o, "/spec/limited/limitResponse/queuing/handSize")
                    }),
                    column("QueueLengthLimit", "string", |o| {
                        or_none(o, "/spec/limited/limitResponse/queuing/queueLengthLimit")
                    }),
                    AGE,
                ]
            },
            ..base()
        },
    ]
}
