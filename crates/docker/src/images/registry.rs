//! Images from and to registries, with the progress that clients draw.

use super::{familiar, find, tagged, transfer::tell};
use crate::{
    daemon::Daemon,
    error::{Fault, Result, blocking},
    events::tokio_stream,
    http::{Answer, Ask, messages},
    units::human_size,
};
use base64::Engine;
use futures::StreamExt;
use knarr_image::client::{Credential, Error, Event, Platforms, PullOptions, PushOptions, Step};
use serde_json::{Value, json};
use std::{future::Future, sync::Arc};
use tokio::sync::mpsc;

/// Messages on their way to a client; the numbers in between may be lost to a slow one.
const MESSAGES: usize = 256;

/// What the client's `X-Registry-Auth` says.
///
/// # Errors
/// 400 when it's no JSON in base64url.
pub fn auth_config(header: Option<&str>) -> Result<Vec<Credential>> {
    let Some(text) = header.filter(|h| !h.is_empty()) else {
        return Ok(Vec::new());
    };
    let invalid = || Fault::bad("invalid X-Registry-Auth header: it must be JSON in base64url");
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let bytes = engine
        .decode(text.trim_end_matches('='))
        .map_err(|_| invalid())?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
    Ok(credential(&value).into_iter().collect())
}

/// One login, if it says something.
pub fn credential(value: &Value) -> Option<Credential> {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_string();
    let (mut username, mut password) = (text("username"), text("password"));
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(text("auth"))
        .ok();
    if let Some((user, pass)) = decoded
        .and_then(|d| String::from_utf8(d).ok())
        .as_deref()
        .and_then(|d| d.split_once(':'))
        && username.is_empty()
    {
        (username, password) = (user.into(), pass.into());
    }
    let (identity_token, registry_token) = (text("identitytoken"), text("registrytoken"));
    let says = !username.is_empty() || !identity_token.is_empty() || !registry_token.is_empty();
    says.then_some(Credential {
        registry: None,
        username,
        password,
        identity_token,
        registry_token,
    })
}

fn refused(e: Error, name: &str) -> Fault {
    match e {
        Error::NotFound { .. } => Fault::not_found(format!(
            "manifest for {name} not found: manifest unknown: manifest unknown"
        )),
        Error::Denied { repository, .. } => Fault::not_found(format!(
            "pull access denied for {repository}, repository does not exist or may require 'docker login': denied: requested access to the resource is denied"
        )),
        Error::Platform { .. } => Fault::not_found(e.to_string()),
        Error::Store(e) => e.into(),
        e => Fault::server(e),
    }
}

fn short(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

/// SOURCE: moby `pkg/jsonmessage`: clients that draw no bar of their own print this one.
fn bar(at: u64, of: u64) -> String {
    let filled = usize::try_from((at * 50).checked_div(of).unwrap_or(0).min(50)).unwrap_or(0);
    let head = if filled < 50 { ">" } else { "" };
    format!(
        "[{}{head}{}] {}/{}",
        "=".repeat(filled),
        " ".repeat(50 - filled - head.len()),
        human_size(at, 4),
        human_size(of, 4)
    )
}

/// A step in Docker's words.
fn step(digest: &str, step: Step, pushes: bool) -> Value {
    let id = short(digest);
    let plain = |status: &str| json!({ "status": status, "progressDetail": {}, "id": id });
    match (step, pushes) {
        (Step::Waiting, false) => plain("Pulling fs layer"),
        (Step::Waiting, true) => plain("Preparing"),
        (Step::Exists, false) => plain("Already exists"),
        (Step::Exists, true) => plain("Layer already exists"),
        (Step::Transferring { at, of }, pushes) => json!({
            "status": if pushes { "Pushing" } else { "Downloading" },
            "progressDetail": { "current": at, "total": of },
            "progress": bar(at, of),
            "id": id,
        }),
        (Step::Retrying { .. }, _) => plain("Retrying in 1 second"),
        (Step::Working, false) => plain("Extracting"),
        (Step::Working, true) => plain("Preparing"),
        (Step::Mounted, _) => plain("Mounted from another repository"),
        (Step::Done, false) => plain("Pull complete"),
        (Step::Done, true) => plain("Pushed"),
    }
}

/// Runs `work` while its messages go out. What fails before the first message is the answer's status; later it is a message.
/// A client that leaves ends it.
async fn told<F>(
    work: impl FnOnce(mpsc::Sender<Value>) -> F + Send + 'static,
    name: String,
) -> Result<Answer>
where
    F: Future<Output = Result<Vec<Value>, Error>>,
{
    let (send, mut receive) = mpsc::channel(MESSAGES);
    let handle = tokio::runtime::Handle::current();
    // A thread of its own, as a pull's future holds what can't change threads.
    let mut task = tokio::task::spawn_blocking(move || {
        handle.block_on(async {
            let client = send.clone();
            tokio::select! {
                done = work(send) => done,
                () = client.closed() => Ok(Vec::new()),
            }
        })
    });
    let first = tokio::select! {
        first = receive.recv() => first,
        done = &mut task => {
            let last = done.map_err(Fault::server)?.map_err(|e| refused(e, &name))?;
            let mut all = Vec::new();
            while let Ok(message) = receive.try_recv() {
                all.push(message);
            }
            all.extend(last);
            return Ok(messages(futures::stream::iter(all)));
        }
    };
    let ending = futures::stream::once(async move {
        let last = match task.await {
            Ok(Ok(last)) => last,
            Ok(Err(e)) => {
                let told = refused(e, &name).message;
                vec![json!({ "errorDetail": { "message": told }, "error": told })]
            }
            Err(e) => {
                vec![json!({ "errorDetail": { "message": e.to_string() }, "error": e.to_string() })]
            }
        };
        futures::stream::iter(last)
    });
    let all = futures::stream::iter(first)
        .chain(tokio_stream(receive))
        .chain(ending.flatten());
    Ok(messages(all))
}

/// `POST /images/create`: a pull.
pub async fn create(daemon: &Arc<Daemon>, ask: Ask) -> Result<Answer> {
    let query = &ask.query;
    if query.get("fromSrc").is_some() {
        return super::import::import(daemon, ask).await;
    }
    let image = query.get("fromImage").unwrap_or_default().to_string();
    if image.is_empty() {
        return Err(Fault::bad("invalid reference format"));
    }
    let name = match query.get("tag") {
        Some(digest) if digest.contains(':') => format!("{image}@{digest}"),
        Some(tag) => format!("{image}:{tag}"),
        None => image.clone(),
    };
    knarr_image::normalize(&name)?;
    if let Some(platform) = query.get("platform") {
        knarr_dockerfile::Platform::parse(platform).map_err(|_| {
            Fault::bad(format!(
                "{platform:?}: unknown operating system or architecture: invalid argument"
            ))
        })?;
    }
    let options = PullOptions {
        platforms: match query.get("platform") {
            Some(platform) => Platforms::One(platform.to_string()),
            None => Platforms::Here,
        },
        credentials: auth_config(ask.header("x-registry-auth"))?,
        ..PullOptions::default()
    };
    let daemon = daemon.clone();
    let shown = tagged(&name);
    let work = {
        let shown = shown.clone();
        move |send: mpsc::Sender<Value>| async move {
            let before = {
                let (daemon, name) = (daemon.clone(), name.clone());
                blocking(move || Ok(daemon.images.resolve(&name)?))
                    .await
                    .ok()
                    .flatten()
                    .map(|i| i.digest)
            };
            let head = shown.clone();
            let progress = move |event: Event| {
                let message = match event {
                    Event::Resolved { .. } => {
                        let (repository, tag) = split(&head);
                        let repository = match repository.contains('/') {
                            true => repository.to_string(),
                            false => format!("library/{repository}"),
                        };
                        json!({ "status": format!("Pulling from {repository}"), "id": tag })
                    }
                    Event::Blob { digest, step: now } => step(&digest, now, false),
                };
                // a slow client misses numbers
                let _ = send.try_send(message);
            };
            let image = daemon.images.pull(&name, &options, &progress).await?;
            tell(&daemon, "pull", &shown, split(&shown).0);
            let status = match before.as_ref() == Some(&image.digest) {
                true => format!("Status: Image is up to date for {shown}"),
                false => format!("Status: Downloaded newer image for {shown}"),
            };
            Ok(vec![
                json!({ "status": format!("Digest: {}", image.digest) }),
                json!({ "status": status }),
            ])
        }
    };
    told(work, shown).await
}

/// `busybox:latest` → (`busybox`, `latest`)
fn split(name: &str) -> (&str, &str) {
    if let Some((repository, digest)) = name.split_once('@') {
        return (repository, digest);
    }
    let slash = name.rfind('/').map_or(0, |i| i + 1);
    match name[slash..].find(':') {
        Some(colon) => (&name[..slash + colon], &name[slash + colon + 1..]),
        None => (name, "latest"),
    }
}

/// `POST /images/{name}/push`
pub async fn push(daemon: &Arc<Daemon>, name: &str, ask: Ask) -> Result<Answer> {
    let target = match ask.query.get("tag") {
        Some(tag) => format!("{name}:{tag}"),
        None => name.to_string(),
    };
    let options = PushOptions {
        credentials: auth_config(ask.header("x-registry-auth"))?,
        ..PushOptions::default()
    };
    let full = knarr_image::normalize(&target)?;
    let worker = daemon.clone();
    let local = target.clone();
    blocking(move || find(&worker, &local).map(drop))
        .await
        .map_err(|_| {
            let (repository, tag) = split(&target);
            Fault::not_found(format!(
                "An image does not exist locally with the tag: {}{}",
                familiar(repository),
                if tag == "latest" {
                    String::new()
                } else {
                    format!(":{tag}")
                }
            ))
        })?;
    let daemon = daemon.clone();
    let shown = tagged(&full);
    let work = {
        let shown = shown.clone();
        move |send: mpsc::Sender<Value>| async move {
            let (repository, tag) = split(&full);
            let _ = send.try_send(
                json!({ "status": format!("The push refers to repository [{repository}]") }),
            );
            let progress = move |event: Event| {
                if let Event::Blob { digest, step: now } = event {
                    let _ = send.try_send(step(&digest, now, true));
                }
            };
            let pushed = daemon
                .images
                .push(&full, &full, &options, &progress)
                .await?;
            tell(&daemon, "push", &shown, split(&shown).0);
            Ok(vec![
                json!({ "status": format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size) }),
                json!({ "progressDetail": {}, "aux": { "Tag": tag, "Digest": pushed.digest, "Size": pushed.size } }),
            ])
        }
    };
    told(work, shown).await
}

/// `GET /distribution/{name}/json`: what the name stands for, here.
pub async fn distribution(daemon: &Arc<Daemon>, name: &str) -> Result<Answer> {
    let (daemon, name) = (daemon.clone(), name.to_string());
    let shown = blocking(move || {
        let known = find(&daemon, &name)?;
        let bytes = daemon.images.read_blob(&known.digest)?;
        let manifest: Value = serde_json::from_slice(&bytes)?;
        let kind = manifest["mediaType"]
            .as_str()
            .unwrap_or("application/vnd.oci.image.manifest.v1+json");
        Ok(json!({
            "Descriptor": { "mediaType": kind, "digest": known.digest, "size": bytes.len() },
            "Platforms": [{ "architecture": known.raw["architecture"], "os": known.raw["os"] }],
        }))
    });
    Ok(crate::http::json(&shown.await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split() {
        for (name, wanted) in [
            ("busybox", ("busybox", "latest")),
            ("busybox:1", ("busybox", "1")),
            ("localhost:5000/a", ("localhost:5000/a", "latest")),
            ("localhost:5000/a:b", ("localhost:5000/a", "b")),
            ("a@sha256:1", ("a", "sha256:1")),
        ] {
            assert_eq!(split(name), wanted);
        }
    }

    #[test]
    fn logins_are_read() {
        let encode = |text: &str| base64::engine::general_purpose::URL_SAFE.encode(text);
        let check = |header: Option<&str>, wanted: Option<(&str, &str)>| {
            let got = auth_config(header).ok().map(|all| {
                all.first()
                    .map(|c| (c.username.clone(), c.password.clone()))
                    .unwrap_or_default()
            });
            assert_eq!(
                got,
                wanted.map(|(u, p)| (u.to_string(), p.to_string())),
                "{header:?}"
            );
        };
        check(None, Some(("", "")));
        check(Some(&encode("{}")), Some(("", "")));
        check(
            Some(&encode(r#"{"username": "u", "password": "p"}"#)),
            Some(("u", "p")),
        );
        check(Some(&encode(r#"{"auth": "dTpwOnE="}"#)), Some(("u", "p:q")));
        check(Some("!"), None);
    }

    #[test]
    fn bars_are_full_in_the_end() {
        assert!(bar(0, 10).starts_with("[>  "));
        assert!(bar(10, 10).starts_with(&format!("[{}]", "=".repeat(50))));
        assert!(bar(5, 0).starts_with("[>"));
    }
}
