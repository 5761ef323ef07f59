//! `-p`: which ports of the machine lead to which of a container's.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A port of the machine that leads to one of the container's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub ip: Option<IpAddr>,
    /// 0: any that is free
    pub host: u16,
    pub container: u16,
    /// tcp, udp or sctp
    pub protocol: String,
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ip = self.ip.map_or("0.0.0.0".into(), |ip| ip.to_string());
        write!(
            f,
            "{ip}:{}->{}/{}",
            self.host, self.container, self.protocol
        )
    }
}

/// `[[ADDRESS:]PORT:]PORT[/PROTOCOL]`, each port also a range.
pub fn ports(text: &str) -> Result<Vec<Port>, String> {
    let bad = |why: &str| format!("invalid publish: {text:?}: {why}");
    let (plain, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(bad("the protocol is tcp, udp or sctp"));
    }
    let (rest, inner) = plain
        .rsplit_once(':')
        .map_or((None, plain), |(rest, inner)| (Some(rest), inner));
    let (ip, outer) = match rest {
        None => (None, None),
        Some(rest) => match rest.rsplit_once(':') {
            None => (None, Some(rest)),
            Some((ip, outer)) => {
                let ip = ip.trim_start_matches('[').trim_end_matches(']');
                let parsed = (!ip.is_empty()).then(|| ip.parse()).transpose();
                (
                    parsed.map_err(|_| bad("what comes first is no address"))?,
                    Some(outer),
                )
            }
        },
    };
    let range = |text: &str| -> Result<(u16, u16), String> {
        let number = |t: &str| {
            t.parse::<u16>()
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| bad("a port is a number from 1 to 65535"))
        };
        match text.split_once('-') {
            Some((first, last)) => Ok((number(first)?, number(last)?)),
            None => Ok((number(text)?, number(text)?)),
        }
    };
    let (first, last) = range(inner)?;
    let outer = outer
        .filter(|outer| !outer.is_empty())
        .map(range)
        .transpose()?;
    if last < first || outer.is_some_and(|(from, to)| to < from || to - from != last - first) {
        return Err(bad("the ranges are not of one length"));
    }
    let port = |n: u16| Port {
        ip,
        host: outer.map_or(0, |(from, _)| from + n),
        container: first + n,
        protocol: protocol.clone(),
    };
    Ok((0..=last - first).map(port).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_ports() {
        let check = |text: &str, want: Option<&str>| {
            let got = ports(text).ok().map(|all| {
                all.iter()
                    .map(Port::to_string)
                    .collect::<Vec<_>>()
                    .join(" ")
            });
            assert_eq!(got.as_deref(), want, "{text}");
        };
        check("80", Some("0.0.0.0:0->80/tcp"));
        check("8080:80", Some("0.0.0.0:8080->80/tcp"));
        check("127.0.0.1:8080:80/udp", Some("127.0.0.1:8080->80/udp"));
        check("[::1]:8080:80", Some("::1:8080->80/tcp"));
        check("127.0.0.1::80", Some("127.0.0.1:0->80/tcp"));
        check(
            "8000-8001:80-81",
            Some("0.0.0.0:8000->80/tcp 0.0.0.0:8001->81/tcp"),
        );
        for bad in ["", "x", "0", "80/icmp", "8000-8002:80-81", "a:1:2", "70000"] {
            check(bad, None);
        }
    }
}
