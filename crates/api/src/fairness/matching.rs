//! Which flow schema a request belongs to (apiserver `pkg/util/flowcontrol/rule.go`). Read once, when a schema changes.

use serde::Deserialize;

use crate::{identity::Identity, request_info::RequestInfo};

/// `spec` of a FlowSchema.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    pub priority_level_configuration: Reference,
    pub matching_precedence: i64,
    pub distinguisher_method: Option<Distinguisher>,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Reference {
    pub name: String,
}

/// What makes two requests of one schema different flows.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(tag = "type")]
pub enum Distinguisher {
    ByUser,
    ByNamespace,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    subjects: Vec<Subject>,
    resource_rules: Vec<ResourceRule>,
    non_resource_rules: Vec<UrlRule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all_fields = "camelCase")]
enum Subject {
    User { user: Named },
    Group { group: Named },
    ServiceAccount { service_account: Account },
}

#[derive(Debug, Clone, Deserialize)]
struct Named {
    name: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Account {
    namespace: String,
    name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ResourceRule {
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    cluster_scope: bool,
    namespaces: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct UrlRule {
    verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    urls: Vec<String>,
}

/// The list is `*` alone, or has it.
fn has(list: &[String], value: &str) -> bool {
    matches!(list, [all] if all == "*") || list.iter().any(|v| v == value)
}

impl Spec {
    /// Is it a request of this schema?
    pub fn fits(&self, who: &Identity, info: &RequestInfo) -> bool {
        self.rules.iter().any(|r| {
            r.subjects.iter().any(|s| s.fits(who))
                && match info.is_resource {
                    true => r.resource_rules.iter().any(|r| r.fits(info)),
                    false => r.non_resource_rules.iter().any(|r| r.fits(info)),
                }
        })
    }

    /// What tells the request's flow from others of the schema.
    pub fn distinguisher<'a>(&self, who: &'a Identity, info: &'a RequestInfo) -> &'a str {
        match self.distinguisher_method {
            None => "",
            Some(Distinguisher::ByUser) => who.user(),
            Some(Distinguisher::ByNamespace) => &info.namespace,
        }
    }
}

impl Subject {
    fn fits(&self, who: &Identity) -> bool {
        match self {
            Subject::User { user } => user.name == "*" || user.name == who.user(),
            Subject::Group { group } => group.name == "*" || who.groups().contains(&group.name),
            Subject::ServiceAccount { service_account: a } => {
                let account = who
                    .user()
                    .strip_prefix("system:serviceaccount:")
                    .and_then(|rest| rest.strip_prefix(a.namespace.as_str()))
                    .and_then(|rest| rest.strip_prefix(':'));
                account.is_some_and(|name| a.name == "*" || a.name == name)
            }
        }
    }
}

impl ResourceRule {
    fn fits(&self, info: &RequestInfo) -> bool {
        let resource = match info.subresource.as_str() {
            "" => has(&self.resources, &info.resource),
            sub => {
                let named = |r: &String| {
                    let split = r.split_once('/');
                    split.is_some_and(|(r, s)| r == info.resource && s == sub)
                };
                matches!(self.resources.as_slice(), [all] if all == "*")
                    || self.resources.iter().any(named)
            }
        };
        resource
            && has(&self.verbs, &info.verb)
            && has(&self.api_groups, &info.group)
            && match info.namespace.as_str() {
                "" => self.cluster_scope,
                namespace => has(&self.namespaces, namespace),
            }
    }
}

impl UrlRule {
    fn fits(&self, info: &RequestInfo) -> bool {
        has(&self.verbs, &info.verb)
            && self.urls.iter().any(|url| {
                let prefix = url.strip_suffix('*').unwrap_or(url);
                url == "*"
                    || *url == info.path
                    || info.path.strip_prefix(prefix).is_some_and(|rest| {
                        !rest.is_empty() && (prefix.ends_with('/') || rest.starts_with('/'))
                    })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn fits(rule: Value, who: &Identity, url: &str) -> bool {
        let spec: Spec = serde_json::from_value(json!({ "rules": [rule] })).unwrap();
        spec.fits(
            who,
            &RequestInfo::new(&http::Method::GET, &url.parse().unwrap()),
        )
    }

    #[test]
    fn rules_fit_as_upstreams_do() {
        let jane = Identity::new("jane", &["devs"]);
        let robot = Identity::new("system:serviceaccount:ns:robot", &[]);
        let all = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]);
        let group = |n: &str| json!({"kind": "Group", "group": {"name": n}});
        let user = |n: &str| json!({"kind": "User", "user": {"name": n}});
        let account = |ns: &str, n: &str| json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": ns, "name": n}});
        let pod = "/api/v1/namespaces/a/pods/p";
        for (name, subject, who, want) in [
            ("user", user("jane"), &jane, true),
            ("other user", user("joe"), &jane, false),
            ("any user", user("*"), &jane, true),
            ("group", group("devs"), &jane, true),
            ("other group", group("ops"), &jane, false),
            ("account", account("ns", "robot"), &robot, true),
            ("any account", account("ns", "*"), &robot, true),
            ("account elsewhere", account("n", "*"), &robot, false),
            ("no account", account("ns", "*"), &jane, false),
        ] {
            let rule = json!({"subjects": [subject], "resourceRules": all});
            assert_eq!(fits(rule, who, pod), want, "{name}");
        }
        let rule = |verbs: &[&str],
                    groups: &[&str],
                    resources: &[&str],
                    namespaces: &[&str],
                    cluster: bool| {
            json!({"subjects": [user("*")], "resourceRules": [{"verbs": verbs, "apiGroups": groups,
                "resources": resources, "namespaces": namespaces, "clusterScope": cluster}]})
        };
        let any = &["*"][..];
        for (name, rule, url, want) in [
            ("verb", rule(&["get"], any, any, any, false), pod, true),
            (
                "other verb",
                rule(&["list"], any, any, any, false),
                pod,
                false,
            ),
            ("core group", rule(any, &[""], any, any, false), pod, true),
            (
                "other group",
                rule(any, &["apps"], any, any, false),
                pod,
                false,
            ),
            ("resource", rule(any, any, &["pods"], any, false), pod, true),
            (
                "subresource",
                rule(any, any, &["pods"], any, false),
                "/api/v1/namespaces/a/pods/p/log",
                false,
            ),
            (
                "named subresource",
                rule(any, any, &["pods/log"], any, false),
                "/api/v1/namespaces/a/pods/p/log",
                true,
            ),
            ("namespace", rule(any, any, any, &["a"], false), pod, true),
            (
                "other namespace",
                rule(any, any, any, &["b"], false),
                pod,
                false,
            ),
            (
                "cluster scope",
                rule(any, any, any, any, false),
                "/api/v1/nodes",
                false,
            ),
            (
                "cluster scope wanted",
                rule(any, any, any, &[], true),
                "/api/v1/nodes",
                true,
            ),
            (
                "another kind of request",
                rule(any, any, any, any, true),
                "/healthz",
                false,
            ),
        ] {
            assert_eq!(fits(rule, &jane, url), want, "{name}");
        }
        for (url, asked, want) in [
            ("*", "/x", true),
            ("/healthz", "/healthz", true),
            ("/healthz", "/healthz/ping", true),
            ("/healthz", "/healthzz", false),
            ("/a/*", "/a/b", true),
            ("/a/*", "/ab", false),
            ("*", "/api/v1/nodes", false),
        ] {
            let rule = json!({"subjects": [user("*")], "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": [url]}]});
            assert_eq!(fits(rule, &jane, asked), want, "{url} {asked}");
        }
    }
}
