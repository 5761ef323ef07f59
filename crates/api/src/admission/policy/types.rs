//! Type checking of ValidatingAdmissionPolicies: their expressions against the kinds they are about, told in the status
//! (`policy/validating/typechecking.go` and upstream's status controller).

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Weak},
};

use knarr_cel::{CompileError, Env, Schema, Type, render};
use knarr_schema::{Shape, TypeRef};
use knarr_store::Cursor;
use serde_json::{Value, json};

use super::{items, stored, text};
use crate::{
    catalog, decode,
    expressions::{self, Variables},
    identity::Identity,
    object,
    query::WriteOptions,
    registry::{Handle, Resource},
    server::Inner,
    write::{Change, Part, Write},
};

const PREFIX: &str = "/registry/admissionregistration.k8s.io/validatingadmissionpolicies/";
const MANAGER: &str = "validatingadmissionpolicy-status-controller";
const TYPES_MAX: usize = 10;
const BATCH: usize = 64;

/// Follows the policies until the server ends. It holds the server only while it works.
pub async fn run(inner: Weak<Inner>) {
    while let Some((cursor, stopping)) = start(&inner).await {
        follow(&inner, cursor, stopping).await;
    }
}

async fn start(inner: &Weak<Inner>) -> Option<(Cursor, tokio_util::sync::CancellationToken)> {
    let inner = inner.upgrade().filter(|i| !i.stopping.is_cancelled())?;
    let snapshot = inner.store.snapshot();
    let from = snapshot.revision();
    let keys: Vec<Arc<str>> = snapshot
        .range(PREFIX, None)
        .map(|e| e.key.clone())
        .collect();
    for key in keys {
        reconcile(&inner, &key).await;
    }
    let cursor = inner.store.watch(PREFIX, from).or_else(|_| {
        // the ring has moved on meanwhile, as it does under a flood of writes
        let now = inner.store.snapshot().revision();
        inner.store.watch(PREFIX, now)
    });
    Some((cursor.ok()?, inner.stopping.clone()))
}

async fn follow(
    inner: &Weak<Inner>,
    mut cursor: Cursor,
    stopping: tokio_util::sync::CancellationToken,
) {
    loop {
        let events = tokio::select! {
            events = cursor.next(BATCH) => events,
            () = stopping.cancelled() => return,
        };
        let (Ok(events), Some(inner)) = (events, inner.upgrade()) else {
            return;
        };
        for event in events {
            if event.value.is_some() {
                reconcile(&inner, &event.key).await;
            }
        }
    }
}

/// Checks a policy whose newest generation has not been checked.
async fn reconcile(inner: &Inner, key: &str) {
    let Some(r) = inner.catalog().preferred(
        "admissionregistration.k8s.io",
        "validatingadmissionpolicies",
    ) else {
        return;
    };
    let snapshot = inner.store.snapshot();
    let Some(entry) = snapshot.get(key) else {
        return;
    };
    let Ok(policy) = object::parse(&entry.value) else {
        return;
    };
    let number = |p: &str| policy.pointer(p).and_then(Value::as_i64).unwrap_or(0);
    let generation = number("/metadata/generation");
    if generation <= number("/status/observedGeneration") {
        return;
    }
    let warnings = check(inner, &policy["spec"]);
    let name = text(&policy, "/metadata/name");
    let (who, options) = (Identity::loopback(), WriteOptions::internal(MANAGER));
    let mut w = Write::new(inner, &who, &r, "", name, &options, Part::Status);
    let done = w
        .update(|live, _| {
            let mut object = live.clone();
            object["status"]["observedGeneration"] = generation.into();
            object["status"]["typeChecking"] = if warnings.is_empty() {
                json!({})
            } else {
                json!({ "expressionWarnings": warnings })
            };
            Ok(Change {
                object,
                applied: false,
            })
        })
        .await;
    if let Err(f) = done
        && f.code() != 404
    {
        tracing::warn!(
            "type checking ValidatingAdmissionPolicy {name}: {}",
            f.message()
        );
    }
}

/// A kind that is checked against: how it is called, and its type.
struct Checked {
    name: String,
    ty: Type,
}

fn check(inner: &Inner, spec: &Value) -> Vec<Value> {
    let kinds = kinds(inner, spec);
    if kinds.is_empty() {
        return vec![];
    }
    let mut maker = Maker::default();
    let checked: Vec<Checked> = kinds
        .iter()
        .filter_map(|r| {
            let name = format!(
                "{}{}, Kind={}",
                if r.group.is_empty() { "/" } else { "" },
                catalog::api_version(r),
                r.kind
            );
            let ty = maker.of_resource(inner, r)?;
            Some(Checked { name, ty })
        })
        .collect();
    let params = super::ParamKind::read(spec).map(|kind| {
        let r = kind.resource(inner);
        r.and_then(|r| maker.of_resource(inner, &r))
            .unwrap_or(Type::Dyn)
    });
    let envs: Vec<(&str, Env)> = checked
        .iter()
        .map(|c| (c.name.as_str(), env(spec, &c.ty, params.as_ref())))
        .collect();
    let mut warnings = Vec::new();
    for (i, v) in items(spec, "/validations").iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let expression = text(v, &format!("/{field}"));
            if expression.is_empty() {
                continue;
            }
            let told: Vec<String> = envs
                .iter()
                .filter_map(|(name, env)| match env.compile(expression, &[]) {
                    Err(CompileError::Issues(issues)) => {
                        Some(format!("{name}: {}\n", render(&issues)))
                    }
                    _ => None,
                })
                .collect();
            if !told.is_empty() {
                warnings.push(json!({
                    "fieldRef": format!("spec.validations[{i}].{field}"),
                    "warning": told.join("\n"),
                }));
            }
        }
    }
    warnings
}

fn env(spec: &Value, object: &Type, params: Option<&Type>) -> Env {
    let mut builder = expressions::env(Variables {
        params: false,
        authorizer: true,
        mutation: false,
    })
    .extend()
    .variable("object", object.clone())
    .variable("oldObject", object.clone());
    if let Some(params) = params {
        builder = builder.variable("params", params.clone());
    }
    let mut env = builder.build();
    let mut composed = Vec::new();
    for v in items(spec, "/variables") {
        if let Ok(program) = env.compile(text(v, "/expression"), &[]) {
            composed.push((text(v, "/name").to_string(), program.result_type().clone()));
            env = env.extend().composed(composed.clone()).build();
        }
    }
    env
}

/// The resources that a policy names without wildcards, by group, version and kind.
fn kinds(inner: &Inner, spec: &Value) -> Vec<Handle> {
    let catalog = inner.catalog();
    let mut found: Vec<Handle> = Vec::new();
    let mut seen = BTreeSet::new();
    for rule in items(spec, "/matchConstraints/resourceRules") {
        let list = |k: &str| -> Vec<&str> {
            let mut all: Vec<&str> = items(rule, k).iter().filter_map(Value::as_str).collect();
            all.sort_unstable();
            all
        };
        let (groups, versions) = (list("/apiGroups"), list("/apiVersions"));
        if groups.iter().chain(&versions).any(|x| x.contains('*')) {
            continue;
        }
        let resources = list("/resources");
        let named = resources.iter().filter(|r| !r.contains(['*', '/']));
        for resource in named {
            for group in &groups {
                for version in &versions {
                    if let Some(r) = catalog.find(group, version, resource)
                        && seen.len() < TYPES_MAX
                        && seen.insert((r.group, r.version, r.kind))
                    {
                        found.push(r);
                    }
                }
            }
        }
    }
    found.sort_by_key(|r| (r.group, r.version, r.kind));
    found
}

/// Makes CEL's types of the schema's, each once.
#[derive(Default)]
struct Maker(HashMap<&'static str, Type>);

impl Maker {
    fn of_resource(&mut self, inner: &Inner, r: &Resource) -> Option<Type> {
        if let Some(ty) = decode::type_of(r) {
            return Some(self.of(ty));
        }
        let (group, plural) = ("apiextensions.k8s.io", "customresourcedefinitions");
        let definition = stored(
            inner,
            group,
            plural,
            "",
            &format!("{}.{}", r.plural, r.group),
        )?;
        let version = items(&definition, "/spec/versions")
            .iter()
            .find(|v| v["name"] == r.version)?;
        let schema = version.pointer("/schema/openAPIV3Schema")?;
        Some(Schema::from_openapi(schema, true, r.kind)?.ty())
    }

    fn of(&mut self, ty: TypeRef) -> Type {
        match ty.shape() {
            Shape::String => Type::String,
            Shape::Bytes => Type::Bytes,
            Shape::Bool => Type::Bool,
            Shape::Int => Type::Int,
            Shape::Double => Type::Double,
            Shape::Time => Type::Timestamp,
            Shape::Any => Type::Dyn,
            Shape::List(of) => Type::list(self.of(of)),
            Shape::Map(of) => Type::map(Type::String, self.of(of)),
            Shape::Struct(fields) => {
                let name = ty.name();
                if let Some(made) = self.0.get(name) {
                    return made.clone();
                }
                // a type within itself is not looked into again
                self.0.insert(name, Type::Dyn);
                let fields: Vec<_> = fields
                    .into_iter()
                    .filter_map(|(field, ty)| {
                        let escaped = knarr_cel::escape(field)?;
                        let field = knarr_cel::Field {
                            ty: self.of(ty),
                            required: false,
                        };
                        Some((escaped, field))
                    })
                    .collect();
                let made = Type::Object(knarr_cel::ObjectType::new(name, fields));
                self.0.insert(name, made.clone());
                made
            }
        }
    }
}
