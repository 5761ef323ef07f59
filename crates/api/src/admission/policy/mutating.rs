//! MutatingAdmissionPolicy: expressions that give a patch, or a part of the object to be merged into it.

use std::{borrow::Cow, collections::HashSet, sync::Arc};

use knarr_cel::{Budget, Type};
use knarr_schema::managed;
use serde_json::Value;

use super::{
    Attributes, Definition, Expression, Fault, Given, Setting, bindings, is_exempt, items,
    namespace_object, params, text,
};
use crate::{
    admission::{
        Kind,
        configured::Configured,
        versioned::{Forms, Versioned},
        webhooks::conformed,
    },
    catalog, decode, json_patch6902,
    object::meta_mut,
    registry::Resource,
    server::Inner,
    status::Failure,
};

const PREFIXES: &[&str] = &[
    "/registry/admissionregistration.k8s.io/mutatingadmissionpolicies/",
    "/registry/admissionregistration.k8s.io/mutatingadmissionpolicybindings/",
];
/// The manager in whose name a part is merged; it leaves no trace.
const MERGER: &str = "mutating-admission-policy";

enum Mutation {
    JsonPatch(Expression),
    Apply(Expression),
}

struct Policy {
    definition: Definition,
    mutations: Vec<Mutation>,
    reinvoke: bool,
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
        let setting = Setting::read(spec, true);
        let mutation = |m: &Value| {
            let env = &setting.full;
            if m["patchType"] == "JSONPatch" {
                let types = [Type::list(Type::object("JSONPatch", []))];
                let text = text(m, "/jsonPatch/expression").trim();
                Mutation::JsonPatch(Expression::new(env, text, &types))
            } else {
                let types = [Type::object("Object", [])];
                let text = text(m, "/applyConfiguration/expression").trim();
                Mutation::Apply(Expression::new(env, text, &types))
            }
        };
        policies.push(Policy {
            mutations: items(spec, "/mutations").iter().map(mutation).collect(),
            reinvoke: spec["reinvocationPolicy"] == "IfNeeded",
            definition: Definition::read(policy, &bindings, setting.variables),
        });
    }
    Policies(policies)
}

/// Policy, binding and params that were asked together.
type Key = (String, String, String);

/// What is remembered between the first round of mutations and the second.
#[derive(Default)]
pub struct Rounds {
    second: bool,
    left: Option<Value>,
    willing: HashSet<Key>,
    again: HashSet<Key>,
    /// A second round is wanted.
    pub wanted: bool,
}
impl Rounds {
    /// The second round begins.
    pub fn turn(&mut self) {
        self.second = true;
    }
    fn changed(&mut self) {
        self.again.extend(self.willing.drain());
    }
}

struct Refusal {
    message: String,
    reason: &'static str,
}

/// All policies about the request, one after the other.
pub async fn mutate(
    inner: &Inner,
    a: &mut Attributes<'_>,
    rounds: &mut Rounds,
) -> Result<(), Failure> {
    if is_exempt(a) || a.object.is_none() {
        return Ok(());
    }
    let policies = inner.mutating_policies.0.get(inner, read);
    if policies.0.is_empty() {
        return Ok(());
    }
    let mut refusals: Vec<Refusal> = Vec::new();
    let mut invocations = Vec::new();
    let mut forms = Forms::default();
    for policy in &policies.0 {
        let d = &policy.definition;
        let refuse = |binding: Option<&str>, why: String, reason| {
            let by = match binding {
                Some(binding) => format!(
                    "policy '{}' with binding '{binding}' denied request: {why}",
                    d.name
                ),
                None => format!("policy {:?} denied request: {why}", d.name),
            };
            d.fail.then_some(Refusal {
                message: by,
                reason,
            })
        };
        let hit = match d.matcher.hit(inner, a) {
            Ok(Some(hit)) => hit,
            Ok(None) => continue,
            Err(f) => {
                let why = format!("failed to configure policy: {}", f.message());
                refusals.extend(refuse(None, why, "Forbidden"));
                continue;
            }
        };
        if let Some(kind) = &d.param_kind
            && kind.resource(inner).is_none()
        {
            let why = format!("failed to configure policy: {}", kind.unknown());
            refusals.extend(refuse(None, why, "Forbidden"));
            continue;
        }
        let hit = Arc::new(hit);
        for binding in &d.bindings {
            let failed = |why: &str| {
                let why = format!("failed to configure binding: {why}");
                refuse(Some(&binding.name), why, "Forbidden")
            };
            match binding.matcher.as_ref().map(|m| m.hit(inner, a)) {
                None | Some(Ok(Some(_))) => {}
                Some(Ok(None)) => continue,
                Some(Err(f)) => {
                    refusals.extend(failed(f.message()));
                    continue;
                }
            }
            if let Err(why) = hit.versioned(inner, a, &mut forms).await {
                let why = format!("failed to configure policy: {why}");
                refusals.extend(refuse(None, why, "Forbidden"));
                continue;
            }
            let kind = d.param_kind.as_ref();
            match params::collect(inner, kind, &binding.param_ref, a).await {
                Ok(params) => {
                    for param in params {
                        invocations.push((policy, binding.name.as_str(), hit.clone(), param));
                    }
                }
                Err(why) => refusals.extend(failed(&why)),
            }
        }
    }
    if !invocations.is_empty() {
        let namespace = namespace_object(inner, a)?;
        if rounds.second && rounds.left != a.object {
            rounds.changed();
        }
        for (policy, binding, hit, param) in invocations {
            let d = &policy.definition;
            let mut seen = hit
                .versioned(inner, a, &mut forms)
                .await
                .map_err(Failure::internal)?;
            let holds = {
                let given = Given::new(inner, &seen, a, &namespace);
                if d.conditions.is_empty() {
                    Ok(true)
                } else {
                    d.conditions.hold(&given.input(&param, &Value::Null))
                }
            };
            let refuse = |why: String| {
                let message = format!(
                    "policy '{}' with binding '{binding}' denied request: {why}",
                    d.name
                );
                d.fail.then_some(Refusal {
                    message,
                    reason: "Invalid",
                })
            };
            match holds {
                Ok(true) => {}
                Ok(false) => continue,
                Err(why) => {
                    refusals.extend(refuse(why));
                    continue;
                }
            }
            let at = |p: &str| param.pointer(p).and_then(Value::as_str).unwrap_or("");
            let params_key = format!("{}/{}", at("/metadata/namespace"), at("/metadata/name"));
            let key: Key = (d.name.clone(), binding.to_string(), params_key);
            if rounds.second && !rounds.again.contains(&key) {
                continue;
            }
            let before = seen.object.as_deref().cloned();
            for mutation in &policy.mutations {
                match one(
                    inner,
                    d,
                    mutation,
                    hit.resource(a),
                    &seen,
                    a,
                    &namespace,
                    &param,
                ) {
                    Ok(Some(object)) => seen.object = Some(Cow::Owned(object)),
                    Ok(None) => {}
                    Err(Wrong::Policy(why)) => refusals.extend(refuse(why)),
                    Err(Wrong::Request(f)) => return Err(f),
                }
            }
            let after = seen.object.map(Cow::into_owned);
            if let (Some(before), Some(after)) = (before, after)
                && before != after
            {
                let object = hit
                    .back(inner, a, &mut forms, after)
                    .await
                    .map_err(|why| Failure::internal(format!("failed to convert object: {why}")))?;
                a.object = Some(object);
                a.changed = true;
                rounds.changed();
                rounds.wanted = true;
            }
            if policy.reinvoke {
                rounds.willing.insert(key);
            }
        }
        rounds.left = a.object.clone();
    }
    let Some(first) = refusals.first() else {
        return Ok(());
    };
    let mut failure = Failure::forbidden(a.resource, &a.shown_name(), "").told(&first.message);
    failure = failure.recoded(403, first.reason);
    for r in &refusals {
        failure = failure.cause("", &r.message, "");
    }
    Err(failure)
}

/// Whose fault it is.
enum Wrong {
    /// The policy's: its failure policy decides.
    Policy(String),
    /// Nobody can go on.
    Request(Failure),
}

/// The object of the matched version after one mutation; None when it changes nothing.
#[allow(clippy::too_many_arguments)]
fn one(
    inner: &Inner,
    d: &Definition,
    mutation: &Mutation,
    r: &Resource,
    seen: &Versioned<'_>,
    a: &Attributes<'_>,
    namespace: &Value,
    param: &Value,
) -> Result<Option<Value>, Wrong> {
    let Some(object) = seen.object.as_deref() else {
        return Ok(None);
    };
    let given = Given::new(inner, seen, a, namespace);
    let input = given.input(param, given.namespace);
    let mut vars = input.activation();
    d.composed(&mut vars);
    let (Mutation::JsonPatch(expression) | Mutation::Apply(expression)) = mutation;
    let value = expression
        .evaluate(&vars, &mut Budget::default())
        .map_err(|f| match f {
            Fault::Own(why) | Fault::Budget(why) => Wrong::Policy(why),
        })?;
    if let Mutation::Apply(_) = mutation {
        value
            .check_type_names()
            .map_err(|wrong| Wrong::Policy(format!("type mismatch: {}", wrong.join("\n"))))?;
    }
    let value = value.to_json().map_err(|e| Wrong::Policy(e.message))?;
    let own = a.kind == Kind::of(a.resource);
    let patched = match mutation {
        Mutation::JsonPatch(_) => patched(object, value)?,
        Mutation::Apply(_) => Some(merged(own.then_some(r), object, value)?),
    };
    match patched {
        Some(patched) if own => Ok(Some(conformed(r, patched).map_err(Wrong::Request)?)),
        other => Ok(other),
    }
}

/// RFC 6902; None when one of its tests fails.
fn patched(object: &Value, mut steps: Value) -> Result<Option<Value>, Wrong> {
    for step in steps.as_array_mut().into_iter().flatten() {
        if let Some(step) = step.as_object_mut() {
            step.retain(|k, v| !(k == "from" && (v.is_null() || *v == "")));
        }
    }
    let steps = steps.as_array().map_or(&[][..], Vec::as_slice);
    let mut object = object.clone();
    match json_patch6902::apply(&mut object, steps) {
        Ok(()) => Ok(Some(object)),
        Err(json_patch6902::Error::Test(_)) => Ok(None),
        Err(e) => Err(Wrong::Policy(format!("JSON Patch: {e}"))),
    }
}

/// The part merged into the object by the rules of server-side apply, without owning anything.
fn merged(r: Option<&Resource>, object: &Value, mut part: Value) -> Result<Value, Wrong> {
    let wrong = |why: String| Wrong::Policy(format!("error applying patch: {why}"));
    let ty = r.and_then(|r| Some((r, decode::Owned::of(r)?)));
    let Some((r, ty)) = ty else {
        let mut merged = object.clone();
        json_patch::merge(&mut merged, &part);
        return Ok(merged);
    };
    if let managed::Root::BuiltIn(ty) = ty.root() {
        let atomic = ty.atomic_parts(&part);
        if !atomic.is_empty() {
            return Err(wrong(format!(
                "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
                atomic.join(", ")
            )));
        }
    }
    let api_version = catalog::api_version(r);
    part["apiVersion"] = api_version.as_str().into();
    part["kind"] = r.kind.into();
    let mut bare = object.clone();
    let fields = meta_mut(&mut bare).remove("managedFields");
    let manager = managed::Manager {
        name: MERGER,
        subresource: "",
        api_version: &api_version,
        time: "",
    };
    let mut merged =
        managed::apply(ty.root(), Some(&bare), &part, &manager, true).map_err(|e| {
            wrong(match e {
                managed::ApplyError::Invalid(why) => {
                    format!("failed to convert patch object to typed object: {why}")
                }
                managed::ApplyError::Conflicts { message, .. } => message,
            })
        })?;
    let m = meta_mut(&mut merged);
    m.remove("managedFields");
    if let Some(fields) = fields {
        m.insert("managedFields".into(), fields);
    }
    Ok(merged)
}
