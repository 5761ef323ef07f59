//! What the network is told of a Pod, and the Pod's ports on the node.

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::{IpAddr, Ipv4Addr},
};

use crate::{
    Config,
    keeper::HostPorts,
    nft::{
        family::Family,
        front::{Front, Scope},
    },
    policy::objects::Facts,
};

/// A Pod as it is when it starts.
#[derive(Debug, Clone, Default)]
pub struct Pod {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Named ports: name, IP protocol number, number.
    pub ports: Vec<(String, u8, u16)>,
    pub host_ports: Vec<HostPort>,
    /// Addresses besides its own, each with the bits of the range in which it goes by it: those of Docker's networks with
    /// subnets. Private ones that lead nowhere else.
    pub further: Vec<(Ipv4Addr, u8)>,
    /// Its link's hardware address; None: any.
    pub mac: Option<[u8; 6]>,
    /// What its link is called in it; None: `eth0`.
    pub interface: Option<String>,
    /// It asks for names at 127.0.0.11. So do all whose labels say what names they find.
    pub resolver: bool,
}

impl Pod {
    pub(crate) fn facts(&self, ips: Vec<IpAddr>) -> Facts {
        Facts {
            uid: self.uid.clone(),
            namespace: self.namespace.clone(),
            labels: self.labels.clone(),
            ips,
            ports: self.ports.clone(),
            here: true,
        }
    }
}

/// A port of the node that leads to a Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPort {
    /// None: on all addresses.
    pub host_ip: Option<IpAddr>,
    /// IP protocol number.
    pub protocol: u8,
    pub host_port: u16,
    pub container_port: u16,
}

/// Where the ports are, in the families the Pod has.
pub(crate) fn fronts(config: &Config, pod: Ipv4Addr, ports: &[HostPort]) -> HostPorts {
    let second = config.ipv6_of(pod).map(IpAddr::V6);
    let ips = std::iter::once(IpAddr::V4(pod)).chain(second);
    ips.flat_map(|to| {
        let family = Family::of(to);
        ports
            .iter()
            .filter(move |port| port.host_ip.is_none_or(|ip| Family::of(ip) == family))
            .map(move |port| {
                let front = Front {
                    ip: port.host_ip.unwrap_or(family.unspecified()),
                    protocol: port.protocol,
                    port: port.host_port,
                    scope: Scope::All,
                };
                (front, (to, port.container_port))
            })
    })
    .collect()
}

/// A line each: protocol, address, the node's port, the Pod's.
pub(crate) fn format(ports: &[HostPort]) -> String {
    ports.iter().fold(String::new(), |mut text, port| {
        let ip = port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let (from, to) = (port.host_port, port.container_port);
        // Writing to a string can't fail.
        let _ = writeln!(text, "{} {ip} {from} {to}", port.protocol);
        text
    })
}

/// What [`format`] wrote; lines that can't be read are left out.
pub(crate) fn parse(text: &str) -> Vec<HostPort> {
    let line = |line: &str| {
        let mut words = line.split(' ');
        let mut next = || words.next();
        Some(HostPort {
            protocol: next()?.parse().ok()?,
            host_ip: Some(next()?.parse().ok()?).filter(|ip: &IpAddr| !ip.is_unspecified()),
            host_port: next()?.parse().ok()?,
            container_port: next()?.parse().ok()?,
        })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_they_were_written() {
        let port = |host_ip: Option<&str>| HostPort {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            protocol: 17,
            host_port: 53,
            container_port: 5353,
        };
        let all = [port(None), port(Some("127.0.0.1")), port(Some("fd00::1"))];
        assert_eq!(parse(&format(&all)), all);
        assert_eq!(parse("17 x 1 2\n\n6 0.0.0.0 70000 1\n6\n"), []);
    }
}
