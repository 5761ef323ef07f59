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

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use serde_json::{Value, json};

    #[tokio::test]
    async fn a_flood_is_turned_away_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let api = crate::ApiServer::for_tests(dir.path());
        let client = api.client("admin", &["system:masters"], "test");
        let make = |plural: &str, body: Value| {
            let path = format!("/apis/flowcontrol.apiserver.k8s.io/v1/{plural}");
            let request = http::Request::post(path).header("content-type", "application/json");
            client.request::<Value>(request.body(body.to_string().into_bytes()).unwrap())
        };
        let queuing = json!({"queues": 64, "handSize": 2, "queueLengthLimit": 10});
        let limited = json!({"nominalConcurrencyShares": 1, "borrowingLimitPercent": 0,
            "limitResponse": {"type": "Queue", "queuing": queuing}});
        make(
            "prioritylevelconfigurations",
            json!({"metadata": {"name": "narrow"},
            "spec": {"type": "Limited", "limited": limited}}),
        )
        .await
        .unwrap();
        let all =
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]});
        let rule = json!({"subjects": [{"kind": "Group", "group": {"name": "crowd"}}], "resourceRules": [all]});
        make(
            "flowschemas",
            json!({"metadata": {"name": "narrow"}, "spec": {
            "priorityLevelConfiguration": {"name": "narrow"}, "matchingPrecedence": 500,
            "distinguisherMethod": {"type": "ByUser"}, "rules": [rule]}}),
        )
        .await
        .unwrap();
        let inner = &api.inner;
        // what the task that follows the objects does, at a time we know
        bootstrap(inner).await.unwrap();

        let uri = "/api/v1/namespaces/default/configmaps/a".parse().unwrap();
        let info = RequestInfo::new(&http::Method::GET, &uri);
        let query = Query::parse(None);
        let enter = |user: &str| {
            let who = Identity::new(user, &["crowd"]);
            let (info, query) = (&info, &query);
            Box::pin(async move { inner.fairness.enter(inner, &who, info, query).await })
        };
        let figures = || inner.fairness.configuration.load().levels["narrow"].figures();
        // 600 seats * 1 of 246 shares, rounded up
        let mut held = vec![];
        for _ in 0..3 {
            held.push(enter("elephant").await.ok());
        }
        assert_eq!((figures().limits.nominal, figures().executing), (3, 3));
        let mut flood: Vec<_> = (0..100).map(|_| enter("elephant")).collect();
        let at_once: Vec<_> = flood.iter_mut().map(|f| f.now_or_never()).collect();
        let refused: Vec<_> = at_once.iter().flatten().collect();
        // its two queues of ten are full
        assert_eq!((refused.len(), figures().waiting), (80, 20));
        assert!(
            refused
                .iter()
                .all(|r| matches!(r, Err(r) if r.status() == 429))
        );
        let waiting: Vec<_> = flood
            .into_iter()
            .zip(&at_once)
            .filter_map(|(f, done)| done.is_none().then_some(f))
            .collect();
        let mut mice: Vec<_> = (0..8).map(|n| enter(&format!("mouse-{n}"))).collect();
        assert!(mice.iter_mut().all(|m| m.now_or_never().is_none()));
        drop(held);
        let all = waiting.into_iter().chain(mice);
        let served = futures::future::join_all(all.map(|w| async { w.await.is_ok() })).await;
        assert_eq!(served, [true; 28]);
        assert_eq!((figures().executing, figures().waiting), (0, 0));
    }
}
