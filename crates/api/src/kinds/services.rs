//! Service, Endpoints, EndpointSlice: defaults, and the allocation of addresses and node ports.

use super::{
    PLAIN,
    cells::{AGE, NAME, column, labels, or_none, wide},
    json::{default, items, items_mut, text},
};
use crate::registry::{FieldError, Lookup, NameRule, Resource, Strategy};
use serde_json::{Value, json};
use std::{collections::HashSet, net::Ipv4Addr};

struct Service;

impl Strategy for Service {
    fn name(&self) -> NameRule {
        NameRule::Dns1035Label
    }

    fn default(&self, o: &mut Value) {
        let Some(spec) = o.get_mut("spec").filter(|s| s.is_object()) else {
            return;
        };
        default(spec, "sessionAffinity", "None");
        default(spec, "type", "ClusterIP");
        if spec["sessionAffinity"] == "ClientIP" {
            default(
                spec,
                "sessionAffinityConfig",
                json!({ "clientIP": { "timeoutSeconds": 10800 } }),
            );
        } else if spec["sessionAffinity"] == "None"
            && let Some(map) = spec.as_object_mut()
        {
            map.remove("sessionAffinityConfig");
        }
        for p in items_mut(spec, "ports") {
            default(p, "protocol", "TCP");
            let unset = p["targetPort"].is_null() || p["targetPort"] == 0 || p["targetPort"] == "";
            if unset {
                p["targetPort"] = p["port"].clone();
            }
        }
        let kind = text(spec, "/type").to_string();
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            default(spec, "externalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            default(spec, "allocateLoadBalancerNodePorts", true);
        }
        if kind != "ExternalName" {
            default(spec, "internalTrafficPolicy", "Cluster");
        }
    }

    fn prepare_create(&self, o: &mut Value, lookup: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({ "loadBalancer": {} });
        allocate(o, lookup)
    }

    fn prepare_update(
        &self,
        new: &mut Value,
        old: &Value,
        lookup: &dyn Lookup,
    ) -> Result<(), Vec<FieldError>> {
        new["status"] = old["status"].clone();
        drop_type_dependent(new, old);
        let external = |o: &Value| text(o, "/spec/type") == "ExternalName";
        if external(new) && !external(old) {
            if let Some(spec) = new["spec"].as_object_mut() {
                for key in [
                    "clusterIP",
                    "clusterIPs",
                    "ipFamilies",
                    "ipFamilyPolicy",
                    "internalTrafficPolicy",
                ] {
                    spec.remove(key);
                }
            }
            return Ok(());
        }
        // What was allocated stays unless the request says otherwise.
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if text(new, &format!("/spec/{key}")).is_empty()
                && new["spec"][key].as_array().is_none_or(Vec::is_empty)
                && !old["spec"][key].is_null()
            {
                new["spec"][key] = old["spec"][key].clone();
            }
        }
        let ports: Vec<Value> = items(old, "/spec/ports").to_vec();
        let wants = matches!(text(new, "/spec/type"), "NodePort" | "LoadBalancer");
        for p in items_mut(&mut new["spec"], "ports") {
            let before = ports
                .iter()
                .find(|q| q["port"] == p["port"] && q["protocol"] == p["protocol"]);
            if wants
                && let Some(node_port) = before.map(|q| &q["nodePort"]).filter(|n| n.is_number())
            {
                default(p, "nodePort", node_port.clone());
            }
        }
        allocate(new, lookup)
    }

    fn validate(&self, o: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let kind = text(o, "/spec/type");
        let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
        if !kinds.contains(&kind) {
            errors.push(FieldError::NotSupported {
                field: "spec.type".into(),
                value: kind.into(),
                supported: kinds.iter().map(|k| k.to_string()).collect(),
            });
        }
        let headless = text(o, "/spec/clusterIP") == "None";
        if headless && matches!(kind, "NodePort" | "LoadBalancer") {
            errors.push(FieldError::Invalid {
                field: "spec.clusterIPs[0]".into(),
                value: "None".into(),
                detail: format!("may not be set to 'None' for {kind} services"),
            });
        }
        if kind == "ExternalName" && text(o, "/spec/externalName").is_empty() {
            errors.push(FieldError::Required {
                field: "spec.externalName".into(),
                detail: String::new(),
            });
        }
        let ports = items(o, "/spec/ports");
        if ports.is_empty() && !headless && kind != "ExternalName" {
            errors.push(FieldError::Required {
                field: "spec.ports".into(),
                detail: String::new(),
            });
        }
        let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
        for (i, p) in ports.iter().enumerate() {
            let field = format!("spec.ports[{i}]");
            let name = text(p, "/name");
            if name.is_empty() && ports.len() > 1 {
                errors.push(FieldError::Required {
                    field: format!("{field}.name"),
                    detail: String::new(),
                });
            } else if !name.is_empty() && !names.insert(name) {
                errors.push(FieldError::Duplicate {
                    field: format!("{field}.name"),
                    value: name.into(),
                });
            }
            let range = "must be between 1 and 65535, inclusive";
            let bad = |v: &Value| v.as_i64().is_some_and(|n| !(1..=65535).contains(&n));
            if bad(&p["port"]) {
                errors.push(FieldError::Invalid {
                    field: format!("{field}.port"),
                    value: p["port"].clone(),
                    detail: range.into(),
                });
            }
            if bad(&p["targetPort"]) {
                errors.push(FieldError::Invalid {
                    field: format!("{field}.targetPort"),
                    value: p["targetPort"].clone(),
                    detail: range.into(),
                });
            }
            if !["TCP", "UDP", "SCTP"].contains(&text(p, "/protocol")) {
                errors.push(FieldError::NotSupported {
                    field: format!("{field}.protocol"),
                    value: p["protocol"].clone(),
                    supported: vec!["SCTP".into(), "TCP".into(), "UDP".into()],
                });
            } else if !numbers.insert((p["port"].as_i64(), text(p, "/protocol"))) {
                errors.push(FieldError::Duplicate {
                    field,
                    value: p.clone(),
                });
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let (before, after) = (text(old, "/spec/clusterIP"), text(new, "/spec/clusterIP"));
        if text(old, "/spec/type") == "ExternalName"
            || text(new, "/spec/type") == "ExternalName"
            || before.is_empty()
            || before == after
        {
            return vec![];
        }
        vec![FieldError::Invalid {
            field: "spec.clusterIPs[0]".into(),
            value: json!([after]),
            detail: "may not change once set".into(),
        }]
    }
}

/// Gives the Service its address, and node ports where its type asks for them.
fn allocate(o: &mut Value, lookup: &dyn Lookup) -> Result<(), Vec<FieldError>> {
    let kind = text(o, "/spec/type").to_string();
    if kind == "ExternalName" {
        return Ok(());
    }
    let me = (
        text(o, "/metadata/namespace").to_string(),
        text(o, "/metadata/name").to_string(),
    );
    let others: Vec<Value> = lookup
        .list("", "services", None)
        .into_iter()
        .filter(|s| {
            (text(s, "/metadata/namespace"), text(s, "/metadata/name"))
                != (me.0.as_str(), me.1.as_str())
        })
        .collect();
    let (base, bits) = lookup.service_cidr();
    let (first, size) = (u32::from(base), u32::MAX >> bits);
    let taken: HashSet<Ipv4Addr> = others
        .iter()
        .filter_map(|s| text(s, "/spec/clusterIP").parse().ok())
        .collect();
    let mut ip = text(o, "/spec/clusterIP").to_string();
    let listed = items(o, "/spec/clusterIPs")
        .first()
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_string();
    if ip.is_empty() {
        ip = listed;
    }
    if ip.is_empty() {
        // .1 is the API's, .10 the DNS server's: they are given only to who asks for them.
        let free = (2..size)
            .filter(|n| *n != 10)
            .map(|n| Ipv4Addr::from(first + n))
            .find(|a| !taken.contains(a));
        ip = free.map(|a| a.to_string()).ok_or_else(|| {
            vec![FieldError::Invalid {
                field: "spec.clusterIPs".into(),
                value: Value::Null,
                detail: "failed to allocate IP 0: range is full".into(),
            }]
        })?;
    } else if ip != "None" {
        let invalid = |detail: String| {
            vec![FieldError::Invalid {
                field: "spec.clusterIPs".into(),
                value: json!([ip]),
                detail,
            }]
        };
        let parsed: Ipv4Addr = ip.parse().map_err(|_| {
            invalid("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into())
        })?;
        let offset = u32::from(parsed).wrapping_sub(first);
        if offset == 0 || offset >= size {
            return Err(invalid(format!(
                "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {base}/{bits}"
            )));
        }
        if taken.contains(&parsed) {
            return Err(invalid(format!(
                "failed to allocate IP {ip}: provided IP is already allocated"
            )));
        }
    }
    let wants_ports = kind == "NodePort"
        || (kind == "LoadBalancer" && o["spec"]["allocateLoadBalancerNodePorts"] != false);
    let spec = &mut o["spec"];
    spec["clusterIP"] = json!(ip);
    spec["clusterIPs"] = json!([ip]);
    default(spec, "ipFamilies", json!(["IPv4"]));
    default(spec, "ipFamilyPolicy", "SingleStack");
    let mut used: HashSet<i64> = others
        .iter()
        .flat_map(|s| items(s, "/spec/ports"))
        .filter_map(|p| p["nodePort"].as_i64())
        .collect();
    let (low, high) = lookup.node_port_range();
    for (i, p) in items_mut(spec, "ports").enumerate() {
        let asked = p["nodePort"].as_i64().filter(|n| *n != 0);
        if !wants_ports && asked.is_none() {
            if let Some(m) = p.as_object_mut() {
                m.remove("nodePort");
            }
            continue;
        }
        let invalid = |n: i64, detail: String| {
            vec![FieldError::Invalid {
                field: format!("spec.ports[{i}].nodePort"),
                value: n.into(),
                detail,
            }]
        };
        let number = match asked {
            Some(n) if !(i64::from(low)..=i64::from(high)).contains(&n) => {
                return Err(invalid(
                    n,
                    format!(
                        "provided port is not in the valid range. The range of valid ports is {low}-{high}"
                    ),
                ));
            }
            Some(n) if used.contains(&n) => {
                return Err(invalid(n, "provided port is already allocated".into()));
            }
            Some(n) => n,
            None => (i64::from(low)..=i64::from(high))
                .find(|n| !used.contains(n))
                .ok_or_else(|| invalid(0, "no free node port is left".into()))?,
        };
        used.insert(number);
        p["nodePort"] = number.into();
    }
    Ok(())
}

struct Endpoints;
impl Strategy for Endpoints {
    fn default(&self, o: &mut Value) {
        for subset in items_mut(o, "subsets") {
            for p in items_mut(subset, "ports") {
                default(p, "protocol", "TCP");
            }
        }
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
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let kinds = ["FQDN", "IPv4", "IPv6"];
        match text(o, "/addressType") {
            "" => errors.push(FieldError::Required {
                field: "addressType".into(),
                detail: String::new(),
            }),
            k if !kinds.contains(&k) => errors.push(FieldError::NotSupported {
                field: "addressType".into(),
                value: k.into(),
                supported: kinds.iter().map(|k| k.to_string()).collect(),
            }),
            _ => {}
        }
        if items(o, "/endpoints").len() > 1000 {
            errors.push(FieldError::TooMany {
                field: "endpoints".into(),
                actual: items(o, "/endpoints").len(),
                max: 1000,
            });
        }
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        match new["addressType"] == old["addressType"] {
            true => vec![],
            false => vec![FieldError::Invalid {
                field: "addressType".into(),
                value: new["addressType"].clone(),
                detail: "field is immutable".into(),
            }],
        }
    }
}

fn external(o: &Value) -> Value {
    let mut all: Vec<String> = items(o, "/spec/externalIPs")
        .iter()
        .filter_map(|i| i.as_str().map(String::from))
        .collect();
    match text(o, "/spec/type") {
        "ExternalName" => text(o, "/spec/externalName").into(),
        "LoadBalancer" => {
            let given = items(o, "/status/loadBalancer/ingress").iter().map(|i| {
                if text(i, "/ip").is_empty() {
                    text(i, "/hostname")
                } else {
                    text(i, "/ip")
                }
            });
            all.splice(0..0, given.map(String::from));
            if all.is_empty() {
                "<pending>".into()
            } else {
                all.join(",").into()
            }
        }
        _ => or_none(all.join(",")),
    }
}

fn ports(o: &Value) -> Value {
    let all = items(o, "/spec/ports")
        .iter()
        .map(|p| match p["nodePort"].as_i64() {
            Some(n) if n > 0 => format!("{}:{n}/{}", p["port"], text(p, "/protocol")),
            _ => format!("{}/{}", p["port"], text(p, "/protocol")),
        });
    or_none(all.collect::<Vec<_>>().join(","))
}

/// What only the old type had goes with it, unless the request changes it (upstream's `dropTypeDependentFields`).
fn drop_type_dependent(new: &mut Value, old: &Value) {
    let node_ports = |o: &Value| matches!(text(o, "/spec/type"), "NodePort" | "LoadBalancer");
    let balanced = |o: &Value| text(o, "/spec/type") == "LoadBalancer";
    let health = |o: &Value| balanced(o) && text(o, "/spec/externalTrafficPolicy") == "Local";
    let numbers = |o: &Value| -> Vec<Value> {
        let ports = items(o, "/spec/ports").iter();
        ports.map(|p| p["nodePort"].clone()).collect()
    };
    if node_ports(old) && !node_ports(new) && numbers(old) == numbers(new) {
        for p in items_mut(&mut new["spec"], "ports") {
            if let Some(p) = p.as_object_mut() {
                p.remove("nodePort");
            }
        }
    }
    for (key, lost) in [
        ("healthCheckNodePort", health(old) && !health(new)),
        (
            "allocateLoadBalancerNodePorts",
            balanced(old) && !balanced(new),
        ),
        ("loadBalancerClass", balanced(old) && !balanced(new)),
        ("externalTrafficPolicy", node_ports(old) && !node_ports(new)),
    ] {
        if lost
            && new["spec"][key] == old["spec"][key]
            && let Some(spec) = new["spec"].as_object_mut()
        {
            spec.remove(key);
        }
    }
}

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            kind: "Service",
            plural: "services",
            singular: "service",
            short_names: &["svc"],
            categories: &["all"],
            has_status: true,
            subresources: &["proxy"],
            strategy: &Service,
            selectable_fields: &[
                ("spec.clusterIP", |o| text(o, "/spec/clusterIP").into()),
                ("spec.type", |o| text(o, "/spec/type").into()),
            ],
            columns: const {
                &[
                    NAME,
                    column("Type", "string", |o| text(o, "/spec/type").into()),
                    column("Cluster-IP", "string", |o| {
                        or_none(text(o, "/spec/clusterIP").into())
                    }),
                    column("External-IP", "string", external),
                    column("Port(s)", "string", ports),
                    AGE,
                    wide("Selector", "string", |o| labels(&o["spec"]["selector"])),
                ]
            },
            ..PLAIN
        },
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
