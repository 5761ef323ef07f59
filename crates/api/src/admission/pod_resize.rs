//! PodResizeValidator and NodeDeclaredFeatureValidator (`plugin/pkg/admission/{podresize,nodedeclaredfeatures}`): a running
//! Pod is not resized to more than its node has, nor in a way that its node doesn't know.

use serde_json::Value;

use super::{Attributes, Operation, json::items, resources, stored};
use crate::{kinds::checks::quantity::Quantity, server::Inner, status::Failure};

const POD_LEVEL: &str = "InPlacePodLevelResourcesVerticalScaling";
const INIT: &str = "InPlacePodVerticalScalingInitContainers";

/// Refuses what the node can't do.
pub fn validate(inner: &Inner, a: &Attributes<'_>) -> Result<(), Failure> {
    let update = a.operation == Operation::Update
        && (a.resource.group, a.resource.plural) == ("", "pods")
        && matches!(a.subresource, "" | "resize");
    let (true, Some(pod), Some(old)) = (update, &a.object, a.old) else {
        return Ok(());
    };
    let name = pod["spec"]["nodeName"].as_str().unwrap_or("");
    let generation = |o: &Value| o["metadata"]["generation"].clone();
    if name.is_empty() || generation(pod) == generation(old) {
        return Ok(());
    }
    let wanted = features(&pod["spec"], &old["spec"]);
    let resized = a.subresource == "resize";
    if wanted.is_empty() && !resized {
        return Ok(());
    }
    let Some(node) = stored(inner, "", "nodes", "", name) else {
        return Err(a.forbidden(&format!("node {name:?} not found")));
    };
    let declared = items(&node, "/status/declaredFeatures");
    let missing: Vec<&str> = wanted
        .into_iter()
        .filter(|f| !declared.iter().any(|d| d == f))
        .collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(a.forbidden(&format!(
            "pod update requires features {missing} which are not available on node {name:?}"
        )));
    }
    if !resized {
        return Ok(());
    }
    match node["metadata"]["labels"]["kubernetes.io/os"].as_str() {
        None | Some("linux") => {}
        Some(os) => {
            let why =
                format!("pod resize is only supported on linux nodes, node {name:?} is {os:?}");
            return Err(a.forbidden(&why).cause("UnsupportedPlatform", "", ""));
        }
    }
    match too_large(pod, &node) {
        Some(why) => Err(a.forbidden(&why).cause("NodeCapacity", "", "")),
        None => Ok(()),
    }
}

/// What a node must be able to do for this change.
fn features(new: &Value, old: &Value) -> Vec<&'static str> {
    let mut all = Vec::new();
    if new["resources"] != old["resources"] {
        all.push(POD_LEVEL);
    }
    let lists = [items(old, "/initContainers"), items(new, "/initContainers")];
    let init = lists[0]
        .iter()
        .zip(lists[1])
        .any(|(o, n)| o["restartPolicy"] != "Always" && o["resources"] != n["resources"]);
    if init {
        all.push(INIT);
    }
    all
}

fn too_large(pod: &Value, node: &Value) -> Option<String> {
    let mut requests = resources::of_pod(&pod["spec"], "requests");
    resources::add(&mut requests, &resources::amounts(&pod["spec"]["overhead"]));
    let zero = || Quantity::ZERO;
    let mut lacking = Vec::new();
    for of in ["cpu", "memory"] {
        let asked = requests.get(of).cloned().unwrap_or_else(zero);
        let there = Quantity::of(&node["status"]["allocatable"][of]).unwrap_or_else(zero);
        if asked > there {
            let shown = |q: &Quantity| {
                if of == "cpu" {
                    q.milli_value()
                } else {
                    q.value()
                }
            };
            let (asked, there) = (shown(&asked), shown(&there));
            lacking.push(format!("{of}, requested: {asked}, allocatable: {there}"));
        }
    }
    (!lacking.is_empty()).then(|| {
        let lacking = lacking.join("; ");
        format!("node didn't have enough allocatable resources: {lacking}")
    })
}
