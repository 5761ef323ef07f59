//! IPAddress, ServiceCIDR.

use super::{
    PLAIN,
    cells::{AGE, NAME, column},
    checks::networks as checks,
    json::{items, text},
};
use crate::registry::{FieldError, Lookup, NameRule, Resource, Strategy};
use serde_json::{Value, json};

struct Address;
impl Strategy for Address {
    fn name(&self) -> NameRule {
        NameRule::Ip
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::ip_address(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::ip_address_update(new, old)
    }
}

struct Range;
impl Strategy for Range {
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({});
        Ok(())
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::service_cidr(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::service_cidr_update(new, old)
    }
}

/// `services/default/web`: who has the address.
fn parent(o: &Value) -> Value {
    let Some(p) = o.pointer("/spec/parentRef").filter(|p| p.is_object()) else {
        return "<none>".into();
    };
    let mut name = text(p, "/resource").to_string();
    for (pointer, mark) in [("/group", '.'), ("/namespace", '/'), ("/name", '/')] {
        let part = text(p, pointer);
        if !part.is_empty() || pointer == "/name" {
            name.push(mark);
            name.push_str(part);
        }
        if pointer == "/group" {
            name = name.to_lowercase();
        }
    }
    name.into()
}

pub(crate) fn resources() -> Vec<Resource> {
    let networking = |kind, plural, singular| Resource {
        group: "networking.k8s.io",
        kind,
        plural,
        singular,
        namespaced: false,
        ..PLAIN
    };
    vec![
        Resource {
            short_names: &["ip"],
            strategy: &Address,
            columns: const { &[NAME, column("ParentRef", "string", parent)] },
            ..networking("IPAddress", "ipaddresses", "ipaddress")
        },
        Resource {
            has_status: true,
            strategy: &Range,
            columns: const {
                &[
                    NAME,
                    column("CIDRs", "string", |o| {
                        let all: Vec<&str> = items(o, "/spec/cidrs")
                            .iter()
                            .filter_map(Value::as_str)
                            .collect();
                        all.join(",").into()
                    }),
                    AGE,
                ]
            },
            ..networking("ServiceCIDR", "servicecidrs", "servicecidr")
        },
    ]
}
