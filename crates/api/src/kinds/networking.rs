//! Ingress, IngressClass, NetworkPolicy.

use super::{
    PLAIN,
    cells::{AGE, NAME, column, or_none, selector},
    checks::networks as checks,
    json::{default, items, text},
};
use crate::registry::{FieldError, Lookup, Resource, Strategy};
use serde_json::{Value, json};

struct Ingress;
impl Strategy for Ingress {
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({ "loadBalancer": {} });
        Ok(())
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if items(o, "/spec/rules").is_empty() && o["spec"]["defaultBackend"].is_null() {
            errors.push(FieldError::Invalid {
                field: "spec".into(),
                value: o["spec"].clone(),
                detail: "either `defaultBackend` or `rules` must be specified".into(),
            });
        }
        for (i, rule) in items(o, "/spec/rules").iter().enumerate() {
            for (j, path) in items(rule, "/http/paths").iter().enumerate() {
                let field = format!("spec.rules[{i}].http.paths[{j}]");
                let kinds = ["Exact", "ImplementationSpecific", "Prefix"];
                match text(path, "/pathType") {
                    "" => errors.push(FieldError::Required {
                        field: format!("{field}.pathType"),
                        detail: "pathType must be specified".into(),
                    }),
                    k if !kinds.contains(&k) => errors.push(FieldError::NotSupported {
                        field: format!("{field}.pathType"),
                        value: k.into(),
                        supported: kinds.iter().map(|k| k.to_string()).collect(),
                    }),
                    "Exact" | "Prefix" if !text(path, "/path").starts_with('/') => {
                        errors.push(FieldError::Invalid {
                            field: format!("{field}.path"),
                            value: path["path"].clone(),
                            detail: "must be an absolute path".into(),
                        });
                    }
                    _ => {}
                }
                if text(path, "/backend/service/name").is_empty()
                    && path["backend"]["resource"].is_null()
                {
                    errors.push(FieldError::Required {
                        field: format!("{field}.backend"),
                        detail: "resource or service backend is required".into(),
                    });
                }
            }
        }
        errors
    }
}

struct Policy;
impl Strategy for Policy {
    fn default(&self, o: &mut Value) {
        let Some(spec) = o.get_mut("spec").filter(|s| s.is_object()) else {
            return;
        };
        let kinds = if spec["egress"].is_array() {
            json!(["Ingress", "Egress"])
        } else {
            json!(["Ingress"])
        };
        default(spec, "policyTypes", kinds);
        for (list, key) in [("ingress", "ports"), ("egress", "ports")] {
            for rule in super::json::items_mut(spec, list) {
                for port in super::json::items_mut(rule, key) {
                    default(port, "protocol", "TCP");
                }
            }
        }
    }
}

struct Class;
impl Strategy for Class {
    fn default(&self, o: &mut Value) {
        if let Some(p) = o.pointer_mut("/spec/parameters").filter(|p| p.is_object()) {
            default(p, "scope", "Cluster");
        }
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::ingress_class(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::ingress_class_update(new, old)
    }
}

pub(crate) fn resources() -> Vec<Resource> {
    let networking = |kind, plural, singular, short_names| Resource {
        group: "networking.k8s.io",
        kind,
        plural,
        singular,
        short_names,
        ..PLAIN
    };
    vec![
        Resource {
            has_status: true,
            strategy: &Ingress,
            columns: const {
                &[
                    NAME,
                    column("Class", "string", |o| {
                        or_none(text(o, "/spec/ingressClassName").into())
                    }),
                    column("Hosts", "string", |o| {
                        let hosts: Vec<&str> = items(o, "/spec/rules")
                            .iter()
                            .map(|r| match text(r, "/host") {
                                "" => "*",
                                h => h,
                            })
                            .collect();
                        let shown = hosts.iter().take(3).copied().collect::<Vec<_>>().join(",");
                        match hosts.len() {
                            0 => "*".into(),
                            1..=3 => shown.into(),
                            n => format!("{shown} + {} more...", n - 3).into(),
                        }
                    }),
                    column("Address", "string", |o| {
                        let all: Vec<&str> = items(o, "/status/loadBalancer/ingress")
                            .iter()
                            .map(|i| match text(i, "/ip") {
                                "" => text(i, "/hostname"),
                                ip => ip,
                            })
                            .collect();
                        all.join(",").into()
                    }),
                    column("Ports", "string", |o| {
                        if items(o, "/spec/tls").is_empty() {
                            "80".into()
                        } else {
                            "80, 443".into()
                        }
                    }),
                    AGE,
                ]
            },
            ..networking("Ingress", "ingresses", "ingress", &["ing"])
        },
        Resource {
            namespaced: false,
            strategy: &Class,
            columns: const {
                &[
                    NAME,
                    column("Controller", "string", |o| {
                        text(o, "/spec/controller").into()
                    }),
                    column("Parameters", "string", |o| {
                        match text(o, "/spec/parameters/name") {
                            "" => "<none>".into(),
                            n => format!("{}/{n}", text(o, "/spec/parameters/kind")).into(),
                        }
                    }),
                    AGE,
                ]
            },
            ..networking("IngressClass", "ingressclasses", "ingressclass", &[])
        },
        Resource {
            strategy: &Policy,
            columns: const {
                &[
                    NAME,
                    column("Pod-Selector", "string", |o| {
                        selector(&o["spec"]["podSelector"])
                    }),
                    AGE,
                ]
            },
            ..networking(
                "NetworkPolicy",
                "networkpolicies",
                "networkpolicy",
                &["netpol"],
            )
        },
    ]
}
