//! FlowSchemas: which requests belong to a priority level.

use serde_json::{Value, json};

use super::{Errors, Status, condition_errors, forbidden, invalid, present, required, unsupported};
use crate::{
    fairness,
    kinds::{
        checks::path::Go,
        json::{default, items, text},
    },
    names,
    registry::{FieldError, Lookup, NameRule, RowOrder, Strategy},
};

const PRECEDENCE_DEFAULT: i64 = 1000;
const PRECEDENCE_MAX: i64 = 10_000;
const VERBS: [&str; 9] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];

pub(super) struct FlowSchema;
impl Strategy for FlowSchema {
    fn row_order(&self) -> Option<RowOrder> {
        // the first that fits counts
        Some(|o| {
            let precedence = o["spec"]["matchingPrecedence"].as_i64().unwrap_or(0);
            (precedence, text(o, "/metadata/name").to_owned())
        })
    }
    fn default(&self, o: &mut Value) {
        if let Some(spec) = o.get_mut("spec") {
            if spec["matchingPrecedence"] == 0 {
                spec["matchingPrecedence"] = Value::Null;
            }
            default(spec, "matchingPrecedence", PRECEDENCE_DEFAULT);
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Errors> {
        o["status"] = json!({});
        Ok(())
    }
    fn validate(&self, o: &Value) -> Errors {
        let name = text(o, "/metadata/name");
        let mut errors = schema_errors(name, &o["spec"]);
        if fairness::mandatory("FlowSchema", name).is_some_and(|spec| spec != o["spec"]) {
            let why = format!("spec of '{name}' must equal the fixed value");
            errors.push(invalid("spec".into(), o["spec"].clone(), why));
        }
        errors.extend(condition_errors(o));
        errors
    }
    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        (subresource == "status").then_some(&Status)
    }
}

fn schema_errors(name: &str, spec: &Value) -> Errors {
    let mut errors = Vec::new();
    let precedence = spec["matchingPrecedence"].as_i64().unwrap_or(0);
    let field = || "spec.matchingPrecedence".to_string();
    if precedence <= 0 {
        errors.push(invalid(field(), precedence, "must be a positive value"));
    }
    if precedence > PRECEDENCE_MAX {
        errors.push(invalid(
            field(),
            precedence,
            format!("must not be greater than {PRECEDENCE_MAX}"),
        ));
    }
    if precedence == 1 && name != "exempt" {
        errors.push(invalid(
            field(),
            precedence,
            "only the schema named 'exempt' may have matchingPrecedence 1",
        ));
    }
    let method = &spec["distinguisherMethod"];
    if !method.is_null() && !["ByNamespace", "ByUser"].contains(&text(method, "/type")) {
        let field = "spec.distinguisherMethod.type".to_string();
        errors.push(FieldError::NotSupportedShown {
            field,
            shown: Go::Internal("flowcontrol.FlowDistinguisherMethod").write(method),
            supported: vec!["ByNamespace".into(), "ByUser".into()],
        });
    }
    let level = text(spec, "/priorityLevelConfiguration/name");
    let field = "spec.priorityLevelConfiguration.name".to_string();
    if level.is_empty() {
        errors.push(required(field, "must reference a priority level"));
    } else {
        for m in names::check(NameRule::DnsSubdomain, level, false) {
            errors.push(invalid(field.clone(), level, m));
        }
    }
    for (i, rule) in items(spec, "/rules").iter().enumerate() {
        rule_errors(&format!("spec.rules[{i}]"), rule, &mut errors);
    }
    errors
}

fn rule_errors(path: &str, rule: &Value, errors: &mut Errors) {
    let subjects = items(rule, "/subjects");
    if subjects.is_empty() {
        errors.push(required(
            format!("{path}.subjects"),
            "subjects must contain at least one value",
        ));
    }
    for (i, s) in subjects.iter().enumerate() {
        subject_errors(&format!("{path}.subjects[{i}]"), s, errors);
    }
    let (resources, others) = (
        items(rule, "/resourceRules"),
        items(rule, "/nonResourceRules"),
    );
    if resources.is_empty() && others.is_empty() {
        errors.push(required(
            path.into(),
            "at least one of resourceRules and nonResourceRules has to be non-empty",
        ));
    }
    for (i, r) in resources.iter().enumerate() {
        resource_rule_errors(&format!("{path}.resourceRules[{i}]"), r, errors);
    }
    for (i, r) in others.iter().enumerate() {
        url_rule_errors(&format!("{path}.nonResourceRules[{i}]"), r, errors);
    }
}

fn subject_errors(path: &str, s: &Value, errors: &mut Errors) {
    const KINDS: [(&str, &str); 3] = [
        ("ServiceAccount", "serviceAccount"),
        ("User", "user"),
        ("Group", "group"),
    ];
    let kind = text(s, "/kind");
    let Some((_, own)) = KINDS.iter().find(|(k, _)| *k == kind) else {
        errors.push(unsupported(
            format!("{path}.kind"),
            &s["kind"],
            &["Group", "ServiceAccount", "User"],
        ));
        return;
    };
    let field = |sub: &str| format!("{path}.{own}{sub}");
    if !present(s, own) {
        errors.push(required(
            field(""),
            &format!("{own} is required when subject kind is '{kind}'"),
        ));
    } else {
        let name = text(&s[own], "/name");
        if name.is_empty() {
            errors.push(required(field(".name"), ""));
        }
        if kind == "ServiceAccount" {
            if !name.is_empty() && name != "*" {
                for m in names::check(NameRule::DnsSubdomain, name, false) {
                    errors.push(invalid(field(".name"), name, m));
                }
            }
            let namespace = text(&s[own], "/namespace");
            if namespace.is_empty() {
                errors.push(required(
                    field(".namespace"),
                    "must specify namespace for service account",
                ));
            } else {
                for m in names::check(NameRule::DnsLabel, namespace, false) {
                    errors.push(invalid(field(".namespace"), namespace, m));
                }
            }
        }
    }
    for (other, key) in KINDS
        .iter()
        .filter(|(k, key)| *k != kind && present(s, key))
    {
        let why = format!("{key} is forbidden when subject kind is not '{other}'");
        errors.push(forbidden(format!("{path}.{key}"), &why));
    }
}

/// Texts of a list.
fn texts<'a>(rule: &'a Value, key: &str) -> Vec<&'a str> {
    let all = rule[key].as_array().into_iter().flatten();
    all.filter_map(Value::as_str).collect()
}

fn verb_errors(path: &str, rule: &Value, errors: &mut Errors) {
    let verbs = texts(rule, "verbs");
    let field = format!("{path}.verbs");
    if verbs.is_empty() {
        errors.push(required(field, "verbs must contain at least one value"));
    } else if verbs.contains(&"*") {
        if verbs.len() > 1 {
            errors.push(invalid(
                field,
                rule["verbs"].clone(),
                "if '*' is present, must not specify other verbs",
            ));
        }
    } else if verbs.iter().any(|v| !VERBS.contains(v)) {
        errors.push(unsupported(field, &rule["verbs"], &VERBS));
    }
}

fn resource_rule_errors(path: &str, rule: &Value, errors: &mut Errors) {
    verb_errors(path, rule, errors);
    for (key, one, many) in [
        ("apiGroups", "api group", "api groups"),
        ("resources", "resource", "resources"),
    ] {
        let list = texts(rule, key);
        let field = format!("{path}.{key}");
        if list.is_empty() {
            errors.push(required(
                field,
                &format!("resource rules must supply at least one {one}"),
            ));
        } else if list.len() > 1 && list.contains(&"*") {
            let why = format!("if '*' is present, must not specify other {many}");
            errors.push(invalid(field, rule[key].clone(), why));
        }
    }
    let namespaces = texts(rule, "namespaces");
    let field = format!("{path}.namespaces");
    if namespaces.is_empty() && rule["clusterScope"] != true {
        let why = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.push(required(field, why));
    } else if namespaces.contains(&"*") {
        if namespaces.len() > 1 {
            let why = "if '*' is present, must not specify other namespaces";
            errors.push(invalid(field, rule["namespaces"].clone(), why));
        }
    } else {
        for (i, ns) in namespaces.iter().enumerate() {
            for m in names::check(NameRule::DnsLabel, ns, false) {
                let why = format!("each member of this list must be '*' or a DNS-1123 label; {m}");
                errors.push(invalid(format!("{field}[{i}]"), *ns, why));
            }
        }
    }
}

fn url_rule_errors(path: &str, rule: &Value, errors: &mut Errors) {
    verb_errors(path, rule, errors);
    let urls = texts(rule, "nonResourceURLs");
    let field = format!("{path}.nonResourceURLs");
    if urls.is_empty() {
        errors.push(required(
            field,
            "nonResourceURLs must contain at least one value",
        ));
    } else if urls.contains(&"*") {
        if urls.len() > 1 {
            let why = "if '*' is present, must not specify other non-resource URLs";
            errors.push(invalid(field, rule["nonResourceURLs"].clone(), why));
        }
    } else {
        for (i, url) in urls.iter().enumerate() {
            let stars = url.matches('*').count();
            let why = match *url {
                "" => "must not be empty",
                "/" => continue,
                u if !u.starts_with('/') => "must start with slash",
                u if u.contains(' ') => "must not contain white-space",
                u if u.contains("//") => "must not contain double slash",
                u if stars > 1 || stars == 1 && !u.ends_with("/*") => {
                    "wildcard can only do suffix matching"
                }
                _ => continue,
            };
            errors.push(invalid(format!("{field}[{i}]"), *url, why));
        }
    }
}
