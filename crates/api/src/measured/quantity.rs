//! Quantities as metrics-server writes them.

use serde_json::Value;

const DECIMAL: [&str; 9] = ["n", "u", "m", "", "k", "M", "G", "T", "P"];
const BINARY: [&str; 6] = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];

fn canonical(mut n: u64, base: u64, suffixes: &[&str], zero: &str) -> String {
    if n == 0 {
        return zero.into();
    }
    let mut at = 0;
    while n.is_multiple_of(base) && at + 1 < suffixes.len() {
        n /= base;
        at += 1;
    }
    format!("{n}{}", suffixes[at])
}

/// CPU in 10⁻⁹ cores, with the largest suffix that leaves no fraction: `1500000n` is `1500u`.
pub fn nano_cores(n: u64) -> String {
    canonical(n, 1000, &DECIMAL, "0")
}

/// Bytes with the largest binary suffix that leaves no fraction.
pub fn binary_bytes(n: u64) -> String {
    canonical(n, 1024, &BINARY, "0")
}

fn read(text: &str, base: u64, suffixes: &[&str]) -> u64 {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let power = suffixes.iter().position(|s| *s == suffix).unwrap_or(0) as u32;
    // zero is written without a suffix
    number
        .parse::<u64>()
        .unwrap_or(0)
        .saturating_mul(base.saturating_pow(power))
}

fn total(o: &Value, key: &str, base: u64, suffixes: &[&str]) -> u64 {
    let one = |v: &Value| read(v["usage"][key].as_str().unwrap_or(""), base, suffixes);
    match o["containers"].as_array() {
        Some(containers) => containers.iter().map(one).sum(),
        None => one(o),
    }
}

/// CPU of a node, or of all containers of a Pod.
pub fn total_cpu(o: &Value) -> Value {
    nano_cores(total(o, "cpu", 1000, &DECIMAL)).into()
}

/// Memory of a node, or of all containers of a Pod.
pub fn total_memory(o: &Value) -> Value {
    binary_bytes(total(o, "memory", 1024, &BINARY)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities_are_canonical() {
        for (n, wanted) in [
            (0, "0"),
            (1, "1n"),
            (1500, "1500n"),
            (1_500_000, "1500u"),
            (250_000_000, "250m"),
            (2_000_000_000, "2"),
            (123_456_789, "123456789n"),
        ] {
            assert_eq!(nano_cores(n), wanted);
            assert_eq!(read(wanted, 1000, &DECIMAL), n);
        }
        for (n, wanted) in [(0, "0"), (1000, "1000"), (12288, "12Ki"), (1 << 30, "1Gi")] {
            assert_eq!(binary_bytes(n), wanted);
            assert_eq!(read(wanted, 1024, &BINARY), n);
        }
    }

    #[test]
    fn containers_are_summed_up() {
        let of = |cpu: &str, memory: &str| json!({"usage": {"cpu": cpu, "memory": memory}});
        let pod = json!({"containers": [of("500u", "1Mi"), of("2m", "1Ki")]});
        assert_eq!(total_cpu(&pod), "2500u");
        assert_eq!(total_memory(&pod), "1025Ki");
        assert_eq!(total_cpu(&of("3", "0")), "3");
    }
}
