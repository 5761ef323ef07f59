//! `--network`, `--ipc` and `--pid container:NAME`: namespaces of another container.
//!
//! They are kept by the other's id, so that it may be called otherwise later; which Pod it has is known only when the
//! container that joins it starts.
//!
//! SOURCE: moby `daemon/container_operations{,_unix}.go`, `daemon/daemon_unix.go` adaptSharedNamespaceContainer

use crate::{
    containers::Entry,
    create::wanted::{Ipc, Pid, Wanted},
    daemon::Daemon,
    error::{Fault, Result},
    lifecycle,
    record::Record,
    state::Status,
};
use serde_json::{Map, Value, json};
use std::sync::Arc;

const OF: &str = "container:";
/// Names that lead around in a circle lead nowhere.
const CHAIN_MAX: usize = 16;
const MODES: [&str; 3] = ["NetworkMode", "IpcMode", "PidMode"];

/// The container whose network it has.
pub fn network(record: &Record) -> Option<&str> {
    record.network_mode.strip_prefix(OF)
}

/// The container that has the network by itself: one may join another that joins a third.
pub fn whose_network(daemon: &Daemon, record: &Record) -> Option<Arc<Entry>> {
    let mut found = daemon.containers.find(network(record)?).ok()?;
    for _ in 0..CHAIN_MAX {
        match network(&found.record) {
            Some(next) => found = daemon.containers.find(next).ok()?,
            None => return Some(found),
        }
    }
    None
}

/// Whether it joins any.
pub fn any(record: &Record, wanted: &Wanted) -> bool {
    let host = &wanted.host;
    network(record).is_some() || matches!(host.ipc, Ipc::Of(_)) || matches!(host.pid, Pid::Of(_))
}

/// Ids in place of names, where they are known.
pub fn by_id(daemon: &Daemon, body: &mut Map<String, Value>) {
    let Some(Value::Object(host)) = body.get_mut("HostConfig") else {
        return;
    };
    for key in MODES {
        let name = host.get(key).and_then(Value::as_str);
        let found = name.and_then(|n| daemon.containers.find(n.strip_prefix(OF)?).ok());
        if let Some(other) = found {
            host.insert(key.into(), json!(format!("{OF}{}", other.record.id)));
        }
    }
}

/// That there is who is to be joined; a network is looked for at the start only.
///
/// SOURCE: moby `daemon/create.go` generateSecurityOpt
///
/// # Errors
/// When one isn't there.
pub fn check_named(daemon: &Daemon, wanted: &Wanted) -> Result<()> {
    let ipc = match &wanted.host.ipc {
        Ipc::Of(name) => Some(name),
        _ => None,
    };
    let pid = match &wanted.host.pid {
        Pid::Of(name) => Some(name),
        _ => None,
    };
    for name in ipc.into_iter().chain(pid) {
        (daemon.containers.find(name)).map_err(|f| Fault::bad(f.message))?;
    }
    Ok(())
}

/// # Errors
/// When one of them doesn't run, or may not be joined.
pub fn check_running(daemon: &Daemon, record: &Record, wanted: &Wanted) -> Result<()> {
    if let Some(name) = network(record) {
        let other = daemon.containers.find(name).map_err(|f| {
            Fault::server(format!(
                "joining network namespace of container: {}",
                f.message
            ))
        })?;
        if other.record.id == record.id {
            return Err(Fault::server("cannot join own network namespace"));
        }
        match other.state().status {
            Status::Running | Status::Paused => {}
            Status::Restarting => {
                return Err(Fault::server(format!(
                    "cannot join network namespace of container: Container {name} is restarting, wait until the container is running"
                )));
            }
            status => {
                return Err(Fault::conflict(format!(
                    "cannot join network namespace of a non running container: container {} is {}",
                    other.record.name,
                    status.text()
                )));
            }
        }
    }
    if let Ipc::Of(name) = &wanted.host.ipc {
        let other = running(daemon, name, "IPC")?;
        let ipc = Wanted::read(&other.record.body)?.host.ipc;
        if !matches!(ipc, Ipc::Shareable | Ipc::Host | Ipc::Of(_)) {
            return Err(Fault::bad(format!(
                "failed to join IPC namespace: container {name}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
            )));
        }
    }
    if let Pid::Of(name) = &wanted.host.pid {
        // SOURCE: moby `daemon/start.go`: what is wrong with a specification is the daemon's fault
        running(daemon, name, "PID").map_err(|f| Fault::server(f.message))?;
    }
    Ok(())
}

fn running(daemon: &Daemon, name: &str, what: &str) -> Result<Arc<Entry>> {
    let told = |why: String| format!("failed to join {what} namespace: {why}");
    let other = daemon.containers.find(name);
    let other = other.map_err(|f| Fault::bad(told(f.message)))?;
    let id = &other.record.id;
    match other.state().status {
        Status::Running | Status::Paused => Ok(other),
        Status::Restarting => Err(Fault::conflict(told(format!(
            "Container {id} is restarting, wait until the container is running"
        )))),
        _ => Err(Fault::conflict(told(format!(
            "container {id} is not running"
        )))),
    }
}

/// The Pods of those that run now, for the node.
pub fn settle(daemon: &Daemon, record: &Record, wanted: &Wanted) -> Option<Value> {
    let uid = |name: Option<&str>| {
        let other = name.and_then(|n| daemon.containers.find(n).ok());
        let other = other.filter(|o| lifecycle::active(o.state().status));
        other.map_or(String::new(), |o| o.uid().to_owned())
    };
    let ipc = match &wanted.host.ipc {
        Ipc::Of(name) => Some(name.as_str()),
        _ => None,
    };
    let pid = match &wanted.host.pid {
        Pid::Of(name) => Some(name.as_str()),
        _ => None,
    };
    any(record, wanted)
        .then(|| json!({ "network": uid(network(record)), "ipc": uid(ipc), "pid": uid(pid) }))
}
