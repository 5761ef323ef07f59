//! ClusterRoles put together of others by label (upstream `pkg/controller/clusterroleaggregation`).

use knarr_access::{policy, rbac::GROUP};
use serde_json::Value;

use crate::{
    catalog,
    identity::Identity,
    object,
    object::meta,
    query::WriteOptions,
    selector::{LabelSelector, label_selector_string},
    server::Inner,
    status::Failure,
    write::{Change, Part, Write},
};

const MANAGER: &str = "clusterrole-aggregation-controller";
/// Rounds in which a role's new rules may reach the roles that aggregate it.
const ROUNDS_MAX: usize = 8;

fn chosen(selector: &Value, labels: &Value) -> bool {
    LabelSelector::parse(&label_selector_string(selector, false)).is_ok_and(|s| s.matches(labels))
}

/// Gives every aggregated ClusterRole the rules of those it selects.
pub async fn run(inner: &Inner) -> Result<(), Failure> {
    let Some(r) = inner.catalog().preferred(GROUP, "clusterroles") else {
        return Ok(());
    };
    let (who, options) = (Identity::loopback(), WriteOptions::internal(MANAGER));
    for _ in 0..ROUNDS_MAX {
        let snapshot = inner.store.snapshot();
        let mut all: Vec<Value> = Vec::new();
        for entry in snapshot.range(&catalog::prefix(&r, ""), None) {
            let mut role = object::parse(&entry.value)?;
            if let Some(m) = role["metadata"].as_object_mut() {
                m.remove("managedFields");
            }
            all.push(role);
        }
        let mut changed = false;
        for role in all.iter().filter(|r| !r["aggregationRule"].is_null()) {
            let rules = policy::aggregate(role, all.iter(), chosen);
            let had = role["rules"].as_array().map_or(&[][..], |r| r);
            if had == rules {
                continue;
            }
            changed = true;
            let name = meta(role, "name");
            let mut w = Write::new(inner, &who, &r, "", name, &options, Part::Main);
            let written = w
                .update(|live, _| {
                    let mut object = live.clone();
                    if !object["aggregationRule"].is_null() {
                        object["rules"] = rules.clone().into();
                    }
                    Ok(Change {
                        object,
                        applied: false,
                    })
                })
                .await;
            match written {
                Err(f) if f.code() != 404 => return Err(f),
                _ => {}
            }
        }
        if !changed {
            break;
        }
    }
    Ok(())
}
