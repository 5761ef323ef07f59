//! API Priority and Fairness (KEP-1040): a flood by one client doesn't keep others from being served.
//!
//! A request is classified by the first FlowSchema that fits, takes seats of that schema's priority level for as long as
//! its answer's head takes, and waits in one of the level's queues while there are none ([`level`]). Long-running requests
//! other than watches take none, as upstream.

mod borrow;
mod defaults;
mod follow;
mod level;
mod matching;
mod metrics;
mod shares;

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use tokio::sync::Notify;

pub use defaults::mandatory;
pub use follow::{bootstrap, start};

use self::{
    level::{Level, Seat},
    matching::Spec,
    metrics::Counts,
};
use crate::{
    body::Body, identity::Identity, query::Query, request_info::RequestInfo, server::Inner,
};

/// Seats of the whole server (upstream's 400 for reading and 200 for writing).
const SEATS: u32 = 600;
/// Longest time a request waits for a seat (a quarter of upstream's request timeout).
const PATIENCE: Duration = Duration::from_secs(15);
/// A wait that shows that a level has too few seats.
const PRESSED: Duration = Duration::from_millis(100);
/// Objects that a list handles in one seat.
const OBJECTS_PER_SEAT: usize = 100;
/// Most seats of a request.
const SEATS_PER_REQUEST_MAX: u32 = 10;

const SCHEMA_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// A flow schema in use.
struct Schema {
    name: String,
    uid: String,
    spec: Spec,
    level: Arc<Level>,
    counts: Arc<Counts>,
}

/// The configuration in use: schemas in the order they are tried.
#[derive(Default)]
struct Configuration {
    schemas: Vec<Schema>,
    levels: HashMap<String, Arc<Level>>,
}

/// The server's fairness.
#[derive(Default)]
pub struct Fairness {
    configuration: ArcSwap<Configuration>,
    started: OnceLock<()>,
    /// somebody waits or borrows: seats are to be looked at
    pressure: Arc<Notify>,
}

/// What a request was found to be, and its seats.
pub struct Ticket {
    schema: HeaderValue,
    level: HeaderValue,
    _seat: Seat,
}

impl Ticket {
    /// Names the classification in the answer.
    pub fn mark(&self, response: &mut Response<Body>) {
        mark(&self.schema, &self.level, response);
    }
}

fn mark(schema: &HeaderValue, level: &HeaderValue, response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers.insert(SCHEMA_HEADER, schema.clone());
    headers.insert(LEVEL_HEADER, level.clone());
}

/// Not served for now.
fn too_many(schema: &HeaderValue, level: &HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::from(
        "Too many requests, please try again later.\n".to_string(),
    ));
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    for (name, value) in [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::RETRY_AFTER, "1"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    mark(schema, level, &mut response);
    response
}

impl Fairness {
    /// Seats for a request, when it needs any; Err is the answer to one that can't have them.
    pub async fn enter(
        &self,
        inner: &Inner,
        who: &Identity,
        info: &RequestInfo,
        query: &Query,
    ) -> Result<Option<Ticket>, Response<Body>> {
        if info.verb != "watch" && info.is_long_running() {
            return Ok(None);
        }
        let (level, counts, schema, hash) = {
            let configuration = self.configuration.load();
            let Some(s) = configuration
                .schemas
                .iter()
                .find(|s| s.spec.fits(who, info))
            else {
                return Ok(None); // a server without these kinds
            };
            let flow = s.spec.distinguisher(who, info);
            let mut hasher = std::hash::DefaultHasher::new();
            (s.name.as_str(), flow).hash(&mut hasher);
            let uid = HeaderValue::from_str(&s.uid);
            let uid = uid.unwrap_or_else(|_| HeaderValue::from_static(""));
            // fewer bits than there are, so that a hand is dealt evenly
            (s.level.clone(), s.counts.clone(), uid, hasher.finish() >> 4)
        };
        let level_uid =
            HeaderValue::from_str(&level.uid).unwrap_or_else(|_| HeaderValue::from_static(""));
        let seats = match info.verb.as_str() {
            "list" | "watch" => width(inner, info, query, &level),
            _ => 1,
        };
        let came = Instant::now();
        let entered = level.enter(hash, seats, PATIENCE).await;
        counts.note(came.elapsed(), entered.as_ref().err().copied());
        if entered.is_err() || came.elapsed() > PRESSED {
            self.pressure.notify_one();
        }
        match entered {
            Ok(seat) => Ok(Some(Ticket {
                schema,
                level: level_uid,
                _seat: seat,
            })),
            Err(_) => Err(too_many(&schema, &level_uid)),
        }
    }
}

/// Seats of a list, or of a watch that begins with one, by the number of objects it may give.
fn width(inner: &Inner, info: &RequestInfo, query: &Query, level: &Level) -> u32 {
    let initial = info.verb == "list"
        || query.flag("sendInitialEvents")
        || matches!(query.get("resourceVersion"), None | Some("" | "0"));
    if !info.is_resource || !info.name.is_empty() || !initial {
        return 1;
    }
    let most = level.seats_max().min(SEATS_PER_REQUEST_MAX);
    if most == 1 {
        return 1;
    }
    let limit = query
        .get("limit")
        .and_then(|n| n.parse().ok())
        .filter(|n| *n > 0);
    let enough = OBJECTS_PER_SEAT * most as usize;
    let bound = limit.unwrap_or(enough).min(enough);
    let Some(r) = inner
        .catalog()
        .find(&info.group, &info.version, &info.resource)
    else {
        return 1;
    };
    let prefix = crate::catalog::prefix(&r, &info.namespace);
    let objects = inner
        .store
        .snapshot()
        .range(&prefix, None)
        .take(bound)
        .count();
    (objects.div_ceil(OBJECTS_PER_SEAT) as u32).clamp(1, most)
}
