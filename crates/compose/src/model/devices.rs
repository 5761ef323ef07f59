//! The machine's devices that a container may use.

use crate::{Error, tree::Node};

/// Source, target, and what of `r`, `w` and `m` it may do.
pub(super) fn devices(node: &Node) -> Result<Vec<(String, String, String)>, Error> {
    let mut devices = Vec::new();
    for device in node.get("devices").map(Node::items).unwrap_or_default() {
        let source = device.text_of("source").unwrap_or_default();
        if !source.starts_with('/') {
            return Err(device.error(format!(
                "devices: {source:?}: knarr has no CDI devices: name a device file"
            )));
        }
        devices.push((
            source.clone(),
            device.text_of("target").unwrap_or(source),
            device.text_of("permissions").unwrap_or("rwm".into()),
        ));
    }
    Ok(devices)
}

/// `device_cgroup_rules`, in Docker's words for others.
pub(super) fn rules(node: &Node) -> Result<Vec<String>, Error> {
    let is_rule = |text: &str| {
        let mut words = text.split(' ');
        let mut next = || words.next().unwrap_or_default();
        let (kind, numbers, access) = (next(), next(), next());
        let number = |n: &str| n == "*" || (!n.starts_with('+') && n.parse::<u32>().is_ok());
        let numbers = numbers.split_once(':');
        matches!(kind, "a" | "b" | "c")
            && numbers.is_some_and(|(major, minor)| number(major) && number(minor))
            && (1..=3).contains(&access.len())
            && access.bytes().all(|b| b"rwm".contains(&b))
            && words.next().is_none()
    };
    let rules = node.get("device_cgroup_rules").map(Node::items);
    let read = |at: &Node| {
        let text = at.scalar().unwrap_or_default();
        match is_rule(&text) {
            true => Ok(text),
            false => Err(at.error(format!(
                "device_cgroup_rules: invalid device cgroup rule format: '{text}'"
            ))),
        }
    };
    rules.unwrap_or_default().iter().map(read).collect()
}
