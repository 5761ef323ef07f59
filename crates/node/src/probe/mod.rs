//! Probes: what is asked of a container, and what the answers mean over time.
//!
//! Source: kubernetes `pkg/kubelet/prober`. One thing is added: before its first success a startup or readiness probe without an initial delay is tried in quick growing steps, so that ready is seen within milliseconds; those early failures don't count.

pub(crate) mod checks;
pub(crate) mod grpc;
pub(crate) mod http;
mod redirect;
mod track;

use std::{net::IpAddr, time::Duration};

use checks::Check;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{self, Container, HTTPGetAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
pub(crate) use track::{Change, Track};

use crate::engine::Engine;

/// Of an exec probe's or hook's output, this much is kept for the event.
const OUTPUT_BYTES_MAX: usize = 10 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    pub(crate) const ALL: [Kind; 3] = [Kind::Startup, Kind::Liveness, Kind::Readiness];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HttpGet {
    pub https: bool,
    /// None: the Pod's address
    pub host: Option<Box<str>>,
    pub port: u16,
    pub path: Box<str>,
    pub headers: Vec<(Box<str>, Box<str>)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Exec(Vec<String>),
    Http(HttpGet),
    Tcp { host: Option<Box<str>>, port: u16 },
    Grpc { port: u16, service: Box<str> },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Probe {
    pub action: Action,
    pub initial_delay: Duration,
    pub timeout: Duration,
    pub period: Duration,
    /// how often before the first success, and for how long since the start
    pub early: Option<(Duration, Duration)>,
    pub success_threshold: u32,
    pub failure_threshold: u32,
    /// overrides the Pod's grace period when this probe kills
    pub grace_seconds: Option<i64>,
}

/// One answer. The text is for the event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Success,
    /// a success that should be told
    Warning(String),
    Failure(String),
    /// The probe itself couldn't be run (exec failed to start): it neither succeeds nor fails.
    Unknown(String),
}

/// A port by number, or by the name that one of the container's ports has.
pub(crate) fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container
                .ports
                .iter()
                .flatten()
                .find(|p| p.name.as_ref() == Some(name));
            match (named, name.parse::<i32>()) {
                (Some(port), _) => port.container_port,
                (None, Ok(number)) => number,
                (None, Err(_)) => return Err(format!("couldn't find port: {name:?}")),
            }
        }
    };
    u16::try_from(number)
        .ok()
        .filter(|p| *p > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}

pub(crate) fn http_get(container: &Container, action: &HTTPGetAction) -> Result<HttpGet, String> {
    let path = action
        .path
        .as_deref()
        .filter(|p| !p.is_empty())
        .unwrap_or("/");
    let headers = action.http_headers.iter().flatten();
    Ok(HttpGet {
        https: action
            .scheme
            .as_deref()
            .is_some_and(|s| s.eq_ignore_ascii_case("https")),
        host: action
            .host
            .as_deref()
            .filter(|h| !h.is_empty())
            .map(Into::into),
        port: port(container, &action.port)?,
        path: if path.starts_with('/') {
            path.into()
        } else {
            format!("/{path}").into()
        },
        headers: headers
            .map(|h| (h.name.as_str().into(), h.value.as_str().into()))
            .collect(),
    })
}

impl Probe {
    /// None: the container has no such probe.
    pub(crate) fn of(container: &Container, kind: Kind) -> Option<Probe> {
        let spec = match kind {
            Kind::Startup => &container.startup_probe,
            Kind::Liveness => &container.liveness_probe,
            Kind::Readiness => &container.readiness_probe,
        }
        .as_ref()?;
        let action = action(container, spec)?;
        let seconds = |value: Option<i32>, default: u32| {
            let given = value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0);
            Duration::from_secs(u64::from(given.unwrap_or(default)))
        };
        let count = |value: Option<i32>, default: u32| {
            value
                .and_then(|v| u32::try_from(v).ok())
                .filter(|v| *v > 0)
                .unwrap_or(default)
        };
        Some(Probe {
            action,
            initial_delay: seconds(spec.initial_delay_seconds, 0),
            timeout: seconds(spec.timeout_seconds, 1),
            period: seconds(spec.period_seconds, 10),
            early: None,
            success_threshold: count(spec.success_threshold, 1),
            failure_threshold: count(spec.failure_threshold, 3),
            grace_seconds: spec.termination_grace_period_seconds,
        })
    }
}

fn action(container: &Container, spec: &v1::Probe) -> Option<Action> {
    if let Some(exec) = &spec.exec {
        return Some(Action::Exec(exec.command.clone().unwrap_or_default()));
    }
    // A port that can't be found fails as a connection to port 0 would: with a message, not by being left out.
    if let Some(get) = &spec.http_get {
        return Some(Action::Http(http_get(container, get).unwrap_or_else(
            |_| HttpGet {
                https: false,
                host: None,
                port: 0,
                path: "/".into(),
                headers: vec![],
            },
        )));
    }
    if let Some(tcp) = &spec.tcp_socket {
        return Some(Action::Tcp {
            host: tcp
                .host
                .as_deref()
                .filter(|h| !h.is_empty())
                .map(Into::into),
            port: port(container, &tcp.port).unwrap_or(0),
        });
    }
    let grpc = spec.grpc.as_ref()?;
    Some(Action::Grpc {
        port: u16::try_from(grpc.port).unwrap_or(0),
        service: grpc.service.as_deref().unwrap_or_default().into(),
    })
}

/// Runs the probe's command.
async fn command(probe: &Probe, args: &[String], engine: &Engine, id: &str) -> (Outcome, Check) {
    let start = Timestamp::now();
    let work = engine.exec_capture(id, args.to_vec(), OUTPUT_BYTES_MAX);
    let answer = tokio::time::timeout(probe.timeout, work).await;
    let text = |output: &[u8]| String::from_utf8_lossy(output).into_owned();
    let mut check = Check {
        start,
        end: Timestamp::now(),
        exit_code: -1,
        timed_out: answer.is_err(),
        output: String::new(),
    };
    let outcome = match answer {
        Err(_) => Outcome::Failure(format!(
            "command timed out: {:?} timed out after {}s",
            args.join(" "),
            probe.timeout.as_secs()
        )),
        Ok(Err(error)) => {
            check.output.clone_from(&error);
            Outcome::Unknown(error)
        }
        Ok(Ok((code, output))) => {
            check.exit_code = code;
            check.output = text(&output[..output.len().min(checks::OUTPUT_BYTES_MAX)]);
            match code {
                0 => Outcome::Success,
                _ => Outcome::Failure(text(&output)),
            }
        }
    };
    (outcome, check)
}

/// Asks once; never longer than the probe's timeout. With what a command answered.
pub(crate) async fn run(
    probe: &Probe,
    engine: &Engine,
    id: &str,
    pod_ip: Option<IpAddr>,
) -> (Outcome, Option<Check>) {
    match &probe.action {
        Action::Exec(args) => {
            let (outcome, check) = command(probe, args, engine, id).await;
            (outcome, Some(check))
        }
        _ => (ask(probe, pod_ip).await, None),
    }
}

async fn ask(probe: &Probe, pod_ip: Option<IpAddr>) -> Outcome {
    let timeout = probe.timeout;
    let address = |host: &Option<Box<str>>| match (host, pod_ip) {
        (Some(host), _) => Ok(host.to_string()),
        (None, Some(ip)) => Ok(ip.to_string()),
        (None, None) => Err(Outcome::Unknown("the pod has no address".into())),
    };
    match &probe.action {
        Action::Exec(_) => Outcome::Unknown("a command is run, not asked".into()),
        Action::Http(get) => {
            let host = match address(&get.host) {
                Ok(host) => host,
                Err(outcome) => return outcome,
            };
            Box::pin(http::probe(get, &host, timeout)).await
        }
        Action::Tcp { host, port } => {
            let host = match address(host) {
                Ok(host) => host,
                Err(outcome) => return outcome,
            };
            let target = http::authority(&host, *port);
            match tokio::time::timeout(
                timeout,
                tokio::net::TcpStream::connect((host.as_str(), *port)),
            )
            .await
            {
                Ok(Ok(_)) => Outcome::Success,
                Ok(Err(error)) => Outcome::Failure(format!(
                    "dial tcp {target}: connect: {}",
                    http::plain(&error)
                )),
                Err(_) => Outcome::Failure(format!("dial tcp {target}: i/o timeout")),
            }
        }
        Action::Grpc { port, service } => {
            let host = match address(&None) {
                Ok(host) => host,
                Err(outcome) => return outcome,
            };
            Box::pin(grpc::probe(&host, *port, service, timeout)).await
        }
    }
}

/// A lifecycle hook's command: Err is the text for `FailedPostStartHook` / `FailedPreStopHook`.
pub(crate) async fn hook(
    handler: &v1::LifecycleHandler,
    container: &Container,
    engine: &Engine,
    id: &str,
    pod_ip: Option<IpAddr>,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let args = exec.command.clone().unwrap_or_default();
        let shown = format!("{args:?}");
        let (code, output) = engine.exec_capture(id, args, OUTPUT_BYTES_MAX).await?;
        if code == 0 {
            return Ok(());
        }
        return Err(format!(
            "command {shown} exited with {code}: {}",
            String::from_utf8_lossy(&output)
        ));
    }
    if let Some(get) = &handler.http_get {
        let get = http_get(container, get)?;
        let host = match (&get.host, pod_ip) {
            (Some(host), _) => host.to_string(),
            (None, Some(ip)) => ip.to_string(),
            (None, None) => return Err("the pod has no address".into()),
        };
        let plain = Box::pin(http::hook(&get, &host)).await?;
        if plain {
            let host = http::authority(&host, get.port);
            tracing::warn!(%host, "an HTTPS lifecycle hook got an HTTP response; its retry with HTTP succeeded");
        }
        return Ok(());
    }
    if let Some(sleep) = &handler.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        return Ok(());
    }
    Err("the hook has no exec, httpGet or sleep".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn read_from_the_container() {
        let container: Container = serde_json::from_value(json!({
            "name": "c", "ports": [{"name": "web", "containerPort": 8080}],
            "livenessProbe": {"httpGet": {"port": "web", "path": "healthz"}},
            "readinessProbe": {"tcpSocket": {"port": 90}, "periodSeconds": 3, "failureThreshold": 7, "initialDelaySeconds": 2},
        }))
        .unwrap();
        let liveness = Probe::of(&container, Kind::Liveness).unwrap();
        let Action::Http(get) = &liveness.action else {
            panic!("{liveness:?}")
        };
        assert_eq!((get.port, &*get.path, get.https), (8080, "/healthz", false));
        assert_eq!(liveness.period, Duration::from_secs(10));
        assert_eq!(
            (liveness.success_threshold, liveness.failure_threshold),
            (1, 3)
        );
        let readiness = Probe::of(&container, Kind::Readiness).unwrap();
        assert_eq!(
            readiness.action,
            Action::Tcp {
                host: None,
                port: 90
            }
        );
        assert_eq!(readiness.initial_delay, Duration::from_secs(2));
        assert_eq!(readiness.failure_threshold, 7);
        assert!(Probe::of(&container, Kind::Startup).is_none());
        assert!(port(&container, &IntOrString::String("nope".into())).is_err());
    }
}
