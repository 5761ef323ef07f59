//! One build: what it needs is fetched from the client, our builder runs, what comes out goes where it's wanted.

use super::{
    caches, exports,
    fetch::{OWN_STEPS, fetch, read, step},
    lint, request,
    request::{Asked, Solve},
    session::Session,
    status::Told,
};
use crate::{daemon::Daemon, images};
use knarr_build::{BuildRequest, Built, Context, DockerfileFrom, Event, Lender, Limits, Secret};
use knarr_dockerfile::{
    Build, Command, Dockerfile, Ignore, Mount, MountKind, Platform, calls::rule_page,
};
use knarr_grpc::{Status, proto::Map};
use knarr_image::{Lane, Low, client::Logins};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};
use tokio::task::JoinHandle;

/// Ends what a build started, with it.
#[derive(Default)]
struct Agents(Vec<JoinHandle<()>>);

impl Drop for Agents {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// A build that is done: what is left to do is to hand over its files.
#[derive(Default)]
pub struct Done {
    /// to a question about the Dockerfile
    pub answers: lint::Answers,
    pub response: Map,
    files: Vec<exports::Handed>,
    caches: Vec<caches::Wanted>,
    _temp: Option<tempfile::TempDir>,
}

/// Ids of secrets and agents that `RUN`s ask for.
fn credentials(text: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut secrets, mut agents) = (BTreeSet::new(), BTreeSet::new());
    // one that can't be read is told by the builder
    let Ok(file) = Dockerfile::parse(text) else {
        return (secrets, agents);
    };
    let instructions = file.stages.iter().flat_map(|s| &s.instructions);
    for instruction in instructions {
        let Command::Run(run) = &instruction.command else {
            continue;
        };
        for mount in &run.mounts {
            let Ok(mount) = Mount::parse(mount, &mut |text| Ok(text.to_string())) else {
                continue;
            };
            match mount.kind {
                MountKind::Secret => {
                    let last = mount.target.rsplit('/').next().unwrap_or_default();
                    let id = if mount.id.is_empty() { last } else { &mount.id };
                    secrets.insert(id.to_string());
                }
                MountKind::Ssh => {
                    let id = if mount.id.is_empty() {
                        "default"
                    } else {
                        &mount.id
                    };
                    agents.insert(id.to_string());
                }
                _ => {}
            }
        }
    }
    (secrets, agents)
}

async fn lend(
    session: &Arc<Session>,
    request: &mut BuildRequest,
    temp: &Path,
) -> Result<Agents, Status> {
    let text = match &request.dockerfile {
        DockerfileFrom::File(path) => read(path.clone()),
        _ => None,
    };
    let (secrets, mut agents) = credentials(&text.unwrap_or_default());
    if !matches!(request.dockerfile, DockerfileFrom::File(_)) {
        // it is elsewhere: what it asks for isn't known yet
        agents.insert("default".into());
    }
    let asked = session.clone();
    request.lender = Some(Lender(Arc::new(move |id| {
        let session = asked.clone();
        Box::pin(async move { session.secret(&id).await.map_err(|status| status.message) })
    })));
    for id in secrets {
        if let Some(bytes) = session.secret(&id).await? {
            request.secrets.insert(id, Secret::Bytes(bytes));
        }
    }
    let mut lent = Agents::default();
    for (number, id) in agents.into_iter().enumerate() {
        if session.has_agent(&id).await {
            let socket = temp.join(format!("agent-{number}"));
            let task = session.agent(&id, &socket).map_err(Status::unknown)?;
            lent.0.push(task);
            request.ssh.insert(id, socket);
        }
    }
    Ok(lent)
}

/// Runs a build. To be called where blocking is allowed.
///
/// # Errors
/// The builder's, as BuildKit says them.
pub async fn run(
    daemon: &Arc<Daemon>,
    solve: &Solve,
    options: &Map,
    inputs: &BTreeMap<String, Option<String>>,
    told: &Told,
) -> Result<Done, Status> {
    let mut asked = request::asked(options, &solve.entitlements, inputs)?;
    let temp = daemon.temp().map_err(Status::unknown)?;
    let session = daemon.sessions.get(&solve.session).await?;
    let files = exports::wanted(&mut asked.request, &solve.exports, temp.path())?;
    // a result that goes nowhere may be the base of another build's
    let linked = solve.exports.is_empty() && options.get("requestid").is_none();
    asked.request.not_stored &= !linked;
    attest(&mut asked)?;
    let caches = caches::export(&solve.caches, &mut asked.request, temp.path())?;
    let question = options.get("requestid");
    {
        // this thread is the build's: what comes is written down where the builder's own work is done
        let _lane = Lane::hold(Limits::default().cpu_shares);
        let _low = Low::new();
        let alone = question.is_some();
        fetch(daemon, &session, told, &mut asked, temp.path(), alone).await?;
    }
    if let Some(question) = question {
        let text = text_of(&asked.request)?;
        let env = |name: &str| Some(daemon.images.resolve(name).ok()??.config.env);
        let about = lint::About {
            name: &asked.dockerfile,
            text: &text,
            ignore: asked
                .ignore
                .as_deref()
                .and_then(|text| Ignore::parse(text).ok()),
            build: Build {
                args: asked.request.args.clone(),
                target: asked
                    .request
                    .platforms
                    .first()
                    .cloned()
                    .unwrap_or_else(Platform::host),
                stage: asked.request.target.clone(),
                ..Build::default()
            },
        };
        return Ok(Done {
            answers: lint::answer(question, &about, &env)?,
            ..Done::default()
        });
    }
    let lent = lend(&session, &mut asked.request, temp.path()).await?;
    let warn = |text: String| told.tell(Event::Warning { text });
    caches::import(&session, options, &mut asked.request, temp.path(), &warn).await?;
    let lending = session.clone();
    let logins = Logins(Arc::new(move |registry| {
        let session = lending.clone();
        Box::pin(async move { session.login(&registry).await })
    }));
    let engine = (daemon.builder)(Some(logins)).map_err(Status::unknown)?;
    let tags = asked.request.tags.clone();
    // what it finds in a folder was told when it came from the client
    let fetched = matches!(asked.request.context, Context::Folder(_));
    let brought = temp.path().display().to_string();
    let hidden = parking_lot::Mutex::new(BTreeSet::new());
    let progress = |event: Event| {
        match &event {
            Event::Started { id, name } if name.contains(&brought) => {
                hidden.lock().insert(*id);
            }
            Event::Started { id, name } if fetched && name.starts_with("[internal] load ") => {
                let metadata = name.starts_with("[internal] load metadata");
                if !metadata {
                    hidden.lock().insert(*id);
                }
            }
            _ => {}
        }
        let id = match &event {
            Event::Started { id, .. } | Event::Output { id, .. } => Some(*id),
            Event::Transfer { id, .. } | Event::Ended { id, .. } => Some(*id),
            Event::Warning { .. } | Event::Found { .. } => None,
        };
        if id.is_none_or(|id| !hidden.lock().contains(&id)) {
            told.tell(event);
        }
    };
    let built = knarr_build::build(&engine, asked.request, &progress).await;
    drop(lent);
    // while the engine still holds it
    if let Ok(Built {
        image: Some(image), ..
    }) = &built
        && tags.is_empty()
        && !linked
    {
        images::keep_nameless(&daemon.images, &image.digest).map_err(Status::unknown)?;
    }
    if let Err(e) = engine.close().await {
        tracing::warn!(error = %e, "a build's leftovers stay until the next");
    }
    let built = built.map_err(|e| Status::unknown(told_error(&e)))?;
    for check in &built.checks {
        told.found(
            check.rule,
            &check.message,
            &rule_page(check.rule),
            check.line,
        );
    }
    if let Some(image) = &built.image {
        images::tell(daemon, "create", &image.id, &image.id);
    }
    Ok(Done {
        answers: lint::Answers::default(),
        response: exports::response(&built),
        files,
        caches,
        _temp: Some(temp),
    })
}

/// What is to be said of the image beside it. What would only be kept here is not, when that is how it was asked for (as
/// clients do by default): the image's digest would have to be known first, for nobody.
fn attest(asked: &mut Asked) -> Result<(), Status> {
    let leaves = exports::leaves(&asked.request);
    for (kind, value) in &asked.attests {
        let inline = value.split(',').any(|part| part == "inline-only=true");
        if inline && !leaves {
            continue;
        }
        let added = asked.request.attestations.add(kind, value);
        added.map_err(|e| request::refused(format!("--attest type={kind},{value} ({e})")))?;
    }
    Ok(())
}

fn text_of(request: &BuildRequest) -> Result<String, Status> {
    let text = match &request.dockerfile {
        DockerfileFrom::File(path) => read(path.clone()),
        DockerfileFrom::Text(text) => Some(text.clone()),
        DockerfileFrom::Context(_) => None,
    };
    text.ok_or_else(|| Status::unknown("only a Dockerfile of the client's can be asked about"))
}

/// The reason alone: the log and the lines are shown by the client.
pub fn told_error(error: &knarr_build::Error) -> String {
    match error.root() {
        knarr_build::Error::Dockerfile { excerpt, why } => {
            format!("dockerfile parse error on line {}: {why}", excerpt.first)
        }
        knarr_build::Error::Step { why, excerpt, .. } => format!("{why}\n{excerpt}"),
        other => other.to_string(),
    }
}

impl Done {
    /// Gives the client what it wants as files.
    ///
    /// # Errors
    /// The client's.
    pub async fn hand_over(
        self,
        daemon: &Arc<Daemon>,
        solve: &Solve,
        told: &Told,
    ) -> Result<Map, Status> {
        let mut response = self.response;
        if self.files.is_empty() && self.caches.is_empty() {
            return Ok(response);
        }
        let session = daemon.sessions.get(&solve.session).await?;
        for file in &self.files {
            let number = (OWN_STEPS >> 1) + 1 + file.number;
            step(told, number, file.title(), file.give(&session)).await?;
        }
        for (number, cache) in self.caches.iter().enumerate() {
            let giving = cache.give(&session, &mut response);
            let number = (OWN_STEPS >> 2) + number;
            step(told, number, "sending cache to client", giving).await?;
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_found() {
        let text = "FROM x\nRUN --mount=type=secret,id=a --mount=type=secret,target=/run/b true\nRUN --mount=type=ssh true\n";
        let (secrets, agents) = credentials(text);
        assert_eq!(secrets, BTreeSet::from(["a".into(), "b".into()]));
        assert_eq!(agents, BTreeSet::from(["default".into()]));
        assert_eq!(credentials("NONSENSE"), Default::default());
    }
}
