//! What `wrk` measures.

use super::{Result, run};
use std::process::Command;

/// Of one run of it.
pub struct Load {
    /// A second.
    pub requests: f64,
    /// The latency of the half, in milliseconds.
    pub half_ms: f64,
    /// The latency of 99 of 100, in milliseconds.
    pub most_ms: f64,
}

/// Asks for `/small` at an address for some seconds.
pub fn load(at: &str, threads: u32, connections: u32, seconds: u64) -> Result<Load> {
    let text = run(Command::new("wrk")
        .arg(format!("--threads={threads}"))
        .arg(format!("--connections={connections}"))
        .arg(format!("--duration={seconds}s"))
        .arg("--latency")
        .arg(format!("http://{at}/small")))?;
    Ok(Load {
        requests: word(&text, "Requests/sec:")?.parse()?,
        half_ms: time(&text, "50%")?,
        most_ms: time(&text, "99%")?,
    })
}

fn word<'a>(text: &'a str, key: &str) -> Result<&'a str> {
    let mut words = text.split_whitespace().skip_while(|w| *w != key).skip(1);
    words
        .next()
        .ok_or_else(|| format!("wrk doesn't say {key}: {text}").into())
}

/// Milliseconds, of wrk's `1.23ms`.
fn time(text: &str, key: &str) -> Result<f64> {
    let word = word(text, key)?;
    for (unit, factor) in [("us", 1e-3), ("ms", 1.0), ("s", 1e3)] {
        if let Some(number) = word.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    Err(format!("{word} is no time").into())
}
