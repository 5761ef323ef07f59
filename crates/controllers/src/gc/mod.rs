//! Garbage collection: what nobody owns any more goes (`pkg/controller/garbagecollector`).

pub mod discovery;
mod graph;
pub mod inventory;

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::json;

use self::{
    discovery::{ByKind, Resource},
    graph::{FOREGROUND, Node, ORPHAN, Uid},
    inventory::Inventory,
};
use crate::{
    error::{Error, Result},
    machinery::{
        context::Context,
        reflector::METADATA_ONLY,
        rest::{Delete, Rest},
        work::{Next, WORKERS, work},
    },
    objects::meta::{Meta, OwnerRef},
};

const NAME: &str = "garbagecollector";

/// When an owner is asked for again that is there, but hasn't been seen yet.
const UNSEEN: Next = Next::After(Duration::from_secs(1));

#[derive(Deserialize)]
struct Partial {
    metadata: Meta,
}

struct Collector {
    rest: Rest,
    inventory: Arc<Inventory>,
}

/// How an owner stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// it's there
    Solid,
    /// it's there, but its watch has not shown it yet: should it go before that, nothing will tell
    Unseen,
    /// it isn't
    Absent,
    /// it's there, and waits for its dependents to go
    Waiting,
}

/// The garbage collector.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    ctx.inventory_wanted();
    let c = Collector {
        rest: ctx.rest(NAME),
        inventory: ctx.inventory.clone(),
    };
    Box::pin(async move {
        c.inventory.complete().await;
        work(NAME, &c.inventory.queue, WORKERS, |uid| c.visit(uid)).await;
    })
}

impl Collector {
    async fn visit(&self, uid: Uid) -> Result<Next> {
        // while a kind is unknown its objects may be someone's dependents
        self.inventory.complete().await;
        let Some(node) = self.inventory.graph.lock().get(&uid).cloned() else {
            return Ok(Next::Wait);
        };
        let Some(resource) = node.resource.clone() else {
            return self.verify(&uid, &node).await;
        };
        if node.deleting && node.orphan {
            return self.let_go(&uid, &node, &resource).await;
        }
        if node.deleting && node.foreground {
            return self.foreground(&uid, &node, &resource).await;
        }
        if node.deleting || node.owners.is_empty() {
            return Ok(Next::Wait);
        }
        self.judge(&uid, &node, &resource).await
    }

    /// Is someone who is named as an owner there?
    async fn verify(&self, uid: &Uid, node: &Node) -> Result<Next> {
        let Some(owner) = &node.referred else {
            return Ok(Next::Wait);
        };
        match self.ask(owner, &node.namespace).await? {
            Standing::Absent => self.inventory.never_was(uid),
            Standing::Unseen => return Ok(UNSEEN),
            Standing::Solid | Standing::Waiting => {}
        }
        Ok(Next::Wait)
    }

    /// Asks the server how an owner stands that someone in a namespace names; it is looked for there, or in the cluster's scope.
    async fn ask(&self, owner: &OwnerRef, namespace: &str) -> Result<Standing> {
        let resource = self.resource(owner).await?;
        if resource.namespaced && namespace.is_empty() {
            // No such owner can be looked up, and what can't be looked up isn't gone.
            tracing::debug!(
                owner = %owner.name,
                "an object of the cluster's scope names an owner in a namespace, which means nothing"
            );
            return Ok(Standing::Solid);
        }
        let live = self.live(&resource, namespace, &owner.name).await?;
        Ok(match live {
            Some(meta) if meta.uid != owner.uid => Standing::Absent,
            Some(meta) if meta.deleting() && meta.finalizers.iter().any(|f| &**f == FOREGROUND) => {
                Standing::Waiting
            }
            Some(_) if resource.watchable => Standing::Unseen,
            Some(_) => Standing::Solid,
            None => Standing::Absent,
        })
    }

    async fn resource(&self, owner: &OwnerRef) -> Result<Arc<Resource>> {
        let known = self
            .inventory
            .kinds
            .read()
            .get(&owner.api_version, &owner.kind);
        if let Some(r) = known {
            return Ok(r);
        }
        let more = ByKind::ask(&self.rest, &owner.api_version).await?;
        let mut kinds = self.inventory.kinds.write();
        kinds.learn(more);
        kinds
            .get(&owner.api_version, &owner.kind)
            .ok_or_else(|| {
                // never guess that it's gone: the kind may come back
                Error::Other(format!(
                    "an owner is of the unknown kind {} {}; if that kind was removed for good, remove the ownerReference",
                    owner.api_version, owner.kind
                ))
            })
    }

    async fn live(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Option<Meta>> {
        match self
            .rest
            .get_as::<Partial>(&resource.path(namespace, name), METADATA_ONLY)
            .await
        {
            Ok(p) => Ok(Some(p.metadata)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// An object with owners: it stays while one of them does.
    async fn judge(&self, uid: &Uid, node: &Node, resource: &Resource) -> Result<Next> {
        let Some(mut live) = self.live(resource, &node.namespace, &node.name).await? else {
            // its watch will say so, unless it never was (a reference with a wrong uid)
            return Ok(Next::Wait);
        };
        if *live.uid != **uid || live.deleting() {
            return Ok(Next::Wait);
        }
        let mut standings = Vec::with_capacity(live.owner_references.len());
        for owner in &live.owner_references {
            standings.push(self.standing(owner, &live.namespace).await?);
        }
        let any = |s: Standing| standings.contains(&s);
        if standings.is_empty() {
            return Ok(Next::Wait);
        }
        if any(Standing::Solid) || any(Standing::Unseen) {
            if any(Standing::Absent) || any(Standing::Waiting) {
                let stay: Vec<_> = live
                    .owner_references
                    .iter()
                    .zip(&standings)
                    .filter(|(_, s)| matches!(s, Standing::Solid | Standing::Unseen))
                    .map(|(o, _)| o)
                    .collect();
                self.patch(resource, &live, json!({"ownerReferences": stay}))
                    .await?;
            }
            return Ok(if any(Standing::Unseen) {
                UNSEEN
            } else {
                Next::Wait
            });
        }
        let (waits, circular) = {
            let graph = self.inventory.graph.lock();
            let waits = any(Standing::Waiting) && !graph.dependents(uid).is_empty();
            (waits, waits && graph.may_be_circular(uid))
        };
        if circular {
            // Its owners no longer wait for it, so that one link of the circle gives.
            for owner in &mut live.owner_references {
                owner.block_owner_deletion = false;
            }
            let patch = json!({"ownerReferences": live.owner_references});
            match self.patch(resource, &live, patch).await? {
                Some(unblocked) => live = unblocked,
                None => return Ok(Next::Wait),
            }
        }
        let has = |f: &str| live.finalizers.iter().any(|x| &**x == f);
        let policy = if waits {
            // what waits for us waits for ours, too
            "Foreground"
        } else if has(ORPHAN) {
            "Orphan"
        } else if has(FOREGROUND) {
            "Foreground"
        } else {
            "Background"
        };
        let options = Delete::uid(&live.uid)
            .at(&live.resource_version)
            .propagate(policy);
        self.rest
            .delete(&resource.path(&node.namespace, &node.name), &options)
            .await?;
        Ok(Next::Wait)
    }

    async fn standing(&self, owner: &OwnerRef, namespace: &str) -> Result<Standing> {
        let known = self
            .inventory
            .graph
            .lock()
            .get(&owner.uid)
            .filter(|n| n.is(owner, namespace))
            .map(|n| n.deleting && n.foreground);
        match known {
            Some(true) => Ok(Standing::Waiting),
            Some(false) => Ok(Standing::Solid),
            // only the server's word makes an owner absent
            None => self.ask(owner, namespace).await,
        }
    }

    /// Foreground deletion: dependents first.
    async fn foreground(&self, uid: &Uid, node: &Node, resource: &Resource) -> Result<Next> {
        let (waits, dependents) = {
            let graph = self.inventory.graph.lock();
            let mut dependents = graph.dependents(uid);
            // One that is on its way waits for its own: looking again would go round in a circle.
            dependents.retain(|d| graph.get(d).is_some_and(|d| !d.deleting));
            (!graph.blocking(uid).is_empty(), dependents)
        };
        if waits {
            for d in dependents {
                self.inventory.queue.add(d);
            }
            return Ok(Next::Wait);
        }
        self.drop_finalizer(uid, node, resource, FOREGROUND).await
    }

    /// Orphaning: dependents forget the owner, then it may go.
    async fn let_go(&self, uid: &Uid, node: &Node, resource: &Resource) -> Result<Next> {
        let dependents = self.inventory.graph.lock().dependents(uid);
        for d in dependents {
            let Some(dependent) = self.inventory.graph.lock().get(&d).cloned() else {
                continue;
            };
            let Some(its) = &dependent.resource else {
                continue;
            };
            let Some(live) = self
                .live(its, &dependent.namespace, &dependent.name)
                .await?
            else {
                continue;
            };
            let stay: Vec<_> = live
                .owner_references
                .iter()
                .filter(|o| *o.uid != **uid)
                .collect();
            if stay.len() < live.owner_references.len() {
                self.patch(its, &live, json!({"ownerReferences": stay}))
                    .await?;
            }
        }
        self.drop_finalizer(uid, node, resource, ORPHAN).await
    }

    async fn drop_finalizer(
        &self,
        uid: &Uid,
        node: &Node,
        resource: &Resource,
        finalizer: &str,
    ) -> Result<Next> {
        let Some(live) = self.live(resource, &node.namespace, &node.name).await? else {
            return Ok(Next::Wait);
        };
        if *live.uid != **uid {
            return Ok(Next::Wait);
        }
        let stay: Vec<_> = live
            .finalizers
            .iter()
            .filter(|f| &***f != finalizer)
            .collect();
        if stay.len() < live.finalizers.len() {
            self.patch(resource, &live, json!({"finalizers": stay}))
                .await?;
        }
        Ok(Next::Wait)
    }

    async fn patch(
        &self,
        resource: &Resource,
        live: &Meta,
        mut metadata: serde_json::Value,
    ) -> Result<Option<Meta>> {
        metadata["resourceVersion"] = (*live.resource_version).into();
        let path = resource.path(&live.namespace, &live.name);
        match self
            .rest
            .merge::<Partial>(&path, &json!({"metadata": metadata}))
            .await
        {
            Ok(patched) => Ok(Some(patched.metadata)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }
}
