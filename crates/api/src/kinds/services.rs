//! Service, Endpoints, EndpointSlice: defaults, and the allocation of addresses and node ports.

use super::{
    PLAIN,
    cells::{AGE, NAME, column, labels, or_none, wide},
    checks::{endpoints, path, services as checks},
    json::{default, items, items_mut, text},
};
use crate::registry::{FieldError, Lookup, NameRule, Resource, Strategy};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
};

struct Service;

impl Strategy for Service {
    fn name(&self) -> NameRule {
        NameRule::DnsLabel
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
        if kind == "ClusterIP" && !items(spec, "/externalIPs").is_empty() {
            default(spec, "externalTrafficPolicy", "Cluster");
        }
        if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
            default(spec, "internalTrafficPolicy", "Cluster");
        }
    }

    fn prepare_create(&self, o: &mut Value, lookup: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({ "loadBalancer": {} });
        let spec = &mut o["spec"];
        if !text(spec, "/clusterIP").is_empty() && items(spec, "/clusterIPs").is_empty() {
            spec["clusterIPs"] = json!([spec["clusterIP"]]);
        }
        allocate(o, None, lookup)
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
        follow(&mut new["spec"], &old["spec"]);
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
        downgrade(&mut new["spec"], &old["spec"]);
        allocate(new, Some(old), lookup)
    }

    fn validate_create(&self, o: &Value) -> Vec<FieldError> {
        checks::service(o, None)
    }

    fn warnings(&self, o: &Value) -> Vec<String> {
        checks::warnings(o)
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::update(new, old)
    }

    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        (subresource == "status").then_some(&ServiceStatus)
    }
}

/// `…/status`
struct ServiceStatus;
impl Strategy for ServiceStatus {
    fn prepare_update(
        &self,
        new: &mut Value,
        _: &Value,
        _: &dyn Lookup,
    ) -> Result<(), Vec<FieldError>> {
        if text(new, "/spec/type") == "LoadBalancer"
            && let Some(balancer) = new.pointer_mut("/status/loadBalancer")
        {
            for ingress in items_mut(balancer, "ingress") {
                if !text(ingress, "/ip").is_empty() {
                    default(ingress, "ipMode", "VIP");
                }
            }
        }
        Ok(())
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::status(new, old)
    }
}

/// One of `clusterIP` and `clusterIPs` follows the other where only that one was changed (upstream's normalizeClusterIPs).
fn follow(new: &mut Value, old: &Value) {
    let (is, was) = (text(new, "/clusterIP"), text(old, "/clusterIP"));
    if is != was && !is.is_empty() && new["clusterIPs"] == old["clusterIPs"] {
        new["clusterIPs"] = json!([is]);
    }
}

/// Which families of addresses the Service has, of those that the platform has (upstream's initIPFamilyFields).
fn families(
    o: &mut Value,
    old: Option<&Value>,
    configured: &[&str],
) -> Result<(), Vec<FieldError>> {
    let spec = &mut o["spec"];
    let headless = text(spec, "/clusterIP") == "None";
    let selects = spec["selector"].as_object().is_some_and(|s| !s.is_empty());
    let unselected = headless && !selects;
    let policy = if unselected {
        "RequireDualStack"
    } else {
        "SingleStack"
    };
    default(spec, "ipFamilyPolicy", policy);
    let at = path::Path::Root("spec");
    let mut errors = path::Errors::default();
    checks::cluster_ips(spec, None, &at, &mut errors);
    if !errors.0.is_empty() {
        return Err(errors.0);
    }
    let policy = text(spec, "/ipFamilyPolicy").to_string();
    let policy_at = at.child("ipFamilyPolicy");
    if policy == "SingleStack" {
        for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
            if spec[field].as_array().is_some_and(|l| l.len() == 2) {
                errors.invalid(
                    &policy_at,
                    policy.as_str(),
                    format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"),
                );
            }
        }
    }
    checks::known_families(spec, configured, &at, &mut errors);
    if !errors.0.is_empty() {
        return Err(errors.0);
    }
    if unselected {
        if items(spec, "/ipFamilies").is_empty() {
            spec["ipFamilies"] = json!(["IPv4"]);
        }
        if policy != "SingleStack" {
            both(spec);
        }
        return Ok(());
    }
    // What was preferred, and could not be had then, isn't given later unasked.
    if policy == "PreferDualStack"
        && let Some(old) = old
        && ["ipFamilyPolicy", "ipFamilies", "clusterIPs"]
            .iter()
            .all(|key| spec[*key] == old["spec"][*key])
    {
        return Ok(());
    }
    if policy == "RequireDualStack" && configured.len() < 2 {
        let detail = "this cluster is not configured for dual-stack services";
        errors.invalid(&policy_at, policy.as_str(), detail);
    }
    let families_at = at.child("ipFamilies");
    for (i, f) in items(spec, "/ipFamilies").iter().enumerate() {
        if !configured.iter().any(|family| f == family) {
            errors.invalid(
                &families_at.index(i),
                f.clone(),
                "not configured on this cluster",
            );
        }
    }
    if !errors.0.is_empty() {
        return Err(errors.0);
    }
    // Of addresses that were asked for the families follow.
    let asked = items(spec, "/clusterIPs").iter().filter_map(Value::as_str);
    let asked = asked.filter_map(|ip| ip.parse::<IpAddr>().ok());
    let asked: Vec<&str> = asked.map(family_of).collect();
    for (i, family) in asked.into_iter().enumerate() {
        if items(spec, "/ipFamilies").len() != i {
            continue;
        }
        match spec["ipFamilies"].as_array_mut() {
            Some(families) => families.push(family.into()),
            None => spec["ipFamilies"] = json!([family]),
        }
    }
    if items(spec, "/ipFamilies").is_empty() {
        spec["ipFamilies"] = json!([configured.first()]);
    }
    if policy != "SingleStack" && configured.len() == 2 {
        both(spec);
    }
    Ok(())
}

fn family_of(ip: IpAddr) -> &'static str {
    match ip {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

/// Adds the family that isn't there.
fn both(spec: &mut Value) {
    let families = items(spec, "/ipFamilies");
    if families.len() < 2 {
        let first = families[0].clone();
        let other = if first == "IPv4" { "IPv6" } else { "IPv4" };
        spec["ipFamilies"] = json!([first, other]);
    }
}

/// A Service that wants one family again keeps the first (upstream's trimFieldsForDualStackDowngrade).
fn downgrade(new: &mut Value, old: &Value) {
    let dual = ["PreferDualStack", "RequireDualStack"].contains(&text(old, "/ipFamilyPolicy"));
    if !dual || text(new, "/ipFamilyPolicy") != "SingleStack" {
        return;
    }
    for key in ["clusterIPs", "ipFamilies"] {
        if new[key] == old[key]
            && let Some(list) = new[key].as_array_mut()
        {
            list.truncate(1);
        }
    }
}

/// Addresses that are looked through for a free one, at most.
const CANDIDATES_MAX: u128 = 1 << 16;

/// The range's first address, and how many there are but the last (which is IPv4's broadcast).
fn size((base, bits): (IpAddr, u8)) -> (u128, u128) {
    match base {
        IpAddr::V4(base) => (u32::from(base).into(), (u32::MAX >> bits).into()),
        IpAddr::V6(base) => (base.into(), u128::MAX >> bits),
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// An address of the range: the one asked for, or a free one.
fn address(
    asked: Option<&str>,
    range: (IpAddr, u8),
    taken: &HashSet<IpAddr>,
) -> Result<IpAddr, Vec<FieldError>> {
    let (first, size) = size(range);
    let invalid = |value: Value, detail: String| {
        vec![FieldError::Invalid {
            field: "spec.clusterIPs".into(),
            value,
            detail,
        }]
    };
    let Some(asked) = asked else {
        // .1 is the API's, .10 the DNS server's: they are given only to who asks for them.
        let at = |n: u128| match range.0 {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from((first + n) as u32)),
            IpAddr::V6(_) => IpAddr::V6((first + n).into()),
        };
        let free = (2..size.min(CANDIDATES_MAX)).filter(|n| *n != 10).map(at);
        let free = free.into_iter().find(|ip| !taken.contains(ip));
        return free.ok_or_else(|| {
            let detail = "failed to allocate IP 0: range is full".to_string();
            invalid(Value::Null, detail)
        });
    };
    let refuse = |detail: String| {
        let detail = format!("failed to allocate IP {asked}: {detail}");
        Err(invalid(json!([asked]), detail))
    };
    let Ok(ip) = asked.parse::<IpAddr>() else {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        return Err(invalid(json!([asked]), detail.into()));
    };
    let offset = number(ip).wrapping_sub(first);
    if ip.is_ipv4() != range.0.is_ipv4() || offset == 0 || offset >= size {
        let (base, bits) = range;
        return refuse(format!(
            "the provided IP ({asked}) is not in the valid range. The range of valid IPs is {base}/{bits}"
        ));
    }
    if taken.contains(&ip) {
        return refuse("provided IP is already allocated".into());
    }
    Ok(ip)
}

/// Gives the Service its addresses, and node ports where its type asks for them.
fn allocate(
    o: &mut Value,
    old: Option<&Value>,
    lookup: &dyn Lookup,
) -> Result<(), Vec<FieldError>> {
    let kind = text(o, "/spec/type").to_string();
    if kind == "ExternalName" {
        return Ok(());
    }
    let (base, bits) = lookup.service_cidr();
    let second = lookup.service_cidr6();
    let ranges: Vec<(IpAddr, u8)> = std::iter::once((base.into(), bits))
        .chain(second.map(|(base, bits)| (base.into(), bits)))
        .collect();
    let configured: Vec<&str> = ranges.iter().map(|(base, _)| family_of(*base)).collect();
    families(o, old, &configured)?;
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
    let taken: HashSet<IpAddr> = others
        .iter()
        .flat_map(|s| {
            let listed = items(s, "/spec/clusterIPs")
                .iter()
                .filter_map(Value::as_str);
            listed.chain([text(s, "/spec/clusterIP")])
        })
        .filter_map(|ip| ip.parse().ok())
        .collect();
    let mut asked: Vec<String> = items(o, "/spec/clusterIPs")
        .iter()
        .filter_map(|ip| ip.as_str().map(String::from))
        .collect();
    if asked.is_empty() && !text(o, "/spec/clusterIP").is_empty() {
        asked.push(text(o, "/spec/clusterIP").into());
    }
    let given = match asked.first().map(String::as_str) {
        Some("None") => vec!["None".to_string()],
        _ => {
            let wanted = items(o, "/spec/ipFamilies").iter().enumerate();
            let wanted = wanted.map(|(i, family)| {
                let range = ranges.iter().find(|(base, _)| family == family_of(*base));
                // An unknown family was refused above.
                let range = range.copied().unwrap_or(ranges[0]);
                let asked = asked.get(i).map(String::as_str);
                address(asked, range, &taken).map(|ip| ip.to_string())
            });
            wanted.collect::<Result<Vec<_>, _>>()?
        }
    };
    let wants_ports = kind == "NodePort"
        || (kind == "LoadBalancer" && o["spec"]["allocateLoadBalancerNodePorts"] != false);
    let spec = &mut o["spec"];
    spec["clusterIP"] = json!(given.first());
    spec["clusterIPs"] = json!(given);
    let mut used: HashSet<i64> = others
        .iter()
        .flat_map(|s| items(s, "/spec/ports"))
        .filter_map(|p| p["nodePort"].as_i64())
        .chain(
            others
                .iter()
                .filter_map(|s| s["spec"]["healthCheckNodePort"].as_i64()),
        )
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
    health_port(&mut o["spec"], &used, low, high)
}

/// The port at which balancers ask nodes for endpoints, from the same range.
fn health_port(
    spec: &mut Value,
    used: &HashSet<i64>,
    low: u16,
    high: u16,
) -> Result<(), Vec<FieldError>> {
    if !checks::needs_health_port(spec) || spec["healthCheckNodePort"].as_i64().unwrap_or(0) != 0 {
        return Ok(());
    }
    let free = (i64::from(low)..=i64::from(high)).find(|n| !used.contains(n));
    let number = free.ok_or_else(|| {
        vec![FieldError::Invalid {
            field: "spec.healthCheckNodePort".into(),
            value: 0.into(),
            detail: "no free node port is left".into(),
        }]
    })?;
    spec["healthCheckNodePort"] = number.into();
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
