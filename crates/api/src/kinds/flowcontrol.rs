//! FlowSchema and PriorityLevelConfiguration: the rules of kubernetes `pkg/apis/flowcontrol/validation`.

use super::{
    PLAIN,
    cells::{AGE, NAME, column},
    checks::path::Go,
    json::{default, items, text},
};
use crate::{
    fairness, names,
    registry::{FieldError, Lookup, NameRule, Resource, RowOrder, Strategy},
};
use serde_json::{Value, json};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const PRECEDENCE_DEFAULT: i64 = 1000;
const PRECEDENCE_MAX: i64 = 10_000;
const QUEUES_MAX: i64 = 10_000_000;
/// Bits of a hash that dealing a hand may take (apiserver `shufflesharding.MaxHashBits`).
const HASH_BITS_MAX: i64 = 60;
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

type Errors = Vec<FieldError>;

fn invalid(field: String, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
    FieldError::Invalid {
        field,
        value: value.into(),
        detail: detail.into(),
    }
}
fn required(field: String, detail: &str) -> FieldError {
    FieldError::Required {
        field,
        detail: detail.into(),
    }
}
fn forbidden(field: String, detail: &str) -> FieldError {
    FieldError::Forbidden {
        field,
        detail: detail.into(),
    }
}
fn unsupported(field: String, value: &Value, supported: &[&str]) -> FieldError {
    FieldError::NotSupported {
        field,
        value: value.clone(),
        supported: supported.iter().map(|s| s.to_string()).collect(),
    }
}
fn present(o: &Value, key: &str) -> bool {
    o.get(key).is_some_and(|v| !v.is_null())
}

/// `status.conditions` of both kinds: each type once.
fn condition_errors(o: &Value) -> Errors {
    let mut errors = Vec::new();
    let all = items(o, "/status/conditions");
    for (i, c) in all.iter().enumerate() {
        let field = format!("status.conditions[{i}].type");
        if all[..i].iter().any(|other| other["type"] == c["type"]) {
            errors.push(FieldError::Duplicate {
                field: field.clone(),
                value: c["type"].clone(),
            });
        }
        if text(c, "/type").is_empty() {
            errors.push(required(field, ""));
        }
    }
    errors
}

/// The rules of `status` of both kinds.
struct Status;
impl Strategy for Status {
    fn validate_update(&self, new: &Value, _: &Value) -> Errors {
        condition_errors(new)
    }
}

struct FlowSchema;
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

struct PriorityLevel;
impl Strategy for PriorityLevel {
    fn default(&self, o: &mut Value) {
        let Some(spec) = o.get_mut("spec") else {
            return;
        };
        if let Some(exempt) = spec.get_mut("exempt").filter(|e| e.is_object()) {
            default(exempt, "nominalConcurrencyShares", 0);
            default(exempt, "lendablePercent", 0);
        }
        if let Some(limited) = spec.get_mut("limited").filter(|l| l.is_object()) {
            default(limited, "nominalConcurrencyShares", 30);
            default(limited, "lendablePercent", 0);
            if let Some(q) = limited
                .pointer_mut("/limitResponse/queuing")
                .filter(|q| q.is_object())
            {
                for (key, n) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
                    if q[key] == 0 {
                        q[key] = Value::Null;
                    }
                    default(q, key, n);
                }
            }
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Errors> {
        o["status"] = json!({});
        Ok(())
    }
    fn validate(&self, o: &Value) -> Errors {
        let (name, spec) = (text(o, "/metadata/name"), &o["spec"]);
        let mut errors = level_errors(name, spec);
        if let Some(fixed) = fairness::mandatory("PriorityLevelConfiguration", name) {
            // what `exempt` lends may be changed
            let mut given = spec.clone();
            let except = if name == "exempt" {
                given["exempt"] = fixed["exempt"].clone();
                " except the 'spec.exempt' field"
            } else {
                ""
            };
            if given != fixed {
                let why = format!("spec of '{name}'{except} must equal the fixed value");
                errors.push(invalid("spec".into(), spec.clone(), why));
            }
        }
        errors.extend(condition_errors(o));
        errors
    }
    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        (subresource == "status").then_some(&Status)
    }
}

fn level_errors(name: &str, spec: &Value) -> Errors {
    let mut errors = Vec::new();
    let kind = text(spec, "/type");
    if (name == "exempt") != (kind == "Exempt") {
        let why = "must be 'Exempt' if and only if `name` is 'exempt'";
        errors.push(invalid("spec.type".into(), kind, why));
    }
    match kind {
        "Exempt" => {
            if present(spec, "limited") {
                errors.push(forbidden(
                    "spec.limited".into(),
                    "must be nil if the type is not Limited",
                ));
            }
            if present(spec, "exempt") {
                share_errors("spec.exempt", &spec["exempt"], &mut errors);
            }
        }
        "Limited" => {
            if present(spec, "exempt") {
                errors.push(forbidden(
                    "spec.exempt".into(),
                    "must be nil if the type is Limited",
                ));
            }
            if !present(spec, "limited") {
                errors.push(required(
                    "spec.limited".into(),
                    "must not be empty when type is Limited",
                ));
            } else {
                limited_errors(&spec["limited"], &mut errors);
            }
        }
        _ => errors.push(unsupported(
            "spec.type".into(),
            &spec["type"],
            &["Exempt", "Limited"],
        )),
    }
    errors
}

fn share_errors(path: &str, o: &Value, errors: &mut Errors) {
    let shares = o["nominalConcurrencyShares"].as_i64().unwrap_or(0);
    if shares < 0 {
        errors.push(invalid(
            format!("{path}.nominalConcurrencyShares"),
            shares,
            "must be a non-negative integer",
        ));
    }
    if path == "spec.limited" {
        response_errors(&o["limitResponse"], errors);
    }
    let lendable = o["lendablePercent"].as_i64().unwrap_or(0);
    if !(0..=100).contains(&lendable) {
        errors.push(invalid(
            format!("{path}.lendablePercent"),
            lendable,
            "must be between 0 and 100, inclusive",
        ));
    }
}

fn limited_errors(limited: &Value, errors: &mut Errors) {
    share_errors("spec.limited", limited, errors);
    if let Some(n) = limited["borrowingLimitPercent"].as_i64().filter(|n| *n < 0) {
        let field = "spec.limited.borrowingLimitPercent".to_string();
        errors.push(invalid(
            field,
            n,
            "if specified, must be a non-negative integer",
        ));
    }
}

fn response_errors(response: &Value, errors: &mut Errors) {
    let path = "spec.limited.limitResponse";
    let queuing = &response["queuing"];
    match text(response, "/type") {
        "Reject" if !queuing.is_null() => errors.push(forbidden(
            format!("{path}.queuing"),
            "must be nil if limited.limitResponse.type is not Limited",
        )),
        "Reject" => {}
        "Queue" if queuing.is_null() => errors.push(required(
            format!("{path}.queuing"),
            "must not be empty if limited.limitResponse.type is Limited",
        )),
        "Queue" => queuing_errors(&format!("{path}.queuing"), queuing, errors),
        _ => errors.push(unsupported(
            format!("{path}.type"),
            &response["type"],
            &["Queue", "Reject"],
        )),
    }
}

fn queuing_errors(path: &str, queuing: &Value, errors: &mut Errors) {
    let number = |key: &str| queuing[key].as_i64().unwrap_or(0);
    let (limit, queues, hand) = (
        number("queueLengthLimit"),
        number("queues"),
        number("handSize"),
    );
    if limit <= 0 {
        errors.push(invalid(
            format!("{path}.queueLengthLimit"),
            limit,
            "must be positive",
        ));
    }
    if queues <= 0 {
        errors.push(invalid(
            format!("{path}.queues"),
            queues,
            "must be positive",
        ));
    } else if queues > QUEUES_MAX {
        errors.push(invalid(
            format!("{path}.queues"),
            queues,
            format!("must not be greater than {QUEUES_MAX}"),
        ));
    }
    let field = format!("{path}.handSize");
    let bits = ((queues.max(1) as f64).log2() * hand as f64).ceil() as i64;
    if hand <= 0 {
        errors.push(invalid(field, hand, "must be positive"));
    } else if hand > queues {
        errors.push(invalid(
            field,
            hand,
            format!("should not be greater than queues ({queues})"),
        ));
    } else if bits > HASH_BITS_MAX {
        errors.push(invalid(field, hand, format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS_MAX}"
        )));
    }
}

/// A field's value, or `<none>`.
fn or_none(o: &Value, pointer: &str) -> Value {
    match o.pointer(pointer) {
        None | Some(Value::Null) => "<none>".into(),
        Some(v) => v.clone(),
    }
}

pub(crate) fn resources() -> Vec<Resource> {
    let base = || Resource {
        group: GROUP,
        namespaced: false,
        has_status: true,
        ..PLAIN
    };
    vec![
        Resource {
            kind: "FlowSchema",
            plural: "flowschemas",
            singular: "flowschema",
            strategy: &FlowSchema,
            columns: const {
                &[
                    NAME,
                    column("PriorityLevel", "string", |o| {
                        text(o, "/spec/priorityLevelConfiguration/name").into()
                    }),
                    column("MatchingPrecedence", "string", |o| {
                        o["spec"]["matchingPrecedence"].clone()
                    }),
                    column("DistinguisherMethod", "string", |o| {
                        or_none(o, "/spec/distinguisherMethod/type")
                    }),
                    AGE,
                    column("MissingPL", "string", |o| {
                        let all = items(o, "/status/conditions");
                        let found = all.iter().find(|c| c["type"] == "Dangling");
                        found.map_or("?", |c| text(c, "/status")).into()
                    }),
                ]
            },
            ..base()
        },
        Resource {
            kind: "PriorityLevelConfiguration",
            plural: "prioritylevelconfigurations",
            singular: "prioritylevelconfiguration",
            strategy: &PriorityLevel,
            columns: const {
                &[
                    NAME,
                    column("Type", "string", |o| text(o, "/spec/type").into()),
                    column("NominalConcurrencyShares", "string", |o| {
                        or_none(o, "/spec/limited/nominalConcurrencyShares")
                    }),
                    column("Queues", "string", |o| {
                        or_none(o, "/spec/limited/limitResponse/queuing/queues")
                    }),
                    column("HandSize", "string", |o| {
                        or_none(o, "/spec/limited/limitResponse/queuing/handSize")
                    }),
                    column("QueueLengthLimit", "string", |o| {
                        or_none(o, "/spec/limited/limitResponse/queuing/queueLengthLimit")
                    }),
                    AGE,
                ]
            },
            ..base()
        },
    ]
}
