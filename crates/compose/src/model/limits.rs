//! Limits that Docker sets on a container's cgroup and Kubernetes has no fields for; knarr's node reads them from an annotation.
//! What there is no cgroup for on this machine, the kernel is not asked for, as with Docker. Disks are named by their paths:
//! which devices these are is a question to the machine, for whoever applies it there.

use super::values;
use crate::{Error, tree::Node, units};
use serde_json::{Map, Value, json};

/// The settings, and the keys that other clusters know nothing of.
pub(super) fn limits(node: &Node) -> Result<(Map<String, Value>, Vec<String>), Error> {
    let mut all = Map::new();
    let mut keys = Vec::new();
    let mut put = |key: &str, name: &str, value: Value| {
        all.insert(name.into(), value);
        keys.push(key.to_string());
    };
    if let Some(cpus) = node.text_of("cpuset").filter(|c| !c.is_empty()) {
        let plain = |b: u8| b.is_ascii_digit() || b == b',' || b == b'-';
        if !cpus.bytes().all(plain) {
            return Err(node
                .get("cpuset")
                .unwrap_or(node)
                .error(format!("cpuset: {cpus:?} is no list of CPUs such as 0-2,5")));
        }
        put("cpuset", "cpusetCpus", json!(cpus));
    }
    if let Some(shares) = values::integer(node, "cpu_shares")?.filter(|s| *s > 0) {
        put("cpu_shares", "cpuShares", json!(shares));
    }
    if let Some(at) = node.get("memswap_limit") {
        let text = at.scalar().unwrap_or_default();
        match text.as_str() {
            "" | "0" => {}
            "-1" => put("memswap_limit", "memorySwapBytes", json!(-1)),
            _ => {
                let size = values::size(node, "memswap_limit")?;
                put("memswap_limit", "memorySwapBytes", json!(size));
            }
        }
    }
    if let Some(at) = node.get("mem_swappiness") {
        let value = values::integer(node, "mem_swappiness")?.unwrap_or(-1);
        if !(-1..=100).contains(&value) {
            return Err(at.error(format!(
                "mem_swappiness: Invalid value: {value}, valid memory swappiness range is 0-100"
            )));
        }
        if value >= 0 {
            put("mem_swappiness", "memorySwappiness", json!(value));
        }
    }
    if let Some(soft) = values::size(node, "mem_reservation")?.filter(|b| *b > 0) {
        put("mem_reservation", "memorySoftBytes", json!(soft));
    }
    if node.bool_of("oom_kill_disable") {
        put("oom_kill_disable", "oomKillDisable", json!(true));
    }
    if let Some(io) = node.get("blkio_config") {
        let io = blkio(io)?;
        if !io.is_empty() {
            put("blkio_config", "io", Value::Object(io));
        }
    }
    let logging = node.get("logging");
    let driver = logging
        .and_then(|l| l.text_of("driver"))
        .unwrap_or_default();
    if matches!(driver.as_str(), "" | "json-file" | "local")
        && let Some(options) = logging.and_then(|l| l.get("options"))
    {
        if let Some(at) = options.get("max-size") {
            let text = at.scalar().unwrap_or_default();
            let size = units::bytes(&text).filter(|s| *s > 0);
            let size = size.ok_or_else(|| {
                at.error(format!("logging.options.max-size: invalid size: '{text}'"))
            })?;
            all.insert("logMaxBytes".into(), json!(size));
        }
        if let Some(files) = values::integer(options, "max-file")? {
            all.insert("logFilesMax".into(), json!(files.clamp(1, 1000)));
        }
    }
    Ok((all, keys))
}

fn blkio(node: &Node) -> Result<Map<String, Value>, Error> {
    let mut all = Map::new();
    if let Some(weight) = values::integer(node, "weight")?.filter(|w| *w != 0) {
        if !(10..=1000).contains(&weight) {
            return Err(node
                .get("weight")
                .unwrap_or(node)
                .error("blkio_config.weight: Range of blkio weight is from 10 to 1000"));
        }
        all.insert("weight".into(), json!(weight));
    }
    for (key, name, amount) in [
        ("weight_device", "weights", "weight"),
        ("device_read_bps", "read_bps", "rate"),
        ("device_write_bps", "write_bps", "rate"),
        ("device_read_iops", "read_iops", "rate"),
        ("device_write_iops", "write_iops", "rate"),
    ] {
        let items = node.get(key).map(Node::items).unwrap_or_default();
        let mut list = Vec::new();
        for item in items {
            let path = item.text_of("path").unwrap_or_default();
            let bytes = key.ends_with("bps");
            let rate = match bytes {
                true => values::size(item, amount)?,
                false => values::integer(item, amount)?.and_then(|n| u64::try_from(n).ok()),
            };
            list.push(json!({ "path": path, "rate": rate.unwrap_or_default() }));
        }
        if !list.is_empty() {
            all.insert(name.into(), json!(list));
        }
    }
    Ok(all)
}
