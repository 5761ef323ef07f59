//! The checks of Services (`pkg/apis/core/validation`, and what `pkg/registry/core/service` asks before it allocates).

use super::{
    path::{Errors, Path},
    rules,
};
use crate::{
    kinds::json::{list, str_of},
    registry::FieldError,
};
use serde_json::Value;
use std::{collections::HashSet, net::IpAddr};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const AFFINITY_SECONDS_MAX: i64 = 86_400;
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const ONCE: &str = "may not change once set";

/// ServicePort, as a duplicate is shown: by port and protocol alone.
fn port_key(port: i64, protocol: &str) -> String {
    format!(
        "{{\"Name\":\"\",\"Protocol\":{protocol:?},\"AppProtocol\":null,\"Port\":{port},\"TargetPort\":0,\"NodePort\":0}}"
    )
}

pub(crate) fn is_headless(spec: &Value) -> bool {
    let ips = list(spec, "clusterIPs");
    ips.len() == 1 && ips[0] == "None"
}
fn is_external(spec: &Value) -> bool {
    str_of(spec, "type") == "ExternalName"
}
/// Reached from outside: by node port, balancer or an address of its own.
pub(crate) fn is_exposed(spec: &Value) -> bool {
    matches!(str_of(spec, "type"), "LoadBalancer" | "NodePort")
        || (str_of(spec, "type") == "ClusterIP" && !list(spec, "externalIPs").is_empty())
}
/// Balancers ask such a Service's nodes whether they have endpoints.
pub(crate) fn needs_health_port(spec: &Value) -> bool {
    str_of(spec, "type") == "LoadBalancer" && str_of(spec, "externalTrafficPolicy") == "Local"
}

pub(crate) fn service(o: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = &o["spec"];
    let at = Path::Root("spec");
    topology(&o["metadata"]["annotations"], &mut errors);
    let ports = list(spec, "ports");
    let kind = str_of(spec, "type");
    if ports.is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.required(&at.child("ports"), "");
    }
    by_type(spec, kind, &at, &mut errors);
    let mut names = HashSet::new();
    let place = at.child("ports");
    for (i, p) in ports.iter().enumerate() {
        port(p, ports.len() > 1, &mut names, &place.index(i), &mut errors);
    }
    rules::labels(&spec["selector"], &at.child("selector"), &mut errors);
    affinity(spec, &at, &mut errors);
    cluster_ips(spec, old.map(|o| &o["spec"]), &at, &mut errors);
    let place = at.child("externalIPs");
    let kept = old.map_or(&[][..], |o| list(&o["spec"], "externalIPs"));
    for (i, ip) in list(spec, "externalIPs").iter().enumerate() {
        let (ip, at) = (ip.as_str().unwrap_or_default(), place.index(i));
        if rules::legacy_ip(ip, kept, &at, &mut errors) {
            rules::endpoint_ip(ip, &at, &mut errors);
        }
    }
    errors.one_of(&at.child("type"), &spec["type"], &TYPES);
    numbers(spec, ports, &at.child("ports"), &mut errors);
    balancer(o, old, &at, &mut errors);
    traffic(spec, &at, &mut errors);
    errors.0
}

fn topology(annotations: &Value, errors: &mut Errors) {
    const MODE: &str = "service.kubernetes.io/topology-mode";
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    if let (Some(mode), Some(hints)) = (annotations[MODE].as_str(), annotations[HINTS].as_str())
        && mode != hints
    {
        let at = Path::Root("metadata.annotations");
        let detail = format!("must match annotations[{HINTS}] when both are specified");
        errors.invalid(&at.key(MODE), mode, detail);
    }
}

fn by_type(spec: &Value, kind: &str, at: &Path<'_>, errors: &mut Errors) {
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.invalid(&at.child("clusterIPs").index(0), "None", detail);
        }
        "ExternalName" => {
            const DETAIL: &str = "may not be set for ExternalName services";
            for field in ["clusterIPs", "ipFamilies"] {
                if !list(spec, field).is_empty() {
                    errors.forbidden(&at.child(field), DETAIL);
                }
            }
            if !spec["ipFamilyPolicy"].is_null() {
                errors.forbidden(&at.child("ipFamilyPolicy"), DETAIL);
            }
            let name = str_of(spec, "externalName");
            let place = at.child("externalName");
            match name.strip_suffix('.').unwrap_or(name) {
                "" => errors.required(&place, ""),
                n => errors.broken(&place, n, rules::dns_subdomain(n)),
            }
        }
        _ => {}
    }
}

fn port<'a>(
    p: &'a Value,
    named: bool,
    names: &mut HashSet<&'a str>,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    let name = str_of(p, "name");
    let place = at.child("name");
    if !name.is_empty() {
        errors.broken(&place, name, rules::dns_label(name));
        if !names.insert(name) {
            errors.duplicate(&place, name);
        }
    } else if named {
        errors.required(&place, "");
    }
    let number = p["port"].as_i64().unwrap_or(0);
    errors.broken(&at.child("port"), number, rules::port(number));
    errors.one_of(&at.child("protocol"), &p["protocol"], &PROTOCOLS);
    rules::port_or_name(&p["targetPort"], &at.child("targetPort"), errors);
    if let Some(protocol) = p["appProtocol"].as_str() {
        let messages = rules::qualified(protocol);
        errors.broken(&at.child("appProtocol"), protocol, messages);
    }
}

fn affinity(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let place = at.child("sessionAffinity");
    errors.one_of(&place, &spec["sessionAffinity"], &["ClientIP", "None"]);
    let place = at.child("sessionAffinityConfig");
    match str_of(spec, "sessionAffinity") {
        "ClientIP" => {
            let seconds = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].as_i64();
            let at = place.child("clientIP");
            let at = at.child("timeoutSeconds");
            match seconds {
                None => errors.required(&at, "when session affinity type is ClientIP"),
                Some(n) if !(1..=AFFINITY_SECONDS_MAX).contains(&n) => {
                    let detail =
                        format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
                    errors.invalid(&at, n, detail);
                }
                Some(_) => {}
            }
        }
        "None" if spec["sessionAffinityConfig"].is_object() => {
            let detail = "must not be set when session affinity is None";
            errors.forbidden(&place, detail);
        }
        _ => {}
    }
}

fn family(ip: &str) -> Option<&'static str> {
    rules::sloppy_ip(ip).map(|ip| match ip {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    })
}

/// ValidateServiceClusterIPsRelatedFields.
pub(crate) fn cluster_ips(spec: &Value, old: Option<&Value>, at: &Path<'_>, errors: &mut Errors) {
    if is_external(spec) {
        return;
    }
    let (ip, ips) = (str_of(spec, "clusterIP"), list(spec, "clusterIPs"));
    let place = at.child("clusterIPs");
    if ip.is_empty() {
        if !ips.is_empty() {
            let detail = "must be empty when `clusterIP` is not specified";
            errors.invalid(&place, ips.to_vec(), detail);
        }
    } else if ips.is_empty() {
        errors.required(&place, "");
    } else if ips[0] != ip {
        errors.invalid(&place, ips.to_vec(), "first value must match `clusterIP`");
    }
    let families = list(spec, "ipFamilies");
    let families_at = at.child("ipFamilies");
    let mut seen = HashSet::new();
    for (i, f) in families.iter().filter_map(Value::as_str).enumerate() {
        if !["IPv4", "IPv6"].contains(&f) {
            errors.not_supported(&families_at.index(i), f, &["IPv4", "IPv6"]);
        }
        if !seen.insert(f) {
            errors.duplicate(&families_at.index(i), f);
        }
    }
    errors.supported(
        &at.child("ipFamilyPolicy"),
        &spec["ipFamilyPolicy"],
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
    );
    let kept = old.map_or(&[][..], |o| list(o, "clusterIPs"));
    let mut sound = true;
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && ip == "None" {
            if ips.len() > 1 {
                sound = false;
                let detail = "'None' must be the first and only value";
                errors.invalid(&place, ips.to_vec(), detail);
            }
            continue;
        }
        let ip = ip.as_str().unwrap_or_default();
        sound &= rules::legacy_ip(ip, kept, &place.index(i), errors);
    }
    if ips.len() > 2 {
        errors.invalid(&place, ips.to_vec(), "may only hold up to 2 values");
    }
    if !sound {
        return;
    }
    let of: Vec<Option<&str>> = ips.iter().map(|ip| family(ip.as_str()?)).collect();
    if ips.len() > 1 {
        let both = of.contains(&Some("IPv4")) && of.contains(&Some("IPv6"));
        if !both {
            let detail = "may specify no more than one IP for each IP family";
            errors.invalid(&place, ips.to_vec(), detail);
        }
    }
    if is_headless(spec) {
        return;
    }
    for (i, (ip, wanted)) in ips.iter().zip(families).enumerate() {
        let wanted = wanted.as_str().unwrap_or_default();
        if ["IPv4", "IPv6"].contains(&wanted) && of[i] != Some(wanted) {
            let detail = format!("expected an {wanted} value as indicated by `ipFamilies[{i}]`");
            errors.invalid(&place.index(i), ip.clone(), detail);
        }
    }
}

/// Addresses of a family there isn't, where the Service doesn't say which families it wants.
pub(crate) fn known_families(
    spec: &Value,
    configured: &[&str],
    at: &Path<'_>,
    errors: &mut Errors,
) {
    let ips = list(spec, "clusterIPs");
    let said = list(spec, "ipFamilies").len();
    for (i, ip) in ips.iter().enumerate().take_while(|(_, ip)| *ip != "None") {
        let family = ip.as_str().and_then(family);
        if let Some(family) = family.filter(|f| i >= said && !configured.contains(f)) {
            let detail = format!("{family} is not configured on this cluster");
            errors.invalid(&at.child("clusterIPs").index(i), ips.to_vec(), detail);
        }
    }
}

/// Node ports where there are none, ports and node ports twice.
fn numbers(spec: &Value, ports: &[Value], at: &Path<'_>, errors: &mut Errors) {
    let node = |p: &Value| p["nodePort"].as_i64().filter(|n| *n != 0);
    if str_of(spec, "type") == "ClusterIP" {
        for (i, _) in ports.iter().enumerate().filter(|(_, p)| node(p).is_some()) {
            let detail = "may not be used when `type` is 'ClusterIP'";
            errors.forbidden(&at.index(i).child("nodePort"), detail);
        }
    }
    let mut seen = HashSet::new();
    for (i, p) in ports.iter().enumerate() {
        if let Some(n) = node(p)
            && !seen.insert((str_of(p, "protocol"), n))
        {
            errors.duplicate(&at.index(i).child("nodePort"), n);
        }
    }
    let mut seen = HashSet::new();
    for (i, p) in ports.iter().enumerate() {
        let (protocol, n) = (str_of(p, "protocol"), p["port"].as_i64().unwrap_or(0));
        if !seen.insert((protocol, n)) {
            errors.duplicate_shown(&at.index(i), port_key(n, protocol));
        }
    }
}

/// What only balancers have.
fn balancer(o: &Value, old: Option<&Value>, at: &Path<'_>, errors: &mut Errors) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let spec = &o["spec"];
    let balances = str_of(spec, "type") == "LoadBalancer";
    let ranges = list(spec, "loadBalancerSourceRanges");
    let note = o["metadata"]["annotations"][SOURCE_RANGES].as_str();
    if !ranges.is_empty() {
        let at = at.child("LoadBalancerSourceRanges");
        if !balances {
            errors.forbidden(&at, ONLY);
        }
        let kept: Vec<Value> = old
            .map_or(&[][..], |o| list(&o["spec"], "loadBalancerSourceRanges"))
            .iter()
            .filter_map(|v| Some(v.as_str()?.trim().into()))
            .collect();
        for (i, range) in ranges.iter().filter_map(Value::as_str).enumerate() {
            rules::legacy_cidr(range.trim(), &kept, &at.index(i), errors);
        }
    } else if let Some(note) = note {
        let at = Path::Root("metadata.annotations");
        let at = at.key(SOURCE_RANGES);
        if !balances {
            errors.forbidden(&at, ONLY);
        }
        let before = old.and_then(|o| o["metadata"]["annotations"][SOURCE_RANGES].as_str());
        if before != Some(note) && !note.trim().is_empty() {
            for range in note.trim().split(',') {
                rules::legacy_cidr(range.trim(), &[], &at, errors);
            }
        }
    }
    let allocates = &spec["allocateLoadBalancerNodePorts"];
    if !allocates.is_null() && !balances {
        errors.forbidden(&at.child("allocateLoadBalancerNodePorts"), ONLY);
    }
    if allocates.is_null() && balances {
        errors.required(&Path::Root("allocateLoadBalancerNodePorts"), "");
    }
    class(spec, None, at, errors);
}

fn class(spec: &Value, old: Option<&Value>, at: &Path<'_>, errors: &mut Errors) {
    let balances = |s: &Value| str_of(s, "type") == "LoadBalancer";
    let at = at.child("loadBalancerClass");
    let class = &spec["loadBalancerClass"];
    if let Some(old) = old
        && balances(old)
        && balances(spec)
        && old["loadBalancerClass"] != *class
    {
        errors.invalid(&at, class.clone(), ONCE);
    }
    if let Some(name) = class.as_str() {
        if balances(spec) {
            errors.broken(&at, name, rules::qualified(name));
        } else {
            errors.forbidden(&at, "may only be used when `type` is 'LoadBalancer'");
        }
    }
}

fn traffic(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let policies = ["Cluster", "Local"];
    let policy = str_of(spec, "externalTrafficPolicy");
    let place = at.child("externalTrafficPolicy");
    if is_exposed(spec) {
        errors.one_of(&place, &spec["externalTrafficPolicy"], &policies);
    } else if !policy.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.invalid(&place, policy, detail);
    }
    let number = spec["healthCheckNodePort"].as_i64().unwrap_or(0);
    let place = at.child("healthCheckNodePort");
    match (needs_health_port(spec), number) {
        (true, 0) => errors.required(&place, ""),
        (true, n) => errors.broken(&place, n, rules::port(n)),
        (false, 0) => {}
        (false, n) => errors.invalid(
            &place,
            n,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ),
    }
    let place = at.child("internalTrafficPolicy");
    let internal = &spec["internalTrafficPolicy"];
    if internal.is_null()
        && ["NodePort", "LoadBalancer", "ClusterIP"].contains(&str_of(spec, "type"))
    {
        errors.required(&place, "");
    }
    errors.supported(&place, internal, &policies);
    errors.supported(
        &at.child("trafficDistribution"),
        &spec["trafficDistribution"],
        &["PreferClose", "PreferSameZone", "PreferSameNode"],
    );
}

/// The addresses and families that a Service may not change.
fn kept(is: &Value, was: &Value, at: &Path<'_>, errors: &mut Errors) {
    if !is_external(is) && !is_external(was) {
        let headless = (is_headless(was), is_headless(is));
        if headless != (true, true) {
            released(is, was, "clusterIPs", "clusterIP", at, errors);
        }
        if headless == (false, false) {
            released(is, was, "ipFamilies", "ipFamily", at, errors);
        }
    }
}

/// What is said of an update before addresses are given: nothing unless it changes an address that it may not change.
pub(crate) fn moves(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let (is, was) = (&new["spec"], &old["spec"]);
    let agrees = list(is, "clusterIPs").first() == Some(&is["clusterIP"]); // else that is all that's said
    if agrees && !list(was, "clusterIPs").is_empty() {
        kept(is, was, &Path::Root("spec"), &mut errors);
    }
    match errors.0.is_empty() {
        true => errors.0,
        false => update(new, old),
    }
}

/// What a Service may not change, then the rest.
pub(crate) fn update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let (is, was) = (&new["spec"], &old["spec"]);
    let at = Path::Root("spec");
    kept(is, was, &at, &mut errors);
    class(is, Some(was), &at, &mut errors);
    if needs_health_port(was)
        && needs_health_port(is)
        && is["healthCheckNodePort"] != was["healthCheckNodePort"]
    {
        errors.forbidden(&at.child("healthCheckNodePort"), "field is immutable");
    }
    errors.0.extend(service(new, Some(old)));
    errors.0
}

/// The first of a list stays; the second may come and go.
fn released(is: &Value, was: &Value, field: &str, one: &str, at: &Path<'_>, errors: &mut Errors) {
    let (now, then) = (list(is, field), list(was, field));
    let place = at.child(field);
    let shown = now.to_vec();
    if now.len() == then.len() {
        for (i, _) in now
            .iter()
            .zip(then)
            .enumerate()
            .filter(|(_, (a, b))| a != b)
        {
            let i = if field == "ipFamilies" { 0 } else { i };
            errors.invalid(&place.index(i), shown.clone(), ONCE);
        }
        return;
    }
    let less = then.len() > now.len();
    if less && list(is, "clusterIPs").is_empty() {
        let what = if field == "ipFamilies" {
            "ipFamily"
        } else {
            "clusterIP"
        };
        let detail = format!("primary {what} can not be unset");
        errors.invalid(&place.index(0), shown.clone(), detail);
    }
    if let (Some(a), Some(b)) = (now.first(), then.first())
        && a != b
    {
        errors.invalid(&place.index(0), shown, ONCE);
    }
    if less && now.len() == 1 && is["ipFamilyPolicy"] != "SingleStack" {
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {one}");
        let policy = is["ipFamilyPolicy"].clone();
        errors.invalid(&at.child("ipFamilyPolicy"), policy, detail);
    }
}

/// `…/status`
pub(crate) fn status(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let at = Path::Root("status.loadBalancer.ingress");
    let all = list(&new["status"]["loadBalancer"], "ingress");
    if str_of(&new["spec"], "type") != "LoadBalancer" && !all.is_empty() {
        let detail = "may only be used when `spec.type` is 'LoadBalancer'";
        errors.forbidden(&at, detail);
        return errors.0;
    }
    let before = list(&old["status"]["loadBalancer"], "ingress");
    let kept: Vec<Value> = before.iter().map(|i| i["ip"].clone()).collect();
    ingresses(all, &kept, true, &at, &mut errors);
    errors.0
}

/// Where a balancer is reached. `modes`: with how its address is to be treated.
pub(crate) fn ingresses(
    all: &[Value],
    kept: &[Value],
    modes: bool,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    for (i, ingress) in all.iter().enumerate() {
        let at = at.index(i);
        let (ip, host) = (str_of(ingress, "ip"), str_of(ingress, "hostname"));
        if !ip.is_empty() {
            rules::legacy_ip(ip, kept, &at.child("ip"), errors);
        }
        if modes {
            let place = at.child("ipMode");
            match (ingress["ipMode"].as_str(), ip) {
                (None, "") => {}
                (None, _) => errors.required(&place, "must be specified when `ip` is set"),
                (Some(_), "") => {
                    errors.forbidden(&place, "may not be specified when `ip` is not set");
                }
                (Some(_), _) => {
                    errors.supported(&place, &ingress["ipMode"], &["Proxy", "VIP"]);
                }
            }
        }
        if !host.is_empty() {
            let place = at.child("hostname");
            errors.broken(&place, host, rules::dns_subdomain(host));
            if rules::sloppy_ip(host).is_some() {
                let detail = "must be a DNS name, not an IP address";
                errors.invalid(&place, host, detail);
            }
        }
    }
}

/// What is not wrong, but hardly meant (`pkg/api/service/warnings.go`).
pub(crate) fn warnings(o: &Value) -> Vec<String> {
    let spec = &o["spec"];
    let mut all = Vec::new();
    if !o["metadata"]["annotations"]["service.kubernetes.io/topology-aware-hints"].is_null() {
        all.push("annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead".to_string());
    }
    let kind = str_of(spec, "type");
    let at = Path::Root("spec");
    let ips = list(spec, "clusterIPs").iter().filter(|ip| *ip != "None");
    rules::unusual_ips(ips, &at.child("clusterIPs"), &mut all);
    let external = list(spec, "externalIPs");
    let headless = kind == "ClusterIP" && str_of(spec, "clusterIP") == "None";
    if headless {
        let set = [
            ("loadBalancerIP", !str_of(spec, "loadBalancerIP").is_empty()),
            ("externalIPs", !external.is_empty()),
            ("SessionAffinity", str_of(spec, "sessionAffinity") != "None"),
        ];
        for (field, _) in set.iter().filter(|(_, set)| *set) {
            all.push(format!("spec.{field} is ignored for headless services"));
        }
    }
    rules::unusual_ips(external.iter(), &at.child("externalIPs"), &mut all);
    if !external.is_empty() && !headless && kind != "ExternalName" {
        all.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters"
                .into(),
        );
    }
    if kind == "ExternalName" && !external.is_empty() {
        all.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".into());
    }
    if kind != "ExternalName" && !str_of(spec, "externalName").is_empty() {
        all.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
    }
    if spec["trafficDistribution"] == "PreferClose" {
        all.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\""
                .into(),
        );
    }
    all
}
