//! Watches: frames of JSON from a pull cursor on the store's ring. Nothing is queued for a slow client.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use knarr_store::{Compacted, Cursor, Entry, Event};
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    body::Body,
    catalog::{self, Target},
    crd, encoding,
    list::{self, Filter, Scope},
    negotiate::{self, Form, Media},
    object,
    query::Query,
    registry::{FieldError, Handle},
    server::Inner,
    status::Failure,
    table, versions,
};

/// Time between bookmarks.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Shortest default lifetime of a watch, in seconds; the longest is twice that (upstream's min-request-timeout).
const LIFETIME_SECONDS_MIN: u64 = 1800;
/// Events taken from the ring at once.
const BATCH_EVENTS: usize = 256;
/// Size at which a chunk of frames is handed to the connection, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

struct Watch {
    r: Handle,
    filter: Filter,
    scope: Scope,
    media: Media,
    form: Form,
    include: table::Include,
    columns_sent: bool,
    bookmarks: bool,
    initial: VecDeque<Entry>,
    /// revision of the bookmark that ends the initial events
    initial_end: Option<u64>,
    state: State,
    deadline: Instant,
    next_bookmark: Instant,
    bookmarked: u64,
    stopping: CancellationToken,
    /// the definition of a custom resource has changed
    retired: CancellationToken,
    /// a webhook converts the objects
    converts: Option<Arc<Inner>>,
    /// the initial objects are converted
    converted: bool,
}

enum State {
    /// Following the ring.
    Live(Cursor),
    /// The ring has left the wanted revision behind: one ERROR frame.
    Expired(Compacted),
    /// The last frame has been sent.
    Done,
}

/// Answers a watch.
pub fn watch(
    inner: &Arc<Inner>,
    t: &Target,
    query: &Query,
    headers: &HeaderMap,
) -> Result<(Media, Body), Failure> {
    let r = t.resource.clone();
    let filter = Filter::read(&r, query)?;
    let scope = list::scope(t, &filter);
    negotiate::form(&r, headers)?;
    query.number("limit")?;
    check(query)?;
    let version = query.get("resourceVersion").unwrap_or("");
    let wanted = list::parse_version(version)?;
    let bookmarks = query.flag("allowWatchBookmarks");
    let send_initial = if query.has("sendInitialEvents") {
        query.flag("sendInitialEvents")
    } else {
        wanted.is_none()
    };
    let watch_list = query.flag("sendInitialEvents");
    let (media, form) = negotiate::stream(&r, headers)?;
    let seconds = match query.number("timeoutSeconds")? {
        Some(n) if n > 0 => n.unsigned_abs(),
        _ => rand::rng().random_range(LIFETIME_SECONDS_MIN..2 * LIFETIME_SECONDS_MIN),
    };
    let include = match form {
        Form::Table(_) => table::Include::read(query)?,
        _ => table::Include::Metadata,
    };

    let snapshot = inner.store.snapshot();
    let current = snapshot.revision();
    if let Some(wanted) = wanted
        && wanted > current
    {
        return Err(list::too_large(wanted, current));
    }
    let mut initial = VecDeque::new();
    let mut from = wanted.unwrap_or(current);
    if send_initial {
        from = current;
        match &scope.only {
            Some(only) => initial.extend(snapshot.get(only).cloned()),
            None => initial.extend(snapshot.range(&scope.prefix, None).cloned()),
        }
        // what a webhook converts is chosen from when it is converted
        if !crd::by_webhook(&r) {
            initial.retain(|e| filter.takes(&r, &e.key, &e.value));
        }
    }
    let prefix = scope.only.as_deref().unwrap_or(&scope.prefix);
    let state = match inner.store.watch(prefix, from) {
        Ok(cursor) => State::Live(cursor),
        Err(compacted) => State::Expired(compacted),
    };
    let now = Instant::now();
    let watch = Watch {
        r,
        filter,
        scope,
        media,
        form,
        include,
        columns_sent: false,
        bookmarks,
        initial,
        initial_end: (watch_list && bookmarks).then_some(current),
        state,
        deadline: now + Duration::from_secs(seconds),
        next_bookmark: now + BOOKMARK_EVERY,
        bookmarked: from,
        stopping: inner.stopping.clone(),
        retired: match &t.resource.custom {
            Some(custom) => custom.retired(),
            None => CancellationToken::new(),
        },
        converts: crd::by_webhook(&t.resource).then(|| inner.clone()),
        converted: false,
    };
    let frames = futures::stream::unfold(watch, |mut w| async move {
        w.next().await.map(|chunk| (Ok(chunk), w))
    });
    Ok((media, Body::Stream(Box::pin(frames))))
}

fn check(query: &Query) -> Result<(), Failure> {
    let mut errors = Vec::new();
    let matching = query.get("resourceVersionMatch").unwrap_or("");
    let mut forbid = |detail: &str| {
        errors.push(FieldError::Forbidden {
            field: "resourceVersionMatch".into(),
            detail: detail.into(),
        })
    };
    let initial = query.has("sendInitialEvents");
    if initial && matching != "NotOlderThan" {
        forbid("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if !initial && !matching.is_empty() {
        forbid("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
    }
    if !matching.is_empty() && query.get("continue").is_some() {
        forbid("resourceVersionMatch is forbidden when continue is provided");
    }
    if !matching.is_empty() && matching != "NotOlderThan" {
        errors.push(FieldError::NotSupported {
            field: "resourceVersionMatch".into(),
            value: matching.into(),
            supported: vec!["NotOlderThan".into()],
        });
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Failure::invalid("meta.k8s.io", "ListOptions", "", &errors))
    }
}

impl Watch {
    /// The next chunk of frames; None at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        if let State::Expired(c) = self.state {
            self.state = State::Done;
            self.error(&mut out, c);
            return Some(out.freeze());
        }
        if let Err(f) = self.convert_initial().await {
            self.state = State::Done;
            self.failure(&mut out, &f);
            return Some(out.freeze());
        }
        while let Some(e) = self.initial.pop_front() {
            self.frame(&mut out, "ADDED", &e.value);
            if out.len() >= CHUNK_BYTES {
                return Some(out.freeze());
            }
        }
        if let Some(revision) = self.initial_end.take() {
            self.bookmark(&mut out, revision, true);
        }
        if !out.is_empty() {
            return Some(out.freeze());
        }
        loop {
            let State::Live(cursor) = &mut self.state else {
                return None;
            };
            tokio::select! {
                biased;
                events = cursor.next(BATCH_EVENTS) => match events {
                    Ok(events) => match self.convert(events).await {
                        Ok(events) => {
                            for e in &events {
                                self.event(&mut out, e);
                            }
                        }
                        Err(f) => {
                            self.state = State::Done;
                            self.failure(&mut out, &f);
                        }
                    },
                    Err(c) => {
                        self.state = State::Done;
                        self.error(&mut out, c);
                    }
                },
                () = self.stopping.cancelled() => return None,
                () = self.retired.cancelled() => return None,
                () = tokio::time::sleep_until(self.deadline) => {
                    let position = cursor.position();
                    self.state = State::Done;
                    if self.bookmarks && position > self.bookmarked {
                        self.bookmark(&mut out, position, false);
                        return Some(out.freeze());
                    }
                    return None;
                }
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                    let position = cursor.position();
                    if position > self.bookmarked {
                        self.bookmark(&mut out, position, false);
                    }
                }
            }
            if !out.is_empty() {
                return Some(out.freeze());
            }
        }
    }

    /// Brings the initial objects into the watch's version, when that takes a webhook.
    async fn convert_initial(&mut self) -> Result<(), Failure> {
        let Some(inner) = self.converts.clone().filter(|_| !self.converted) else {
            return Ok(());
        };
        self.converted = true;
        let bytes = self.initial.iter().map(|e| e.value.clone()).collect();
        let all = crd::bring_all(&inner, &self.r, bytes).await?;
        for (e, value) in self.initial.iter_mut().zip(all) {
            e.value = value;
        }
        let (filter, r) = (&self.filter, &self.r);
        self.initial.retain(|e| filter.takes(r, &e.key, &e.value));
        Ok(())
    }

    /// The same for events.
    async fn convert(&self, events: Vec<Arc<Event>>) -> Result<Vec<Arc<Event>>, Failure> {
        let Some(inner) = &self.converts else {
            return Ok(events);
        };
        let mut bytes = Vec::new();
        for e in &events {
            bytes.extend(e.value.clone());
            bytes.extend(e.prev.as_ref().map(|p| p.value.clone()));
            bytes.extend(e.last.clone());
        }
        let mut all = crd::bring_all(inner, &self.r, bytes).await?.into_iter();
        let mut out = Vec::with_capacity(events.len());
        for e in events {
            // as many as were given, in their order
            let value = e.value.as_ref().and_then(|_| all.next());
            let prev = e.prev.as_ref().and_then(|p| {
                Some(Entry {
                    value: all.next()?,
                    ..p.clone()
                })
            });
            let last = e.last.as_ref().and_then(|_| all.next());
            out.push(Arc::new(Event {
                revision: e.revision,
                key: e.key.clone(),
                value,
                prev,
                last,
                create_revision: e.create_revision,
            }));
        }
        Ok(out)
    }

    fn event(&mut self, out: &mut BytesMut, e: &Event) {
        if self
            .scope
            .only
            .as_deref()
            .is_some_and(|only| only != &*e.key)
        {
            return;
        }
        let takes = |bytes: &Bytes| self.filter.takes(&self.r, &e.key, bytes);
        let was = e.prev.as_ref().is_some_and(|p| takes(&p.value));
        let is = e.value.as_ref().is_some_and(takes);
        match (was, is, &e.value) {
            (false, true, Some(v)) => self.frame(out, "ADDED", v),
            (true, true, Some(v)) => self.frame(out, "MODIFIED", v),
            (true, _, value) => {
                // deleted, or no longer selected: the last state selected, at this revision
                let last = match (value, &e.last, &e.prev) {
                    (None, Some(last), _) => last,
                    (_, _, Some(prev)) => &prev.value,
                    _ => return,
                };
                let last = object::with_revision(last, e.revision);
                self.frame(out, "DELETED", &last);
            }
            _ => {}
        }
    }

    fn frame(&mut self, out: &mut BytesMut, kind: &str, bytes: &Bytes) {
        let encoded;
        let bytes = &versions::served(&self.r, bytes);
        let object: &[u8] = match self.form {
            Form::Plain => bytes,
            Form::Table(version) => {
                let Ok(o) = object::parse(bytes) else { return };
                let row = table::row(&self.r, &o, version, self.include);
                encoded = self.table(version, object::meta(&o, "resourceVersion"), vec![row]);
                encoded.as_bytes()
            }
            Form::Partial(version) | Form::PartialList(version) => {
                let Some(m) = object::metadata(bytes) else {
                    return;
                };
                encoded = table::partial(m, version).to_string();
                encoded.as_bytes()
            }
        };
        self.emit(out, kind, object);
    }

    /// One frame around an object's JSON.
    fn emit(&self, out: &mut BytesMut, kind: &str, object: &[u8]) {
        if self.media == Media::Protobuf {
            match encoding::object(object) {
                Ok(object) => {
                    let mut frame = Vec::with_capacity(object.len() + 24);
                    knarr_schema::protobuf_watch_frame(kind, &object, &mut frame);
                    out.extend_from_slice(&frame);
                }
                Err(f) => tracing::warn!("a watch event can't be encoded: {}", f.message()),
            }
            return;
        }
        out.reserve(object.len() + 40);
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        out.extend_from_slice(object);
        out.extend_from_slice(b"}\n");
    }

    fn table(&mut self, version: &str, revision: &str, rows: Vec<Value>) -> String {
        let columns = !std::mem::replace(&mut self.columns_sent, true);
        let metadata = json!({ "resourceVersion": revision });
        table::table(&self.r, version, metadata, columns, rows).to_string()
    }

    fn bookmark(&mut self, out: &mut BytesMut, revision: u64, initial_end: bool) {
        self.bookmarked = revision;
        let mut metadata =
            json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let plain = json!({"kind": self.r.kind, "apiVersion": catalog::api_version(&self.r), "metadata": metadata});
        let object = match self.form {
            Form::Plain => plain.to_string(),
            Form::Table(version) => {
                let row = json!({"cells": [], "object": plain});
                self.table(version, &revision.to_string(), vec![row])
            }
            Form::Partial(v) | Form::PartialList(v) => table::partial(metadata, v).to_string(),
        };
        self.emit(out, "BOOKMARK", object.as_bytes());
    }

    fn error(&mut self, out: &mut BytesMut, c: Compacted) {
        let failure = Failure::expired(format!(
            "too old resource version: {} ({})",
            c.asked, c.oldest
        ));
        self.failure(out, &failure);
    }

    fn failure(&mut self, out: &mut BytesMut, failure: &Failure) {
        self.emit(out, "ERROR", failure.to_value().to_string().as_bytes());
    }
}
