//! From APIServices, Services and their endpoints to who answers what, and back to the APIServices' status.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Remote, Remotes,
    check::{self, Finding},
    register,
};
use crate::{
    catalog, kinds::apiservices::is_local, object, own::change_if_there, registry::Handle,
    server::Inner, status::Failure, write::Part,
};

pub const MANAGER: &str = "kube-aggregator";
const SERVICES: &str = "/registry/apiregistration.k8s.io/apiservices/";
const BEHIND: [&str; 2] = [
    "/registry/core/services/",
    "/registry/discovery.k8s.io/endpointslices/",
];
const BATCH: usize = 256;
/// Servers asked at a time.
const CHECKS: usize = 8;
/// A server that answers is asked again after this.
const AGAIN: Duration = Duration::from_secs(30);
/// One that doesn't, after this, and after twice as long each time until it is as long as that.
const SOON: Duration = Duration::from_millis(500);
/// Changes of endpoints come in bursts.
const CALM: Duration = Duration::from_millis(50);

/// Follows the objects from now on, once; within a tokio runtime.
pub fn start(inner: &Arc<Inner>) {
    inner.aggregation.started.get_or_init(|| {
        tokio::spawn(run(Arc::downgrade(inner)));
    });
}

fn resource(inner: &Inner) -> Option<Handle> {
    inner
        .catalog()
        .preferred("apiregistration.k8s.io", "apiservices")
}

async fn run(weak: Weak<Inner>) {
    let Some((stopping, changed)) = weak
        .upgrade()
        .map(|i| (i.stopping.clone(), i.aggregation.changed.clone()))
    else {
        return;
    };
    loop {
        let cursors = {
            let Some(inner) = weak.upgrade().filter(|_| !stopping.is_cancelled()) else {
                return;
            };
            if resource(&inner).is_none() {
                return;
            }
            let from = inner.store.snapshot().revision();
            let watch = |prefix| inner.store.watch(prefix, from).ok();
            (watch(SERVICES), watch(BEHIND[0]), watch(BEHIND[1]))
        };
        let (Some(mut services), Some(mut behind), Some(mut slices)) = cursors else {
            continue; // the ring has moved on meanwhile
        };
        let mut pause = SOON;
        let mut register = true;
        loop {
            let some = {
                let Some(inner) = weak.upgrade() else {
                    return;
                };
                if register && let Err(f) = renew(&inner).await {
                    tracing::warn!("registering APIServices: {}", f.message());
                }
                let remotes = load(&inner);
                let failing = look(&inner, &remotes).await;
                pause = match failing {
                    true => (pause * 2).min(AGAIN),
                    false => SOON,
                };
                !remotes.is_empty()
            };
            let failing = pause > SOON;
            let next = Instant::now() + if failing { pause / 2 } else { AGAIN };
            match event(
                &changed,
                &stopping,
                &mut services,
                &mut behind,
                &mut slices,
                some,
                next,
            )
            .await
            {
                Woken::Stop => return,
                Woken::Behind => break,
                Woken::Objects => register = true,
                Woken::Check => register = false,
            }
        }
    }
}

enum Woken {
    /// APIServices, or what this server serves, have changed
    Objects,
    /// it is time to ask the servers
    Check,
    /// the cursor fell behind
    Behind,
    Stop,
}

async fn event(
    changed: &Notify,
    stopping: &CancellationToken,
    services: &mut knarr_store::Cursor,
    behind: &mut knarr_store::Cursor,
    slices: &mut knarr_store::Cursor,
    remotes: bool,
    next: Instant,
) -> Woken {
    let woken = tokio::select! {
        events = services.next(BATCH) => match events {
            Ok(_) => Woken::Objects,
            Err(_) => Woken::Behind,
        },
        () = changed.notified() => Woken::Objects,
        events = behind.next(BATCH), if remotes => match events {
            Ok(_) => Woken::Check,
            Err(_) => Woken::Behind,
        },
        events = slices.next(BATCH), if remotes => match events {
            Ok(_) => Woken::Check,
            Err(_) => Woken::Behind,
        },
        () = tokio::time::sleep_until(next), if remotes => return Woken::Check,
        () = stopping.cancelled() => return Woken::Stop,
    };
    tokio::select! {
        () = tokio::time::sleep(CALM) => woken,
        () = stopping.cancelled() => Woken::Stop,
    }
}

async fn renew(inner: &Arc<Inner>) -> Result<(), Failure> {
    match resource(inner) {
        Some(r) => register::run(inner, &r).await,
        None => Ok(()),
    }
}

/// Takes the APIServices into use.
fn load(inner: &Arc<Inner>) -> Arc<Remotes> {
    let Some(r) = resource(inner) else {
        return Arc::default();
    };
    let objects: Vec<Value> = {
        let snapshot = inner.store.snapshot();
        let prefix = catalog::prefix(&r, "");
        let all = snapshot.range(&prefix, None);
        all.filter_map(|e| object::parse(&e.value).ok())
            .filter(|o| !is_local(o))
            .collect()
    };
    let remotes = Arc::new(Remotes::new(inner, &inner.aggregation.remotes(), &objects));
    inner.aggregation.remotes.store(remotes.clone());
    remotes
}

/// Asks every server; true when one can't be used.
async fn look(inner: &Arc<Inner>, remotes: &Remotes) -> bool {
    let all: Vec<Arc<Remote>> = remotes.iter().cloned().collect();
    let mut findings = futures::stream::iter(all)
        .map(|remote| async move {
            let finding = check::check(inner, &remote).await;
            (remote, finding)
        })
        .buffer_unordered(CHECKS);
    let mut failing = false;
    while let Some((remote, finding)) = findings.next().await {
        let available = finding.status == "True";
        failing |= !available;
        remote.set_available(available);
        if let Err(f) = tell(inner, &remote.name, &finding).await {
            tracing::warn!("the status of APIService {}: {}", remote.name, f.message());
        }
    }
    failing
}

async fn tell(inner: &Inner, name: &str, finding: &Finding) -> Result<(), Failure> {
    let Some(r) = resource(inner) else {
        return Ok(());
    };
    change_if_there(inner, &r, ("", name), Part::Status, MANAGER, |o| {
        let mut condition = json!({
            "type": "Available", "status": finding.status, "reason": finding.reason,
            "message": finding.message, "lastTransitionTime": object::now(),
        });
        let mut list = o["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        match list.iter_mut().find(|c| c["type"] == "Available") {
            Some(old) => {
                if old["status"] == condition["status"] {
                    condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
                }
                *old = condition;
            }
            None => list.push(condition),
        }
        o["status"]["conditions"] = list.into();
    })
    .await
}
