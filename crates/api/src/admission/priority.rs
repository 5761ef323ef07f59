//! Priority (`plugin/pkg/admission/priority`): a Pod's number comes from its class, and only one class is the default.

use serde_json::Value;

use super::{Attributes, Operation, json::text, list, stored};
use crate::{object, server::Inner, status::Failure};

const GROUP: &str = "scheduling.k8s.io";
const PLURAL: &str = "priorityclasses";
const PREEMPT: &str = "PreemptLowerPriority";

/// Resolves a Pod's class.
pub fn admit(inner: &Inner, a: &mut Attributes<'_>) -> Result<(), Failure> {
    if !a.is("", "pods") {
        return Ok(());
    }
    match a.operation {
        Operation::Update => {
            let (Some(pod), Some(old)) = (a.object.as_mut(), a.old) else {
                return Ok(());
            };
            for k in ["priority", "preemptionPolicy"] {
                if pod["spec"][k].is_null() && !old["spec"][k].is_null() {
                    pod["spec"][k] = old["spec"][k].clone();
                }
            }
            Ok(())
        }
        Operation::Create => create(inner, a),
        _ => Ok(()),
    }
}

fn create(inner: &Inner, a: &mut Attributes<'_>) -> Result<(), Failure> {
    let Some(spec) = a.object.as_ref().map(|o| &o["spec"]) else {
        return Ok(());
    };
    let mut name = text(spec, "/priorityClassName").to_string();
    let (mut priority, mut policy) = (0, Some(PREEMPT.to_string()));
    let class =
        if name.is_empty() {
            default_class(inner)
        } else {
            let found = stored(inner, GROUP, PLURAL, "", &name).or_else(|| system(&name));
            Some(found.ok_or_else(|| {
                a.forbidden(&format!("no PriorityClass with name {name} was found"))
            })?)
        };
    if let Some(class) = class {
        name = object::meta(&class, "name").to_string();
        priority = class["value"].as_i64().unwrap_or(0);
        policy = class["preemptionPolicy"].as_str().map(String::from);
    }
    if let Some(given) = spec["priority"].as_i64()
        && given != priority
    {
        return Err(a.forbidden(&format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
        )));
    }
    if let (Some(given), Some(policy)) = (spec["preemptionPolicy"].as_str(), &policy)
        && given != policy
    {
        return Err(a.forbidden(&format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        )));
    }
    let Some(pod) = a.object.as_mut() else {
        return Ok(());
    };
    if !name.is_empty() {
        pod["spec"]["priorityClassName"] = name.into();
    }
    pod["spec"]["priority"] = priority.into();
    if let Some(policy) = policy {
        pod["spec"]["preemptionPolicy"] = policy.into();
    }
    Ok(())
}

/// The two classes every cluster has, should they not be stored.
fn system(name: &str) -> Option<Value> {
    let value = match name {
        "system-cluster-critical" => 2_000_000_000,
        "system-node-critical" => 2_000_001_000,
        _ => return None,
    };
    Some(
        serde_json::json!({"metadata": {"name": name}, "value": value, "preemptionPolicy": PREEMPT}),
    )
}

/// Of several default classes (two made at once) the lowest counts.
fn default_class(inner: &Inner) -> Option<Value> {
    list(inner, GROUP, PLURAL, "")
        .into_iter()
        .filter(|c| c["globalDefault"] == true)
        .min_by_key(|c| c["value"].as_i64())
}

/// A second default is refused.
pub fn validate(inner: &Inner, a: &Attributes<'_>) -> Result<(), Failure> {
    let wanted = a.is(GROUP, PLURAL)
        && matches!(a.operation, Operation::Create | Operation::Update)
        && a.object
            .as_ref()
            .is_some_and(|o| o["globalDefault"] == true);
    if !wanted {
        return Ok(());
    }
    let Some(present) = default_class(inner) else {
        return Ok(());
    };
    let present = object::meta(&present, "name");
    let mine = a.object.as_ref().map_or("", |o| object::meta(o, "name"));
    if a.operation == Operation::Create || present != mine {
        return Err(a.forbidden(&format!(
            "PriorityClass {present} is already marked as default. Only one default can exist"
        )));
    }
    Ok(())
}
