//! DefaultTolerationSeconds and TaintNodesByCondition: a Pod outlives five minutes of its node's absence, and a new node
//! is not ready until it says so.

use serde_json::{Value, json};

use super::{
    Attributes, Operation,
    json::{list_mut, text},
};

const SECONDS: i64 = 300;
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// A new node takes no work before it says that it is ready; its controller takes the taint away.
pub fn taint(a: &mut Attributes<'_>) {
    if !a.is("", "nodes") || a.operation != Operation::Create {
        return;
    }
    let Some(node) = a.object.as_mut() else {
        return;
    };
    let list = list_mut(&mut node["spec"], "taints");
    if !list
        .iter()
        .any(|t| t["key"] == NOT_READY && t["effect"] == "NoSchedule")
    {
        list.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
}

/// Tolerations for the two taints of an absent node, unless the Pod has its own.
pub fn admit(a: &mut Attributes<'_>) {
    if !a.is("", "pods") || !matches!(a.operation, Operation::Create | Operation::Update) {
        return;
    }
    let Some(pod) = a.object.as_mut().filter(|o| o["spec"].is_object()) else {
        return;
    };
    for key in [NOT_READY, UNREACHABLE] {
        let has = super::json::items(pod, "/spec/tolerations")
            .iter()
            .any(|t| {
                (text(t, "/key") == key || text(t, "/key").is_empty())
                    && matches!(text(t, "/effect"), "" | "NoExecute")
            });
        if !has {
            list_mut(&mut pod["spec"], "tolerations").push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
            }));
        }
    }
}

/// `tolerations.MergeTolerations`: the union, a toleration that another covers left out.
pub fn merge(first: &[Value], second: &[Value]) -> Vec<Value> {
    let all: Vec<&Value> = first.iter().chain(second).collect();
    let mut merged: Vec<Value> = Vec::new();
    'next: for (i, t) in all.iter().enumerate() {
        for kept in &merged {
            if superset(kept, t) {
                continue 'next; // t is covered
            }
        }
        for later in &all[i + 1..] {
            if superset(later, t) && !same(later, t) {
                continue 'next;
            }
        }
        merged.push((*t).clone());
    }
    merged
}

fn same(a: &Value, b: &Value) -> bool {
    ["key", "operator", "value", "effect"]
        .iter()
        .all(|k| a[*k].as_str().unwrap_or("") == b[*k].as_str().unwrap_or(""))
        && a["tolerationSeconds"] == b["tolerationSeconds"]
}

/// Does `a` tolerate all that `b` does?
fn superset(a: &Value, b: &Value) -> bool {
    if same(a, b) {
        return true;
    }
    let (key, effect) = (text(a, "/key"), text(a, "/effect"));
    if key != text(b, "/key") && !(key.is_empty() && text(a, "/operator") == "Exists") {
        return false;
    }
    if !effect.is_empty() && effect != text(b, "/effect") {
        return false;
    }
    if effect == "NoExecute" {
        match (
            a["tolerationSeconds"].as_i64(),
            b["tolerationSeconds"].as_i64(),
        ) {
            (Some(_), None) => return false,
            (Some(x), Some(y)) if x < y => return false,
            _ => {}
        }
    }
    match text(a, "/operator") {
        "Exists" => true,
        "" | "Equal" => {
            matches!(text(b, "/operator"), "" | "Equal") && text(a, "/value") == text(b, "/value")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toleration_that_another_covers_is_left_out() {
        let t = |key: &str, op: &str, value: &str, effect: &str| {
            let mut t = json!({"operator": op});
            for (k, v) in [("key", key), ("value", value), ("effect", effect)] {
                if !v.is_empty() {
                    t[k] = v.into();
                }
            }
            t
        };
        let all = t("", "Exists", "", "");
        let foo = t("foo", "Equal", "bar", "NoSchedule");
        let any_foo = t("foo", "Exists", "", "NoSchedule");
        for (name, a, b, want) in [
            (
                "disjoint",
                vec![foo.clone()],
                vec![t("baz", "Exists", "", "")],
                2,
            ),
            ("same", vec![foo.clone()], vec![foo.clone()], 1),
            (
                "covered by the second",
                vec![foo.clone()],
                vec![all.clone()],
                1,
            ),
            (
                "covered by the first",
                vec![all.clone()],
                vec![foo.clone()],
                1,
            ),
            ("exists covers equal", vec![foo.clone()], vec![any_foo], 1),
        ] {
            assert_eq!(merge(&a, &b).len(), want, "{name}");
        }
    }
}
