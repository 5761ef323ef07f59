//! IP addresses.

mod why;

use std::fmt;
use std::net::IpAddr;

use super::Function;
use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::value::Value;

pub(crate) use why::why_not;

/// An IPv4 or IPv6 address; never an IPv4 one written as IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip(pub IpAddr);

impl Ip {
    /// Reads an address. No zones, no IPv4 in IPv6.
    pub fn parse(s: &str) -> Result<Ip, String> {
        if s.contains('%') && s.contains(':') {
            return Err(format!("IP address {s:?} with zone value is not allowed"));
        }
        let addr: IpAddr = s.parse().map_err(|_| {
            let why = why_not(s);
            format!("IP Address {s:?} parse error during conversion from string: {why}")
        })?;
        match addr {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
                Err(format!("IPv4-mapped IPv6 address {s:?} is not allowed"))
            }
            addr => Ok(Ip(addr)),
        }
    }
    /// In bytes.
    pub(crate) fn size(&self) -> usize {
        if self.0.is_ipv4() { 4 } else { 16 }
    }
}

impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

pub(super) fn ip<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(s)] => Ip::parse(s.as_str()).map(Value::Ip).map_err(EvalError::new),
        [Value::Cidr(c)] => Ok(Value::Ip(c.ip())),
        _ => Err(EvalError::no_overload()),
    }
}

pub(super) fn is_ip<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(s)] => Ok(Value::Bool(Ip::parse(s.as_str()).is_ok())),
        _ => Err(EvalError::no_overload()),
    }
}

pub(super) fn is_canonical<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(s)] = args else {
        return Err(EvalError::no_overload());
    };
    let ip = Ip::parse(s.as_str()).map_err(EvalError::new)?;
    Ok(Value::Bool(ip.to_string() == s.as_str()))
}

pub(super) fn accessor(name: &str) -> Option<Function> {
    fn is<'a>(args: &[Value<'a>], f: fn(&IpAddr) -> bool) -> Evaluated<'a> {
        match args {
            [Value::Ip(ip)] => Ok(Value::Bool(f(&ip.0))),
            _ => Err(EvalError::no_overload()),
        }
    }
    Some(match name {
        "family" => |a| match a {
            [Value::Ip(ip)] => Ok(Value::Int(if ip.0.is_ipv4() { 4 } else { 6 })),
            _ => Err(EvalError::no_overload()),
        },
        "isUnspecified" => |a| is(a, IpAddr::is_unspecified),
        "isLoopback" => |a| is(a, IpAddr::is_loopback),
        "isLinkLocalMulticast" => |a| is(a, link_local_multicast),
        "isLinkLocalUnicast" => |a| is(a, link_local_unicast),
        "isGlobalUnicast" => |a| {
            is(a, |ip| {
                let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
                let special = ip.is_unspecified()
                    || ip.is_loopback()
                    || ip.is_multicast()
                    || link_local_unicast(ip);
                !broadcast && !special
            })
        },
        _ => return None,
    })
}

fn link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_local_unicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}
