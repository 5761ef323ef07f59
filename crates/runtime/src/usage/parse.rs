//! The formats of cgroup files.

use super::{IoUsage, Pressure, Stall};

/// Lines of `key value`.
pub(super) struct Keyed<'a>(&'a str);

pub(super) fn keyed(text: &str) -> Keyed<'_> {
    Keyed(text)
}

impl Keyed<'_> {
    pub(super) fn find(&self, key: &str) -> Option<u64> {
        self.0
            .lines()
            .filter_map(|l| l.split_once(' '))
            .find(|(k, _)| *k == key)
            .and_then(|(_, v)| v.trim().parse().ok())
    }
    /// 0 when it isn't there.
    pub(super) fn get(&self, key: &str) -> u64 {
        self.find(key).unwrap_or(0)
    }
}

/// `max`, and on v1 what is as much as there can be, is no limit.
pub(super) fn limit(text: &str) -> Option<u64> {
    /// v1's largest limit: `LONG_MAX` rounded down to a page
    const NONE: u64 = 0x7fff_ffff_ffff_0000;
    text.trim().parse().ok().filter(|n| *n < NONE)
}

fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn entry(list: &mut Vec<IoUsage>, device: (u64, u64)) -> &mut IoUsage {
    let at = list
        .iter()
        .position(|d| (d.major, d.minor) == device)
        .unwrap_or_else(|| {
            list.push(IoUsage {
                major: device.0,
                minor: device.1,
                ..IoUsage::default()
            });
            list.len() - 1
        });
    &mut list[at]
}

/// v2's `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`.
pub(super) fn io_stat(text: &str) -> Vec<IoUsage> {
    let mut list = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(at) = words.next().and_then(device) else {
            continue;
        };
        let used = entry(&mut list, at);
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => used.read_bytes = value,
                "wbytes" => used.write_bytes = value,
                "rios" => used.reads = value,
                "wios" => used.writes = value,
                _ => {}
            }
        }
    }
    list
}

/// v1's `blkio.*`: `8:0 Read 1` lines, of bytes or of operations.
pub(super) fn blkio(text: &str, list: &mut Vec<IoUsage>, bytes: bool) {
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(at), Some(kind), Some(value)) =
            (words.next().and_then(device), words.next(), words.next())
        else {
            continue;
        };
        let value: u64 = value.parse().unwrap_or(0);
        let used = entry(list, at);
        match (kind, bytes) {
            ("Read", true) => used.read_bytes = value,
            ("Write", true) => used.write_bytes = value,
            ("Read", false) => used.reads = value,
            ("Write", false) => used.writes = value,
            _ => {}
        }
    }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same of `full`.
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let mut all = Pressure::default();
    let mut known = false;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let stall: &mut Stall = match words.next() {
            Some("some") => &mut all.some,
            Some("full") => &mut all.full,
            _ => continue,
        };
        known = true;
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            match key {
                "avg10" => stall.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => stall.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => stall.avg300 = value.parse().unwrap_or(0.0),
                "total" => stall.total_us = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    known.then_some(all)
}
