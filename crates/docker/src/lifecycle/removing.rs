//! Containers removed, with what is theirs alone.

use super::{END, KILL, active, delete_pod, pausing::unfreeze, until, wanted};
use crate::{
    containers::Entry,
    daemon::Daemon,
    error::{Fault, Result, blocking},
    http::{self, Answer, Ask, json},
    networks,
    state::{State, Status},
    volumes,
};
use serde_json::json as value;
use std::{sync::Arc, time::Duration};

/// How long what a container wrote last may take to its readers.
const READ: Duration = Duration::from_secs(5);

/// `DELETE /containers/{id}`
pub async fn remove(daemon: &Arc<Daemon>, reference: &str, ask: Ask) -> Result<Answer> {
    let entry = daemon.containers.find(reference)?;
    if ask.query.flag("link") {
        return Err(Fault::unsupported("removing a link"));
    }
    let (force, volumes) = (ask.query.flag("force"), ask.query.flag("v"));
    let status = entry.state().status;
    if active(status) && !force {
        let told = match status {
            Status::Paused => "container is paused and must be unpaused first",
            Status::Restarting => {
                "container is restarting: stop the container before removing or force remove"
            }
            _ => "container is running: stop the container before removing or force remove",
        };
        return Err(Fault::conflict(format!(
            "cannot remove container \"{}\": {told}",
            reference
        )));
    }
    discard(daemon, &entry, volumes).await?;
    Ok(http::done())
}

/// Kills, deletes, and forgets.
pub async fn discard(daemon: &Arc<Daemon>, entry: &Arc<Entry>, with_volumes: bool) -> Result<()> {
    let id = entry.record.id.clone();
    if active(entry.state().status) {
        if entry.paused {
            unfreeze(daemon, entry).await?;
        }
        daemon.tell("kill", entry, &[("signal", KILL.to_string())]);
    }
    delete_pod(daemon, entry.pod_name(), 0).await?;
    let _ = daemon.machine.signal(&daemon.pod_name(entry), KILL).await;
    let over = |e: &Entry, _: &State| e.uid() != entry.uid();
    until(daemon, &id, Some(END), over).await?;
    let (worker, record) = (daemon.clone(), entry.record.clone());
    blocking(move || {
        worker
            .machine
            .drop_layer(crate::NAMESPACE, &record.id)
            .map_err(Fault::server)?;
        for mount in record.mounts.iter().filter(|m| m.anonymous && with_volumes) {
            // another container may have it from this one
            let _ = volumes::delete(&worker, &mount.name);
        }
        Ok(())
    })
    .await
}

/// `--rm`: when it has ended and what it wrote has been read.
pub async fn auto_remove(daemon: &Arc<Daemon>, entry: &Arc<Entry>) {
    daemon.unread(&entry.record.id, READ).await;
    let now = daemon.containers.get(&entry.record.id);
    let Some(now) = now.filter(|e| e.uid() == entry.uid() && e.state().status == Status::Exited)
    else {
        return;
    };
    if let Err(e) = discard(daemon, &now, true).await {
        tracing::warn!(container = now.record.name, error = %e, "a container with --rm could not be removed");
    }
}

/// `POST /containers/prune`
pub async fn prune(daemon: &Arc<Daemon>, ask: Ask) -> Result<Answer> {
    let filters = crate::filters::Filters::read(&ask.query)?;
    filters.only(&["label", "label!", "until"])?;
    let until = networks::until(&filters)?;
    let (mut gone, mut bytes) = (Vec::new(), 0);
    for entry in daemon.containers.all() {
        let labels = wanted(&entry.record)?.labels;
        let made = entry.record.created.parse::<jiff::Timestamp>().ok();
        let fits = filters.labels("label", &labels)
            && filters.not_labels("label!", &labels)
            && until.is_none_or(|u| made.is_some_and(|m| m < u));
        if !fits || active(entry.state().status) {
            continue;
        }
        let layer = daemon.machine.layer(crate::NAMESPACE, &entry.record.id);
        bytes += blocking(move || Ok(volumes::size(&layer))).await?;
        discard(daemon, &entry, false).await?;
        gone.push(entry.record.id.clone());
    }
    Ok(json(
        &value!({ "ContainersDeleted": gone, "SpaceReclaimed": bytes }),
    ))
}
