//! What is noted of one request on its way.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Response, header, request::Parts};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    event::{Payload, Record},
    log::Audit,
    policy::{Decision, Level, Stage},
};
use crate::{body::Body, identity::Identity, request_info::RequestInfo};

const DECISION: &str = "authorization.k8s.io/decision";
const REASON: &str = "authorization.k8s.io/reason";
/// Longest Audit-ID taken from a client, in bytes (as upstream).
const ID_BYTES_MAX: usize = 64;
/// Addresses taken from X-Forwarded-For, at most.
const FORWARDED_MAX: usize = 16;

/// Where the connection comes from; in a request's extensions.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// One request's notes. Clone = the same; the last one dropped tells of the end of a stream.
#[derive(Clone)]
pub struct Span(Arc<Inner>);

struct Inner {
    audit: Audit,
    id: String,
    uri: String,
    source: Vec<String>,
    user_agent: String,
    received: Timestamp,
    info: RequestInfo,
    /// set when the requester is known
    decision: OnceLock<Decision>,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    user: Value,
    impersonated: Option<Value>,
    request: Option<Payload>,
    response: Option<Payload>,
    code: Option<u16>,
    annotations: BTreeMap<String, String>,
    /// the end is told by the drop
    open: bool,
}

/// Forwarded addresses, then the connection's, unless it is the last of those.
fn sources(parts: &Parts) -> Vec<String> {
    let text = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok());
    let mut all: Vec<IpAddr> = text("x-forwarded-for")
        .into_iter()
        .flat_map(|list| list.split(','))
        .filter_map(|a| a.trim().parse().ok())
        .take(FORWARDED_MAX)
        .collect();
    if let Some(real) = text("x-real-ip").and_then(|a| a.parse().ok())
        && !all.contains(&real)
    {
        all.push(real);
    }
    let local = IpAddr::from([127, 0, 0, 1]);
    let peer = parts.extensions.get::<Peer>().map_or(local, |p| p.0);
    if all.last() != Some(&peer) {
        all.push(peer);
    }
    all.iter().map(IpAddr::to_string).collect()
}

/// The client's Audit-ID when it is fit for one, or a new one.
pub fn audit_id(headers: &HeaderMap) -> String {
    let given = headers.get("audit-id").and_then(|v| v.to_str().ok());
    match given.filter(|id| !id.is_empty() && id.len() <= ID_BYTES_MAX) {
        Some(id) => id.to_string(),
        None => uuid::Builder::from_random_bytes(rand::random())
            .into_uuid()
            .to_string(),
    }
}

impl Span {
    /// Begins a request's notes and puts them into its extensions.
    pub fn begin(audit: &Audit, parts: &mut Parts, id: &str) -> Span {
        let agent = parts.headers.get(header::USER_AGENT);
        let span = Span(Arc::new(Inner {
            audit: audit.clone(),
            id: id.to_string(),
            uri: parts
                .uri
                .path_and_query()
                .map_or_else(String::new, |p| p.to_string()),
            source: sources(parts),
            user_agent: agent
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default()
                .into(),
            received: Timestamp::now(),
            info: RequestInfo::new(&parts.method, &parts.uri),
            decision: OnceLock::new(),
            notes: Mutex::default(),
        }));
        parts.extensions.insert(span.clone());
        span
    }

    /// The notes of this request, when there are any.
    pub fn of(parts: &Parts) -> Option<&Span> {
        parts.extensions.get::<Span>()
    }

    fn level(&self) -> Level {
        self.0.decision.get().map_or(Level::None, |d| d.level)
    }

    /// The requester is known, and by that how much is written down.
    pub async fn authenticated(&self, who: &Identity) {
        let decision = self.0.audit.policy.decide(who, &self.0.info);
        if self.0.decision.set(decision).is_err() || decision.level == Level::None {
            return;
        }
        self.0.notes.lock().user = who.user_info();
        self.tell(Stage::RequestReceived).await;
    }

    /// The request is made in another's name.
    pub fn impersonated(&self, who: &Identity) {
        if self.level() > Level::None {
            self.0.notes.lock().impersonated = Some(who.user_info());
        }
    }

    /// The request's body.
    pub fn request(&self, headers: &HeaderMap, body: &Bytes) {
        if self.level() > Level::None && !body.is_empty() {
            self.0.notes.lock().request = Some(payload(headers, vec![body.clone()]));
        }
    }

    /// The answer before it is compressed.
    pub fn response(&self, response: &Response<Body>) {
        let status = matches!(response.status().as_u16(), 400..) || self.0.info.verb == "delete";
        let all = self.level() >= Level::RequestResponse;
        if self.level() == Level::None || !(all || status) {
            return;
        }
        let pieces = match response.body() {
            Body::Whole(b) => vec![b.clone()],
            Body::Items(items) => items.pieces(),
            Body::Chunks(chunks, _) => chunks.iter().cloned().collect(),
            Body::Stream(_) => return,
        };
        self.0.notes.lock().response = Some(payload(response.headers(), pieces));
    }

    /// Adds an annotation to the event; the first value of a key stays.
    pub fn annotate(&self, key: &str, value: &str) {
        if self.level() > Level::None {
            let annotations = &mut self.0.notes.lock().annotations;
            annotations
                .entry(key.into())
                .or_insert_with(|| value.into());
        }
    }

    /// The answer is on its way: tells of its end, or, for a stream, of its start, and of the end when that comes.
    pub async fn answered(&self, response: &mut Response<Body>, panicked: bool) {
        if self.0.decision.get().is_none() {
            // nobody knows who asked: written down as upstream does, for everybody's rules
            let decision = self
                .0
                .audit
                .policy
                .decide(&Identity::new("", &[]), &self.0.info);
            let _ = self.0.decision.set(decision);
            self.0.notes.lock().user = json!({});
        }
        if self.level() == Level::None {
            return;
        }
        let streams = self.0.info.is_long_running()
            && (matches!(response.body(), Body::Stream(_)) || response.status() == 101);
        let code = response.status().as_u16();
        if self.0.notes.lock().response.is_none() {
            self.response(response);
        }
        {
            let mut notes = self.0.notes.lock();
            notes.code = Some(code);
            // where nobody was asked, everybody may
            let decision = if code == 401 || code == 403 {
                "forbid"
            } else {
                "allow"
            };
            if !notes.annotations.contains_key(DECISION) {
                notes.annotations.insert(DECISION.into(), decision.into());
                notes.annotations.insert(REASON.into(), String::new());
            }
            notes.open = streams;
        }
        if panicked {
            return self.tell(Stage::Panic).await;
        }
        if !streams {
            return self.tell(Stage::ResponseComplete).await;
        }
        self.tell(Stage::ResponseStarted).await;
        let body = std::mem::replace(response.body_mut(), Body::empty());
        *response.body_mut() = match body {
            Body::Stream(stream) => {
                let span = self.clone();
                Body::Stream(Box::pin(stream.map(move |chunk| {
                    let _held = &span;
                    chunk
                })))
            }
            other => {
                // an upgraded connection outlives its response
                response.extensions_mut().insert(self.clone());
                other
            }
        };
    }

    async fn tell(&self, stage: Stage) {
        if let Some(record) = self.0.record(stage) {
            self.0.audit.put(record).await;
        }
    }
}

fn payload(headers: &HeaderMap, pieces: Vec<Bytes>) -> Payload {
    let content_type = headers.get(header::CONTENT_TYPE);
    Payload {
        content_type: content_type
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
            .into(),
        pieces,
    }
}

impl Inner {
    /// The event of a stage, unless it is left out.
    fn record(&self, stage: Stage) -> Option<Record> {
        let decision = self.decision.get().filter(|d| d.wants(stage))?;
        let notes = self.notes.lock();
        Some(Record {
            level: decision.level,
            stage,
            omit_managed_fields: decision.omit_managed_fields,
            id: self.id.clone(),
            uri: self.uri.clone(),
            info: self.info.clone(),
            user: notes.user.clone(),
            impersonated: notes.impersonated.clone(),
            source: self.source.clone(),
            user_agent: self.user_agent.clone(),
            code: notes.code,
            request: notes.request.clone(),
            response: notes.response.clone(),
            received: self.received,
            at: Timestamp::now(),
            annotations: notes.annotations.clone(),
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.notes.get_mut().open
            && let Some(record) = self.record(Stage::ResponseComplete)
        {
            self.audit.put_now(record);
        }
    }
}
