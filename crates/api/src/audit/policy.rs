//! Which requests are written down, and how much of them (`audit.k8s.io/v1` Policy, apiserver `pkg/audit/policy`).

use serde::Deserialize;

use crate::{identity::Identity, names, registry::NameRule, request_info::RequestInfo};

/// How much of a request is written down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who asked what and when, and how it ended.
    Metadata,
    /// The request's body, too.
    Request,
    /// The answer's body, too.
    RequestResponse,
}
impl Level {
    /// As policies and events name it.
    pub fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// A point in a request's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Stage {
    /// Before anything is done.
    RequestReceived,
    /// The head is sent, the body will take long (watches and streams).
    ResponseStarted,
    /// All is sent.
    ResponseComplete,
    /// The handler broke.
    Panic,
}
impl Stage {
    /// As policies and events name it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

/// A policy file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// Why a policy can't be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the audit policy can't be used: {0}; see https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/"
)]
pub struct PolicyError(String);

/// What the policy says to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// How much.
    pub level: Level,
    /// Leave `metadata.managedFields` out of bodies.
    pub omit_managed_fields: bool,
    /// One bit a stage that is left out.
    omitted: u8,
}
impl Decision {
    /// Whether this stage is written down.
    pub fn wants(&self, stage: Stage) -> bool {
        self.level != Level::None && self.omitted & (1 << stage as u8) == 0
    }
}

impl Policy {
    /// Reads a policy in YAML or JSON and checks it.
    pub fn parse(text: &str) -> Result<Policy, PolicyError> {
        let policy: Policy =
            serde_saphyr::from_str(text).map_err(|e| PolicyError(e.to_string()))?;
        match policy.problem() {
            None => Ok(policy),
            Some(why) => Err(PolicyError(why)),
        }
    }

    /// Everything at level Metadata, when it is done: no body is ever written down.
    pub fn metadata_only() -> Policy {
        Policy {
            rules: vec![Rule {
                level: Level::Metadata,
                ..Rule::default()
            }],
            omit_stages: vec![Stage::RequestReceived],
            ..Policy::default()
        }
    }

    fn problem(&self) -> Option<String> {
        if self.api_version != "audit.k8s.io/v1" || self.kind != "Policy" {
            return Some(format!(
                "it must have apiVersion: audit.k8s.io/v1 and kind: Policy, not {:?} and {:?}",
                self.api_version, self.kind
            ));
        }
        if self.rules.is_empty() {
            return Some("loaded illegal policy with 0 rules".into());
        }
        self.rules.iter().enumerate().find_map(|(i, r)| {
            let path = format!("rules[{i}]");
            let (urls, resources) = (&r.non_resource_urls, &r.resources);
            for (j, url) in urls.iter().enumerate().filter(|(_, u)| *u != "*") {
                if !url.starts_with('/') {
                    return Some(format!("{path}.nonResourceURLs[{j}]: Invalid value: {url:?}: non-resource URL rules must begin with a '/' character"));
                }
                if url[..url.len() - 1].contains('*') {
                    return Some(format!("{path}.nonResourceURLs[{j}]: Invalid value: {url:?}: non-resource URL wildcards '*' must be the final character of the rule"));
                }
            }
            for g in resources {
                let bad = names::check(NameRule::DnsSubdomain, &g.group, false);
                if !g.group.is_empty() && g.group != "*" && !bad.is_empty() {
                    return Some(format!("{path}.resources.group: Invalid value: {:?}: {}", g.group, bad.join(",")));
                }
                if !g.resource_names.is_empty() && g.resources.is_empty() {
                    return Some(format!("{path}.resources.resourceNames: Invalid value: {:?}: using resourceNames requires at least one resource", g.resource_names));
                }
            }
            let both = !urls.is_empty() && (!resources.is_empty() || !r.namespaces.is_empty());
            both.then(|| format!("{path}.nonResourceURLs: Invalid value: {urls:?}: rules cannot apply to both regular resources and non-resource URLs"))
        })
    }

    /// The first rule that fits decides; without one nothing is written down.
    pub fn decide(&self, who: &Identity, info: &RequestInfo) -> Decision {
        let bits = |stages: &[Stage]| stages.iter().fold(0, |all, s| all | 1 << *s as u8);
        let rule = self.rules.iter().find(|r| r.fits(who, info));
        Decision {
            level: rule.map_or(Level::None, |r| r.level),
            omit_managed_fields: rule
                .and_then(|r| r.omit_managed_fields)
                .unwrap_or(self.omit_managed_fields),
            omitted: bits(&self.omit_stages) | rule.map_or(0, |r| bits(&r.omit_stages)),
        }
    }
}

/// An empty list fits everything.
fn any(list: &[String], fits: impl FnMut(&String) -> bool) -> bool {
    list.is_empty() || list.iter().any(fits)
}

impl Rule {
    fn fits(&self, who: &Identity, info: &RequestInfo) -> bool {
        if !any(&self.users, |u| u == who.user())
            || !any(&self.user_groups, |g| who.groups().contains(g))
            || !any(&self.verbs, |v| *v == info.verb)
        {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.is_resource
                && any(&self.namespaces, |n| *n == info.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.fits(info)));
        }
        if !self.non_resource_urls.is_empty() {
            return !info.is_resource
                && self
                    .non_resource_urls
                    .iter()
                    .any(|spec| match spec.strip_suffix('*') {
                        Some(prefix) => info.path.starts_with(prefix),
                        None => *spec == info.path,
                    });
        }
        true
    }
}

impl Resources {
    fn fits(&self, info: &RequestInfo) -> bool {
        if self.group != info.group && self.group != "*" {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !any(&self.resource_names, |n| *n == info.name) {
            return false;
        }
        self.resources.iter().any(|r| {
            let (resource, sub) = r.split_once('/').unwrap_or((r, ""));
            r == "*"
                || resource == info.resource && (sub == "*" || sub == info.subresource)
                || resource == "*" && !sub.is_empty() && sub == info.subresource
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Method, Uri};

    #[test]
    fn rules_fit_as_upstreams_do() {
        let jane = Identity::new("jane", &["devs"]);
        // rule, request's URL (GET): fits?
        let pod = "/api/v1/namespaces/a/pods/p";
        for (rule, url, want) in [
            ("{level: Metadata}", pod, true),
            ("{level: Metadata, users: [jane]}", pod, true),
            ("{level: Metadata, users: [joe]}", pod, false),
            ("{level: Metadata, userGroups: [x, devs]}", pod, true),
            ("{level: Metadata, userGroups: [ops]}", pod, false),
            ("{level: Metadata, verbs: [get]}", pod, true),
            ("{level: Metadata, verbs: [list]}", pod, false),
            ("{level: Metadata, namespaces: [a]}", pod, true),
            ("{level: Metadata, namespaces: [b]}", pod, false),
            ("{level: Metadata, namespaces: [a]}", "/healthz", false),
            (
                "{level: Metadata, namespaces: ['']}",
                "/api/v1/nodes/n",
                true,
            ),
            ("{level: Metadata, resources: [{}]}", pod, true),
            ("{level: Metadata, resources: [{group: apps}]}", pod, false),
            ("{level: Metadata, resources: [{group: '*'}]}", pod, true),
            (
                "{level: Metadata, resources: [{resources: [pods]}]}",
                pod,
                true,
            ),
            (
                "{level: Metadata, resources: [{resources: [pods]}]}",
                "/api/v1/namespaces/a/pods/p/log",
                false,
            ),
            (
                "{level: Metadata, resources: [{resources: [pods/log]}]}",
                "/api/v1/namespaces/a/pods/p/log",
                true,
            ),
            (
                "{level: Metadata, resources: [{resources: ['pods/*']}]}",
                "/api/v1/namespaces/a/pods/p/log",
                true,
            ),
            (
                "{level: Metadata, resources: [{resources: ['*/log']}]}",
                "/api/v1/namespaces/a/pods/p/log",
                true,
            ),
            (
                "{level: Metadata, resources: [{resources: ['*/log']}]}",
                pod,
                false,
            ),
            (
                "{level: Metadata, resources: [{resources: ['*']}]}",
                "/api/v1/namespaces/a/pods/p/log",
                true,
            ),
            (
                "{level: Metadata, resources: [{resources: [pods], resourceNames: [p]}]}",
                pod,
                true,
            ),
            (
                "{level: Metadata, resources: [{resources: [pods], resourceNames: [q]}]}",
                pod,
                false,
            ),
            (
                "{level: Metadata, nonResourceURLs: [/healthz]}",
                "/healthz",
                true,
            ),
            (
                "{level: Metadata, nonResourceURLs: ['/health*']}",
                "/healthz",
                true,
            ),
            ("{level: Metadata, nonResourceURLs: ['*']}", "/x", true),
            ("{level: Metadata, nonResourceURLs: ['*']}", pod, false),
            (
                "{level: Metadata, nonResourceURLs: [/healthz]}",
                "/healthz/ping",
                false,
            ),
        ] {
            let text = format!("{{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{rule}]}}");
            let policy = Policy::parse(&text).unwrap();
            let info = RequestInfo::new(&Method::GET, &url.parse::<Uri>().unwrap());
            let fits = policy.decide(&jane, &info).level != Level::None;
            assert_eq!(fits, want, "{rule} {url}");
        }
    }

    #[test]
    fn stages_left_out_add_up() {
        let text = "{apiVersion: audit.k8s.io/v1, kind: Policy, omitStages: [RequestReceived], omitManagedFields: true,
            rules: [{level: Request, users: [jane], omitStages: [Panic], omitManagedFields: false}, {level: Metadata}]}";
        let policy = Policy::parse(text).unwrap();
        let info = RequestInfo::new(&Method::GET, &"/x".parse().unwrap());
        let one = policy.decide(&Identity::new("jane", &[]), &info);
        let other = policy.decide(&Identity::new("joe", &[]), &info);
        let wants = |d: Decision| {
            [
                Stage::RequestReceived,
                Stage::ResponseStarted,
                Stage::ResponseComplete,
                Stage::Panic,
            ]
            .map(|s| d.wants(s))
        };
        assert_eq!(wants(one), [false, true, true, false]);
        assert_eq!(wants(other), [false, true, true, true]);
        assert!(!one.omit_managed_fields && other.omit_managed_fields);
        assert_eq!((one.level, other.level), (Level::Request, Level::Metadata));
    }
}
