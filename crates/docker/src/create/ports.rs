//! `-p`: which port of the machine leads to which of the container.

use crate::error::{Fault, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// `80/tcp` → where on the machine. A port 0 is any that is free.
pub type Bindings = BTreeMap<String, Vec<Binding>>;

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Binding {
    /// Empty: all addresses.
    pub ip: String,
    pub port: u16,
    /// Of a range that one is to be chosen of, until it is; else 0.
    #[serde(default, skip_serializing)]
    pub last: u16,
}

/// `80/tcp` → (80, TCP)
pub fn parse(port: &str) -> Result<(u16, &'static str)> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let number = number
        .parse()
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| Fault::bad(format!("invalid port specification: {port:?}")))?;
    match protocol.to_lowercase().as_str() {
        "tcp" => Ok((number, "TCP")),
        "udp" => Ok((number, "UDP")),
        "sctp" => Ok((number, "SCTP")),
        _ => Err(Fault::bad(format!("invalid port specification: {port:?}"))),
    }
}

pub fn bindings(map: &Map<String, Value>) -> Result<Bindings> {
    let mut all = Bindings::new();
    for (port, places) in map {
        let (number, protocol) = parse(port)?;
        let key = format!("{number}/{}", protocol.to_lowercase());
        let list = all.entry(key).or_default();
        for place in places.as_array().into_iter().flatten() {
            let text = |key: &str| place.get(key).and_then(Value::as_str).unwrap_or_default();
            let ip = match text("HostIp") {
                "0.0.0.0" | "::" => "",
                ip => ip,
            };
            if !ip.is_empty() && ip.parse::<std::net::IpAddr>().is_err() {
                return Err(Fault::bad(format!("invalid IP address: {ip}")));
            }
            // A range leaves the choice to us.
            let asked = text("HostPort");
            let (first, last) = asked.split_once('-').unwrap_or((asked, asked));
            let wrong = || Fault::bad(format!("invalid port specification: {asked:?}"));
            let number = |text: &str| match text {
                "" => Ok(0),
                text => text.parse::<u16>().map_err(|_| wrong()),
            };
            let (port, last) = (number(first)?, number(last)?);
            if last < port {
                return Err(wrong());
            }
            list.push(Binding {
                ip: ip.into(),
                port,
                last: if last > port { last } else { 0 },
            });
        }
        if list.is_empty() {
            list.push(Binding {
                ip: String::new(),
                port: 0,
                last: 0,
            });
        }
    }
    Ok(all)
}

/// How often the kernel is asked for a port that no other container has been given.
const TRIES: usize = 64;

/// A container's hold on a port of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub place: Binding,
    pub udp: bool,
    /// It runs; one that doesn't gives way where nothing else is left.
    pub active: bool,
}

impl Claim {
    fn meets(&self, ip: &str, port: u16, udp: bool) -> bool {
        let mine = &self.place;
        let same = mine.ip == ip || mine.ip.is_empty() || ip.is_empty();
        self.udp == udp && mine.port == port && same
    }
}

/// Gives each port 0 one that is free now, and each range one of it that no other container has. Blocking, but not for long.
pub fn choose(bindings: &mut Bindings, claims: &[Claim]) -> Result<()> {
    let mut mine: Vec<Claim> = Vec::new();
    for (port, places) in bindings {
        let udp = port.ends_with("/udp");
        for place in places {
            let taken = |number: u16, all: bool| {
                let others = claims.iter().filter(|c| all || c.active);
                let mut both = others.chain(&mine);
                both.any(|c| c.meets(&place.ip, number, udp))
            };
            if place.last > 0 {
                let usable = |all: bool| {
                    (place.port..=place.last).find(|number| {
                        let one = Binding {
                            port: *number,
                            last: 0,
                            ip: place.ip.clone(),
                        };
                        !taken(*number, all) && held(&one, udp).is_none()
                    })
                };
                let found = usable(true).or_else(|| usable(false));
                place.port = found.ok_or_else(|| {
                    Fault::server(format!(
                        "all ports of {}-{} are allocated",
                        place.port, place.last
                    ))
                })?;
                place.last = 0;
            } else if place.port == 0 {
                let mut found = free(&place.ip, udp);
                for _ in 0..TRIES {
                    match found {
                        Ok(number) if taken(number, true) => found = free(&place.ip, udp),
                        _ => break,
                    }
                }
                place.port =
                    found.map_err(|e| Fault::server(format!("no port is free for {port}: {e}")))?;
            }
            mine.push(Claim {
                place: place.clone(),
                udp,
                active: true,
            });
        }
    }
    Ok(())
}

fn any(ip: &str) -> &str {
    if ip.is_empty() { "0.0.0.0" } else { ip }
}

fn free(ip: &str, udp: bool) -> std::io::Result<u16> {
    let at = (any(ip), 0);
    let address = match udp {
        true => std::net::UdpSocket::bind(at)?.local_addr()?,
        false => std::net::TcpListener::bind(at)?.local_addr()?,
    };
    Ok(address.port())
}

/// Whether a program of the machine has the port.
pub fn held(binding: &Binding, udp: bool) -> Option<String> {
    let at = (any(&binding.ip), binding.port);
    let error = match udp {
        true => std::net::UdpSocket::bind(at).err(),
        false => std::net::TcpListener::bind(at).err(),
    }?;
    let told = match error.kind() {
        std::io::ErrorKind::AddrInUse => "bind: address already in use".into(),
        std::io::ErrorKind::AddrNotAvailable => "bind: cannot assign requested address".into(),
        _ => error.to_string(),
    };
    Some(format!(
        "listen {}4 {}:{}: {told}",
        if udp { "udp" } else { "tcp" },
        at.0,
        at.1
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_are_read() {
        let check = |text: &str, wanted: Result<&[(&str, &str, u16)], &str>| {
            let map: Map<String, Value> = serde_json::from_str(text).unwrap();
            let got = bindings(&map).map_err(|f| f.message).map(|all| {
                let flat = all.into_iter().flat_map(|(port, places)| {
                    places
                        .into_iter()
                        .map(move |p| (port.clone(), p.ip, p.port.max(p.last)))
                });
                flat.collect::<Vec<_>>()
            });
            let wanted = wanted.map_err(str::to_string).map(|list| {
                let owned = list
                    .iter()
                    .map(|(a, b, c)| (a.to_string(), b.to_string(), *c));
                owned.collect::<Vec<_>>()
            });
            assert_eq!(got, wanted, "{text}");
        };
        check("{}", Ok(&[]));
        check(
            r#"{"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}"#,
            Ok(&[("80/tcp", "", 8080)]),
        );
        check(
            r#"{"53/udp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}"#,
            Ok(&[("53/udp", "127.0.0.1", 0)]),
        );
        check(r#"{"80": null}"#, Ok(&[("80/tcp", "", 0)]));
        check(
            r#"{"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "1"}, {"HostIp": "::", "HostPort": "2-9"}]}"#,
            Ok(&[("80/tcp", "", 1), ("80/tcp", "", 9)]),
        );
        check(
            r#"{"80/tcp": [{"HostIp": "", "HostPort": "9-2"}]}"#,
            Err(r#"invalid port specification: "9-2""#),
        );
        check(
            r#"{"x/tcp": []}"#,
            Err(r#"invalid port specification: "x/tcp""#),
        );
        check(
            r#"{"80/tcp": [{"HostIp": "x", "HostPort": "1"}]}"#,
            Err("invalid IP address: x"),
        );
    }

    #[test]
    fn a_range_gives_each_container_one_of_its_own() {
        // one that nobody has, and its neighbours
        let start = free("127.0.0.1", false).unwrap().min(u16::MAX - 200);
        let range = Binding {
            ip: "127.0.0.1".into(),
            port: start,
            last: start + 199,
        };
        let (mut claims, mut got) = (Vec::new(), std::collections::BTreeSet::new());
        for _ in 0..3 {
            let mut bindings = Bindings::from([("80/tcp".into(), vec![range.clone()])]);
            choose(&mut bindings, &claims).unwrap();
            let place = bindings["80/tcp"][0].clone();
            assert!(
                (start..=start + 199).contains(&place.port) && place.last == 0,
                "{place:?}"
            );
            assert!(got.insert(place.port), "{} is given twice", place.port);
            claims.push(Claim {
                place,
                udp: false,
                active: true,
            });
        }
        let all = (start..=start + 199).map(|port| Claim {
            place: Binding {
                ip: String::new(),
                port,
                last: 0,
            },
            udp: false,
            active: true,
        });
        let all: Vec<Claim> = all.collect();
        let mut bindings = Bindings::from([("80/tcp".into(), vec![range])]);
        let told = choose(&mut bindings, &all).unwrap_err().message;
        assert_eq!(
            told,
            format!("all ports of {start}-{} are allocated", start + 199)
        );
    }
}
