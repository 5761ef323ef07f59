//! Names, signals, sizes and times as Docker's clients write them.

use crate::error::{Fault, Result};
use rand::seq::IndexedRandom;

fn restricted(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && name.len() > 1
        && chars.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// A container's name, without the slash.
pub fn container(name: &str) -> Result<String> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    match restricted(bare) {
        true => Ok(bare.to_string()),
        false => Err(Fault::bad(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        ))),
    }
}

pub fn volume(name: &str) -> Result<()> {
    if restricted(name) && !name.contains("..") {
        return Ok(());
    }
    Err(Fault::bad(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

/// A name like Docker's own: how, and who.
pub fn invented() -> String {
    const HOW: [&str; 24] = [
        "bold", "brave", "bright", "busy", "calm", "clever", "eager", "early", "fair", "fresh",
        "gentle", "happy", "keen", "kind", "lucid", "merry", "nimble", "patient", "quick", "quiet",
        "steady", "swift", "warm", "wise",
    ];
    const WHO: [&str; 24] = [
        "amundsen",
        "bering",
        "blyth",
        "brahe",
        "cook",
        "crozier",
        "eriksson",
        "franklin",
        "harald",
        "hudson",
        "larsen",
        "lind",
        "magellan",
        "nansen",
        "nobile",
        "polo",
        "ross",
        "scoresby",
        "shackleton",
        "sverdrup",
        "tasman",
        "tereshkova",
        "vespucci",
        "worsley",
    ];
    let mut rng = rand::rng();
    let pick = |list: &[&'static str], rng: &mut rand::rngs::ThreadRng| {
        list.choose(rng).copied().unwrap_or("x")
    };
    format!("{}_{}", pick(&HOW, &mut rng), pick(&WHO, &mut rng))
}

/// 64 hex digits.
pub fn id() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

const SIGNALS: [(&str, i32); 32] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("IOT", 6),
];

/// `SIGTERM`, `term`, `15`, `RTMIN+3`
pub fn signal(text: &str) -> Result<i32> {
    let invalid = || Fault::bad(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return Some(number)
            .filter(|n| (1..=64).contains(n))
            .ok_or_else(invalid);
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(known) = SIGNALS.iter().find(|(n, _)| *n == name) {
        return Ok(known.1);
    }
    let real_time = |base: i32, rest: &str| match rest {
        "" => Some(base),
        rest => rest.parse::<i32>().ok().map(|offset| base + offset),
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => real_time(34, rest),
        (_, Some(rest)) => real_time(64, rest),
        _ => None,
    };
    number.filter(|n| (34..=64).contains(n)).ok_or_else(invalid)
}

/// As Kubernetes writes it.
pub fn signal_name(number: i32) -> Option<String> {
    let known = SIGNALS.iter().find(|(_, n)| *n == number);
    match known {
        Some((name, _)) => Some(format!("SIG{name}")),
        None if number == 34 => Some("SIGRTMIN".into()),
        None if number == 64 => Some("SIGRTMAX".into()),
        None if (35..=49).contains(&number) => Some(format!("SIGRTMIN+{}", number - 34)),
        None if (50..=63).contains(&number) => Some(format!("SIGRTMAX{}", number - 64)),
        None => None,
    }
}

/// `64m`, `1g`, `512`
pub fn bytes(text: &str) -> Option<i64> {
    let text = text.trim().to_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let (number, factor) = match text.chars().last()? {
        'k' => (&text[..text.len() - 1], 1 << 10),
        'm' => (&text[..text.len() - 1], 1 << 20),
        'g' => (&text[..text.len() - 1], 1i64 << 30),
        't' => (&text[..text.len() - 1], 1i64 << 40),
        _ => (text, 1),
    };
    number
        .trim_end_matches('i')
        .parse::<i64>()
        .ok()?
        .checked_mul(factor)
}

/// Seconds since 1970 with a fraction, or RFC 3339; `0` and nothing are none.
pub fn time(text: &str) -> Result<Option<jiff::Timestamp>> {
    if text.is_empty() || text == "0" {
        return Ok(None);
    }
    let invalid = || Fault::bad(format!("invalid timestamp {text:?}"));
    if text.bytes().next().is_some_and(|b| b.is_ascii_digit()) && !text.contains('-') {
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let nanos = format!("{fraction:0<9}");
        let seconds: i64 = seconds.parse().map_err(|_| invalid())?;
        let nanos: i32 = nanos
            .get(..9)
            .and_then(|n| n.parse().ok())
            .ok_or_else(invalid)?;
        return jiff::Timestamp::new(seconds, nanos)
            .map(Some)
            .map_err(|_| invalid());
    }
    text.parse().map(Some).map_err(|_| invalid())
}

/// What of a name may be part of an object's name in Kubernetes.
pub fn label(name: &str, max: usize) -> String {
    let lower = name.to_lowercase();
    let mapped = lower
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    let text: String = mapped.take(max).collect();
    text.trim_matches('-').to_string()
}

/// As which host name of an endpoint a name is written: itself, or when that is none in Kubernetes, what the platform's
/// name server looks for in its place (`crates/network/src/dns/zone.rs`, `odd_name`). None: nobody can ask for it.
pub fn host_label(name: &str) -> Option<String> {
    let name = name.to_lowercase();
    let label = match name.contains('_') {
        true => format!("us-{}-e", name.replace('_', "-u-")),
        false => name,
    };
    is_dns_label(&label).then_some(label)
}

/// May it be a host name?
pub fn is_dns_label(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 63
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read() {
        for (text, wanted) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("65", None),
            ("0", None),
            ("SIGFOO", None),
            ("RTMIN+99", None),
        ] {
            assert_eq!(signal(text).ok(), wanted, "{text}");
        }
        for number in 1..=31 {
            let name = signal_name(number).unwrap();
            assert_eq!(signal(&name).unwrap(), number);
        }
    }

    #[test]
    fn names_become_host_names() {
        for (name, wanted) in [
            ("web", Some("web")),
            ("Web-1", Some("web-1")),
            ("my_db", Some("us-my-u-db-e")),
            ("_x_", Some("us--u-x-u--e")),
            ("a.b", None),
            ("", None),
        ] {
            assert_eq!(host_label(name).as_deref(), wanted, "{name}");
        }
    }

    #[test]
    fn names_are_checked() {
        for (name, ok) in [
            ("web", true),
            ("/web", true),
            ("a", false),
            ("", false),
            ("-a", false),
            ("a b", false),
            ("A_b.c-1", true),
        ] {
            assert_eq!(container(name).is_ok(), ok, "{name}");
        }
        assert!(container(&invented()).is_ok());
    }

    #[test]
    fn sizes_and_times_are_read() {
        for (text, wanted) in [
            ("64m", Some(64 << 20)),
            ("1GB", Some(1 << 30)),
            ("512", Some(512)),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(bytes(text), wanted, "{text}");
        }
        for (text, wanted) in [
            ("", Some(None)),
            ("0", Some(None)),
            ("1700000000", Some(Some("2023-11-14T22:13:20Z"))),
            ("1700000000.5", Some(Some("2023-11-14T22:13:20.5Z"))),
            ("2023-11-14T22:13:20Z", Some(Some("2023-11-14T22:13:20Z"))),
            ("yesterday", None),
        ] {
            let got = time(text).ok().map(|t| t.map(|t| t.to_string()));
            assert_eq!(got, wanted.map(|w| w.map(str::to_string)), "{text}");
        }
    }
}
