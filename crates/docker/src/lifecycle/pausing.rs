//! Containers paused, and let go on.

use crate::{
    containers::Entry,
    daemon::Daemon,
    error::{Fault, Result},
    http::{self, Answer},
    state::Status,
};
use std::sync::Arc;

pub async fn unfreeze(daemon: &Daemon, entry: &Entry) -> Result<()> {
    daemon
        .machine
        .freeze(&daemon.pod_name(entry), false)
        .await
        .map_err(Fault::server)?;
    daemon.containers.set_paused(&entry.record.id, false);
    Ok(())
}

/// `POST /containers/{id}/pause`
pub async fn pause(daemon: &Arc<Daemon>, reference: &str) -> Result<Answer> {
    let entry = daemon.containers.find(reference)?;
    match entry.state().status {
        Status::Running => {}
        Status::Paused => {
            return Err(Fault::conflict(format!(
                "Container {} is already paused",
                entry.record.id
            )));
        }
        Status::Restarting => {
            return Err(Fault::conflict(format!(
                "Container {} is restarting, wait until the container is running",
                entry.record.id
            )));
        }
        _ => {
            return Err(Fault::conflict(format!(
                "Container {} is not running",
                entry.record.id
            )));
        }
    }
    daemon
        .machine
        .freeze(&daemon.pod_name(&entry), true)
        .await
        .map_err(Fault::server)?;
    daemon.containers.set_paused(&entry.record.id, true);
    daemon.tell("pause", &entry, &[]);
    Ok(http::done())
}

/// `POST /containers/{id}/unpause`
pub async fn unpause(daemon: &Arc<Daemon>, reference: &str) -> Result<Answer> {
    let entry = daemon.containers.find(reference)?;
    if entry.state().status != Status::Paused {
        return Err(Fault::conflict(format!(
            "Container {} is not paused",
            entry.record.id
        )));
    }
    unfreeze(daemon, &entry).await?;
    daemon.tell("unpause", &entry, &[]);
    Ok(http::done())
}
