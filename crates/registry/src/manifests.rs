//! Manifests in, out and away.

use crate::{
    MANIFEST_MAX,
    blobs::has_tag,
    digest::{Algorithm, Digest},
    error::Refusal,
    links::{ManifestLink, TagLink},
    manifest::{self, Manifest},
    names::DEPTH_MAX,
    route::{Reference, is_tag, queries},
    server::{self, Registry},
};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use std::{sync::Arc, time::Duration};

/// Tags that one request may set.
const TAGS_MAX: usize = 64;
/// The longest that a manifest may take to come.
const PATIENCE: Duration = Duration::from_secs(120);

fn unknown(name: &str, reference: &str) -> Refusal {
    Refusal::manifest_unknown(format!("manifest unknown: {name} has no {reference}"))
        .detail(serde_json::json!({ "name": name, "reference": reference }))
}

/// A manifest that a repository has.
struct Found {
    digest: Digest,
    link: ManifestLink,
    bytes: Vec<u8>,
}

fn find(registry: &Registry, name: &str, reference: &Reference) -> Result<Found, Refusal> {
    let names = &registry.names;
    names.follow()?;
    let (digest, said) = match reference {
        Reference::Digest(digest) => (digest.clone(), digest.to_string()),
        Reference::Tag(tag) => {
            let link = names.links.tag(name, tag)?;
            let digest = link.and_then(|link| link.digest.parse().ok());
            (digest.ok_or_else(|| unknown(name, tag))?, tag.clone())
        }
        Reference::Neither(text) => return Err(unknown(name, text)),
    };
    let link = names.links.manifest(name, &digest)?;
    let link = link.ok_or_else(|| unknown(name, &said))?;
    if !names.store.has_blob(&link.content) {
        return Err(unknown(name, &said));
    }
    names.links.touch_manifest(name, &digest);
    let bytes = names.store.read_blob(&link.content)?;
    Ok(Found {
        digest,
        link,
        bytes,
    })
}

/// The media types that a client names; none when it takes anything.
fn accepted(headers: &HeaderMap) -> Option<Vec<String>> {
    let mut kinds = Vec::new();
    for value in headers.get_all(header::ACCEPT) {
        for kind in value.to_str().unwrap_or("").split(',') {
            let kind = kind.split(';').next().unwrap_or("").trim();
            if matches!(kind, "*/*" | "application/*" | "application/json") {
                return None;
            }
            kinds.extend((!kind.is_empty()).then(|| kind.to_string()));
        }
    }
    (!kinds.is_empty()).then_some(kinds)
}

/// What a client gets that asked by tag and doesn't take what is there: of an index this machine's image, else nothing.
fn fit(
    registry: &Registry,
    name: &str,
    found: Found,
    accepts: &Option<Vec<String>>,
) -> Result<Found, Refusal> {
    let takes = |kind: &str| {
        let kinds = accepts.as_ref();
        kinds.is_none_or(|kinds| kinds.iter().any(|k| k == kind))
    };
    if takes(&found.link.media_type) {
        return Ok(found);
    }
    if manifest::is_index(&found.link.media_type) {
        let (index, _) = Manifest::parse(&found.bytes, Some(&found.link.media_type))?;
        let here = manifest::here();
        for child in index.children()? {
            if child.descriptor.platform.as_ref() == Some(&here) {
                let child = find(registry, name, &Reference::Digest(child.digest))?;
                if takes(&child.link.media_type) {
                    return Ok(child);
                }
            }
        }
    }
    Err(Refusal::manifest_unknown(format!(
        "the manifest is of type {}, which the request's Accept header does not take",
        found.link.media_type
    )))
}

pub async fn get(
    registry: &Arc<Registry>,
    parts: &Parts,
    name: String,
    reference: Reference,
) -> Result<Response, Refusal> {
    let accepts = match reference {
        Reference::Tag(_) => accepted(&parts.headers),
        _ => None,
    };
    let found = registry
        .blocking(move |registry| {
            let found = find(registry, &name, &reference)?;
            fit(registry, &name, found, &accepts)
        })
        .await?;
    let etag = format!("\"{}\"", found.digest);
    let headers = [
        ("docker-content-digest", found.digest.to_string()),
        ("etag", etag.clone()),
        ("content-type", found.link.media_type),
    ];
    if has_tag(&parts.headers, header::IF_NONE_MATCH, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let len = found.bytes.len();
    let body = match parts.method == axum::http::Method::HEAD {
        true => Body::empty(),
        false => Body::from(found.bytes),
    };
    let mut response = (StatusCode::OK, headers, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, len.into());
    Ok(response)
}

async fn read(body: Body, said: Option<u64>) -> Result<Vec<u8>, Refusal> {
    let too_large =
        || Refusal::too_large(format!("a manifest may have {MANIFEST_MAX} bytes at most"));
    if said.is_some_and(|said| said > MANIFEST_MAX as u64) {
        return Err(too_large());
    }
    let mut stream = body.into_data_stream();
    let all = async {
        let mut bytes = Vec::new();
        while let Some(next) = stream.next().await {
            let next =
                next.map_err(|e| Refusal::manifest_invalid(format!("the body broke off: {e}")))?;
            if bytes.len() + next.len() > MANIFEST_MAX {
                return Err(too_large());
            }
            bytes.extend_from_slice(&next);
        }
        Ok(bytes)
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .map_err(|_| Refusal::manifest_invalid("the body did not come in time"))?
}

pub async fn put(
    registry: &Arc<Registry>,
    parts: &Parts,
    name: String,
    reference: Reference,
    body: Body,
) -> Result<Response, Refusal> {
    let said = parts.headers.get(header::CONTENT_LENGTH);
    let said = said.and_then(|v| v.to_str().ok()?.parse().ok());
    let kind = parts.headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|v| v.to_str().ok()).map(str::to_string);
    let (algorithm, mut tags) = match &reference {
        Reference::Digest(digest) => (digest.algorithm, Vec::new()),
        Reference::Tag(tag) => (Algorithm::Sha256, vec![tag.clone()]),
        Reference::Neither(text) => {
            return Err(Refusal::manifest_invalid(format!(
                "{text:?} is neither a tag nor a digest: a tag has up to 128 letters, digits, '_', '.' and '-'"
            )));
        }
    };
    let more: Vec<String> = match reference {
        Reference::Digest(_) => queries(parts.uri.query(), "tag")
            .take(TAGS_MAX + 1)
            .collect(),
        _ => Vec::new(),
    };
    if more.len() > TAGS_MAX {
        return Err(Refusal::new(
            StatusCode::URI_TOO_LONG,
            "UNSUPPORTED",
            format!("one request may set {TAGS_MAX} tags at most"),
        ));
    }
    if let Some(bad) = more.iter().find(|tag| !is_tag(tag)) {
        return Err(Refusal::manifest_invalid(format!("{bad:?} is no tag")));
    }
    tags.extend(more.iter().cloned());
    let bytes = read(body, said).await?;
    let host = server::host(parts).map(str::to_string);
    let repository = name.clone();
    let (digest, subject) = registry
        .blocking(move |registry| {
            let digest = Digest::of(algorithm, &bytes);
            if let Reference::Digest(wanted) = &reference
                && *wanted != digest
            {
                return Err(Refusal::digest_invalid(format!(
                    "provided digest did not match uploaded content: it is {digest}, not {wanted}"
                )));
            }
            let (manifest, media_type) = Manifest::parse(&bytes, kind.as_deref())?;
            let names = &registry.names;
            let _lock = names.store.lock(false)?;
            complete(registry, &name, &manifest)?;
            let subject = manifest.subject()?.map(|subject| subject.to_string());
            let link = ManifestLink {
                content: names.store.put_bytes(&bytes)?,
                media_type,
                size: bytes.len() as u64,
                subject: subject.clone(),
                artifact_type: manifest.kind_of_artifact(),
            };
            names.links.put_manifest(&name, &digest, &link)?;
            for tag in &tags {
                names.tag(&name, tag, &digest, host.as_deref())?;
            }
            Ok((digest, subject))
        })
        .await?;
    registry.stale.notify_one();
    let headers = [
        ("location", format!("/v2/{repository}/manifests/{digest}")),
        ("docker-content-digest", digest.to_string()),
    ];
    let mut response = (StatusCode::CREATED, headers).into_response();
    let headers = response.headers_mut();
    if let Some(subject) = subject.and_then(|s| HeaderValue::from_str(&s).ok()) {
        headers.insert("oci-subject", subject);
    }
    for tag in more {
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.append("oci-tag", tag);
        }
    }
    Ok(response)
}

/// Is all here that a manifest refers to, as it says?
fn complete(registry: &Registry, name: &str, manifest: &Manifest) -> Result<(), Refusal> {
    let (names, sparse) = (&registry.names, registry.options.sparse);
    let missing = |digest: &Digest| {
        Refusal::manifest_blob_unknown(format!(
            "manifest references a manifest or blob unknown to registry: push {digest} to {name} first"
        ))
        .detail(serde_json::json!({ "digest": digest.to_string() }))
    };
    let lies = |digest: &Digest, said: u64, is: u64| {
        Refusal::manifest_invalid(format!(
            "the manifest says that {digest} has {said} bytes, but it has {is}"
        ))
    };
    for blob in manifest.blobs()? {
        let content = crate::blobs::content(registry, name, &blob.digest)?;
        let here = content.and_then(|content| names.store.blob_size(&content));
        match here {
            Some(is) if is != blob.descriptor.size => {
                return Err(lies(&blob.digest, blob.descriptor.size, is));
            }
            Some(_) => names.links.touch_blob(name, &blob.digest),
            None if sparse => {}
            None => return Err(missing(&blob.digest)),
        }
    }
    for child in manifest.children()? {
        match names.links.manifest(name, &child.digest)? {
            Some(link) if link.size != child.descriptor.size => {
                return Err(lies(&child.digest, child.descriptor.size, link.size));
            }
            Some(_) => {}
            None if sparse => {}
            None => return Err(missing(&child.digest)),
        }
    }
    depth(registry, name, manifest, 0)
}

/// How deep indexes nest has a bound, so that whoever walks them ends.
fn depth(registry: &Registry, name: &str, manifest: &Manifest, at: u32) -> Result<(), Refusal> {
    if at > DEPTH_MAX {
        return Err(Refusal::manifest_invalid(format!(
            "indexes may nest {DEPTH_MAX} deep"
        )));
    }
    for child in manifest.children()? {
        if !manifest::is_index(&child.descriptor.media_type) {
            continue;
        }
        let links = &registry.names.links;
        let Some(link) = links.manifest(name, &child.digest)? else {
            continue;
        };
        let bytes = registry.names.store.read_blob(&link.content)?;
        let (inner, _) = Manifest::parse(&bytes, Some(&link.media_type))?;
        depth(registry, name, &inner, at + 1)?;
    }
    Ok(())
}

pub async fn delete(
    registry: &Arc<Registry>,
    name: String,
    reference: Reference,
) -> Result<Response, Refusal> {
    registry
        .blocking(move |registry| {
            let names = &registry.names;
            names.follow()?;
            let _lock = names.store.lock(false)?;
            if !names.links.exists(&name) {
                return Err(Refusal::name_unknown(format!(
                    "repository name not known to registry: {name}"
                )));
            }
            let (was, said) = match &reference {
                Reference::Tag(tag) => (names.links.drop_tag(&name, tag)?, tag.clone()),
                Reference::Digest(digest) => {
                    let was = names.links.drop_manifest(&name, digest)?;
                    let said = digest.to_string();
                    let leads = |link: TagLink| link.digest == said;
                    for tag in names.links.tags(&name)? {
                        if names.links.tag(&name, &tag)?.is_some_and(leads) {
                            names.links.drop_tag(&name, &tag)?;
                        }
                    }
                    (was, said)
                }
                Reference::Neither(text) => (false, text.clone()),
            };
            match was {
                true => Ok(()),
                false => Err(unknown(&name, &said)),
            }
        })
        .await?;
    registry.stale.notify_one();
    Ok(StatusCode::ACCEPTED.into_response())
}
