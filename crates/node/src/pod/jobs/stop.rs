//! Stopping one container: preStop hook, stop signal, patience, SIGKILL.

use std::{net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::Done;
use crate::{context::Context, pod::state, probe, spec::build};

const KILL_DEADLINE: Duration = Duration::from_secs(30);
/// After a preStop hook that used the whole grace period, the process still gets this much.
const GRACE_MIN: Duration = Duration::from_secs(2);

pub(crate) struct StopRequest {
    pub context: Arc<Context>,
    pub pod: Arc<Pod>,
    pub index: usize,
    pub id: Box<str>,
    pub pod_ip: Option<IpAddr>,
    /// when patience ends; may move
    pub kill_at: watch::Receiver<Instant>,
    /// resolves when it may be told to stop: those that rely on it are gone. Its hook doesn't wait for that.
    pub turn: oneshot::Receiver<()>,
}

/// preStop hook, stop signal, patience, SIGKILL.
pub(crate) async fn stop(request: StopRequest) -> Done {
    let StopRequest {
        context,
        pod,
        index,
        id,
        pod_ip,
        mut kill_at,
        turn,
    } = request;
    let container = state::container_at(&pod, index);
    let hook = container
        .as_ref()
        .and_then(|c| c.lifecycle.as_ref())
        .and_then(|l| l.pre_stop.as_ref());
    // It has been waited for its hook or its turn: it is asked all the same, and given a moment, whatever the time is.
    let mut waited = false;
    if let (Some(container), Some(handler)) = (&container, hook)
        && *kill_at.borrow() > Instant::now()
    {
        let work = probe::hook(handler, container, &context.engine, &id, pod_ip);
        let exited = context.engine.wait(&id);
        let result = tokio::select! {
            biased;
            _ = exited => Ok(()),
            result = work => result,
            () = patience(&mut kill_at, None) => Err("the hook did not finish within the grace period".into()),
        };
        if let Err(error) = result {
            let kind = state::containers(&pod).nth(index).map(|(k, _)| k);
            let field = kind.map(|k| state::field_path(k, &container.name));
            context.events.pod(
                &pod,
                field,
                true,
                "FailedPreStopHook",
                format!("PreStopHook failed: {error}"),
            );
        }
        waited = true;
    }
    let floor = waited.then(|| Instant::now() + GRACE_MIN);
    tokio::select! {
        biased;
        _ = turn => {}
        _ = context.engine.wait(&id) => {}
        () = patience(&mut kill_at, floor) => waited = true,
    }
    if waited || Instant::now() < *kill_at.borrow() {
        let signal = stop_signal(&context, container.as_deref(), &id);
        if let Err(error) = context.engine.signal(&id, signal).await {
            tracing::debug!(%id, %error, "the stop signal was not delivered");
        }
        let floor = waited.then(|| Instant::now() + GRACE_MIN);
        // an end that has come is seen before the time is up, also when this task was late for both
        tokio::select! {
            biased;
            _ = context.engine.wait(&id) => return Done::Stopped { index, id, ended: true },
            () = patience(&mut kill_at, floor) => {}
        }
    }
    if let Err(error) = context.engine.signal(&id, libc::SIGKILL).await {
        tracing::debug!(%id, %error, "SIGKILL was not delivered");
    }
    let ended = tokio::time::timeout(KILL_DEADLINE, context.engine.wait(&id))
        .await
        .is_ok();
    if !ended {
        tracing::warn!(%id, "a container does not die from SIGKILL; it's tried again");
    }
    Done::Stopped { index, id, ended }
}

/// Until the moment in `kill_at`, wherever that moves, but at least until `floor`.
async fn patience(kill_at: &mut watch::Receiver<Instant>, floor: Option<Instant>) {
    loop {
        let at = *kill_at.borrow_and_update();
        let at = floor.map_or(at, |floor| at.max(floor));
        tokio::select! {
            () = tokio::time::sleep_until(at) => return,
            changed = kill_at.changed() => {
                if changed.is_err() {
                    tokio::time::sleep_until(at).await;
                    return;
                }
            }
        }
    }
}

fn stop_signal(
    context: &Context,
    container: Option<&k8s_openapi::api::core::v1::Container>,
    id: &str,
) -> i32 {
    let own = container
        .and_then(|c| c.lifecycle.as_ref())
        .and_then(|l| l.stop_signal.clone());
    let made = context.engine.container(id);
    let of_image = made.and_then(|c| c.spec.labels.get(build::labels::STOP_SIGNAL).cloned());
    own.or(of_image)
        .and_then(|name| signal_number(&name))
        .unwrap_or(libc::SIGTERM)
}

/// `SIGQUIT`, `QUIT` or `3`.
pub(crate) fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_uppercase();
    let full = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    if let Some(offset) = full.strip_prefix("SIGRTMIN+") {
        return offset
            .parse::<i32>()
            .ok()
            .map(|n| 34 + n)
            .filter(|n| *n <= 64);
    }
    full.parse::<nix::sys::signal::Signal>()
        .ok()
        .map(|s| s as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        let check = |name: &str, want: Option<i32>| assert_eq!(signal_number(name), want, "{name}");
        check("SIGQUIT", Some(3));
        check("quit", Some(3));
        check("9", Some(9));
        check("SIGRTMIN+3", Some(37));
        check("SIGNOPE", None);
        check("0", None);
        check("", None);
    }
}
