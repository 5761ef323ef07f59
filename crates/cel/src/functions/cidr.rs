//! Networks: `10.0.0.0/8`.

use std::fmt;
use std::net::IpAddr;

use super::ip::{Ip, why_not};
use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::value::Value;

/// An address and how many of its leading bits are the network's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    addr: IpAddr,
    bits: u8,
}

/// An address as bits, left-aligned in 128.
fn bits_of(addr: &IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => u128::from(u32::from(*v4)) << 96,
        IpAddr::V6(v6) => u128::from(*v6),
    }
}

fn mask(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

impl Cidr {
    /// Reads a network; no IPv4 in IPv6.
    pub fn parse(s: &str) -> Result<Cidr, String> {
        let bad = |why: &str| {
            Err(format!(
                "network address parse error during conversion from string: netip.ParsePrefix({s:?}): {why}"
            ))
        };
        let Some((addr, bits)) = s.rsplit_once('/') else {
            return bad("no '/'");
        };
        let Ok(parsed) = addr.parse::<IpAddr>() else {
            return bad(&if addr.contains('%') {
                "IPv6 zones cannot be present in a prefix".to_string()
            } else {
                why_not(addr)
            });
        };
        if matches!(parsed, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
            return Err(format!("IPv4-mapped IPv6 address {s:?} is not allowed"));
        }
        let plain =
            bits.bytes().all(|b| b.is_ascii_digit()) && (bits.len() == 1 || !bits.starts_with('0'));
        let max = if parsed.is_ipv4() { 32 } else { 128 };
        match bits.parse::<u8>() {
            Ok(bits) if plain && bits <= max => Ok(Cidr { addr: parsed, bits }),
            Ok(_) if plain => bad("prefix length out of range"),
            _ => bad(&format!("bad bits after slash: {bits:?}")),
        }
    }

    pub(crate) fn ip(&self) -> Ip {
        Ip(self.addr)
    }
    /// The network's part, in bytes.
    pub(crate) fn size(&self) -> usize {
        usize::from(self.bits).div_ceil(8)
    }

    fn contains(&self, ip: &IpAddr) -> bool {
        let m = mask(self.bits);
        ip.is_ipv4() == self.addr.is_ipv4() && bits_of(ip) & m == bits_of(&self.addr) & m
    }

    fn masked(&self) -> Cidr {
        let masked = bits_of(&self.addr) & mask(self.bits);
        let addr = match self.addr {
            IpAddr::V4(_) => IpAddr::V4(((masked >> 96) as u32).into()),
            IpAddr::V6(_) => IpAddr::V6(masked.into()),
        };
        Cidr {
            addr,
            bits: self.bits,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.bits)
    }
}

pub(super) fn cidr<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(s)] => Cidr::parse(s.as_str()).map(Value::Cidr).map_err(|why| {
            EvalError::new(format!(
                "network address parse error during conversion from string: {why}"
            ))
        }),
        _ => Err(EvalError::no_overload()),
    }
}

pub(super) fn is_cidr<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(s)] => Ok(Value::Bool(Cidr::parse(s.as_str()).is_ok())),
        _ => Err(EvalError::no_overload()),
    }
}

pub(super) fn contains_ip<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (c, ip) = match args {
        [Value::Cidr(c), Value::Ip(ip)] => (c, *ip),
        [Value::Cidr(c), Value::String(s)] => (c, Ip::parse(s.as_str()).map_err(EvalError::new)?),
        _ => return Err(EvalError::no_overload()),
    };
    Ok(Value::Bool(c.contains(&ip.0)))
}

pub(super) fn contains_cidr<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (c, other) = match args {
        [Value::Cidr(c), Value::Cidr(o)] => (c, *o),
        [Value::Cidr(c), Value::String(s)] => (c, Cidr::parse(s.as_str()).map_err(EvalError::new)?),
        _ => return Err(EvalError::no_overload()),
    };
    Ok(Value::Bool(c.bits <= other.bits && c.contains(&other.addr)))
}

pub(super) fn masked<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Cidr(c)] => Ok(Value::Cidr(c.masked())),
        _ => Err(EvalError::no_overload()),
    }
}

pub(super) fn prefix_length<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Cidr(c)] => Ok(Value::Int(c.bits.into())),
        _ => Err(EvalError::no_overload()),
    }
}
