//! What a file says of a container's network interface. A container has one, whatever networks it is in.

use crate::{
    Error,
    tree::{Node, Value},
};

/// The hardware address, as `02:42:ac:11:00:02`.
///
/// Source: docker/compose `prepareContainerMACAddress`; Docker's words for what has no interface of its own.
pub(super) fn mac(name: &str, node: &Node) -> Result<Option<String>, Error> {
    let mut found: Option<(String, String)> = None;
    for (place, at) in said(name, node, "mac_address") {
        let text = at.scalar().unwrap_or_default();
        let Some(mac) = parse(&text) else {
            return Err(at.error(format!("{place}: invalid MAC address {text:?}")));
        };
        let mode = node.text_of("network_mode").unwrap_or_default();
        if mode == "host" || mode == "none" || mode.contains(':') {
            return Err(at.error(format!(
                "{place}: conflicting options: mac-address and the network mode {mode:?}"
            )));
        }
        match &found {
            Some((other, known)) if *known != mac => {
                return Err(at.error(format!(
                    "{place}: knarr cannot honour it beside {other}: a container has one interface, with one MAC address"
                )));
            }
            Some(_) => {}
            None => found = Some((place, mac)),
        }
    }
    Ok(found.map(|(_, mac)| mac))
}

/// What the interface is called.
pub(super) fn interface(name: &str, node: &Node) -> Result<Option<String>, Error> {
    let mut found: Option<(String, String)> = None;
    for (place, at) in said(name, node, "interface_name") {
        let text = at.scalar().unwrap_or_default();
        let plain = |b: u8| b.is_ascii_graphic() && !b"/:%".contains(&b);
        let fits = text.len() <= INTERFACE_BYTES_MAX && text.bytes().all(plain);
        if !fits || matches!(text.as_str(), "." | ".." | "lo" | "all" | "default") {
            return Err(at.error(format!(
                "{place}: {text:?} can't be the name of an interface: up to {INTERFACE_BYTES_MAX} letters, digits, - and ."
            )));
        }
        match &found {
            Some((other, known)) if *known != text => {
                return Err(at.error(format!(
                    "{place}: knarr cannot honour it beside {other}: a container has one interface"
                )));
            }
            _ => found = Some((place, text)),
        }
    }
    Ok(found.map(|(_, name)| name))
}

/// The longest name that the kernel takes.
const INTERFACE_BYTES_MAX: usize = 15;

/// Where a key stands, of the service itself and of its networks, and what it says.
fn said<'a>(
    name: &'a str,
    node: &'a Node,
    key: &'static str,
) -> impl Iterator<Item = (String, &'a Node)> {
    let own = node
        .get(key)
        .map(|at| (format!("services.{name}.{key}"), at));
    let networks = node.get("networks").map(Node::entries);
    let of_networks = networks.into_iter().flatten();
    let of_networks = of_networks.filter_map(move |(network, of)| {
        let at = of.get(key)?;
        Some((format!("services.{name}.networks.{network}.{key}"), at))
    });
    let is_said =
        |at: &Node| !matches!(&at.value, Value::Null) && at.scalar().as_deref() != Some("");
    own.into_iter()
        .chain(of_networks)
        .filter(move |(_, at)| is_said(at))
}

/// Six bytes as Go's `net.ParseMAC` reads them (`02:42:ac:11:00:02`, `02-42-…`, `0242.ac11.0002`), which an interface can
/// have: none of a group, and not all zero.
fn parse(text: &str) -> Option<String> {
    let digits = |parts: Vec<&str>, each: usize| {
        let hex = |p: &&str| p.len() == each && p.bytes().all(|b| b.is_ascii_hexdigit());
        (parts.len() * each == 12 && parts.iter().all(hex)).then(|| parts.concat())
    };
    let all = digits(text.split(':').collect(), 2)
        .or_else(|| digits(text.split('-').collect(), 2))
        .or_else(|| digits(text.split('.').collect(), 4))?
        .to_lowercase();
    let bytes: Vec<&str> = (0..6).map(|i| &all[2 * i..2 * i + 2]).collect();
    let first = u8::from_str_radix(bytes[0], 16).ok()?;
    let is_one = first & 1 == 0 && bytes.iter().any(|b| *b != "00");
    is_one.then(|| bytes.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_addresses_an_interface_can_have() {
        for (text, wanted) in [
            ("02:42:AC:11:00:02", Some("02:42:ac:11:00:02")),
            ("02-42-ac-11-00-02", Some("02:42:ac:11:00:02")),
            ("0242.ac11.0002", Some("02:42:ac:11:00:02")),
            ("02:42:ac:11:00", None),
            ("02:42:ac:11:00:0g", None),
            ("02:42-ac:11:00:02", None),
            ("02:42:ac:11:00:02:03:04", None),
            ("03:42:ac:11:00:02", None),
            ("00:00:00:00:00:00", None),
            ("\u{e4}2:42:ac:11:00:02", None),
            ("", None),
        ] {
            assert_eq!(parse(text).as_deref(), wanted, "{text}");
        }
    }
}
