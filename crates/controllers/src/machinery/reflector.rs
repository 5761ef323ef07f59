//! List and watch: keeps a [`Sink`] equal to a collection of the API.

use std::{panic::AssertUnwindSafe, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use http::Method;
use http_body_util::BodyExt;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::rest::Rest;
use crate::error::{Error, Result, Status};

/// What receives a collection.
pub trait Sink<T>: Send + Sync {
    /// The whole collection, after a list.
    fn replace(&self, items: Vec<T>);
    /// Added or modified.
    fn apply(&self, item: T);
    /// Gone; `item` is its last state.
    fn delete(&self, item: T);
}

/// Asks for metadata alone.
pub const METADATA_ONLY: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
/// Ask for the metadata of a list.
pub const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// Items per page of a list.
const PAGE: usize = 500;
/// A watch is asked to end after this, and opened again where it stopped; s.
const WATCH_S: u64 = 290;
/// A watch is open after this, s.
const OPEN_S: u64 = 30;
/// Longest watch line, bytes.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Back-off between failures.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long a kind that the server doesn't have counts as empty.
const ABSENT: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct ListMeta {
    #[serde(rename = "resourceVersion", default)]
    resource_version: String,
    #[serde(rename = "continue", default)]
    next: Option<String>,
}

#[derive(Deserialize)]
struct List {
    metadata: ListMeta,
    #[serde(default)]
    items: Option<Vec<Box<RawValue>>>,
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Revision<'a> {
    #[serde(borrow)]
    metadata: RevisionMeta<'a>,
}

#[derive(Deserialize)]
struct RevisionMeta<'a> {
    #[serde(rename = "resourceVersion")]
    resource_version: &'a str,
}

/// Keeps `sink` equal to the collection at `path`, until dropped. `metadata_only` asks for PartialObjectMetadata. A panic on an object ends the watch, and starts over with a list.
pub async fn reflect<T: DeserializeOwned + Send>(
    rest: &Rest,
    path: &str,
    metadata_only: bool,
    sink: &impl Sink<T>,
) {
    loop {
        let follow = AssertUnwindSafe(follow(rest, path, metadata_only, sink));
        if follow.catch_unwind().await.is_err() {
            tracing::error!(path, "a bug: taking in a change panicked; starting over");
        }
        tokio::time::sleep(BACKOFF_MAX).await;
    }
}

async fn follow<T: DeserializeOwned + Send>(
    rest: &Rest,
    path: &str,
    metadata_only: bool,
    sink: &impl Sink<T>,
) {
    let mut pause = BACKOFF_MIN;
    let mut at: Option<String> = None;
    loop {
        let step = match &mut at {
            None => match list(rest, path, metadata_only).await {
                Ok((items, revision)) => {
                    sink.replace(items);
                    at = Some(revision);
                    Ok(())
                }
                Err(e) if e.is_not_found() => {
                    sink.replace(vec![]);
                    tokio::time::sleep(ABSENT).await;
                    continue;
                }
                Err(e) => Err(e),
            },
            Some(revision) => watch(rest, path, metadata_only, sink, revision).await,
        };
        match step {
            Ok(()) => pause = BACKOFF_MIN,
            Err(e) => {
                if e.is_gone() || matches!(e, Error::Decode { .. }) {
                    at = None;
                }
                // the collection went away (a CRD): see what's left
                if e.is_not_found() {
                    at = None;
                    continue;
                }
                if pause == BACKOFF_MAX {
                    tracing::warn!(path, error = %e, "can't be watched, what controllers know is old; trying again");
                } else {
                    tracing::debug!(path, error = %e, "watch interrupted");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACKOFF_MAX);
            }
        }
    }
}

/// The path may carry a selector.
fn separator(path: &str) -> char {
    if path.contains('?') { '&' } else { '?' }
}

/// One object; one that can't be read is left out, so that it doesn't stop the others.
fn read<T: DeserializeOwned>(path: &str, text: &str) -> Option<T> {
    match serde_json::from_str(text) {
        Ok(item) => Some(item),
        Err(e) => {
            let name: Option<Named> = serde_json::from_str(text).ok();
            let name = name.map_or("?", |n| n.metadata.name);
            tracing::warn!(path, name, error = %e, "an object isn't as its kind should be, and is ignored: mend or delete it");
            None
        }
    }
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    metadata: NameOnly<'a>,
}

#[derive(Deserialize)]
struct NameOnly<'a> {
    name: &'a str,
}

async fn list<T: DeserializeOwned>(
    rest: &Rest,
    path: &str,
    metadata_only: bool,
) -> Result<(Vec<T>, String)> {
    let mut all = Vec::new();
    let mut next: Option<String> = None;
    loop {
        let mut page = format!("{path}{}limit={PAGE}", separator(path));
        if let Some(token) = &next {
            page.push_str("&continue=");
            page.extend(token.bytes().map(|b| match b {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                    char::from(b).to_string()
                }
                other => format!("%{other:02X}"),
            }));
        }
        let accept = if metadata_only {
            METADATA_LIST
        } else {
            "application/json"
        };
        let list: List = rest.get_as(&page, accept).await?;
        for item in list.items.unwrap_or_default() {
            all.extend(read(path, item.get()));
        }
        match list.metadata.next {
            Some(token) if !token.is_empty() => next = Some(token),
            _ => return Ok((all, list.metadata.resource_version)),
        }
    }
}

/// Follows until the server ends the watch (Ok) or something fails; `revision` moves along.
async fn watch<T: DeserializeOwned>(
    rest: &Rest,
    path: &str,
    metadata_only: bool,
    sink: &impl Sink<T>,
    revision: &mut String,
) -> Result<()> {
    let url = format!(
        "{path}{}watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_S}&resourceVersion={revision}",
        separator(path)
    );
    let accept = if metadata_only {
        METADATA_ONLY
    } else {
        "application/json"
    };
    let follow = async {
        let open = rest.send(Method::GET, &url, None, Vec::new(), Some(accept));
        let response = match tokio::time::timeout(Duration::from_secs(OPEN_S), open).await {
            Ok(r) => r?,
            Err(_) => {
                return Err(Error::Timeout {
                    what: url.clone(),
                    seconds: OPEN_S,
                });
            }
        };
        let mut body = response.into_body();
        let mut rest_of_line: Vec<u8> = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Error::Broken(e.to_string()))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            take_lines(&mut rest_of_line, data, |line| {
                take(path, sink, line, revision)
            })?;
        }
        Ok(())
    };
    // the server ends it sooner; this is for a connection that died silently
    match tokio::time::timeout(Duration::from_secs(WATCH_S + 20), follow).await {
        Ok(r) => r,
        Err(_) => Ok(()),
    }
}

/// Calls `each` for every whole line; most often a chunk is one line, and nothing is copied.
fn take_lines(
    rest: &mut Vec<u8>,
    mut data: Bytes,
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    while let Some(end) = data.iter().position(|b| *b == b'\n') {
        let line = data.split_to(end + 1);
        if rest.is_empty() {
            each(&line)?;
        } else {
            rest.extend_from_slice(&line);
            each(rest)?;
            *rest = Vec::new();
        }
    }
    if rest.len() + data.len() > LINE_BYTES_MAX {
        return Err(Error::Broken(format!(
            "a watch event above {LINE_BYTES_MAX} bytes"
        )));
    }
    rest.extend_from_slice(&data);
    Ok(())
}

fn take<T: DeserializeOwned>(
    path: &str,
    sink: &impl Sink<T>,
    line: &[u8],
    revision: &mut String,
) -> Result<()> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    let decode = |source| Error::Decode {
        what: format!("watch of {path}"),
        source,
    };
    let frame: Frame = serde_json::from_slice(line).map_err(decode)?;
    let text = frame.object.get();
    if frame.kind == "ERROR" {
        let status: Status = serde_json::from_str(text).map_err(decode)?;
        return Err(Error::Api(Box::new(status)));
    }
    if frame.kind != "BOOKMARK" {
        match read::<T>(path, text) {
            Some(item) if frame.kind == "DELETED" => sink.delete(item),
            Some(item) => sink.apply(item),
            None => {}
        }
    }
    let seen: Revision = serde_json::from_str(text).map_err(decode)?;
    revision.clear();
    revision.push_str(seen.metadata.resource_version);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Log(parking_lot::Mutex<Vec<String>>);
    impl Sink<crate::objects::workload::Deployment> for Log {
        fn replace(&self, _: Vec<crate::objects::workload::Deployment>) {}
        fn apply(&self, item: crate::objects::workload::Deployment) {
            self.0.lock().push(format!("+{}", item.metadata.name));
        }
        fn delete(&self, item: crate::objects::workload::Deployment) {
            self.0.lock().push(format!("-{}", item.metadata.name));
        }
    }

    #[test]
    fn watch_events() {
        let log = Log(Default::default());
        let mut revision = "1".to_owned();
        let object = |name: &str, rv: u8| {
            format!(
                r#"{{"metadata":{{"name":"{name}","resourceVersion":"{rv}"}},"spec":{{"template":{{}}}}}}"#
            )
        };
        let line = |kind: &str, object: &str| format!(r#"{{"type":"{kind}","object":{object}}}"#);
        for l in [
            line("ADDED", &object("a", 2)),
            line("MODIFIED", &object("a", 3)),
            // no template: not a Deployment, and no reason to stop
            line(
                "ADDED",
                r#"{"metadata":{"name":"bad","resourceVersion":"4"},"spec":{}}"#,
            ),
            line("DELETED", &object("a", 5)),
            line(
                "BOOKMARK",
                r#"{"kind":"Deployment","metadata":{"resourceVersion":"9"}}"#,
            ),
            " ".into(),
        ] {
            take("/x", &log, l.as_bytes(), &mut revision).unwrap();
        }
        assert_eq!(*log.0.lock(), ["+a", "+a", "-a"]);
        assert_eq!(revision, "9");
        let gone = line(
            "ERROR",
            r#"{"kind":"Status","code":410,"reason":"Expired"}"#,
        );
        let e = take("/x", &log, gone.as_bytes(), &mut revision).unwrap_err();
        assert!(e.is_gone());
        assert_eq!(revision, "9");
    }

    #[test]
    fn lines_over_chunks() {
        let mut rest = Vec::new();
        let mut seen: Vec<String> = vec![];
        for chunk in ["a\nb", "b\n", "", "c", "c\nd\ne\n"] {
            take_lines(&mut rest, Bytes::from(chunk), |l| {
                seen.push(String::from_utf8_lossy(l).trim().to_owned());
                Ok(())
            })
            .unwrap();
        }
        assert_eq!(seen, ["a", "bb", "cc", "d", "e"]);
        assert!(rest.is_empty());
    }
}
