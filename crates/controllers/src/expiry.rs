//! Events go an hour after they were last written (`--event-ttl`). Nothing is kept in memory: the list says when the next is due, and no event can be due sooner.

use std::time::Duration;

use futures::future::BoxFuture;
use serde::Deserialize;

use crate::{
    error::Result,
    machinery::{
        context::Context,
        queue::BACKOFF_MAX,
        rest::{Delete, Rest},
    },
    objects::meta::{Meta, Seconds, now, nullable, time},
};

const NAME: &str = "eventexpiry";
const PATH: &str = "/api/v1/events";
/// How long an event stays, s.
const TTL_S: i64 = 3600;
/// Those that are due within this go together, s.
const TOGETHER_S: i64 = 60;
/// Objects per page of a list.
const PAGE: usize = 200;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Event {
    metadata: Meta,
    #[serde(deserialize_with = "time")]
    event_time: Option<Seconds>,
    #[serde(deserialize_with = "time")]
    last_timestamp: Option<Seconds>,
    series: Option<Series>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Series {
    #[serde(deserialize_with = "time")]
    last_observed_time: Option<Seconds>,
}

#[derive(Deserialize)]
struct List {
    metadata: ListMeta,
    #[serde(default, deserialize_with = "nullable")]
    items: Vec<Event>,
}
#[derive(Deserialize)]
struct ListMeta {
    #[serde(rename = "continue", default)]
    next: Option<String>,
}

/// When it goes: an hour after what it says last, but never later than an hour from now.
fn due(event: &Event, now: Seconds) -> Seconds {
    let series = event.series.as_ref().and_then(|s| s.last_observed_time);
    let last = [
        event.metadata.creation_timestamp,
        event.event_time,
        event.last_timestamp,
        series,
    ];
    let last = last.into_iter().flatten().max().unwrap_or(now);
    last.min(now) + TTL_S
}

/// The expiry of events.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let rest = ctx.rest(NAME);
    Box::pin(async move {
        loop {
            let pause = match sweep(&rest, now()).await {
                Ok(s) => Duration::from_secs(s.unsigned_abs()),
                Err(e) => {
                    tracing::debug!(error = %e, "events can't be expired now, trying again");
                    BACKOFF_MAX
                }
            };
            tokio::time::sleep(pause).await;
        }
    })
}

/// Deletes what is due; returns after how many s the next is.
async fn sweep(rest: &Rest, now: Seconds) -> Result<i64> {
    let mut next = now + TTL_S;
    let mut page = format!("{PATH}?limit={PAGE}");
    loop {
        let list: List = rest.get(&page).await?;
        for event in &list.items {
            let due = due(event, now);
            if due > now {
                next = next.min(due);
                continue;
            }
            let meta = &event.metadata;
            let path = format!("/api/v1/namespaces/{}/events/{}", meta.namespace, meta.name);
            let options = Delete::uid(&meta.uid).at(&meta.resource_version);
            match rest.delete(&path, &options).await {
                // written again meanwhile
                Err(e) if e.is_conflict() => {}
                other => other?,
            }
        }
        match list.metadata.next.filter(|n| !n.is_empty()) {
            Some(token) => page = format!("{PATH}?limit={PAGE}&continue={token}"),
            None => return Ok((next - now).max(TOGETHER_S)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::meta::rfc3339;
    use serde_json::{Value, json};

    const NOW: Seconds = 1_700_000_000;

    #[test]
    fn an_hour_after_the_last() {
        let check = |event: Value, want: i64| {
            let event: Event = serde_json::from_value(event).unwrap();
            assert_eq!(due(&event, NOW) - NOW, want, "{event:?}");
        };
        let ago = |s: i64| rfc3339(NOW - s);
        check(json!({"metadata":{"creationTimestamp":ago(4000)}}), -400);
        let seen = json!({"metadata":{"creationTimestamp":ago(4000)},"lastTimestamp":ago(100)});
        check(seen, 3500);
        let series = json!({"metadata":{"creationTimestamp":ago(4000)},"eventTime":ago(3900),
            "series":{"lastObservedTime":ago(10)}});
        check(series, 3590);
        check(json!({"metadata":{"creationTimestamp":ago(-500)}}), 3600);
    }
}
