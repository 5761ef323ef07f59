//! `--cache-from` and `--cache-to`: caches in registries are the builder's to reach, folders are the client's and go over its
//! session.
//!
//! SOURCE: moby/buildkit `client/solve.go` parseCacheOptions, `cache/remotecache/{local,registry,inline}`

use super::{
    content::Store,
    request::{Export, refused},
    session::Session,
};
use knarr_build::{BuildRequest, CacheFrom, CacheStore, CacheTo, Packing};
use knarr_grpc::{Status, code, proto::Map};
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Under which a cache's one image is in a layout.
const TAG: &str = "cache";
/// What the client's own index gets.
const RESPONSE: &str = "cache.manifest";

/// `cache-imports`, as JSON
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "Type", default)]
    kind: String,
    #[serde(rename = "Attrs", default)]
    attrs: Map,
}

/// What is wanted of other builds. A folder's content is brought here; what can't be had is told by `warn`.
///
/// # Errors
/// When the options can't be read.
pub async fn import(
    session: &Arc<Session>,
    options: &Map,
    request: &mut BuildRequest,
    temp: &Path,
    warn: &(dyn Fn(String) + Sync),
) -> Result<(), Status> {
    let said = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    for name in said("cache-from").split(',').filter(|n| !n.is_empty()) {
        let from = CacheFrom(CacheStore::Registry(name.into()));
        request.cache_from.push(from);
    }
    let entries: Option<Vec<Entry>> = match said("cache-imports") {
        "" => None,
        text => serde_json::from_str(text).map_err(|e| {
            Status::new(
                code::INVALID_ARGUMENT,
                format!("invalid cache-imports: {e}"),
            )
        })?,
    };
    for (number, entry) in entries.into_iter().flatten().enumerate() {
        let attr = |key: &str| entry.attrs.get(key).map(String::as_str).unwrap_or_default();
        match entry.kind.as_str() {
            "registry" => {
                let from = CacheFrom(CacheStore::Registry(attr("ref").into()));
                request.cache_from.push(from);
            }
            "local" => {
                let folder = temp.join(format!("cache-from-{number}"));
                let name = format!("local:{}", attr("src"));
                let brought = async {
                    let store = Store::new(session, &name)?;
                    store.layout(attr("digest"), TAG, &[], &folder).await
                };
                match brought.await {
                    Ok(()) => request.cache_from.push(CacheFrom(CacheStore::Local {
                        folder,
                        tag: TAG.into(),
                    })),
                    Err(e) => warn(format!("the cache of {name} is not used: {}", e.message)),
                }
            }
            other => warn(format!(
                "the cache type={other} is not used: registry, local and inline are"
            )),
        }
    }
    Ok(())
}

/// A cache that becomes a folder of the client's.
pub struct Wanted {
    /// as the client knows it
    dest: String,
    folder: PathBuf,
    ignore_error: bool,
}

/// What is wanted for other builds.
///
/// # Errors
/// What isn't there, by name.
pub fn export(
    caches: &[Export],
    request: &mut BuildRequest,
    temp: &Path,
) -> Result<Vec<Wanted>, Status> {
    let mut all = Vec::new();
    for (number, cache) in caches.iter().enumerate() {
        let attr = |key: &str| cache.attrs.get(key).map(String::as_str).unwrap_or_default();
        let bad = |why: String| Status::new(code::INVALID_ARGUMENT, why);
        let ignore_error = matches!(attr("ignore-error"), "true" | "1" | "t");
        let store = match cache.kind.as_str() {
            "inline" => CacheStore::Inline,
            "registry" => CacheStore::Registry(attr("ref").into()),
            "local" => {
                let folder = temp.join(format!("cache-to-{number}"));
                all.push(Wanted {
                    dest: attr("dest").into(),
                    folder: folder.clone(),
                    ignore_error,
                });
                CacheStore::Local {
                    folder,
                    tag: TAG.into(),
                }
            }
            other => return Err(refused(format!("--cache-to type={other}"))),
        };
        request.cache_to.push(CacheTo {
            store,
            max: match attr("mode") {
                "" | "min" => false,
                "max" => true,
                other => return Err(bad(format!("invalid cache export mode: {other}"))),
            },
            ignore_error,
            packing: packing(attr("compression"))?.unwrap_or(Packing::Gzip),
        });
    }
    Ok(all)
}

/// `compression=…`; None: it isn't said.
///
/// # Errors
/// In BuildKit's words.
pub fn packing(text: &str) -> Result<Option<Packing>, Status> {
    Ok(match text {
        "" => None,
        "gzip" | "estargz" => Some(Packing::Gzip),
        "zstd" => Some(Packing::Zstd),
        "uncompressed" => Some(Packing::Plain),
        other => {
            let why = format!("unsupported layer compression type: {other}");
            return Err(Status::new(code::INVALID_ARGUMENT, why));
        }
    })
}

impl Wanted {
    /// Hands it over.
    ///
    /// # Errors
    /// The client's.
    pub async fn give(&self, session: &Arc<Session>, response: &mut Map) -> Result<(), Status> {
        // one that could not be written, which was told
        if self.ignore_error && !self.folder.join("index.json").is_file() {
            return Ok(());
        }
        let store = Store::new(session, &format!("local:{}", self.dest))?;
        let given = store.give(&self.folder).await;
        match given {
            Err(_) if self.ignore_error => {}
            given => {
                response.insert(RESPONSE.into(), given?.to_string());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_for_others() {
        let cache = |kind: &str, attrs: &[(&str, &str)]| Export {
            kind: kind.into(),
            attrs: attrs
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
        };
        let check = |cache: Export, want: &str| {
            let mut request = BuildRequest::default();
            let got = export(&[cache], &mut request, Path::new("/t"));
            let got = match got {
                Ok(folders) => {
                    let to = &request.cache_to[0];
                    let dest = folders.first().map(|w| w.dest.clone());
                    format!("{:?} {} {:?} {dest:?}", to.store, to.max, to.packing)
                }
                Err(e) => e.message,
            };
            assert_eq!(got, want);
        };
        check(cache("inline", &[]), "Inline false Gzip None");
        check(
            cache(
                "registry",
                &[("ref", "r/a:b"), ("mode", "max"), ("compression", "zstd")],
            ),
            "Registry(\"r/a:b\") true Zstd None",
        );
        check(
            cache("local", &[("dest", "/x")]),
            "Local { folder: \"/t/cache-to-0\", tag: \"cache\" } false Gzip Some(\"/x\")",
        );
        check(
            cache("gha", &[]),
            "--cache-to type=gha is not supported by knarr",
        );
        check(
            cache("inline", &[("mode", "x")]),
            "invalid cache export mode: x",
        );
    }
}
