//! Which requests a webhook or policy is about: rules, selectors, and resources that are the same thing in another version
//! (`apiserver/pkg/admission/plugin/webhook/predicates`, `policy/matching`).

use serde_json::Value;

use super::{
    Attributes, Operation,
    json::{items, text},
    stored,
};
use crate::{
    catalog,
    namespaces::is_namespace,
    registry::{Handle, Resource},
    selector::{LabelSelector, label_selector_string},
    server::Inner,
    status::Failure,
};

/// A `RuleWithOperations`, or a named one.
#[derive(Debug)]
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
    names: Vec<String>,
}

fn strings(o: &Value, key: &str) -> Vec<String> {
    o[key]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|v| v.as_str().map(String::from))
        .collect()
}

fn has(list: &[String], item: &str) -> bool {
    list.iter().any(|i| i == "*" || i == item)
}

impl Rule {
    /// Reads one.
    pub fn read(o: &Value) -> Rule {
        Rule {
            operations: strings(o, "operations"),
            groups: strings(o, "apiGroups"),
            versions: strings(o, "apiVersions"),
            resources: strings(o, "resources"),
            scope: text(o, "/scope").to_string(),
            names: strings(o, "resourceNames"),
        }
    }

    /// As if the request were for `r`.
    fn matches(&self, a: &Attributes<'_>, r: &Resource) -> bool {
        let cluster = is_namespace(r) || a.namespace.is_empty();
        let scope = match self.scope.as_str() {
            "Namespaced" => !cluster,
            "Cluster" => cluster,
            _ => true,
        };
        scope
            && has(&self.operations, a.operation.name())
            && has(&self.groups, r.group)
            && has(&self.versions, r.version)
            && self.resources.iter().any(|spec| {
                let (resource, sub) = spec.split_once('/').unwrap_or((spec, ""));
                (resource == "*" || resource == r.plural) && (sub == "*" || sub == a.subresource)
            })
            && (self.names.is_empty() || self.names.iter().any(|n| *n == a.name))
    }

    fn read_all(list: &[Value]) -> Vec<Rule> {
        list.iter().map(Rule::read).collect()
    }
}

/// Webhook configurations and policies: nobody may be kept from mending them.
pub fn is_configuration(a: &Attributes<'_>) -> bool {
    a.kind.group == "admissionregistration.k8s.io"
        && [
            "ValidatingWebhookConfiguration",
            "MutatingWebhookConfiguration",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
            "MutatingAdmissionPolicy",
            "MutatingAdmissionPolicyBinding",
        ]
        .contains(&a.kind.kind)
}

/// What is asked of requests.
#[derive(Debug)]
pub struct Matcher {
    rules: Vec<Rule>,
    exclude: Vec<Rule>,
    equivalent: bool,
    /// Without rules everything is meant: a binding's matchResources.
    all: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

/// The resource a rule named: the request's own, or one its object can be shown as.
pub enum Hit {
    /// The request's.
    Own,
    /// Another version or group of it.
    As(Handle),
}

fn selector(o: &Value) -> LabelSelector {
    // validated when it was written; an older rule set may have let others in: they select nothing
    LabelSelector::parse(&label_selector_string(o, false)).unwrap_or_default()
}

impl Matcher {
    /// A webhook's.
    pub fn of_webhook(o: &Value) -> Matcher {
        Matcher {
            rules: Rule::read_all(items(o, "/rules")),
            all: false,
            ..Matcher::of_resources(o)
        }
    }

    /// MatchResources of a policy or binding.
    pub fn of_resources(o: &Value) -> Matcher {
        let rules = Rule::read_all(items(o, "/resourceRules"));
        Matcher {
            all: rules.is_empty(),
            rules,
            exclude: Rule::read_all(items(o, "/excludeResourceRules")),
            equivalent: o["matchPolicy"] != "Exact",
            namespaces: selector(&o["namespaceSelector"]),
            objects: selector(&o["objectSelector"]),
        }
    }

    /// None when the request is none of its business. An error only counts when the rules match.
    pub fn hit(&self, inner: &Inner, a: &Attributes<'_>) -> Result<Option<Hit>, Failure> {
        let namespace = self.namespace(inner, a);
        if matches!(namespace, Ok(false)) || !self.object(a) {
            return Ok(None);
        }
        let others = || self.others(inner, a);
        if self.rule(&self.exclude, a, others).is_some() {
            return Ok(None);
        }
        let hit = if self.all {
            Some(Hit::Own)
        } else {
            self.rule(&self.rules, a, others)
        };
        match (hit, namespace) {
            (None, _) => Ok(None),
            (Some(_), Err(f)) => Err(f),
            (Some(hit), Ok(_)) => Ok(Some(hit)),
        }
    }

    fn rule(
        &self,
        rules: &[Rule],
        a: &Attributes<'_>,
        others: impl Fn() -> Vec<Handle>,
    ) -> Option<Hit> {
        if rules.iter().any(|r| r.matches(a, a.resource)) {
            return Some(Hit::Own);
        }
        if !self.equivalent || rules.is_empty() {
            return None;
        }
        let others = others();
        rules
            .iter()
            .find_map(|rule| others.iter().find(|o| rule.matches(a, o)))
            .map(|r| Hit::As(r.clone()))
    }

    /// Other resources with the same objects.
    fn others(&self, inner: &Inner, a: &Attributes<'_>) -> Vec<Handle> {
        let prefix = catalog::prefix(a.resource, "");
        let same = |r: &Handle| {
            (r.group, r.version) != (a.resource.group, a.resource.version)
                && r.plural == a.resource.plural
                && catalog::prefix(r, "") == prefix
        };
        inner
            .catalog()
            .all()
            .iter()
            .filter(|r| same(r))
            .cloned()
            .collect()
    }

    fn namespace(&self, inner: &Inner, a: &Attributes<'_>) -> Result<bool, Failure> {
        let of_namespaces = is_namespace(a.resource);
        if self.namespaces.is_empty() || (a.namespace.is_empty() && !of_namespaces) {
            return Ok(true);
        }
        let writes = matches!(a.operation, Operation::Create | Operation::Update);
        if of_namespaces && a.subresource.is_empty() && writes {
            return Ok(labelled(&self.namespaces, a.object.as_ref()));
        }
        match stored(inner, "", "namespaces", "", &a.namespace) {
            Some(ns) => Ok(labelled(&self.namespaces, Some(&ns))),
            None => Err(Failure::not_found_named("", "namespaces", &a.namespace)),
        }
    }

    fn object(&self, a: &Attributes<'_>) -> bool {
        if self.objects.is_empty() {
            return true;
        }
        let has = |o: Option<&Value>| o.is_some() && labelled(&self.objects, o);
        has(a.object.as_ref()) || has(a.old)
    }
}

fn labelled(selector: &LabelSelector, o: Option<&Value>) -> bool {
    let labels = o.and_then(|o| o.pointer("/metadata/labels"));
    selector.matches(labels.unwrap_or(&Value::Null))
}
