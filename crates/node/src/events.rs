//! Kubernetes Events as the kubelet writes them: aggregated by content, limited by rate, never in a Pod's way.
//!
//! Source: client-go `tools/record` (EventCorrelator): a repeat of the same event raises `count` instead of making another object; each involved object has a burst of 25 and then one every 5 minutes.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use tokio::sync::mpsc;

/// Events that wait to be written; more are dropped, as upstream does.
const QUEUE_MAX: usize = 512;
/// Remembered events and objects; older ones are forgotten.
const REMEMBERED_MAX: usize = 512;
/// Upstream's limit on an event's note.
const MESSAGE_BYTES_MAX: usize = 1024;
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

pub(crate) struct Note {
    pub object: ObjectReference,
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

/// Where the node's parts leave events. Cheap to clone; never waits.
#[derive(Clone)]
pub(crate) struct Events(mpsc::Sender<Note>);

impl Events {
    /// Starts the writer; it ends when the last handle is dropped.
    pub(crate) fn start(client: kube::Client, node: String) -> Events {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(write(client, node, receiver));
        Events(sender)
    }

    pub(crate) fn send(&self, mut note: Note) {
        if note.message.len() > MESSAGE_BYTES_MAX {
            let cut = note.message.floor_char_boundary(MESSAGE_BYTES_MAX - 3);
            note.message.truncate(cut);
            note.message.push_str("...");
        }
        if self.0.try_send(note).is_err() {
            tracing::debug!("event queue is full; an event was dropped");
        }
    }

    /// An event on a Pod, or on one of its containers (`spec.containers{name}`).
    pub(crate) fn pod(
        &self,
        pod: &Pod,
        field_path: Option<String>,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        let object = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path,
        };
        self.send(Note {
            object,
            warning,
            reason,
            message,
        });
    }
}

struct Known {
    name: String,
    count: i32,
    used: Instant,
}
struct Bucket {
    tokens: f64,
    at: Instant,
}

async fn write(client: kube::Client, node: String, mut notes: mpsc::Receiver<Note>) {
    let mut known: HashMap<u64, Known> = HashMap::new();
    let mut buckets: HashMap<u64, Bucket> = HashMap::new();
    while let Some(note) = notes.recv().await {
        let now = Instant::now();
        if !admitted(&mut buckets, hash(&note.object.uid), now) {
            continue;
        }
        let key = hash(&(
            &note.object.uid,
            &note.object.name,
            &note.object.field_path,
            note.reason,
            note.warning,
            &note.message,
        ));
        if let Err(error) = tokio::time::timeout(
            WRITE_DEADLINE,
            put(&client, &node, &mut known, key, note, now),
        )
        .await
        .unwrap_or_else(|_| Err("the API server did not answer in time".into()))
        {
            tracing::debug!(%error, "an event was not written");
        }
        forget(&mut known, |k| k.used);
        forget(&mut buckets, |b| b.at);
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn forget<T>(map: &mut HashMap<u64, T>, used: impl Fn(&T) -> Instant) {
    if map.len() <= REMEMBERED_MAX {
        return;
    }
    let mut times: Vec<Instant> = map.values().map(&used).collect();
    times.sort_unstable();
    let cut = times[times.len() / 2];
    map.retain(|_, v| used(v) > cut);
}

fn admitted(buckets: &mut HashMap<u64, Bucket>, key: u64, now: Instant) -> bool {
    let bucket = buckets.entry(key).or_insert(Bucket {
        tokens: BURST,
        at: now,
    });
    let gained = now.duration_since(bucket.at).as_secs_f64() * REFILL_PER_SECOND;
    bucket.tokens = (bucket.tokens + gained).min(BURST);
    bucket.at = now;
    if bucket.tokens < 1.0 {
        return false;
    }
    bucket.tokens -= 1.0;
    true
}

async fn put(
    client: &kube::Client,
    node: &str,
    known: &mut HashMap<u64, Known>,
    key: u64,
    note: Note,
    now: Instant,
) -> Result<(), String> {
    let namespace = note.object.namespace.as_deref().unwrap_or("default");
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let time = Time(jiff::Timestamp::now());
    if let Some(seen) = known.get_mut(&key) {
        let patch = serde_json::json!({"count": seen.count + 1, "lastTimestamp": time});
        let sent = api
            .patch(&seen.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        match sent {
            Ok(_) => {
                seen.count += 1;
                seen.used = now;
                return Ok(());
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                known.remove(&key);
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    let object_name = note.object.name.as_deref().unwrap_or("unknown");
    let name = format!("{object_name}.{:016x}", rand::random::<u64>());
    let event = Event {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        count: Some(1),
        first_timestamp: Some(time.clone()),
        last_timestamp: Some(time),
        involved_object: note.object,
        message: Some(note.message),
        reason: Some(note.reason.into()),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.into()),
        source: Some(EventSource {
            component: Some("kubelet".into()),
            host: Some(node.into()),
        }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(node.into()),
        ..Event::default()
    };
    api.create(&PostParams::default(), &event)
        .await
        .map_err(|e| e.to_string())?;
    known.insert(
        key,
        Known {
            name,
            count: 1,
            used: now,
        },
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_object_may_burst_and_then_waits() {
        let mut buckets = HashMap::new();
        let start = Instant::now();
        let passed = (0..100)
            .filter(|_| admitted(&mut buckets, 1, start))
            .count();
        assert_eq!(passed, 25);
        assert!(admitted(&mut buckets, 2, start), "another object");
        assert!(!admitted(&mut buckets, 1, start + Duration::from_secs(200)));
        assert!(admitted(&mut buckets, 1, start + Duration::from_secs(600)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut buckets = HashMap::new();
        let start = Instant::now();
        for i in 0..10_000u64 {
            admitted(&mut buckets, i, start + Duration::from_millis(i));
            forget(&mut buckets, |b| b.at);
        }
        assert!(buckets.len() <= REMEMBERED_MAX, "{}", buckets.len());
    }
}
