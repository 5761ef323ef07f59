//! Counters of network interfaces.

use std::fs;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub name: String,
    pub received: Counters,
    pub sent: Counters,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// The interfaces of the network that a process is in, but for loopback and those that lead to other Pods. Blocking.
pub(crate) fn of_process(pid: i32) -> Vec<Interface> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    parse(&text)
}

/// Whether a process is in the same network as this one.
pub(crate) fn is_ours(pid: i32) -> bool {
    let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/net")).ok();
    of(&pid.to_string()) == of("self")
}

/// The first interface with a route to everywhere.
pub(crate) fn default_name() -> Option<String> {
    let text = fs::read_to_string("/proc/net/route").ok()?;
    text.lines().skip(1).find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?;
        (words.next()? == "00000000").then(|| name.to_owned())
    })
}

fn parse(text: &str) -> Vec<Interface> {
    // SOURCE: cadvisor container/libcontainer/handler.go isIgnoredDevice
    let ignored = |name: &str| {
        ["lo", "veth", "docker", "nerdctl"]
            .iter()
            .any(|p| name.starts_with(p))
    };
    text.lines()
        .skip(2)
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            let name = name.trim();
            let all: Vec<u64> = rest
                .split_ascii_whitespace()
                .map(|n| n.parse().unwrap_or(0))
                .collect();
            if ignored(name) || all.len() != 16 {
                return None;
            }
            let counters = |at: usize| Counters {
                bytes: all[at],
                packets: all[at + 1],
                errors: all[at + 2],
                dropped: all[at + 3],
            };
            Some(Interface {
                name: name.into(),
                received: counters(0),
                sent: counters(8),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read() {
        let text = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    lo:  10       1    0    0    0     0          0         0       10       1    0    0    0     0       0          0\n  eth0: 1000      20    3    4    0     0          0         0     2000      30    5    6    0     0       0          0\n";
        let eth0 = Interface {
            name: "eth0".into(),
            received: Counters {
                bytes: 1000,
                packets: 20,
                errors: 3,
                dropped: 4,
            },
            sent: Counters {
                bytes: 2000,
                packets: 30,
                errors: 5,
                dropped: 6,
            },
        };
        assert_eq!(parse(text), [eth0]);
        assert!(is_ours(std::process::id() as i32));
    }
}
