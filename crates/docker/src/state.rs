//! What a Pod's state is in Docker's words.

use crate::{
    containers::Entry,
    machine::{Check, Checks},
    pod::CONTAINER,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus};
use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Created,
    Running,
    Paused,
    Restarting,
    Exited,
}

impl Status {
    pub fn text(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Restarting => "restarting",
            Status::Exited => "exited",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub status: Status,
    pub exit_code: i32,
    pub oom: bool,
    pub error: String,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub restarts: i64,
    /// `starting`, `healthy`, `unhealthy`; None: nobody asks
    pub health: Option<&'static str>,
    /// tells one end from another
    pub end: Option<String>,
    pub ip: String,
}

/// What never was, as Go writes it.
pub const NEVER: &str = "0001-01-01T00:00:00Z";

pub fn time(at: Option<Timestamp>) -> String {
    at.map_or(NEVER.into(), |t| t.to_string())
}

fn ended(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let now = status.state.as_ref().and_then(|s| s.terminated.as_ref());
    now.or_else(|| status.last_state.as_ref()?.terminated.as_ref())
}

/// As the Pod tells it; `paused` is told by the machine only.
pub fn of(entry: &Entry) -> State {
    let pod_status = entry.pod.status.as_ref();
    let statuses = pod_status.and_then(|s| s.container_statuses.as_ref());
    let mine = statuses.and_then(|l| l.iter().find(|c| c.name == CONTAINER));
    let phase = pod_status
        .and_then(|s| s.phase.as_deref())
        .unwrap_or_default();
    let over = matches!(phase, "Succeeded" | "Failed");
    let last = mine.and_then(ended);
    let now = mine.and_then(|m| m.state.as_ref());
    let running = now.and_then(|s| s.running.as_ref());
    let gated = entry.gated();
    let status = match now {
        _ if gated => Status::Created,
        Some(ContainerState {
            running: Some(_), ..
        }) if entry.paused => Status::Paused,
        Some(ContainerState {
            running: Some(_), ..
        }) => Status::Running,
        _ if over => Status::Exited,
        _ if last.is_some() => Status::Restarting,
        _ => Status::Created,
    };
    let why = pod_status.and_then(|s| s.message.clone());
    let mut error = entry.record.error.clone();
    if status == Status::Exited
        && let Some(end) = last
        && matches!(
            end.reason.as_deref(),
            Some("StartError" | "ContainerCannotRun")
        )
    {
        error = end.message.clone().unwrap_or_default();
    } else if status == Status::Exited && last.is_none() {
        error = why.unwrap_or_default();
    }
    let started = running
        .and_then(|r| r.started_at.as_ref())
        .or_else(|| last?.started_at.as_ref());
    let restarts = mine.map_or(0, |m| i64::from(m.restart_count)) + entry.record.restarts;
    State {
        status,
        exit_code: match (status, last) {
            (Status::Exited | Status::Restarting, Some(end)) => end.exit_code,
            (Status::Exited, None) => 128,
            (Status::Created, _) if !error.is_empty() => 127,
            _ => 0,
        },
        oom: status == Status::Exited
            && last.is_some_and(|e| e.reason.as_deref() == Some("OOMKilled")),
        error,
        started: started.map(|t| t.0),
        finished: last.and_then(|e| e.finished_at.as_ref()).map(|t| t.0),
        restarts,
        health: health(entry, mine),
        end: last.map(|e| {
            format!(
                "{}/{}",
                e.container_id.clone().unwrap_or_default(),
                entry.record.run
            )
        }),
        ip: pod_status
            .and_then(|s| s.pod_ip.clone())
            .unwrap_or_default(),
    }
}

/// Not ready is `starting` until as many checks as make it unhealthy could have failed.
fn health(entry: &Entry, status: Option<&ContainerStatus>) -> Option<&'static str> {
    let health = entry.record.health.as_ref()?;
    health.command(&[])?;
    let Some(running) = status.and_then(|s| s.state.as_ref()?.running.as_ref()) else {
        // Docker keeps the last word of a container that has ended.
        return Some(
            if status.is_some_and(|s| s.state.as_ref().is_some_and(|s| s.terminated.is_some())) {
                "unhealthy"
            } else {
                "starting"
            },
        );
    };
    if status.is_some_and(|s| s.ready) {
        return Some("healthy");
    }
    let started = running
        .started_at
        .as_ref()
        .map_or_else(Timestamp::now, |t| t.0);
    // It has been well before: the condition has changed since it started.
    let conditions = entry
        .pod
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_ref());
    let ready = conditions.and_then(|c| c.iter().find(|c| c.type_ == "ContainersReady"));
    let changed = ready
        .and_then(|c| c.last_transition_time.as_ref())
        .map(|t| t.0);
    let patience = health.start_period + health.interval().saturating_mul(health.retries());
    let spent = Timestamp::now().duration_since(started);
    let was_well = changed.is_some_and(|t| t.duration_since(started).as_secs() > 1);
    let over = i64::try_from(spent.as_nanos()).unwrap_or(i64::MAX) > patience;
    Some(if over || was_well {
        "unhealthy"
    } else {
        "starting"
    })
}

impl State {
    /// `State` of an inspected container.
    pub fn json(&self, pid: i32, checks: &Checks, timeout: i64) -> Value {
        let running = matches!(
            self.status,
            Status::Running | Status::Paused | Status::Restarting
        );
        let mut value = json!({
            "Status": self.status.text(),
            "Running": running,
            "Paused": self.status == Status::Paused,
            "Restarting": self.status == Status::Restarting,
            "OOMKilled": self.oom,
            "Dead": false,
            "Pid": pid,
            "ExitCode": self.exit_code,
            "Error": self.error,
            "StartedAt": time(self.started),
            "FinishedAt": time(if self.status == Status::Created { None } else { self.finished }),
        });
        if let Some(health) = self.health {
            // after a restart of the platform nothing is known of earlier answers
            let failing = checks.failing.max(u32::from(health == "unhealthy"));
            let log: Vec<Value> = checks.last.iter().map(|c| check(c, timeout)).collect();
            value["Health"] = json!({ "Status": health, "FailingStreak": failing, "Log": log });
        }
        value
    }

    /// `Up 5 minutes (healthy)`
    pub fn sentence(&self) -> String {
        let since = |at: Option<Timestamp>| {
            ago(at.map_or(0, |t| Timestamp::now().duration_since(t).as_secs()))
        };
        match self.status {
            Status::Created => "Created".into(),
            Status::Exited => format!("Exited ({}) {} ago", self.exit_code, since(self.finished)),
            Status::Restarting => {
                format!(
                    "Restarting ({}) {} ago",
                    self.exit_code,
                    since(self.finished)
                )
            }
            Status::Paused => format!("Up {} (Paused)", since(self.started)),
            Status::Running => {
                let up = format!("Up {}", since(self.started));
                match self.health {
                    Some("starting") => format!("{up} (health: starting)"),
                    Some(health) => format!("{up} ({health})"),
                    None => up,
                }
            }
        }
    }
}

/// SOURCE: moby `daemon/health.go`
fn check(check: &Check, timeout: i64) -> Value {
    let took = crate::units::duration(timeout);
    let output = match check.timed_out {
        true => format!("Health check exceeded timeout ({took})"),
        false => check.output.clone(),
    };
    json!({
        "Start": check.start.to_string(), "End": check.end.to_string(),
        "ExitCode": check.exit_code, "Output": output,
    })
}

/// SOURCE: docker/go-units `HumanDuration`
pub fn ago(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        ..1 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".into(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::ago;

    #[test]
    fn durations_are_told_as_docker_does() {
        for (seconds, wanted) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (120, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (172_800, "2 days"),
            (14 * 86_400, "2 weeks"),
        ] {
            assert_eq!(ago(seconds), wanted);
        }
    }
}
