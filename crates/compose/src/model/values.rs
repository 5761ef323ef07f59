//! Durations, sizes and amounts in a tree.

use crate::{Error, tree::Node, units};
use std::time::Duration;

pub(super) fn duration(node: &Node, key: &str) -> Result<Option<Duration>, Error> {
    let Some(at) = node.get(key) else {
        return Ok(None);
    };
    let text = at.scalar().unwrap_or_default();
    units::duration(&text).map(Some).ok_or_else(|| {
        at.error(format!(
            "{key}: time: invalid duration {text:?}, say 10s or 1m30s"
        ))
    })
}

/// In bytes.
pub(super) fn size(node: &Node, key: &str) -> Result<Option<u64>, Error> {
    let Some(at) = node.get(key) else {
        return Ok(None);
    };
    let text = at.scalar().unwrap_or_default();
    units::bytes(&text)
        .map(Some)
        .ok_or_else(|| at.error(format!("{key}: invalid size: '{text}', say 64m or 1gb")))
}

pub(super) fn integer(node: &Node, key: &str) -> Result<Option<i64>, Error> {
    let Some(at) = node.get(key) else {
        return Ok(None);
    };
    let text = at.scalar().unwrap_or_default();
    text.parse()
        .map(Some)
        .map_err(|_| at.error(format!("{key}: {text:?} is not a whole number")))
}

/// Thousandths of a CPU.
pub(super) fn cpus(node: &Node, key: &str) -> Result<Option<u64>, Error> {
    let Some(at) = node.get(key) else {
        return Ok(None);
    };
    let text = at.scalar().unwrap_or_default();
    match text.parse::<f64>() {
        Ok(0.0) => Ok(None),
        Ok(n) if n > 0.0 && n < 100_000.0 => Ok(Some((n * 1000.0).round() as u64)),
        _ => Err(at.error(format!(
            "{key}: {text:?} is not a number of CPUs such as 0.5"
        ))),
    }
}

/// `KEY: value` pairs of a canonical mapping; a null is an empty text.
pub(super) fn pairs(node: &Node, key: &str) -> Vec<(String, String)> {
    node.get(key)
        .and_then(Node::map)
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.scalar().unwrap_or_default()))
        .collect()
}
