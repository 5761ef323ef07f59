//! `docker update` and `docker commit`.

use crate::{
    containers::Entry,
    create::wanted::{Wanted, object},
    daemon::Daemon,
    error::{Fault, Result, blocking},
    http::{self, Answer, Ask, Fields},
    images, lifecycle,
};
use ::http::StatusCode;
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// `POST /containers/{id}/update`: limits of memory and CPU at once, and what is to happen at its end.
pub async fn update(daemon: &Arc<Daemon>, reference: &str, mut ask: Ask) -> Result<Answer> {
    let asked = ask.object().await?;
    let entry = daemon.containers.find(reference)?;
    let mut record = entry.record.clone();
    let mut host = object(&record.body, "HostConfig");
    let mut f = Fields::new(asked.clone(), "UpdateConfig");
    for key in [
        "Memory",
        "MemoryReservation",
        "MemorySwap",
        "NanoCpus",
        "CpuPeriod",
        "CpuQuota",
        "CpuShares",
        "PidsLimit",
        "BlkioWeight",
    ] {
        if let Some(number) = f.int(key)? {
            host.insert(key.into(), json!(number));
        }
    }
    for key in ["CpusetCpus", "CpusetMems"] {
        if let Some(list) = f.text(key)? {
            host.insert(key.into(), json!(list));
        }
    }
    // one takes the other's place; SOURCE: moby `container.UpdateContainer`
    let cpus = |key: &str| asked.get(key).is_some_and(|v| !http::is_zero(v));
    if cpus("NanoCpus") {
        host.remove("CpuPeriod");
        host.remove("CpuQuota");
    } else if cpus("CpuQuota") || cpus("CpuPeriod") {
        host.remove("NanoCpus");
    }
    let policy = f.object("RestartPolicy")?;
    let policy_changes = policy
        .get("Name")
        .and_then(Value::as_str)
        .is_some_and(|n| !n.is_empty());
    if policy_changes {
        // SOURCE: moby `daemon/update.go`, `container.UpdateContainer`
        let none = matches!(policy.get("Name").and_then(Value::as_str), Some("no"));
        if !none && host.get("AutoRemove") == Some(&Value::Bool(true)) {
            return Err(Fault::conflict(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
        host.insert("RestartPolicy".into(), Value::Object(policy));
    }
    f.finish()?;
    record.body.insert("HostConfig".into(), Value::Object(host));
    let before = Wanted::read(&entry.record.body)?;
    let wanted = Wanted::read(&record.body)?;
    let mut warnings: Vec<String> = Vec::new();
    if lifecycle::active(entry.state().status) {
        let told =
            |why: String| Fault::conflict(format!("Cannot update container {}: {why}", record.id));
        if wanted.host.limits != before.host.limits {
            // first what the node adds to the Pod's own limits, then these
            let extras = changed(&entry, &wanted)?;
            let patch = json!({ "metadata": { "annotations": { crate::pod::EXTRAS: extras } } });
            daemon.patch(&entry, &patch).await?;
            let pod = daemon.pod_name(&entry);
            let memory = wanted.host.memory;
            let limited = daemon
                .machine
                .limit(&pod, memory, &wanted.host.limits)
                .await;
            limited.map_err(told)?;
        }
        let limits = crate::pod::limits(&wanted);
        if limits != crate::pod::limits(&before) {
            let patch = json!({ "spec": { "containers": [{ "name": crate::pod::CONTAINER, "resources": limits }] } });
            let done = daemon
                .pods()
                .patch_subresource(
                    "resize",
                    entry.pod_name(),
                    &PatchParams::default(),
                    &Patch::Strategic(&patch),
                )
                .await;
            done.map_err(|e| match e {
                kube::Error::Api(status) => told(status.message.clone()),
                e => e.into(),
            })?;
        }
        if wanted.host.restart != before.host.restart {
            warnings.push("the restart policy counts from the container's next start".into());
        }
        let entry = daemon.containers.find(&record.id)?;
        daemon.rewrite(&entry, &record).await?;
    } else {
        // Its next Pod, or the one that waits, is made of this.
        match entry.gated() {
            true => lifecycle::replace(daemon, &entry, record.clone()).await?,
            false => daemon.rewrite(&entry, &record).await?,
        }
    }
    daemon.tell("update", &entry, &[]);
    Ok(http::json(&json!({ "Warnings": warnings })))
}

/// The Pod's annotation with the limits as they are now.
fn changed(entry: &Entry, wanted: &Wanted) -> Result<String> {
    let annotations = entry.pod.metadata.annotations.as_ref();
    let text = annotations.and_then(|a| a.get(crate::pod::EXTRAS));
    let mut extras: Map<String, Value> = match text {
        Some(text) => serde_json::from_str(text)?,
        None => Map::new(),
    };
    wanted.host.limits.extras(&mut extras)?;
    Ok(Value::Object(extras).to_string())
}

/// `POST /commit`: a container's own layer on top of its image's.
pub async fn commit(daemon: &Arc<Daemon>, mut ask: Ask) -> Result<Answer> {
    let overrides = ask.object().await?;
    let query = ask.query.clone();
    let reference = query.get("container").unwrap_or_default().to_string();
    let entry = daemon.containers.find(&reference)?;
    let name = query.get("repo").map(|repo| match query.get("tag") {
        Some(tag) => format!("{repo}:{tag}"),
        None => repo.to_string(),
    });
    let (worker, record) = (daemon.clone(), entry.record.clone());
    let comment = query.get("comment").unwrap_or_default().to_string();
    let author = query.get("author").unwrap_or_default().to_string();
    let changes: Vec<String> = query
        .all("changes")
        .into_iter()
        .map(str::to_string)
        .collect();
    // what is wrong with them is the client's
    crate::images::change(&mut json!({}), &query.all("changes"))?;
    let id = blocking(move || {
        let temp = worker.temp()?;
        let mut config = record.body.clone();
        config.extend(overrides);
        let upper = worker.machine.layer(crate::NAMESPACE, &record.id);
        let snapshot = images::Snapshot {
            image: &record.image_name,
            upper: &upper,
            config,
            changes: &changes,
            author: &author,
            comment: &comment,
            temp: temp.path(),
        };
        let made = snapshot.commit(&worker.images, name.as_deref());
        made.map_err(Fault::server)
    })
    .await?;
    daemon.tell("commit", &entry, &[("imageID", id.clone())]);
    Ok(http::json_with(StatusCode::CREATED, &json!({ "Id": id })))
}
