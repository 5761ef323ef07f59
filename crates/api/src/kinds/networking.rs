//! Ingress, IngressClass, NetworkPolicy.

use super::{
    PLAIN,
    cells::{AGE, NAME, column, or_none, selector},
    checks::{ingress, networks as checks, policies},
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
    fn prepare_update(
        &self,
        new: &mut Value,
        old: &Value,
        _: &dyn Lookup,
    ) -> Result<(), Vec<FieldError>> {
        new["status"] = old["status"].clone();
        Ok(())
    }
    fn validates_updates_itself(&self) -> bool {
        true
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        ingress::create(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        ingress::update(new, old)
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        match o["metadata"]["annotations"][ingress::CLASS].is_null() {
            true => vec![],
            false => vec![format!(
                "annotation {:?} is deprecated, please use 'spec.ingressClassName' instead",
                ingress::CLASS
            )],
        }
    }
    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        (subresource == "status").then_some(&IngressStatus)
    }
}

/// `…/status`
struct IngressStatus;
impl Strategy for IngressStatus {
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        ingress::status(new, old)
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
    fn validates_updates_itself(&self) -> bool {
        true
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        policies::network_policy(o, None)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        policies::network_policy(new, Some(old))
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
