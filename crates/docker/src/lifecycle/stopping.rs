//! Containers stopped and killed.

use super::{END, KILL, TERM, active, pausing::unfreeze, until, wanted};
use crate::{
    containers::Entry,
    create::wanted::Restart,
    daemon::Daemon,
    error::{Fault, Result, blocking},
    http::{self, Answer, Ask},
    names, pod,
    record::Record,
    state::State,
};
use serde_json::json as value;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// The Pod's time is over: nothing in it is started again, and it stays.
pub async fn end(daemon: &Arc<Daemon>, entry: &Entry) -> Result<()> {
    daemon
        .patch(entry, &value!({ "spec": { "activeDeadlineSeconds": 1 } }))
        .await
}

/// Stops a container that runs: its signal, and after so many seconds the one that nothing withstands. Negative: never.
pub async fn halt(
    daemon: &Arc<Daemon>,
    entry: &Arc<Entry>,
    signal: Option<i32>,
    seconds: Option<i64>,
) -> Result<()> {
    let wanted = wanted(&entry.record)?;
    let seconds = seconds.or(wanted.stop_timeout).unwrap_or(pod::STOP_SECONDS);
    let pod_name = daemon.pod_name(entry);
    if entry.paused {
        unfreeze(daemon, entry).await?;
    }
    let own = match &wanted.stop_signal {
        Some(signal) => names::signal(signal).unwrap_or(TERM),
        None => image_signal(daemon, &entry.record).await.unwrap_or(TERM),
    };
    let signal = signal.unwrap_or(own);
    daemon.tell("kill", entry, &[("signal", signal.to_string())]);
    let mut record = entry.record.clone();
    record.stopped = true;
    daemon.rewrite(entry, &record).await?;
    let again = wanted.host.restart != Restart::No;
    if again {
        end(daemon, entry).await?;
    }
    if !again || signal != own {
        // may have ended in between
        let _ = daemon.machine.signal(&pod_name, signal).await;
    }
    let over = |e: &Entry, s: &State| !active(s.status) || e.record.run != entry.record.run;
    let patience = u64::try_from(seconds).ok().map(Duration::from_secs);
    if until(daemon, &entry.record.id, patience, over)
        .await
        .is_err()
    {
        daemon.tell("kill", entry, &[("signal", KILL.to_string())]);
        kill_all(daemon, entry, over).await?;
    }
    daemon.tell("stop", entry, &[]);
    Ok(())
}

/// Kills until the Pod has ended: one that would be started again may be, once, before its time is over.
async fn kill_all(
    daemon: &Arc<Daemon>,
    entry: &Arc<Entry>,
    over: impl Fn(&Entry, &State) -> bool,
) -> Result<()> {
    let (pod_name, limit) = (daemon.pod_name(entry), Instant::now() + END);
    loop {
        let _ = daemon.machine.signal(&pod_name, KILL).await;
        match until(
            daemon,
            &entry.record.id,
            Some(Duration::from_secs(1)),
            &over,
        )
        .await
        {
            Ok(_) => return Ok(()),
            Err(fault) if Instant::now() > limit => return Err(fault),
            Err(_) => {}
        }
    }
}

async fn image_signal(daemon: &Arc<Daemon>, record: &Record) -> Option<i32> {
    let (daemon, name) = (daemon.clone(), record.image_name.clone());
    let image = blocking(move || Ok(daemon.images.resolve(&name)?))
        .await
        .ok()??;
    names::signal(&image.config.stop_signal?).ok()
}

/// `POST /containers/{id}/stop`
pub async fn stop(daemon: &Arc<Daemon>, reference: &str, ask: Ask) -> Result<Answer> {
    let entry = daemon.containers.find(reference)?;
    let signal = ask.query.get("signal").map(names::signal).transpose()?;
    let seconds = ask.query.int("t")?;
    if !active(entry.state().status) {
        return Err(Fault::not_modified());
    }
    // SOURCE: moby `daemon/stop.go`: it is killed in the end though the client has left
    let daemon = daemon.clone();
    let halting = tokio::spawn(async move { halt(&daemon, &entry, signal, seconds).await });
    halting.await.map_err(Fault::server)??;
    Ok(http::done())
}

/// `POST /containers/{id}/kill`
pub async fn kill(daemon: &Arc<Daemon>, reference: &str, ask: Ask) -> Result<Answer> {
    let failed = |fault: Fault| Fault {
        message: format!("cannot kill container: {reference}: {}", fault.message),
        ..fault
    };
    let asked = ask.query.get("signal").unwrap_or("KILL");
    // SOURCE: moby `pkg/signal`: a number is read whatever it is, and then none of this kernel's
    if asked.parse().is_ok_and(|n: i32| n > 64) {
        let told = format!("the linux daemon does not support signal {asked}");
        return Err(failed(Fault::bad(told)));
    }
    let signal = names::signal(asked).map_err(failed)?;
    let entry = daemon.containers.find(reference).map_err(failed)?;
    if !active(entry.state().status) {
        let told = format!("container {} is not running", entry.record.id);
        return Err(failed(Fault::conflict(told)));
    }
    let asked = wanted(&entry.record)?;
    let again = asked.host.restart != Restart::No;
    // SOURCE: moby `daemon/kill.go` killWithSignal: by its own way of being stopped it is stopped, and not started again
    let stops = match &asked.stop_signal {
        Some(own) => names::signal(own).is_ok_and(|own| own == signal),
        None => signal == TERM,
    };
    daemon.tell("kill", &entry, &[("signal", signal.to_string())]);
    if again && stops && signal != KILL {
        let mut record = entry.record.clone();
        record.stopped = true;
        daemon.rewrite(&entry, &record).await?;
        // It gets the signal as the Pod's end begins. That it has no more than its time to stop then is not Docker's way, but
        // without it the node would start it again at once.
        end(daemon, &entry).await?;
        return Ok(http::done());
    }
    if signal == KILL && again {
        // killed by hand, it isn't started again
        let mut record = entry.record.clone();
        record.stopped = true;
        daemon.rewrite(&entry, &record).await?;
        end(daemon, &entry).await?;
        let over = |e: &Entry, s: &State| !active(s.status) || e.record.run != entry.record.run;
        kill_all(daemon, &entry, over).await?;
        return Ok(http::done());
    }
    daemon
        .machine
        .signal(&daemon.pod_name(&entry), signal)
        .await
        .map_err(Fault::conflict)?;
    if signal == KILL {
        let over = |e: &Entry, s: &State| !active(s.status) || e.record.run != entry.record.run;
        until(daemon, &entry.record.id, Some(END), over).await?;
    }
    Ok(http::done())
}
