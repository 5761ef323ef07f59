//! The compact model: one [`View`] a Service, shared by reference.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{
    names::{self, Label, Named},
    objects,
    own::Generation,
};
use crate::nft::family::Family;

/// namespace, name
pub(crate) type Key = (Box<str>, Box<str>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// Virtual addresses, balanced: one a family.
    Virtual(Box<[IpAddr]>),
    /// `clusterIP: None`, or no address yet: DNS names its endpoints.
    Headless,
    /// An alias in DNS.
    External(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServicePort {
    pub(crate) name: Box<str>,
    /// IP protocol number
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    /// 0 for none
    pub(crate) node_port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) address: Address,
    pub(crate) ports: Box<[ServicePort]>,
    /// `externalIPs`, and addresses that a load balancer sends whole packets to (`ipMode: VIP`)
    pub(crate) more: Box<[IpAddr]>,
    /// Seconds of `sessionAffinity: ClientIP`; 0 for none.
    pub(crate) sticky_seconds: u32,
    /// `internalTrafficPolicy: Local`
    pub(crate) internal_local: bool,
    /// `externalTrafficPolicy: Local`
    pub(crate) external_local: bool,
    /// Where balancers ask for this node's endpoints (`healthCheckNodePort`); 0: nowhere.
    pub(crate) health_port: u16,
    /// Another proxy serves its address (`service.kubernetes.io/service-proxy-name`).
    pub(crate) foreign: bool,
    /// Its address stands for its containers as a whole: on all ports, and as long as none is ready, those that start.
    pub(crate) any_port: bool,
    /// Further names in its namespace, and who finds it by them.
    pub(crate) names: Box<[Named]>,
    /// The labels of its Pods; only of a Service whose containers may listen on its names (`own`).
    pub(crate) selector: Box<[Label]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) ip: IpAddr,
    pub(crate) hostname: Option<Box<str>>,
    pub(crate) node: Option<Box<str>>,
    /// Names of zones and of nodes whose clients it is meant for.
    pub(crate) for_zones: Box<[Box<str>]>,
    pub(crate) for_nodes: Box<[Box<str>]>,
    pub(crate) ready: bool,
    /// Serves while it terminates.
    pub(crate) draining: bool,
    /// Not ready, and not on its way out.
    pub(crate) starting: bool,
    pub(crate) generation: Generation,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlicePort {
    pub(crate) name: Box<str>,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) service: Key,
    pub(crate) ports: Box<[SlicePort]>,
    pub(crate) endpoints: Box<[Endpoint]>,
}

/// A Service with the slices of its endpoints.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) service: Arc<Service>,
    pub(crate) slices: Box<[Arc<Slice>]>,
}

/// The node that traffic is sent from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Here {
    pub(crate) node: Box<str>,
    /// `topology.kubernetes.io/zone`
    pub(crate) zone: Option<Box<str>>,
}

/// Which endpoints come into question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    Cluster,
    /// Those of this node.
    Local,
}

/// How hints narrow the choice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Topology {
    Any,
    Zone,
    Node,
}

impl View {
    /// Every endpoint with the ports of its slice.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = (&Endpoint, &[SlicePort])> {
        self.slices.iter().flat_map(|slice| {
            slice
                .endpoints
                .iter()
                .map(|endpoint| (endpoint, &*slice.ports))
        })
    }

    /// How many addresses of this node are ready for any of the ports (kube-proxy's LocalReadyEndpoints).
    pub(crate) fn ready_here(&self, here: &Here) -> usize {
        let of_port = |ports: &[SlicePort]| {
            ports.iter().any(|candidate| {
                let same = |port: &ServicePort| {
                    port.name == candidate.name && port.protocol == candidate.protocol
                };
                self.service.ports.iter().any(same)
            })
        };
        self.endpoints()
            .filter(|(endpoint, ports)| {
                endpoint.ready && endpoint.node.as_ref() == Some(&here.node) && of_port(ports)
            })
            .map(|(endpoint, _)| endpoint.ip)
            .collect::<BTreeSet<_>>()
            .len()
    }

    /// Where traffic for a port goes: ready endpoints that the hints allow, or, when there is none, those that still
    /// serve while terminating (KEP-1669, as kube-proxy's CategorizeEndpoints does).
    pub(crate) fn targets(
        &self,
        port: &ServicePort,
        family: Family,
        reach: Reach,
        here: &Here,
    ) -> Vec<(IpAddr, u16)> {
        let candidates = self.endpoints().flat_map(|(endpoint, ports)| {
            let ports = ports.iter().filter(|candidate| {
                candidate.name == port.name && candidate.protocol == port.protocol
            });
            ports.map(move |candidate| (endpoint, candidate.port))
        });
        self.choose(candidates, family, reach, here)
    }

    /// Where traffic for no port in particular goes; the port is 0.
    pub(crate) fn whole_targets(
        &self,
        family: Family,
        reach: Reach,
        here: &Here,
    ) -> Vec<(IpAddr, u16)> {
        let candidates = self.endpoints().map(|(endpoint, _)| (endpoint, 0));
        self.choose(candidates, family, reach, here)
    }

    fn choose<'a>(
        &self,
        candidates: impl Iterator<Item = (&'a Endpoint, u16)>,
        family: Family,
        reach: Reach,
        here: &Here,
    ) -> Vec<(IpAddr, u16)> {
        let candidates = candidates
            .filter(|(endpoint, _)| Family::of(endpoint.ip) == family)
            .filter(|(endpoint, _)| {
                reach == Reach::Cluster || endpoint.node.as_ref() == Some(&here.node)
            })
            .collect::<Vec<_>>();
        let topology = match reach {
            Reach::Cluster => topology(candidates.iter().map(|(e, _)| *e), here),
            Reach::Local => Topology::Any,
        };
        let of = |wanted: &dyn Fn(&Endpoint) -> bool| {
            let chosen = candidates.iter().filter(|(endpoint, _)| wanted(endpoint));
            chosen
                .map(|(endpoint, port)| (endpoint.ip, *port))
                .collect::<BTreeSet<_>>()
        };
        let ready = of(&|endpoint| {
            endpoint.ready
                && match topology {
                    Topology::Any => true,
                    Topology::Zone => here
                        .zone
                        .as_ref()
                        .is_some_and(|zone| endpoint.for_zones.contains(zone)),
                    Topology::Node => endpoint.for_nodes.contains(&here.node),
                }
        });
        let mut chosen = match ready.is_empty() {
            true => of(&|endpoint| endpoint.draining),
            false => ready,
        };
        if chosen.is_empty() && self.service.any_port {
            chosen = of(&|endpoint| endpoint.starting);
        }
        chosen.into_iter().collect()
    }
}

/// Hints count only when every ready endpoint has one of the kind, and one is for here (kube-proxy's
/// topologyModeFromHints).
fn topology<'a>(endpoints: impl Iterator<Item = &'a Endpoint>, here: &Here) -> Topology {
    let (mut any, mut all_zones, mut all_nodes) = (false, true, true);
    let (mut our_zone, mut our_node) = (false, false);
    for endpoint in endpoints.filter(|endpoint| endpoint.ready) {
        any = true;
        all_nodes &= !endpoint.for_nodes.is_empty();
        all_zones &= !endpoint.for_zones.is_empty();
        our_node |= endpoint.for_nodes.contains(&here.node);
        our_zone |= here
            .zone
            .as_ref()
            .is_some_and(|zone| endpoint.for_zones.contains(zone));
    }
    match any {
        true if all_nodes && our_node => Topology::Node,
        true if all_zones && our_zone => Topology::Zone,
        _ => Topology::Any,
    }
}

/// namespace → name → Service. Replaced as a whole; namespaces that didn't change are shared.
pub(crate) type Views = HashMap<Box<str>, Arc<HashMap<Box<str>, Arc<View>>>>;

pub(crate) fn protocol(name: Option<&str>) -> Option<u8> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(libc::IPPROTO_TCP as u8),
        "UDP" => Some(libc::IPPROTO_UDP as u8),
        "SCTP" => Some(libc::IPPROTO_SCTP as u8),
        _ => None,
    }
}

fn number(value: i32) -> Option<u16> {
    u16::try_from(value).ok().filter(|value| *value != 0)
}

fn text(value: Option<&String>) -> Box<str> {
    value.map(String::as_str).unwrap_or_default().into()
}

impl Service {
    pub(crate) fn of(object: &objects::Service) -> Service {
        let spec = &object.spec;
        let virtual_ips = || {
            let listed = spec.cluster_ips.iter().flatten();
            let all = listed
                .chain(&spec.cluster_ip)
                .filter_map(|ip| ip.parse().ok())
                .fold(Vec::<IpAddr>::new(), |mut all, ip| {
                    if !all.contains(&ip) {
                        all.push(ip);
                    }
                    all
                });
            match all.is_empty() {
                true => Address::Headless,
                false => Address::Virtual(all.into()),
            }
        };
        let address = match (spec.kind.as_deref(), &spec.external_name) {
            (Some("ExternalName"), Some(name)) => {
                Address::External(name.trim_end_matches('.').into())
            }
            _ => virtual_ips(),
        };
        let balancer = object.status.load_balancer.iter();
        let balanced = balancer
            .flat_map(|b| b.ingress.iter().flatten())
            .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
            .filter(|_| spec.kind.as_deref() == Some("LoadBalancer"))
            .filter_map(|ingress| ingress.ip.as_ref());
        let more = spec
            .external_ips
            .iter()
            .flatten()
            .chain(balanced)
            .filter_map(|ip| ip.parse().ok())
            .filter(|ip: &IpAddr| !ip.is_loopback() && !ip.is_unspecified())
            .collect::<BTreeSet<_>>();
        let timeout = spec
            .session_affinity_config
            .as_ref()
            .and_then(|config| config.client_ip.as_ref()?.timeout_seconds)
            .and_then(|seconds| u32::try_from(seconds).ok())
            .filter(|seconds| *seconds > 0);
        let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            Some(ServicePort {
                name: text(port.name.as_ref()),
                protocol: protocol(port.protocol.as_deref())?,
                port: number(port.port)?,
                node_port: port.node_port.and_then(number).unwrap_or(0),
            })
        });
        let labels = object.metadata.labels.as_ref();
        let annotation = |key| object.metadata.annotations.as_ref()?.get(key);
        let any_port = annotation(objects::PORTS).is_some_and(|ports| ports == "any");
        let names = annotation(objects::NAMES).map_or(Box::default(), |text| names::parse(text));
        let selector = spec.selector.iter().flatten();
        let listened_on = any_port || !names.is_empty();
        let selector = selector.filter(|_| listened_on);
        Service {
            any_port,
            names,
            selector: selector
                .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
                .collect(),
            address,
            ports: ports.collect(),
            more: more.into_iter().collect(),
            sticky_seconds: match spec.session_affinity.as_deref() {
                // The API's default, three hours.
                Some("ClientIP") => timeout.unwrap_or(10800),
                _ => 0,
            },
            internal_local: local(&spec.internal_traffic_policy),
            external_local: local(&spec.external_traffic_policy),
            health_port: match spec.kind.as_deref() {
                Some("LoadBalancer") if local(&spec.external_traffic_policy) => {
                    spec.health_check_node_port.and_then(number).unwrap_or(0)
                }
                _ => 0,
            },
            foreign: labels.is_some_and(|labels| {
                labels.contains_key("service.kubernetes.io/service-proxy-name")
            }),
        }
    }
}

impl Slice {
    /// None for a slice without a Service, or of names.
    pub(crate) fn of(object: &objects::EndpointSlice) -> Option<Slice> {
        if !matches!(&*object.address_type, "IPv4" | "IPv6") {
            return None;
        }
        let service = object
            .metadata
            .labels
            .as_ref()?
            .get("kubernetes.io/service-name")?;
        let namespace = object.metadata.namespace.as_deref()?;
        let endpoints = object.endpoints.iter().flatten().filter_map(|endpoint| {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            // "A nil value should be interpreted as true" (discovery/v1), serving as ready.
            let ready = conditions.ready.unwrap_or(true);
            let hints = endpoint.hints.clone().unwrap_or_default();
            let names = |list: Option<Vec<objects::Named>>| {
                list.into_iter()
                    .flatten()
                    .map(|named| named.name.into())
                    .collect()
            };
            Some(Endpoint {
                node: endpoint.node_name.as_deref().map(Box::from),
                for_zones: names(hints.for_zones),
                for_nodes: names(hints.for_nodes),
                ip: endpoint.addresses.first()?.parse().ok()?,
                hostname: endpoint
                    .hostname
                    .as_deref()
                    .filter(|name| !name.is_empty())
                    .map(|name| name.to_ascii_lowercase().into()),
                ready,
                draining: conditions.serving.unwrap_or(ready)
                    && conditions.terminating.unwrap_or(false),
                starting: !ready && !conditions.terminating.unwrap_or(false),
                generation: endpoint
                    .target_ref
                    .as_ref()
                    .map_or(Generation::default(), |pod| Generation::of(&pod.name)),
            })
        });
        let ports = object.ports.iter().flatten().filter_map(|port| {
            Some(SlicePort {
                name: text(port.name.as_ref()),
                protocol: protocol(port.protocol.as_deref())?,
                port: number(port.port?)?,
            })
        });
        Some(Slice {
            service: (namespace.into(), service.as_str().into()),
            ports: ports.collect(),
            endpoints: endpoints.collect(),
        })
    }
}
