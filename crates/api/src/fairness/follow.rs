//! From the objects in the store to the configuration in use, and back to their status.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use knarr_store::Cursor;
use serde_json::{Value, json};

use super::{
    Configuration, SEATS, Schema, borrow, defaults,
    level::{Kind, Level, Limits},
    matching::Spec,
};
use crate::{
    bootstrap, catalog,
    object::{self, meta},
    own::change_if_there,
    registry::Handle,
    server::Inner,
    status::Failure,
    write::Part,
};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const PREFIX: &str = "/registry/flowcontrol.apiserver.k8s.io/";
const MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";
const BATCH: usize = 256;

/// Makes what every cluster has, and takes the configuration into use.
pub async fn bootstrap(inner: &Inner) -> Result<(), Failure> {
    let Some((levels, schemas)) = resources(inner) else {
        return Ok(());
    };
    // at once: their commits share a flush
    let levels = defaults::levels()
        .into_iter()
        .map(|o| keep(inner, &levels, o));
    let schemas = defaults::schemas()
        .into_iter()
        .map(|o| keep(inner, &schemas, o));
    futures::try_join!(
        futures::future::try_join_all(levels),
        futures::future::try_join_all(schemas)
    )?;
    load(inner).await;
    Ok(())
}

/// Follows the objects from now on, once; within a tokio runtime.
pub fn start(inner: &Arc<Inner>) {
    inner.fairness.started.get_or_init(|| {
        tokio::spawn(run(Arc::downgrade(inner)));
        tokio::spawn(borrow::run(Arc::downgrade(inner)));
    });
}

fn resources(inner: &Inner) -> Option<(Handle, Handle)> {
    let catalog = inner.catalog();
    let levels = catalog.preferred(GROUP, "prioritylevelconfigurations")?;
    Some((levels, catalog.preferred(GROUP, "flowschemas")?))
}

async fn run(inner: Weak<Inner>) {
    loop {
        let Some((cursor, stopping)) = begin(&inner) else {
            return;
        };
        let mut cursor: Cursor = cursor;
        // what was written before the cursor began
        renew(&inner).await;
        loop {
            let events = tokio::select! {
                events = cursor.next(BATCH) => events,
                () = stopping.cancelled() => return,
            };
            renew(&inner).await;
            if events.is_err() {
                break; // the ring has moved on: look at it anew
            }
        }
    }
}

async fn renew(inner: &Weak<Inner>) {
    if let Some(inner) = inner.upgrade()
        && let Err(f) = bootstrap(&inner).await
    {
        tracing::warn!("priority and fairness: {}", f.message());
    }
}

fn begin(inner: &Weak<Inner>) -> Option<(Cursor, tokio_util::sync::CancellationToken)> {
    let inner = inner.upgrade().filter(|i| !i.stopping.is_cancelled())?;
    let from = inner.store.snapshot().revision();
    let cursor = inner.store.watch(PREFIX, from).ok()?;
    Some((cursor, inner.stopping.clone()))
}

/// Makes a default object when it is missing; brings its spec up to date while it says that it wants that.
async fn keep(inner: &Inner, r: &Handle, wanted: Value) -> Result<(), Failure> {
    let name = meta(&wanted, "name").to_string();
    let live = match inner.store.snapshot().get(&catalog::key(r, "", &name)) {
        Some(entry) => object::parse(&entry.value)?,
        None => return bootstrap::ensure(inner, r, "", wanted).await,
    };
    let follows = live["metadata"]["annotations"][defaults::AUTO_UPDATE] == "true";
    if !follows || live["spec"] == wanted["spec"] {
        return Ok(());
    }
    change_if_there(inner, r, ("", &name), Part::Main, MANAGER, |o| {
        o["spec"] = wanted["spec"].clone()
    })
    .await
}

/// Takes the objects into use, and tells the schemas whether their level is there.
async fn load(inner: &Inner) {
    let Some((levels, schemas)) = resources(inner) else {
        return;
    };
    let all = |r: &Handle| -> Vec<Value> {
        let snapshot = inner.store.snapshot();
        snapshot
            .range(&catalog::prefix(r, ""), None)
            .filter_map(|e| object::parse(&e.value).ok())
            .collect()
    };
    let (level_objects, schema_objects) = (all(&levels), all(&schemas));
    let old = inner.fairness.configuration.load_full();
    let levels_in_use = configure(&old, level_objects);
    let new = Configuration {
        schemas: sorted(&old, &schema_objects, &levels_in_use),
        levels: levels_in_use,
    };
    let missing: Vec<(String, String, bool)> = schema_objects
        .iter()
        .filter_map(|o| {
            let level = o["spec"]["priorityLevelConfiguration"]["name"].as_str()?;
            let dangling = !new.levels.contains_key(level);
            (!says(o, level, dangling)).then(|| (meta(o, "name").into(), level.into(), dangling))
        })
        .collect();
    inner.fairness.configuration.store(Arc::new(new));
    let told = missing
        .iter()
        .map(|(name, level, dangling)| tell(inner, &schemas, name, level, *dangling));
    futures::future::join_all(told).await;
}

/// Writes whether a schema's level is there.
async fn tell(inner: &Inner, r: &Handle, name: &str, level: &str, dangling: bool) {
    let condition = condition(level, dangling);
    let told = change_if_there(inner, r, ("", name), Part::Status, MANAGER, |o| {
        o["status"]["conditions"] = json!([condition]);
    });
    if let Err(f) = told.await {
        tracing::warn!("the status of FlowSchema {name}: {}", f.message());
    }
}

fn condition(level: &str, dangling: bool) -> Value {
    let (status, reason, rest) = match dangling {
        true => ("True", "NotFound", "but there is no such object"),
        false => ("False", "Found", "and it exists"),
    };
    json!({
        "type": "Dangling", "status": status, "reason": reason, "lastTransitionTime": object::now(),
        "message": format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {rest}"),
    })
}

/// The status is right already.
fn says(o: &Value, level: &str, dangling: bool) -> bool {
    let wanted = condition(level, dangling);
    let all = o["status"]["conditions"].as_array().into_iter().flatten();
    let mut found = all.filter(|c| c["type"] == "Dangling");
    found.any(|c| {
        ["status", "reason", "message"]
            .iter()
            .all(|k| c[k] == wanted[k])
    })
}

/// Levels by name: those there are go on with their requests.
fn configure(old: &Configuration, mut objects: Vec<Value>) -> HashMap<String, Arc<Level>> {
    for wanted in defaults::levels()
        .into_iter()
        .take(defaults::MANDATORY.len())
    {
        if !objects
            .iter()
            .any(|o| meta(o, "name") == meta(&wanted, "name"))
        {
            objects.push(wanted);
        }
    }
    // requests of one that is gone hold it until they are done
    let name = |o: &Value| meta(o, "name").to_string();
    let number = |o: &Value, p: &str| o.pointer(p).and_then(Value::as_u64).unwrap_or(0);
    let shares_of = |o: &Value| {
        let kind = if o["spec"]["type"] == "Exempt" {
            "exempt"
        } else {
            "limited"
        };
        (
            kind,
            number(o, &format!("/spec/{kind}/nominalConcurrencyShares")),
        )
    };
    let sum: u64 = objects.iter().map(|o| shares_of(o).1).sum();
    let mut levels = HashMap::new();
    for o in &objects {
        let (kind, shares) = shares_of(o);
        let nominal = (u64::from(SEATS) * shares).div_ceil(sum.max(1)) as u32;
        let percent = |key: &str| o["spec"][kind][key].as_u64();
        let part = |p: u64| (f64::from(nominal) * p as f64 / 100.0).round() as u32;
        let limits = Limits {
            nominal,
            lower: nominal - part(percent("lendablePercent").unwrap_or(0)).min(nominal),
            upper: nominal + percent("borrowingLimitPercent").map_or(SEATS, part),
        };
        let queuing = "/spec/limited/limitResponse/queuing";
        let size = |key: &str| number(o, &format!("{queuing}/{key}")) as usize;
        let behaviour = match (kind, o.pointer(queuing)) {
            ("exempt", _) => Kind::Exempt,
            (_, Some(q)) if q.is_object() => Kind::Queue {
                queues: size("queues").max(1),
                hand: size("handSize").max(1),
                length: size("queueLengthLimit"),
            },
            _ => Kind::Reject,
        };
        let uid = meta(o, "uid");
        let level = match old.levels.get(&name(o)).filter(|l| l.uid == uid) {
            Some(level) => {
                level.configure(behaviour, limits);
                level.clone()
            }
            None => Arc::new(Level::new(&name(o), uid, behaviour, limits)),
        };
        levels.insert(name(o), level);
    }
    levels
}

/// Schemas whose level is there, in the order they are tried: by precedence, then by name.
fn sorted(
    old: &Configuration,
    objects: &[Value],
    levels: &HashMap<String, Arc<Level>>,
) -> Vec<Schema> {
    let mut imagined = defaults::schemas();
    imagined.truncate(defaults::MANDATORY.len());
    imagined.retain(|w| !objects.iter().any(|o| meta(o, "name") == meta(w, "name")));
    let mut all: Vec<Schema> = objects
        .iter()
        .chain(&imagined)
        .filter_map(|o| {
            // what validation has let in can be read
            let spec: Spec = serde_json::from_value(o["spec"].clone()).ok()?;
            let level = levels.get(&spec.priority_level_configuration.name)?.clone();
            let name = meta(o, "name").to_string();
            let before = old
                .schemas
                .iter()
                .find(|s| s.name == name && s.level.name == level.name);
            Some(Schema {
                uid: meta(o, "uid").into(),
                counts: before.map(|s| s.counts.clone()).unwrap_or_default(),
                name,
                spec,
                level,
            })
        })
        .collect();
    all.sort_by(|a, b| {
        let key = |s: &Schema| s.spec.matching_precedence;
        key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
    });
    all
}
