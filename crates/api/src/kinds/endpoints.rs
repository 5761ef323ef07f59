//! Endpoints, EndpointSlice.

use serde_json::Value;

use super::{
    PLAIN,
    cells::{AGE, NAME, column, or_none},
    checks::endpoints,
    json::{default, items, items_mut, text},
};
use crate::registry::{FieldError, Resource, Strategy};

struct Endpoints;
impl Strategy for Endpoints {
    fn default(&self, o: &mut Value) {
        for subset in items_mut(o, "subsets") {
            for p in items_mut(subset, "ports") {
                default(p, "protocol", "TCP");
            }
        }
    }
    fn validate_create(&self, o: &Value) -> Vec<FieldError> {
        endpoints::endpoints(o)
    }
    fn create_on_update(&self) -> bool {
        true
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        // what was let in once may stay
        if new["subsets"] == old["subsets"] {
            return vec![];
        }
        endpoints::endpoints(new)
    }
}

struct EndpointSlice;
impl Strategy for EndpointSlice {
    fn default(&self, o: &mut Value) {
        for p in items_mut(o, "ports") {
            default(p, "name", "");
            default(p, "protocol", "TCP");
        }
    }
    fn validates_updates_itself(&self) -> bool {
        true
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        endpoints::slice(o, None)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        endpoints::slice_update(new, old)
    }
}

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            kind: "Endpoints",
            plural: "endpoints",
            singular: "endpoints",
            short_names: &["ep"],
            strategy: &Endpoints,
            columns: const {
                &[
                    NAME,
                    column("Endpoints", "string", |o| {
                        let mut all = Vec::new();
                        for s in items(o, "/subsets") {
                            for a in items(s, "/addresses") {
                                let ports = items(s, "/ports");
                                if ports.is_empty() {
                                    all.push(text(a, "/ip").to_string());
                                }
                                all.extend(
                                    ports
                                        .iter()
                                        .map(|p| format!("{}:{}", text(a, "/ip"), p["port"])),
                                );
                            }
                        }
                        let more = all.len().saturating_sub(3);
                        all.truncate(3);
                        let list = all.join(",");
                        if more > 0 {
                            format!("{list} + {more} more...").into()
                        } else {
                            or_none(list)
                        }
                    }),
                    AGE,
                ]
            },
            ..PLAIN
        },
        Resource {
            group: "discovery.k8s.io",
            kind: "EndpointSlice",
            plural: "endpointslices",
            singular: "endpointslice",
            strategy: &EndpointSlice,
            columns: const {
                &[
                    NAME,
                    column("AddressType", "string", |o| text(o, "/addressType").into()),
                    column("Ports", "string", |o| {
                        let all: Vec<String> = items(o, "/ports")
                            .iter()
                            .map(|p| p["port"].to_string())
                            .collect();
                        if all.is_empty() {
                            "<unset>".into()
                        } else {
                            all.join(",").into()
                        }
                    }),
                    column("Endpoints", "string", |o| {
                        let all: Vec<&str> = items(o, "/endpoints")
                            .iter()
                            .flat_map(|e| items(e, "/addresses"))
                            .filter_map(Value::as_str)
                            .collect();
                        match all.len() {
                            0 => "<unset>".into(),
                            1..=3 => all.join(",").into(),
                            n => format!("{} + {} more...", all[..3].join(","), n - 3).into(),
                        }
                    }),
                    AGE,
                ]
            },
            ..PLAIN
        },
    ]
}
