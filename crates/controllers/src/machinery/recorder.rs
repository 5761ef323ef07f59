//! Events on objects, for `kubectl describe`: best effort, bounded, repeated ones counted.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use serde_json::json;
use tokio::sync::mpsc;

use super::rest::{Ignored, Rest};
use crate::objects::meta::{Object, Reference, now, rfc3339};

/// Events waiting to be sent; above it they are dropped.
const WAITING_MAX: usize = 512;
/// Events remembered for counting.
const REMEMBERED_MAX: usize = 256;
/// Events per object at once, and one more each [`REFILL_S`] (upstream's spam filter).
const BURST: f64 = 25.0;
const REFILL_S: f64 = 300.0;

/// One event.
#[derive(PartialEq, Eq, Hash, Clone)]
struct Event {
    about: Reference,
    source: &'static str,
    kind: &'static str,
    reason: &'static str,
    message: String,
}

/// Takes events without waiting.
#[derive(Clone)]
pub struct Recorder {
    tx: mpsc::Sender<Event>,
}

/// Sends what a [`Recorder`] took.
pub struct Sending {
    rx: mpsc::Receiver<Event>,
}

/// The two ends.
pub fn recorder() -> (Recorder, Sending) {
    let (tx, rx) = mpsc::channel(WAITING_MAX);
    (Recorder { tx }, Sending { rx })
}

impl Recorder {
    /// Something went as it should.
    pub fn normal(
        &self,
        about: &impl Object,
        source: &'static str,
        reason: &'static str,
        message: String,
    ) {
        self.send(about.reference(), source, "Normal", reason, message);
    }
    /// Something to look at.
    pub fn warning(
        &self,
        about: &impl Object,
        source: &'static str,
        reason: &'static str,
        message: String,
    ) {
        self.send(about.reference(), source, "Warning", reason, message);
    }
    fn send(
        &self,
        about: Reference,
        source: &'static str,
        kind: &'static str,
        reason: &'static str,
        message: String,
    ) {
        // full: events are the first to go
        let _ = self.tx.try_send(Event {
            about,
            source,
            kind,
            reason,
            message,
        });
    }
}

struct Seen {
    path: String,
    count: u32,
}

impl Sending {
    /// Sends until dropped.
    pub async fn run(mut self, rest: Rest) {
        let mut seen: HashMap<Event, Seen> = HashMap::new();
        let mut order: VecDeque<Event> = VecDeque::new();
        let mut budgets: HashMap<Box<str>, (f64, Instant)> = HashMap::new();
        let mut serial = 0u32;
        while let Some(mut event) = self.rx.recv().await {
            if !allowed(&mut budgets, &event.about.uid) {
                continue;
            }
            let revision = std::mem::take(&mut event.about.resource_version);
            let at = rfc3339(now());
            if let Some(s) = seen.get_mut(&event) {
                s.count += 1;
                let patch = json!({"count": s.count, "lastTimestamp": at});
                match rest.merge::<Ignored>(&s.path, &patch).await {
                    Ok(_) => continue,
                    Err(e) if e.is_not_found() => {}
                    Err(_) => continue,
                }
            }
            let namespace: &str = if event.about.namespace.is_empty() {
                "default"
            } else {
                &event.about.namespace
            };
            serial = serial.wrapping_add(1);
            let nanos = jiff::Timestamp::now().as_nanosecond() as u64;
            let name = format!(
                "{}.{:016x}",
                event.about.name,
                nanos.wrapping_add(serial.into())
            );
            let mut about = event.about.clone();
            about.resource_version = revision;
            let body = json!({
                "apiVersion": "v1", "kind": "Event",
                "metadata": {"name": name, "namespace": namespace},
                "involvedObject": about,
                "reason": event.reason, "message": event.message, "type": event.kind,
                "source": {"component": event.source},
                "reportingComponent": event.source, "reportingInstance": "",
                "firstTimestamp": at, "lastTimestamp": at, "count": 1,
            });
            let collection = format!("/api/v1/namespaces/{namespace}/events");
            let path = format!("{collection}/{name}");
            match rest.create::<Ignored>(&collection, &body).await {
                Ok(_) => {
                    if seen
                        .insert(event.clone(), Seen { path, count: 1 })
                        .is_none()
                    {
                        order.push_back(event);
                    }
                    if order.len() > REMEMBERED_MAX
                        && let Some(old) = order.pop_front()
                    {
                        seen.remove(&old);
                    }
                }
                Err(e) => tracing::debug!(error = %e, "event not recorded"),
            }
        }
    }
}

fn allowed(budgets: &mut HashMap<Box<str>, (f64, Instant)>, uid: &str) -> bool {
    let now = Instant::now();
    if budgets.len() > REMEMBERED_MAX {
        budgets.retain(|_, (left, at)| *left + at.elapsed().as_secs_f64() / REFILL_S < BURST - 1.0);
        if budgets.len() > 4 * REMEMBERED_MAX {
            budgets.clear();
        }
    }
    let (left, at) = budgets.entry(uid.into()).or_insert((BURST, now));
    *left = (*left + now.duration_since(*at).as_secs_f64() / REFILL_S).min(BURST);
    *at = now;
    if *left < 1.0 {
        return false;
    }
    *left -= 1.0;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_object_has_its_budget() {
        let mut budgets = HashMap::new();
        assert_eq!((0..100).filter(|_| allowed(&mut budgets, "a")).count(), 25);
        assert!(allowed(&mut budgets, "b"));
    }
}
