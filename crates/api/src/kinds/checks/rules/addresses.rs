//! IP addresses and networks, read strictly or as loosely as they once were.

use super::super::path::{Errors, Path};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Go's `ParseIPSloppy`: leading zeros are decimal, IPv4 in IPv6 is read.
pub(crate) fn sloppy_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts
            .next()
            .filter(|p| !p.is_empty() && p.len() <= 8 && p.bytes().all(|b| b.is_ascii_digit()))?;
        *octet = part
            .parse::<u32>()
            .ok()
            .and_then(|n| u8::try_from(n).ok())?;
    }
    parts
        .next()
        .is_none()
        .then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

/// An IP address as fields from before the strict rule take it; what was there before (`kept`) stays.
pub(crate) fn legacy_ip(text: &str, kept: &[Value], at: &Path<'_>, errors: &mut Errors) -> bool {
    if kept.iter().any(|k| k == text) {
        return true;
    }
    let problem = match sloppy_ip(text) {
        None => Some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        Some(IpAddr::V4(_)) if text.parse::<Ipv4Addr>().is_err() => {
            Some("must not have leading 0s")
        }
        Some(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            Some("must not be an IPv4-mapped IPv6 address")
        }
        Some(_) => None,
    };
    if let Some(problem) = problem {
        errors.invalid(at, text, problem);
    }
    problem.is_none()
}

/// An IP address in its one canonical form.
pub(crate) fn strict_ip(text: &str, at: &Path<'_>, errors: &mut Errors) {
    if legacy_ip(text, &[], at, errors)
        && let Some(ip) = sloppy_ip(text)
        && ip.to_string() != text
    {
        errors.invalid(at, text, format!("must be in canonical form (\"{ip}\")"));
    }
}

/// A warning for each address that is not in its one canonical form.
pub(crate) fn unusual_ips<'a>(
    ips: impl Iterator<Item = &'a Value>,
    at: &Path<'_>,
    warnings: &mut Vec<String>,
) {
    for (i, text) in ips.filter_map(Value::as_str).enumerate() {
        let at = at.index(i);
        let Some(ip) = sloppy_ip(text) else { continue };
        let v4 = ip.is_ipv4() && text.parse::<Ipv4Addr>().is_err();
        let mapped = matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
        if v4 || mapped {
            let canonical = ip.to_canonical();
            warnings.push(format!(
                "{at}: non-standard IP address {text:?} is invalid: use \"{canonical}\""
            ));
        } else if ip.to_string() != text {
            warnings.push(format!(
                "{at}: IPv6 address {text:?} should be in RFC 5952 canonical format (\"{ip}\")"
            ));
        }
    }
}

/// A CIDR as fields from before the strict rule take it.
pub(crate) fn legacy_cidr(text: &str, kept: &[Value], at: &Path<'_>, errors: &mut Errors) {
    if kept.iter().any(|k| k == text) {
        return;
    }
    let problem = match sloppy_cidr(text) {
        None => "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        Some((ip, bits)) => {
            let (address, length) = text.split_once('/').unwrap_or_default();
            let mapped = matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
            let beyond = match ip {
                IpAddr::V4(ip) => u32::from(ip).checked_shl(bits).unwrap_or(0) != 0,
                IpAddr::V6(ip) => u128::from(ip).checked_shl(bits).unwrap_or(0) != 0,
            };
            if address.parse::<IpAddr>().is_err() || (length.len() > 1 && length.starts_with('0')) {
                "must not have leading 0s in IP or prefix length"
            } else if mapped {
                "must not have an IPv4-mapped IPv6 address"
            } else if beyond {
                "must not have bits set beyond the prefix length"
            } else {
                return;
            }
        }
    };
    errors.invalid(at, text, problem);
}

/// A CIDR in its one canonical form.
pub(crate) fn strict_cidr(text: &str, at: &Path<'_>, errors: &mut Errors) {
    let before = errors.0.len();
    legacy_cidr(text, &[], at, errors);
    if errors.0.len() == before
        && let Some((ip, bits)) = sloppy_cidr(text)
    {
        let canonical = format!("{ip}/{bits}");
        if canonical != text {
            let detail = format!("must be in canonical form (\"{canonical}\")");
            errors.invalid(at, text, detail);
        }
    }
}

/// Address and prefix length of a CIDR.
pub(crate) fn sloppy_cidr(text: &str) -> Option<(IpAddr, u32)> {
    let (address, length) = text.split_once('/')?;
    let ip = sloppy_ip(address)?;
    let max = if ip.is_ipv4() { 32 } else { 128 };
    let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    let bits = length.parse::<u32>().ok().filter(|b| digits && *b <= max)?;
    Some((ip, bits))
}

/// An address that traffic can be sent to: not unspecified, loopback or link-local.
pub(crate) fn endpoint_ip(text: &str, at: &Path<'_>, errors: &mut Errors) {
    let Some(ip) = sloppy_ip(text) else {
        errors.invalid(at, text, "must be a valid IP address");
        return;
    };
    // Go looks at an IPv4 address in IPv6 clothes as at the IPv4 address.
    let ip = ip.to_canonical();
    if ip.is_unspecified() {
        errors.invalid(at, text, format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        let detail = "may not be in the loopback range (127.0.0.0/8, ::1/128)";
        errors.invalid(at, text, detail);
    }
    let (local, multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (
            ip.is_unicast_link_local(),
            ip.octets()[0] == 0xff && ip.octets()[1] & 0x0f == 2,
        ),
    };
    if local {
        let detail = "may not be in the link-local range (169.254.0.0/16, fe80::/10)";
        errors.invalid(at, text, detail);
    }
    if multicast {
        let detail = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
        errors.invalid(at, text, detail);
    }
}
