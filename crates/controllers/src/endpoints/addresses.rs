//! From pods to endpoints: pure (`endpointslice/utils.go`).

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use crate::objects::{
    intstr::IntOrString,
    pod::Pod,
    service::{
        Endpoint, EndpointConditions, EndpointHints, EndpointPort, Named, Service, ServicePort,
        TargetRef,
    },
};

/// Endpoints by their ports: a named port may be another number in each pod.
pub type Groups = BTreeMap<Vec<EndpointPort>, Vec<Endpoint>>;

/// Address families of a service: `IPv4`, `IPv6`.
pub fn families(service: &Service) -> Vec<&'static str> {
    let mut all: Vec<&'static str> = service
        .spec
        .ip_families
        .iter()
        .filter_map(|f| match &**f {
            "IPv4" => Some("IPv4"),
            "IPv6" => Some("IPv6"),
            _ => None,
        })
        .collect();
    if all.is_empty() {
        all.push(match service.spec.cluster_ip.parse() {
            Ok(IpAddr::V6(_)) => "IPv6",
            _ => "IPv4",
        });
    }
    all
}

/// The pod's address of a family.
pub fn address<'a>(pod: &'a Pod, family: &str) -> Option<&'a str> {
    pod.status
        .pod_ips
        .iter()
        .map(|i| &*i.ip)
        .chain([&*pod.status.pod_ip])
        .find(|ip| match ip.parse() {
            Ok(IpAddr::V4(_)) => family == "IPv4",
            Ok(IpAddr::V6(_)) => family == "IPv6",
            Err(_) => false,
        })
}

/// Number of the service's port in the pod; None when the pod has no port of that name.
fn resolve(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(n)) => Some(*n),
        Some(IntOrString::Text(name)) => {
            let protocol = protocol(&port.protocol);
            pod.spec
                .containers
                .iter()
                .chain(
                    pod.spec
                        .init_containers
                        .iter()
                        .filter(|c| &*c.restart_policy == "Always"),
                )
                .flat_map(|c| &c.ports)
                .find(|p| p.name == *name && self::protocol(&p.protocol) == protocol)
                .map(|p| p.container_port)
        }
    }
}

fn protocol(p: &str) -> &str {
    if p.is_empty() { "TCP" } else { p }
}

/// The service's ports in the pod, sorted.
pub fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let mut all: Vec<_> = service
        .spec
        .ports
        .iter()
        .filter_map(|p| {
            Some(EndpointPort {
                name: p.name.clone(),
                port: resolve(p, pod)?,
                protocol: protocol(&p.protocol).into(),
                app_protocol: p.app_protocol.clone(),
            })
        })
        .collect();
    all.sort();
    all
}

/// The pod's name in the headless service's domain.
pub fn hostname(service: &Service, pod: &Pod) -> Option<Box<str>> {
    (!pod.spec.hostname.is_empty()
        && pod.spec.subdomain == service.metadata.name
        && pod.metadata.namespace == service.metadata.namespace)
        .then(|| pod.spec.hostname.clone())
}

/// What an endpoint refers to.
pub fn target(pod: &Pod) -> TargetRef {
    TargetRef {
        kind: "Pod".into(),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
    }
}

/// The older way to ask for hints, which counts processors of zones, and goes before the newer one.
const TOPOLOGY_MODES: [&str; 2] = [
    "service.kubernetes.io/topology-mode",
    "service.kubernetes.io/topology-aware-hints",
];

/// Whose traffic a ready endpoint is meant for (`endpointslice/trafficdist`).
fn hints(service: &Service, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    let by_processors = TOPOLOGY_MODES
        .iter()
        .find_map(|key| service.metadata.annotations.get(key))
        .is_some_and(|mode| matches!(mode, "Auto" | "auto"));
    let same_node = match &*service.spec.traffic_distribution {
        // less than two nodes a zone: upstream gives no hints either
        _ if by_processors => return None,
        "PreferClose" | "PreferSameZone" => false,
        "PreferSameNode" => true,
        _ => return None,
    };
    let named = |name: Option<&str>| name.map(|n| Named { name: n.into() });
    let hints = EndpointHints {
        for_zones: named(zone).into_iter().collect(),
        for_nodes: named(node).into_iter().filter(|_| same_node).collect(),
    };
    (hints != EndpointHints::default()).then_some(hints)
}

/// Endpoints of a family, from the pods that the service selects.
pub fn groups(
    service: &Service,
    family: &str,
    pods: &[Arc<Pod>],
    zone: impl Fn(&str) -> Option<Box<str>>,
) -> Groups {
    let mut groups = Groups::new();
    for pod in pods.iter().filter(|p| !p.terminal()) {
        let Some(ip) = address(pod, family) else {
            continue;
        };
        let ports = ports(service, pod);
        if ports.is_empty() && !(service.headless() && service.spec.ports.is_empty()) {
            continue;
        }
        let serving = pod.ready();
        let terminating = pod.metadata.deleting();
        let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
        let zone = zone(&pod.spec.node_name);
        let node_name = (!pod.spec.node_name.is_empty()).then(|| pod.spec.node_name.clone());
        let hints = ready
            .then(|| hints(service, zone.as_deref(), node_name.as_deref()))
            .flatten();
        groups.entry(ports).or_default().push(Endpoint {
            addresses: vec![ip.into()],
            conditions: EndpointConditions {
                ready: Some(ready),
                serving: Some(serving),
                terminating: Some(terminating),
            },
            hostname: hostname(service, pod),
            target_ref: Some(target(pod)),
            zone,
            node_name,
            hints,
        });
    }
    for endpoints in groups.values_mut() {
        endpoints.sort();
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, ready: bool, extra: Value) -> Arc<Pod> {
        let mut p = json!({
            "metadata":{"name":name,"namespace":"n","uid":name},
            "spec":{"nodeName":"n1","containers":[{"ports":[{"name":"web","containerPort":8080}]}]},
            "status":{"phase":"Running","podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"},{"ip":"fd00::1"}],
                "conditions":[{"type":"Ready","status":if ready {"True"} else {"False"}}]}});
        for (k, v) in extra.as_object().unwrap() {
            let (parent, leaf) = k.rsplit_once('/').unwrap();
            p.pointer_mut(parent).unwrap()[leaf] = v.clone();
        }
        Arc::new(serde_json::from_value(p).unwrap())
    }
    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata":{"name":"s","namespace":"n"},"spec":spec}))
            .unwrap()
    }

    /// `address:port ready serving terminating hostname`, one a line.
    fn show(service: &Service, family: &str, pods: &[Arc<Pod>]) -> String {
        let mut lines = vec![];
        for (ports, endpoints) in groups(service, family, pods, |_| None) {
            let ports: Vec<_> = ports
                .iter()
                .map(|p| format!("{}{}", p.name, p.port))
                .collect();
            for e in endpoints {
                let c = e.conditions;
                let flags: String = [("r", c.ready), ("s", c.serving), ("t", c.terminating)]
                    .iter()
                    .filter(|(_, f)| *f == Some(true))
                    .map(|(n, _)| *n)
                    .collect();
                lines.push(format!(
                    "{} {} {flags} {}",
                    e.addresses[0],
                    ports.join(","),
                    e.hostname.unwrap_or_default()
                ));
            }
        }
        lines.join("; ").replace("  ", " ").trim().to_owned()
    }

    #[test]
    fn endpoints_of_pods() {
        let none = json!({});
        let gone = json!({"/metadata/deletionTimestamp":"2024-01-01T00:00:00Z"});
        let web = json!({"ports":[{"name":"p","port":80,"targetPort":"web"}]});
        let cases = [
            (
                "ready",
                web.clone(),
                "IPv4",
                pod("a", true, none.clone()),
                "10.0.0.1 p8080 rs",
            ),
            (
                "v6",
                web.clone(),
                "IPv6",
                pod("a", true, none.clone()),
                "fd00::1 p8080 rs",
            ),
            (
                "not ready",
                web.clone(),
                "IPv4",
                pod("a", false, none.clone()),
                "10.0.0.1 p8080",
            ),
            (
                "terminating",
                web.clone(),
                "IPv4",
                pod("a", true, gone.clone()),
                "10.0.0.1 p8080 st",
            ),
            (
                "published anyway",
                json!({"publishNotReadyAddresses":true,"ports":[{"port":80}]}),
                "IPv4",
                pod("a", false, none.clone()),
                "10.0.0.1 80 r",
            ),
            (
                "ended",
                web.clone(),
                "IPv4",
                pod("a", true, json!({"/status/phase":"Succeeded"})),
                "",
            ),
            (
                "no address",
                web.clone(),
                "IPv4",
                pod("a", true, json!({"/status/podIP":"","/status/podIPs":[]})),
                "",
            ),
            (
                "number",
                json!({"ports":[{"port":80,"targetPort":9}]}),
                "IPv4",
                pod("a", true, none.clone()),
                "10.0.0.1 9 rs",
            ),
            (
                "no such name",
                json!({"ports":[{"port":80,"targetPort":"db"}]}),
                "IPv4",
                pod("a", true, none.clone()),
                "",
            ),
            (
                "name of another protocol",
                json!({"ports":[{"port":80,"targetPort":"web","protocol":"UDP"}]}),
                "IPv4",
                pod("a", true, none.clone()),
                "",
            ),
            (
                "headless without ports",
                json!({"clusterIP":"None"}),
                "IPv4",
                pod("a", true, none.clone()),
                "10.0.0.1 rs",
            ),
            (
                "hostname",
                json!({"clusterIP":"None"}),
                "IPv4",
                pod(
                    "a",
                    true,
                    json!({"/spec/hostname":"h-0","/spec/subdomain":"s"}),
                ),
                "10.0.0.1 rs h-0",
            ),
            (
                "hostname in another domain",
                json!({"clusterIP":"None"}),
                "IPv4",
                pod(
                    "a",
                    true,
                    json!({"/spec/hostname":"h-0","/spec/subdomain":"x"}),
                ),
                "10.0.0.1 rs",
            ),
        ];
        for (name, spec, family, pod, want) in cases {
            assert_eq!(show(&service(spec), family, &[pod]), want, "{name}");
        }
    }

    #[test]
    fn hints_are_for_who_is_near() {
        let web = |more: Value| {
            let mut spec = json!({"ports":[{"port":80}]});
            spec.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            service(spec)
        };
        let of = |distribution: &str| web(json!({"trafficDistribution": distribution}));
        let mut auto = of("PreferSameZone");
        auto.metadata
            .annotations
            .set("service.kubernetes.io/topology-mode", "Auto");
        let always =
            web(json!({"trafficDistribution":"PreferSameNode","publishNotReadyAddresses":true}));
        let zones = json!({"forZones":[{"name":"z"}]});
        let nodes = json!({"forNodes":[{"name":"n1"}]});
        let both = json!({"forZones":[{"name":"z"}],"forNodes":[{"name":"n1"}]});
        for (name, service, ready, zone, want) in [
            ("unasked", web(json!({})), true, Some("z"), Value::Null),
            ("close", of("PreferClose"), true, Some("z"), zones.clone()),
            ("zone", of("PreferSameZone"), true, Some("z"), zones),
            (
                "zone unknown",
                of("PreferSameZone"),
                true,
                None,
                Value::Null,
            ),
            ("node", of("PreferSameNode"), true, Some("z"), both.clone()),
            (
                "node, zone unknown",
                of("PreferSameNode"),
                true,
                None,
                nodes,
            ),
            (
                "not ready",
                of("PreferSameNode"),
                false,
                Some("z"),
                Value::Null,
            ),
            ("published anyway", always, false, Some("z"), both),
            ("by processors", auto, true, Some("z"), Value::Null),
        ] {
            let pods = [pod("a", ready, json!({}))];
            let groups = groups(&service, "IPv4", &pods, |_| zone.map(Into::into));
            let endpoint = &groups.values().next().unwrap()[0];
            let got = serde_json::to_value(&endpoint.hints).unwrap();
            assert_eq!(got, want, "{name}");
        }
    }
}
