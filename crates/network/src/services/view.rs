//! The compact model: one [`View`] a Service, shared by reference.

use std::{
    collections::{BTreeSet, HashMap},
    net::Ipv4Addr,
    sync::Arc,
};

use super::objects;

/// namespace, name
pub(crate) type Key = (Box<str>, Box<str>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A virtual address, balanced.
    Virtual(Ipv4Addr),
    /// `clusterIP: None`, or no IPv4 address: DNS names its endpoints.
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
    /// `sessionAffinity: ClientIP`
    pub(crate) affinity: bool,
    /// Another proxy serves its address (`service.kubernetes.io/service-proxy-name`).
    pub(crate) foreign: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) ip: Ipv4Addr,
    pub(crate) hostname: Option<Box<str>>,
    pub(crate) ready: bool,
    /// Serves while it terminates.
    pub(crate) draining: bool,
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

    /// Where traffic for a port goes: ready endpoints, or, when there is none, those that still
    /// serve while terminating (KEP-1669, as kube-proxy does).
    pub(crate) fn targets(&self, port: &ServicePort) -> Vec<(Ipv4Addr, u16)> {
        let of = |wanted: fn(&Endpoint) -> bool| {
            self.endpoints()
                .filter(|(endpoint, _)| wanted(endpoint))
                .flat_map(|(endpoint, ports)| {
                    ports
                        .iter()
                        .filter(|candidate| {
                            candidate.name == port.name && candidate.protocol == port.protocol
                        })
                        .map(|candidate| (endpoint.ip, candidate.port))
                })
                .collect::<BTreeSet<_>>()
        };
        let ready = of(|endpoint| endpoint.ready);
        let chosen = if ready.is_empty() {
            of(|endpoint| endpoint.draining)
        } else {
            ready
        };
        chosen.into_iter().collect()
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
        let address = match (spec.kind.as_deref(), &spec.external_name, &spec.cluster_ip) {
            (Some("ExternalName"), Some(name), _) => {
                Address::External(name.trim_end_matches('.').into())
            }
            (_, _, Some(ip)) => ip.parse().map_or(Address::Headless, Address::Virtual),
            _ => Address::Headless,
        };
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            Some(ServicePort {
                name: text(port.name.as_ref()),
                protocol: protocol(port.protocol.as_deref())?,
                port: number(port.port)?,
                node_port: port.node_port.and_then(number).unwrap_or(0),
            })
        });
        let labels = object.metadata.labels.as_ref();
        Service {
            address,
            ports: ports.collect(),
            affinity: spec.session_affinity.as_deref() == Some("ClientIP"),
            foreign: labels.is_some_and(|labels| {
                labels.contains_key("service.kubernetes.io/service-proxy-name")
            }),
        }
    }
}

impl Slice {
    /// None for a slice without a Service, or of another address family.
    pub(crate) fn of(object: &objects::EndpointSlice) -> Option<Slice> {
        if object.address_type != "IPv4" {
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
            Some(Endpoint {
                ip: endpoint.addresses.first()?.parse().ok()?,
                hostname: endpoint
                    .hostname
                    .as_deref()
                    .filter(|name| !name.is_empty())
                    .map(|name| name.to_ascii_lowercase().into()),
                ready,
                draining: conditions.serving.unwrap_or(ready)
                    && conditions.terminating.unwrap_or(false),
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
