//! Commands in running containers: made, then started, then looked at.

use crate::{
    attach::{self, Keys, Typed},
    create::wanted::Wanted,
    daemon::Daemon,
    error::{Fault, Result},
    http::{self, Answer, Ask, Fields, json},
    lifecycle, logs,
    machine::{Exec, Resize, Streams},
    names,
    state::Status,
};
use ::http::StatusCode;
use parking_lot::Mutex;
use serde_json::json as value;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use tokio::io::AsyncWriteExt;

/// The oldest that have ended are forgotten.
const KEPT: usize = 1024;

#[derive(Clone)]
struct One {
    id: String,
    container: String,
    exec: Exec,
    attach: [bool; 3],
    keys: Option<String>,
    /// None: not started
    running: Option<bool>,
    exit_code: Option<i32>,
    pid: i32,
    resize: Option<Arc<Resize>>,
    size: Option<(u16, u16)>,
}

/// All commands, and who is attached to a terminal.
#[derive(Default)]
pub struct Execs {
    all: Mutex<(HashMap<String, One>, VecDeque<String>)>,
    terminals: Arc<Terminals>,
    sizes: Mutex<HashMap<String, (u16, u16)>>,
}

type Terminals = Mutex<HashMap<String, Arc<Resize>>>;

/// Somebody is attached; dropped, no more.
pub struct Session {
    terminals: Arc<Terminals>,
    container: String,
    mine: Arc<Resize>,
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut terminals = self.terminals.lock();
        // somebody else may have come after
        if terminals
            .get(&self.container)
            .is_some_and(|t| Arc::ptr_eq(t, &self.mine))
        {
            terminals.remove(&self.container);
        }
    }
}

impl Execs {
    /// A terminal gets the size that was asked for before anybody was there.
    pub fn sized(&self, container: &str, resize: &Resize) {
        if let Some((columns, rows)) = self.sizes.lock().remove(container) {
            resize(columns, rows);
        }
    }
    pub fn attached(&self, container: &str, resize: Resize) -> Session {
        let mine = Arc::new(resize);
        let mut terminals = self.terminals.lock();
        terminals.insert(container.to_string(), mine.clone());
        Session {
            terminals: self.terminals.clone(),
            container: container.to_string(),
            mine,
        }
    }
    pub fn tell_detached(&self, daemon: &Daemon, container: &str) {
        if let Some(entry) = daemon.containers.get(container) {
            daemon.tell("detach", &entry, &[]);
        }
    }
    fn get(&self, id: &str) -> Result<One> {
        let found = self.all.lock().0.get(id).cloned();
        found.ok_or_else(|| Fault::not_found(format!("No such exec instance: {id}")))
    }
    fn put(&self, one: One) {
        let mut all = self.all.lock();
        all.1.push_back(one.id.clone());
        all.0.insert(one.id.clone(), one);
        if all.1.len() > KEPT
            && let Some(at) = all
                .1
                .iter()
                .position(|id| all.0.get(id).is_none_or(|o| o.running != Some(true)))
            && let Some(id) = all.1.remove(at)
        {
            all.0.remove(&id);
        }
    }
    fn change(&self, id: &str, change: impl FnOnce(&mut One)) {
        if let Some(one) = self.all.lock().0.get_mut(id) {
            change(one);
        }
    }
    /// Those of a container that haven't ended.
    pub fn of(&self, container: &str) -> Vec<String> {
        let all = self.all.lock();
        let mine = all
            .0
            .values()
            .filter(|o| o.container == container && o.exit_code.is_none());
        mine.map(|o| o.id.clone()).collect()
    }
}

fn running(daemon: &Daemon, reference: &str) -> Result<Arc<crate::containers::Entry>> {
    let entry = daemon.containers.find(reference)?;
    match entry.state().status {
        Status::Running => Ok(entry),
        Status::Paused => Err(Fault::conflict(format!(
            "Container {reference} is paused, unpause the container before exec"
        ))),
        Status::Restarting => Err(Fault::conflict(format!(
            "Container {} is restarting, wait until the container is running",
            entry.record.id
        ))),
        _ => Err(Fault::conflict(format!(
            "container {} is not running",
            entry.record.id
        ))),
    }
}

/// `POST /containers/{id}/exec`
pub async fn create(daemon: &Arc<Daemon>, reference: &str, mut ask: Ask) -> Result<Answer> {
    let mut f = Fields::new(ask.object().await?, "ExecConfig");
    let exec = Exec {
        args: f.texts("Cmd")?.unwrap_or_default(),
        env: f.texts("Env")?.unwrap_or_default(),
        user: f.text("User")?.unwrap_or_default(),
        cwd: f.text("WorkingDir")?.unwrap_or_default(),
        tty: f.flag("Tty")?,
        size: None,
        stdin: f.flag("AttachStdin")?,
        privileged: f.flag("Privileged")?,
    };
    let attach = [exec.stdin, f.flag("AttachStdout")?, f.flag("AttachStderr")?];
    let keys = f.text("DetachKeys")?;
    Keys::new(keys.as_deref())?;
    // the path says it, and the client
    let size = f.list("ConsoleSize")?;
    for key in ["Detach", "Container"] {
        f.take(key);
    }
    f.finish_but(&[])?;
    if exec.args.is_empty() {
        return Err(Fault::bad("No exec command specified"));
    }
    let entry = running(daemon, reference)?;
    if !exec.user.is_empty() {
        let pod = daemon.pod_name(&entry);
        let known = daemon.machine.knows(&pod, &exec.user).await;
        known.map_err(Fault::bad)?;
    }
    let id = names::id();
    daemon.tell(
        &format!("exec_create: {}", exec.args.join(" ")),
        &entry,
        &[("execID", id.clone())],
    );
    daemon.execs.put(One {
        id: id.clone(),
        container: entry.record.id.clone(),
        exec,
        attach,
        keys,
        running: None,
        exit_code: None,
        pid: 0,
        resize: None,
        size: match &size[..] {
            [rows, columns] => Some((number(columns), number(rows))),
            _ => None,
        },
    });
    Ok(http::json_with(StatusCode::CREATED, &value!({ "Id": id })))
}

/// What a shell would say of a command that can't be run.
fn exit_code_of(why: &str) -> i32 {
    match why.contains("not found") || why.contains("o such file") {
        true => 127,
        false => 126,
    }
}

/// `POST /exec/{id}/start`
pub async fn start(daemon: &Arc<Daemon>, id: &str, mut ask: Ask) -> Result<Answer> {
    let body = ask.object().await?;
    let one = daemon.execs.get(id)?;
    let mut f = Fields::new(body, "ExecStartConfig");
    let detach = f.flag("Detach")?;
    let tty = f.flag("Tty")?;
    let size = f.list("ConsoleSize")?;
    f.finish_but(&[])?;
    let entry = running(daemon, &one.container)?;
    let first = {
        let mut all = daemon.execs.all.lock();
        let known = all.0.get_mut(id);
        known.is_some_and(|o| o.running.replace(true).is_none())
    };
    if !first {
        return Err(Fault::conflict(format!(
            "Error: Exec command {id} has already run"
        )));
    }
    // SOURCE: moby `api/server/router/container/exec.go`: what is said here decides, whatever the command has
    let raw = tty;
    let mut exec = one.exec.clone();
    exec.stdin &= !detach;
    // one that was asked for meanwhile counts, too
    exec.size = match &size[..] {
        [rows, columns] => Some((number(columns), number(rows))),
        _ => daemon.execs.get(id)?.size,
    };
    let started = daemon.machine.exec(&daemon.pod_name(&entry), exec).await;
    let streams = match started {
        Ok(streams) => streams,
        Err(why) => {
            let code = exit_code_of(&why);
            daemon.execs.change(id, |o| {
                o.running = Some(false);
                o.exit_code = Some(code);
            });
            if why.starts_with("unable to find ") {
                return Err(Fault::bad(why));
            }
            let told = format!(
                "OCI runtime exec failed: exec failed: unable to start container process: {why}: unknown"
            );
            if !detach {
                return refused(daemon, ask, raw, told);
            }
            return Err(match code {
                127 | 126 => Fault::bad(told),
                _ => Fault::server(told),
            });
        }
    };
    daemon.tell(
        &format!("exec_start: {}", one.exec.args.join(" ")),
        &entry,
        &[("execID", id.to_string())],
    );
    let Streams {
        stdin,
        stdout,
        stderr,
        resize,
        mut exit,
        pid,
        ..
    } = streams;
    daemon.execs.change(id, |o| {
        o.resize = Some(Arc::new(resize));
        o.pid = pid;
    });
    let finished = {
        let (daemon, id, entry) = (daemon.clone(), id.to_string(), entry.clone());
        move |code: i32| {
            daemon.execs.change(&id, |o| {
                o.running = Some(false);
                o.exit_code = Some(code);
                o.resize = None;
            });
            daemon.tell(
                "exec_die",
                &entry,
                &[("execID", id.clone()), ("exitCode", code.to_string())],
            );
        }
    };
    if detach {
        tokio::spawn(async move {
            let mut nowhere = tokio::io::sink();
            let shown = attach::show(stdout, stderr, true, &mut nowhere);
            let mut shown = std::pin::pin!(shown);
            let code = tokio::select! {
                code = &mut exit => code,
                () = &mut shown => exit.await,
            };
            finished(code);
        });
        return Ok(http::empty(StatusCode::OK));
    }
    let kind = logs::content_type(raw, &ask);
    let (answer, upgrade) = attach::hijack(&mut ask, kind)?;
    let keys = one.exec.tty.then(|| Keys::new(one.keys.as_deref()));
    let keys = keys.transpose()?;
    let reader = daemon.reader(&entry.record.id);
    let stdout = stdout.filter(|_| one.attach[1]);
    let stderr = stderr.filter(|_| one.attach[2]);
    let (daemon_of_left, container) = (daemon.clone(), one.container.clone());
    let machine = daemon.machine.clone();
    tokio::spawn(async move {
        let Some(far) = attach::taken(upgrade, &*machine).await else {
            finished(137);
            return;
        };
        let (from, mut to) = tokio::io::split(far);
        // what it says goes on being read when nobody hears it any more
        let (mut through, mut out) = tokio::io::duplex(attach::PIECE);
        let running = tokio::spawn(async move {
            let shown = attach::show(stdout, stderr, raw, &mut through);
            let mut shown = std::pin::pin!(shown);
            tokio::select! {
                code = &mut exit => {
                    attach::drain(shown).await;
                    code
                }
                () = &mut shown => exit.await,
            }
        });
        let typed = async {
            if let Some(input) = stdin
                && attach::type_in(Typed::fresh(from), input, keys).await
            {
                return;
            }
            // its input is at its end: the rest is heard
            std::future::pending::<()>().await
        };
        let left = {
            let heard = tokio::io::copy(&mut out, &mut to);
            tokio::select! {
                heard = heard => heard.is_err(),
                () = typed => true,
            }
        };
        if left {
            let _ = to.shutdown().await;
            drop(to);
            daemon_of_left
                .execs
                .tell_detached(&daemon_of_left, &container);
            let _ = tokio::io::copy(&mut out, &mut tokio::io::sink()).await;
            finished(running.await.unwrap_or(137));
        } else {
            // The client asks for the code as soon as the streams end.
            finished(running.await.unwrap_or(137));
            let _ = to.shutdown().await;
        }
        drop(reader);
    });
    Ok(answer)
}

/// Why a command could not be started, as its output: clients ask for the exit code then.
fn refused(daemon: &Daemon, mut ask: Ask, raw: bool, told: String) -> Result<Answer> {
    let kind = logs::content_type(raw, &ask);
    let (answer, upgrade) = attach::hijack(&mut ask, kind)?;
    let machine = daemon.machine.clone();
    tokio::spawn(async move {
        let Some(mut far) = attach::taken(upgrade, &*machine).await else {
            return;
        };
        let told = format!("{told}\r\n").into_bytes();
        let told = match raw {
            true => told,
            false => crate::frames::frame(crate::frames::Stream::Stdout, &told).to_vec(),
        };
        // a client that left hears nothing
        let _ = far.write_all(&told).await;
        let _ = far.shutdown().await;
    });
    Ok(answer)
}

fn number(value: &serde_json::Value) -> u16 {
    value
        .as_u64()
        .and_then(|n| u16::try_from(n).ok())
        .unwrap_or(0)
}

/// `GET /exec/{id}/json`
pub async fn inspect(daemon: &Arc<Daemon>, id: &str) -> Result<Answer> {
    let one = daemon.execs.get(id)?;
    let (entrypoint, arguments) = one
        .exec
        .args
        .split_first()
        .map_or((String::new(), vec![]), |(e, a)| (e.clone(), a.to_vec()));
    Ok(json(&value!({
        "ID": one.id,
        "ContainerID": one.container,
        "Running": one.running == Some(true),
        "ExitCode": one.exit_code,
        "Pid": one.pid,
        "CanRemove": one.exit_code.is_some(),
        "DetachKeys": one.keys.unwrap_or_default(),
        "OpenStdin": one.attach[0],
        "OpenStdout": one.attach[1],
        "OpenStderr": one.attach[2],
        "ProcessConfig": {
            "tty": one.exec.tty,
            "entrypoint": entrypoint,
            "arguments": arguments,
            "privileged": one.exec.privileged,
            "user": one.exec.user,
        },
    })))
}

fn size(ask: &Ask) -> Result<(u16, u16)> {
    let read = |key: &str| {
        // SOURCE: moby `api/server/httputils` Uint32Value
        let name = if key == "w" { "width" } else { "height" };
        let text = ask.query.get(key).unwrap_or_default();
        let wrong = |why: &str| Fault::bad(format!("invalid resize {name} {text:?}: {why}"));
        let digits = text.strip_prefix('-').unwrap_or(text);
        match text.parse::<u32>() {
            // a kernel's terminal is no larger
            Ok(number) => Ok(u16::try_from(number).unwrap_or(u16::MAX)),
            Err(_) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                Err(wrong("value out of range"))
            }
            Err(_) => Err(wrong("invalid syntax")),
        }
    };
    let rows = read("h")?;
    Ok((read("w")?, rows))
}

/// `POST /exec/{id}/resize`
pub async fn resize(daemon: &Arc<Daemon>, id: &str, ask: Ask) -> Result<Answer> {
    let (columns, rows) = size(&ask)?;
    let one = daemon.execs.get(id)?;
    match one.resize {
        Some(resize) => resize(columns, rows),
        None if one.exit_code.is_some() => {
            return Err(Fault::conflict(format!("exec {id} is not running")));
        }
        None => daemon.execs.change(id, |o| o.size = Some((columns, rows))),
    }
    Ok(http::empty(StatusCode::OK))
}

/// `POST /containers/{id}/resize`
pub async fn resize_container(daemon: &Arc<Daemon>, reference: &str, ask: Ask) -> Result<Answer> {
    let (columns, rows) = size(&ask)?;
    let entry = daemon.containers.find(reference)?;
    if !lifecycle::active(entry.state().status) {
        return Err(Fault::conflict(format!(
            "container {} is not running",
            entry.record.id
        )));
    }
    let terminals = daemon.execs.terminals.lock();
    match terminals.get(&entry.record.id) {
        Some(resize) => resize(columns, rows),
        None => {
            let mut sizes = daemon.execs.sizes.lock();
            if sizes.len() < KEPT && Wanted::read(&entry.record.body).is_ok_and(|w| w.tty) {
                sizes.insert(entry.record.id.clone(), (columns, rows));
            }
        }
    }
    Ok(http::empty(StatusCode::OK))
}
