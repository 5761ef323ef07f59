//! The calls that clients make of a builder, answered.

use super::{
    history::History,
    linked,
    request::Solve,
    session,
    solve::{self, Done},
    status::{Told, timestamp},
};
use crate::{
    daemon::Daemon,
    error::{Fault, blocking},
};
use knarr_build::{Prune, Space};
use knarr_grpc::{
    Answer, Call, Reply, Status, code,
    proto::{Fields, Map, Message},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{mpsc, oneshot, watch};

/// How long the other half of a build may take to come.
const COMING: Duration = Duration::from_secs(20);
/// How long a build that is over is known: a client may ask how it went after it has ended.
const KEPT: Duration = Duration::from_secs(20);
/// Builds that somebody asked about at one time.
const BUILDS_MAX: usize = 256;
/// On calls of a build's own frontend; SOURCE: moby/buildkit `client/buildid`
const BUILD_ID: &str = "buildkit-controlapi-buildid";
/// The only result that a build of ours has.
const RESULT: &str = "result";

/// SOURCE: moby/buildkit `frontend/gateway/pb/caps.go`
const FRONTEND: [&str; 11] = [
    "solve.base",
    "solve.inlinereturn",
    "return",
    "returnmap",
    "proto.refarray",
    "reference.output",
    "frontend.caps",
    "gateway.solve.metadata",
    "gateway.solve.evaluate",
    "gateway.evaluate",
    "gateway.warnings",
];
/// SOURCE: moby/buildkit `solver/pb/caps.go`
const LLB: [&str; 20] = [
    "source.image",
    "source.image.resolvemode",
    "source.local",
    "source.local.unique",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "source.git",
    "source.http",
    "exec.meta.base",
    "exec.mount.cache",
    "exec.mount.secret",
    "exec.mount.ssh",
    "exporter.multiple",
    "exporter.sourcedateepoch",
    "exporter.image.attestations",
    "source.ocilayout",
    "gc.freespacefilter",
];

/// One build, from the first who speaks of it until its end.
struct Build {
    told: Told,
    /// what is asked for, once that has come
    solve: watch::Sender<Option<Arc<Solve>>>,
    done: Mutex<Option<Done>>,
    /// what the client has made of the result
    returned: watch::Sender<Option<Result<(), Status>>>,
}

/// All builds, by the name that their client has given them.
#[derive(Default)]
pub struct Builds(Mutex<HashMap<String, Arc<Build>>>, History);

/// Ends what is told of a build, and forgets it.
struct Forget {
    daemon: Arc<Daemon>,
    reference: String,
    build: Arc<Build>,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.build.told.end();
        let (daemon, reference) = (self.daemon.clone(), std::mem::take(&mut self.reference));
        tokio::spawn(async move {
            tokio::time::sleep(KEPT).await;
            daemon.builds.0.lock().remove(&reference);
        });
    }
}

impl Builds {
    fn of(&self, reference: &str) -> Result<Arc<Build>, Status> {
        let mut all = self.0.lock();
        if let Some(build) = all.get(reference) {
            return Ok(build.clone());
        }
        if reference.is_empty() || all.len() >= BUILDS_MAX {
            return Err(Status::new(
                code::RESOURCE_EXHAUSTED,
                "too many builds at a time, or one without a name",
            ));
        }
        let build = Arc::new(Build {
            told: Told::new(reference),
            solve: watch::Sender::new(None),
            done: Mutex::default(),
            returned: watch::Sender::new(None),
        });
        all.insert(reference.into(), build.clone());
        Ok(build)
    }
}

/// A call of either service.
pub async fn answer(daemon: Arc<Daemon>, mut call: Call) -> Reply {
    let method = call.method.clone();
    let (service, name) = method
        .trim_start_matches('/')
        .split_once('/')
        .unwrap_or_default();
    let unknown = || {
        Err(Status::new(
            code::UNIMPLEMENTED,
            format!("unknown method {name} for service {service}: knarr has none"),
        ))
    };
    let nothing = || Ok(Answer::One(Message::default()));
    match (service, name) {
        ("grpc.health.v1.Health", "Check") => Ok(Answer::One(Message::default().number(1, 1))),
        ("moby.buildkit.v1.Control", "Info") => Ok(Answer::One(
            Message::default().message(1, &version(&daemon)),
        )),
        ("moby.buildkit.v1.Control", "ListWorkers") => {
            Ok(Answer::One(Message::default().message(1, &worker(&daemon))))
        }
        // the cache is looked after by itself, see `/system/df`
        ("moby.buildkit.v1.Control", "DiskUsage") => usage(&daemon).await,
        ("moby.buildkit.v1.Control", "Prune") => prune(&daemon, &call.message().await?).await,
        ("moby.buildkit.v1.Control", "Solve") => {
            let solve = Solve::read(&call.message().await?);
            Box::pin(control_solve(daemon, solve)).await
        }
        ("moby.buildkit.v1.Control", "Status") => {
            let asked = call.message().await?;
            status(&daemon, &reference(&asked))
        }
        ("moby.buildkit.v1.Control", "ListenBuildHistory") => {
            let asked = call.message().await?;
            daemon.builds.1.listen(&asked)
        }
        ("moby.buildkit.v1.Control", "UpdateBuildHistory") => {
            let asked = call.message().await?;
            daemon.builds.1.update(&asked)
        }
        ("moby.buildkit.v1.Control", "Session") => session::by_call(&daemon, call),
        ("moby.buildkit.v1.frontend.LLBBridge", "Ping") => Ok(Answer::One(pong(&daemon))),
        ("moby.buildkit.v1.frontend.LLBBridge", "Solve") => {
            let build = build_of(&daemon, &call)?;
            let solve = Solve::read_inner(&call.message().await?);
            Box::pin(inner_solve(daemon, build, solve)).await
        }
        ("moby.buildkit.v1.frontend.LLBBridge", "Return") => {
            let build = build_of(&daemon, &call)?;
            let returned = returned(&call.message().await?);
            build.returned.send_replace(Some(returned));
            nothing()
        }
        ("moby.buildkit.v1.frontend.LLBBridge", "Warn" | "Inputs" | "Evaluate") => nothing(),
        _ => unknown(),
    }
}

fn reference(message: &[u8]) -> String {
    let found = Fields(message).find(|(field, _)| *field == 1);
    found.map(|(_, value)| value.text()).unwrap_or_default()
}

fn build_of(daemon: &Arc<Daemon>, call: &Call) -> Result<Arc<Build>, Status> {
    let id = call.metadata.get(BUILD_ID).and_then(|v| v.to_str().ok());
    let id =
        id.ok_or_else(|| Status::new(code::INVALID_ARGUMENT, "no buildid found in context"))?;
    daemon.builds.of(id)
}

fn version(daemon: &Daemon) -> Message {
    Message::default()
        .text(1, "knarr")
        .text(2, &format!("knarr-{}", daemon.version))
}

/// `WorkerRecord`
fn worker(daemon: &Daemon) -> Message {
    let arch = knarr_dockerfile::Platform::host();
    let platform = Message::default()
        .text(1, &arch.architecture)
        .text(2, "linux")
        .text(3, &arch.variant);
    let labels = Map::from([
        (
            "org.mobyproject.buildkit.worker.executor".to_string(),
            "knarr".to_string(),
        ),
        (
            // clients know by it that there are indexes, archives, pushes and caches
            "org.mobyproject.buildkit.worker.snapshotter".to_string(),
            "overlayfs".to_string(),
        ),
        (
            "org.mobyproject.buildkit.worker.moby.host-gateway-ip".to_string(),
            daemon.gateway().to_string(),
        ),
    ]);
    Message::default()
        .text(1, &daemon.node)
        .map(2, &labels)
        .message(3, &platform)
        .message(5, &version(daemon))
}

fn pong(daemon: &Daemon) -> Message {
    let cap = |id: &str| Message::default().text(1, id).flag(2, true);
    let mut pong = Message::default();
    for id in FRONTEND {
        pong = pong.message(1, &cap(id));
    }
    for id in LLB {
        pong = pong.message(2, &cap(id));
    }
    pong.message(3, &worker(daemon))
}

/// `ReturnRequest`
fn returned(message: &[u8]) -> Result<(), Status> {
    let error = Fields(message).find(|(field, _)| *field == 2);
    let Some((_, error)) = error else {
        return Ok(());
    };
    let mut status = Status::unknown("the client gave up");
    for (field, value) in error.fields() {
        match field {
            1 => status.code = value.number() as u32,
            2 => status.message = value.text(),
            _ => {}
        }
    }
    Err(status)
}

/// What is told of a build, from its start.
fn status(daemon: &Arc<Daemon>, reference: &str) -> Reply {
    let (send, receive) = mpsc::channel(16);
    if let Some(log) = daemon.builds.1.log(reference) {
        tokio::spawn(async move {
            for message in log.iter() {
                if send.send(Ok(message.clone())).await.is_err() {
                    return;
                }
            }
        });
        return Ok(Answer::Many(receive));
    }
    let build = daemon.builds.of(reference)?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                message = build.told.next() => {
                    let Some(message) = message else { return };
                    if send.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
                () = send.closed() => return,
            }
        }
    });
    Ok(Answer::Many(receive))
}

async fn control_solve(daemon: Arc<Daemon>, solve: Solve) -> Reply {
    if solve.definition {
        return Err(Status::new(
            code::UNIMPLEMENTED,
            "LLB of one's own is not supported by knarr: it builds Dockerfiles",
        ));
    }
    let build = daemon.builds.of(&solve.reference)?;
    let _forget = Forget {
        daemon: daemon.clone(),
        reference: solve.reference.clone(),
        build: build.clone(),
    };
    let solve = Arc::new(solve);
    if !solve.internal {
        daemon.builds.1.begin(&solve);
    }
    build.solve.send_replace(Some(solve.clone()));
    let ending = Ending(&daemon, &build, &solve.reference);
    let made = make(&daemon, &build, &solve).await;
    ending.so(made.clone());
    Ok(Answer::One(Message::default().map(1, &made?)))
}

/// Writes down how a build ended, also one that nobody waits for any more.
struct Ending<'a>(&'a Daemon, &'a Build, &'a str);

impl Ending<'_> {
    fn so(self, how: Result<Map, Status>) {
        self.write(how);
        std::mem::forget(self);
    }
    fn write(&self, how: Result<Map, Status>) {
        let (counts, log) = self.1.told.summed();
        self.0.builds.1.end(self.2, how, counts, log);
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.write(Err(Status::new(code::CANCELLED, "context canceled")));
    }
}

/// What clients are told of the result.
async fn make(daemon: &Arc<Daemon>, build: &Arc<Build>, solve: &Arc<Solve>) -> Result<Map, Status> {
    let done = match solve.frontend.is_empty() {
        false => {
            let (options, inputs) = (solve.options.clone(), solve.inputs.clone());
            Some(work(daemon, build, solve, options, inputs).await?)
        }
        true => {
            let mut returned = build.returned.subscribe();
            let answer = returned.wait_for(Option::is_some).await;
            let answer = answer.map_err(Status::unknown)?.clone();
            answer.unwrap_or(Ok(()))?;
            build.done.lock().take()
        }
    };
    let response = match done {
        Some(done) => {
            let (daemon, build, solve) = (daemon.clone(), build.clone(), solve.clone());
            off_loop(async move { done.hand_over(&daemon, &solve, &build.told).await }).await?
        }
        // nothing was built: all that is asked for is told already
        None => Map::new(),
    };
    Ok(response)
}

/// `UsageRecord`s of the builder's cache.
async fn usage(daemon: &Arc<Daemon>) -> Reply {
    let worker = daemon.clone();
    let all = blocking(move || {
        let engine = (worker.builder)(None).map_err(Fault::server)?;
        engine.usage().map_err(Fault::server)
    });
    let all = all.await.map_err(|fault| Status::unknown(fault.message))?;
    let mut answer = Message::default();
    for one in all {
        let record = Message::default()
            .text(1, &one.id)
            .number(4, i64::try_from(one.bytes).unwrap_or(i64::MAX))
            .message(7, &timestamp(one.last_used))
            .text(9, &one.description)
            .text(10, &one.kind)
            .flag(11, one.layer.is_some());
        answer = answer.message(1, &record);
    }
    Ok(Answer::One(answer))
}

/// `PruneRequest`: what went, as records.
async fn prune(daemon: &Arc<Daemon>, asked: &[u8]) -> Reply {
    let (mut all, mut age, mut space) = (false, None, Space::default());
    for (field, value) in Fields(asked) {
        let number = u64::try_from(value.number()).unwrap_or(0);
        match field {
            2 => all = number != 0,
            // nanoseconds
            3 => age = Some(number / 1_000_000_000).filter(|_| number > 0),
            4 => space.reserved_bytes = number,
            5 => space.used_max_bytes = number,
            6 => space.free_min_bytes = number,
            _ => {}
        }
    }
    let worker = daemon.clone();
    let pruned = blocking(move || {
        let engine = (worker.builder)(None).map_err(Fault::server)?;
        let kept = engine.kept(&space).map_err(Fault::server)?;
        let wanted = Prune::asked(age, kept, all);
        engine.prune(&wanted).map_err(Fault::server)
    });
    let pruned = pruned
        .await
        .map_err(|fault| Status::unknown(fault.message))?;
    let pruned = pruned.ok_or_else(|| Status::unavailable("a build is running"))?;
    let (send, receive) = mpsc::channel(16);
    tokio::spawn(async move {
        // the size is known of all together only
        let mut bytes = i64::try_from(pruned.bytes_freed).unwrap_or(i64::MAX);
        for id in pruned.snapshots {
            let record = Message::default()
                .text(1, &id)
                .number(4, std::mem::take(&mut bytes))
                .text(10, "regular");
            if send.send(Ok(record)).await.is_err() {
                return;
            }
        }
    });
    Ok(Answer::Many(receive))
}

/// Where blocking is allowed; who waits no more ends it.
async fn off_loop<T: Send + 'static>(
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    let (mut send, receive) = oneshot::channel();
    let handle = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        handle.block_on(async {
            let done = tokio::select! {
                done = work => done,
                () = send.closed() => return,
            };
            let _ = send.send(done);
        });
    });
    let done = receive.await;
    done.unwrap_or_else(|_| Err(Status::new(code::INTERNAL, "the build ended unexpectedly")))
}

async fn work(
    daemon: &Arc<Daemon>,
    build: &Arc<Build>,
    solve: &Arc<Solve>,
    options: Map,
    inputs: BTreeMap<String, Option<String>>,
) -> Result<Done, Status> {
    let (daemon, build, solve) = (daemon.clone(), build.clone(), solve.clone());
    off_loop(async move { solve::run(&daemon, &solve, &options, &inputs, &build.told).await }).await
}

/// The frontend's own call: the other one, which says what is to be made of it, is on its way.
async fn inner_solve(daemon: Arc<Daemon>, build: Arc<Build>, inner: Solve) -> Reply {
    if inner.definition {
        return Err(Status::new(
            code::UNIMPLEMENTED,
            "LLB of one's own is not supported by knarr: it builds Dockerfiles",
        ));
    }
    match inner.frontend.as_str() {
        "dockerfile.v0" | "gateway.v0" => {}
        other => {
            return Err(Status::new(
                code::UNIMPLEMENTED,
                format!("the frontend {other:?} is not supported by knarr"),
            ));
        }
    }
    let mut asked = build.solve.subscribe();
    let solve = tokio::time::timeout(COMING, asked.wait_for(Option::is_some)).await;
    let solve = solve.map_err(|_| Status::unknown("nobody asked for this build"))?;
    let solve = solve.map_err(Status::unknown)?.clone();
    let Some(solve) = solve else {
        return Err(Status::unknown("nobody asked for this build"));
    };
    let history = &daemon.builds.1;
    history.asked(&solve.reference, &inner.frontend, &inner.options);
    let done = work(&daemon, &build, &solve, inner.options, inner.inputs).await?;
    let mut reference = Message::default().text(1, RESULT);
    if let Some(digest) = done.response.get("containerimage.digest") {
        reference = reference.message(2, &linked::definition(digest));
    }
    let mut result = Message::default().message(3, &reference);
    for (name, answer) in &done.answers {
        result = result.message(10, &Message::default().text(1, name).data(2, answer));
    }
    build.done.lock().replace(done);
    Ok(Answer::One(Message::default().message(3, &result)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_returned_is_read() {
        let result = Message::default().message(1, &Message::default());
        assert_eq!(returned(result.as_bytes()), Ok(()));
        let error = Message::default().number(1, 2).text(2, "no");
        let error = Message::default().message(2, &error);
        assert_eq!(
            returned(error.as_bytes()),
            Err(Status::new(code::UNKNOWN, "no"))
        );
    }
}
