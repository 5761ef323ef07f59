//! May somebody do something: the access reviews (upstream `pkg/registry/authorization`,
//! `pkg/apis/authorization/validation`), and who am I.

use knarr_access::{Attributes, User, attributes::FieldRequirement, cover::aggregate};
use serde_json::{Map, Value, json};

use super::{decide, rules_for};
use crate::{
    identity::Identity,
    names, object,
    registry::FieldError,
    selector::{FieldSelector, LabelSelector},
    server::Inner,
    status::Failure,
};

const GROUP: &str = "authorization.k8s.io";

/// SelfSubjectReview: who asks.
pub fn self_subject(who: &Identity, mut review: Value) -> Value {
    review["metadata"] = json!({"creationTimestamp": object::now()});
    if let Some(map) = review.as_object_mut() {
        map.remove("spec");
    }
    review["status"] = json!({"userInfo": who.user_info()});
    review
}

/// SelfSubjectAccessReview: may the asker.
pub fn own_access(inner: &Inner, who: &Identity, review: Value) -> Result<Value, Failure> {
    let mut errors = Vec::new();
    check_kind_of_request(&review["spec"], &mut errors);
    check_selectors(&review["spec"], &mut errors);
    check_metadata(&review, false, &mut errors);
    invalid(&errors)?;
    Ok(decided(inner, who.info(), review))
}

/// SubjectAccessReview: may somebody.
pub fn access(inner: &Inner, review: Value) -> Result<Value, Failure> {
    let mut errors = Vec::new();
    check_subject(&review["spec"], &mut errors);
    check_metadata(&review, false, &mut errors);
    invalid(&errors)?;
    let user = user_of(&review["spec"]);
    Ok(decided(inner, &user, review))
}

/// LocalSubjectAccessReview: may somebody in this namespace.
pub fn local_access(inner: &Inner, namespace: &str, mut review: Value) -> Result<Value, Failure> {
    match object::meta(&review, "namespace") {
        "" => object::meta_mut(&mut review).insert("namespace".into(), namespace.into()),
        given if given == namespace => None,
        _ => {
            return Err(Failure::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    };
    let mut errors = Vec::new();
    check_subject(&review["spec"], &mut errors);
    check_metadata(&review, true, &mut errors);
    let asked = &review["spec"]["resourceAttributes"];
    if asked.is_object() && text(asked, "namespace") != namespace {
        errors.push(FieldError::Invalid {
            field: "spec.resourceAttributes.namespace".into(),
            value: text(asked, "namespace").into(),
            detail: "must match metadata.namespace".into(),
        });
    }
    if review["spec"]["nonResourceAttributes"].is_object() {
        errors.push(FieldError::Invalid {
            field: "spec.nonResourceAttributes".into(),
            value: review["spec"]["nonResourceAttributes"].clone(),
            detail: "disallowed on this kind of request".into(),
        });
    }
    invalid(&errors)?;
    let user = user_of(&review["spec"]);
    Ok(decided(inner, &user, review))
}

/// SelfSubjectRulesReview: what the asker may do in a namespace.
pub fn rules(inner: &Inner, who: &Identity, mut review: Value) -> Result<Value, Failure> {
    let namespace = text(&review["spec"], "namespace").to_string();
    if namespace.is_empty() {
        return Err(Failure::bad_request("no namespace on request"));
    }
    let (rules, trouble) = rules_for(inner, who.info(), &namespace);
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in &rules {
        let rule = json!(rule);
        let part = |fields: &[&str]| -> Value {
            let all = fields.iter();
            let kept = all.filter_map(|f| Some((f.to_string(), rule.get(f)?.clone())));
            kept.collect::<Map<_, _>>().into()
        };
        if rule.get("resources").is_some() {
            resources.push(part(&["verbs", "apiGroups", "resources", "resourceNames"]));
        }
        if rule.get("nonResourceURLs").is_some() {
            paths.push(part(&["verbs", "nonResourceURLs"]));
        }
    }
    // upstream leaves what was asked out of the answer
    review["spec"] = json!({});
    review["metadata"] = json!({});
    // the node authorizer can't list its rules
    let incomplete = who.info().node().is_some();
    review["status"] = json!({
        "resourceRules": resources, "nonResourceRules": paths, "incomplete": incomplete,
    });
    if incomplete {
        review["status"]["evaluationError"] =
            "node authorizer does not support user rule resolution".into();
    } else if !trouble.is_empty() {
        review["status"]["evaluationError"] = aggregate(&trouble).into();
    }
    Ok(review)
}

fn text<'a>(o: &'a Value, key: &str) -> &'a str {
    o.get(key).and_then(Value::as_str).unwrap_or("")
}

fn invalid(errors: &[FieldError]) -> Result<(), Failure> {
    if errors.is_empty() {
        return Ok(());
    }
    // upstream's internal objects have lost their kind here
    Err(Failure::invalid(GROUP, "", "", errors))
}

fn user_of(spec: &Value) -> User {
    let mut user = User {
        name: text(spec, "user").into(),
        uid: text(spec, "uid").into(),
        ..User::default()
    };
    let words = |v: &Value| -> Vec<String> {
        let list = v.as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(String::from).collect()
    };
    user.groups = words(&spec["groups"]);
    for (key, values) in spec["extra"].as_object().into_iter().flatten() {
        user.extra.insert(key.clone(), words(values));
    }
    user
}

/// The review with its status.
fn decided(inner: &Inner, user: &User, mut review: Value) -> Value {
    let spec = &review["spec"];
    let mut trouble = Vec::new();
    let a = match spec.get("resourceAttributes").filter(|r| r.is_object()) {
        Some(r) => {
            let (verb, group, resource) = (text(r, "verb"), text(r, "group"), text(r, "resource"));
            let (namespace, name) = (text(r, "namespace"), text(r, "name"));
            let mut a = Attributes::resource(verb, group, resource, namespace, name)
                .part(text(r, "subresource"));
            let version = text(r, "version");
            if !version.is_empty() {
                a.version = version.into();
            }
            let (fields, wrong) = field_requirements(&r["fieldSelector"]);
            if wrong {
                trouble.push(ignored("fieldSelector", fields.len()));
            }
            a.fields = fields;
            let (labels, wrong) = label_requirements(&r["labelSelector"]);
            if wrong {
                trouble.push(ignored("labelSelector", labels));
            }
            a
        }
        None => {
            let path = &spec["nonResourceAttributes"];
            Attributes::path(text(path, "verb"), text(path, "path"))
        }
    };
    let decision = decide(inner, user, &a);
    let mut status = json!({"allowed": decision.allowed()});
    if !decision.reason().is_empty() {
        status["reason"] = decision.reason().into();
    }
    if !trouble.is_empty() {
        status["evaluationError"] = trouble.join("; ").into();
    }
    review["status"] = status;
    review
}

/// The requirements of a field selector, and whether any had to be left out.
fn field_requirements(selector: &Value) -> (Vec<FieldRequirement>, bool) {
    let raw = text(selector, "rawSelector");
    if !raw.is_empty() {
        return match FieldSelector::parse(raw) {
            Ok(parsed) => (super::request::terms(parsed), false),
            Err(_) => (vec![], true),
        };
    }
    let (mut out, mut wrong) = (Vec::new(), false);
    let requirements = selector["requirements"].as_array();
    for r in requirements.into_iter().flatten() {
        let values = r["values"].as_array().map_or(&[][..], |v| v);
        // upstream's fields know equality with one value alone
        match (text(r, "operator"), values) {
            (operator @ ("In" | "NotIn"), [one]) => out.push(FieldRequirement {
                field: text(r, "key").into(),
                not: operator == "NotIn",
                value: one.as_str().unwrap_or("").into(),
            }),
            _ => wrong = true,
        }
    }
    (out, wrong)
}

/// How many requirements of a label selector there are, and whether any had to be left out; no authorizer here looks at
/// labels.
fn label_requirements(selector: &Value) -> (usize, bool) {
    let raw = text(selector, "rawSelector");
    if !raw.is_empty() {
        let parsed = LabelSelector::parse(raw);
        return (usize::from(parsed.is_ok()), parsed.is_err());
    }
    let requirements = selector["requirements"].as_array().map_or(&[][..], |r| r);
    let known = |r: &&Value| {
        matches!(
            text(r, "operator"),
            "In" | "NotIn" | "Exists" | "DoesNotExist"
        )
    };
    let good = requirements.iter().filter(known).count();
    (good, good < requirements.len())
}

/// Upstream's words for a selector that counts in part, or not at all.
fn ignored(kind: &str, left: usize) -> String {
    let part = if left > 0 { "partially " } else { "" };
    format!("spec.resourceAttributes.{kind} {part}ignored due to parse error")
}

fn check_kind_of_request(spec: &Value, errors: &mut Vec<FieldError>) {
    let has = |k: &str| spec[k].is_object();
    match (has("resourceAttributes"), has("nonResourceAttributes")) {
        (true, true) => errors.push(FieldError::Invalid {
            field: "spec.nonResourceAttributes".into(),
            value: spec["nonResourceAttributes"].clone(),
            detail: "cannot be specified in combination with resourceAttributes".into(),
        }),
        (false, false) => errors.push(FieldError::Invalid {
            field: "spec.resourceAttributes".into(),
            value: Value::Null,
            detail: "exactly one of nonResourceAttributes or resourceAttributes must be specified"
                .into(),
        }),
        _ => {}
    }
}

fn check_subject(spec: &Value, errors: &mut Vec<FieldError>) {
    check_kind_of_request(spec, errors);
    let no_groups = spec["groups"].as_array().is_none_or(Vec::is_empty);
    if text(spec, "user").is_empty() && no_groups {
        errors.push(FieldError::Invalid {
            field: "spec.user".into(),
            value: "".into(),
            detail: "at least one of user or group must be specified".into(),
        });
    }
    check_selectors(spec, errors);
}

fn check_metadata(review: &Value, namespace_may_be: bool, errors: &mut Vec<FieldError>) {
    let detail = match namespace_may_be {
        true => "must be empty except for namespace",
        false => "must be empty",
    };
    let known = |k: &str| k == "managedFields" || (namespace_may_be && k == "namespace");
    let set = |v: &Value| match v {
        Value::Null => false,
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
        Value::Number(n) => n.as_i64() != Some(0),
        Value::Bool(b) => *b,
    };
    let metadata = review["metadata"].as_object();
    if metadata.is_some_and(|m| m.iter().any(|(k, v)| !known(k) && set(v))) {
        errors.push(FieldError::Invalid {
            field: "metadata".into(),
            value: review["metadata"].clone(),
            detail: detail.into(),
        });
    }
}

fn check_selectors(spec: &Value, errors: &mut Vec<FieldError>) {
    for kind in ["fieldSelector", "labelSelector"] {
        let selector = &spec["resourceAttributes"][kind];
        if !selector.is_object() {
            continue;
        }
        let field = format!("spec.resourceAttributes.{kind}");
        let raw = text(selector, "rawSelector");
        let empty = vec![];
        let requirements = selector["requirements"].as_array().unwrap_or(&empty);
        if !raw.is_empty() && !requirements.is_empty() {
            errors.push(FieldError::Invalid {
                field: format!("{field}.rawSelector"),
                value: raw.into(),
                detail: "may not specified at the same time as requirements".into(),
            });
        }
        if raw.is_empty() && requirements.is_empty() {
            errors.push(FieldError::Required {
                field: format!("{field}.requirements"),
                detail: format!(
                    "when {field} is specified, requirements or rawSelector is required"
                ),
            });
        }
        for (i, r) in requirements.iter().enumerate() {
            let at = format!("{field}.requirements[{i}]");
            check_requirement(r, &at, kind == "labelSelector", errors);
        }
    }
}

fn check_requirement(r: &Value, at: &str, label: bool, errors: &mut Vec<FieldError>) {
    let operator = text(r, "operator");
    let none = r["values"].as_array().is_none_or(Vec::is_empty);
    if matches!(operator, "In" | "NotIn") && none {
        errors.push(FieldError::Required {
            field: format!("{at}.values"),
            detail: "must be specified when `operator` is 'In' or 'NotIn'".into(),
        });
    }
    if matches!(operator, "Exists" | "DoesNotExist") && !none {
        errors.push(FieldError::Forbidden {
            field: format!("{at}.values"),
            detail: "may not be specified when `operator` is 'Exists' or 'DoesNotExist'".into(),
        });
    }
    let key = text(r, "key");
    if label {
        for detail in names::qualified_name(key) {
            errors.push(FieldError::Invalid {
                field: format!("{at}.key"),
                value: key.into(),
                detail,
            });
        }
    } else if key.is_empty() {
        errors.push(FieldError::Required {
            field: format!("{at}.key"),
            detail: "must be specified".into(),
        });
    }
}
