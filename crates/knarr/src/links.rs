//! The node's view of the network.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use k8s_openapi::api::core::v1::Pod;
use knarr_network::{HostPort, Network};
use knarr_node::PodNetwork;

/// Addresses that a Pod may have besides its own.
const FURTHER_MAX: usize = 64;

pub struct Links {
    network: Network,
    /// The machine's addresses, one a family.
    host: Vec<IpAddr>,
}

impl Links {
    pub fn new(network: Network, host: Vec<IpAddr>) -> Links {
        Links { network, host }
    }
}

#[async_trait::async_trait]
impl PodNetwork for Links {
    async fn attach(&self, pod: &Pod, netns: &Path) -> Result<Ipv4Addr, String> {
        let attached = self.network.attach(&facts(pod), netns).await;
        attached.map_err(|e| e.to_string())
    }

    async fn detach(&self, pod_uid: &str) -> Result<(), String> {
        let detached = self.network.detach(pod_uid).await;
        detached.map_err(|e| e.to_string())
    }

    fn addresses(&self, first: IpAddr) -> Vec<IpAddr> {
        match first {
            ip if self.host.first() == Some(&ip) => self.host.clone(),
            IpAddr::V4(ip) => self.network.addresses(ip),
            ip => vec![ip],
        }
    }
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> &'a str {
    let all = pod.metadata.annotations.as_ref();
    all.and_then(|a| a.get(key)).map_or("", String::as_str)
}

/// What a Pod asks for of this kind leads the machine's and all Pods' traffic to it, so only Docker's containers get it: who may
/// make one of those is root anyway.
fn may_choose(pod: &Pod) -> bool {
    pod.metadata.namespace.as_deref() == Some(knarr_docker::NAMESPACE)
}

/// Words like `172.28.0.10/16`; others are left out.
fn further(pod: &Pod) -> Vec<(Ipv4Addr, u8)> {
    let words = annotation(pod, "knarr.dev/addresses").split_whitespace();
    let one = |word: &str| {
        let (address, bits) = word.split_once('/')?;
        Some((address.parse().ok()?, bits.parse().ok()?))
    };
    words.filter_map(one).take(FURTHER_MAX).collect()
}

/// As `02:42:ac:11:00:02`.
fn mac(pod: &Pod) -> Option<[u8; 6]> {
    let text = annotation(pod, "knarr.dev/mac-address");
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect::<Option<_>>()?;
    bytes.try_into().ok()
}

/// The longest name that the kernel takes.
const INTERFACE_BYTES_MAX: usize = 15;

/// What the Pod's link is called in it; None: as usual.
fn interface(pod: &Pod) -> Option<String> {
    let name = annotation(pod, "knarr.dev/interface-name");
    let plain = |b: u8| b.is_ascii_graphic() && !b"/:%".contains(&b);
    let may = (1..=INTERFACE_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain);
    (may && !matches!(name, "." | ".." | "lo" | "all" | "default")).then(|| name.to_string())
}

fn protocol(name: Option<&str>) -> u8 {
    match name {
        Some("UDP") => 17,
        Some("SCTP") => 132,
        _ => 6,
    }
}

/// What the network needs to know of a Pod.
fn facts(pod: &Pod) -> knarr_network::Pod {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let sidecars = spec.and_then(|s| s.init_containers.as_ref());
    let sidecars = sidecars
        .into_iter()
        .flatten()
        .filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let containers = spec.map_or(&[][..], |s| &s.containers).iter();
    let all = containers
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|port| Some((port, u16::try_from(port.container_port).ok()?)));
    let mut facts = knarr_network::Pod {
        uid: text(&pod.metadata.uid),
        namespace: text(&pod.metadata.namespace),
        name: text(&pod.metadata.name),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        further: match may_choose(pod) {
            true => further(pod),
            false => vec![],
        },
        // It is known on its own link only, so anybody may choose it.
        mac: mac(pod),
        interface: interface(pod),
        ..knarr_network::Pod::default()
    };
    for (port, number) in all {
        let protocol = protocol(port.protocol.as_deref());
        if let Some(name) = port.name.clone().filter(|name| !name.is_empty()) {
            facts.ports.push((name, protocol, number));
        }
        let on_node = port.host_port.and_then(|port| u16::try_from(port).ok());
        if let Some(host_port) = on_node.filter(|port| *port != 0) {
            let asked = port.host_ip.as_deref().and_then(|ip| ip.parse().ok());
            facts.host_ports.push(HostPort {
                host_ip: asked.filter(|ip: &IpAddr| !ip.is_unspecified()),
                protocol,
                host_port,
                container_port: number,
            });
        }
    }
    facts
}

/// The addresses this machine would use towards the outside, the first family's first: loopback when it has none there,
/// nothing of the second family when it has none. Sends nothing.
pub fn host_addresses(ipv6: bool) -> Vec<IpAddr> {
    let towards = |any: IpAddr, to: IpAddr| {
        let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
        // Connecting a UDP socket only asks for the route.
        socket.connect((to, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    // Documentation addresses (RFC 5737, RFC 3849).
    let first = towards(
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv4Addr::new(192, 0, 2, 1).into(),
    );
    let second = towards(
        Ipv6Addr::UNSPECIFIED.into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    );
    let second = second.filter(|ip| ipv6 && !ip.is_loopback());
    let first = first.unwrap_or(Ipv4Addr::LOCALHOST.into());
    std::iter::once(first).chain(second).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pods_ports() {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"uid": "u", "namespace": "docker", "name": "p", "labels": {"a": "b"}, "annotations": {
                "knarr.dev/addresses": "172.28.0.10/16 x 10.9.0.2/24", "knarr.dev/mac-address": "02:42:ac:11:00:0f",
            }},
            "spec": {
                "initContainers": [
                    {"name": "once", "ports": [{"name": "no", "containerPort": 1}]},
                    {"name": "side", "restartPolicy": "Always", "ports": [{"name": "m", "containerPort": 9}]},
                ],
                "containers": [{"name": "c", "ports": [
                    {"name": "web", "containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"},
                    {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "0.0.0.0"},
                ]}],
            },
        }))
        .unwrap();
        pod.metadata.namespace = Some("ns".into());
        let others = super::facts(&pod);
        for (name, wanted) in [
            ("", None),
            ("wan0", Some("wan0")),
            ("../x", None),
            ("lo", None),
            ("all", None),
            ("a-name-too-long0", None),
        ] {
            let mut one = pod.clone();
            let notes = one.metadata.annotations.as_mut().unwrap();
            notes.insert("knarr.dev/interface-name".into(), name.into());
            assert_eq!(super::facts(&one).interface.as_deref(), wanted, "{name}");
        }
        let chosen = Some([2, 0x42, 0xac, 0x11, 0, 15]);
        assert_eq!((others.further.len(), others.mac), (0, chosen));
        pod.metadata.namespace = Some("docker".into());
        let facts = facts(&pod);
        let further = facts
            .further
            .iter()
            .map(|(ip, bits)| format!("{ip}/{bits}"));
        let further: Vec<String> = further.collect();
        assert_eq!(further, ["172.28.0.10/16", "10.9.0.2/24"]);
        assert_eq!(facts.mac, chosen);
        assert_eq!(
            facts.ports,
            [("web".to_string(), 6, 80), ("m".to_string(), 6, 9)]
        );
        let loopback = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let ports = facts.host_ports.iter();
        let ports: Vec<_> = ports
            .map(|p| (p.host_ip, p.protocol, p.host_port, p.container_port))
            .collect();
        assert_eq!(ports, [(loopback, 6, 8080, 80), (None, 17, 53, 53)]);
    }
}
