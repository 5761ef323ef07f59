//! PodTopologyLabels (`plugin/pkg/admission/podtopologylabels`): a Pod says in which zone and region its node is.

use serde_json::Value;

use super::{
    Attributes, Operation,
    json::{map_mut, text},
    stored,
};
use crate::{object::meta_mut, server::Inner};

const COPIED: [&str; 2] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];

/// Labels for a Pod that is made on a node, or for the Binding that brings it there.
pub fn admit(inner: &Inner, a: &mut Attributes<'_>) {
    if a.operation != Operation::Create
        || !a.resource.group.is_empty()
        || a.resource.plural != "pods"
    {
        return;
    }
    let at = match a.subresource {
        "" => "/spec/nodeName",
        "binding" => "/target/name",
        _ => return,
    };
    let Some(object) = a.object.as_mut() else {
        return;
    };
    let node = text(object, at);
    if node.is_empty() {
        return;
    }
    let Some(node) = stored(inner, "", "nodes", "", node) else {
        return;
    };
    let labels: Vec<(&str, Value)> = COPIED
        .into_iter()
        .filter_map(|k| Some((k, node.pointer("/metadata/labels")?.get(k)?.clone())))
        .collect();
    if labels.is_empty() {
        return;
    }
    let mut metadata = Value::Object(std::mem::take(meta_mut(object)));
    let own = map_mut(&mut metadata, "labels");
    for (k, v) in labels {
        own.insert(k.to_string(), v);
    }
    if let Value::Object(m) = metadata {
        *meta_mut(object) = m;
    }
}
