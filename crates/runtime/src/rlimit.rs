//! Limits of a process, by Docker's names for them.

use std::str::FromStr;

use rustix::process::Resource;
use serde::{Deserialize, Serialize};

/// See `getrlimit(2)`. None: no limit.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Rlimit {
    /// as `ulimit` of Docker and systemd call it: `nofile`, `core`, …
    pub name: String,
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

impl FromStr for Rlimit {
    type Err = String;

    /// `nofile=1024:2048`, or one number for both; -1 is no limit. Source: docker/go-units ParseUlimit.
    fn from_str(text: &str) -> Result<Rlimit, String> {
        let bad = || format!("invalid ulimit argument: {text}: expected TYPE=SOFT[:HARD]");
        let (name, values) = text.split_once('=').ok_or_else(bad)?;
        if resource(name).is_none() {
            return Err(format!("invalid ulimit type: {name}"));
        }
        let number = |text: &str| match text {
            "-1" | "unlimited" => Ok(None),
            number => number.parse().map(Some).map_err(|_| bad()),
        };
        let (soft, hard) = match values.split_once(':') {
            Some((soft, hard)) => (number(soft)?, number(hard)?),
            None => (number(values)?, number(values)?),
        };
        if hard.is_some_and(|hard| soft.is_none_or(|soft| soft > hard)) {
            return Err(format!(
                "ulimit soft limit must be less than or equal to hard limit: {text}"
            ));
        }
        let name = name.to_owned();
        Ok(Rlimit { name, soft, hard })
    }
}

/// A resource by the name that Docker's `--ulimit` has for it.
pub(crate) fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}

/// What of it one may have who may not raise the hard limit. None: no limit.
pub(crate) fn at_most(
    wanted: rustix::process::Rlimit,
    most: Option<u64>,
) -> rustix::process::Rlimit {
    let Some(most) = most else {
        return wanted;
    };
    let least = |n: Option<u64>| Some(n.map_or(most, |n| n.min(most)));
    rustix::process::Rlimit {
        current: least(wanted.current),
        maximum: least(wanted.maximum),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_as_docker_takes_them() {
        for (text, wanted) in [
            ("nofile=1024:2048", Some((Some(1024), Some(2048)))),
            ("nofile=1024", Some((Some(1024), Some(1024)))),
            ("core=-1", Some((None, None))),
            ("core=5:-1", Some((Some(5), None))),
            ("core=-1:5", None),
            ("nofile=3:2", None),
            ("nofile=many", None),
            ("nofile", None),
            ("files=3", None),
        ] {
            let got = text.parse::<Rlimit>().ok().map(|l| (l.soft, l.hard));
            assert_eq!(got, wanted, "{text}");
        }
    }

    #[test]
    fn the_closest_where_it_may_not_be_raised() {
        for (wanted, most, want) in [
            ((None, None), Some(8), (Some(8), Some(8))),
            ((Some(4), None), Some(8), (Some(4), Some(8))),
            ((Some(9), Some(20)), Some(8), (Some(8), Some(8))),
            ((Some(2), Some(3)), Some(8), (Some(2), Some(3))),
            ((None, None), None, (None, None)),
        ] {
            let (current, maximum) = wanted;
            let got = at_most(rustix::process::Rlimit { current, maximum }, most);
            assert_eq!((got.current, got.maximum), want, "{wanted:?} {most:?}");
        }
    }
}
