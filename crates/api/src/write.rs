//! The one way objects are written: create, and guarded update with retries.

mod create;
mod kept;
mod update;

pub use kept::{may_go, put_or_delete};

use bytes::Bytes;
use knarr_schema::managed;
use serde_json::Value;

use crate::{
    access::escalation,
    admission::{Attributes, Kind, Operation, RequestOptions},
    audit::Span,
    catalog, held_addresses,
    identity::Identity,
    object::{meta, meta_mut},
    query::WriteOptions,
    registry::{FieldError, Resource, Scale},
    server::Inner,
    status::Failure,
    view::View,
};

/// Attempts of an unconditional write against concurrent writers.
const ATTEMPTS_MAX: usize = 64;

/// Part of the object a write is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All but the status.
    Main,
    /// Status (and metadata).
    Status,
    /// Whatever the subresource's handler changed.
    Sub(&'static str),
}
impl Part {
    /// As managedFields names it.
    pub fn name(self) -> &'static str {
        match self {
            Part::Main => "",
            Part::Status => "status",
            Part::Sub(s) => s,
        }
    }
}

/// One write request, after its options were read.
pub struct Write<'a> {
    /// The server.
    pub inner: &'a Inner,
    /// In whose name.
    pub who: &'a Identity,
    /// Resource written.
    pub r: &'a Resource,
    /// Namespace, empty for cluster scope.
    pub namespace: &'a str,
    /// Name; empty at a create that hasn't got one in its URL.
    pub name: &'a str,
    /// Part written.
    pub part: Part,
    /// The request's options: field manager, dry run.
    pub options: &'a WriteOptions,
    /// Admission sees a Scale read by these pointers instead of the object.
    pub projection: Option<&'a Scale>,
    /// The request's, where it matters: `update` or `patch`.
    pub verb: &'static str,
    /// Admission has judged the request already, by another object (a Binding).
    pub admitted: bool,
    /// The request is an update or a patch: the right to create was not asked for with it.
    pub by_update: bool,
    /// For the Warning header.
    pub warnings: Vec<String>,
    /// The request's audit event, for what admission notes.
    pub span: Option<Span>,
}

/// What an update's closure made of the live object.
pub struct Change {
    /// The new object.
    pub object: Value,
    /// managedFields are done (server-side apply).
    pub applied: bool,
}

/// What a write came to.
pub enum Written {
    /// New bytes, or the old ones when nothing changed.
    Object(Bytes),
    /// The write took the last finalizer off a deleted object, and so removed it; the last state.
    Deleted(Bytes),
}
impl Written {
    /// The object as it is answered.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Written::Object(b) | Written::Deleted(b) => b,
        }
    }
}

impl<'a> Write<'a> {
    /// A write of `part` of the object called `name` (may be empty at a create).
    pub fn new(
        inner: &'a Inner,
        who: &'a Identity,
        r: &'a Resource,
        namespace: &'a str,
        name: &'a str,
        options: &'a WriteOptions,
        part: Part,
    ) -> Write<'a> {
        Write {
            inner,
            who,
            r,
            namespace,
            name,
            part,
            options,
            projection: None,
            verb: "update",
            admitted: false,
            by_update: false,
            warnings: vec![],
            span: None,
        }
    }

    fn attributes(&self, operation: Operation) -> Attributes<'a> {
        let options = RequestOptions::Write(self.options);
        let mut a = Attributes::new(
            self.who,
            operation,
            self.r,
            self.namespace,
            self.name,
            options,
        );
        a.subresource = self.part.name();
        a.span = self.span.clone();
        if self.projection.is_some() {
            a.kind = Kind {
                group: "autoscaling",
                version: "v1",
                kind: "Scale",
            };
        }
        a
    }

    fn view(&self) -> View<'_> {
        View {
            snapshot: self.inner.store.snapshot(),
            catalog: self.inner.catalog(),
            service_cidr: self.inner.config.service_cidr,
            service_cidr6: self.inner.config.service_cidr6,
            node_port_range: self.inner.config.node_port_range,
            who: Some(self.who),
        }
    }

    fn check_escalation(&self, new: &Value, old: Option<&Value>) -> Result<(), Failure> {
        escalation::check(self.inner, self.who, self.r, self.namespace, new, old)
    }

    /// Who may change an object may not therefore make it (apiserver `handlers.withAuthorization`).
    fn check_right_to_create(&self) -> Result<(), Failure> {
        if !self.by_update {
            return Ok(());
        }
        let attributes = knarr_access::Attributes {
            verb: "create".into(),
            resource_request: true,
            group: self.r.group.into(),
            version: self.r.version.into(),
            resource: self.r.plural.into(),
            subresource: self.part.name().into(),
            namespace: self.namespace.into(),
            name: self.name.into(),
            ..knarr_access::Attributes::default()
        };
        crate::access::authorize(self.inner, self.who, &attributes)
    }

    /// Services take addresses and ports that no other may have: one write at a time.
    async fn allocation(&self) -> Option<tokio::sync::MutexGuard<'a, ()>> {
        if held_addresses::concerns(self.r) {
            Some(self.inner.allocation.lock().await)
        } else {
            None
        }
    }

    fn invalid(&self, name: &str, errors: &[FieldError]) -> Failure {
        let internal = errors.iter().find_map(|e| match e {
            FieldError::Internal { detail, .. } => Some(detail),
            _ => None,
        });
        if let Some(detail) = internal {
            return Failure::internal(detail);
        }
        // upstream calls a kind in such errors by the group it was first in
        let group = self.r.stored.map_or(self.r.group, |s| s.group);
        Failure::invalid(group, self.r.kind, name, errors)
    }

    /// Name and namespace from the URL into the object, or 400 when they differ.
    fn place(&self, o: &mut Value) -> Result<(), Failure> {
        let (namespace, url_name) = (self.namespace.to_string(), self.name.to_string());
        let m = meta_mut(o);
        let given = m.get("namespace").and_then(Value::as_str).unwrap_or("");
        if self.r.namespaced {
            if given.is_empty() {
                m.insert("namespace".into(), namespace.into());
            } else if given != namespace {
                return Err(Failure::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        } else {
            // as upstream (`EnsureObjectNamespaceMatchesRequestNamespace`): it is of no consequence
            m.remove("namespace");
        }
        let name = m.get("name").and_then(Value::as_str).unwrap_or("");
        if !url_name.is_empty() {
            if name.is_empty() {
                m.insert("name".into(), url_name.into());
            } else if name != url_name {
                return Err(Failure::bad_request(format!(
                    "the name of the object ({name}) does not match the name on the URL ({url_name})"
                )));
            }
        }
        Ok(())
    }

    /// 400 when a PUT's body names another object than its URL.
    pub fn check_place(&self, o: &mut Value) -> Result<(), Failure> {
        if meta(o, "name").is_empty() {
            return Err(Failure::bad_request(format!(
                "the name of the object ({} based on URL) was undeterminable: name must be provided",
                self.name
            )));
        }
        self.place(o)
    }

    fn validate(&self, o: &Value, created: bool) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let metadata = o.get("metadata").unwrap_or(&Value::Null);
        let strategy = self.r.strategy();
        crate::names::object_meta(metadata, strategy.name(), self.r.namespaced, &mut errors);
        if self.r.custom.is_none() {
            crate::names::kube_finalizers(metadata, &mut errors);
        }
        if created {
            errors.extend(strategy.validate_create(o));
        } else if !strategy.validates_updates_itself() {
            errors.extend(strategy.validate(o));
        }
        errors
    }

    fn manage(&self, live: Option<&Value>, new: &mut Value, now: &str) {
        if let Some(ty) = crate::decode::Owned::of(self.r) {
            let manager = managed::Manager {
                name: &self.options.manager,
                subresource: self.part.name(),
                api_version: &catalog::api_version(self.r),
                // upstream's entries of scale have no time
                time: if self.part == Part::Sub("scale") {
                    ""
                } else {
                    now
                },
            };
            managed::update(ty.root(), live, new, &manager);
        }
    }

    /// The key an upstream server would store this object at.
    fn storage_key(&self) -> String {
        let namespace = if self.namespace.is_empty() {
            String::new()
        } else {
            format!("{}/", self.namespace)
        };
        format!("/registry/{}/{namespace}{}", self.r.plural, self.name)
    }
}
