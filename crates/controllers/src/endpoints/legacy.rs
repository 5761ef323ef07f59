//! Endpoints controller: the same as slices, in one object, for older clients (`pkg/controller/endpoint`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::future::BoxFuture;
use serde_json::json;

use super::{
    addresses::{address, families, hostname, ports, target},
    affected, managed,
    slices::HEADLESS,
};
use crate::{
    error::Result,
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        rest::{Delete, Rest},
        work::{Next, WORKERS, work},
        written::Written,
    },
    objects::{
        meta::{Key, Labels, Object},
        pod::Pod,
        service::{Address, Endpoints, OldPort, Service, Subset},
    },
};

const NAME: &str = "endpoints";
/// Label: who keeps the object.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// Addresses in one object at most.
const ADDRESSES_MAX: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

struct Controller {
    rest: Rest,
    services: Arc<Cache<Service>>,
    pods: Arc<Cache<Pod>>,
    endpoints: Arc<Cache<Endpoints>>,
    queue: Queue<Key>,
    written: Written,
}

/// The Endpoints controller.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        services: ctx.caches.services.clone(),
        pods: ctx.caches.pods.clone(),
        endpoints: ctx.caches.endpoints.clone(),
        queue: Queue::default(),
        written: Written::default(),
    });
    let me = c.clone();
    c.services.on_change(move |old, new| {
        if let Some(s) = new.or(old) {
            me.queue.add(s.metadata.key());
        }
    });
    let me = c.clone();
    c.pods.on_change(move |old, new| {
        for key in affected(&me.services, old, new) {
            me.queue.add(key);
        }
    });
    let me = c.clone();
    c.endpoints.on_change(move |old, new| {
        if let Some(e) = new.or(old) {
            me.queue.add(e.metadata.key());
        }
    });
    Box::pin(async move {
        c.services.synced().await;
        c.pods.synced().await;
        c.endpoints.synced().await;
        work(NAME, &c.queue, WORKERS, |key| c.reconcile(key)).await;
    })
}

type Sets = (BTreeSet<Address>, BTreeSet<Address>);

/// Subsets of a service's pods: ports with the same addresses are together (`RepackSubsets`). True: there were more addresses than one object may have.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<Subset>, bool) {
    let family = families(service)[0];
    let anyway = service.spec.publish_not_ready_addresses;
    let mut by_port: BTreeMap<Option<OldPort>, Sets> = BTreeMap::new();
    let (mut count, mut over) = (0, false);
    for pod in pods {
        if pod.terminal() || (pod.metadata.deleting() && !anyway) {
            continue;
        }
        let Some(ip) = address(pod, family) else {
            continue;
        };
        if count == ADDRESSES_MAX {
            over = true;
            break;
        }
        count += 1;
        let entry = Address {
            ip: ip.into(),
            hostname: hostname(service, pod),
            node_name: (!pod.spec.node_name.is_empty()).then(|| pod.spec.node_name.clone()),
            target_ref: Some(target(pod)),
        };
        let mut keys: Vec<Option<OldPort>> = ports(service, pod)
            .into_iter()
            .map(|p| {
                Some(OldPort {
                    name: p.name,
                    port: p.port,
                    protocol: p.protocol,
                    app_protocol: p.app_protocol,
                })
            })
            .collect();
        if keys.is_empty() && service.headless() && service.spec.ports.is_empty() {
            keys.push(None);
        }
        for key in keys {
            let (ready, unready) = by_port.entry(key).or_default();
            if anyway || pod.ready() {
                ready.insert(entry.clone());
            } else {
                unready.insert(entry.clone());
            }
        }
    }
    let mut by_addresses: BTreeMap<Sets, Vec<OldPort>> = BTreeMap::new();
    for (port, sets) in by_port {
        by_addresses.entry(sets).or_default().extend(port);
    }
    let all = by_addresses
        .into_iter()
        .map(|((ready, unready), ports)| Subset {
            addresses: ready.into_iter().collect(),
            not_ready_addresses: unready.into_iter().collect(),
            ports,
        })
        .collect();
    (all, over)
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Next> {
        if let Some(wait) = self.written.ahead(&key, self.endpoints.seen()) {
            return Ok(Next::After(wait));
        }
        let current = self.endpoints.at(&key);
        let Some(service) = self.services.at(&key).filter(|s| !s.metadata.deleting()) else {
            if let Some(e) = current
                && e.metadata.labels.get(MANAGED_BY) == Some(MANAGER)
            {
                self.rest
                    .delete(
                        &Endpoints::KIND.at(&e.metadata),
                        &Delete::uid(&e.metadata.uid),
                    )
                    .await?;
            }
            return Ok(Next::Wait);
        };
        if !managed(&service) {
            return Ok(Next::Wait);
        }
        let selector = service.spec.selector.clone().unwrap_or_default();
        let pods = self
            .pods
            .in_namespace(&key.namespace, |p| selector.subset_of(&p.metadata.labels));
        let (subsets, over) = subsets(&service, &pods);
        let mut labels: Labels = service
            .metadata
            .labels
            .iter()
            .filter(|(k, _)| *k != HEADLESS)
            .collect();
        labels.set(MANAGED_BY, MANAGER);
        if service.headless() {
            labels.set(HEADLESS, "");
        }
        let note = over.then_some("truncated");
        match current {
            None => {
                let body = json!({
                    "apiVersion": "v1", "kind": "Endpoints",
                    "metadata": {"name": key.name, "namespace": key.namespace, "labels": labels,
                        "annotations": note.map(|n| json!({OVER_CAPACITY: n}))},
                    "subsets": subsets,
                });
                let collection = Endpoints::KIND.collection(&key.namespace);
                match self.rest.create::<Endpoints>(&collection, &body).await {
                    Ok(made) => self.written.note(&key, &made.metadata),
                    Err(e) if e.is_namespace_terminating() => {}
                    Err(e) => return Err(e),
                }
            }
            Some(e) => {
                let same = e.subsets == subsets
                    && e.metadata.labels == labels
                    && e.metadata.annotations.get(OVER_CAPACITY) == note;
                if !same {
                    let mut patch_labels = json!(labels);
                    for (k, _) in e.metadata.labels.iter() {
                        if labels.get(k).is_none() {
                            patch_labels[k] = serde_json::Value::Null;
                        }
                    }
                    let patch = json!({
                        "metadata": {
                            "resourceVersion": e.metadata.resource_version,
                            "labels": patch_labels,
                            "annotations": {OVER_CAPACITY: note},
                        },
                        "subsets": subsets,
                    });
                    let path = Endpoints::KIND.at(&e.metadata);
                    let new: Endpoints = self.rest.merge(&path, &patch).await?;
                    self.written.note(&key, &new.metadata);
                }
            }
        }
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, ip: &str, ready: bool, port: i32) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata":{"name":name,"namespace":"n","uid":name},
                "spec":{"containers":[{"ports":[{"name":"web","containerPort":port}]}]},
                "status":{"phase":"Running","podIP":ip,
                    "conditions":[{"type":"Ready","status":if ready {"True"} else {"False"}}]}}))
            .unwrap(),
        )
    }

    #[test]
    fn ports_of_the_same_addresses_are_together() {
        let service: Service =
            serde_json::from_value(json!({"metadata":{"name":"s","namespace":"n"},
            "spec":{"ports":[{"name":"a","port":80,"targetPort":"web"},{"name":"b","port":81}]}}))
            .unwrap();
        let show = |pods: &[Arc<Pod>]| {
            let (subsets, over) = subsets(&service, pods);
            assert!(!over);
            let list = |a: &[Address]| a.iter().map(|a| &*a.ip).collect::<Vec<_>>().join("+");
            subsets
                .iter()
                .map(|s| {
                    let ports: Vec<_> = s
                        .ports
                        .iter()
                        .map(|p| format!("{}{}", p.name, p.port))
                        .collect();
                    format!(
                        "{}!{}:{}",
                        list(&s.addresses),
                        list(&s.not_ready_addresses),
                        ports.join(",")
                    )
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(
            show(&[
                pod("x", "10.0.0.1", true, 8080),
                pod("y", "10.0.0.2", false, 8080)
            ]),
            ["10.0.0.1!10.0.0.2:a8080,b81"]
        );
        assert_eq!(
            show(&[
                pod("x", "10.0.0.1", true, 8080),
                pod("y", "10.0.0.2", true, 9090)
            ]),
            [
                "10.0.0.1!:a8080",
                "10.0.0.1+10.0.0.2!:b81",
                "10.0.0.2!:a9090"
            ]
        );
    }
}
