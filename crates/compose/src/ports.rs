//! `ports:` in its short and long forms (Compose specification, 05-services.md#ports).

use crate::{Error, node::Node};

/// Most ports one range may stand for.
const RANGE_MAX: u16 = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The container's.
    pub target: u16,
    /// On the host; None = not published by number.
    pub published: Option<u16>,
    /// The host's address to publish on.
    pub host_ip: Option<String>,
    /// `TCP` or `UDP`.
    pub protocol: String,
    pub app_protocol: Option<String>,
}

pub(crate) fn ports(node: &Node<'_>) -> Result<Vec<Port>, Error> {
    let mut all = Vec::new();
    for item in node.list()? {
        if item.value.is_object() {
            all.push(long(&item)?);
        } else {
            let text = item.string()?.unwrap_or_default();
            all.extend(short(&text).map_err(|why| item.error(format!("{text:?}: {why}")))?);
        }
    }
    Ok(all)
}

fn long(node: &Node<'_>) -> Result<Port, Error> {
    node.check_keys(
        &[
            "target",
            "published",
            "host_ip",
            "protocol",
            "app_protocol",
            "mode",
            "name",
        ],
        &[],
    )?;
    let number = |key: &str| -> Result<Option<u16>, Error> {
        let n = node.get(key);
        n.integer()?
            .map(|p| {
                u16::try_from(p)
                    .ok()
                    .filter(|p| *p > 0)
                    .ok_or_else(|| n.error("ports are 1 to 65535"))
            })
            .transpose()
    };
    let protocol = node.get("protocol").string()?.unwrap_or("tcp".into());
    Ok(Port {
        target: number("target")?
            .ok_or_else(|| node.error("target is missing: say the container's port"))?,
        published: number("published")?,
        host_ip: node.get("host_ip").string()?,
        protocol: check_protocol(&protocol).map_err(|e| node.get("protocol").error(e))?,
        app_protocol: node.get("app_protocol").string()?,
    })
}

fn check_protocol(p: &str) -> Result<String, String> {
    match p {
        "tcp" | "udp" => Ok(p.to_uppercase()),
        other => Err(format!("unknown protocol {other:?}: tcp or udp")),
    }
}

/// `[[HOST_IP:]HOST[-HOST]:]CONTAINER[-CONTAINER][/PROTOCOL]`
fn short(text: &str) -> Result<Vec<Port>, String> {
    let (body, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = check_protocol(protocol)?;
    let (front, target) = body
        .rsplit_once(':')
        .map_or((None, body), |(f, t)| (Some(f), t));
    let (host_ip, published) = match front {
        None => (None, None),
        Some(f) => match f.rsplit_once(':') {
            Some((ip, host)) => (
                Some(ip.trim_matches(['[', ']']).to_string()),
                Some(host).filter(|h| !h.is_empty()),
            ),
            None if f.contains('.') => (Some(f.to_string()), None),
            None => (None, Some(f)),
        },
    };
    if let Some(ip) = &host_ip
        && ip.parse::<std::net::IpAddr>().is_err()
    {
        return Err(format!("{ip:?} is not an address"));
    }
    let targets = range(target)?;
    let hosts = published.map(range).transpose()?;
    if hosts.as_ref().is_some_and(|h| h.len() != targets.len()) {
        return Err("the two ranges differ in length".into());
    }
    Ok(targets
        .into_iter()
        .enumerate()
        .map(|(i, target)| Port {
            target,
            published: hosts.as_ref().map(|h| h[i]),
            host_ip: host_ip.clone(),
            protocol: protocol.clone(),
            app_protocol: None,
        })
        .collect())
}

fn range(text: &str) -> Result<Vec<u16>, String> {
    let port = |s: &str| {
        s.trim()
            .parse::<u16>()
            .ok()
            .filter(|p| *p > 0)
            .ok_or_else(|| format!("{s:?} is not a port from 1 to 65535"))
    };
    match text.split_once('-') {
        None => Ok(vec![port(text)?]),
        Some((a, b)) => match (port(a)?, port(b)?) {
            (a, b) if a <= b && b - a < RANGE_MAX => Ok((a..=b).collect()),
            _ => Err(format!(
                "{text:?} is not a range of at most {RANGE_MAX} ports"
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms() {
        type Want<'a> = &'a [(u16, Option<u16>, Option<&'a str>, &'a str)];
        let cases: &[(&str, Option<Want<'_>>)] = &[
            ("80", Some(&[(80, None, None, "TCP")])),
            ("8080:80", Some(&[(80, Some(8080), None, "TCP")])),
            (
                "127.0.0.1:8080:80/udp",
                Some(&[(80, Some(8080), Some("127.0.0.1"), "UDP")]),
            ),
            (
                "[::1]:8080:80",
                Some(&[(80, Some(8080), Some("::1"), "TCP")]),
            ),
            (
                "3000-3001:4000-4001",
                Some(&[
                    (4000, Some(3000), None, "TCP"),
                    (4001, Some(3001), None, "TCP"),
                ]),
            ),
            ("0:80", None),
            ("1-2:80", None),
            ("x:80", None),
            ("80/sctp", None),
            ("70000:80", None),
        ];
        for (text, want) in cases {
            let got = short(text).ok();
            let want = want.map(|w| {
                w.iter()
                    .map(|(t, p, ip, proto)| Port {
                        target: *t,
                        published: *p,
                        host_ip: ip.map(String::from),
                        protocol: proto.to_string(),
                        app_protocol: None,
                    })
                    .collect::<Vec<_>>()
            });
            assert_eq!(got, want, "{text}");
        }
    }
}
