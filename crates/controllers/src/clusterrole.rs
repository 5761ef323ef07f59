//! ClusterRoles that are the sum of others (`pkg/controller/clusterroleaggregation`).

use std::sync::Arc;

use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    error::Result,
    machinery::{
        context::Context,
        queue::Queue,
        rest::{Ignored, Rest},
        work::{Next, work},
    },
    objects::{
        meta::{Key, Meta, nullable},
        selector::Selector,
    },
};

const NAME: &str = "clusterroleaggregation";
const GROUP: &str = "rbac.authorization.k8s.io";
const PATH: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClusterRole {
    metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    rules: Vec<Value>,
    aggregation_rule: Option<Aggregation>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Aggregation {
    #[serde(deserialize_with = "nullable")]
    cluster_role_selectors: Vec<Selector>,
}

#[derive(Deserialize)]
struct List {
    #[serde(default, deserialize_with = "nullable")]
    items: Vec<ClusterRole>,
}

/// The cluster role aggregation controller. It keeps nothing: a change is a reason to look at all.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    ctx.inventory_wanted();
    let rest = ctx.rest(NAME);
    let queue: Arc<Queue<Key>> = Arc::default();
    let changes = queue.clone();
    ctx.inventory.on_touch(move |resource| {
        if &*resource.plural == "clusterroles" && &*resource.group == GROUP {
            changes.add(Key::default());
        }
    });
    Box::pin(async move {
        // one pass at a time, over all roles
        work(NAME, &queue, 1, |_: Key| aggregate(&rest)).await;
    })
}

/// The rules that a role should have; None: it isn't a sum.
fn sum(role: &ClusterRole, all: &[ClusterRole]) -> Option<Vec<Value>> {
    let aggregation = role.aggregation_rule.as_ref()?;
    let mut rules: Vec<Value> = vec![];
    for selector in &aggregation.cluster_role_selectors {
        // in the order of their names, as the list is
        for other in all {
            let itself = other.metadata.name == role.metadata.name;
            if itself || !selector.matches(&other.metadata.labels) {
                continue;
            }
            for rule in &other.rules {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules)
}

async fn aggregate(rest: &Rest) -> Result<Next> {
    let mut list: List = rest.get(PATH).await?;
    list.items
        .sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    for role in &list.items {
        let Some(rules) = sum(role, &list.items) else {
            continue;
        };
        if rules == role.rules {
            continue;
        }
        let path = format!("{PATH}/{}", role.metadata.name);
        let patch = json!({
            "metadata": {"resourceVersion": role.metadata.resource_version},
            "rules": rules,
        });
        match rest.merge::<Ignored>(&path, &patch).await {
            Ok(_) => {}
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Next::Wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_roles() {
        let role = |name: &str, labels: Value, rules: Value, selectors: Value| -> ClusterRole {
            let mut role = json!({"metadata":{"name":name,"labels":labels},"rules":rules});
            if !selectors.is_null() {
                role["aggregationRule"] = json!({"clusterRoleSelectors":selectors});
            }
            serde_json::from_value(role).unwrap()
        };
        let rule = |r: &str| json!({"verbs":["get"],"resources":[r]});
        let view = json!({"to":"view"});
        let selectors = json!([{"matchLabels":view}, {"matchExpressions":[{"key":"more","operator":"Exists"}]}]);
        let all = [
            role(
                "a",
                view.clone(),
                json!([rule("pods"), rule("nodes")]),
                Value::Null,
            ),
            role(
                "b",
                json!({"more":""}),
                json!([rule("secrets"), rule("pods")]),
                Value::Null,
            ),
            role("c", json!({}), json!([rule("jobs")]), Value::Null),
            role("sum", view, json!([rule("old")]), selectors),
        ];
        assert_eq!(sum(&all[0], &all), None);
        let want = vec![rule("pods"), rule("nodes"), rule("secrets")];
        assert_eq!(sum(&all[3], &all), Some(want));
    }
}
