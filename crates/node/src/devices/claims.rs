//! A Pod's claims: their devices made ready, found again, given back (`manager.go`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::{Container, Pod, PodResourceClaim},
    resource::v1::ResourceClaim,
};
use kube::Api;

use super::{
    Devices,
    plugins::{Claim, Plugin},
    record::Record,
};
use crate::{context::Context, volumes::READ_DEADLINE};

/// A driver that is gone is waited for so long when devices are given back; then that is tried again later.
const PATIENCE: Duration = Duration::from_secs(5);

/// The name of one of a Pod's claims, and whether it was made for the Pod; None: none is needed.
fn name<'a>(pod: &'a Pod, claim: &'a PodResourceClaim) -> Result<Option<(&'a str, bool)>, String> {
    if let Some(name) = &claim.resource_claim_name {
        return Ok(Some((name, false)));
    }
    let told = pod.status.as_ref();
    let told = told.and_then(|s| s.resource_claim_statuses.as_ref());
    let mut told = told.into_iter().flatten();
    match told.find(|s| s.name == claim.name) {
        Some(status) => Ok(status.resource_claim_name.as_deref().map(|n| (n, true))),
        None => Err(format!(
            "pod \"{}/{}\": ResourceClaim not created yet",
            pod.metadata.namespace.as_deref().unwrap_or_default(),
            pod.metadata.name.as_deref().unwrap_or_default()
        )),
    }
}

fn claims(pod: &Pod) -> impl Iterator<Item = &PodResourceClaim> {
    let spec = pod.spec.as_ref();
    spec.and_then(|s| s.resource_claims.as_ref())
        .into_iter()
        .flatten()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|e| format!("a file task failed: {e}"))?;
    done.map_err(|e| format!("checkpoint ResourceClaim state: {e}"))
}

/// What the claim is at first, if the Pod may use it.
fn fresh(pod: &Pod, claim: &ResourceClaim, made: bool) -> Result<Record, String> {
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    let (meta, of) = (&claim.metadata, &pod.metadata);
    let owners = meta.owner_references.iter().flatten();
    let mut managing = owners.filter(|o| o.controller == Some(true));
    if made && !managing.any(|o| Some(&o.uid) == of.uid.as_ref()) {
        return Err(format!(
            "ResourceClaim {}/{} was not created for Pod {}/{} (Pod is not owner)",
            text(&meta.namespace),
            text(&meta.name),
            text(&of.namespace),
            text(&of.name)
        ));
    }
    let status = claim.status.as_ref();
    let users = status.and_then(|s| s.reserved_for.as_ref());
    let mut users = users.into_iter().flatten();
    if !users.any(|u| Some(&u.uid) == of.uid.as_ref()) {
        return Err(format!(
            "pod {} ({}) is not allowed to use ResourceClaim {} ({})",
            text(&of.name),
            text(&of.uid),
            text(&meta.name),
            text(&meta.uid)
        ));
    }
    let allocation = status.and_then(|s| s.allocation.as_ref());
    let Some(allocation) = allocation else {
        return Err(format!("ResourceClaim {}: not allocated", text(&meta.name)));
    };
    let results = allocation.devices.as_ref().and_then(|d| d.results.as_ref());
    let drivers = results.into_iter().flatten().map(|r| r.driver.clone());
    Ok(Record {
        namespace: text(&meta.namespace),
        name: text(&meta.name),
        uid: text(&meta.uid),
        drivers: drivers.map(|name| (name, Vec::new())).collect(),
        ..Record::default()
    })
}

impl Record {
    fn claim(&self) -> Claim<'_> {
        Claim {
            namespace: &self.namespace,
            uid: &self.uid,
            name: &self.name,
        }
    }
}

impl Devices {
    /// Has the drivers make ready all that the Pod's claims have; running it again changes nothing.
    ///
    /// # Errors
    /// In upstream's words.
    pub(crate) async fn prepare(&self, context: &Context, pod: &Pod) -> Result<(), String> {
        if claims(pod).next().is_none() {
            return Ok(());
        }
        let prepared = self.prepare_all(context, pod).await;
        prepared.map_err(|e| format!("prepare dynamic resources: {e}"))
    }

    async fn prepare_all(&self, context: &Context, pod: &Pod) -> Result<(), String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<ResourceClaim> = Api::namespaced(context.client.clone(), namespace);
        let mut wanted: BTreeMap<String, (Record, BTreeMap<String, Plugin>)> = BTreeMap::new();
        for claim in claims(pod) {
            let Some((name, made)) = name(pod, claim)? else {
                continue;
            };
            let answer = tokio::time::timeout(READ_DEADLINE, api.get(name)).await;
            let found = match answer {
                Ok(Ok(found)) => found,
                Ok(Err(e)) => return Err(format!("fetch ResourceClaim {name}: {e}")),
                Err(_) => {
                    return Err(format!("fetch ResourceClaim {name}: no answer in time"));
                }
            };
            let record = fresh(pod, &found, made)?;
            // all are looked for before any is asked
            let mut plugins = BTreeMap::new();
            for driver in record.drivers.keys() {
                plugins.insert(driver.clone(), self.plugins.get(driver)?);
            }
            wanted.insert(record.uid.clone(), (record, plugins));
        }
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        for (record, plugins) in wanted.into_values() {
            self.prepare_one(record, &plugins, uid).await?;
        }
        Ok(())
    }

    async fn prepare_one(
        &self,
        fresh: Record,
        plugins: &BTreeMap<String, Plugin>,
        pod: &str,
    ) -> Result<(), String> {
        let lock = self.lock(&fresh.uid);
        let _one_at_a_time = lock.lock().await;
        let (folder, pod) = (self.folder.clone(), pod.to_owned());
        // Written down before a driver is asked.
        let noted = blocking(move || {
            let name = |r: &Record| (r.namespace.clone(), r.name.clone());
            let mut others = folder.all().into_iter();
            let other = others.find(|r| name(r) == name(&fresh) && r.uid != fresh.uid);
            if let Some(other) = other {
                return Ok(Err(format!(
                    "old ResourceClaim with same name {} and different UID {} still exists (previous pod force-deleted?!)",
                    other.name, other.uid
                )));
            }
            let mut record = folder.read(&fresh.uid).unwrap_or(fresh);
            if record.pods.insert(pod) || !record.prepared {
                folder.write(&record)?;
            }
            Ok(Ok(record))
        });
        let mut record = noted.await??;
        if record.prepared {
            return Ok(());
        }
        for driver in record.drivers.keys().cloned().collect::<Vec<_>>() {
            let plugin = match plugins.get(&driver) {
                Some(plugin) => plugin.clone(),
                None => self.plugins.get(&driver)?,
            };
            let devices = plugin.prepare(record.claim()).await?;
            record.drivers.insert(driver, devices);
        }
        record.prepared = true;
        let folder = self.folder.clone();
        blocking(move || folder.write(&record)).await
    }

    /// Gives back what the Pod has, unless another one here has it, too.
    ///
    /// # Errors
    /// When a driver isn't there or doesn't take it: what is left is known, and the next try goes on there.
    pub(crate) async fn give_back(&self, pod: &str) -> Result<(), String> {
        let folder = self.folder.clone();
        let all = blocking(move || Ok(folder.all())).await?;
        let mut result = Ok(());
        for record in all.into_iter().filter(|r| r.pods.contains(pod)) {
            if let Err(why) = self.give_back_one(&record.uid, pod).await {
                result = Err(format!("unprepare dynamic resources: {why}"));
            }
        }
        result
    }

    async fn give_back_one(&self, claim: &str, pod: &str) -> Result<(), String> {
        let lock = self.lock(claim);
        let _one_at_a_time = lock.lock().await;
        let (folder, uid, user) = (self.folder.clone(), claim.to_owned(), pod.to_owned());
        let last = blocking(move || {
            let Some(mut record) = folder.read(&uid) else {
                return Ok(None);
            };
            if record.pods.iter().any(|p| *p != user) {
                record.pods.remove(&user);
                folder.write(&record)?;
                return Ok(None);
            }
            // What is half given back is asked for again by the next who wants it.
            record.prepared = false;
            folder.write(&record)?;
            Ok(Some(record))
        });
        let Some(record) = last.await? else {
            return Ok(());
        };
        for driver in record.drivers.keys() {
            let plugin = self.plugins.find(driver, PATIENCE).await?;
            plugin.unprepare(record.claim()).await?;
        }
        let folder = self.folder.clone();
        blocking(move || folder.remove(&record.uid)).await
    }

    /// The edits of a container, by name: of all its claims, each once.
    ///
    /// # Errors
    /// When one of its claims isn't known yet.
    pub(super) fn edits_of(&self, pod: &Pod, container: &Container) -> Result<Vec<String>, String> {
        let mut all = Vec::new();
        let mut seen = BTreeSet::new();
        let resources = container.resources.as_ref();
        let wanted = resources.and_then(|r| r.claims.as_ref());
        for wanted in wanted.into_iter().flatten() {
            let Some(record) = self.record_for(pod, &wanted.name)? else {
                continue;
            };
            let concerned = record.devices(wanted.request.as_deref().unwrap_or_default());
            for edit in concerned.flat_map(|(_, device)| &device.cdi) {
                if seen.insert(edit.clone()) {
                    all.push(edit.clone());
                }
            }
        }
        Ok(all)
    }

    /// What is known of the claim that the Pod has under this name; None: it has none, or needs none.
    ///
    /// # Errors
    /// When it isn't known yet.
    pub(super) fn record_for(&self, pod: &Pod, wanted: &str) -> Result<Option<Record>, String> {
        let Some(claim) = claims(pod).find(|c| c.name == wanted) else {
            return Ok(None);
        };
        let Some((claim, _)) = name(pod, claim)? else {
            return Ok(None);
        };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let found = self.folder.of(namespace, claim, uid);
        found.map(Some).ok_or_else(|| {
            format!("unable to get claim info for ResourceClaim {claim} in namespace {namespace}")
        })
    }
}
