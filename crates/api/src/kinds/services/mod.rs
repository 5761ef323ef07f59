//! Service: defaults, and the allocation of addresses and node ports.

pub(crate) mod addresses;
mod families;
mod ports;

use super::{
    PLAIN,
    cells::{AGE, NAME, column, labels, or_none, wide},
    checks::services as checks,
    json::{default, items, items_mut, number, text},
};
use crate::registry::{FieldError, Lookup, NameRule, Resource, Strategy};
use serde_json::{Value, json};
use std::{collections::HashSet, net::IpAddr};

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
            let seconds = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
            if seconds.is_null() {
                let hours = json!({ "clientIP": { "timeoutSeconds": 10800 } });
                spec["sessionAffinityConfig"] = hours;
            }
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
        if checks_health(new) && checks_health(old) && number(new, HEALTH_PORT) == 0 {
            new["spec"]["healthCheckNodePort"] = old["spec"]["healthCheckNodePort"].clone();
        }
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
        let refused = checks::moves(new, old);
        if !refused.is_empty() {
            return Err(refused);
        }
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
    let others = &new["clusterIPs"];
    let unsaid = others.as_array().is_none_or(Vec::is_empty);
    if is != was && !is.is_empty() && (unsaid || *others == old["clusterIPs"]) {
        new["clusterIPs"] = json!([is]);
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
    let mut configured = vec!["IPv4"];
    configured.extend(lookup.service_cidr6().map(|_| "IPv6"));
    families::families(o, old, &configured)?;
    let place =
        |o: &Value| ["/metadata/namespace", "/metadata/name"].map(|p| text(o, p).to_owned());
    let me = place(o);
    let others: Vec<Value> = lookup
        .list("", "services", None)
        .into_iter()
        .filter(|s| place(s) != me)
        .collect();
    let taken: HashSet<IpAddr> = others.iter().flat_map(addresses::held).collect();
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
            let had = old.map(addresses::held).unwrap_or_default();
            let wanted = items(o, "/spec/ipFamilies").iter().enumerate();
            let wanted = wanted.map(|(i, family)| {
                let ip = asked.get(i).map(String::as_str);
                match ip
                    .and_then(|ip| ip.parse().ok())
                    .filter(|ip| had.contains(ip))
                {
                    Some(its_own) => Ok::<_, Vec<FieldError>>(its_own.to_string()),
                    None => {
                        let family = family.as_str().unwrap_or_default();
                        let given = addresses::give(&me[1], ip, family, &asked, &taken, lookup)?;
                        Ok(given.to_string())
                    }
                }
            });
            wanted.collect::<Result<Vec<_>, _>>()?
        }
    };
    let spec = &mut o["spec"];
    spec["clusterIP"] = json!(given.first());
    spec["clusterIPs"] = json!(given);
    let mut free = ports::Ports::new(lookup.node_port_range(), others.iter());
    ports::give(o, old, &mut free)
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

fn port_cells(o: &Value) -> Value {
    let all = items(o, "/spec/ports")
        .iter()
        .map(|p| match p["nodePort"].as_i64() {
            Some(n) if n > 0 => format!("{}:{n}/{}", p["port"], text(p, "/protocol")),
            _ => format!("{}/{}", p["port"], text(p, "/protocol")),
        });
    or_none(all.collect::<Vec<_>>().join(","))
}

const HEALTH_PORT: &str = "/spec/healthCheckNodePort";

/// Whoever balances its load asks nodes whether they have endpoints.
fn checks_health(o: &Value) -> bool {
    text(o, "/spec/type") == "LoadBalancer" && text(o, "/spec/externalTrafficPolicy") == "Local"
}

/// What only the old type had goes with it, unless the request changes it (upstream's `dropTypeDependentFields`).
fn drop_type_dependent(new: &mut Value, old: &Value) {
    let node_ports = |o: &Value| matches!(text(o, "/spec/type"), "NodePort" | "LoadBalancer");
    let balanced = |o: &Value| text(o, "/spec/type") == "LoadBalancer";
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
        (
            "healthCheckNodePort",
            checks_health(old) && !checks_health(new),
        ),
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
    vec![Resource {
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
                column("Port(s)", "string", port_cells),
                AGE,
                wide("Selector", "string", |o| labels(&o["spec"]["selector"])),
            ]
        },
        ..PLAIN
    }]
}
