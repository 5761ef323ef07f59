//! Admission: what is changed of and said to a write between its decoding and its commit.
//!
//! Upstream's order (`pkg/kubeapiserver/options/plugins.go`): first every plugin that changes the object, then, after the
//! kind's own validation, every plugin that only judges it. The phases are [`mutate`] and [`validate`]; the callers are
//! the write, delete and connect paths. With nothing configured a request pays a few map lookups.

mod certificates;
mod classes;
mod conditions;
mod configured;
mod json;
mod lifecycle;
mod limit_ranger;
mod matching;
mod node_restriction;
mod pod_resize;
mod pod_security;
pub mod policy;
mod priority;
pub mod quota;
mod resources;
mod review;
mod runtime_class;
mod service_account;
mod tolerations;
mod topology;
mod versioned;
pub mod webhooks;

use std::borrow::Cow;

use knarr_store::Op;
use serde_json::{Value, json};

use crate::{
    audit::Span,
    catalog::{self, Target},
    delete::DeleteOptions,
    identity::Identity,
    namespaces::is_namespace,
    object,
    query::{FieldValidation, WriteOptions},
    registry::Resource,
    server::Inner,
    status::Failure,
};

/// What the request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object, or a subresource that is created (binding, eviction).
    Create,
    /// A changed object.
    Update,
    /// An object that is to go.
    Delete,
    /// A stream (exec, attach, port-forward, proxy).
    Connect,
}
impl Operation {
    /// As admission reviews and rules spell it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// A kind with its group and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind<'a> {
    /// Empty for the core group.
    pub group: &'a str,
    /// E.g. `v1`.
    pub version: &'a str,
    /// E.g. `Pod`.
    pub kind: &'a str,
}
impl<'a> Kind<'a> {
    /// The kind a resource's objects have.
    pub fn of(r: &'a Resource) -> Kind<'a> {
        Kind {
            group: r.group,
            version: r.version,
            kind: r.kind,
        }
    }
}

/// The request's options object.
#[derive(Clone, Copy)]
pub enum RequestOptions<'a> {
    /// CreateOptions or UpdateOptions.
    Write(&'a WriteOptions),
    /// DeleteOptions.
    Delete(&'a DeleteOptions),
    /// Connects have none.
    None,
}

/// Everything admission knows of one request (upstream's `admission.Attributes`).
pub struct Attributes<'a> {
    /// Who asks.
    pub who: &'a Identity,
    /// What is done.
    pub operation: Operation,
    /// To which resource.
    pub resource: &'a Resource,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// The kind of `object` and `old`: a Scale for `scale`, PodExecOptions for `exec`.
    pub kind: Kind<'a>,
    /// Empty for cluster scope; a Namespace is in the namespace of its own name.
    pub namespace: Cow<'a, str>,
    /// Empty while it is not generated yet, and for each object of a deletecollection.
    pub name: Cow<'a, str>,
    /// The new object; None for deletes.
    pub object: Option<Value>,
    /// The stored object; None for creates and connects.
    pub old: Option<&'a Value>,
    /// Nothing will be committed.
    pub dry_run: bool,
    /// The request's options.
    pub options: RequestOptions<'a>,
    /// For the Warning header.
    pub warnings: Vec<String>,
    /// The request's audit event.
    pub span: Option<Span>,
    /// The object was changed by someone who doesn't know the kind's rules (a webhook or a policy).
    pub changed: bool,
}

/// What the validating phase adds to the commit.
#[derive(Default)]
pub struct Admitted {
    /// Written together with the object or not at all.
    pub ops: Vec<Op>,
    /// Held until they are.
    pub guard: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Admitted {
    /// The commit of a write: what admission adds, then the write itself, whose revision is answered.
    pub fn with(&mut self, op: Op) -> Vec<Op> {
        let mut ops = std::mem::take(&mut self.ops);
        ops.push(op);
        ops
    }
}

impl<'a> Attributes<'a> {
    /// The attributes of a write to a resource's own objects; the rest is set by the caller.
    pub fn new(
        who: &'a Identity,
        operation: Operation,
        resource: &'a Resource,
        namespace: &'a str,
        name: &'a str,
        options: RequestOptions<'a>,
    ) -> Attributes<'a> {
        let dry_run = match options {
            RequestOptions::Write(o) => o.dry_run,
            RequestOptions::Delete(o) => o.dry_run,
            RequestOptions::None => false,
        };
        Attributes {
            who,
            operation,
            resource,
            subresource: "",
            kind: Kind::of(resource),
            namespace: if is_namespace(resource) {
                name.into()
            } else {
                namespace.into()
            },
            name: name.into(),
            object: None,
            old: None,
            dry_run,
            options,
            warnings: vec![],
            span: None,
            changed: false,
        }
    }

    /// Is it this resource's object itself (no subresource)?
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.subresource.is_empty()
            && self.resource.group == group
            && self.resource.plural == plural
    }

    /// The object's name for messages: the request's, the object's, its generateName, or `Unknown`.
    pub fn shown_name(&self) -> String {
        let of = |k: &str| {
            self.object
                .as_ref()
                .map_or("", |o| object::meta(o, k))
                .to_string()
        };
        let candidates = [self.name.to_string(), of("name"), of("generateName")];
        candidates
            .into_iter()
            .find(|n| !n.is_empty())
            .unwrap_or_else(|| "Unknown".into())
    }

    /// `admission.NewForbidden`: `pods "a" is forbidden: why`.
    pub fn forbidden(&self, why: &str) -> Failure {
        Failure::forbidden(self.resource, &self.shown_name(), why)
    }

    /// Notes something in the request's audit event.
    pub fn annotate(&self, key: &str, value: &str) {
        if let Some(span) = &self.span {
            span.annotate(key, value);
        }
    }

    /// The options object as webhooks and policies see it; null for connects.
    pub fn options_value(&self) -> Value {
        match self.options {
            RequestOptions::None => Value::Null,
            RequestOptions::Delete(o) => o.to_value(),
            RequestOptions::Write(o) => {
                let kind = match self.operation {
                    Operation::Create => "CreateOptions",
                    _ => "UpdateOptions",
                };
                let mut value = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
                if o.dry_run {
                    value["dryRun"] = json!(["All"]);
                }
                if !o.given_manager.is_empty() {
                    value["fieldManager"] = o.given_manager.as_str().into();
                }
                if let Some(v) = o.given_validation {
                    value["fieldValidation"] = match v {
                        FieldValidation::Ignore => "Ignore",
                        FieldValidation::Warn => "Warn",
                        FieldValidation::Strict => "Strict",
                    }
                    .into();
                }
                value
            }
        }
    }
}

/// The mutating phase: may change `a.object`.
pub async fn mutate(inner: &Inner, a: &mut Attributes<'_>) -> Result<(), Failure> {
    let done = mutated(inner, a).await;
    done.map_err(|f| f.warned(std::mem::take(&mut a.warnings)))
}

async fn mutated(inner: &Inner, a: &mut Attributes<'_>) -> Result<(), Failure> {
    let mut rounds = Rounds::default();
    mutate_once(inner, a, &mut rounds).await?;
    if rounds.policies.wanted || rounds.webhooks.wanted {
        rounds.policies.turn();
        rounds.webhooks.turn();
        mutate_once(inner, a, &mut rounds).await?;
    }
    Ok(())
}

/// The mutating phase runs twice when a policy or webhook has changed something.
#[derive(Default)]
struct Rounds {
    policies: policy::mutating::Rounds,
    webhooks: webhooks::Rounds,
}

async fn mutate_once(
    inner: &Inner,
    a: &mut Attributes<'_>,
    rounds: &mut Rounds,
) -> Result<(), Failure> {
    lifecycle::admit(inner, a)?;
    limit_ranger::admit(inner, a);
    service_account::admit(inner, a).await?;
    node_restriction::admit(inner, a)?;
    tolerations::taint(a);
    priority::admit(inner, a)?;
    tolerations::admit(a);
    classes::admit(inner, a);
    runtime_class::admit(inner, a)?;
    topology::admit(inner, a);
    policy::mutating::mutate(inner, a, &mut rounds.policies).await?;
    webhooks::mutate(inner, a, &mut rounds.webhooks).await
}

/// The validating phase: the object is as it will be stored.
pub async fn validate(inner: &Inner, a: &mut Attributes<'_>) -> Result<Admitted, Failure> {
    let done = validated(inner, a).await;
    done.map_err(|f| f.warned(std::mem::take(&mut a.warnings)))
}

async fn validated(inner: &Inner, a: &mut Attributes<'_>) -> Result<Admitted, Failure> {
    limit_ranger::validate(inner, a)?;
    service_account::validate(inner, a).await?;
    pod_security::validate(inner, a)?;
    priority::validate(inner, a)?;
    certificates::validate(inner, a)?;
    classes::validate(inner, a)?;
    runtime_class::validate(inner, a)?;
    pod_resize::validate(inner, a)?;
    policy::permission::validate(inner, a)?;
    policy::validating::validate(inner, a).await?;
    webhooks::validate(inner, a).await?;
    let mut admitted = Admitted::default();
    quota::validate(inner, a, &mut admitted).await?;
    Ok(admitted)
}

/// Both phases for an object that is not stored itself: a Binding, an Eviction, the options of a connect. Gives the
/// object back as admission left it, and the warnings.
pub async fn transient(
    inner: &Inner,
    mut a: Attributes<'_>,
) -> Result<(Option<Value>, Vec<String>), Failure> {
    mutate(inner, &mut a).await?;
    validate(inner, &mut a).await?;
    Ok((a.object, a.warnings))
}

/// Admission of a connect: `kind` and `options` are the subresource's options object, e.g. PodExecOptions.
pub async fn connect(
    inner: &Inner,
    who: &Identity,
    t: &Target,
    kind: &str,
    options: Value,
) -> Result<Vec<String>, Failure> {
    let mut a = Attributes::new(
        who,
        Operation::Connect,
        &t.resource,
        &t.namespace,
        &t.name,
        RequestOptions::None,
    );
    a.subresource = &t.subresource;
    a.kind = Kind {
        group: "",
        version: "v1",
        kind,
    };
    let mut object = json!({"kind": kind, "apiVersion": "v1"});
    if let (Some(to), Value::Object(from)) = (object.as_object_mut(), options) {
        to.extend(from);
    }
    a.object = Some(object);
    Ok(transient(inner, a).await?.1)
}

/// The stored object of a resource by its names; None when there is none or the resource isn't served.
pub fn stored(inner: &Inner, group: &str, plural: &str, ns: &str, name: &str) -> Option<Value> {
    let r = inner.catalog().preferred(group, plural)?;
    let snapshot = inner.store.snapshot();
    let entry = snapshot.get(&catalog::key(&r, ns, name))?;
    serde_json::from_slice(&entry.value).ok()
}

/// The stored objects of a resource, of one namespace or of all when it is empty.
pub fn list(inner: &Inner, group: &str, plural: &str, ns: &str) -> Vec<Value> {
    let Some(r) = inner.catalog().preferred(group, plural) else {
        return vec![];
    };
    let snapshot = inner.store.snapshot();
    snapshot
        .range(&catalog::prefix(&r, ns), None)
        .filter_map(|e| serde_json::from_slice(&e.value).ok())
        .collect()
}
