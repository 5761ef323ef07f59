//! `healthcheck:` → a readiness probe.
//!
//! Docker's health decides who may be depended on and who gets traffic, and restarts nobody: that is readiness.
//! A test that only asks a local URL (`curl -f http://localhost:80/x`) becomes an HTTP probe: the same question,
//! without a process for each answer, and it works in images that have no curl.

use crate::{Error, node::Node, units};
use serde_json::{Value, json};
use std::time::Duration;

/// Parsed `healthcheck:`. Times are the specification's defaults where not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub test: Vec<String>,
    pub interval: Duration,
    pub timeout: Duration,
    pub retries: i64,
    pub start_period: Duration,
}

pub(crate) fn health(node: &Node<'_>) -> Result<Option<Health>, Error> {
    node.check_keys(
        &[
            "test",
            "interval",
            "timeout",
            "retries",
            "start_period",
            "start_interval",
            "disable",
        ],
        &[],
    )?;
    if node.is_null() || node.get("disable").boolean()? == Some(true) {
        return Ok(None);
    }
    let test = node.get("test");
    let words = match test.value {
        Value::String(s) => vec!["CMD-SHELL".to_string(), s.clone()],
        _ => test.strings()?,
    };
    let test = match words.split_first().map(|(f, rest)| (f.as_str(), rest)) {
        Some(("NONE", _)) => return Ok(None),
        Some(("CMD", rest)) if !rest.is_empty() => rest.to_vec(),
        Some(("CMD-SHELL", [line])) => {
            simple_words(line).unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into(), line.clone()])
        }
        _ => {
            return Err(
                test.error("expected a string, or a list that starts with CMD, CMD-SHELL or NONE")
            );
        }
    };
    let time = |key: &str, default: u64| -> Result<Duration, Error> {
        let n = node.get(key);
        match n.string()? {
            None => Ok(Duration::from_secs(default)),
            Some(t) => units::duration(&t)
                .ok_or_else(|| n.error(format!("{t:?} is not a duration such as 10s or 1m30s"))),
        }
    };
    time("start_interval", 5)?;
    Ok(Some(Health {
        test,
        interval: time("interval", 30)?,
        timeout: time("timeout", 30)?,
        retries: node.get("retries").integer()?.unwrap_or(3).max(1),
        start_period: time("start_period", 0)?,
    }))
}

/// A shell line that is one plain curl or wget call, give or take `|| exit 1`.
fn simple_words(line: &str) -> Option<Vec<String>> {
    let line = line.trim().trim_end_matches("|| exit 1").trim();
    let plain = line
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b" -_/:.?=".contains(&b));
    let words: Vec<String> = line.split_whitespace().map(String::from).collect();
    (plain && local_url(&words).is_some()).then_some(words)
}

/// The port and path when the words are `curl`/`wget` with harmless flags and one URL on this host.
fn local_url(words: &[String]) -> Option<(u16, String)> {
    let (program, arguments) = words.split_first()?;
    let flags: &[&str] = match program.rsplit('/').next()? {
        "curl" => &[
            "-f",
            "-s",
            "-S",
            "-fs",
            "-fsS",
            "-sf",
            "-sSf",
            "-fS",
            "--fail",
            "--silent",
            "--show-error",
        ],
        "wget" => &[
            "-q",
            "-qO-",
            "-O-",
            "--spider",
            "--quiet",
            "--tries=1",
            "--no-verbose",
            "-nv",
        ],
        _ => return None,
    };
    let (options, urls): (Vec<&String>, Vec<&String>) =
        arguments.iter().partition(|a| a.starts_with('-'));
    let [url] = urls[..] else { return None };
    // Without --fail curl calls any answer a success, so that is another question.
    let fails = program.ends_with("wget")
        || options
            .iter()
            .any(|o| *o == "--fail" || (!o.starts_with("--") && o.contains('f')));
    if !fails || !options.iter().all(|o| flags.contains(&o.as_str())) {
        return None;
    }
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = authority.split_once(':').unwrap_or((authority, "80"));
    matches!(host, "localhost" | "127.0.0.1").then_some(())?;
    Some((port.parse().ok()?, format!("/{path}")))
}

impl Health {
    /// core/v1 Probe.
    pub(crate) fn probe(&self) -> Value {
        let seconds = |d: Duration| d.as_secs_f64().ceil().max(1.0) as i64;
        let mut probe = json!({
            "periodSeconds": seconds(self.interval),
            "timeoutSeconds": seconds(self.timeout),
            "failureThreshold": self.retries,
        });
        match local_url(&self.test) {
            Some((port, path)) => probe["httpGet"] = json!({ "port": port, "path": path }),
            None => probe["exec"] = json!({ "command": self.test }),
        }
        probe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_urls_are_told_from_other_tests() {
        for (words, want) in [
            (
                "curl -f http://localhost:8080/healthz",
                Some((8080, "/healthz")),
            ),
            ("wget -qO- http://127.0.0.1/", Some((80, "/"))),
            ("curl http://localhost/", None),
            ("curl -f http://other/", None),
            ("curl -f -X POST http://localhost/", None),
            ("curl -f https://localhost/", None),
            ("redis-cli ping", None),
        ] {
            let words: Vec<String> = words.split(' ').map(String::from).collect();
            assert_eq!(
                local_url(&words),
                want.map(|(p, s)| (p, s.to_string())),
                "{words:?}"
            );
        }
    }
}
