//! The roles and bindings every cluster is born with, and how those that are there are brought up to date (upstream
//! `plugin/pkg/auth/authorizer/rbac/bootstrappolicy`, `component-helpers/auth/rbac/reconciliation`).

use serde_json::{Map, Value, json};

use crate::{
    cover,
    rbac::{GROUP, Kind},
    rule::Rule,
};

const TABLE: &str = include_str!("../data/policy.txt");
/// What upstream has no roles for.
const OWN: &str = include_str!("../data/own.txt");
/// Annotation; `false` keeps a default role as its owner made it.
pub const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";

/// One object of the policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Default {
    /// Which of the four kinds.
    pub kind: Kind,
    /// Empty for cluster scope.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The whole object.
    pub object: Value,
}

/// All of the policy, roles before bindings. A line of the table that can't be read is a bug, which a test finds.
pub fn defaults() -> Vec<Default> {
    let mut out: Vec<Default> = Vec::new();
    for line in TABLE.lines().chain(OWN.lines()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] | ["#", ..] => {}
            ["role", name, flags @ ..] => out.push(role(name, flags)),
            ["bind", name, role, subjects @ ..] => out.push(binding(name, role, subjects)),
            words => {
                if let Some(last) = out.last_mut()
                    && let Some(rules) = last.object["rules"].as_array_mut()
                {
                    rules.extend(rule(words));
                }
            }
        }
    }
    out
}

fn place(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or(("", name))
}

fn metadata(name: &str, namespace: &str) -> Value {
    let mut m = json!({
        "name": name,
        "annotations": {AUTO_UPDATE: "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    });
    if !namespace.is_empty() {
        m["namespace"] = namespace.into();
    }
    m
}

fn role(name: &str, flags: &[&str]) -> Default {
    let (namespace, name) = place(name);
    let (kind, kind_name) = match namespace {
        "" => (Kind::ClusterRole, "ClusterRole"),
        _ => (Kind::Role, "Role"),
    };
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind_name,
        "metadata": metadata(name, namespace), "rules": [],
    });
    for flag in flags {
        if let Some(to) = flag.strip_prefix("to:") {
            object["metadata"]["labels"][format!("{AGGREGATE}{to}")] = "true".into();
        } else if let Some(of) = flag.strip_prefix("of:") {
            object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {format!("{AGGREGATE}{of}"): "true"}}]});
        }
    }
    Default {
        kind,
        namespace: namespace.into(),
        name: name.into(),
        object,
    }
}

fn rule(words: &[&str]) -> Option<Value> {
    let list = |s: &str| -> Vec<String> {
        s.split(',')
            .map(|w| if w == "core" { "" } else { w }.to_string())
            .collect()
    };
    match words {
        [verbs, "url", paths] => {
            Some(json!({"verbs": list(verbs), "nonResourceURLs": list(paths)}))
        }
        [verbs, groups, resources, names @ ..] => {
            let mut rule = json!({"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources)});
            if let [names] = names {
                rule["resourceNames"] = json!(list(names));
            }
            Some(rule)
        }
        _ => None,
    }
}

fn binding(name: &str, role: &str, subjects: &[&str]) -> Default {
    let (namespace, name) = place(name);
    let (kind, kind_name) = match namespace {
        "" => (Kind::ClusterRoleBinding, "ClusterRoleBinding"),
        _ => (Kind::RoleBinding, "RoleBinding"),
    };
    let (role_kind, role) = role.split_once(':').unwrap_or(("ClusterRole", role));
    let subjects: Vec<Value> = subjects.iter().filter_map(|s| subject(s)).collect();
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind_name,
        "metadata": metadata(name, namespace),
        "roleRef": {"apiGroup": GROUP, "kind": role_kind, "name": role},
    });
    if !subjects.is_empty() {
        object["subjects"] = subjects.into();
    }
    Default {
        kind,
        namespace: namespace.into(),
        name: name.into(),
        object,
    }
}

fn subject(text: &str) -> Option<Value> {
    let (kind, name) = text.split_once(':')?;
    Some(match kind {
        "user" => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
        "group" => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
        _ => {
            let (namespace, name) = name.split_once('/')?;
            json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
    })
}

/// What becomes of a default that is there already.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// It has all it needs, or its owner keeps it.
    Leave,
    /// Store this instead.
    Update(Value),
    /// The binding's role differs, which can't be changed: delete it, create the default.
    Replace,
}

/// Adds to `live` what the default has and it lacks; nothing is taken away.
pub fn reconcile(default: &Default, live: &Value) -> Step {
    let protected = live
        .pointer("/metadata/annotations")
        .and_then(|a| a.get(AUTO_UPDATE))
        .is_some_and(|v| v == "false");
    if protected {
        return Step::Leave;
    }
    let mut new = live.clone();
    for field in ["labels", "annotations"] {
        let Some(wanted) = default.object["metadata"][field].as_object() else {
            continue;
        };
        let had = live["metadata"][field].as_object().cloned();
        let mut merged: Map<String, Value> = wanted.clone();
        // the live one's own values win, as upstream's merge has it
        merged.extend(had.unwrap_or_default());
        new["metadata"][field] = merged.into();
    }
    match default.kind {
        Kind::Role | Kind::ClusterRole => {
            if !default.object["aggregationRule"].is_null() {
                if !selectors_cover(&live["aggregationRule"], &default.object["aggregationRule"]) {
                    new["aggregationRule"] = default.object["aggregationRule"].clone();
                }
            } else {
                let held = rules(live);
                let missing = cover::missing(&held, &rules(&default.object));
                if !missing.is_empty() {
                    let mut all = held;
                    all.extend(missing);
                    new["rules"] = json!(all);
                }
            }
        }
        Kind::RoleBinding | Kind::ClusterRoleBinding => {
            if live["roleRef"] != default.object["roleRef"] {
                return Step::Replace;
            }
            let empty = vec![];
            let mut subjects = live["subjects"].as_array().unwrap_or(&empty).clone();
            let had = subjects.len();
            for s in default.object["subjects"].as_array().unwrap_or(&empty) {
                if !subjects.contains(s) {
                    subjects.push(s.clone());
                }
            }
            if subjects.len() > had {
                new["subjects"] = subjects.into();
            }
        }
    }
    if new == *live {
        Step::Leave
    } else {
        Step::Update(new)
    }
}

fn selectors_cover(live: &Value, wanted: &Value) -> bool {
    let list = |v: &Value| {
        v["clusterRoleSelectors"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    let live = list(live);
    list(wanted).iter().all(|w| live.contains(w))
}

/// A role's rules; what doesn't parse counts as none.
pub fn rules(role: &Value) -> Vec<Rule> {
    role.get("rules")
        .and_then(|r| serde_json::from_value(r.clone()).ok())
        .unwrap_or_default()
}

/// The rules of an aggregated role: those of the roles chosen by its selectors, in order, each once (upstream
/// `pkg/controller/clusterroleaggregation`). `chosen` tells whether a selector takes these labels.
pub fn aggregate<'a>(
    role: &Value,
    others: impl Iterator<Item = &'a Value> + Clone,
    chosen: impl Fn(&Value, &Value) -> bool,
) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    let own = &role["metadata"]["name"];
    let selectors = role
        .pointer("/aggregationRule/clusterRoleSelectors")
        .and_then(Value::as_array);
    for selector in selectors.into_iter().flatten() {
        for other in others.clone() {
            if other["metadata"]["name"] == *own || !chosen(selector, &other["metadata"]["labels"])
            {
                continue;
            }
            for rule in other["rules"].as_array().into_iter().flatten() {
                if !out.contains(rule) {
                    out.push(rule.clone());
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(kind: Kind, name: &str) -> Default {
        defaults()
            .into_iter()
            .find(|d| d.kind == kind && d.name == name)
            .unwrap_or_else(|| panic!("no default {name}"))
    }

    #[test]
    fn the_table_is_whole() {
        let upstreams = |d: &&Default| !d.name.starts_with("knarr:");
        let count = |k| {
            let all = defaults();
            all.iter().filter(|d| d.kind == k).filter(upstreams).count()
        };
        // as many as upstream's v1.36 with its default feature gates
        assert_eq!(count(Kind::ClusterRole), 31 + 38);
        assert_eq!(count(Kind::ClusterRoleBinding), 12 + 38);
        assert_eq!(count(Kind::Role), 7);
        assert_eq!(count(Kind::RoleBinding), 7);
        for line in TABLE
            .lines()
            .chain(OWN.lines())
            .filter(|l| l.starts_with("  "))
        {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert!(rule(&words).is_some() && words.len() < 5, "{line}");
        }
        for d in defaults() {
            let (role, bound) = (rules(&d.object), d.object.get("roleRef"));
            let aggregated = d.object.get("aggregationRule").is_some();
            assert!(
                !role.is_empty() || bound.is_some() || aggregated || d.name == "system:node",
                "{}",
                d.name
            );
            if let Some(bound) = bound {
                let kind = if bound["kind"] == "Role" {
                    Kind::Role
                } else {
                    Kind::ClusterRole
                };
                find(kind, bound["name"].as_str().unwrap());
            }
        }
    }

    #[test]
    fn admin_is_put_together_of_the_labelled() {
        let all: Vec<Value> = defaults()
            .into_iter()
            .filter(|d| d.kind == Kind::ClusterRole)
            .map(|d| d.object)
            .collect();
        let chosen = |selector: &Value, labels: &Value| {
            let wanted = selector["matchLabels"].as_object().unwrap();
            wanted.iter().all(|(k, v)| labels[k] == *v)
        };
        let view = find(Kind::ClusterRole, "view").object;
        let rules = aggregate(&view, all.iter(), chosen);
        assert_eq!(rules.len(), 12);
        assert!(
            rules
                .iter()
                .all(|r| r["verbs"] == json!(["get", "list", "watch"]))
        );
        let none = aggregate(&json!({"metadata": {"name": "x"}}), all.iter(), chosen);
        assert!(none.is_empty());
    }

    #[test]
    fn what_is_missing_is_added_and_nothing_else() {
        let d = find(Kind::ClusterRole, "system:kube-dns");
        let with = |f: fn(&mut Value)| {
            let mut o = d.object.clone();
            f(&mut o);
            o
        };
        let rules_after = |live: &Value| match reconcile(&d, live) {
            Step::Leave => None,
            Step::Update(new) => Some(new["rules"].as_array().unwrap().len()),
            Step::Replace => panic!("a role is never replaced"),
        };
        let cases: Vec<(&str, Value, Option<usize>)> = vec![
            ("as it should be", d.object.clone(), None),
            (
                "more",
                with(|o| {
                    o["rules"]
                        .as_array_mut()
                        .unwrap()
                        .push(json!({"verbs": ["x"], "apiGroups": [""], "resources": ["y"]}))
                }),
                None,
            ),
            ("no rules", with(|o| o["rules"] = json!([])), Some(6)),
            (
                "no rules, and so its owner wants it",
                with(|o| {
                    o["rules"] = json!([]);
                    o["metadata"]["annotations"][AUTO_UPDATE] = "false".into();
                }),
                None,
            ),
            (
                "label lost",
                with(|o| o["metadata"]["labels"] = json!({"a": "b"})),
                Some(2),
            ),
        ];
        for (name, live, want) in cases {
            let got = rules_after(&live);
            assert_eq!(got.is_some(), want.is_some(), "{name}: {got:?}");
            if name == "no rules" {
                assert!(got >= Some(2), "{name}");
            }
        }
        let b = find(Kind::ClusterRoleBinding, "system:discovery");
        let mut other = b.object.clone();
        other["roleRef"]["name"] = "x".into();
        assert_eq!(reconcile(&b, &other), Step::Replace);
        let mut more = b.object.clone();
        more["subjects"] = json!([{"apiGroup": GROUP, "kind": "User", "name": "u"}]);
        match reconcile(&b, &more) {
            Step::Update(new) => assert_eq!(new["subjects"].as_array().unwrap().len(), 2),
            step => panic!("{step:?}"),
        }
    }
}
