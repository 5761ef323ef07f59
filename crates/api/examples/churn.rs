//! An operator (kube-rs) under churn against any API server: is each write seen once, in order, and acted upon?
//!
//!     KUBECONFIG=… cargo run --release -p knarr-api --example churn -- MINUTES [WRITES_PER_SECOND]
//!
//! Eight writers create, change and delete ConfigMaps and objects of a CustomResourceDefinition and note what the server
//! acknowledged. A watch on each kind notes what it saw; an operator copies every custom object's `spec.n` to its
//! status. At the end the notes are compared. Exit code 1 when an event is missing, doubled or out of order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::StreamExt;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
    runtime::{WatchStreamExt, watcher, watcher::Event},
};
use parking_lot::Mutex;
use rand::Rng;
use serde_json::json;

const NAMESPACE: &str = "churn";
const WRITERS: usize = 8;
/// Names of each kind that one writer uses again and again.
const NAMES: usize = 25;
/// How long the operator and the watches may take to catch up at the end.
const SETTLE: Duration = Duration::from_secs(30);

/// What happened to an object: its revision, or its end.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Note {
    Written(u64),
    Deleted,
}
type Key = (String, String);
type Notes = Arc<Mutex<BTreeMap<Key, Vec<Note>>>>;

fn note(notes: &Notes, kind: &str, name: &str, note: Note) {
    let key = (kind.to_string(), name.to_string());
    notes.lock().entry(key).or_default().push(note);
}

fn revision(o: &DynamicObject) -> u64 {
    let version = o.metadata.resource_version.as_deref();
    version.and_then(|v| v.parse().ok()).unwrap_or(0)
}

fn name(o: &DynamicObject) -> &str {
    o.metadata.name.as_deref().unwrap_or("")
}

fn configmaps() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "ConfigMap"), "configmaps")
}
fn widgets() -> ApiResource {
    let kind = GroupVersionKind::gvk("churn.knarr.dev", "v1", "Widget");
    ApiResource::from_gvk_with_plural(&kind, "widgets")
}

async fn prepare(client: &Client) -> anyhow::Result<()> {
    let apply = PatchParams::apply("churn").force();
    let crds = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
        "customresourcedefinitions",
    );
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"n": {"type": "integer"}}},
        "status": {"type": "object", "properties": {"n": {"type": "integer"}}}}});
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.churn.knarr.dev"},
        "spec": {"group": "churn.knarr.dev", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": schema}}]}});
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &crds);
    all.patch("widgets.churn.knarr.dev", &apply, &Patch::Apply(crd))
        .await?;
    let namespaces = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("", "v1", "Namespace"),
        "namespaces",
    );
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &namespaces);
    all.patch(NAMESPACE, &apply, &Patch::Apply(namespace))
        .await?;
    let end = Instant::now() + SETTLE;
    for resource in [configmaps(), widgets()] {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource);
        loop {
            match api
                .delete_collection(&DeleteParams::default(), &Default::default())
                .await
            {
                Ok(_) => break,
                Err(e) if Instant::now() > end => return Err(e.into()),
                // the kind is not served yet
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }
    Ok(())
}

/// Notes what a watch sees; the operator acts upon it.
async fn observe(client: Client, resource: ApiResource, seen: Notes, written: Notes) {
    let api: Api<DynamicObject> = Api::namespaced_with(client, NAMESPACE, &resource);
    let mut relists = 0;
    let mut events =
        std::pin::pin!(watcher(api.clone(), watcher::Config::default()).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(o)) => {
                note(&seen, &resource.kind, name(&o), Note::Written(revision(&o)));
                operate(&api, &o, &written).await;
            }
            Ok(Event::Delete(o)) => note(&seen, &resource.kind, name(&o), Note::Deleted),
            Ok(Event::Init) => {
                relists += 1;
                if relists > 1 {
                    println!("{}: the watch had to list anew", resource.kind);
                }
            }
            Ok(_) => {}
            Err(e) => println!("{}: {e}", resource.kind),
        }
    }
}

async fn operate(api: &Api<DynamicObject>, o: &DynamicObject, written: &Notes) {
    let wanted = &o.data["spec"]["n"];
    if wanted.is_null() || o.data["status"]["n"] == *wanted {
        return;
    }
    let patch = Patch::Merge(
        json!({"metadata": {"resourceVersion": o.metadata.resource_version},
        "status": {"n": wanted}}),
    );
    // a conflict or a 404: the next event tells what is wanted now
    if let Ok(new) = api
        .patch_status(name(o), &PatchParams::default(), &patch)
        .await
    {
        note(written, "Widget", name(o), Note::Written(revision(&new)));
    }
}

async fn write(client: Client, me: usize, pause: Duration, stop: Arc<AtomicBool>, written: Notes) {
    let apis = [configmaps(), widgets()].map(|r| {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &r);
        (r, api)
    });
    let mut alive: BTreeSet<Key> = BTreeSet::new();
    let mut turn = tokio::time::interval(pause);
    let mut n = 0i64;
    while !stop.load(Ordering::Relaxed) {
        turn.tick().await;
        n += 1;
        let (resource, api) = &apis[rand::rng().random_range(0..2)];
        let object = format!("o-{me}-{}", rand::rng().random_range(0..NAMES));
        let key = (resource.kind.clone(), object.clone());
        let body = match resource.kind.as_str() {
            "ConfigMap" => json!({"data": {"n": n.to_string()}}),
            _ => json!({"spec": {"n": n}}),
        };
        if alive.insert(key.clone()) {
            let mut new = DynamicObject::new(&object, resource);
            new.data = body;
            match api.create(&PostParams::default(), &new).await {
                Ok(o) => note(
                    &written,
                    &resource.kind,
                    &object,
                    Note::Written(revision(&o)),
                ),
                Err(e) => println!("create {object}: {e}"),
            }
        } else if rand::rng().random_range(0..4) == 0 {
            match api.delete(&object, &DeleteParams::default()).await {
                Ok(_) => note(&written, &resource.kind, &object, Note::Deleted),
                Err(e) => println!("delete {object}: {e}"),
            }
            alive.remove(&key);
        } else {
            match api
                .patch(&object, &PatchParams::default(), &Patch::Merge(body))
                .await
            {
                Ok(o) => note(
                    &written,
                    &resource.kind,
                    &object,
                    Note::Written(revision(&o)),
                ),
                Err(e) => println!("patch {object}: {e}"),
            }
        }
    }
}

/// What the watch should have seen: the writes in the order of their revisions, ends where they were.
fn compare(written: &[Note], seen: &[Note]) -> Option<String> {
    let count = |notes: &[Note]| notes.iter().filter(|n| **n == Note::Deleted).count();
    let revisions = |notes: &[Note]| -> Vec<u64> {
        let of = |n: &Note| match n {
            Note::Written(r) => Some(*r),
            Note::Deleted => None,
        };
        notes.iter().filter_map(of).collect()
    };
    let (mut wanted, got) = (revisions(written), revisions(seen));
    wanted.sort_unstable();
    // a write that changed nothing has the revision before it and is no event
    wanted.dedup();
    if wanted != got {
        let missing = wanted.iter().filter(|r| !got.contains(r)).count();
        let more = got.len() + missing - wanted.len();
        return Some(format!(
            "{missing} missing, {more} too many or out of order"
        ));
    }
    (count(written) != count(seen))
        .then(|| format!("{} deletions, {} seen", count(written), count(seen)))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let minutes: f64 = args.next().unwrap_or_else(|| "1".into()).parse()?;
    let rate: f64 = args.next().unwrap_or_else(|| "200".into()).parse()?;
    let client = Client::try_default().await?;
    prepare(&client).await?;
    let (written, seen) = (Notes::default(), Notes::default());
    let watches: Vec<_> = [configmaps(), widgets()]
        .into_iter()
        .map(|r| tokio::spawn(observe(client.clone(), r, seen.clone(), written.clone())))
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let pause = Duration::from_secs_f64(WRITERS as f64 / rate);
    let writers: Vec<_> = (0..WRITERS)
        .map(|me| {
            tokio::spawn(write(
                client.clone(),
                me,
                pause,
                stop.clone(),
                written.clone(),
            ))
        })
        .collect();
    tokio::time::sleep(Duration::from_secs_f64(minutes * 60.0)).await;
    stop.store(true, Ordering::Relaxed);
    for w in writers {
        w.await?;
    }
    let differences = || -> Vec<String> {
        let (written, seen) = (written.lock(), seen.lock());
        let none = Vec::new();
        let of = |key: &Key| {
            let seen = seen.get(key).unwrap_or(&none);
            compare(&written[key], seen).map(|why| format!("{} {}: {why}", key.0, key.1))
        };
        written.keys().filter_map(of).collect()
    };
    let end = Instant::now() + SETTLE;
    while !differences().is_empty() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let api: Api<DynamicObject> = Api::namespaced_with(client, NAMESPACE, &widgets());
    let behind = api.list(&Default::default()).await?.items.into_iter();
    let behind = behind
        .filter(|o| o.data["status"]["n"] != o.data["spec"]["n"])
        .count();
    for w in &watches {
        w.abort();
    }
    let differences = differences();
    let total = |notes: &Notes| notes.lock().values().map(Vec::len).sum::<usize>();
    println!(
        "{} writes acknowledged, {} events seen, {} objects with differences, {behind} not acted upon",
        total(&written),
        total(&seen),
        differences.len()
    );
    for d in differences.iter().take(20) {
        println!("{d}");
    }
    anyhow::ensure!(
        differences.is_empty() && behind == 0,
        "events were missed or doubled"
    );
    Ok(())
}
