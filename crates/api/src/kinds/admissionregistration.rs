//! Webhook configurations and admission policies with their bindings.

use super::{
    PLAIN,
    cells::{AGE, NAME, column, selector},
    checks::admissionregistration as checks,
    json::{default, items, items_mut, map, text},
};
use crate::registry::{FieldError, Resource, Strategy};
use serde_json::{Value, json};

const STATIC_SUFFIX: &str = ".static.k8s.io";

fn static_warning(o: &Value) -> Vec<String> {
    if !text(o, "/metadata/name").ends_with(STATIC_SUFFIX) {
        return vec![];
    }
    vec![format!(
        "metadata.name: names ending with {STATIC_SUFFIX:?} are reserved for static manifest-based configurations and cannot be managed via the API"
    )]
}

/// MutatingWebhookConfiguration, or ValidatingWebhookConfiguration.
struct Webhooks {
    mutating: bool,
}
impl Strategy for Webhooks {
    fn default(&self, o: &mut Value) {
        for hook in items_mut(o, "webhooks") {
            matching(hook);
            default(hook, "failurePolicy", "Fail");
            default(hook, "timeoutSeconds", 10);
            if self.mutating {
                default(hook, "reinvocationPolicy", "Never");
            }
            for rule in items_mut(hook, "rules") {
                default(rule, "scope", "*");
            }
            if let Some(service) = hook
                .pointer_mut("/clientConfig/service")
                .filter(|s| s.is_object())
            {
                default(service, "port", 443);
            }
        }
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::webhooks(o, self.mutating)
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        static_warning(o)
    }
    fn unconditional_update(&self) -> bool {
        false
    }
}

fn matching(o: &mut Value) {
    default(o, "matchPolicy", "Equivalent");
    default(o, "namespaceSelector", json!({}));
    default(o, "objectSelector", json!({}));
}

fn match_resources(spec: &mut Value, key: &str) {
    let Some(resources) = spec.get_mut(key).filter(|m| m.is_object()) else {
        return;
    };
    matching(resources);
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in items_mut(resources, list) {
            default(rule, "scope", "*");
        }
    }
}

/// ValidatingAdmissionPolicy, or MutatingAdmissionPolicy.
struct Policy {
    mutating: bool,
}
impl Strategy for Policy {
    fn default(&self, o: &mut Value) {
        if let Some(spec) = o.get_mut("spec").filter(|s| s.is_object()) {
            default(spec, "failurePolicy", "Fail");
            match_resources(spec, "matchConstraints");
        }
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        if self.mutating {
            checks::mutating_policy(o)
        } else {
            checks::validating_policy(o)
        }
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        static_warning(o)
    }
    fn unconditional_update(&self) -> bool {
        false
    }
    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        (subresource == "status").then_some(&PolicyStatus)
    }
}

/// What type checking says.
struct PolicyStatus;
impl Strategy for PolicyStatus {
    fn validate_update(&self, new: &Value, _: &Value) -> Vec<FieldError> {
        checks::policy_status(new)
    }
}

/// A policy's binding.
struct Binding {
    mutating: bool,
}
impl Strategy for Binding {
    fn default(&self, o: &mut Value) {
        if let Some(spec) = o.get_mut("spec").filter(|s| s.is_object()) {
            match_resources(spec, "matchResources");
        }
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::binding(o, self.mutating)
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        static_warning(o)
    }
    fn unconditional_update(&self) -> bool {
        false
    }
}

fn param_kind(o: &Value) -> Value {
    match map(o, "/spec/paramKind") {
        None => "<unset>".into(),
        Some(_) => format!(
            "{}/{}",
            text(o, "/spec/paramKind/apiVersion"),
            text(o, "/spec/paramKind/kind")
        )
        .into(),
    }
}

fn param_ref(o: &Value) -> Value {
    let Some(r) = o.pointer("/spec/paramRef").filter(|r| r.is_object()) else {
        return "<unset>".into();
    };
    let (name, namespace) = (text(r, "/name"), text(r, "/namespace"));
    match (name, namespace) {
        ("", _) if r["selector"].is_object() => selector(&r["selector"]),
        ("", _) => "<unset>".into(),
        (name, "") => format!("*/{name}").into(),
        (name, namespace) => format!("{namespace}/{name}").into(),
    }
}

/// The group's resources.
pub(super) fn resources() -> Vec<Resource> {
    let plain = |kind, plural, singular| Resource {
        group: "admissionregistration.k8s.io",
        kind,
        plural,
        singular,
        categories: &["api-extensions"],
        namespaced: false,
        ..PLAIN
    };
    const WEBHOOKS: &[crate::registry::Column] = &[
        NAME,
        column("Webhooks", "integer", |o| {
            items(o, "/webhooks").len().into()
        }),
        AGE,
    ];
    const BINDING: &[crate::registry::Column] = &[
        NAME,
        column("PolicyName", "string", |o| {
            text(o, "/spec/policyName").into()
        }),
        column("ParamRef", "string", param_ref),
        AGE,
    ];
    vec![
        Resource {
            strategy: &Policy { mutating: true },
            columns: const {
                &[
                    NAME,
                    column("Mutations", "integer", |o| {
                        items(o, "/spec/mutations").len().into()
                    }),
                    column("ParamKind", "string", param_kind),
                    AGE,
                ]
            },
            ..plain(
                "MutatingAdmissionPolicy",
                "mutatingadmissionpolicies",
                "mutatingadmissionpolicy",
            )
        },
        Resource {
            strategy: &Binding { mutating: true },
            columns: BINDING,
            ..plain(
                "MutatingAdmissionPolicyBinding",
                "mutatingadmissionpolicybindings",
                "mutatingadmissionpolicybinding",
            )
        },
        Resource {
            strategy: &Webhooks { mutating: true },
            columns: WEBHOOKS,
            ..plain(
                "MutatingWebhookConfiguration",
                "mutatingwebhookconfigurations",
                "mutatingwebhookconfiguration",
            )
        },
        Resource {
            has_status: true,
            strategy: &Policy { mutating: false },
            columns: const {
                &[
                    NAME,
                    column("Validations", "integer", |o| {
                        items(o, "/spec/validations").len().into()
                    }),
                    column("ParamKind", "string", param_kind),
                    AGE,
                ]
            },
            ..plain(
                "ValidatingAdmissionPolicy",
                "validatingadmissionpolicies",
                "validatingadmissionpolicy",
            )
        },
        Resource {
            strategy: &Binding { mutating: false },
            columns: BINDING,
            ..plain(
                "ValidatingAdmissionPolicyBinding",
                "validatingadmissionpolicybindings",
                "validatingadmissionpolicybinding",
            )
        },
        Resource {
            strategy: &Webhooks { mutating: false },
            columns: WEBHOOKS,
            ..plain(
                "ValidatingWebhookConfiguration",
                "validatingwebhookconfigurations",
                "validatingwebhookconfiguration",
            )
        },
    ]
}
