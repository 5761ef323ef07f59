//! Who may say what of a ResourceClaim: its devices and users are the scheduler's to set, what is said of each device is its
//! driver's (upstream `pkg/registry/resource/utils.go`, `AuthorizedForBinding` and `AuthorizedForDeviceStatus`).

use std::collections::BTreeSet;

use knarr_access::Attributes;
use serde_json::Value;

use crate::{
    identity::Identity,
    registry::{FieldError, Resource},
    server::Inner,
};

const GROUP: &str = "resource.k8s.io";
const CLAIMS: &str = "resourceclaims";
/// What a service account's token says of the node that it is for.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// What is wrong with a write of a claim's status, by who makes it. Other resources pass. `verb` is the request's.
pub fn check(
    inner: &Inner,
    who: &Identity,
    r: &Resource,
    verb: &str,
    new: &Value,
    old: &Value,
) -> Vec<FieldError> {
    if (r.group, r.plural) != (GROUP, CLAIMS) || who.is_master() {
        return Vec::new();
    }
    let of = |o: &Value, field: &str| o["status"].get(field).cloned().unwrap_or_default();
    let differs = |field: &str| of(new, field) != of(old, field);
    let mut errors = Vec::new();
    let asked = |verb: &str, subresource: &str, namespace: &str, name: &str| {
        let mut a = Attributes::resource(verb, GROUP, CLAIMS, namespace, name);
        a.subresource = subresource.to_owned();
        match super::decide(inner, who.info(), &a) {
            decision if decision.allowed() => Ok(()),
            decision => {
                let refusal = super::forbidden(who.user(), &a, decision.reason());
                Err(refusal.message().to_owned())
            }
        }
    };
    let binds = differs("allocation") || differs("reservedFor");
    if binds && let Err(why) = asked(verb, "binding", "", "") {
        errors.push(FieldError::Forbidden {
            field: "status.allocation".into(),
            detail: format!(
                "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb={verb:?} permission: {why}"
            ),
        });
    }
    // without devices, nothing is said of any
    if of(new, "allocation").is_null() {
        return errors;
    }
    let here = is_at_its_node(who, &of(new, "allocation"));
    let mut verbs = vec![format!("arbitrary-node:{verb}")];
    if here {
        verbs.insert(0, format!("associated-node:{verb}"));
    }
    let namespace = new["metadata"]["namespace"].as_str().unwrap_or_default();
    for driver in changed(&of(new, "devices"), &of(old, "devices")) {
        let mut first = None;
        let allowed = verbs.iter().any(|verb| {
            let answer = asked(verb, "driver", namespace, &driver);
            if let (Err(why), None) = (&answer, &first) {
                first = Some(why.clone());
            }
            answer.is_ok()
        });
        if !allowed {
            errors.push(FieldError::Forbidden {
                field: "status.devices".into(),
                detail: format!(
                    "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{}]\" permission: {}",
                    verbs.join(" "),
                    first.unwrap_or_default()
                ),
            });
        }
    }
    errors
}

/// Drivers of whose devices something else is said now.
fn changed(new: &Value, old: &Value) -> BTreeSet<String> {
    let all = |o: &Value| o.as_array().cloned().unwrap_or_default();
    let key = |d: &Value| ["driver", "pool", "device", "shareID"].map(|f| d[f].clone());
    let (new, old) = (all(new), all(old));
    let differs = |d: &&Value, others: &[Value]| {
        let other = others.iter().find(|o| key(o) == key(d));
        other.is_none_or(|o| o != *d)
    };
    let now = new.iter().filter(|d| differs(d, &old));
    let gone = old.iter().filter(|d| differs(d, &new));
    now.chain(gone)
        .filter_map(|d| Some(d["driver"].as_str()?.to_owned()))
        .collect()
}

/// The devices are one node's, and the service account's token is for that node.
fn is_at_its_node(who: &Identity, allocation: &Value) -> bool {
    let Some([term]) = allocation["nodeSelector"]["nodeSelectorTerms"]
        .as_array()
        .map(Vec::as_slice)
    else {
        return false;
    };
    let expressions = term["matchExpressions"].as_array().map_or(0, Vec::len);
    let Some([field]) = term["matchFields"].as_array().map(Vec::as_slice) else {
        return false;
    };
    let node = match (expressions, field["values"].as_array().map(Vec::as_slice)) {
        (0, Some([one])) if field["key"] == "metadata.name" && field["operator"] == "In" => {
            one.as_str().unwrap_or_default()
        }
        _ => return false,
    };
    let user = who.info();
    let nodes = user.extra.get(NODE_NAME).map_or(&[][..], Vec::as_slice);
    user.name.starts_with("system:serviceaccount:")
        && !node.is_empty()
        && matches!(nodes, [one] if one == node)
}
