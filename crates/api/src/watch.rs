//! Watches: frames from a pull cursor on the store's ring, encoded once for all watchers. Nothing is queued for a slow client.

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
    frames::Key,
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
    /// frames that others have encoded
    shared: Arc<Inner>,
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
    negotiate::routed_watch(&r, headers)?;
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
        shared: inner.clone(),
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
            if let Some(frame) = self.frame("ADDED", &e.value) {
                self.columns_sent = true;
                out.extend_from_slice(&frame);
            }
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
                            let mut frames: Vec<Bytes> =
                                events.iter().filter_map(|e| self.event(e)).collect();
                            if frames.len() == 1 {
                                // as it is, without a copy
                                return frames.pop();
                            }
                            out.reserve(frames.iter().map(Bytes::len).sum());
                            for frame in &frames {
                                out.extend_from_slice(frame);
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
        match &self.r.custom {
            Some(custom) => custom.converted.events(inner, &self.r, events).await,
            None => Ok(events),
        }
    }

    /// The frame of an event; None when the watch doesn't show it.
    fn event(&mut self, e: &Event) -> Option<Bytes> {
        if self
            .scope
            .only
            .as_deref()
            .is_some_and(|only| only != &*e.key)
        {
            return None;
        }
        let takes = |bytes: &Bytes| self.filter.takes(&self.r, &e.key, bytes);
        let was = e.prev.as_ref().is_some_and(|p| takes(&p.value));
        let is = e.value.as_ref().is_some_and(takes);
        match (was, is, &e.value) {
            (false, true, Some(v)) => {
                self.shared_frame(e.revision, "ADDED", |w| w.frame("ADDED", v))
            }
            (true, true, Some(v)) => {
                self.shared_frame(e.revision, "MODIFIED", |w| w.frame("MODIFIED", v))
            }
            (true, _, value) => {
                // deleted, or no longer selected: the last state selected, at this revision
                let last = match (value, &e.last, &e.prev) {
                    (None, Some(last), _) => last,
                    (_, _, Some(prev)) => &prev.value,
                    _ => return None,
                };
                self.shared_frame(e.revision, "DELETED", |w| {
                    w.frame("DELETED", &object::with_revision(last, e.revision))
                })
            }
            _ => None,
        }
    }

    /// The frame that others get, too.
    fn shared_frame(
        &mut self,
        revision: u64,
        kind: &'static str,
        encode: impl FnOnce(&Watch) -> Option<Bytes>,
    ) -> Option<Bytes> {
        let key = Key {
            revision,
            resource: self.r.clone(),
            kind,
            media: self.media,
            form: self.form,
            rows: matches!(self.form, Form::Table(_)).then_some((self.include, !self.columns_sent)),
        };
        let frame = self.shared.frames.get(key, || encode(self));
        self.columns_sent |= frame.is_some();
        frame
    }

    fn frame(&self, kind: &str, bytes: &Bytes) -> Option<Bytes> {
        let encoded;
        let bytes = &versions::served(&self.r, bytes);
        let object: &[u8] = match self.form {
            Form::Plain => bytes,
            Form::Table(version) => {
                let o = object::parse(bytes).ok()?;
                let row = table::row(&self.r, &o, version, self.include);
                encoded = self.table(version, object::meta(&o, "resourceVersion"), vec![row]);
                encoded.as_bytes()
            }
            Form::Partial(version) | Form::PartialList(version) => {
                encoded = table::partial(object::metadata(bytes)?, version).to_string();
                encoded.as_bytes()
            }
        };
        let mut out = BytesMut::new();
        self.emit(&mut out, kind, object);
        (!out.is_empty()).then(|| out.freeze())
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

    fn table(&self, version: &str, revision: &str, rows: Vec<Value>) -> String {
        let columns = !self.columns_sent;
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
        self.columns_sent = true;
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
