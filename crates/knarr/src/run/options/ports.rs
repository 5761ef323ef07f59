//! `-p`: which ports of the machine lead to which of a container's.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A port of the machine that leads to one of the container's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub ip: Option<IpAddr>,
    /// 0: any that is free
    pub host: u16,
    /// Where `host` is looked for.
    #[serde(default)]
    pub range: Option<(u16, u16)>,
    /// `host` was looked for, and not said.
    #[serde(default)]
    pub chosen: bool,
    pub container: u16,
    /// tcp, udp or sctp
    pub protocol: String,
}

impl Port {
    fn any(&self) -> bool {
        self.ip.is_none_or(|ip| ip.is_unspecified())
    }

    /// Both can't be had.
    pub fn clashes(&self, other: &Port) -> bool {
        self.host != 0
            && self.host == other.host
            && self.protocol == other.protocol
            && (self.any() || other.any() || self.ip == other.ip)
    }
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

/// `[[ADDRESS:]PORT:]PORT[/PROTOCOL]`, each port also a range: of equal length, or any of the first for the one of the second;
/// or `published=PORT,target=PORT[,protocol=PROTOCOL]`.
///
/// SOURCE: docker/go-connections `nat/nat.go` ParsePortSpec, docker/cli `cli/command/container/opts.go`
pub fn ports(text: &str) -> Result<Vec<Port>, String> {
    match text.contains('=') {
        true => short(&in_one(text)?),
        false => short(text),
    }
}

fn in_one(text: &str) -> Result<String, String> {
    let (mut published, mut target, mut protocol) = ("", "", "tcp");
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("published", value)) => published = value,
            Some(("target", value)) => target = value,
            Some(("protocol", value)) => protocol = value,
            Some((key, _)) if !key.is_empty() => {}
            _ => {
                return Err(format!(
                    "invalid publish opts format (should be name=value but got '{part}')"
                ));
            }
        }
    }
    Ok(format!("{published}:{target}/{protocol}"))
}

fn short(text: &str) -> Result<Vec<Port>, String> {
    let (rest, inner) = text
        .rsplit_once(':')
        .map_or((None, text), |(rest, inner)| (Some(rest), inner));
    let (inner, protocol) = inner.split_once('/').unwrap_or((inner, "tcp"));
    let (ip, outer) = match rest {
        None => ("", ""),
        Some(rest) => rest.rsplit_once(':').unwrap_or(("", rest)),
    };
    let plain = ip.trim_start_matches('[').trim_end_matches(']');
    let ip = match plain {
        "" => None,
        plain => Some(
            plain
                .parse()
                .map_err(|_| format!("invalid IP address: {ip}"))?,
        ),
    };
    if inner.is_empty() {
        return Err(format!("no port specified: {text}<empty>"));
    }
    let (first, last) = range(inner).ok_or_else(|| format!("invalid containerPort: {inner}"))?;
    let outer = match outer {
        "" => None,
        said => Some((
            said,
            range(said).ok_or_else(|| format!("invalid hostPort: {said}"))?,
        )),
    };
    let one_of = outer.filter(|(_, (from, to))| from < to && first == last);
    if let Some((said, (from, to))) = outer
        && one_of.is_none()
        && to - from != last - first
    {
        return Err(format!(
            "invalid ranges specified for container and host Ports: {inner} and {said}"
        ));
    }
    let protocol = match protocol.to_ascii_lowercase() {
        known if matches!(&*known, "tcp" | "udp" | "sctp") => known,
        _ => return Err(format!("invalid proto: {protocol}")),
    };
    let port = |n: u16| Port {
        ip,
        host: match (one_of, outer) {
            (None, Some((_, (from, _)))) => from + n,
            _ => 0,
        },
        range: one_of.map(|(_, range)| range),
        chosen: false,
        container: first + n,
        protocol: protocol.clone(),
    };
    Ok((0..=last - first).map(port).collect())
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |t: &str| t.parse::<u16>().ok().filter(|n| *n > 0);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_ports() {
        let check = |text: &str, want: Result<&str, &str>| {
            let got = ports(text).map(|all| {
                let one = |p: &Port| match p.range {
                    Some((from, to)) => format!("{p} of {from}-{to}"),
                    None => p.to_string(),
                };
                all.iter().map(one).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(got.as_deref().map_err(String::as_str), want, "{text}");
        };
        check("80", Ok("0.0.0.0:0->80/tcp"));
        check("8080:80", Ok("0.0.0.0:8080->80/tcp"));
        check("127.0.0.1:8080:80/udp", Ok("127.0.0.1:8080->80/udp"));
        check("[::1]:8080:80", Ok("::1:8080->80/tcp"));
        check("127.0.0.1::80", Ok("127.0.0.1:0->80/tcp"));
        check(
            "8000-8001:80-81",
            Ok("0.0.0.0:8000->80/tcp 0.0.0.0:8001->81/tcp"),
        );
        check("3000-3001", Ok("0.0.0.0:0->3000/tcp 0.0.0.0:0->3001/tcp"));
        check("8000-8010:80", Ok("0.0.0.0:0->80/tcp of 8000-8010"));
        check("published=8080,target=80", Ok("0.0.0.0:8080->80/tcp"));
        check("target=53,protocol=udp", Ok("0.0.0.0:0->53/udp"));
        check("", Err("no port specified: <empty>"));
        check("8080:", Err("no port specified: 8080:<empty>"));
        check("x", Err("invalid containerPort: x"));
        check("0", Err("invalid containerPort: 0"));
        check("81-80", Err("invalid containerPort: 81-80"));
        check("80/icmp", Err("invalid proto: icmp"));
        check("99999:80", Err("invalid hostPort: 99999"));
        check("a:1:2", Err("invalid IP address: a"));
        check("target", Err("invalid containerPort: target"));
        check(
            "target=80,x",
            Err("invalid publish opts format (should be name=value but got 'x')"),
        );
        check(
            "8000-8002:80-81",
            Err("invalid ranges specified for container and host Ports: 80-81 and 8000-8002"),
        );
    }
}
