//! The image configuration as a Dockerfile changes it (Docker image spec 1.3, OCI image-spec `config.md`).
//!
//! What an instruction writes into the history is BuildKit's wording, to the letter (`dockerfile2llb/convert.go`).

use std::collections::BTreeMap;

use knarr_dockerfile::{Health, Platform};
use serde::{Deserialize, Serialize};

/// SOURCE: buildkit util/system DefaultPathEnvUnix
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// SOURCE: dockerfile2llb historyComment
const COMMENT: &str = "buildkit.dockerfile.v0";

type Set = BTreeMap<String, Empty>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Empty {}

fn no<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Doc {
    #[serde(default, skip_serializing_if = "no")]
    pub created: Option<String>,
    #[serde(default, skip_serializing_if = "no")]
    pub author: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default, rename = "os.version", skip_serializing_if = "no")]
    pub os_version: String,
    #[serde(default, rename = "os.features", skip_serializing_if = "no")]
    pub os_features: Vec<String>,
    #[serde(default, skip_serializing_if = "no")]
    pub variant: String,
    #[serde(default, deserialize_with = "or_default")]
    pub config: Config,
    #[serde(default)]
    pub rootfs: RootFs,
    #[serde(default, deserialize_with = "or_default")]
    pub history: Vec<History>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootFs {
    pub r#type: String,
    #[serde(default, deserialize_with = "or_default")]
    pub diff_ids: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Config {
    #[serde(skip_serializing_if = "no", deserialize_with = "or_default")]
    pub user: String,
    #[serde(skip_serializing_if = "no", deserialize_with = "or_default")]
    pub exposed_ports: Set,
    #[serde(skip_serializing_if = "no", deserialize_with = "or_default")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "no", deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    #[serde(skip_serializing_if = "no", deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    #[serde(skip_serializing_if = "no", deserialize_with = "or_default")]
    pub volumes: Set,
    #[serde(skip_serializing_if = "no", deserialize_with = "or_default")]
    pub working_dir: String,
    #[serde(skip_serializing_if = "no", deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "no", deserialize_with = "or_default")]
    pub stop_signal: String,
    #[serde(skip_serializing_if = "no", deserialize_with = "or_default")]
    pub args_escaped: bool,
    #[serde(skip_serializing_if = "no", deserialize_with = "or_default")]
    pub healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "no", deserialize_with = "or_default")]
    pub on_build: Vec<String>,
    #[serde(skip_serializing_if = "no", deserialize_with = "or_default")]
    pub shell: Vec<String>,
}

/// Times in nanoseconds; 0 is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Healthcheck {
    #[serde(skip_serializing_if = "no", deserialize_with = "or_default")]
    pub test: Vec<String>,
    #[serde(skip_serializing_if = "no")]
    pub interval: u64,
    #[serde(skip_serializing_if = "no")]
    pub timeout: u64,
    #[serde(skip_serializing_if = "no")]
    pub start_period: u64,
    #[serde(skip_serializing_if = "no")]
    pub start_interval: u64,
    #[serde(skip_serializing_if = "no")]
    pub retries: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct History {
    #[serde(skip_serializing_if = "no")]
    pub created: Option<String>,
    #[serde(skip_serializing_if = "no")]
    pub created_by: String,
    #[serde(skip_serializing_if = "no")]
    pub author: String,
    #[serde(skip_serializing_if = "no")]
    pub comment: String,
    #[serde(skip_serializing_if = "no")]
    pub empty_layer: bool,
}

/// `null` where nothing is.
fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

impl Doc {
    /// Of `scratch`.
    pub(crate) fn empty(platform: &Platform) -> Doc {
        Doc {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            rootfs: RootFs {
                r#type: "layers".into(),
                diff_ids: vec![],
            },
            config: Config {
                env: vec![format!("PATH={PATH}")],
                working_dir: "/".into(),
                ..Config::default()
            },
            ..Doc::default()
        }
    }
    pub(crate) fn history(&mut self, created_by: impl Into<String>, layer: bool) {
        self.history.push(History {
            created_by: created_by.into(),
            comment: COMMENT.into(),
            empty_layer: !layer,
            ..History::default()
        });
    }
    /// What shell form runs in.
    pub(crate) fn shell(&self, line: &str) -> Vec<String> {
        let mut all = match self.config.shell.as_slice() {
            [] => vec!["/bin/sh".to_owned(), "-c".to_owned()],
            own => own.to_vec(),
        };
        all.push(line.to_owned());
        all
    }
    pub(crate) fn health(&mut self, health: &Health) {
        let ns = |ms: u64| ms.saturating_mul(1_000_000);
        let text = format!(
            "HEALTHCHECK &{{{} {:?} {:?} {:?} {:?} {}}}",
            go_list(&health.test),
            go_duration(ns(health.interval_ms)),
            go_duration(ns(health.timeout_ms)),
            go_duration(ns(health.start_period_ms)),
            go_duration(ns(health.start_interval_ms)),
            go_rune(health.retries),
        );
        self.config.healthcheck = Some(Healthcheck {
            test: health.test.clone(),
            interval: ns(health.interval_ms),
            timeout: ns(health.timeout_ms),
            start_period: ns(health.start_period_ms),
            start_interval: ns(health.start_interval_ms),
            retries: health.retries,
        });
        self.history(text, false);
    }

    /// Gives each entry of the history a time, and the image its own: what was made has the time it was made at (`layers`,
    /// one for each entry with a layer), the rest that of the layer before, or of the first new one.
    /// SOURCE: buildkit exporter/containerimage/writer.go normalizeLayersAndHistory, patchImageConfig
    pub(crate) fn date(&mut self, layers: &[String], epoch: Option<&str>, base_entries: usize) {
        let mut times = layers.iter();
        for entry in &mut self.history {
            if !entry.empty_layer {
                let time = times.next();
                if entry.created.is_none() {
                    entry.created = time.cloned();
                }
            }
        }
        let (mut created, mut missing) = (None, false);
        for entry in &self.history {
            match &entry.created {
                Some(time) => {
                    created = Some(time.clone());
                    if missing {
                        break;
                    }
                }
                None => missing = true,
            }
        }
        let mut missing = false;
        for entry in &mut self.history {
            match &entry.created {
                Some(time) if missing => created = Some(time.clone()),
                Some(_) => {}
                None => {
                    missing = true;
                    entry.created = created.clone();
                }
            }
        }
        if let Some(epoch) = epoch {
            for entry in self.history.iter_mut().skip(base_entries) {
                if entry.created.as_deref().is_none_or(|t| later(t, epoch)) {
                    entry.created = Some(epoch.to_owned());
                }
            }
        }
        self.created = self.history.iter().rev().find_map(|h| h.created.clone());
        if let (None, Some(epoch)) = (&self.created, epoch) {
            self.created = Some(epoch.to_owned());
        }
    }
}

fn later(one: &str, other: &str) -> bool {
    match (
        one.parse::<jiff::Timestamp>(),
        other.parse::<jiff::Timestamp>(),
    ) {
        (Ok(one), Ok(other)) => one > other,
        _ => false,
    }
}

/// Seconds since 1970 as RFC 3339.
pub(crate) fn time_text(seconds: i64) -> Option<String> {
    jiff::Timestamp::from_second(seconds)
        .ok()
        .map(|t| t.to_string())
}

/// `["a" "b"]`: Go's `%q` of a list.
pub(crate) fn go_list(all: &[String]) -> String {
    let quoted: Vec<String> = all.iter().map(|s| go_quote(s)).collect();
    format!("[{}]", quoted.join(" "))
}

/// Go's `strconv.Quote`.
pub(crate) fn go_quote(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c == '\x7f' => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Go's `%q` of a number: the character of that code.
fn go_rune(code: u32) -> String {
    match char::from_u32(code) {
        Some('\'') => "'\\''".into(),
        Some(c) if !c.is_control() => format!("'{c}'"),
        Some('\t') => "'\\t'".into(),
        Some('\n') => "'\\n'".into(),
        Some('\r') => "'\\r'".into(),
        Some('\x07') => "'\\a'".into(),
        Some('\x08') => "'\\b'".into(),
        Some('\x0b') => "'\\v'".into(),
        Some('\x0c') => "'\\f'".into(),
        _ if code < 0x100 => format!("'\\x{code:02x}'"),
        _ => "'\u{fffd}'".into(),
    }
}

/// Go's `time.Duration.String`.
pub(crate) fn go_duration(ns: u64) -> String {
    let fraction = |whole: u64, part: u64, digits: usize| {
        let text = format!("{part:0digits$}");
        match text.trim_end_matches('0') {
            "" => whole.to_string(),
            part => format!("{whole}.{part}"),
        }
    };
    match ns {
        0 => "0s".into(),
        1..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(ns / 1_000, ns % 1_000, 3)),
        1_000_000..1_000_000_000 => {
            format!("{}ms", fraction(ns / 1_000_000, ns % 1_000_000, 6))
        }
        _ => {
            let seconds = ns / 1_000_000_000;
            let (hours, minutes) = (seconds / 3600, seconds % 3600 / 60);
            let rest = fraction(seconds % 60, ns % 1_000_000_000, 9);
            match (hours, minutes) {
                (0, 0) => format!("{rest}s"),
                (0, minutes) => format!("{minutes}m{rest}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_go_s() {
        for (ns, want) in [
            (0, "0s"),
            (1_500_000, "1.5ms"),
            (30_000_000_000, "30s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (1_250_000_000, "1.25s"),
        ] {
            assert_eq!(go_duration(ns), want);
        }
        let list = |all: &[&str]| go_list(&all.iter().map(|s| s.to_string()).collect::<Vec<_>>());
        assert_eq!(list(&[]), "[]");
        assert_eq!(
            list(&["a b", "c\"d", "\te\x01"]),
            r#"["a b" "c\"d" "\te\x01"]"#
        );
        assert_eq!(go_rune(3), r"'\x03'");
        assert_eq!(go_rune(65), "'A'");
    }

    #[test]
    fn times_are_those_of_the_layers() {
        let mut doc = Doc::empty(&Platform::host());
        doc.history.push(History {
            created: Some("2020-01-01T00:00:00Z".into()),
            created_by: "base".into(),
            ..History::default()
        });
        doc.history("ENV A=b", false);
        doc.history("RUN x", true);
        doc.history("CMD y", false);
        let layers = ["2020-01-01T00:00:00Z".into(), "2024-01-01T00:00:00Z".into()];
        let times = |doc: &Doc| -> Vec<String> {
            let all = doc.history.iter();
            all.map(|h| h.created.clone().unwrap_or_default()[..4].to_owned())
                .collect()
        };
        let mut dated = doc.clone();
        dated.date(&layers, None, 1);
        assert_eq!(times(&dated), ["2020", "2024", "2024", "2024"]);
        assert_eq!(dated.created.as_deref(), Some("2024-01-01T00:00:00Z"));
        let mut dated = doc;
        dated.date(&layers, Some("1970-01-01T00:00:00Z"), 1);
        assert_eq!(times(&dated), ["2020", "1970", "1970", "1970"]);
    }
}
