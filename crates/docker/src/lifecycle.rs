//! Containers started, waited for, and called otherwise; stopped, paused and removed by the parts.

mod pausing;
mod removing;
mod stopping;

pub use pausing::{pause, unpause};
pub use removing::{auto_remove, discard, prune, remove};
pub use stopping::{end, halt, kill, stop};

use crate::{
    containers::Entry,
    create::{ports, wanted::Wanted},
    daemon::Daemon,
    error::{Fault, Result, blocking},
    http::{self, Answer, Ask},
    joins, names, networks, pod,
    record::Record,
    state::{State, Status},
};
use futures::future::BoxFuture;
use kube::api::{DeleteParams, PostParams};
use serde_json::json as value;
use std::{sync::Arc, time::Duration};

/// How long a container may take to run.
const START: Duration = Duration::from_secs(120);
/// How long one that was killed may take to be gone.
const END: Duration = Duration::from_secs(60);
const TERM: i32 = 15;
const KILL: i32 = 9;

fn wanted(record: &Record) -> Result<Wanted> {
    Wanted::read(&record.body)
}

pub fn active(status: Status) -> bool {
    !matches!(status, Status::Created | Status::Exited)
}

/// Until the container fits, or is gone, or time is over. None: gone.
pub async fn until(
    daemon: &Daemon,
    id: &str,
    patience: Option<Duration>,
    fits: impl Fn(&Entry, &State) -> bool,
) -> Result<Option<Arc<Entry>>> {
    let mut changes = daemon.containers.subscribe();
    let looking = async {
        loop {
            changes.borrow_and_update();
            let Some(entry) = daemon.containers.get(id) else {
                return Ok(None);
            };
            if fits(&entry, &entry.state()) {
                return Ok(Some(entry));
            }
            changes.changed().await.map_err(Fault::server)?;
        }
    };
    match patience {
        None => looking.await,
        Some(patience) => tokio::time::timeout(patience, looking).await.map_err(|_| {
            Fault::server(format!(
                "container {id} did not change in {} s",
                patience.as_secs()
            ))
        })?,
    }
}

/// Another Pod, not started, takes the place of the container's.
pub async fn replace(daemon: &Arc<Daemon>, entry: &Entry, mut record: Record) -> Result<()> {
    record.run = entry.record.run + 1;
    let all = networks::all(daemon).await?;
    let mut own = Vec::new();
    for endpoint in &record.endpoints {
        let found = all.iter().find(|n| n.id == endpoint.network_id);
        own.push(found.cloned().ok_or_else(|| {
            Fault::not_found(format!("network {} not found", endpoint.network_id))
        })?);
    }
    let wanted = wanted(&record)?;
    let made = {
        let (daemon, record) = (daemon.clone(), record.clone());
        blocking(move || pod::build(&daemon, &record, &wanted, &own, true))
    };
    let made = made.await?;
    let made = daemon.pods().create(&PostParams::default(), &made).await?;
    daemon.take(made);
    // A crash here leaves two: the newer counts, the older goes with the container.
    // With a grace, as it's the node then that says when it's gone; it has its ports and its layer until that.
    delete_pod(daemon, entry.pod_name(), 1).await?;
    let (pods, name) = (daemon.pods(), entry.pod_name().to_string());
    let uid = entry.uid().to_string();
    // a task of its own: the watch's calls and those of who starts containers don't fit one stack
    let gone = tokio::spawn(async move {
        let gone = kube::runtime::wait::conditions::is_deleted(&uid);
        let gone = kube::runtime::wait::await_condition(pods, &name, gone);
        Box::pin(gone).await.map(drop).map_err(Fault::server)
    });
    let abort = gone.abort_handle();
    match tokio::time::timeout(END, gone).await {
        Ok(Ok(done)) => done,
        Ok(Err(e)) => Err(Fault::server(e)),
        Err(_) => {
            abort.abort();
            Err(Fault::server(
                "the container's last Pod is still being removed",
            ))
        }
    }
}

async fn delete_pod(daemon: &Daemon, name: &str, grace_seconds: u32) -> Result<()> {
    let gone = daemon
        .pods()
        .delete(name, &DeleteParams::default().grace_period(grace_seconds))
        .await;
    match gone {
        Err(kube::Error::Api(e)) if e.code == 404 => Ok(()),
        other => other.map(drop).map_err(Fault::from),
    }
}

/// `POST /containers/{id}/start`
pub async fn start(daemon: &Arc<Daemon>, reference: &str) -> Result<Answer> {
    let entry = daemon.containers.find(reference)?;
    match entry.state().status {
        Status::Paused => Err(Fault::conflict(
            "cannot start a paused container, try unpause instead",
        )),
        Status::Running | Status::Restarting => Err(Fault::not_modified()),
        _ => {
            let Err(fault) = Box::pin(run(daemon, &entry)).await else {
                return Ok(http::done());
            };
            // SOURCE: moby `daemon/start.go` containerStart: with --rm nothing stays of what could not start, whatever the
            // reason, and who waits for its end is told.
            let once = wanted(&entry.record).is_ok_and(|w| w.host.auto_remove);
            if let Some(left) = daemon.containers.get(&entry.record.id)
                && once
                && !active(left.state().status)
            {
                Box::pin(discard(daemon, &left, true)).await?;
            }
            Err(fault)
        }
    }
}

/// Why a container can't start, if so.
fn obstacle(entry: &Entry, state: &State) -> Option<String> {
    let status = entry.pod.status.as_ref()?;
    let conditions = status.conditions.iter().flatten();
    let unschedulable = conditions
        .filter(|c| c.type_ == "PodScheduled" && c.status == "False")
        .find(|c| c.reason.as_deref() == Some("Unschedulable"));
    if let Some(condition) = unschedulable {
        return condition.message.clone();
    }
    if state.status == Status::Exited && !state.error.is_empty() {
        return Some(state.error.clone());
    }
    let mut statuses = status.container_statuses.iter().flatten();
    let mine = statuses.find(|c| c.name == pod::CONTAINER)?;
    let waiting = mine.state.as_ref()?.waiting.as_ref();
    if let Some(waiting) = waiting
        && let Some(reason) = waiting.reason.as_deref()
        && (reason.ends_with("Error")
            || matches!(
                reason,
                "ErrImageNeverPull" | "InvalidImageName" | "ErrImagePull"
            ))
    {
        return Some(waiting.message.clone().unwrap_or(reason.into()));
    }
    let last = mine.last_state.as_ref()?.terminated.as_ref()?;
    (matches!(
        last.reason.as_deref(),
        Some("StartError" | "ContainerCannotRun")
    ))
    .then(|| last.message.clone().unwrap_or_default())
}

pub async fn run(daemon: &Arc<Daemon>, entry: &Entry) -> Result<()> {
    // One start at a time; who comes second finds it running.
    let turn = daemon.turn(&entry.record.id);
    let _turn = turn.lock().await;
    let mut entry = daemon.containers.find(&entry.record.id)?;
    if active(entry.state().status) {
        return Ok(());
    }
    let mut record = entry.record.clone();
    check_ports(daemon, &record).await?;
    let before = entry.state();
    record.stopped = false;
    record.error = String::new();
    let asked = wanted(&record)?;
    networks::links::check_running(daemon, &record, &asked)?;
    joins::check_running(daemon, &record, &asked)?;
    // what a link leads to is known only now, and whose namespaces are joined
    let late = networks::links::any(&record, &asked) || joins::any(&record, &asked);
    if !entry.gated() || late {
        record.restarts = 0;
        Box::pin(replace(daemon, &entry, record.clone())).await?;
        entry = daemon.containers.find(&record.id)?;
        record = entry.record.clone();
    }
    let all = networks::all(daemon).await?;
    for endpoint in &record.endpoints {
        if !all.iter().any(|n| n.id == endpoint.network_id) {
            let told = format!("network {} not found", endpoint.network_id);
            return Err(Fault::not_found(told));
        }
    }
    {
        // until it's written down, nobody else is given an address
        let _giving = daemon.giving.lock().await;
        networks::ipam::give(daemon, &mut record, &all)?;
        let mut annotations = networks::ipam::annotations(&record);
        let text = serde_json::to_string(&record)?;
        annotations.insert(crate::record::ANNOTATION.into(), value!(text));
        let patch = value!({
            "spec": { "schedulingGates": null },
            "metadata": { "annotations": annotations },
        });
        daemon.patch(&entry, &patch).await?;
    }
    let run = daemon
        .containers
        .get(&record.id)
        .map_or(record.run, |e| e.record.run);
    let settled = until(daemon, &record.id, Some(START), |e, s| {
        e.record.run > run
            || (e.record.run == run
                && (obstacle(e, s).is_some()
                    || matches!(s.status, Status::Running | Status::Paused)
                    || (s.end.is_some() && s.end != before.end)))
    });
    let why = match settled.await {
        Ok(None) => {
            return Err(Fault::not_found(format!(
                "No such container: {}",
                record.id
            )));
        }
        Ok(Some(entry)) => obstacle(&entry, &entry.state()),
        Err(fault) => Some(fault.message),
    };
    let Some(why) = why else {
        return Box::pin(networks::sync(daemon)).await;
    };
    let fault = start_fault(&why);
    record.error = fault.message.clone();
    let once = Wanted::read(&record.body).is_ok_and(|w| w.host.auto_remove);
    if let (Some(entry), false) = (daemon.containers.get(&record.id), once) {
        // As it was before, with what went wrong.
        Box::pin(replace(daemon, &entry, record)).await?;
    }
    Err(fault)
}

/// SOURCE: moby `daemon/errors.go` setExitCodeFromError, translateContainerdStartErr: what clients take the exit code from.
fn start_fault(why: &str) -> Fault {
    let missing = [
        "executable file not found",
        "no such file or directory",
        "not found in $PATH",
    ];
    let what = match why.starts_with("exec: ") {
        true => format!("runc create failed: unable to start container process: {why}: unknown"),
        false => why.to_string(),
    };
    let told = format!(
        "failed to create task for container: failed to create shim task: OCI runtime create failed: {what}"
    );
    let is_bad = missing.iter().any(|m| why.to_lowercase().contains(m))
        || why.to_lowercase().contains("permission denied")
        || why.to_lowercase().contains("is a directory");
    match is_bad {
        true => Fault::bad(told),
        false => Fault::server(told),
    }
}

async fn check_ports(daemon: &Arc<Daemon>, record: &Record) -> Result<()> {
    for (port, places) in &record.bindings {
        for place in places {
            let same = |ip: &str| ip == place.ip || ip.is_empty() || place.ip.is_empty();
            let mut others = daemon.containers.all();
            others.retain(|e| e.record.id != record.id && active(e.state().status));
            let kind = port.rsplit('/').next();
            let taken = others.iter().any(|e| {
                let mut all = e.record.bindings.iter();
                all.any(|(p, list)| {
                    p.rsplit('/').next() == kind
                        && list.iter().any(|b| b.port == place.port && same(&b.ip))
                })
            });
            let at = if place.ip.is_empty() {
                "0.0.0.0"
            } else {
                &place.ip
            };
            let told = |why: String| {
                Fault::server(format!(
                    "failed to set up container networking: driver failed programming external connectivity on endpoint {} ({}): {why}",
                    record.name,
                    record
                        .endpoints
                        .first()
                        .map(|e| e.id.clone())
                        .unwrap_or_default(),
                ))
            };
            if taken {
                return Err(told(format!(
                    "Bind for {at}:{} failed: port is already allocated",
                    place.port
                )));
            }
            let (place, udp) = (place.clone(), kind == Some("udp"));
            if let Some(why) = blocking(move || Ok(ports::held(&place, udp))).await? {
                return Err(told(format!("failed to bind host port for {at}: {why}")));
            }
        }
    }
    Ok(())
}

/// `POST /containers/{id}/restart`
pub async fn restart(daemon: &Arc<Daemon>, reference: &str, ask: Ask) -> Result<Answer> {
    let entry = daemon.containers.find(reference)?;
    let signal = ask.query.get("signal").map(names::signal).transpose()?;
    let seconds = ask.query.int("t")?;
    // SOURCE: moby `daemon/restart.go`: a client that leaves would else leave it stopped
    let daemon = daemon.clone();
    let restarting = tokio::spawn(async move {
        let removal = daemon.reader(&entry.record.id);
        if active(entry.state().status) {
            Box::pin(halt(&daemon, &entry, signal, seconds)).await?;
        }
        let entry = daemon.containers.find(&entry.record.id)?;
        Box::pin(run(&daemon, &entry)).await?;
        drop(removal);
        daemon.tell("restart", &entry, &[]);
        Ok(http::done())
    });
    restarting.await.map_err(Fault::server)?
}

/// `POST /containers/{id}/wait`
///
/// The head of the answer goes out at once: by it the client knows that it will not miss the end.
pub async fn wait(daemon: &Arc<Daemon>, reference: &str, ask: Ask) -> Result<Answer> {
    let entry = daemon.containers.find(reference)?;
    let condition = ask
        .query
        .get("condition")
        .unwrap_or("not-running")
        .to_string();
    if !matches!(condition.as_str(), "not-running" | "next-exit" | "removed") {
        return Err(Fault::bad(format!("invalid condition: \"{condition}\"")));
    }
    let (daemon, first) = (daemon.clone(), entry.state());
    let looking: BoxFuture<'static, _> = Box::pin(async move {
        let (id, mut last) = (entry.record.id.clone(), first.clone());
        let mut changes = daemon.containers.subscribe();
        loop {
            changes.borrow_and_update();
            let Some(entry) = daemon.containers.get(&id) else {
                // SOURCE: moby `container/state.go` SetRemoved: that it went well is all that's told then
                last.error.clear();
                break;
            };
            let state = entry.state();
            let ended = state.end.is_some() && state.end != first.end;
            last = state;
            let fits = match condition.as_str() {
                // SOURCE: moby `container/state.go` SetRestarting: who waits is told of each end
                "not-running" => !active(last.status) || last.status == Status::Restarting || ended,
                "next-exit" => ended,
                _ => false,
            };
            if fits || changes.changed().await.is_err() {
                break;
            }
        }
        let mut answer = value!({ "StatusCode": last.exit_code });
        if !last.error.is_empty() {
            answer["Error"] = value!({ "Message": last.error });
        }
        Ok(bytes::Bytes::from(format!("{answer}\n")))
    });
    Ok(http::streamed(
        "application/json",
        futures::stream::once(looking),
    ))
}

/// `POST /containers/{id}/rename`
pub async fn rename(daemon: &Arc<Daemon>, reference: &str, ask: Ask) -> Result<Answer> {
    let asked = ask.query.get("name").unwrap_or_default();
    if asked.is_empty() {
        return Err(Fault::bad("Neither old nor new names may be empty"));
    }
    let _one = daemon.changing.lock().await;
    let entry = daemon.containers.find(reference)?;
    let failed = |told: &str| format!("Error when allocating new name: {told}");
    let slashed = format!("/{}", asked.trim_start_matches('/'));
    let name = names::container(&slashed).map_err(|f| Fault::bad(failed(&f.message)))?;
    if entry.record.name == name {
        return Err(Fault::bad(
            "Renaming a container with the same name as its current name",
        ));
    }
    if let Some(other) = daemon.containers.named(&name) {
        return Err(Fault::conflict(failed(&format!(
            "Conflict. The container name \"/{name}\" is already in use by container \"{}\". You have to remove (or rename) that container to be able to reuse that name.",
            other.record.id
        ))));
    }
    let mut record = entry.record.clone();
    record.name = name;
    daemon.rewrite(&entry, &record).await?;
    daemon.tell(
        "rename",
        &entry,
        &[("oldName", format!("/{}", entry.record.name))],
    );
    networks::sync(daemon).await?;
    Ok(http::done())
}
