//! IPAddresses and Services agree (`pkg/registry/core/service/ipallocator/controller`, which upstream's API server runs):
//! a Service whose address has no IPAddress gets one, and an IPAddress whose Service has no use for it goes.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use serde_json::json;

use crate::{
    error::Result,
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        recorder::Recorder,
        rest::{Delete, Ignored, Rest},
        work::{Next, work},
    },
    objects::{
        address::{FAMILY, IpAddress, MANAGED_BY, Parent, ServiceCidr},
        meta::{Key, Object, now},
        service::Service,
    },
};

const NAME: &str = "serviceaddresses";
const SOURCE: &str = "ipallocator-repair-controller";
/// An IPAddress without its Service is on its way to one for this long, s.
const LEAKED_S: i64 = 60;
/// One that its Service doesn't have (yet), for this, s.
const WRONG_S: i64 = 5;

/// A Service and its IPAddress come and go in one commit, and are seen one after the other.
const CALM: Duration = Duration::from_secs(1);

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Work {
    Service(Key),
    Address(Key),
}
impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Work::Service(key) => write!(f, "Service {key}"),
            Work::Address(key) => write!(f, "IPAddress {key}"),
        }
    }
}

struct Controller {
    rest: Rest,
    recorder: Recorder,
    services: Arc<Cache<Service>>,
    ranges: Arc<Cache<ServiceCidr>>,
    addresses: Arc<Cache<IpAddress>>,
    queue: Queue<Work>,
}

/// What keeps IPAddresses and Services in accord.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        recorder: ctx.recorder.clone(),
        services: ctx.caches.services.clone(),
        ranges: ctx.caches.service_ranges.clone(),
        addresses: ctx.caches.ip_addresses.clone(),
        queue: Queue::default(),
    });
    let me = c.clone();
    c.services.on_change(move |old, new| {
        if let Some(service) = new {
            me.queue.add(Work::Service(service.metadata.key()));
        }
        // what it had and has no more goes with it, as a rule
        for ip in old.iter().flat_map(|s| &s.spec.cluster_ips) {
            if new.is_none_or(|s| !s.spec.cluster_ips.contains(ip)) {
                me.queue.add_after(Work::Address(Key::new("", ip)), CALM);
            }
        }
    });
    let me = c.clone();
    c.addresses.on_change(move |old, new| {
        if let Some(address) = new.or(old) {
            me.queue.add(Work::Address(address.metadata.key()));
            let parent = &address.spec.parent_ref;
            let service = Key::new(&parent.namespace, &parent.name);
            me.queue.add_after(Work::Service(service), CALM);
        }
        // another may have made itself its parent
        if let (Some(old), Some(_)) = (old, new) {
            let parent = &old.spec.parent_ref;
            let service = Key::new(&parent.namespace, &parent.name);
            me.queue.add_after(Work::Service(service), CALM);
        }
    });
    Box::pin(async move {
        c.services.synced().await;
        c.ranges.synced().await;
        c.addresses.synced().await;
        work(NAME, &c.queue, 1, |work| c.reconcile(work)).await;
    })
}

fn parent_of(service: &Service) -> Parent {
    Parent {
        group: "".into(),
        resource: "services".into(),
        namespace: service.metadata.namespace.clone(),
        name: service.metadata.name.clone(),
    }
}

impl Controller {
    async fn reconcile(&self, work: Work) -> Result<Next> {
        match work {
            Work::Service(key) => self.service(&key).await,
            Work::Address(key) => self.address(&key).await,
        }
    }

    fn warn(&self, about: &impl Object, reason: &'static str, message: String) {
        tracing::warn!("{message}");
        self.recorder.warning(about, SOURCE, reason, message);
    }

    async fn service(&self, key: &Key) -> Result<Next> {
        let Some(service) = self.services.at(key) else {
            return Ok(Next::Wait);
        };
        if &*service.spec.kind == "ExternalName" || service.headless() {
            return Ok(Next::Wait);
        }
        for ip in &service.spec.cluster_ips {
            self.held(&service, ip).await?;
        }
        Ok(Next::Wait)
    }

    /// One address of a Service.
    async fn held(&self, service: &Service, name: &str) -> Result<()> {
        let Ok(ip) = name.parse::<std::net::IpAddr>() else {
            let message = format!("Cluster IP {name} is not a valid IP; please recreate Service");
            self.warn(service, "ClusterIPNotValid", message);
            return Ok(());
        };
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        let mut given = false;
        self.ranges.each(|r| given |= r.gives(ip));
        if !given {
            let message = format!(
                "Cluster IP [{family}]: {ip} is not within any configured Service CIDR; please recreate service"
            );
            self.warn(service, "ClusterIPOutOfRange", message);
            return Ok(());
        }
        let Some(address) = self.addresses.get("", &ip.to_string()) else {
            return self.make(service, &ip.to_string(), family, true).await;
        };
        let parent = &address.spec.parent_ref;
        let (namespace, own) = (&service.metadata.namespace, &service.metadata.name);
        let wrong = || {
            format!(
                "the ClusterIP [{family}]: {ip} for Service {namespace}/{own} has a wrong reference; repairing"
            )
        };
        if !parent.group.is_empty() || &*parent.resource != "services" {
            self.warn(service, "ClusterIPNotAllocated", wrong());
            return self.make_again(service, &address, family).await;
        }
        if *parent != parent_of(service) {
            match self.services.get(&parent.namespace, &parent.name) {
                None => {
                    self.warn(service, "ClusterIPNotAllocated", wrong());
                    return self.make_again(service, &address, family).await;
                }
                Some(other) if other.spec.cluster_ips.iter().any(|i| **i == *name) => {
                    let message = format!(
                        "Cluster IP [{family}]:{ip} was assigned to multiple services; please recreate service"
                    );
                    self.warn(service, "ClusterIPAlreadyAllocated", message);
                }
                Some(_) => {}
            }
        }
        let labelled = address.metadata.labels.get(FAMILY) == Some(family);
        if !labelled || !address.of_services() {
            return self.make_again(service, &address, family).await;
        }
        Ok(())
    }

    async fn make_again(&self, service: &Service, address: &IpAddress, family: &str) -> Result<()> {
        self.remove(address).await?;
        self.make(service, &address.metadata.name, family, false)
            .await
    }

    async fn make(&self, service: &Service, ip: &str, family: &str, missing: bool) -> Result<()> {
        let body = json!({
            "apiVersion": IpAddress::KIND.api_version(), "kind": IpAddress::KIND.kind,
            "metadata": {"name": ip, "labels": {FAMILY: family, MANAGED_BY.0: MANAGED_BY.1}},
            "spec": {"parentRef": {"resource": "services",
                "namespace": service.metadata.namespace, "name": service.metadata.name}},
        });
        // the address may have gone with its Service, whose end is still to be seen
        let path = Service::KIND.at(&service.metadata);
        match self.rest.get::<Service>(&path).await {
            Ok(now) if now.spec.cluster_ips.iter().any(|i| **i == *ip) => {}
            Ok(_) => return Ok(()),
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) => return Err(e),
        }
        let collection = IpAddress::KIND.collection("");
        match self.rest.create::<Ignored>(&collection, &body).await {
            // it came with the Service, and the cache lags behind
            Err(e) if e.is_already_exists() => Ok(()),
            Err(e) => Err(e),
            Ok(_) => {
                if missing {
                    let message =
                        format!("Cluster IP [{family}]: {ip} is not allocated; repairing");
                    self.warn(service, "ClusterIPNotAllocated", message);
                }
                Ok(())
            }
        }
    }

    async fn remove(&self, address: &IpAddress) -> Result<()> {
        let path = IpAddress::KIND.at(&address.metadata);
        self.rest
            .delete(&path, &Delete::uid(&address.metadata.uid))
            .await
    }

    async fn address(&self, key: &Key) -> Result<Next> {
        let Some(address) = self.addresses.at(key) else {
            return Ok(Next::Wait);
        };
        if !address.of_services() || address.metadata.deleting() {
            return Ok(Next::Wait);
        }
        let (name, parent) = (&address.metadata.name, &address.spec.parent_ref);
        if !parent.group.is_empty() || &*parent.resource != "services" {
            let message = format!(
                "IPAddress {name} appears to have been modified, not referencing a Service: cleaning up"
            );
            self.warn(&*address, "IPAddressNotAllocated", message);
            self.remove(&address).await?;
            return Ok(Next::Wait);
        }
        let of = format!("{}/{}", parent.namespace, parent.name);
        let made = address.metadata.creation_timestamp;
        let age = made.map_or(i64::MAX, |at| now() - at);
        let Some(service) = self.services.get(&parent.namespace, &parent.name) else {
            if age <= LEAKED_S {
                return Ok(Next::after_s(LEAKED_S + 1 - age));
            }
            let message =
                format!("IPAddress: {name} for Service {of} appears to have leaked: cleaning up");
            self.warn(&*address, "IPAddressNotAllocated", message);
            self.remove(&address).await?;
            return Ok(Next::Wait);
        };
        if service.spec.cluster_ips.contains(name) {
            return Ok(Next::Wait);
        }
        if &*service.spec.kind == "ExternalName" && age < LEAKED_S {
            return Ok(Next::after_s(LEAKED_S - age));
        }
        if made > service.metadata.creation_timestamp && age < WRONG_S {
            return Ok(Next::after_s(WRONG_S));
        }
        let message =
            format!("IPAddress: {name} for Service {of} has a wrong reference; cleaning up");
        self.warn(&*address, "IPAddressWrongReference", message);
        self.remove(&address).await?;
        Ok(Next::Wait)
    }
}
