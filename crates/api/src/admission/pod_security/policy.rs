//! A namespace's Pod Security labels (`k8s.io/pod-security-admission/api`).

use std::fmt;

use serde_json::Value;

use crate::registry::FieldError;

/// How strict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything goes.
    Privileged,
    /// No known privilege escalations.
    Baseline,
    /// Hardened.
    Restricted,
}

/// By the rules of which minor version; None for the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version(pub Option<u32>);

/// `restricted:latest`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LevelVersion {
    /// How strict.
    pub level: Level,
    /// By which rules.
    pub version: Version,
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version.0 {
            Some(minor) => write!(f, "{level}:v1.{minor}"),
            None => write!(f, "{level}:latest"),
        }
    }
}

/// What a namespace wants done about its Pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Others are refused.
    pub enforce: LevelVersion,
    /// Others are noted in the audit event.
    pub audit: LevelVersion,
    /// Others are warned of.
    pub warn: LevelVersion,
}

impl Policy {
    /// Nothing to check.
    pub fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn]
            .iter()
            .all(|l| l.level == Level::Privileged)
    }

    /// From a namespace's labels; always a policy, whatever is wrong with them.
    pub fn of(labels: Option<&Value>) -> (Policy, Vec<FieldError>) {
        let mut errors = Vec::new();
        let get = |k: &str| {
            labels?
                .get(format!("pod-security.kubernetes.io/{k}"))?
                .as_str()
        };
        let mut read = |mode: &str| {
            let level = get(mode).map(|text| {
                let found = match text {
                    "privileged" => Some(Level::Privileged),
                    "baseline" => Some(Level::Baseline),
                    "restricted" => Some(Level::Restricted),
                    _ => None,
                };
                if found.is_none() {
                    errors.push(invalid(
                        mode,
                        text,
                        "must be one of privileged, baseline, restricted",
                    ));
                }
                found
            });
            let version = get(&format!("{mode}-version")).map(|text| {
                parse_version(text).unwrap_or_else(|| {
                    let label = format!("{mode}-version");
                    errors.push(invalid(&label, text, "must be \"latest\" or \"v1.x\""));
                    Version(None)
                })
            });
            (level, version)
        };
        let (enforce, enforce_version) = read("enforce");
        let (audit, audit_version) = read("audit");
        let (warn, warn_version) = read("warn");
        let level_version = |level: Level, version: Option<Version>| LevelVersion {
            level,
            version: version.unwrap_or(Version(None)),
        };
        // unreadable: closed for enforcement, open for the others
        let lax = |l: Option<Option<Level>>| l.flatten().unwrap_or(Level::Privileged);
        let mut policy = Policy {
            enforce: level_version(
                enforce.map_or(Level::Privileged, |l| l.unwrap_or(Level::Restricted)),
                enforce_version,
            ),
            audit: level_version(lax(audit), audit_version),
            warn: level_version(lax(warn), warn_version),
        };
        if let (None, Some(Some(level))) = (warn, enforce)
            && level > policy.warn.level
        {
            policy.warn.level = level;
            if warn_version.is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }
}

fn invalid(label: &str, value: &str, detail: &str) -> FieldError {
    FieldError::Invalid {
        field: format!("metadata.labels[pod-security.kubernetes.io/{label}]"),
        value: value.into(),
        detail: detail.into(),
    }
}

fn parse_version(text: &str) -> Option<Version> {
    if text == "latest" {
        return Some(Version(None));
    }
    let digits = text.strip_prefix("v1.")?;
    let canonical =
        digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    let minor = digits.parse().ok().filter(|_| canonical)?;
    Some(Version(Some(minor)))
}
