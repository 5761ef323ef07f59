//! Images that come, go and change their names.

use super::{Known, familiar, find, tagged};
use crate::{
    daemon::Daemon,
    error::{Fault, Result, blocking},
    events::tokio_stream,
    filters::Filters,
    http::{self, Answer, Ask, json, messages},
};
use ::http::StatusCode;
use serde_json::{Map, Value, json as value};
use std::{path::PathBuf, sync::Arc};
use tokio::io::AsyncWriteExt;

pub fn tell(daemon: &Daemon, action: &str, id: &str, name: &str) {
    let mut attributes = Map::new();
    attributes.insert("name".into(), value!(name));
    daemon.events.tell("image", action, id, attributes);
}

/// Writes a request's body to a file, as it comes.
pub async fn spool(mut body: http::Upload, to: PathBuf) -> Result<u64> {
    let mut file = tokio::fs::File::create(&to).await?;
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Fault::bad(format!("reading the request: {e}")))?;
        if let Some(data) = frame.data_ref() {
            file.write_all(data).await?;
            bytes += data.len() as u64;
        }
    }
    file.flush().await?;
    Ok(bytes)
}

/// `POST /images/load`
pub async fn load(daemon: &Arc<Daemon>, ask: Ask) -> Result<Answer> {
    let worker = daemon.clone();
    let temp = blocking(move || worker.temp()).await?;
    let path = temp.path().join("archive");
    spool(ask.body, path.clone()).await?;
    let worker = daemon.clone();
    let loaded = blocking(move || {
        let loaded = worker.images.load(&path, None).map_err(|e| {
            // where it was put meanwhile is nobody's business
            let told = e.to_string();
            Fault::server(told.replacen(&format!("{}: ", path.display()), "", 1))
        })?;
        drop(temp);
        Ok(loaded)
    });
    // SOURCE: moby `api/server/router/image`: what is wrong with the archive is a message
    let loaded = match loaded.await {
        Ok(loaded) => loaded,
        Err(fault) => {
            let told =
                value!({ "errorDetail": { "message": fault.message }, "error": fault.message });
            return Ok(messages(futures::stream::iter([told])));
        }
    };
    let (send, receive) = tokio::sync::mpsc::channel(16);
    let daemon = daemon.clone();
    tokio::spawn(async move {
        for image in loaded {
            tell(&daemon, "load", &image.id, &image.id);
            let told = match image.name.as_str() {
                "" => format!("Loaded image ID: {}\n", image.id),
                name => format!("Loaded image: {}\n", familiar(name)),
            };
            if send.send(value!({ "stream": told })).await.is_err() {
                return;
            }
        }
    });
    Ok(messages(tokio_stream(receive)))
}

/// What is saved under a name: that one, or with a repository alone all that are called so; what is meant by its id is
/// saved without a name. Blocking.
///
/// SOURCE: moby `image/tarexport/save.go` parseNames
fn meant(daemon: &Daemon, name: &str) -> Result<Vec<knarr_image::Image>> {
    let no_such = || Fault::not_found(format!("No such image: {name}"));
    let all = daemon.images.list()?;
    let full = knarr_image::normalize(name).map_err(|_| no_such())?;
    if full.contains('@') || tagged(name) == name {
        if let Some(image) = all.iter().find(|i| i.name == full) {
            return Ok(vec![image.clone()]);
        }
    } else {
        let repository = full.trim_end_matches("latest");
        let mut named = all.clone();
        named.retain(|i| {
            let tag = i.name.strip_prefix(repository);
            tag.is_some_and(|t| !t.contains(['/', '@']))
        });
        if !named.is_empty() {
            return Ok(named);
        }
    }
    let known = find(daemon, name).map_err(|_| no_such())?;
    let mut image = all.into_iter().find(|i| i.id == known.id);
    if let Some(image) = &mut image {
        image.name = image.digest.clone();
    }
    Ok(vec![image.ok_or_else(no_such)?])
}

/// `GET /images/get?names=` and `GET /images/{name}/get`
pub async fn save(daemon: &Arc<Daemon>, names: Vec<String>) -> Result<Answer> {
    let worker = daemon.clone();
    let (file, temp) = blocking(move || {
        let mut images = Vec::new();
        for name in &names {
            for image in meant(&worker, name)? {
                let known = |i: &knarr_image::Image| i.name == image.name;
                if !images.iter().any(known) {
                    images.push(image);
                }
            }
        }
        let temp = worker.temp()?;
        let path = temp.path().join("archive");
        worker.images.save_images(&images, &path)?;
        for image in &images {
            tell(&worker, "save", &image.id, &image.id);
        }
        Ok((std::fs::File::open(path)?, temp))
    })
    .await?;
    let file = tokio::fs::File::from_std(file);
    let reader = tokio_util::io::ReaderStream::with_capacity(file, 64 << 10);
    // Open is enough: the folder may go.
    drop(temp);
    Ok(http::streamed("application/x-tar", reader))
}

/// `POST /images/{name}/tag`
pub async fn tag(daemon: &Arc<Daemon>, name: &str, ask: Ask) -> Result<Answer> {
    let repo = ask.query.get("repo").unwrap_or_default();
    let target = match ask.query.get("tag") {
        Some(tag) => format!("{repo}:{tag}"),
        None => repo.to_string(),
    };
    let (daemon, name) = (daemon.clone(), name.to_string());
    blocking(move || {
        let known = find(&daemon, &name)?;
        if familiar(&target).split(':').next() == Some("sha256") {
            return Err(Fault::bad(
                "refusing to create an ambiguous tag using digest algorithm as name",
            ));
        }
        daemon.images.tag(&target, &known.digest)?;
        super::forget_nameless(&daemon, &known.digest);
        tell(&daemon, "tag", &known.id, &tagged(&target));
        Ok(())
    })
    .await?;
    Ok(http::empty(StatusCode::CREATED))
}

fn users<'a>(daemon: &'a Daemon, id: &'a str) -> Vec<Arc<crate::containers::Entry>> {
    let mut all = daemon.containers.all();
    all.retain(|e| e.record.image_id == id);
    all
}

/// `DELETE /images/{name}`
///
/// SOURCE: moby `daemon/images/image_delete.go`
pub async fn remove(daemon: &Arc<Daemon>, name: &str, ask: Ask) -> Result<Answer> {
    let force = ask.query.flag("force");
    let (daemon, name) = (daemon.clone(), name.to_string());
    let gone = blocking(move || {
        let known = match found(&daemon, &name) {
            Ok(known) => known,
            // a damaged one is known by its name alone
            Err(fault) => match daemon.images.remove(&name) {
                Ok(()) => return Ok(vec![value!({ "Untagged": familiar(&name) })]),
                Err(_) => return Err(fault),
            },
        };
        let names = names_of(&daemon, &known)?;
        let bare = name.strip_prefix("sha256:").unwrap_or(&name);
        let by_id = known.id.trim_start_matches("sha256:").starts_with(bare);
        let short = &known.id.trim_start_matches("sha256:")[..12];
        let users = users(&daemon, &known.id);
        let going: Vec<String> = match by_id {
            true if names.len() > 1 && !force => {
                return Err(Fault::conflict(format!(
                    "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
                )));
            }
            true => names.clone(),
            false if name.contains('@') => {
                let repository = familiar(name.split('@').next().unwrap_or_default());
                let mut of_it = names.clone();
                of_it.retain(|n| repository_of(n) == repository);
                of_it
            }
            false => vec![known.name.clone()],
        };
        let last = going.len() == names.len();
        if let Some(user) = users.iter().find(|_| last) {
            let state = user.state().status;
            let runs = !matches!(
                state,
                crate::state::Status::Created | crate::state::Status::Exited
            );
            let (what, how) = match (runs, by_id) {
                (true, _) => ("running", "cannot be forced"),
                (false, _) => ("stopped", "must be forced"),
            };
            let told = match by_id {
                true => format!(
                    "conflict: unable to delete {short} ({how}) - image is being used by {what} container {}",
                    user.record.short()
                ),
                false => format!(
                    "conflict: unable to remove repository reference \"{name}\" ({how}) - container {} is using its referenced image {short}",
                    user.record.short()
                ),
            };
            // its Pod names the image's files: they can't go even by force
            return Err(Fault::conflict(told));
        }
        let mut gone = Vec::new();
        for name in going {
            daemon.images.remove(&name)?;
            tell(&daemon, "untag", &known.id, &known.id);
            if !super::is_nameless(&name) {
                gone.push(value!({ "Untagged": familiar(&name) }));
            }
        }
        if last {
            tell(&daemon, "delete", &known.id, &known.id);
            gone.push(value!({ "Deleted": known.id }));
        }
        Ok(gone)
    });
    Ok(json(&Value::Array(gone.await?)))
}

/// `repository@digest` is what has this digest and a name of that repository.
fn found(daemon: &Daemon, name: &str) -> Result<Known> {
    let first = find(daemon, name);
    let (Some((repository, digest)), Err(fault)) = (name.split_once('@'), &first) else {
        return first;
    };
    if fault.status != StatusCode::NOT_FOUND {
        return first;
    }
    let mut all = daemon.images.list()?.into_iter();
    match all.find(|i| i.digest == digest && repository_of(&i.name) == familiar(repository)) {
        Some(image) => Known::read(daemon, image),
        None => first,
    }
}

fn repository_of(name: &str) -> String {
    super::show::repository(name)
}

fn names_of(daemon: &Daemon, known: &Known) -> Result<Vec<String>> {
    let all = daemon.images.list()?;
    Ok(all
        .into_iter()
        .filter(|i| i.id == known.id)
        .map(|i| i.name)
        .collect())
}

/// `POST /images/prune`
pub async fn prune(daemon: &Arc<Daemon>, ask: Ask) -> Result<Answer> {
    let filters = Filters::read(&ask.query)?;
    filters.only(&["dangling", "label", "label!", "until"])?;
    // Without a tag is what never got one: a name that moves leaves its image to nobody.
    let all = filters.flag("dangling")? == Some(false);
    let until = crate::networks::until(&filters)?;
    let daemon = daemon.clone();
    let (gone, bytes) = blocking(move || {
        let (mut gone, mut bytes) = (Vec::new(), 0);
        for image in daemon.images.list()? {
            let known = Known::read(&daemon, image)?;
            let made = known
                .created
                .as_deref()
                .and_then(|c| c.parse::<jiff::Timestamp>().ok());
            let fits = (all || known.name.contains('@'))
                && filters.labels("label", &known.config.labels)
                && filters.not_labels("label!", &known.config.labels)
                && until.is_none_or(|u| made.is_some_and(|m| m < u));
            if !fits || !users(&daemon, &known.id).is_empty() {
                continue;
            }
            let last = names_of(&daemon, &known)?.len() == 1;
            daemon.images.remove(&known.name)?;
            if !super::is_nameless(&known.name) {
                gone.push(value!({ "Untagged": familiar(&known.name) }));
            }
            if last {
                bytes += known.size;
                gone.push(value!({ "Deleted": known.id }));
            }
        }
        Ok((gone, bytes))
    })
    .await?;
    Ok(json(
        &value!({ "ImagesDeleted": gone, "SpaceReclaimed": bytes }),
    ))
}

/// `GET /images/search`
pub async fn search(_ask: Ask) -> Result<Answer> {
    Err(Fault::unsupported("searching Docker Hub"))
}
