//! Where a Service's traffic goes: EndpointSlices, and the older Endpoints, from Services and Pods.

mod addresses;
mod legacy;
mod mirror;
mod plan;
mod slices;
mod store;

pub use legacy::start as legacy;
pub use mirror::start as mirror;
pub use slices::start as slices;

use std::sync::Arc;

use crate::objects::{pod::Pod, service::Service};
use crate::{machinery::cache::Cache, objects::meta::Key};

/// The Service's endpoints are ours to keep.
fn managed(service: &Service) -> bool {
    service
        .spec
        .selector
        .as_ref()
        .is_some_and(|s| !s.is_empty())
        && &*service.spec.kind != "ExternalName"
}

/// Services whose endpoints a change of a pod may change.
fn affected(services: &Cache<Service>, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) -> Vec<Key> {
    if let (Some(o), Some(n)) = (old, new)
        && o.metadata.labels == n.metadata.labels
        && o.ready() == n.ready()
        && o.status.phase == n.status.phase
        && o.status.pod_ip == n.status.pod_ip
        && o.status.pod_ips.len() == n.status.pod_ips.len()
        && o.metadata.deleting() == n.metadata.deleting()
        && o.spec.node_name == n.spec.node_name
    {
        return vec![];
    }
    // before it has an address, a pod is no endpoint
    if [old, new]
        .into_iter()
        .flatten()
        .all(|p| p.status.pod_ip.is_empty())
    {
        return vec![];
    }
    let Some(pod) = new.or(old) else {
        return vec![];
    };
    services
        .in_namespace(&pod.metadata.namespace, |s| {
            managed(s)
                && s.spec.selector.as_ref().is_some_and(|sel| {
                    [old, new]
                        .into_iter()
                        .flatten()
                        .any(|p| sel.subset_of(&p.metadata.labels))
                })
        })
        .iter()
        .map(|s| s.metadata.key())
        .collect()
}
