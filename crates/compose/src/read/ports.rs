//! `ports:` in the short form: `[[HOST_IP:][HOST[-HOST]]:]CONTAINER[-CONTAINER][/PROTOCOL]` (docker/go-connections' `nat`).

use crate::tree::{Map, Mark, Node, Value};

/// Most ports one range may stand for.
const RANGE_MAX: u16 = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Short {
    pub target: u16,
    /// A port, or a range `A-B` of which any free one is taken.
    pub published: Option<String>,
    pub host_ip: Option<String>,
    /// Lower case.
    pub protocol: String,
}

impl Short {
    /// The long form.
    pub fn long(self, mark: &Mark) -> Node {
        let text = |s: &str| mark.node(Value::text(s));
        let mut all = Map::from([
            ("mode".to_string(), text("ingress")),
            ("protocol".to_string(), text(&self.protocol)),
            (
                "target".to_string(),
                mark.node(Value::Int(i64::from(self.target))),
            ),
        ]);
        if let Some(p) = self.published {
            all.insert("published".into(), text(&p));
        }
        if let Some(ip) = self.host_ip {
            all.insert("host_ip".into(), text(&ip));
        }
        mark.node(Value::Map(all))
    }
}

pub(super) fn parse(spec: &str) -> Result<Vec<Short>, String> {
    let (body, protocol) = match spec.split_once('/') {
        Some((body, "")) => (body, "tcp"),
        Some((body, protocol)) => (body, protocol),
        None => (spec, "tcp"),
    };
    let protocol = protocol.to_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {protocol}"));
    }
    let (front, target) = match body.rsplit_once(':') {
        Some((front, target)) => (Some(front), target),
        None => (None, body),
    };
    let (host_ip, published) = match front {
        None => (None, ""),
        Some(front) => match front.rsplit_once(':') {
            Some((ip, host)) => (Some(ip), host),
            None => (None, front),
        },
    };
    if target.is_empty() {
        return Err(format!("no port specified: {spec}<empty>"));
    }
    let host_ip = host_ip
        .map(|ip| ip.trim_matches(['[', ']']))
        .filter(|ip| !ip.is_empty());
    if let Some(ip) = host_ip
        && ip.parse::<std::net::IpAddr>().is_err()
    {
        return Err(format!("invalid IP address: {ip}"));
    }
    let (first, last) = range(target).ok_or_else(|| format!("invalid containerPort: {target}"))?;
    let hosts = match published {
        "" => None,
        p => Some(range(p).ok_or_else(|| format!("invalid hostPort: {p}"))?),
    };
    if last - first >= RANGE_MAX {
        return Err(format!("a range of more than {RANGE_MAX} ports: {spec}"));
    }
    let mut all = Vec::new();
    for (i, target) in (first..=last).enumerate() {
        let published = match hosts {
            None => None,
            Some((a, b)) if b - a == last - first => Some((a + i as u16).to_string()),
            // One container port, a range of the host: any that is free.
            Some((a, b)) if first == last => Some(format!("{a}-{b}")),
            Some(_) => {
                return Err(format!(
                    "invalid ranges specified for container and host Ports: {target} and {published}"
                ));
            }
        };
        all.push(Short {
            target,
            published,
            host_ip: host_ip.map(String::from),
            protocol: protocol.clone(),
        });
    }
    Ok(all)
}

/// `A` or `A-B`.
pub(crate) fn range(text: &str) -> Option<(u16, u16)> {
    let (a, b) = text.split_once('-').unwrap_or((text, text));
    let (a, b) = (a.parse().ok()?, b.parse().ok()?);
    (a <= b).then_some((a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms() {
        type Want<'a> = &'a [(u16, Option<&'a str>, Option<&'a str>, &'a str)];
        let cases: &[(&str, Result<Want<'_>, &str>)] = &[
            ("80", Ok(&[(80, None, None, "tcp")])),
            ("8080:80", Ok(&[(80, Some("8080"), None, "tcp")])),
            (
                "127.0.0.1:8080:80/udp",
                Ok(&[(80, Some("8080"), Some("127.0.0.1"), "udp")]),
            ),
            ("127.0.0.1::80", Ok(&[(80, None, Some("127.0.0.1"), "tcp")])),
            (
                "[::1]:8080:80",
                Ok(&[(80, Some("8080"), Some("::1"), "tcp")]),
            ),
            (
                "::1:8080:80/TCP",
                Ok(&[(80, Some("8080"), Some("::1"), "tcp")]),
            ),
            (
                "3000-3001:4000-4001",
                Ok(&[
                    (4000, Some("3000"), None, "tcp"),
                    (4001, Some("3001"), None, "tcp"),
                ]),
            ),
            ("8000-8010:80", Ok(&[(80, Some("8000-8010"), None, "tcp")])),
            ("0:80", Ok(&[(80, Some("0"), None, "tcp")])),
            ("1-2:80-85", Err("invalid ranges")),
            ("x:80", Err("invalid hostPort: x")),
            ("80/foo", Err("invalid proto: foo")),
            ("70000:80", Err("invalid hostPort: 70000")),
            ("1.2.3:80:80", Err("invalid IP address: 1.2.3")),
            ("80:", Err("no port specified")),
        ];
        for (text, want) in cases {
            match (parse(text), want) {
                (Ok(got), Ok(want)) => {
                    let got: Vec<_> = got
                        .iter()
                        .map(|p| {
                            (
                                p.target,
                                p.published.as_deref(),
                                p.host_ip.as_deref(),
                                p.protocol.as_str(),
                            )
                        })
                        .collect();
                    assert_eq!(got, *want, "{text}");
                }
                (Err(e), Err(want)) => assert!(e.contains(want), "{text}: {e}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }
}
