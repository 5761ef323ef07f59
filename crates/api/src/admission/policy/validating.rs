//! ValidatingAdmissionPolicy: expressions that must hold.

use std::collections::BTreeMap;

use knarr_cel::{Budget, Type, limits};
use serde_json::{Value, json};

use super::{
    Attributes, Binding, Definition, Expression, Fault, Given, Setting, bindings, is_exempt, items,
    namespace_object, params, text,
};
use crate::{
    admission::{
        configured::Configured,
        versioned::{Forms, Versioned},
    },
    server::Inner,
    status::Failure,
};

const PREFIXES: &[&str] = &[
    "/registry/admissionregistration.k8s.io/validatingadmissionpolicies/",
    "/registry/admissionregistration.k8s.io/validatingadmissionpolicybindings/",
];
/// Longest value of an audit annotation, in bytes.
const AUDIT_BYTES_MAX: usize = 10 * 1024;

struct Validation {
    expression: Expression,
    message_expression: Option<Expression>,
    message: String,
    reason: String,
}

struct Policy {
    definition: Definition,
    validations: Vec<Validation>,
    audit: Vec<(String, Expression)>,
}

/// All policies that are bound.
#[derive(Default)]
struct Policies(Vec<Policy>);

/// The policies configured.
pub struct State(Configured<Policies>);
impl Default for State {
    fn default() -> State {
        State(Configured::new(PREFIXES))
    }
}

fn read(objects: &[Vec<Value>]) -> Policies {
    let bindings = bindings(objects);
    let mut policies = Vec::new();
    for policy in objects.first().into_iter().flatten() {
        if !bindings.contains_key(text(policy, "/metadata/name")) {
            continue;
        }
        let spec = &policy["spec"];
        let setting = Setting::read(spec, false);
        let validation = |v: &Value| Validation {
            expression: Expression::new(&setting.full, text(v, "/expression"), &[Type::Bool]),
            message_expression: v["messageExpression"]
                .as_str()
                .filter(|m| !m.is_empty())
                .map(|m| Expression::new(&setting.plain, m, &[Type::String])),
            message: text(v, "/message").trim().to_string(),
            reason: v["reason"].as_str().unwrap_or("Invalid").to_string(),
        };
        let audit = |v: &Value| {
            let types = [Type::String, Type::Null];
            let value = text(v, "/valueExpression");
            let expression = Expression::new(&setting.full, value, &types);
            (text(v, "/key").to_string(), expression)
        };
        policies.push(Policy {
            validations: items(spec, "/validations").iter().map(validation).collect(),
            audit: items(spec, "/auditAnnotations").iter().map(audit).collect(),
            definition: Definition::read(policy, &bindings, setting.variables),
        });
    }
    Policies(policies)
}

/// What is wrong, and with which reason; the index of the validation.
struct Denial {
    index: usize,
    message: String,
    reason: String,
}

/// What a policy says with one set of params.
#[derive(Default)]
struct Verdict {
    denials: Vec<Denial>,
    /// Published whatever the verdict is.
    notes: Vec<(String, String)>,
    /// Failures of the notes: they deny, whatever the binding's actions are.
    broken: Vec<String>,
}

/// A refusal by policy, and perhaps binding.
struct Refusal {
    policy: String,
    binding: Option<String>,
    message: String,
    reason: String,
}

/// All policies about the request.
pub async fn validate(inner: &Inner, a: &mut Attributes<'_>) -> Result<(), Failure> {
    if is_exempt(a) {
        return Ok(());
    }
    let mut warnings = Vec::new();
    let verdict = validated(inner, a, &mut warnings).await;
    a.warnings.append(&mut warnings);
    verdict
}

async fn validated(
    inner: &Inner,
    a: &Attributes<'_>,
    warnings: &mut Vec<String>,
) -> Result<(), Failure> {
    let policies = inner.validating_policies.0.get(inner, read);
    if policies.0.is_empty() {
        return Ok(());
    }
    let mut refusals = Vec::new();
    let mut namespace: Option<Value> = None;
    let mut forms = Forms::default();
    for policy in &policies.0 {
        let d = &policy.definition;
        let configuration = |binding: Option<&Binding>, why: String| {
            let what = if binding.is_some() {
                "binding"
            } else {
                "policy"
            };
            d.fail.then(|| Refusal {
                policy: d.name.clone(),
                binding: binding.map(|b| b.name.clone()),
                message: format!("failed to configure {what}: {why}"),
                reason: String::new(),
            })
        };
        let hit = match d.matcher.hit(inner, a) {
            Ok(Some(hit)) => hit,
            Ok(None) => continue,
            Err(f) => {
                refusals.extend(configuration(None, f.message().to_string()));
                continue;
            }
        };
        if let Some(kind) = &d.param_kind
            && kind.resource(inner).is_none()
        {
            refusals.extend(configuration(None, kind.unknown()));
            continue;
        }
        let mut notes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut seen: Option<Versioned<'_>> = None;
        for binding in &d.bindings {
            match binding.matcher.as_ref().map(|m| m.hit(inner, a)) {
                None | Some(Ok(Some(_))) => {}
                Some(Ok(None)) => continue,
                Some(Err(f)) => {
                    refusals.extend(configuration(Some(binding), f.message().to_string()));
                    continue;
                }
            }
            let params =
                match params::collect(inner, d.param_kind.as_ref(), &binding.param_ref, a).await {
                    Ok(params) => params,
                    Err(why) => {
                        refusals.extend(configuration(Some(binding), why));
                        continue;
                    }
                };
            if seen.is_none() && !params.is_empty() {
                match hit.versioned(inner, a, &mut forms).await {
                    Ok(versioned) => seen = Some(versioned),
                    Err(why) => {
                        let why = format!("failed to convert object version: {why}");
                        refusals.extend(configuration(Some(binding), why));
                        continue;
                    }
                }
            }
            if namespace.is_none() {
                namespace = Some(namespace_object(inner, a)?);
            }
            let namespace = namespace.as_ref().unwrap_or(&Value::Null);
            let Some(seen) = &seen else { continue };
            for param in &params {
                let verdict = judge(inner, policy, seen, a, namespace, param);
                for (key, value) in verdict.notes {
                    let values = notes.entry(key).or_default();
                    if !values.contains(&value) {
                        values.push(value);
                    }
                }
                act(policy, binding, a, verdict.denials, warnings, &mut refusals);
                for message in verdict.broken {
                    refusals.push(Refusal {
                        policy: d.name.clone(),
                        binding: Some(binding.name.clone()),
                        message,
                        reason: String::new(),
                    });
                }
            }
        }
        for (key, values) in notes {
            a.annotate(&format!("{}/{key}", d.name), &values.join(", "));
        }
    }
    match refusals.into_iter().next() {
        None => Ok(()),
        Some(r) => Err(refused(a, &r)),
    }
}

fn refused(a: &Attributes<'_>, r: &Refusal) -> Failure {
    let by = match &r.binding {
        Some(binding) => format!(
            "ValidatingAdmissionPolicy '{}' with binding '{binding}' denied request: {}",
            r.policy, r.message
        ),
        None => format!(
            "ValidatingAdmissionPolicy '{}' denied request: {}",
            r.policy, r.message
        ),
    };
    let (reason, code) = match r.reason.as_str() {
        "Forbidden" => ("Forbidden", 403),
        "Unauthorized" => ("Unauthorized", 401),
        "RequestEntityTooLarge" => ("RequestEntityTooLarge", 413),
        _ => ("Invalid", 422),
    };
    a.forbidden(&by).recoded(code, reason).cause("", &by, "")
}

/// What the binding wants done about denials.
fn act(
    policy: &Policy,
    binding: &Binding,
    a: &Attributes<'_>,
    denials: Vec<Denial>,
    warnings: &mut Vec<String>,
    refusals: &mut Vec<Refusal>,
) {
    let name = &policy.definition.name;
    for denial in denials {
        for action in &binding.actions {
            match action.as_str() {
                "Deny" => refusals.push(Refusal {
                    policy: name.clone(),
                    binding: Some(binding.name.clone()),
                    message: denial.message.clone(),
                    reason: denial.reason.clone(),
                }),
                "Warn" => warnings.push(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{}': {}",
                    binding.name, denial.message
                )),
                _ => {
                    let note = json!([{
                        "message": denial.message, "policy": name, "binding": binding.name,
                        "expressionIndex": denial.index, "validationActions": binding.actions,
                    }]);
                    let key = "validation.policy.admission.k8s.io/validation_failure";
                    a.annotate(key, &note.to_string());
                }
            }
        }
    }
}

fn judge(
    inner: &Inner,
    policy: &Policy,
    seen: &Versioned<'_>,
    a: &Attributes<'_>,
    namespace: &Value,
    param: &Value,
) -> Verdict {
    let d = &policy.definition;
    let given = Given::new(inner, seen, a, namespace);
    let mut verdict = Verdict::default();
    let fault = |message: String, index: usize| {
        d.fail.then(|| Denial {
            index,
            message,
            reason: String::new(),
        })
    };
    if !d.conditions.is_empty() {
        // upstream: conditions see no namespace
        match d.conditions.hold(&given.input(param, &Value::Null)) {
            Ok(true) => {}
            Ok(false) => return verdict,
            Err(why) => {
                verdict.denials.extend(fault(why, 0));
                return verdict;
            }
        }
    }
    let input = given.input(param, given.namespace);
    let mut vars = input.activation();
    d.composed(&mut vars);
    let mut budget = Budget::default();
    for (index, v) in policy.validations.iter().enumerate() {
        match v.expression.evaluate(&vars, &mut budget) {
            Ok(value) if value.as_bool() == Some(true) => {}
            Ok(_) => {
                let message = v
                    .message_expression
                    .as_ref()
                    .and_then(|e| e.evaluate(&vars, &mut budget).ok())
                    .and_then(|value| value.as_str().map(|m| m.trim().to_string()))
                    .filter(|m| m.len() <= limits::MAX_MESSAGE_BYTES && !m.contains('\n'))
                    .unwrap_or_default();
                let message = match (message.as_str(), v.message.as_str()) {
                    ("", "") => format!("failed expression: {}", v.expression.text.trim()),
                    ("", own) => own.to_string(),
                    (evaluated, _) => evaluated.to_string(),
                };
                verdict.denials.push(Denial {
                    index,
                    message,
                    reason: v.reason.clone(),
                });
            }
            Err(Fault::Own(why)) => verdict.denials.extend(fault(why, index)),
            Err(Fault::Budget(why)) => {
                verdict.denials = fault(why, 0).into_iter().collect();
                return verdict;
            }
        }
    }
    let mut vars = input.activation();
    d.composed(&mut vars);
    let mut budget = Budget::default();
    for (key, expression) in &policy.audit {
        match expression.evaluate(&vars, &mut budget) {
            Ok(value) => {
                let text = value.as_str().unwrap_or("").trim();
                if !text.is_empty() {
                    let end = text.floor_char_boundary(AUDIT_BYTES_MAX);
                    verdict.notes.push((key.clone(), text[..end].to_string()));
                }
            }
            Err(Fault::Own(why)) if d.fail => verdict.broken.push(why),
            Err(Fault::Budget(why)) => {
                verdict.denials = fault(why, 0).into_iter().collect();
                return verdict;
            }
            Err(_) => {}
        }
    }
    verdict
}
