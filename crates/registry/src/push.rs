//! Blobs in: in one request, in several, in chunks, or from another repository.

use crate::{
    auth::Granted,
    digest::Digest,
    error::Refusal,
    route::{is_name, query},
    server::Registry,
    uploads::Writer,
};
use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use std::{sync::Arc, time::Duration};
use tokio::sync::OwnedMutexGuard;

/// What is written at a time, in bytes.
const WRITE: usize = 256 << 10;
/// A client that sends nothing for so long is given up.
const STALL: Duration = Duration::from_secs(300);

/// Where a blob can be got.
fn created(name: &str, digest: &Digest) -> Response {
    let headers = [
        ("location", format!("/v2/{name}/blobs/{digest}")),
        ("docker-content-digest", digest.to_string()),
    ];
    (StatusCode::CREATED, headers).into_response()
}

/// Where an upload goes on.
fn onward(status: StatusCode, name: &str, id: &str, len: u64) -> Response {
    let headers = [
        ("location", format!("/v2/{name}/blobs/uploads/{id}")),
        ("range", format!("0-{}", len.saturating_sub(1))),
        ("docker-upload-uuid", id.to_string()),
    ];
    (status, headers).into_response()
}

fn asked_digest(parts: &Parts) -> Result<Option<Digest>, Refusal> {
    let text = query(parts.uri.query(), "digest");
    text.map(|text| text.parse().map_err(Refusal::digest_invalid))
        .transpose()
}

pub async fn begin(
    registry: &Arc<Registry>,
    parts: &Parts,
    granted: &Granted,
    name: String,
    body: Body,
) -> Result<Response, Refusal> {
    let search = parts.uri.query();
    let digest = asked_digest(parts)?;
    if let Some(mount) = query(search, "mount") {
        let mount: Digest = mount.parse().map_err(Refusal::digest_invalid)?;
        let from = query(search, "from").filter(|from| !from.is_empty());
        let may = from.as_deref().is_none_or(|from| granted.pulls(from))
            && granted.mounts(from.is_some());
        let (to, wanted) = (name.clone(), mount.clone());
        let mounted = may
            && registry
                .blocking(move |registry| self::mount(registry, &to, &wanted, from.as_deref()))
                .await?;
        if mounted {
            return Ok(created(&name, &mount));
        }
    }
    let algorithm = match (&digest, query(search, "digest-algorithm")) {
        (Some(digest), _) => Some(digest.algorithm),
        (None, Some(algorithm)) => Some(algorithm.parse().map_err(Refusal::digest_invalid)?),
        (None, None) => None,
    };
    let repository = name.clone();
    let id = registry
        .blocking(move |registry| registry.uploads.begin(&repository, algorithm))
        .await?;
    let Some(digest) = digest else {
        return Ok(onward(StatusCode::ACCEPTED, &name, &id, 0));
    };
    let taken = take(registry, &name, &id).await?;
    let done = match receive(taken, body, true).await {
        Ok(writer) => commit(registry, writer, &name, &digest).await,
        Err(refusal) => Err(refusal),
    };
    end(registry, id).await?;
    done.map(|()| created(&name, &digest))
}

/// Gives a repository what another has. Without a source, whatever repository has it will do.
fn mount(
    registry: &Registry,
    to: &str,
    digest: &Digest,
    from: Option<&str>,
) -> Result<bool, Refusal> {
    let names = &registry.names;
    names.follow()?;
    let _lock = names.store.lock(false)?;
    let of = |name: &str| names.links.blob(name, digest);
    let content = match from {
        Some(from) if is_name(from) => of(from)?,
        Some(_) => None,
        None => {
            let mut found = None;
            for name in names.links.repositories()? {
                found = of(&name)?;
                if found.is_some() {
                    break;
                }
            }
            found
        }
    };
    let Some(content) = content.filter(|content| names.store.has_blob(content)) else {
        return Ok(false);
    };
    names.links.put_blob(to, digest, &content)?;
    Ok(true)
}

async fn take(
    registry: &Arc<Registry>,
    name: &str,
    id: &str,
) -> Result<OwnedMutexGuard<Writer>, Refusal> {
    let (name, id) = (name.to_string(), id.to_string());
    registry
        .blocking(move |registry| registry.uploads.take(&name, &id))
        .await
}

async fn end(registry: &Arc<Registry>, id: String) -> Result<(), Refusal> {
    registry
        .blocking(move |registry| Ok(registry.uploads.end(&id)?))
        .await
}

type Taken = OwnedMutexGuard<Writer>;

/// Runs what writes to an upload's file. The upload stays taken until that has ended, even when the request is gone.
async fn write(
    mut writer: Taken,
    work: impl FnOnce(&mut Writer) -> std::io::Result<()> + Send + 'static,
) -> Result<Taken, Refusal> {
    let done = tokio::task::spawn_blocking(move || work(&mut writer).map(|()| writer));
    Ok(done.await.map_err(Refusal::internal)??)
}

/// Appends a body. `whole`: nothing of it counts unless all of it came.
async fn receive(writer: Taken, body: Body, whole: bool) -> Result<Taken, Refusal> {
    let mut writer = write(writer, move |w| w.begin(whole)).await?;
    let mut stream = body.into_data_stream();
    let mut buffer: Vec<u8> = Vec::new();
    loop {
        let next = tokio::time::timeout(STALL, stream.next()).await;
        let cut = |why: &str| {
            Refusal::upload_invalid(format!(
                "{why}: ask where the upload stands (GET) and go on from there"
            ))
        };
        let (bytes, failed) = match next {
            Ok(None) => break,
            Ok(Some(Ok(bytes))) => (bytes, None),
            Ok(Some(Err(error))) => (
                Default::default(),
                Some(cut(&format!("the body broke off: {error}"))),
            ),
            Err(_) => (Default::default(), Some(cut("the body stalled"))),
        };
        if buffer.is_empty() && bytes.len() >= WRITE {
            writer = write(writer, move |w| w.append(&bytes)).await?;
        } else {
            buffer.extend_from_slice(&bytes);
        }
        if buffer.len() >= WRITE || (failed.is_some() && !buffer.is_empty()) {
            let full = std::mem::take(&mut buffer);
            writer = write(writer, move |w| w.append(&full)).await?;
        }
        if let Some(refusal) = failed {
            return Err(refusal);
        }
    }
    write(writer, move |w| {
        w.append(&buffer)?;
        w.ended();
        Ok(())
    })
    .await
}

/// `START-END`, both included; what clients before the specification sent is read, too.
fn content_range(headers: &HeaderMap) -> Result<Option<(u64, u64)>, Refusal> {
    let Some(value) = headers.get(header::CONTENT_RANGE) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or("");
    let plain = text.strip_prefix("bytes ").unwrap_or(text);
    let plain = plain.split('/').next().unwrap_or("");
    let parsed = plain.split_once('-').and_then(|(start, end)| {
        let number = |t: &str| {
            t.bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| t.parse().ok())?
        };
        Some((number(start)?, number(end)?))
    });
    match parsed {
        Some((start, end)) if start <= end => Ok(Some((start, end))),
        _ => Err(Refusal::upload_invalid(format!(
            "Content-Range is {text:?}: expected START-END, e.g. 0-1023"
        ))),
    }
}

/// Takes a chunk that may say where it belongs.
async fn chunk_in(
    parts: &Parts,
    writer: Taken,
    name: &str,
    id: &str,
    body: Body,
) -> Result<Taken, Refusal> {
    let Some((start, last)) = content_range(&parts.headers)? else {
        return receive(writer, body, parts.method == axum::http::Method::PUT).await;
    };
    // What another request left without its end is taken back first: it may be where this one begins.
    let writer = write(writer, |w| w.begin(false)).await?;
    let len = writer.len;
    if start != len {
        return Err(Refusal::out_of_order(format!(
            "the chunk begins at {start}, but {len} bytes are here: go on at {len}"
        ))
        .header(header::LOCATION, &format!("/v2/{name}/blobs/uploads/{id}"))
        .header(header::RANGE, &format!("0-{}", len.saturating_sub(1))));
    }
    let wants = last - start + 1;
    let wrong = |got: u64| {
        Refusal::size_invalid(format!(
            "Content-Range says {wants} bytes, the body has {got}"
        ))
    };
    let said = parts.headers.get(header::CONTENT_LENGTH);
    let said = said.and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if let Some(said) = said.filter(|said| *said != wants) {
        return Err(wrong(said));
    }
    let writer = receive(writer, body, false).await?;
    let got = writer.len - len;
    if got != wants {
        write(writer, move |w| w.back_to(len)).await?;
        return Err(wrong(got));
    }
    Ok(writer)
}

pub async fn chunk(
    registry: &Arc<Registry>,
    parts: &Parts,
    name: String,
    id: String,
    body: Body,
) -> Result<Response, Refusal> {
    let writer = take(registry, &name, &id).await?;
    let writer = chunk_in(parts, writer, &name, &id, body).await?;
    Ok(onward(StatusCode::ACCEPTED, &name, &id, writer.len))
}

pub async fn finish(
    registry: &Arc<Registry>,
    parts: &Parts,
    name: String,
    id: String,
    body: Body,
) -> Result<Response, Refusal> {
    let digest = asked_digest(parts)?.ok_or_else(|| {
        Refusal::digest_invalid("the request that ends an upload must have ?digest=")
    })?;
    let writer = take(registry, &name, &id).await?;
    let writer = chunk_in(parts, writer, &name, &id, body).await?;
    let done = commit(registry, writer, &name, &digest).await;
    if done.is_ok() || done.as_ref().is_err_and(|r| r.code == "DIGEST_INVALID") {
        end(registry, id).await?;
    }
    done.map(|()| created(&name, &digest))
}

/// Makes an upload a blob, if it is what its digest says.
async fn commit(
    registry: &Arc<Registry>,
    mut writer: Taken,
    name: &str,
    digest: &Digest,
) -> Result<(), Refusal> {
    let (name, digest) = (name.to_string(), digest.clone());
    registry
        .blocking(move |registry| {
            let (content, got, dir) = writer.finish(digest.algorithm)?;
            if got != digest {
                return Err(Refusal::digest_invalid(format!(
                    "provided digest did not match uploaded content: it is {got}, not {digest}"
                )));
            }
            let content = content.to_string();
            let names = &registry.names;
            let _lock = names.store.lock(false)?;
            names.store.adopt_blob(&dir.join("data"), &content)?;
            names.links.put_blob(&name, &digest, &content)?;
            Ok(())
        })
        .await
}

pub async fn status(
    registry: &Arc<Registry>,
    name: String,
    id: String,
) -> Result<Response, Refusal> {
    let writer = take(registry, &name, &id).await?;
    let writer = write(writer, |w| w.begin(false)).await?;
    Ok(onward(StatusCode::NO_CONTENT, &name, &id, writer.len))
}

pub async fn cancel(
    registry: &Arc<Registry>,
    name: String,
    id: String,
) -> Result<Response, Refusal> {
    let writer = take(registry, &name, &id).await?;
    end(registry, id).await?;
    drop(writer);
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        for (text, want) in [
            ("0-1023", Some((0, 1023))),
            ("bytes 5-9/10", Some((5, 9))),
            ("9-5", None),
            ("a-b", None),
            ("5", None),
            ("+1-2", None),
            ("-", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_RANGE, text.parse().unwrap());
            assert_eq!(content_range(&headers).ok().flatten(), want, "{text}");
        }
    }
}
