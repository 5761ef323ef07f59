//! ResourceQuota: what is used, counted anew when something comes, goes or changes (`pkg/controller/resourcequota`).
//!
//! Admission adds to `status.used` what it lets in; here the truth is counted from the server's lists, in those namespaces alone that have a quota, so that no kind's contents need be kept in memory for it.

mod scope;
mod usage;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};

use self::{
    scope::Scope,
    usage::{Amounts, Counts, add, counts},
};
use crate::{
    error::Result,
    gc::{discovery::Resource, inventory::Inventory},
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        reflector::METADATA_LIST,
        rest::{Ignored, Rest},
        work::{Next, WORKERS, work},
    },
    objects::meta::{Key, Meta, Object, now, nullable, object},
};

use knarr_quantity::Quantity;

const NAME: &str = "resourcequota";
/// Changes come in groups.
const SETTLE: Duration = Duration::from_millis(20);
/// Objects per page of a list.
const PAGE: usize = 500;

/// `v1.ResourceQuota`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceQuota {
    metadata: Meta,
    spec: Spec,
    status: Status,
}
object!(ResourceQuota, "", "v1", "resourcequotas", "ResourceQuota");

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    #[serde(deserialize_with = "nullable")]
    hard: Amounts,
    #[serde(deserialize_with = "nullable")]
    scopes: Vec<Box<str>>,
    #[serde(deserialize_with = "nullable")]
    scope_selector: Selector,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Selector {
    #[serde(deserialize_with = "nullable")]
    match_expressions: Vec<Scope>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    hard: Option<Amounts>,
    used: Option<Amounts>,
}

/// After how many seconds a kind that the server didn't have is asked for again (upstream's full resync).
const RESYNC_S: i64 = 300;

struct Controller {
    rest: Rest,
    quotas: Arc<Cache<ResourceQuota>>,
    inventory: Arc<Inventory>,
    queue: Queue<Key>,
}

/// The resource quota controller.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    ctx.inventory_wanted();
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        quotas: ctx.caches.quotas.clone(),
        inventory: ctx.inventory.clone(),
        queue: Queue::default(),
    });
    let me = c.clone();
    c.quotas.on_change(move |old, new| {
        let Some(new) = new else { return };
        // what admission adds to the status is its own affair
        let same = old.is_some_and(|o| {
            o.spec.hard == new.spec.hard
                && o.spec.scopes == new.spec.scopes
                && o.spec.scope_selector.match_expressions
                    == new.spec.scope_selector.match_expressions
        });
        if !same || !is_current(new) {
            me.queue.add(new.metadata.key());
        }
    });
    let me = c.clone();
    c.inventory
        .on_count(move |resource, namespace| me.changed(namespace, resource));
    let me = c.clone();
    ctx.caches.pods.on_change(move |old, new| {
        if let (Some(old), Some(new)) = (old, new) {
            let ended = old.status.phase != new.status.phase;
            let leaving = old.metadata.deleting() != new.metadata.deleting();
            let resized = old.metadata.generation != new.metadata.generation;
            if ended || leaving || resized {
                me.recount(&new.metadata.namespace, |c| *c == Counts::Pods);
            }
        }
    });
    let me = c.clone();
    ctx.caches.services.on_change(move |old, new| {
        if let (Some(_), Some(new)) = (old, new) {
            me.recount(&new.metadata.namespace, |c| *c == Counts::Services);
        }
    });
    let me = c.clone();
    ctx.caches.claims.on_change(move |old, new| {
        if let (Some(_), Some(new)) = (old, new) {
            me.recount(&new.metadata.namespace, |c| *c == Counts::Claims);
        }
    });
    Box::pin(async move {
        c.quotas.synced().await;
        // before, a kind that is there would be taken for one that is not
        c.inventory.complete().await;
        work(NAME, &c.queue, WORKERS, |key| c.reconcile(key)).await;
    })
}

/// The status answers the spec.
fn is_current(quota: &ResourceQuota) -> bool {
    quota.status.hard.as_ref() == Some(&quota.spec.hard)
        && quota
            .status
            .used
            .as_ref()
            .is_some_and(|used| quota.spec.hard.keys().all(|name| used.contains_key(name)))
}

impl Controller {
    /// An object of a kind has come or gone.
    fn changed(&self, namespace: &str, resource: &Resource) {
        self.recount(namespace, |c| match c {
            Counts::Objects(name) => *resource.group_resource() == **name,
            kind => matches!(
                (kind, &*resource.group, &*resource.plural),
                (Counts::Pods, "", "pods")
                    | (Counts::Services, "", "services")
                    | (Counts::Claims, "", "persistentvolumeclaims")
                    | (Counts::Devices, "resource.k8s.io", "resourceclaims")
            ),
        });
    }
    fn recount(&self, namespace: &str, concerned: impl Fn(&Counts) -> bool) {
        let quotas = self.quotas.in_namespace(namespace, |q| {
            q.spec.hard.keys().any(|name| concerned(&counts(name)))
        });
        for quota in quotas {
            self.queue.add_after(quota.metadata.key(), SETTLE);
        }
    }

    async fn reconcile(&self, key: Key) -> Result<Next> {
        let Some(quota) = self.quotas.at(&key) else {
            return Ok(Next::Wait);
        };
        if quota.metadata.deleting() {
            return Ok(Next::Wait);
        }
        let (used, next) = self.used(&quota).await?;
        let same = quota.status.hard.as_ref() == Some(&quota.spec.hard)
            && quota.status.used.as_ref() == Some(&used);
        if !same {
            self.write(&quota, &used).await?;
        }
        Ok(next)
    }

    /// Counts; what can't be counted keeps the amount noted last. Also says when to look again.
    async fn used(&self, quota: &ResourceQuota) -> Result<(Amounts, Next)> {
        let namespace = &*quota.metadata.namespace;
        let mut used = quota.status.used.clone().unwrap_or_default();
        used.retain(|name, _| quota.spec.hard.contains_key(name));
        let mut next = Next::Wait;
        let mut groups: BTreeMap<Counts, BTreeSet<&str>> = BTreeMap::new();
        for name in quota.spec.hard.keys() {
            groups.entry(counts(name)).or_default().insert(name);
        }
        let scopes: Vec<Scope> = quota
            .spec
            .scopes
            .iter()
            .map(|s| Scope::named(s))
            .chain(quota.spec.scope_selector.match_expressions.iter().cloned())
            .collect();
        for (kind, names) in groups {
            let mut total: Amounts = Amounts::new();
            match kind {
                Counts::Pods => {
                    let now = now();
                    self.each("/api/v1", namespace, "pods", |pod| {
                        if !scopes.iter().all(|s| s.means_pod(&pod)) {
                            return;
                        }
                        add(&mut total, &usage::pod(&pod, now));
                        // a Pod that should have gone stops to count then, and nothing else says so
                        if let Some(at) = usage::overdue_at(&pod).filter(|at| *at >= now) {
                            next = next.sooner(Next::after_s(at - now + 1));
                        }
                    })
                    .await?;
                }
                Counts::Services => {
                    self.each("/api/v1", namespace, "services", |service| {
                        if scopes.is_empty() {
                            add(&mut total, &usage::service(&service));
                        }
                    })
                    .await?;
                }
                Counts::Claims => {
                    self.each("/api/v1", namespace, "persistentvolumeclaims", |claim| {
                        if scopes.iter().all(|s| s.means_claim(&claim)) {
                            add(&mut total, &usage::claim(&claim));
                        }
                    })
                    .await?;
                }
                Counts::Devices => {
                    self.each(
                        "/apis/resource.k8s.io/v1",
                        namespace,
                        "resourceclaims",
                        |claim| {
                            if scopes.is_empty() {
                                add(&mut total, &usage::devices(&claim));
                            }
                        },
                    )
                    .await?;
                }
                Counts::Objects(resource) => match self.count(namespace, resource).await? {
                    Some(n) => {
                        let n = if scopes.is_empty() { n } else { 0 };
                        total.extend(
                            names
                                .iter()
                                .map(|name| ((*name).into(), Quantity::whole(n))),
                        );
                    }
                    // a kind that the server doesn't have; it may come, and then its first object says so, or this
                    None => {
                        next = next.sooner(Next::after_s(RESYNC_S));
                        continue;
                    }
                },
            }
            for name in names {
                let amount = total.get(name).cloned().unwrap_or(Quantity::ZERO);
                used.insert(name.into(), amount);
            }
        }
        Ok((used, next))
    }

    async fn each(
        &self,
        base: &str,
        namespace: &str,
        plural: &str,
        mut f: impl FnMut(Value),
    ) -> Result<()> {
        #[derive(Deserialize)]
        struct List {
            metadata: ListMeta,
            #[serde(default, deserialize_with = "nullable")]
            items: Vec<Value>,
        }
        #[derive(Deserialize)]
        struct ListMeta {
            #[serde(rename = "continue", default)]
            next: Option<String>,
        }
        let path = format!("{base}/namespaces/{namespace}/{plural}?limit={PAGE}");
        let mut page = path.clone();
        loop {
            let list: List = self.rest.get(&page).await?;
            list.items.into_iter().for_each(&mut f);
            match list.metadata.next.filter(|n| !n.is_empty()) {
                Some(token) => page = format!("{path}&continue={token}"),
                None => return Ok(()),
            }
        }
    }

    /// How many objects there are of `resource.group`; None when there is no such kind.
    async fn count(&self, namespace: &str, group_resource: &str) -> Result<Option<i64>> {
        #[derive(Deserialize)]
        struct List {
            metadata: ListMeta,
            #[serde(default, deserialize_with = "nullable")]
            items: Vec<Ignored>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct ListMeta {
            #[serde(default)]
            remaining_item_count: Option<i64>,
        }
        let known = self.inventory.discovered.read().clone();
        let Some(resource) = known
            .resources
            .iter()
            .find(|r| r.namespaced && r.group_resource() == group_resource)
        else {
            return Ok(None);
        };
        let path = format!("{}?limit=1", resource.collection(namespace));
        match self.rest.get_as::<List>(&path, METADATA_LIST).await {
            Ok(l) => {
                let more = l.metadata.remaining_item_count.unwrap_or(0);
                Ok(Some(l.items.len() as i64 + more))
            }
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn write(&self, quota: &ResourceQuota, used: &Amounts) -> Result<()> {
        // Names that the spec no longer has are taken out.
        let with_removals = |new: &Amounts, old: Option<&Amounts>| {
            let gone = old.into_iter().flat_map(Amounts::keys);
            let gone = gone.filter(|k| !new.contains_key(*k));
            let gone = gone.map(|k| (k.to_string(), Value::Null));
            let there = new.iter().map(|(k, v)| (k.to_string(), json!(v)));
            there.chain(gone).collect::<serde_json::Map<_, _>>()
        };
        let patch = json!({
            "metadata": {"resourceVersion": quota.metadata.resource_version},
            "status": {
                "hard": with_removals(&quota.spec.hard, quota.status.hard.as_ref()),
                "used": with_removals(used, quota.status.used.as_ref()),
            },
        });
        let path = format!("{}/status", ResourceQuota::KIND.at(&quota.metadata));
        match self.rest.merge::<Ignored>(&path, &patch).await {
            Ok(_) => Ok(()),
            Err(e) if e.is_not_found() => Ok(()),
            Err(e) => Err(e),
        }
    }
}
