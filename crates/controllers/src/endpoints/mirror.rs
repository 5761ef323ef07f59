//! EndpointSlice mirroring: Endpoints that people keep by hand, as slices (`pkg/controller/endpointslicemirroring`).

use std::{net::IpAddr, sync::Arc};

use futures::future::BoxFuture;

use super::{
    addresses::Groups,
    plan::plan,
    slices::{MANAGED_BY, SERVICE_NAME},
    store::Store,
};
use crate::{
    error::Result,
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        recorder::Recorder,
        rest::Rest,
        work::{Next, WORKERS, work},
        written::Written,
    },
    objects::{
        meta::{Key, Labels, Object},
        service::{
            Address, Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Endpoints, Service,
        },
    },
};

const NAME: &str = "endpointslicemirroring";
const SOURCE: &str = "endpoint-slice-mirroring-controller";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Label of Endpoints: not to be mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotation of Endpoints that elect a leader.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotation that isn't copied.
const TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Addresses of a subset that are mirrored.
const SUBSET_MAX: usize = 1000;
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

struct Controller {
    rest: Rest,
    recorder: Recorder,
    services: Arc<Cache<Service>>,
    endpoints: Arc<Cache<Endpoints>>,
    slices: Arc<Cache<EndpointSlice>>,
    queue: Queue<Key>,
    written: Written,
}

/// The EndpointSlice mirroring controller.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        recorder: ctx.recorder.clone(),
        services: ctx.caches.services.clone(),
        endpoints: ctx.caches.endpoints.clone(),
        slices: ctx.caches.slices.clone(),
        queue: Queue::default(),
        written: Written::default(),
    });
    let me = c.clone();
    c.services.on_change(move |old, new| {
        let manual = |s: Option<&Arc<Service>>| s.is_some_and(|s| s.spec.selector.is_none());
        if let Some(s) = new.or(old)
            && (manual(old) || manual(new))
        {
            me.queue.add(s.metadata.key());
        }
    });
    let me = c.clone();
    c.endpoints.on_change(move |old, new| {
        let ours = |e: Option<&Arc<Endpoints>>| e.is_some_and(|e| mirrored(e));
        if let Some(e) = new.or(old)
            && (ours(old) || ours(new))
        {
            me.queue.add(e.metadata.key());
        }
    });
    let me = c.clone();
    c.slices.on_change(move |old, new| {
        for s in [old, new].into_iter().flatten() {
            if let Some(service) = owner(s) {
                me.queue.add(Key::new(&s.metadata.namespace, service));
            }
        }
    });
    Box::pin(async move {
        c.services.synced().await;
        c.endpoints.synced().await;
        c.slices.synced().await;
        work(NAME, &c.queue, WORKERS, |key| c.reconcile(key)).await;
    })
}

fn owner(slice: &EndpointSlice) -> Option<&str> {
    let labels = &slice.metadata.labels;
    (labels.get(MANAGED_BY) == Some(MANAGER))
        .then(|| labels.get(SERVICE_NAME))
        .flatten()
}

fn mirrored(endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    meta.labels.get(SKIP) != Some("true") && meta.annotations.get(LEADER).is_none()
}

/// Endpoints of one family, and how many addresses are none, and too many.
fn groups(endpoints: &Endpoints, family: &str) -> (Groups, usize, usize) {
    let mut all = Groups::new();
    let (mut invalid, mut skipped) = (0, 0);
    for subset in &endpoints.subsets {
        let mut ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .map(|p| EndpointPort {
                name: p.name.clone(),
                port: p.port,
                protocol: p.protocol.clone(),
                app_protocol: p.app_protocol.clone(),
            })
            .collect();
        ports.sort();
        let ready = subset.addresses.iter().map(|a| (a, true));
        let unready = subset.not_ready_addresses.iter().map(|a| (a, false));
        let mut added = 0;
        for (address, ready) in ready.chain(unready) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                invalid += 1;
                continue;
            };
            if added == SUBSET_MAX {
                skipped += 1;
                continue;
            }
            added += 1;
            if ip.is_ipv4() == (family == FAMILIES[0]) {
                let group = all.entry(ports.clone()).or_default();
                let endpoint = endpoint(address, ip, ready);
                if !group.iter().any(|e| e.addresses == endpoint.addresses) {
                    group.push(endpoint);
                }
            }
        }
    }
    (all, invalid, skipped)
}

fn endpoint(address: &Address, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string().into()],
        conditions: EndpointConditions {
            ready: Some(ready),
            serving: None,
            terminating: None,
        },
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        target_ref: address.target_ref.clone(),
        node_name: address.node_name.clone(),
        zone: None,
        hints: None,
    }
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Next> {
        if let Some(wait) = self.written.ahead(&key, self.slices.seen()) {
            return Ok(Next::After(wait));
        }
        let existing = self
            .slices
            .in_namespace(&key.namespace, |s| owner(s) == Some(&key.name));
        let manual = self
            .services
            .at(&key)
            .is_some_and(|s| s.spec.selector.is_none() && !s.metadata.deleting());
        let endpoints = self
            .endpoints
            .at(&key)
            .filter(|e| manual && mirrored(e) && !e.metadata.deleting());
        let Some(endpoints) = endpoints else {
            for slice in existing.iter().filter(|s| !s.metadata.deleting()) {
                let options = crate::machinery::rest::Delete::uid(&slice.metadata.uid);
                let path = EndpointSlice::KIND.at(&slice.metadata);
                self.rest.delete(&path, &options).await?;
            }
            return Ok(Next::Wait);
        };
        let meta = &endpoints.metadata;
        let mut labels = meta.labels.clone();
        labels.set(SERVICE_NAME, &key.name);
        labels.set(MANAGED_BY, MANAGER);
        let annotations: Labels = meta
            .annotations
            .iter()
            .filter(|(k, _)| *k != TRIGGERED)
            .collect();
        let store = Store {
            rest: &self.rest,
            written: &self.written,
            key: &key,
            owner: endpoints.controller_ref(),
            labels: &labels,
            annotations: Some(&annotations),
        };
        for family in FAMILIES {
            let (wanted, invalid, skipped) = groups(&endpoints, family);
            if family == FAMILIES[0] {
                self.complain(&endpoints, invalid, skipped);
            }
            let of_family: Vec<_> = existing
                .iter()
                .filter(|s| &*s.address_type == family)
                .cloned()
                .collect();
            if wanted.is_empty() {
                for slice in &of_family {
                    store.delete(slice).await?;
                }
                continue;
            }
            let mut plan = plan(wanted, &of_family, &labels);
            // annotations alone may have changed
            for slice in &of_family {
                let known = plan.update.iter().any(|(s, _)| Arc::ptr_eq(s, slice))
                    || plan.delete.iter().any(|s| Arc::ptr_eq(s, slice));
                if !known && slice.metadata.annotations != annotations {
                    let content = super::plan::Content {
                        ports: slice.ports.clone(),
                        endpoints: slice.endpoints.clone(),
                    };
                    plan.update.push((slice.clone(), content));
                }
            }
            store.carry_out(&plan, family, &existing).await?;
        }
        Ok(Next::Wait)
    }

    fn complain(&self, endpoints: &Endpoints, invalid: usize, skipped: usize) {
        if invalid > 0 {
            let message =
                format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
            self.recorder
                .warning(endpoints, SOURCE, "InvalidIPAddress", message);
        }
        if skipped > 0 {
            let message = format!(
                "A max of {SUBSET_MAX} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped"
            );
            self.recorder
                .warning(endpoints, SOURCE, "TooManyAddressesToMirror", message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn subsets_by_family() {
        let address = |ip: &str| json!({"ip":ip});
        let many: Vec<_> = (0..1002)
            .map(|i| address(&format!("10.1.{}.{}", i / 250, i % 250)))
            .collect();
        let endpoints: Endpoints = serde_json::from_value(json!({"subsets":[
            {"addresses":[address("10.0.0.1"),address("fd00::1"),address("nowhere")],
             "notReadyAddresses":[address("10.0.0.2"),address("10.0.0.1")],
             "ports":[{"name":"b","port":2},{"name":"a","port":1}]},
            {"addresses":many,"ports":[{"port":3}]}]}))
        .unwrap();
        let show = |family: &str| {
            let (all, invalid, skipped) = groups(&endpoints, family);
            let all: Vec<_> = all
                .iter()
                .map(|(ports, e)| {
                    let ports: Vec<_> = ports.iter().map(|p| p.port.to_string()).collect();
                    let ready = e.iter().filter(|e| e.conditions.ready == Some(true));
                    format!("{}:{}/{}", ports.join("+"), ready.count(), e.len())
                })
                .collect();
            (all.join(" "), invalid, skipped)
        };
        assert_eq!(show("IPv4"), ("3:1000/1000 1+2:1/2".into(), 1, 2));
        assert_eq!(show("IPv6"), ("1+2:1/1".into(), 1, 2));
    }
}
