//! ServiceCIDRs become ready, and stay while an address is in use that no other of them gives
//! (`pkg/controller/servicecidrs`).

use std::{net::IpAddr, sync::Arc};

use futures::future::BoxFuture;
use serde_json::json;

use crate::{
    error::Result,
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        rest::{Ignored, Rest},
        status,
        work::{Next, work},
    },
    objects::{
        address::{IpAddress, ServiceCidr},
        meta::{Key, Object, now, rfc3339},
    },
};

const NAME: &str = "servicecidr";
/// The field manager of the conditions.
const MANAGER: &str = "service-cidr-controller";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const READY: &str = "Ready";
/// An address may be on its way to a Service while its range goes, s.
const GRACE_S: i64 = 10;

struct Controller {
    rest: Rest,
    ranges: Arc<Cache<ServiceCidr>>,
    addresses: Arc<Cache<IpAddress>>,
    queue: Queue<Key>,
}

/// The ServiceCIDR controller.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        ranges: ctx.caches.service_ranges.clone(),
        addresses: ctx.caches.ip_addresses.clone(),
        queue: Queue::default(),
    });
    let me = c.clone();
    c.ranges.on_change(move |old, new| {
        let Some(changed) = new.or(old) else { return };
        me.queue.add(changed.metadata.key());
        if old.is_some() && new.is_some() {
            return;
        }
        // those that share addresses with it may go because it came, or may not because it went
        let prefixes: Vec<_> = changed.prefixes().collect();
        me.ranges.each(|r| {
            if r.prefixes().any(|p| prefixes.iter().any(|q| p.overlaps(q))) {
                me.queue.add(r.metadata.key());
            }
        });
    });
    let me = c.clone();
    c.addresses.on_change(move |old, new| {
        // only those that come or go count
        let ((Some(address), None) | (None, Some(address))) = (old, new) else {
            return;
        };
        if let Some(ip) = address.ip().filter(|_| address.of_services()) {
            me.ranges.each(|r| {
                if r.gives(ip) {
                    me.queue.add(r.metadata.key());
                }
            });
        }
    });
    Box::pin(async move {
        c.ranges.synced().await;
        c.addresses.synced().await;
        work(NAME, &c.queue, 1, |key| c.reconcile(key)).await;
    })
}

impl Controller {
    /// How many ranges give the address.
    fn givers(&self, ip: IpAddr) -> usize {
        let mut count = 0;
        self.ranges.each(|r| count += usize::from(r.gives(ip)));
        count
    }

    /// Whether no address needs this range.
    fn may_go(&self, range: &ServiceCidr) -> bool {
        let covered = range.prefixes().all(|p| {
            let mut others = false;
            self.ranges.each(|r| {
                let another = r.metadata.name != range.metadata.name;
                others |= another && r.prefixes().any(|q| q.contains(&p));
            });
            others
        });
        if covered {
            return true;
        }
        let mut addresses = vec![];
        self.addresses.each(|a| {
            if let Some(ip) = a.ip().filter(|ip| a.of_services() && range.gives(*ip)) {
                addresses.push(ip);
            }
        });
        addresses.into_iter().all(|ip| self.givers(ip) > 1)
    }

    async fn reconcile(&self, key: Key) -> Result<Next> {
        let Some(range) = self.ranges.at(&key) else {
            return Ok(Next::Wait);
        };
        let meta = &range.metadata;
        let protected = meta.finalizers.iter().any(|f| &**f == FINALIZER);
        let Some(deleted) = meta.deletion_timestamp else {
            if !protected {
                let add = json!({"metadata": {"finalizers": [FINALIZER]}});
                self.patch(&range, &add).await?;
            }
            const MESSAGE: &str = "Kubernetes Service CIDR is ready";
            self.tell(&range, "True", "", MESSAGE).await?;
            return Ok(Next::Wait);
        };
        if !self.may_go(&range) {
            const MESSAGE: &str = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
            self.tell(&range, "False", "Terminating", MESSAGE).await?;
            return Ok(Next::Wait);
        }
        let left = GRACE_S - (now() - deleted);
        if left > 0 {
            return Ok(Next::after_s(left));
        }
        if protected {
            let remove = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
            self.patch(&range, &remove).await?;
        }
        Ok(Next::Wait)
    }

    async fn patch(&self, range: &ServiceCidr, patch: &serde_json::Value) -> Result<()> {
        let path = ServiceCidr::KIND.at(&range.metadata);
        match self.rest.strategic::<Ignored>(&path, patch).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }

    async fn tell(
        &self,
        range: &ServiceCidr,
        ready: &str,
        reason: &str,
        message: &str,
    ) -> Result<()> {
        let told = status::find(&range.status.conditions, READY);
        if told.is_some_and(|c| (&*c.status, &*c.reason, &*c.message) == (ready, reason, message)) {
            return Ok(());
        }
        let name = &range.metadata.name;
        let body = json!({
            "apiVersion": ServiceCidr::KIND.api_version(), "kind": ServiceCidr::KIND.kind,
            "metadata": {"name": name},
            "status": {"conditions": [{
                "type": READY, "status": ready, "reason": reason, "message": message,
                "lastTransitionTime": rfc3339(now()),
            }]},
        });
        let path = format!("{}/status", ServiceCidr::KIND.at(&range.metadata));
        match self.rest.apply::<Ignored>(&path, MANAGER, &body).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }
}
