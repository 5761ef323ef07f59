//! Which objects a quota's scopes mean (`pkg/quota/v1/evaluator/core`).

use serde::Deserialize;
use serde_json::Value;

use crate::objects::meta::nullable;

/// `v1.ScopedResourceSelectorRequirement`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Scope {
    /// e.g. `Terminating`
    pub scope_name: Box<str>,
    /// In, NotIn, Exists, DoesNotExist
    pub operator: Box<str>,
    /// names meant
    #[serde(deserialize_with = "nullable")]
    pub values: Vec<Box<str>>,
}

impl Scope {
    /// One of `spec.scopes`.
    pub fn named(name: &str) -> Scope {
        Scope {
            scope_name: name.into(),
            operator: "Exists".into(),
            values: vec![],
        }
    }
    fn names(&self, name: Option<&str>) -> bool {
        let listed = name.is_some_and(|n| self.values.iter().any(|v| &**v == n));
        match &*self.operator {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => name.is_some(),
            "DoesNotExist" => name.is_none(),
            _ => false,
        }
    }
    /// The Pod is meant.
    pub fn means_pod(&self, pod: &Value) -> bool {
        let text = |p: &str| {
            let text = pod.pointer(p).and_then(Value::as_str);
            text.filter(|t| !t.is_empty())
        };
        let terminating = pod
            .pointer("/spec/activeDeadlineSeconds")
            .and_then(Value::as_i64)
            .is_some_and(|s| s >= 0);
        match &*self.scope_name {
            "Terminating" => terminating,
            "NotTerminating" => !terminating,
            "BestEffort" => best_effort(pod),
            "NotBestEffort" => !best_effort(pod),
            "PriorityClass" => self.names(text("/spec/priorityClassName")),
            "CrossNamespacePodAffinity" => crosses_namespaces(pod),
            _ => false,
        }
    }
    /// The PersistentVolumeClaim is meant: by any class that it has, wants or is on its way to.
    pub fn means_claim(&self, claim: &Value) -> bool {
        if &*self.scope_name != "VolumeAttributesClass" {
            return false;
        }
        let names: Vec<&str> = [
            "/spec/volumeAttributesClassName",
            "/status/currentVolumeAttributesClassName",
            "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
        ]
        .iter()
        .filter_map(|p| claim.pointer(p).and_then(Value::as_str))
        .filter(|n| !n.is_empty())
        .collect();
        if names.is_empty() {
            return self.names(None);
        }
        names.iter().any(|n| self.names(Some(n)))
    }
}

/// The Pod's quality of service class is BestEffort.
fn best_effort(pod: &Value) -> bool {
    if let Some(class) = pod.pointer("/status/qosClass").and_then(Value::as_str) {
        return class == "BestEffort";
    }
    let asks = |of: &Value| {
        ["requests", "limits"].iter().any(|list| {
            ["cpu", "memory"].iter().any(|r| {
                let amount = of
                    .get("resources")
                    .and_then(|o| o.get(list))
                    .and_then(|o| o.get(r));
                amount
                    .and_then(knarr_quantity::Quantity::of)
                    .is_some_and(|a| !a.is_zero())
            })
        })
    };
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let mut containers = ["containers", "initContainers"]
        .iter()
        .filter_map(|list| spec.get(list).and_then(Value::as_array))
        .flatten();
    !asks(spec) && !containers.any(asks)
}

/// A term of its affinity looks at other namespaces.
fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| {
        let some = |v: Option<&Value>| v.is_some_and(|v| !v.is_null());
        term.get("namespaces")
            .and_then(Value::as_array)
            .is_some_and(|n| !n.is_empty())
            || some(term.get("namespaceSelector"))
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let Some(affinity) = pod.pointer(&format!("/spec/affinity/{kind}")) else {
            return false;
        };
        let list = |name: &str| affinity.get(name).and_then(Value::as_array);
        let required = list("requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = list("preferredDuringSchedulingIgnoredDuringExecution");
        required.into_iter().flatten().any(crosses)
            || preferred
                .into_iter()
                .flatten()
                .filter_map(|p| p.get("podAffinityTerm"))
                .any(crosses)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(scope: Value, object: Value, want: bool) {
        let scope: Scope = match scope {
            Value::String(name) => Scope::named(&name),
            other => serde_json::from_value(other).unwrap(),
        };
        let got = scope.means_pod(&object) || scope.means_claim(&object);
        assert_eq!(got, want, "{scope:?} {object}");
    }

    #[test]
    fn pods() {
        let asks = |r: Value| json!({"spec":{"containers":[{"resources":r}]}});
        check(
            json!("Terminating"),
            json!({"spec":{"activeDeadlineSeconds":0}}),
            true,
        );
        check(
            json!("NotTerminating"),
            json!({"spec":{"activeDeadlineSeconds":0}}),
            false,
        );
        check(json!("NotTerminating"), json!({"spec":{}}), true);
        check(json!("BestEffort"), asks(json!({})), true);
        check(
            json!("BestEffort"),
            asks(json!({"requests":{"cpu":"0"}})),
            true,
        );
        check(
            json!("NotBestEffort"),
            asks(json!({"limits":{"memory":"1Mi"}})),
            true,
        );
        check(
            json!("NotBestEffort"),
            asks(json!({"requests":{"example.com/x":"1"}})),
            false,
        );
        check(
            json!("NotBestEffort"),
            json!({"spec":{"resources":{"requests":{"cpu":1}}}}),
            true,
        );
        check(
            json!("BestEffort"),
            json!({"status":{"qosClass":"Burstable"}}),
            false,
        );
        let priority =
            |op: &str| json!({"scopeName":"PriorityClass","operator":op,"values":["high"]});
        let pod = |class: &str| json!({"spec":{"priorityClassName":class}});
        check(priority("In"), pod("high"), true);
        check(priority("In"), pod("low"), false);
        check(priority("In"), pod(""), false);
        check(priority("NotIn"), pod("low"), true);
        check(priority("NotIn"), pod(""), true);
        check(priority("NotIn"), pod("high"), false);
        check(priority("Exists"), pod("low"), true);
        check(priority("Exists"), pod(""), false);
        check(priority("DoesNotExist"), pod(""), true);
        let term = |t: Value| {
            json!({"spec":{"affinity":{"podAntiAffinity":{
            "preferredDuringSchedulingIgnoredDuringExecution":[{"podAffinityTerm":t}]}}}})
        };
        check(
            json!("CrossNamespacePodAffinity"),
            term(json!({"namespaceSelector":{}})),
            true,
        );
        check(
            json!("CrossNamespacePodAffinity"),
            term(json!({"namespaces":["a"]})),
            true,
        );
        check(
            json!("CrossNamespacePodAffinity"),
            term(json!({"topologyKey":"a"})),
            false,
        );
        check(json!("Unheard"), json!({}), false);
    }

    #[test]
    fn claims() {
        let class =
            |op: &str| json!({"scopeName":"VolumeAttributesClass","operator":op,"values":["gold"]});
        let claim = json!({"spec":{"volumeAttributesClassName":"silver"},
            "status":{"currentVolumeAttributesClassName":"gold"}});
        check(class("In"), claim.clone(), true);
        check(class("Exists"), claim, true);
        check(class("In"), json!({"spec":{}}), false);
        check(class("DoesNotExist"), json!({"spec":{}}), true);
        check(
            json!("BestEffort"),
            json!({"spec":{},"status":{"qosClass":"Guaranteed"}}),
            false,
        );
    }
}
