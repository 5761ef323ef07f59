//! Nobody hands out rights they don't have: checks at writes of roles and bindings (upstream
//! `pkg/registry/rbac/*/policybased`, `pkg/registry/rbac/escalation_check.go`).

use knarr_access::{
    Attributes, Rule, cover,
    policy::rules,
    rbac::{GROUP, Kind, RoleRef},
};
use serde_json::{Value, json};

use crate::{identity::Identity, object::meta, registry::Resource, server::Inner, status::Failure};

/// 403 when the write (`old` is None for a create) would give somebody rights that the writer lacks. Other resources
/// pass.
pub fn check(
    inner: &Inner,
    who: &Identity,
    r: &Resource,
    namespace: &str,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), Failure> {
    if r.group != GROUP || who.is_master() {
        return Ok(());
    }
    let Some(kind) = Kind::of(r.plural) else {
        return Ok(());
    };
    if old.is_some_and(|old| only_for_the_collector(new, old)) {
        return Ok(());
    }
    let name = meta(new, "name");
    let refused = |why: String| Failure::forbidden(r, name, &why);
    let may = |verb: &str, resource: &str, name: &str| {
        let a = Attributes::resource(verb, GROUP, resource, namespace, name);
        super::decide(inner, who.info(), &a).allowed()
    };
    match kind {
        Kind::Role | Kind::ClusterRole => {
            // at a create the request has no name yet, as upstream asks
            let asked_name = if old.is_some() { name } else { "" };
            if may("escalate", r.plural, asked_name) {
                return Ok(());
            }
            covered(inner, who, namespace, &rules(new)).map_err(refused)?;
            if aggregates(new) || old.is_some_and(aggregates) {
                covered(inner, who, namespace, &everything()).map_err(|_| {
                    refused("must have cluster-admin privileges to use the aggregationRule".into())
                })?;
            }
            Ok(())
        }
        Kind::RoleBinding | Kind::ClusterRoleBinding => {
            let role: RoleRef = serde_json::from_value(new["roleRef"].clone()).unwrap_or_default();
            let plural = match role.kind.as_str() {
                "ClusterRole" => "clusterroles",
                "Role" => "roles",
                // validation says what is wrong with it
                _ => return Ok(()),
            };
            if may("bind", plural, &role.name) {
                return Ok(());
            }
            let granted = super::rules_of(inner, &role, namespace)
                .map_err(|_| Failure::not_found_named(GROUP, plural, &role.name))?;
            covered(inner, who, namespace, &granted).map_err(refused)
        }
    }
}

fn covered(inner: &Inner, who: &Identity, namespace: &str, asked: &[Rule]) -> Result<(), String> {
    let (held, trouble) = super::rules_for(inner, who.info(), namespace);
    cover::no_escalation(who.info(), &held, asked, &trouble)
}

fn everything() -> Vec<Rule> {
    rules(&json!({"rules": [
        {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
        {"verbs": ["*"], "nonResourceURLs": ["*"]},
    ]}))
}

fn aggregates(role: &Value) -> bool {
    role.pointer("/aggregationRule/clusterRoleSelectors")
        .and_then(Value::as_array)
        .is_some_and(|s| !s.is_empty())
}

/// Only owner references and finalizers differ: the garbage collector must not need the rights.
fn only_for_the_collector(new: &Value, old: &Value) -> bool {
    let without = |o: &Value| {
        let mut o = o.clone();
        if let Some(m) = o.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in [
                "ownerReferences",
                "finalizers",
                "managedFields",
                "resourceVersion",
            ] {
                m.remove(field);
            }
        }
        o
    };
    let differ = |f: &str| new["metadata"][f] != old["metadata"][f];
    (differ("ownerReferences") || differ("finalizers")) && without(new) == without(old)
}
