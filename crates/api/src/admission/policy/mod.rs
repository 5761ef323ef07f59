//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy (`apiserver/pkg/admission/plugin/policy`).

pub mod mutating;
mod params;
pub mod permission;
pub mod types;
pub mod validating;

use std::collections::BTreeMap;

use knarr_cel::{Activation, Budget, Env, Program, Type, Value as Cel, Variables as Composed};
use serde_json::{Value, json};

use super::{
    Attributes,
    conditions::Conditions,
    json::{items, text},
    matching::Matcher,
    review, stored,
    versioned::Versioned,
};
use crate::{
    expressions::{self, Asker, Input, Variables, compile},
    namespaces::is_namespace,
    server::Inner,
    status::Failure,
};
use params::ParamKind;

/// What both kinds of policy have.
struct Definition {
    name: String,
    fail: bool,
    matcher: Matcher,
    conditions: Conditions,
    param_kind: Option<ParamKind>,
    variables: Vec<(String, Program)>,
    bindings: Vec<Binding>,
}

/// One of its bindings.
struct Binding {
    name: String,
    matcher: Option<Matcher>,
    param_ref: Value,
    actions: Vec<String>,
}

/// An expression that compiled, or why it didn't.
struct Expression {
    text: String,
    program: Result<Program, String>,
}

impl Expression {
    fn new(env: &Env, text: &str, expected: &[Type]) -> Expression {
        Expression {
            text: text.to_string(),
            program: compile(env, text, expected),
        }
    }

    /// Its value; the error is upstream's.
    fn evaluate<'a>(
        &'a self,
        vars: &Activation<'a>,
        budget: &mut Budget,
    ) -> Result<Cel<'a>, Fault> {
        let program = self
            .program
            .as_ref()
            .map_err(|why| Fault::Own(format!("compilation error: {why}")))?;
        program.evaluate(vars, budget).map_err(|e| match e.kind {
            knarr_cel::ErrorKind::Budget => Fault::Budget(e.message),
            _ => Fault::Own(format!("expression '{}' resulted in error: {e}", self.text)),
        })
    }
}

/// Why an expression has no value.
enum Fault {
    /// Its own error.
    Own(String),
    /// There is nothing left to spend: the others have no value either.
    Budget(String),
}

/// The environment of a policy's expressions.
struct Setting {
    /// With `authorizer`.
    full: Env,
    /// Without.
    plain: Env,
    variables: Vec<(String, Program)>,
}

impl Setting {
    fn read(spec: &Value, mutation: bool) -> Setting {
        let has_params = spec["paramKind"].is_object();
        let env = |authorizer| {
            expressions::env(Variables {
                params: has_params,
                authorizer,
                mutation,
            })
        };
        let (mut full, plain) = (env(true), env(false));
        let (mut types, mut variables) = (Vec::new(), Vec::new());
        for v in items(spec, "/variables") {
            // one that doesn't compile is not there; what uses it says so
            if let Ok(program) = compile(&full, text(v, "/expression"), &[]) {
                let name = text(v, "/name").to_string();
                types.push((name.clone(), program.result_type().clone()));
                variables.push((name, program));
                full = env(true).extend().composed(types.clone()).build();
            }
        }
        let plain = if types.is_empty() {
            plain
        } else {
            plain.extend().composed(types).build()
        };
        Setting {
            full,
            plain,
            variables,
        }
    }
}

impl Definition {
    fn read(
        policy: &Value,
        bindings: &BTreeMap<&str, Vec<&Value>>,
        variables: Vec<(String, Program)>,
    ) -> Definition {
        let spec = &policy["spec"];
        let name = text(policy, "/metadata/name");
        let bound = |b: &&Value| Binding {
            name: text(b, "/metadata/name").to_string(),
            matcher: b
                .pointer("/spec/matchResources")
                .filter(|m| m.is_object())
                .map(Matcher::of_resources),
            param_ref: b.pointer("/spec/paramRef").cloned().unwrap_or(Value::Null),
            actions: items(b, "/spec/validationActions")
                .iter()
                .filter_map(|a| a.as_str().map(String::from))
                .collect(),
        };
        Definition {
            name: name.to_string(),
            fail: spec["failurePolicy"] != "Ignore",
            matcher: Matcher::of_resources(&spec["matchConstraints"]),
            conditions: Conditions::read(spec, spec["paramKind"].is_object()),
            param_kind: ParamKind::read(spec),
            variables,
            bindings: bindings
                .get(name)
                .map(|list| list.iter().map(bound).collect())
                .unwrap_or_default(),
        }
    }

    fn composed<'a>(&'a self, vars: &mut Activation<'a>) {
        let all = self.variables.iter().map(|(n, p)| (n.as_str(), p));
        vars.bind_variables(Composed::new(all));
    }
}

/// Bindings by the policy they name. The objects: policies, then bindings.
fn bindings(objects: &[Vec<Value>]) -> BTreeMap<&str, Vec<&Value>> {
    let mut by_policy: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for b in objects.get(1).into_iter().flatten() {
        by_policy
            .entry(text(b, "/spec/policyName"))
            .or_default()
            .push(b);
    }
    by_policy
}

/// Policies say nothing of themselves, nor of what asks who somebody is and may do
/// (`pkg/kubeapiserver/admission/exclusion`).
fn is_exempt(a: &Attributes<'_>) -> bool {
    let review = matches!(
        (a.resource.group, a.resource.plural),
        (
            "authentication.k8s.io",
            "selfsubjectreviews" | "tokenreviews"
        ) | (
            "authorization.k8s.io",
            "localsubjectaccessreviews"
                | "selfsubjectaccessreviews"
                | "selfsubjectrulesreviews"
                | "subjectaccessreviews"
        )
    );
    review
        || a.resource.group == "admissionregistration.k8s.io"
            && [
                "validatingadmissionpolicies",
                "validatingadmissionpolicybindings",
                "mutatingadmissionpolicies",
                "mutatingadmissionpolicybindings",
            ]
            .contains(&a.resource.plural)
}

/// `namespaceObject`: the namespace's fields that expressions may see; null for cluster scope.
fn namespace_object(inner: &Inner, a: &Attributes<'_>) -> Result<Value, Failure> {
    if a.namespace.is_empty() || is_namespace(a.resource) {
        return Ok(Value::Null);
    }
    let Some(mut ns) = stored(inner, "", "namespaces", "", &a.namespace) else {
        return Err(Failure::not_found_named("", "namespaces", &a.namespace));
    };
    if let Some(m) = ns["metadata"].as_object_mut() {
        for k in ["managedFields", "ownerReferences", "selfLink"] {
            m.remove(k);
        }
    }
    Ok(json!({"metadata": ns["metadata"], "spec": ns["spec"], "status": ns["status"]}))
}

/// Everything one policy's expressions are given, but the params.
struct Given<'a> {
    versioned: &'a Versioned<'a>,
    request: Value,
    namespace: &'a Value,
    asker: Asker<'a>,
}

const NULL: &Value = &Value::Null;

impl<'a> Given<'a> {
    fn new(
        inner: &'a Inner,
        versioned: &'a Versioned<'a>,
        a: &'a Attributes<'_>,
        namespace: &'a Value,
    ) -> Given<'a> {
        Given {
            versioned,
            request: review::request(a, versioned),
            namespace,
            asker: Asker::new(inner, a.who.info()),
        }
    }

    fn input<'b>(&'b self, params: &'b Value, namespace: &'b Value) -> Input<'b> {
        Input {
            object: self.versioned.object.as_deref().unwrap_or(NULL),
            old: self.versioned.old.as_deref().unwrap_or(NULL),
            request: &self.request,
            namespace,
            params,
            asker: &self.asker,
        }
    }
}
