//! Whether rules grant nothing that others don't (upstream `component-helpers/auth/rbac/validation`, `Covers`), and
//! what is missing otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    rule::{ALL, Rule, has, quoted},
    user::User,
};

/// The rights in `asked` that `held` doesn't have, each of one group, resource, name and verb; empty when covered.
pub fn missing(held: &[Rule], asked: &[Rule]) -> Vec<Rule> {
    asked
        .iter()
        .flat_map(pieces)
        .filter(|piece| !held.iter().any(|h| covers(h, piece)))
        .collect()
}

/// A rule as rules of one verb, resource and name each.
fn pieces(rule: &Rule) -> Vec<Rule> {
    let mut out = Vec::new();
    for group in &rule.api_groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let piece = Rule {
                    verbs: vec![verb.clone()],
                    api_groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    ..Rule::default()
                };
                if rule.resource_names.is_empty() {
                    out.push(piece);
                    continue;
                }
                out.extend(rule.resource_names.iter().map(|name| Rule {
                    resource_names: vec![name.clone()],
                    ..piece.clone()
                }));
            }
        }
    }
    for url in &rule.urls {
        out.extend(rule.verbs.iter().map(|verb| Rule {
            verbs: vec![verb.clone()],
            urls: vec![url.clone()],
            ..Rule::default()
        }));
    }
    out
}

fn all_in(set: &[Arc<str>], asked: &[Arc<str>]) -> bool {
    asked.iter().all(|a| has(set, a))
}

fn covers(held: &Rule, piece: &Rule) -> bool {
    let word = |set: &[Arc<str>], asked: &[Arc<str>]| has(set, ALL) || all_in(set, asked);
    word(&held.verbs, &piece.verbs)
        && word(&held.api_groups, &piece.api_groups)
        && resources_cover(&held.resources, &piece.resources)
        && (held.resource_names.is_empty()
            || (!piece.resource_names.is_empty()
                && all_in(&held.resource_names, &piece.resource_names)))
        && piece
            .urls
            .iter()
            .all(|url| held.urls.iter().any(|h| url_covers(h, url)))
}

fn resources_cover(held: &[Arc<str>], asked: &[Arc<str>]) -> bool {
    has(held, ALL)
        || asked.iter().all(|a| {
            has(held, a)
                || a.split_once('/')
                    .is_some_and(|(_, sub)| has(held, &format!("*/{sub}")))
        })
}

fn url_covers(held: &str, asked: &str) -> bool {
    held == asked || (held.ends_with('*') && asked.starts_with(held.trim_end_matches('*')))
}

/// Rules that differ by their verb alone as one.
fn compacted(rules: Vec<Rule>) -> Vec<Rule> {
    type Key = (Arc<str>, Arc<str>, Option<Arc<str>>);
    let mut simple: BTreeMap<Key, Rule> = BTreeMap::new();
    let mut out = Vec::new();
    for rule in rules {
        match (rule.api_groups.as_slice(), rule.resources.as_slice()) {
            ([group], [resource]) if rule.urls.is_empty() && rule.resource_names.len() < 2 => {
                let key = (
                    group.clone(),
                    resource.clone(),
                    rule.resource_names.first().cloned(),
                );
                match simple.get_mut(&key) {
                    Some(known) => known.verbs.extend(rule.verbs),
                    None => {
                        simple.insert(key, rule);
                    }
                }
            }
            _ => out.push(rule),
        }
    }
    out.extend(simple.into_values());
    out
}

/// Ok when `user`, who holds `held`, may hand out `asked`; else upstream's words. `trouble`: why some of the user's
/// own roles could not be read.
pub fn no_escalation(
    user: &User,
    held: &[Rule],
    asked: &[Rule],
    trouble: &[String],
) -> Result<(), String> {
    let missing = missing(held, asked);
    if missing.is_empty() {
        return Ok(());
    }
    let lines: BTreeSet<String> = compacted(missing).iter().map(Rule::compact).collect();
    let lines: Vec<String> = lines.into_iter().collect();
    let mut message = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(&user.groups),
        lines.join("\n")
    );
    if !trouble.is_empty() {
        message.push_str(&format!("; resolution errors: {}", aggregate(trouble)));
    }
    Err(message)
}

/// Several errors as apimachinery's `Aggregate` prints them.
pub fn aggregate(errors: &[String]) -> String {
    let mut unique: Vec<&str> = Vec::new();
    for e in errors {
        if !unique.contains(&e.as_str()) {
            unique.push(e);
        }
    }
    match unique.as_slice() {
        [one] => one.to_string(),
        many => format!("[{}]", many.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Vec<Rule> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn covering() {
        let all = r#"[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]"#;
        let pods = r#"[{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}]"#;
        let cases = [
            ("same", pods, pods, ""),
            ("all covers pods", all, pods, ""),
            (
                "pods don't cover all",
                pods,
                all,
                r#"{APIGroups:["*"], Resources:["*"], Verbs:["*"]}"#,
            ),
            (
                "by two rules",
                r#"[{"verbs":["get"],"apiGroups":[""],"resources":["pods"]},{"verbs":["list"],"apiGroups":[""],"resources":["pods"]}]"#,
                r#"[{"verbs":["get","list"],"apiGroups":[""],"resources":["pods"]}]"#,
                "",
            ),
            (
                "verbs are put together",
                "[]",
                r#"[{"verbs":["get","list"],"apiGroups":[""],"resources":["pods"]}]"#,
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}"#,
            ),
            (
                "names",
                r#"[{"verbs":["get"],"apiGroups":[""],"resources":["pods"],"resourceNames":["a"]}]"#,
                r#"[{"verbs":["get"],"apiGroups":[""],"resources":["pods"],"resourceNames":["a","b"]}]"#,
                r#"{APIGroups:[""], Resources:["pods"], ResourceNames:["b"], Verbs:["get"]}"#,
            ),
            (
                "a name doesn't cover all",
                r#"[{"verbs":["get"],"apiGroups":[""],"resources":["pods"],"resourceNames":["a"]}]"#,
                pods,
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["get"]}"#,
            ),
            (
                "star of a subresource",
                r#"[{"verbs":["get"],"apiGroups":[""],"resources":["*/status"]}]"#,
                r#"[{"verbs":["get"],"apiGroups":[""],"resources":["pods/status"]}]"#,
                "",
            ),
            (
                "urls",
                r#"[{"verbs":["get"],"nonResourceURLs":["/a/*"]}]"#,
                r#"[{"verbs":["get"],"nonResourceURLs":["/a/b","/c"]}]"#,
                r#"{NonResourceURLs:["/c"], Verbs:["get"]}"#,
            ),
        ];
        for (name, held, asked, want) in cases {
            let missing = compacted(missing(&rules(held), &rules(asked)));
            let text: Vec<String> = missing.iter().map(Rule::compact).collect();
            assert_eq!(text.join("\n"), want, "{name}");
        }
    }

    #[test]
    fn the_message() {
        let user = User::new("x", &["a", "b"]);
        let asked = rules(r#"[{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}]"#);
        let e = no_escalation(&user, &[], &asked, &["one".into(), "two".into()]).unwrap_err();
        assert_eq!(
            e,
            "user \"x\" (groups=[\"a\" \"b\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\"]}; resolution errors: [one, two]"
        );
    }
}
