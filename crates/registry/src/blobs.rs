//! Blobs out: whole, in parts, or only whether they are there.

use crate::{digest::Digest, error::Refusal, server::Registry};
use axum::{
    body::Body,
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::Stream;
use std::{
    io::{Read, SeekFrom},
    sync::Arc,
};

/// What is read at a time, in bytes.
const CHUNK: u64 = 256 << 10;

/// The content that a repository has under a digest, as the store's digest; looks at images that were named since, too.
pub fn content(
    registry: &Registry,
    name: &str,
    digest: &Digest,
) -> Result<Option<String>, Refusal> {
    let names = &registry.names;
    let found = |digest: &Digest| -> Result<Option<String>, Refusal> {
        // A manifest is a blob as well: some clients ask for it so.
        match names.links.blob(name, digest)? {
            Some(content) => Ok(Some(content)),
            None => Ok(names.links.manifest(name, digest)?.map(|link| link.content)),
        }
    };
    match found(digest)? {
        Some(content) => Ok(Some(content)),
        None => {
            names.follow()?;
            found(digest)
        }
    }
}

pub async fn get(
    registry: &Arc<Registry>,
    parts: &Parts,
    name: String,
    digest: Digest,
) -> Result<Response, Refusal> {
    let asked = digest.clone();
    let blob = registry
        .blocking(move |registry| {
            let Some(content) = content(registry, &name, &digest)? else {
                return Ok(None);
            };
            registry.names.links.touch_blob(&name, &digest);
            Ok(registry.names.store.open_blob(&content)?)
        })
        .await?;
    let Some(mut blob) = blob else {
        return Err(Refusal::blob_unknown(format!(
            "blob unknown to registry: {asked} is not in this repository"
        )));
    };
    let size = blob.size;
    let etag = format!("\"{asked}\"");
    let common = [
        (header::CONTENT_TYPE, "application/octet-stream".to_string()),
        (header::ETAG, etag.clone()),
        (header::ACCEPT_RANGES, "bytes".to_string()),
        (header::CACHE_CONTROL, "max-age=31536000".to_string()),
    ];
    let digest = [("docker-content-digest", asked.to_string())];
    if has_tag(&parts.headers, header::IF_NONE_MATCH, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, digest, common).into_response());
    }
    let ranged = match parts.headers.get(header::IF_RANGE) {
        Some(_) => has_tag(&parts.headers, header::IF_RANGE, &etag),
        None => true,
    };
    let range = parts.headers.get(header::RANGE).filter(|_| ranged);
    let range = range
        .and_then(|r| r.to_str().ok())
        .map_or(Range::Whole, |r| parse_range(r, size));
    let (status, start, len) = match range {
        Range::Whole => (StatusCode::OK, 0, size),
        Range::Part { start, end } => (StatusCode::PARTIAL_CONTENT, start, end - start + 1),
        Range::Unsatisfiable => {
            return Err(Refusal::unsatisfiable(format!("the blob has {size} bytes"))
                .header(header::CONTENT_RANGE, &format!("bytes */{size}")));
        }
    };
    let body = match parts.method == Method::HEAD {
        true => Body::empty(),
        false => {
            if start > 0 {
                blob = registry
                    .blocking(move |_| {
                        blob.content.seek(SeekFrom::Start(start))?;
                        Ok(blob)
                    })
                    .await?;
            }
            Body::from_stream(stream(blob.content, len))
        }
    };
    let mut response = (status, digest, common, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, len.into());
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(range) = format!("bytes {start}-{}/{size}", start + len - 1).parse()
    {
        headers.insert(header::CONTENT_RANGE, range);
    }
    Ok(response)
}

pub async fn delete(
    registry: &Arc<Registry>,
    name: String,
    digest: Digest,
) -> Result<Response, Refusal> {
    registry
        .blocking(move |registry| {
            let names = &registry.names;
            names.follow()?;
            let _lock = names.store.lock(false)?;
            match names.links.drop_blob(&name, &digest)? {
                true => Ok(()),
                false => Err(Refusal::blob_unknown(format!(
                    "blob unknown to registry: {digest} is not in {name}"
                ))),
            }
        })
        .await?;
    registry.stale.notify_one();
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Does a condition name this entity tag?
pub fn has_tag(headers: &HeaderMap, name: header::HeaderName, etag: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        let tags = value.to_str().unwrap_or("").split(',').map(str::trim);
        tags.into_iter()
            .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
    })
}

/// Which part of a blob is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Range {
    Whole,
    /// Both ends are included.
    Part {
        start: u64,
        end: u64,
    },
    Unsatisfiable,
}

/// Reads a Range header (RFC 9110, 14.2). Several ranges are answered with the whole, as a server may.
fn parse_range(text: &str, size: u64) -> Range {
    let Some(spec) = text.trim().strip_prefix("bytes=") else {
        return Range::Whole;
    };
    let Some((first, last)) = spec.split_once('-').filter(|_| !spec.contains(',')) else {
        return Range::Whole;
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    match (first.trim(), last.trim()) {
        ("", suffix) => match number(suffix) {
            Some(0) => Range::Unsatisfiable,
            Some(_) if size == 0 => Range::Unsatisfiable,
            Some(n) => Range::Part {
                start: size.saturating_sub(n),
                end: size - 1,
            },
            None => Range::Whole,
        },
        (first, last) => match (number(first), number(last)) {
            (Some(start), _) if start >= size => Range::Unsatisfiable,
            (Some(start), None) if last.is_empty() => Range::Part {
                start,
                end: size - 1,
            },
            (Some(start), Some(end)) if end < start => Range::Unsatisfiable,
            (Some(start), Some(end)) => Range::Part {
                start,
                end: end.min(size - 1),
            },
            _ => Range::Whole,
        },
    }
}

/// The next `len` bytes, read as the client takes them.
fn stream(
    content: Box<dyn knarr_image::ReadSeek>,
    len: u64,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    futures::stream::try_unfold((content, len), |(mut content, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; left.min(CHUNK) as usize];
            content.read_exact(&mut buffer)?;
            Ok::<_, std::io::Error>((content, buffer))
        });
        let (content, buffer) = read.await.map_err(std::io::Error::other)??;
        let left = left - buffer.len() as u64;
        Ok(Some((Bytes::from(buffer), (content, left))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_has_them() {
        let part = |start, end| Range::Part { start, end };
        for (text, size, want) in [
            ("bytes=0-0", 10, part(0, 0)),
            ("bytes=2-5", 10, part(2, 5)),
            ("bytes=5-", 10, part(5, 9)),
            ("bytes=-3", 10, part(7, 9)),
            ("bytes=-30", 10, part(0, 9)),
            ("bytes=8-50", 10, part(8, 9)),
            ("bytes=10-", 10, Range::Unsatisfiable),
            ("bytes=10-12", 10, Range::Unsatisfiable),
            ("bytes=5-0", 10, Range::Unsatisfiable),
            ("bytes=-0", 10, Range::Unsatisfiable),
            ("bytes=0-", 0, Range::Unsatisfiable),
            ("bytes=-1", 0, Range::Unsatisfiable),
            ("bytes=0-1,4-5", 10, Range::Whole),
            ("bytes=x-y", 10, Range::Whole),
            ("items=0-1", 10, Range::Whole),
        ] {
            assert_eq!(parse_range(text, size), want, "{text} of {size}");
        }
    }
}
