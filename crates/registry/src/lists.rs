//! What there is: repositories, tags, referrers.

use crate::{
    digest::Digest,
    error::Refusal,
    manifest::{Descriptor, Manifest, OCI_INDEX},
    route::{query, quoted},
    server::Registry,
};
use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use std::sync::Arc;

/// Names in one answer at most; a client that asks for more goes on by the answer's Link.
const PAGE_MAX: usize = 10_000;
/// Referrers in one answer at most, and their bytes: an index should fit into what clients take as a manifest.
const REFERRERS_MAX: usize = 1_000;
const REFERRERS_BYTES: usize = 3 << 20;

struct Page {
    n: Option<usize>,
    last: Option<String>,
}

fn page(search: Option<&str>) -> Result<Page, Refusal> {
    let n = query(search, "n").map(|text| {
        text.parse()
            .map_err(|_| Refusal::unsupported(format!("n={text}: expected a number of results")))
    });
    Ok(Page {
        n: n.transpose()?,
        last: query(search, "last"),
    })
}

/// The names after `last`, as many as asked for, and whether there are more.
fn cut(names: Vec<String>, page: &Page) -> (Vec<String>, bool) {
    let start = match &page.last {
        Some(last) => names.partition_point(|name| name <= last),
        None => 0,
    };
    let most = page.n.unwrap_or(PAGE_MAX).min(PAGE_MAX);
    let more = names.len() - start > most && most > 0;
    (names.into_iter().skip(start).take(most).collect(), more)
}

fn link(response: &mut Response, path: &str, page: &Page, last: Option<&String>) {
    let Some(last) = last else { return };
    let n = page.n.unwrap_or(PAGE_MAX).min(PAGE_MAX);
    let link = format!("<{path}?n={n}&last={}>; rel=\"next\"", quoted(last));
    if let Ok(link) = HeaderValue::from_str(&link) {
        response.headers_mut().insert(header::LINK, link);
    }
}

pub async fn catalog(registry: &Arc<Registry>, search: Option<&str>) -> Result<Response, Refusal> {
    let page = page(search)?;
    let all = registry
        .blocking(|registry| {
            registry.names.follow()?;
            Ok(registry.names.links.repositories()?)
        })
        .await?;
    let (names, more) = cut(all, &page);
    let mut response = axum::Json(serde_json::json!({ "repositories": names })).into_response();
    if more {
        link(&mut response, "/v2/_catalog", &page, names.last());
    }
    Ok(response)
}

pub async fn tags(
    registry: &Arc<Registry>,
    name: String,
    search: Option<&str>,
) -> Result<Response, Refusal> {
    let page = page(search)?;
    let repository = name.clone();
    let all = registry
        .blocking(move |registry| {
            let names = &registry.names;
            names.follow()?;
            match names.links.exists(&repository) {
                true => Ok(names.links.tags(&repository)?),
                false => Err(Refusal::name_unknown(format!(
                    "repository name not known to registry: {repository}"
                ))
                .detail(serde_json::json!({ "name": repository }))),
            }
        })
        .await?;
    let (tags, more) = cut(all, &page);
    let mut response =
        axum::Json(serde_json::json!({ "name": name, "tags": tags })).into_response();
    if more {
        let path = format!("/v2/{name}/tags/list");
        link(&mut response, &path, &page, tags.last());
    }
    Ok(response)
}

pub async fn referrers(
    registry: &Arc<Registry>,
    name: String,
    subject: Digest,
    search: Option<&str>,
) -> Result<Response, Refusal> {
    let kind = query(search, "artifactType").filter(|kind| !kind.is_empty());
    let last = query(search, "last");
    let (repository, asked, wanted) = (name.clone(), subject.clone(), kind.clone());
    let (found, next) = registry
        .blocking(move |registry| {
            list(
                registry,
                &repository,
                &asked,
                wanted.as_deref(),
                last.as_deref(),
            )
        })
        .await?;
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": found,
    });
    let mut response = ([(header::CONTENT_TYPE, OCI_INDEX)], index.to_string()).into_response();
    let headers = response.headers_mut();
    if kind.is_some() {
        headers.insert(
            "oci-filters-applied",
            HeaderValue::from_static("artifactType"),
        );
    }
    if let Some(next) = next {
        let filter = kind.map_or(String::new(), |kind| {
            format!("artifactType={}&", quoted(&kind))
        });
        let link = format!(
            "</v2/{name}/referrers/{subject}?{filter}last={}>; rel=\"next\"",
            quoted(&next)
        );
        if let Ok(link) = HeaderValue::from_str(&link) {
            headers.insert(header::LINK, link);
        }
    }
    Ok(response)
}

/// A page of a subject's referrers, and the digest after which the next begins.
fn list(
    registry: &Registry,
    name: &str,
    subject: &Digest,
    kind: Option<&str>,
    last: Option<&str>,
) -> Result<(Vec<Descriptor>, Option<String>), Refusal> {
    let names = &registry.names;
    names.follow()?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    for digest in names.links.referrers(name, subject)? {
        let text = digest.to_string();
        if last.is_some_and(|last| text.as_str() <= last) {
            continue;
        }
        let Some(link) = names.links.manifest(name, &digest)? else {
            continue; // only half of it came, or it is being deleted
        };
        // Of an index only its own type counts, of an image its config's stands in.
        if kind.is_some() && link.artifact_type.as_deref() != kind {
            continue;
        }
        let content = names.store.read_blob(&link.content)?;
        let (manifest, _) = Manifest::parse(&content, Some(&link.media_type))?;
        let size = content.len().min(MANIFEST_HEAD)
            + manifest
                .annotations
                .iter()
                .flatten()
                .map(|(k, v)| k.len() + v.len() + 8)
                .sum::<usize>();
        if found.len() == REFERRERS_MAX || (bytes + size > REFERRERS_BYTES && !found.is_empty()) {
            let next = found.last().map(|d: &Descriptor| d.digest.clone());
            return Ok((found, next));
        }
        bytes += size;
        found.push(Descriptor::of(
            link.media_type,
            text,
            link.size,
            link.artifact_type,
            manifest.annotations,
        ));
    }
    Ok((found, None))
}

/// What a descriptor has beside its annotations, about, in bytes.
const MANIFEST_HEAD: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_begin_after_the_last_name() {
        let names = || ["A", "a", "b", "c"].map(String::from).to_vec();
        for (n, last, want, more) in [
            (None, None, vec!["A", "a", "b", "c"], false),
            (Some(2), None, vec!["A", "a"], true),
            (Some(2), Some("a"), vec!["b", "c"], false),
            (Some(4), None, vec!["A", "a", "b", "c"], false),
            (Some(0), None, vec![], false),
            (None, Some("aa"), vec!["b", "c"], false),
            (Some(3), Some("z"), vec![], false),
        ] {
            let page = Page {
                n,
                last: last.map(String::from),
            };
            let got = cut(names(), &page);
            assert_eq!(
                (got.0, got.1),
                (want.iter().map(|s| s.to_string()).collect(), more)
            );
        }
    }
}
