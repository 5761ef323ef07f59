//! `--network`, and what is said of a container's place in it.

use super::{super::record::Joined, Network};
use std::net::Ipv4Addr;

/// What is asked for.
pub struct Asked<'a> {
    pub networks: &'a [String],
    pub aliases: &'a [String],
    pub ip: Option<&'a str>,
    pub mac: Option<&'a str>,
}

const ALIASES_ELSEWHERE: &str =
    "network-scoped aliases are only supported for user-defined networks";
const IP_ELSEWHERE: &str = "invalid endpoint settings:\n* user specified IP address is supported on user defined networks only\n* user specified IP address is supported only when connecting to networks with user configured subnets";

impl Asked<'_> {
    /// The kind, those of one's own, and the hardware address.
    ///
    /// SOURCE: docker/cli `opts/network.go`, moby `runconfig` for what does not go together.
    pub fn read(&self) -> Result<(Network, Vec<Joined>, Option<String>), String> {
        let (mut kinds, mut all) = (Vec::new(), Vec::<Joined>::new());
        let mut mac = self.mac.map(str::to_string);
        for text in self.networks {
            let (joined, own_mac) = one(text)?;
            if own_mac.is_some() && self.mac.is_some() {
                return Err("conflicting options: cannot specify both --mac-address and per-network MAC address".into());
            }
            mac = own_mac.or(mac);
            let kind = match joined.name.as_str() {
                "bridge" | "default" => Network::Bridge,
                "host" => Network::Host,
                "none" => Network::None,
                "container:" => {
                    return Err(
                        "Invalid network mode: invalid container format container:<name|id>".into(),
                    );
                }
                name if name.starts_with("container:") => Network::Container,
                _ if all.iter().any(|n| n.name == joined.name) => {
                    return Err(format!(
                        "network {:?} is specified multiple times",
                        joined.name
                    ));
                }
                _ => {
                    all.push(joined);
                    continue;
                }
            };
            kinds.push(kind);
            if !joined.aliases.is_empty() {
                return Err(ALIASES_ELSEWHERE.into());
            }
            if joined.asked.is_some() {
                return Err(elsewhere(&joined.name));
            }
        }
        let ip = self.ip.map(address).transpose()?;
        let mac = mac.map(|text| {
            knarr_docker::hardware_address(&text)
                .map_err(|_| format!("{text} is not a valid mac address"))
        });
        let mac = mac.transpose()?;
        let kind = match (kinds.as_slice(), all.first_mut()) {
            ([], Some(first)) => {
                first.aliases.extend(self.aliases.iter().cloned());
                if ip.is_some() && first.asked.is_some() {
                    return Err("conflicting options: cannot specify both --ip and per-network IPv4 address".into());
                }
                first.asked = first.asked.or(ip);
                Network::Bridge
            }
            ([_], None) if !self.aliases.is_empty() => return Err(ALIASES_ELSEWHERE.into()),
            ([_], None) if ip.is_some() => {
                return Err(elsewhere(
                    self.networks.first().map_or("bridge", String::as_str),
                ));
            }
            ([kind], None) => *kind,
            _ => {
                return Err(
                    "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
                        .into(),
                );
            }
        };
        if mac.is_some() && matches!(kind, Network::Container | Network::Host) {
            return Err("conflicting options: mac-address and the network mode".into());
        }
        Ok((kind, all, mac))
    }
}

fn elsewhere(network: &str) -> String {
    format!("invalid config for network {network}: {IP_ELSEWHERE}")
}

fn address(text: &str) -> Result<Ipv4Addr, String> {
    text.parse()
        .map_err(|_| format!("invalid IPv4 address: {text}"))
}

fn one(text: &str) -> Result<(Joined, Option<String>), String> {
    let (mut joined, mut mac) = (Joined::default(), None);
    if !text.contains('=') {
        joined.name = text.into();
        return Ok((joined, mac));
    }
    for part in text.split(',') {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| format!("invalid key/value pair format in --network {text}: {part}"))?;
        match key.trim().to_lowercase().as_str() {
            "name" => joined.name = value.into(),
            "alias" => joined.aliases.push(value.to_lowercase()),
            "ip" => joined.asked = Some(address(value)?),
            "mac-address" => mac = Some(value.into()),
            known @ ("ip6" | "link-local-ip" | "driver-opt" | "gw-priority") => {
                return Err(format!("{known} in --network {text} is not there"));
            }
            other => return Err(format!("invalid field key {other}")),
        }
    }
    match joined.name.is_empty() {
        true => Err("network name/id is not specified".into()),
        false => Ok((joined, mac)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_of_networks() {
        let read = |networks: &[&str], ip: Option<&str>, mac: Option<&str>| {
            let networks: Vec<String> = networks.iter().map(|n| n.to_string()).collect();
            let asked = Asked {
                networks: &networks,
                aliases: &[],
                ip,
                mac,
            };
            asked.read().map(|(kind, all, mac)| {
                let one = |n: &Joined| {
                    let ip = n.asked.map_or(String::new(), |ip| format!("@{ip}"));
                    format!("{}{ip}={}", n.name, n.aliases.join("+"))
                };
                let all: Vec<String> = all.iter().map(one).collect();
                format!("{kind:?} {} {}", all.join(" "), mac.unwrap_or_default())
            })
        };
        for (networks, ip, mac, wanted) in [
            (&["bridge"][..], None, None, Ok("Bridge  ")),
            (&["host"], None, None, Ok("Host  ")),
            (&["container:x"], None, None, Ok("Container  ")),
            (&["a", "b"], None, None, Ok("Bridge a= b= ")),
            (&["a"], Some("10.0.0.9"), None, Ok("Bridge a@10.0.0.9= ")),
            (
                &["name=a,alias=X,alias=y,ip=10.0.0.9,mac-address=02-42-AC-11-00-02"],
                None,
                None,
                Ok("Bridge a@10.0.0.9=x+y 02:42:ac:11:00:02"),
            ),
            (
                &["bridge"],
                None,
                Some("02:42:ac:11:00:02"),
                Ok("Bridge  02:42:ac:11:00:02"),
            ),
            (
                &["bridge"],
                None,
                Some("nope"),
                Err("nope is not a valid mac address"),
            ),
            (
                &["bridge"],
                Some("10.0.0.9"),
                None,
                Err("supported on user defined networks only"),
            ),
            (
                &["a"],
                Some("nope"),
                None,
                Err("invalid IPv4 address: nope"),
            ),
            (
                &["name=a,ip=10.0.0.8"],
                Some("10.0.0.9"),
                None,
                Err("both --ip and per-network"),
            ),
            (&["name=a,ip6=::1"], None, None, Err("ip6 in --network")),
            (
                &["name=a,colour=red"],
                None,
                None,
                Err("invalid field key colour"),
            ),
            (
                &["alias=x"],
                None,
                None,
                Err("network name/id is not specified"),
            ),
            (&["a", "a"], None, None, Err("specified multiple times")),
            (
                &["a", "host"],
                None,
                None,
                Err("cannot attach both user-defined"),
            ),
            (
                &["name=host,alias=x"],
                None,
                None,
                Err("network-scoped aliases"),
            ),
            (
                &["host"],
                None,
                Some("02:42:ac:11:00:02"),
                Err("mac-address and the network mode"),
            ),
        ] {
            match (read(networks, ip, mac), wanted) {
                (Ok(got), Ok(wanted)) => assert_eq!(got, wanted, "{networks:?}"),
                (Err(got), Err(part)) => assert!(got.contains(part), "{networks:?}: {got}"),
                (got, _) => panic!("{networks:?} {ip:?}: {got:?}"),
            }
        }
    }
}
