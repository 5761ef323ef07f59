//! APIService: the rules of kube-aggregator's `pkg/apis/apiregistration/validation` and its registry.

use super::{
    PLAIN,
    cells::{AGE, NAME, column},
    json::{default, items, text},
};
use crate::{
    names,
    registry::{FieldError, Lookup, NameRule, Resource, Strategy},
};
use serde_json::{Value, json};

const GROUP_PRIORITY_MAX: i64 = 20_000;
const VERSION_PRIORITY_MAX: i64 = 1000;
const PORT_DEFAULT: i64 = 443;

type Errors = Vec<FieldError>;

fn invalid(field: &str, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
    FieldError::Invalid {
        field: field.into(),
        value: value.into(),
        detail: detail.into(),
    }
}
fn required(field: &str, detail: &str) -> FieldError {
    FieldError::Required {
        field: field.into(),
        detail: detail.into(),
    }
}

/// The server itself answers for it.
pub(crate) fn is_local(o: &Value) -> bool {
    o["spec"]["service"].is_null()
}

/// The condition of those.
pub(crate) fn local_condition() -> Value {
    json!({
        "type": "Available", "status": "True", "lastTransitionTime": crate::object::now(),
        "reason": "Local", "message": "Local APIServices are always available",
    })
}

struct ApiService;
impl Strategy for ApiService {
    fn name(&self) -> NameRule {
        NameRule::PathSegment
    }
    fn default(&self, o: &mut Value) {
        if let Some(service) = o.pointer_mut("/spec/service").filter(|s| s.is_object()) {
            default(service, "port", PORT_DEFAULT);
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Errors> {
        o["status"] = match is_local(o) {
            true => json!({"conditions": [local_condition()]}),
            false => json!({}),
        };
        Ok(())
    }
    fn validate(&self, o: &Value) -> Errors {
        let spec = &o["spec"];
        let (group, version) = (text(spec, "/group"), text(spec, "/version"));
        let mut errors = Vec::new();
        let (name, wanted) = (text(o, "/metadata/name"), format!("{version}.{group}"));
        if name != wanted {
            let why = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            errors.push(invalid("metadata.name", name, why));
        }
        if group.is_empty() && version != "v1" {
            let why = "only v1 may have an empty group and it better be legacy kube";
            errors.push(required("spec.group", why));
        }
        if !group.is_empty() {
            let bad = names::check(NameRule::DnsSubdomain, group, false);
            errors.extend(bad.into_iter().map(|m| invalid("spec.group", group, m)));
        }
        let bad = names::check(NameRule::Dns1035Label, version, false);
        errors.extend(bad.into_iter().map(|m| invalid("spec.version", version, m)));
        for (key, max) in [
            ("groupPriorityMinimum", GROUP_PRIORITY_MAX),
            ("versionPriority", VERSION_PRIORITY_MAX),
        ] {
            let n = spec[key].as_i64().unwrap_or(0);
            if n <= 0 || n > max {
                let why = format!("must be positive and less than {max}");
                errors.push(invalid(&format!("spec.{key}"), n, why));
            }
        }
        let (bundle, insecure) = (
            text(spec, "/caBundle"),
            spec["insecureSkipTLSVerify"] == true,
        );
        if is_local(o) {
            if !bundle.is_empty() {
                let shown = format!("{} bytes", bundle.len() / 4 * 3);
                errors.push(invalid(
                    "spec.caBundle",
                    shown,
                    "local APIServices may not have a caBundle",
                ));
            }
            if insecure {
                let why = "local APIServices may not have insecureSkipTLSVerify";
                errors.push(invalid("spec.insecureSkipTLSVerify", true, why));
            }
            return errors;
        }
        for key in ["namespace", "name"] {
            if text(&spec["service"], &format!("/{key}")).is_empty() {
                errors.push(required(&format!("spec.service.{key}"), ""));
            }
        }
        let port = spec["service"]["port"].as_i64().unwrap_or(0);
        if !(1..=65_535).contains(&port) {
            let why = "port is not valid: must be between 1 and 65535, inclusive";
            errors.push(invalid("spec.service.port", port, why));
        }
        if insecure && !bundle.is_empty() {
            let why = "may not be true if caBundle is present";
            errors.push(invalid("spec.insecureSkipTLSVerify", true, why));
        }
        errors
    }
    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        (subresource == "status").then_some(&Status)
    }
    fn unconditional_update(&self) -> bool {
        false
    }
}

struct Status;
impl Strategy for Status {
    fn validate_update(&self, new: &Value, _: &Value) -> Errors {
        let known = ["True", "False", "Unknown"];
        let all = items(new, "/status/conditions").iter().enumerate();
        all.filter(|(_, c)| !known.contains(&text(c, "/status")))
            .map(|(i, c)| FieldError::NotSupported {
                field: format!("status.conditions[{i}].status"),
                value: c["status"].clone(),
                supported: known.map(String::from).into(),
            })
            .collect()
    }
}

fn available(o: &Value) -> String {
    let all = items(o, "/status/conditions");
    let Some(c) = all.iter().find(|c| c["type"] == "Available") else {
        return "Unknown".into();
    };
    match (text(c, "/status"), text(c, "/reason")) {
        (status @ "True", _) | (status, "") => status.into(),
        (status, reason) => format!("{status} ({reason})"),
    }
}

pub(crate) fn resources() -> Vec<Resource> {
    vec![Resource {
        group: "apiregistration.k8s.io",
        kind: "APIService",
        plural: "apiservices",
        singular: "apiservice",
        categories: &["api-extensions"],
        namespaced: false,
        has_status: true,
        strategy: &ApiService,
        columns: const {
            &[
                NAME,
                column("Service", "string", |o| match is_local(o) {
                    true => "Local".into(),
                    false => {
                        let part = |p| text(o, p);
                        let (ns, name) =
                            (part("/spec/service/namespace"), part("/spec/service/name"));
                        format!("{ns}/{name}").into()
                    }
                }),
                column("Available", "string", |o| available(o).into()),
                AGE,
            ]
        },
        ..PLAIN
    }]
}
