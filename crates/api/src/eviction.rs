//! Evictions: a Pod is deleted if its PodDisruptionBudget allows it (`pkg/registry/core/pod/storage/eviction.go`).

use serde_json::{Value, json};

use crate::{
    catalog::{self, Target},
    delete::{self, DeleteOptions},
    object,
    query::WriteOptions,
    registry::Handle,
    selector::{LabelSelector, label_selector_string},
    server::{Call, Inner},
    status::Failure,
    write::{Change, Part, Write},
};

/// Evicted Pods that a budget waits for at most.
const DISRUPTED_MAX: usize = 2000;
/// Seconds after which a refused client should ask again.
const RETRY_S: u32 = 10;
const CONDITION: &str = "DisruptionAllowed";

/// Deletes the Pod that the eviction is about, and notes it in its budget, or says why not.
pub async fn evict(
    inner: &Inner,
    call: &Call,
    t: &Target,
    pod: &Value,
    write: &WriteOptions,
    mut options: DeleteOptions,
) -> Result<(), Failure> {
    let text = |p: &str| pod.pointer(p).and_then(Value::as_str).unwrap_or("");
    let leaving = pod["metadata"].get("deletionTimestamp").is_some();
    let ended = matches!(text("/status/phase"), "Succeeded" | "Failed");
    let given_revision = options.resource_version.is_some();
    let at = || Some(text("/metadata/resourceVersion").to_owned());
    let mut budget_name = None;
    if leaving || ended || text("/status/phase") == "Pending" {
        // one that starts to run meanwhile is judged anew
        if !leaving && !ended && !given_revision {
            options.resource_version = at();
        }
    } else if let Some((handle, budget)) = budget_of(inner, t, pod)? {
        let name = object::meta(&budget, "name").to_owned();
        if unhealthy_may_go(&budget, pod) {
            if !given_revision {
                options.resource_version = at();
            }
        } else {
            let mut w = Write::new(
                inner,
                &call.who,
                &handle,
                &t.namespace,
                &name,
                write,
                Part::Status,
            );
            w.admitted = true;
            w.update(|live, _| {
                Ok(Change {
                    object: charge(live, &handle, &t.name)?,
                    applied: false,
                })
            })
            .await?;
        }
        budget_name = Some(name);
    }
    let done = delete(inner, call, t, write, &options).await;
    match (done, budget_name) {
        // it became healthy meanwhile
        (Err(e), Some(name))
            if e.code() == 409 && !given_revision && options.resource_version.is_some() =>
        {
            Err(refused(RETRY_S, &still_processed(&name)))
        }
        (done, _) => done,
    }
}

/// Says in the Pod's status why it goes, and deletes it.
async fn delete(
    inner: &Inner,
    call: &Call,
    t: &Target,
    write: &WriteOptions,
    options: &DeleteOptions,
) -> Result<(), Failure> {
    let mut options = options.clone();
    if !options.dry_run {
        let part = Part::Sub("eviction");
        let (uid, revision) = (options.uid.clone(), options.resource_version.clone());
        let mut w = Write::new(
            inner,
            &call.who,
            &t.resource,
            &t.namespace,
            &t.name,
            write,
            part,
        );
        w.admitted = true;
        let written = w
            .update(|live, _| {
                let mut object = live.clone();
                let m = object::meta_mut(&mut object);
                // preconditions of the eviction, or none
                m.remove("resourceVersion");
                if let Some(uid) = &uid {
                    m.insert("uid".into(), uid.as_str().into());
                }
                if let Some(revision) = &revision {
                    m.insert("resourceVersion".into(), revision.as_str().into());
                }
                disrupt(&mut object);
                Ok(Change {
                    object,
                    applied: false,
                })
            })
            .await?;
        if options.resource_version.is_some() {
            let new = object::parse(&written.into_bytes())?;
            options.resource_version = Some(object::meta(&new, "resourceVersion").to_owned());
        }
    }
    let by = delete::Requester::Admitted;
    delete::delete(inner, &t.resource, &t.namespace, &t.name, &options, by)
        .await
        .map(|_| ())
}

/// The budget that selects the Pod. Two are an error: which would count?
fn budget_of(inner: &Inner, t: &Target, pod: &Value) -> Result<Option<(Handle, Value)>, Failure> {
    let Some(budgets) = inner.catalog().preferred("policy", "poddisruptionbudgets") else {
        return Ok(None);
    };
    let labels = pod.pointer("/metadata/labels").unwrap_or(&Value::Null);
    let snapshot = inner.store.snapshot();
    let mut found = None;
    for e in snapshot.range(&catalog::prefix(&budgets, &t.namespace), None) {
        let budget = object::parse(&e.value)?;
        let selector = budget.pointer("/spec/selector").unwrap_or(&Value::Null);
        if selector.is_null() {
            continue;
        }
        let Ok(selector) = LabelSelector::parse(&label_selector_string(selector, false)) else {
            continue;
        };
        if !selector.matches(labels) {
            continue;
        }
        if found.is_some() {
            return Err(Failure::new(
                500,
                "",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
        found = Some(budget);
    }
    Ok(found.map(|b| (budgets, b)))
}

fn number(of: &Value, pointer: &str) -> i64 {
    of.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// A Pod that isn't ready takes nothing from a budget that is kept, or that says so (`unhealthyPodEvictionPolicy`).
fn unhealthy_may_go(budget: &Value, pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions
        .into_iter()
        .flatten()
        .any(|c| c["type"] == "Ready" && c["status"] == "True");
    let desired = number(budget, "/status/desiredHealthy");
    !ready
        && (budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
            || (desired > 0 && number(budget, "/status/currentHealthy") >= desired))
}

fn refused(retry_s: u32, why: &str) -> Failure {
    let failure = Failure::new(
        429,
        "TooManyRequests",
        "Cannot evict pod as it would violate the pod's disruption budget.",
    )
    .cause("DisruptionBudget", why, "");
    match retry_s {
        0 => failure,
        s => failure.retry_after(s),
    }
}

fn still_processed(budget: &str) -> String {
    format!("The disruption budget {budget} is still being processed by the server.")
}

/// The budget with one disruption less, which the Pod has taken.
fn charge(live: &Value, r: &Handle, pod: &str) -> Result<Value, Failure> {
    let name = object::meta(live, "name");
    let status = |field: &str| number(live, &format!("/status/{field}"));
    if status("observedGeneration") < number(live, "/metadata/generation") {
        return Err(refused(RETRY_S, &still_processed(name)));
    }
    let allowed = status("disruptionsAllowed");
    let disrupted = live.pointer("/status/disruptedPods");
    if allowed < 0 {
        let why = "pdb disruptions allowed is negative";
        return Err(Failure::forbidden(r, name, why));
    }
    if disrupted
        .and_then(Value::as_object)
        .is_some_and(|all| all.len() > DISRUPTED_MAX)
    {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Failure::forbidden(r, name, why));
    }
    if allowed == 0 {
        let conditions = live.pointer("/status/conditions").and_then(Value::as_array);
        let condition = conditions
            .into_iter()
            .flatten()
            .find(|c| c["type"] == CONDITION && c["status"] == "False");
        let part = |field: &str| condition.and_then(|c| c[field].as_str()).unwrap_or("");
        let (reason, message) = (part("reason"), part("message"));
        let (desired, current) = (status("desiredHealthy"), status("currentHealthy"));
        let why = if reason == "SyncFailed" && !message.is_empty() {
            format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
            )
        } else if current <= desired {
            format!(
                "The disruption budget {name} needs {desired} healthy pods and has {current} currently"
            )
        } else if !message.is_empty() {
            format!(
                "The disruption budget {name} does not allow evicting pods currently ({reason}): {message}"
            )
        } else {
            format!("The disruption budget {name} does not allow evicting pods currently")
        };
        return Err(refused(0, &why));
    }
    let mut budget = live.clone();
    object::meta_mut(&mut budget).remove("resourceVersion");
    let generation = status("observedGeneration");
    let now = object::now();
    let status = &mut budget["status"];
    status["disruptionsAllowed"] = (allowed - 1).into();
    if !status["disruptedPods"].is_object() {
        status["disruptedPods"] = json!({});
    }
    status["disruptedPods"][pod] = now.clone().into();
    if allowed == 1 {
        let mut insufficient = json!({"type": CONDITION, "status": "False", "message": "",
            "reason": "InsufficientPods", "observedGeneration": generation,
            "lastTransitionTime": now});
        if !status["conditions"].is_array() {
            status["conditions"] = json!([]);
        }
        if let Some(all) = status["conditions"].as_array_mut() {
            match all.iter_mut().find(|c| c["type"] == CONDITION) {
                Some(c) => {
                    if c["status"] == "False" {
                        insufficient["lastTransitionTime"] = c["lastTransitionTime"].take();
                    }
                    *c = insufficient;
                }
                None => all.push(insufficient),
            }
        }
    }
    Ok(budget)
}

/// The condition that says why the Pod goes.
fn disrupt(pod: &mut Value) {
    let mut condition = json!({"type": "DisruptionTarget", "status": "True",
        "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
        "lastProbeTime": null, "lastTransitionTime": object::now()});
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    let list = &mut pod["status"]["conditions"];
    if !list.is_array() {
        *list = json!([]);
    }
    if let Some(list) = list.as_array_mut() {
        match list.iter_mut().find(|c| c["type"] == "DisruptionTarget") {
            Some(c) => {
                if c["status"] == "True" {
                    condition["lastTransitionTime"] = c["lastTransitionTime"].take();
                }
                *c = condition;
            }
            None => list.push(condition),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unhealthy_pods() {
        let pod = |ready: &str| json!({"status":{"conditions":[{"type":"Ready","status":ready}]}});
        let budget = |policy: Value, current: i64, desired: i64| {
            json!({"spec":{"unhealthyPodEvictionPolicy":policy},
                "status":{"currentHealthy":current,"desiredHealthy":desired}})
        };
        for (ready, policy, current, desired, want) in [
            ("True", json!("AlwaysAllow"), 0, 1, false),
            ("False", json!("AlwaysAllow"), 0, 1, true),
            ("False", Value::Null, 0, 1, false),
            ("False", Value::Null, 1, 1, true),
            ("False", json!("IfHealthyBudget"), 0, 0, false),
        ] {
            let got = unhealthy_may_go(&budget(policy.clone(), current, desired), &pod(ready));
            assert_eq!(got, want, "{ready} {policy} {current}/{desired}");
        }
    }
}
