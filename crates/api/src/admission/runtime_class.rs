//! RuntimeClass (`plugin/pkg/admission/runtimeclass`): what a class costs and where it runs goes into the Pod.

use serde_json::{Map, Value};

use super::{Attributes, Operation, json::items, stored, tolerations};
use crate::{server::Inner, status::Failure};

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

fn class(inner: &Inner, a: &Attributes<'_>) -> Result<Option<Value>, Failure> {
    let Some(name) = a
        .object
        .as_ref()
        .and_then(|o| o.pointer("/spec/runtimeClassName")?.as_str())
    else {
        return Ok(None);
    };
    match stored(inner, "node.k8s.io", "runtimeclasses", "", name) {
        Some(class) => Ok(Some(class)),
        None => Err(a.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

fn concerns(a: &Attributes<'_>) -> bool {
    a.is("", "pods") && a.operation == Operation::Create
}

/// Overhead, node selector and tolerations of the class.
pub fn admit(inner: &Inner, a: &mut Attributes<'_>) -> Result<(), Failure> {
    if !concerns(a) {
        return Ok(());
    }
    let Some(class) = class(inner, a)? else {
        return Ok(());
    };
    let Some(spec) = a.object.as_ref().map(|o| &o["spec"]) else {
        return Ok(());
    };
    let overhead = class.pointer("/overhead/podFixed");
    let given = spec["overhead"].as_object().filter(|m| !m.is_empty());
    if let (Some(_), Some(defined)) = (given, overhead)
        && !same_amounts(defined, &spec["overhead"])
    {
        return Err(a.forbidden(MISMATCH));
    }
    let mut selector: Map<String, Value> = spec["nodeSelector"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let wanted = class
        .pointer("/scheduling/nodeSelector")
        .and_then(Value::as_object);
    for (key, value) in wanted.into_iter().flatten() {
        if let Some(own) = selector.get(key)
            && own != value
        {
            return Err(a.forbidden(&format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                value.as_str().unwrap_or(""),
                own.as_str().unwrap_or("")
            )));
        }
        selector.insert(key.clone(), value.clone());
    }
    let merged = tolerations::merge(
        items(spec, "/tolerations"),
        items(&class, "/scheduling/tolerations"),
    );
    let scheduling = class.get("scheduling").is_some_and(Value::is_object);
    let Some(pod) = a.object.as_mut() else {
        return Ok(());
    };
    if let Some(overhead) = overhead {
        pod["spec"]["overhead"] = overhead.clone();
    }
    if scheduling {
        if !selector.is_empty() {
            pod["spec"]["nodeSelector"] = selector.into();
        }
        if !merged.is_empty() {
            pod["spec"]["tolerations"] = merged.into();
        }
    }
    Ok(())
}

/// The overhead is the class's, or there is none.
pub fn validate(inner: &Inner, a: &Attributes<'_>) -> Result<(), Failure> {
    if !concerns(a) {
        return Ok(());
    }
    let class = class(inner, a)?;
    let defined = class.as_ref().and_then(|c| c.pointer("/overhead/podFixed"));
    let given = a
        .object
        .as_ref()
        .map_or(&Value::Null, |o| &o["spec"]["overhead"]);
    match (defined, given) {
        (Some(defined), given) if !same_amounts(defined, given) => Err(a.forbidden(MISMATCH)),
        (None, Value::Object(_)) => Err(a.forbidden(
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        )),
        _ => Ok(()),
    }
}

/// Equal as amounts: `1` and `1000m` are.
fn same_amounts(a: &Value, b: &Value) -> bool {
    let empty = Map::new();
    let (a, b) = (
        a.as_object().unwrap_or(&empty),
        b.as_object().unwrap_or(&empty),
    );
    a.len() == b.len()
        && a.iter().all(|(k, v)| {
            b.get(k).is_some_and(|w| {
                use crate::kinds::checks::quantity::Quantity;
                v == w || matches!((Quantity::of(v), Quantity::of(w)), (Some(x), Some(y)) if x == y)
            })
        })
}
