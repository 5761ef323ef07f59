//! One rule of a role, and whether it allows a request (upstream `plugin/pkg/auth/authorizer/rbac`, `RuleAllows`).

use std::{collections::HashSet, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::attributes::Attributes;

/// `rbac.authorization.k8s.io/v1` PolicyRule. Strings are shared: the default roles repeat few names very often.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Verbs, or `*`.
    #[serde(default, with = "list")]
    pub verbs: Vec<Arc<str>>,
    /// Groups, or `*`.
    #[serde(default, with = "list", skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<Arc<str>>,
    /// Resources, `resource/subresource`, `*/subresource`, or `*`.
    #[serde(default, with = "list", skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<Arc<str>>,
    /// The objects meant; all when empty.
    #[serde(default, with = "list", skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<Arc<str>>,
    /// Paths; `*` at the end is a wildcard.
    #[serde(
        default,
        rename = "nonResourceURLs",
        with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub urls: Vec<Arc<str>>,
}

/// A list that may be null.
mod list {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Arc<str>>, D::Error> {
        let given: Option<Vec<String>> = Option::deserialize(d)?;
        let given = given.unwrap_or_default();
        Ok(given.into_iter().map(Arc::from).collect())
    }

    pub fn serialize<S: Serializer>(list: &[Arc<str>], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(list.iter().map(|w| &**w))
    }
}

/// `*`
pub const ALL: &str = "*";

/// The word or `*` is in the list.
pub(crate) fn has(list: &[Arc<str>], word: &str) -> bool {
    list.iter().any(|l| &**l == word)
}

impl Rule {
    /// Allows the request.
    pub fn allows(&self, a: &Attributes) -> bool {
        if !(has(&self.verbs, ALL) || has(&self.verbs, &a.verb)) {
            return false;
        }
        if !a.resource_request {
            return self.urls.iter().any(|u| url_matches(u, &a.path));
        }
        (has(&self.api_groups, ALL) || has(&self.api_groups, &a.group))
            && self.takes_resource(&a.resource, &a.subresource)
            && (self.resource_names.is_empty() || has(&self.resource_names, &a.name))
    }

    fn takes_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|r| {
            if &**r == ALL {
                return true;
            }
            if subresource.is_empty() {
                return &**r == resource;
            }
            match r.split_once('/') {
                Some((left, right)) => right == subresource && (left == ALL || left == resource),
                None => false,
            }
        })
    }

    /// Go's `%q` of what is set: how upstream shows a rule that is missing.
    pub fn compact(&self) -> String {
        let mut parts = Vec::new();
        for (name, list) in [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ] {
            if !list.is_empty() {
                parts.push(format!("{name}:{}", quoted(list)));
            }
        }
        format!("{{{}}}", parts.join(", "))
    }
}

/// Go's `%q` of a list: `["a" "b"]`.
pub fn quoted<S: AsRef<str>>(list: &[S]) -> String {
    let words: Vec<String> = list.iter().map(|s| format!("{:?}", s.as_ref())).collect();
    format!("[{}]", words.join(" "))
}

/// A rule's path against a request's.
pub(crate) fn url_matches(rule: &str, path: &str) -> bool {
    if rule == ALL || rule == path {
        return true;
    }
    rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*'))
}

/// Keeps one copy of every string.
#[derive(Debug, Default)]
pub struct Names(HashSet<Arc<str>>);

impl Names {
    /// The shared copy.
    pub fn shared(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let new: Arc<str> = name.into();
        self.0.insert(new.clone());
        new
    }
    /// Replaces the rule's strings by the shared copies.
    pub fn share(&mut self, rule: &mut Rule) {
        let Rule {
            verbs,
            api_groups,
            resources,
            resource_names,
            urls,
        } = rule;
        for list in [verbs, api_groups, resources, resource_names, urls] {
            for name in list.iter_mut() {
                *name = self.shared(name);
            }
            list.shrink_to_fit();
        }
    }
    /// Forgets the strings nobody uses any more.
    pub fn sweep(&mut self) {
        self.0.retain(|s| Arc::strong_count(s) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(json: &str) -> Rule {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn rules_match_as_upstreams() {
        let get =
            |g: &str, r: &str, s: &str, n: &str| Attributes::resource("get", g, r, "ns", n).part(s);
        let pods = r#"{"verbs":["get","list"],"apiGroups":[""],"resources":["pods"]}"#;
        let star = r#"{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}"#;
        let scale = r#"{"verbs":["get"],"apiGroups":["apps"],"resources":["*/scale"]}"#;
        let log = r#"{"verbs":["get"],"apiGroups":[""],"resources":["pods/log"]}"#;
        let named =
            r#"{"verbs":["get"],"apiGroups":[""],"resources":["pods"],"resourceNames":["a"]}"#;
        let urls = r#"{"verbs":["get"],"nonResourceURLs":["/healthz","/apis/*"]}"#;
        let all_urls = r#"{"verbs":["get"],"nonResourceURLs":["*"]}"#;
        let nulls = r#"{"verbs":["get"],"apiGroups":null,"resources":["pods"]}"#;
        let cases: Vec<(&str, &str, Attributes, bool)> = vec![
            ("plain", pods, get("", "pods", "", "a"), true),
            ("other group", pods, get("apps", "pods", "", "a"), false),
            (
                "other verb",
                pods,
                Attributes::resource("create", "", "pods", "ns", ""),
                false,
            ),
            (
                "a subresource isn't its object",
                pods,
                get("", "pods", "log", "a"),
                false,
            ),
            (
                "star takes subresources",
                star,
                get("x", "pods", "log", "a"),
                true,
            ),
            (
                "star takes no paths",
                star,
                Attributes::path("get", "/healthz"),
                false,
            ),
            (
                "star of a subresource",
                scale,
                get("apps", "deployments", "scale", "a"),
                true,
            ),
            (
                "star of another subresource",
                scale,
                get("apps", "deployments", "status", "a"),
                false,
            ),
            (
                "star of a subresource isn't the object",
                scale,
                get("apps", "deployments", "", "a"),
                false,
            ),
            ("subresource", log, get("", "pods", "log", "a"), true),
            ("name", named, get("", "pods", "", "a"), true),
            ("other name", named, get("", "pods", "", "b"), false),
            (
                "no name",
                named,
                Attributes::resource("list", "", "pods", "ns", ""),
                false,
            ),
            ("path", urls, Attributes::path("get", "/healthz"), true),
            (
                "path below",
                urls,
                Attributes::path("get", "/healthz/ping"),
                false,
            ),
            (
                "wildcard",
                urls,
                Attributes::path("get", "/apis/apps"),
                true,
            ),
            (
                "wildcard's root",
                urls,
                Attributes::path("get", "/apis"),
                false,
            ),
            ("all paths", all_urls, Attributes::path("get", "/x/y"), true),
            ("null group", nulls, get("", "pods", "", ""), false),
        ];
        for (name, text, a, want) in cases {
            assert_eq!(rule(text).allows(&a), want, "{name}");
        }
    }

    #[test]
    fn shared_strings_are_one() {
        let mut names = Names::default();
        let mut a = rule(r#"{"verbs":["get"],"resources":["pods"]}"#);
        let mut b = rule(r#"{"verbs":["get"]}"#);
        names.share(&mut a);
        names.share(&mut b);
        assert!(Arc::ptr_eq(&a.verbs[0], &b.verbs[0]));
        drop(a);
        names.sweep();
        assert_eq!(names.0.len(), 1);
    }
}
