//! `POST /build`: the classic builder's request and messages, over our own builder; BuildKit's behind it in `traced`.
//!
//! SOURCE: moby `api/server/router/build`. `/_ping` says builder version 1, so clients without buildx send this request;
//! BuildKit's own protocol, which buildx speaks whatever that says, is in `buildkit`.

mod traced;

use crate::{
    buildkit::{solve, status::Told},
    daemon::Daemon,
    error::{Fault, Result, blocking},
    events::tokio_stream,
    filters::Filters,
    http::{self, Answer, Ask, messages},
    images,
};
use knarr_build::{BuildRequest, Context, DockerfileFrom, Event, NoCache, Outcome, Prune};
use knarr_dockerfile::{Check, Network, Platform};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};
use tokio::sync::mpsc;

/// Messages on their way to a client; a build waits for nobody, so a very slow one misses output.
const MESSAGES: usize = 4096;

fn object(ask: &Ask, key: &str) -> Result<BTreeMap<String, Option<String>>> {
    let Some(text) = ask.query.get(key) else {
        return Ok(BTreeMap::new());
    };
    serde_json::from_str(text).map_err(|e| Fault::bad(format!("error reading {key}: {e}")))
}

/// SOURCE: docker/go-units Ulimit
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ulimit {
    name: String,
    #[serde(default)]
    soft: i64,
    #[serde(default)]
    hard: i64,
}

impl Ulimit {
    /// -1 is no limit.
    fn rlimit(self) -> knarr_build::Rlimit {
        knarr_build::Rlimit {
            name: self.name,
            soft: u64::try_from(self.soft).ok(),
            hard: u64::try_from(self.hard).ok(),
        }
    }
}

/// What `docker system df` shows of the build cache, and the sum of it in bytes.
pub fn usage(daemon: &Daemon) -> Result<(Vec<Value>, u64)> {
    let engine = (daemon.builder)(None).map_err(Fault::server)?;
    let all = engine.usage().map_err(Fault::server)?;
    let sum = all.iter().map(|u| u.bytes).sum();
    let shown = all.into_iter().map(|u| {
        let used = jiff::Timestamp::try_from(u.last_used).unwrap_or_default();
        json!({
            "ID": u.id, "Type": u.kind, "Description": u.description, "InUse": false, "Shared": u.layer.is_some(),
            "Size": u.bytes, "CreatedAt": u.created, "LastUsedAt": used.to_string(), "UsageCount": 1,
        })
    });
    Ok((shown.collect(), sum))
}

/// What of a request is read, here or where it's sent; `rm`, `forcerm` and `buildid` are about containers between the steps,
/// which there are none of.
const READ: [&str; 20] = [
    "dockerfile",
    "t",
    "remote",
    "q",
    "nocache",
    "cachefrom",
    "pull",
    "rm",
    "forcerm",
    "buildargs",
    "labels",
    "networkmode",
    "platform",
    "target",
    "extrahosts",
    "shmsize",
    "ulimits",
    "version",
    "buildid",
    "session",
];

/// The request, but for its context.
fn request(daemon: &Daemon, ask: &Ask) -> Result<BuildRequest> {
    let query = &ask.query;
    if query.get("remote") == Some("upload-request") {
        return Err(Fault::unsupported(
            "a context that comes by another request (upload-request)",
        ));
    }
    for (key, value) in query.pairs() {
        let says_nothing = matches!(value, "" | "0" | "-1" | "null" | "[]" | "{}" | "false");
        if says_nothing || READ.contains(&key) || (key, value) == ("isolation", "default") {
            continue;
        }
        return Err(Fault::unsupported(format!(
            "the build option {key}={value}"
        )));
    }
    let cache_from: Vec<String> = match query.get("cachefrom") {
        None | Some("null") => Vec::new(),
        Some(text) => serde_json::from_str(text)
            .map_err(|e| Fault::bad(format!("error reading cachefrom: {e}")))?,
    };
    let args = object(ask, "buildargs")?
        .into_iter()
        .filter_map(|(k, v)| Some((k, v?)));
    let labels = object(ask, "labels")?
        .into_iter()
        .map(|(k, v)| (k, v.unwrap_or_default()));
    let network = match query.get("networkmode") {
        None | Some("default" | "bridge") => Network::Default,
        Some("host") => Network::Host,
        Some("none") => Network::None,
        Some(other) => {
            return Err(Fault::unsupported(format!(
                "building in the network {other}"
            )));
        }
    };
    let platform = query.get("platform").map(Platform::parse).transpose();
    let hosts = query.get("extrahosts").unwrap_or_default();
    let mut add_hosts = Vec::new();
    for host in hosts.split(',').filter(|h| !h.is_empty()) {
        let pair = host
            .split_once([':', '='])
            .ok_or_else(|| Fault::bad(format!("bad format for add-host: {host:?}")))?;
        add_hosts.push((pair.0.to_string(), pair.1.to_string()));
    }
    let tags: Vec<String> = query
        .all("t")
        .into_iter()
        .filter(|t| !t.is_empty())
        .map(str::to_string)
        .collect();
    for tag in &tags {
        knarr_image::normalize(tag)?;
    }
    let ulimits: Vec<Ulimit> = match query.get("ulimits") {
        None | Some("" | "null") => vec![],
        Some(text) => serde_json::from_str(text)
            .map_err(|e| Fault::bad(format!("error reading ulimits: {e}")))?,
    };
    let shm = query.int("shmsize")?.unwrap_or(0);
    let allow = match network {
        Network::Host => [knarr_build::Entitlement::NetworkHost].into(),
        _ => Default::default(),
    };
    Ok(BuildRequest {
        dockerfile: DockerfileFrom::Context(query.get("dockerfile").unwrap_or("Dockerfile").into()),
        target: query.get("target").map(str::to_string),
        args: args.collect(),
        labels: labels.collect(),
        // only the images named may be the source of what isn't made anew: none of them is here
        no_cache: if query.flag("nocache")
            || (!cache_from.is_empty()
                && cache_from.iter().all(|n| images::find(daemon, n).is_err()))
        {
            NoCache::Always
        } else {
            NoCache::Never
        },
        pull: query.flag("pull"),
        platforms: platform
            .map_err(|e| Fault::bad(e.to_string()))?
            .into_iter()
            .collect(),
        tags,
        network,
        add_hosts,
        allow,
        shm_size: u64::try_from(shm).unwrap_or(0),
        ulimits: ulimits.into_iter().map(Ulimit::rlimit).collect(),
        ..BuildRequest::default()
    })
}

/// What the classic builder would say of an event.
fn told(event: Event) -> Option<Value> {
    let stream = |text: String| Some(json!({ "stream": text }));
    match event {
        Event::Started { id, name } if !name.starts_with("[internal]") => {
            stream(format!("Step {id} : {name}\n"))
        }
        // SOURCE: moby `pkg/streamformatter` StderrWriter: in red
        Event::Output { bytes, stderr, .. } => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            stream(match stderr {
                true => format!("\u{1b}[91m{text}\u{1b}[0m"),
                false => text,
            })
        }
        Event::Transfer {
            what, done, total, ..
        } => Some(json!({
            "status": "Downloading", "id": what, "progressDetail": { "current": done, "total": total },
        })),
        Event::Ended {
            outcome: Outcome::Cached,
            ..
        } => stream(" ---> Using cache\n".into()),
        Event::Warning { text } => stream(format!("[Warning] {text}\n")),
        Event::Found { checks } => stream(checks.iter().map(warned).collect()),
        Event::Started { .. } | Event::Ended { .. } => None,
    }
}

/// A finding, with the end of its line.
fn warned(check: &Check) -> String {
    format!(
        "[Warning] {}: {} (line {})\n",
        check.rule, check.message, check.line
    )
}

fn failed(message: &str) -> Value {
    // SOURCE: moby `builder/dockerfile/dispatchers.go`: what clients of this request look for
    let ended = message.split_once("process \"").and_then(|(_, rest)| {
        let (command, code) = rest.split_once("\" did not complete successfully: exit code: ")?;
        let code: i64 = code.split_whitespace().next()?.parse().ok()?;
        let told = format!("The command '{command}' returned a non-zero code: {code}");
        Some((told, code))
    });
    let (message, code) = ended.unwrap_or_else(|| (message.to_string(), 1));
    json!({ "errorDetail": { "code": code, "message": message }, "error": message })
}

/// `POST /build/prune`. SOURCE: moby `builder/builder-next` Prune; its filters but `until` tell kinds of results apart that
/// are not told apart here.
pub async fn prune(daemon: &Arc<Daemon>, ask: Ask) -> Result<Answer> {
    let filters = Filters::read(&ask.query)?;
    filters.only(&["until"])?;
    let until = crate::networks::until(&filters)?;
    let bound = |key: &str| {
        let bytes = ask.query.int(key)?.and_then(|n| u64::try_from(n).ok());
        Ok::<_, Fault>(bytes.unwrap_or(0))
    };
    let space = knarr_build::Space {
        reserved_bytes: bound("reserved-space")?.max(bound("keep-storage")?),
        used_max_bytes: bound("max-used-space")?,
        free_min_bytes: bound("min-free-space")?,
    };
    let age = until.map(|time| jiff::Timestamp::now().as_second() - time.as_second());
    let age = age.map(|age| u64::try_from(age).unwrap_or(0));
    let all = ask.query.flag("all");
    let daemon = daemon.clone();
    let pruned = blocking(move || {
        let engine = (daemon.builder)(None).map_err(Fault::server)?;
        let kept = engine.kept(&space).map_err(Fault::server)?;
        let wanted = Prune::asked(age, kept, all);
        engine.prune(&wanted).map_err(Fault::server)
    });
    let pruned = pruned
        .await?
        .ok_or_else(|| Fault::conflict("a build is running: try again when it has ended"))?;
    Ok(http::json(&json!({
        "CachesDeleted": pruned.snapshots, "SpaceReclaimed": pruned.bytes_freed,
    })))
}

pub async fn build(daemon: &Arc<Daemon>, ask: Ask) -> Result<Answer> {
    if traced::by_session(&ask.query) {
        let (send, receive) = mpsc::channel(MESSAGES);
        traced::build(daemon, &ask, send)?;
        return Ok(messages(tokio_stream(receive)));
    }
    let mut request = request(daemon, &ask)?;
    let quiet = ask.query.flag("q");
    let traced = traced::asked(&ask.query);
    let mut held = None;
    match ask.query.get("remote") {
        Some(url) => request.context = Context::Url(url.to_string()),
        None => {
            let worker = daemon.clone();
            let temp = blocking(move || worker.temp()).await?;
            let path: PathBuf = temp.path().join("context");
            images::spool(ask.body, path.clone()).await?;
            request.context = Context::Archive(path);
            held = Some(temp);
        }
    }
    let (send, receive) = mpsc::channel(MESSAGES);
    let (daemon, handle) = (daemon.clone(), tokio::runtime::Handle::current());
    tokio::task::spawn_blocking(move || {
        let engine = match (daemon.builder)(None) {
            Ok(engine) => engine,
            Err(e) => return drop(send.try_send(failed(&e))),
        };
        handle.block_on(async {
            let tags = request.tags.clone();
            let told = traced.then(|| Arc::new(Told::new(&crate::names::id())));
            let sent = (told.clone()).map(|told| traced::sending(told, send.clone()));
            let progress = {
                let (send, told) = (send.clone(), told.clone());
                move |event: Event| {
                    if let Some(told) = &told {
                        told.tell(event);
                    } else if let Some(message) = self::told(event).filter(|_| !quiet) {
                        let _ = send.try_send(message);
                    }
                }
            };
            let built = tokio::select! {
                built = knarr_build::build(&engine, request, &progress) => Some(built),
                // a client that leaves wants nothing any more
                () = send.closed() => None,
            };
            if let (Some(told), Some(sent)) = (told, sent) {
                told.end();
                let _ = sent.await;
            }
            let last = match built {
                None => vec![],
                Some(Err(e)) if traced => vec![traced::failed(&solve::told_error(&e))],
                Some(Err(e)) => vec![failed(e.report().trim_start_matches("ERROR: ").trim_end())],
                Some(Ok(built)) => finished(&daemon, built, &tags, quiet, traced),
            };
            for message in last {
                if send.send(message).await.is_err() {
                    break;
                }
            }
            if let Err(e) = engine.close().await {
                tracing::warn!(error = %e, "a build's leftovers stay until the next");
            }
        });
        drop(held);
    });
    Ok(messages(tokio_stream(receive)))
}

fn finished(
    daemon: &Daemon,
    built: knarr_build::Built,
    tags: &[String],
    quiet: bool,
    traced: bool,
) -> Vec<Value> {
    let Some(image) = built.image else {
        return vec![];
    };
    if tags.is_empty()
        && let Err(e) = images::keep_nameless(&daemon.images, &image.digest)
    {
        return vec![failed(&e.to_string())];
    }
    images::tell(daemon, "create", &image.id, &image.id);
    if traced {
        return vec![traced::image(&image.id)];
    }
    let short = image
        .id
        .trim_start_matches("sha256:")
        .get(..12)
        .unwrap_or_default()
        .to_string();
    if quiet {
        return vec![json!({ "stream": format!("{}\n", image.id) })];
    }
    let mut all = Vec::new();
    for check in &built.checks {
        all.push(json!({ "stream": warned(check) }));
    }
    all.push(json!({ "aux": { "ID": image.id } }));
    all.push(json!({ "stream": format!("Successfully built {short}\n") }));
    for tag in tags {
        all.push(json!({ "stream": format!("Successfully tagged {}\n", images::tagged(tag)) }));
    }
    all
}
