//! `healthcheck:` → probes.
//!
//! Docker's health decides who may be depended on and who gets traffic, and restarts nobody: that is readiness.
//! A test that only asks a local URL (`curl -f http://localhost:80/x`) becomes an HTTP probe: the same question,
//! without a process for each answer, and it works in images that have no curl.

use crate::{Error, model::HealthCheck, tree::Node, units};
use serde_json::{Value, json};
use std::time::Duration;

/// While a container starts it is asked at least this often: who waits for it should not wait for the interval.
const START_INTERVAL_MAX: Duration = Duration::from_secs(2);
/// A start may take as long as it likes; who waits has a deadline of its own.
const START_FAILURES_MAX: i64 = 1_000_000;

/// A health check. None: the image's, or Docker's default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// `CMD …` or `CMD-SHELL LINE`.
    pub test: Option<Vec<String>>,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    pub retries: Option<i64>,
    pub start_period: Option<Duration>,
    pub start_interval: Option<Duration>,
}

pub(crate) fn health(node: Option<&Node>) -> Result<HealthCheck, Error> {
    let Some(node) = node else {
        return Ok(HealthCheck::Image);
    };
    let test = node.get("test").map(Node::texts).filter(|t| !t.is_empty());
    if node.bool_of("disable") || test.as_ref().is_some_and(|t| t[0] == "NONE") {
        return Ok(HealthCheck::Disabled);
    }
    if let (Some(words), Some(at)) = (&test, node.get("test"))
        && words.len() < 2
    {
        return Err(at.error("healthcheck.test has nothing to run"));
    }
    let time = |key: &str| -> Result<Option<Duration>, Error> {
        let Some(at) = node.get(key) else {
            return Ok(None);
        };
        let text = at.scalar().unwrap_or_default();
        let found = units::duration(&text).ok_or_else(|| {
            at.error(format!(
                "healthcheck.{key}: {text:?} is not a duration such as 10s or 1m30s"
            ))
        })?;
        // Docker takes 0 for unsaid.
        Ok(Some(found).filter(|d| !d.is_zero()))
    };
    Ok(HealthCheck::Own(Health {
        test,
        interval: time("interval")?,
        timeout: time("timeout")?,
        retries: node
            .text_of("retries")
            .and_then(|r| r.parse().ok())
            .filter(|r| *r > 0),
        start_period: time("start_period")?,
        start_interval: time("start_interval")?,
    }))
}

impl HealthCheck {
    /// What is asked in the end, given the image's own check; None: nothing.
    pub(crate) fn resolve(&self, image: Option<&Health>) -> Option<Health> {
        match self {
            HealthCheck::Disabled => None,
            HealthCheck::Image => image.filter(|i| i.words().is_some()).cloned(),
            HealthCheck::Own(own) => {
                let base = image.cloned().unwrap_or_default();
                let merged = Health {
                    test: own.test.clone().or(base.test),
                    interval: own.interval.or(base.interval),
                    timeout: own.timeout.or(base.timeout),
                    retries: own.retries.or(base.retries),
                    start_period: own.start_period.or(base.start_period),
                    start_interval: own.start_interval.or(base.start_interval),
                };
                merged.words().is_some().then_some(merged)
            }
        }
    }
}

impl Health {
    /// The command to run; None: there is none.
    fn words(&self) -> Option<Vec<String>> {
        let (kind, rest) = self.test.as_ref()?.split_first()?;
        match (kind.as_str(), rest) {
            ("CMD", rest) if !rest.is_empty() => Some(rest.to_vec()),
            ("CMD-SHELL", rest) if !rest.is_empty() => {
                let line = rest.join(" ");
                Some(
                    simple_words(&line)
                        .unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into(), line]),
                )
            }
            _ => None,
        }
    }

    /// How long Docker would ask a container that never answers well until it calls it unhealthy, and how often.
    pub(crate) fn patience(&self) -> (Duration, i64) {
        let times = self.retries.unwrap_or(3);
        let interval = self.interval.unwrap_or(Duration::from_secs(30));
        let all = interval.saturating_mul(u32::try_from(times).unwrap_or(u32::MAX));
        (
            all.saturating_add(self.start_period.unwrap_or_default()),
            times,
        )
    }

    /// core/v1 Probes: (readiness, startup).
    pub(crate) fn probes(&self) -> (Value, Option<Value>) {
        let words = self.words().unwrap_or_default();
        let seconds = |d: Duration| d.as_secs_f64().ceil().max(1.0) as i64;
        let interval = self.interval.unwrap_or(Duration::from_secs(30));
        let mut readiness = json!({
            "periodSeconds": seconds(interval),
            "timeoutSeconds": seconds(self.timeout.unwrap_or(Duration::from_secs(30))),
            "failureThreshold": self.retries.unwrap_or(3),
        });
        match local_url(&words) {
            Some((port, path)) => readiness["httpGet"] = json!({ "port": port, "path": path }),
            None => {
                let literal: Vec<String> =
                    words.iter().map(|w| crate::translate::literal(w)).collect();
                readiness["exec"] = json!({ "command": literal });
            }
        }
        let start = self
            .start_interval
            .unwrap_or(START_INTERVAL_MAX)
            .min(interval);
        let startup = (start < interval).then(|| {
            let mut startup = readiness.clone();
            startup["periodSeconds"] = json!(seconds(start));
            startup["failureThreshold"] = json!(START_FAILURES_MAX);
            startup
        });
        (readiness, startup)
    }
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
