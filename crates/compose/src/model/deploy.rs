//! `deploy:`, `restart:`, `scale:`: how many there are, how long they run, how they are replaced.

use super::{Notes, values};
use crate::{Error, tree::Node};
use std::time::Duration;

/// Most replicas of one service.
const REPLICAS_MAX: i64 = 1000;

/// How a service's containers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// So many, started again whenever they end.
    Replicated(i64),
    /// One on each node.
    Global,
    /// So many, each until it ends; (replicas, how often one that fails is tried again).
    Job(i64, i64),
}

impl Mode {
    /// What it is when somebody waits for its completion, and it may end.
    pub(super) fn to_completion(self) -> Mode {
        match self {
            Mode::Replicated(n) => Mode::Job(n, RETRIES),
            other => other,
        }
    }

    pub fn replicas(self) -> i64 {
        match self {
            Mode::Replicated(n) | Mode::Job(n, _) => n,
            Mode::Global => 1,
        }
    }
}

/// When a container of a service that is kept running starts again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restarts {
    /// The file says that it is started again.
    pub said: bool,
    /// Only when it failed.
    pub on_failure: bool,
    /// At most so often. None: without end.
    pub most: Option<i64>,
    /// The pause before each. None: Docker's, which grow.
    pub delay: Option<Duration>,
    /// A run that lasts so long doesn't count among `most`.
    pub window: Option<Duration>,
}

/// How often something that failed and is to be restarted on failure is tried again, as Kubernetes' Jobs do.
const RETRIES: i64 = 6;

/// What happens when an update does not come right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureAction {
    /// What ran before is brought back.
    Rollback,
    /// All is left as it is: what of the old still runs goes on.
    Pause,
    /// The other services are updated all the same.
    Continue,
}

/// `update_config` or `rollback_config`.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// How many are replaced at a time; 0: all.
    pub parallelism: i64,
    /// Between two of them.
    pub delay: Duration,
    /// None: what suits the service.
    pub start_first: Option<bool>,
    pub failure_action: FailureAction,
    /// How long a new container must last.
    pub monitor: Option<Duration>,
    /// Of all replicas, how many may fail without the update having failed, from 0 to 1.
    pub max_failure_ratio: f64,
}

impl Update {
    /// How many of so many replicas are replaced at a time.
    pub fn batch(&self, replicas: i64) -> i64 {
        match self.parallelism {
            0 => replicas,
            n => n.min(replicas),
        }
    }

    /// How many of so many replicas may fail.
    pub fn may_fail(&self, replicas: i64) -> i64 {
        (self.max_failure_ratio * replicas as f64).floor() as i64
    }
}

pub(super) fn update(deploy: Option<&Node>, key: &str) -> Result<Option<Update>, Error> {
    let Some(node) = deploy.and_then(|d| d.get(key)) else {
        return Ok(None);
    };
    let failure_action = match node.text_of("failure_action").as_deref() {
        None | Some("rollback") => FailureAction::Rollback,
        Some("pause") => FailureAction::Pause,
        Some("continue") => FailureAction::Continue,
        Some(other) => {
            let at = node.get("failure_action").unwrap_or(node);
            return Err(at.error(format!(
                "{key}.failure_action: {other:?}: pause, continue or rollback"
            )));
        }
    };
    let max_failure_ratio = match node.get("max_failure_ratio") {
        None => 0.0,
        Some(at) => {
            let text = at.scalar().unwrap_or_default();
            let ratio = text.parse().ok().filter(|r| (0.0..=1.0).contains(r));
            ratio.ok_or_else(|| {
                at.error(format!(
                    "{key}.max_failure_ratio: {text:?} is no number from 0 to 1"
                ))
            })?
        }
    };
    Ok(Some(Update {
        parallelism: values::integer(node, "parallelism")?.unwrap_or(1).max(0),
        delay: values::duration(node, "delay")?.unwrap_or_default(),
        start_first: node.text_of("order").map(|o| o == "start-first"),
        failure_action,
        monitor: values::duration(node, "monitor")?,
        max_failure_ratio,
    }))
}

/// `rollback_config`: what is taken back is what ran before, so nothing watches it, and it says so.
pub(super) fn rollback(deploy: Option<&Node>, notes: &mut Notes) -> Result<Option<Update>, Error> {
    let key = "rollback_config";
    let said = deploy.and_then(|d| d.get(key));
    for without in ["failure_action", "max_failure_ratio", "monitor"] {
        if let Some(at) = said.and_then(|s| s.get(without)) {
            let what = "is ignored: the version that is taken back to ran well before";
            notes.say(at, format!("deploy.{key}.{without} {what}"));
        }
    }
    update(deploy, key)
}

/// When containers start again. Who says nothing of it is done when it has ended well, as with Compose, and started again
/// when it failed: so it comes up in the end if it only came too early.
pub(super) fn restart(node: &Node) -> Result<Restarts, Error> {
    let policy = node.get("deploy").and_then(|d| d.get("restart_policy"));
    let condition = policy.and_then(|p| p.text_of("condition"));
    let attempts = policy.map_or(Ok(None), |p| values::integer(p, "max_attempts"))?;
    let time = |key: &str| policy.map_or(Ok(None), |p| values::duration(p, key));
    let said = node.text_of("restart");
    let (on_failure, most) = match (condition.as_deref(), said.as_deref()) {
        (Some("on-failure"), _) => (true, attempts),
        (Some(_), _) => (false, attempts),
        (None, None) if policy.is_some() => (false, attempts),
        (None, None | Some("" | "no" | "on-failure")) => (true, attempts),
        (None, Some(other)) => match other.strip_prefix("on-failure:").map(str::parse) {
            Some(Ok(most)) => (true, Some(most)),
            _ => (false, attempts),
        },
    };
    Ok(Restarts {
        said: policy.is_some() || said.is_some_and(|s| !matches!(s.as_str(), "" | "no")),
        on_failure,
        most: most.filter(|n| *n > 0),
        delay: time("delay")?,
        window: time("window")?.filter(|w| !w.is_zero()),
    })
}

pub(super) fn mode(node: &Node) -> Result<Mode, Error> {
    let deploy = node.get("deploy");
    let replicas = match (node.get("scale"), deploy.and_then(|d| d.get("replicas"))) {
        (Some(_), _) => values::integer(node, "scale")?,
        (None, Some(_)) => values::integer(deploy.unwrap_or(node), "replicas")?,
        _ => None,
    }
    .unwrap_or(1);
    if !(0..=REPLICAS_MAX).contains(&replicas) {
        return Err(node.error(format!("{replicas} replicas: say 0 to {REPLICAS_MAX}")));
    }
    let policy = deploy.and_then(|d| d.get("restart_policy"));
    let condition = policy.and_then(|p| p.text_of("condition"));
    let attempts = policy.map_or(Ok(None), |p| values::integer(p, "max_attempts"))?;
    let restart = node.text_of("restart");
    let (once, attempts) = match (condition.as_deref(), restart.as_deref()) {
        (Some("none"), _) => (true, None),
        (Some("any" | "always" | "unless-stopped"), _) => (false, attempts),
        (Some("on-failure"), _) => (false, attempts),
        (Some(other), _) => {
            return Err(policy.unwrap_or(node).error(format!(
                "restart_policy.condition: {other:?}: none, on-failure or any"
            )));
        }
        (None, Some("no")) => (true, None),
        (None, None | Some("always" | "unless-stopped" | "on-failure")) => (false, attempts),
        (None, Some(other)) => match other.strip_prefix("on-failure:").map(str::parse) {
            Some(Ok(n)) => (false, Some(n)),
            _ => {
                return Err(node.get("restart").unwrap_or(node).error(format!(
                    "restart: {other:?}: no, always, on-failure[:max-retries] or unless-stopped"
                )));
            }
        },
    };
    match deploy.and_then(|d| d.text_of("mode")).as_deref() {
        None | Some("replicated") => Ok(match once {
            true => Mode::Job(replicas, 0),
            false => Mode::Replicated(replicas),
        }),
        Some("global") => Ok(Mode::Global),
        Some("replicated-job") => Ok(Mode::Job(replicas, attempts.unwrap_or(RETRIES))),
        Some("global-job") => Ok(Mode::Job(1, attempts.unwrap_or(RETRIES))),
        Some(other) => Err(deploy.unwrap_or(node).error(format!(
            "deploy.mode: {other:?}: replicated, global, replicated-job or global-job"
        ))),
    }
}
