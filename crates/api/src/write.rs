//! The one way objects are written: create, and guarded update with retries.

mod kept;

pub use kept::may_go;

use kept::{copy, copy_in, wipe, without_revision};
use std::sync::Arc;

use bytes::Bytes;
use knarr_schema::managed;
use knarr_store::{CommitError, Expect, Op};
use serde_json::Value;

use crate::{
    access::escalation,
    admission::{self, Admitted, Attributes, Kind, Operation, RequestOptions},
    audit::Span,
    catalog,
    commit::unavailable,
    compare::{same, same_spec},
    finalizers, held_addresses,
    identity::Identity,
    names,
    namespaces::{self, is_namespace},
    object::{self, meta, meta_mut},
    query::WriteOptions,
    registry::{FieldError, Resource, Scale},
    scale,
    server::Inner,
    status::Failure,
    versions,
    view::View,
};

/// Attempts of an unconditional write against concurrent writers.
const ATTEMPTS_MAX: usize = 64;
/// Attempts to find a free generated name (upstream's RetryGenerateName).
const GENERATE_ATTEMPTS_MAX: usize = 8;

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

    /// Creates the object (already decoded and pruned). `applied`: managedFields are done.
    pub async fn create(&mut self, mut o: Value, applied: bool) -> Result<Bytes, Failure> {
        let r = self.r;
        let _allocation = self.allocation().await;
        self.place(&mut o)?;
        self.warnings.extend(names::once_each(&mut o));
        if r.custom.as_ref().is_some_and(|c| c.is_terminating()) {
            return Err(Failure::forbidden(
                r,
                meta(&o, "name"),
                "create not allowed while custom resource definition is terminating",
            ));
        }
        let generate_name = meta(&o, "generateName").to_string();
        let now = object::now();
        wipe(&mut o);
        if r.has_status
            && !r.strategy().takes_status()
            && let Some(map) = o.as_object_mut()
        {
            // Go writes the empty status of its types
            let written = crate::decode::type_of(r).is_some_and(|ty| ty.always("status"));
            if written {
                map.insert("status".into(), Value::Object(serde_json::Map::new()));
            } else {
                map.remove("status");
            }
        }
        r.strategy().default(&mut o);
        if is_namespace(r) && !meta(&o, "name").is_empty() {
            // upstream's defaulting: the label belongs to whoever makes the namespace
            namespaces::label(&mut o);
        }
        if !applied {
            self.manage(None, &mut o, &now);
        }
        let mut a = self.attributes(Operation::Create);
        if a.name.is_empty() {
            a.name = meta(&o, "name").to_string().into();
            if is_namespace(r) {
                a.namespace = a.name.clone();
            }
        }
        a.object = Some(o);
        admission::mutate(self.inner, &mut a).await?;
        o = a.object.take().unwrap_or_default();
        if a.changed {
            wipe(&mut o);
            self.place(&mut o)?;
        }
        self.check_escalation(&o, None)?;
        let generated = meta(&o, "name").is_empty() && !generate_name.is_empty();
        // the uid is there before the kind's rules see it: a Job names its pods by it
        meta_mut(&mut o).insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
        r.strategy()
            .prepare_create(&mut o, &self.view())
            .map_err(|e| self.invalid(meta(&o, "name"), &e))?;
        if is_namespace(r) {
            namespaces::defaults(&mut o);
        }
        if crate::kinds::has_generation(r) {
            meta_mut(&mut o).insert("generation".into(), 1.into());
        }
        {
            let m = meta_mut(&mut o);
            m.insert("creationTimestamp".into(), now.into());
        }

        for attempt in 1.. {
            if generated {
                let name = names::generate(&generate_name);
                meta_mut(&mut o).insert("name".into(), name.into());
            }
            if is_namespace(r) {
                namespaces::label(&mut o);
            }
            if attempt == 1 {
                let errors = self.validate(&o, true);
                if !errors.is_empty() {
                    return Err(self.invalid(meta(&o, "name"), &errors));
                }
                self.check_right_to_create()?;
            }
            a.object = Some(o);
            let mut admitted = admission::validate(self.inner, &mut a).await?;
            o = a.object.take().unwrap_or_default();
            // the store's own rule, and so the last
            if !meta(&o, "resourceVersion").is_empty() && !self.options.dry_run {
                return Err(Failure::new(
                    500,
                    "",
                    "resourceVersion should not be set on objects to be created",
                ));
            }
            if attempt == 1 {
                self.warnings.append(&mut a.warnings);
                self.warnings.extend(r.strategy().warnings(&o));
            }
            a.warnings.clear();
            let name = meta(&o, "name").to_string();
            let key: Arc<str> = catalog::key(r, self.namespace, &name).into();
            if self.options.dry_run {
                if self.inner.store.snapshot().get(&key).is_some() {
                    return Err(Failure::already_exists(r, &name));
                }
                return Ok(without_revision(&versions::shown(r, o)));
            }
            let stored = crate::crd::stored(self.inner, r, &o).await?;
            let encoded = versions::encode(r, &stored);
            let snapshot = self.inner.store.snapshot();
            let addresses = held_addresses::ops(self.inner, &snapshot, r, None, Some(&o));
            admitted.ops.extend(addresses);
            let op = Op::Put {
                key: key.clone(),
                value: encoded.spliced(),
                expect: Expect::Absent,
            };
            match self.inner.store.commit(admitted.with(op)).await {
                Ok(revision) => {
                    let bytes = encoded.at(&revision.to_string());
                    let bytes = crate::crd::bring(self.inner, r, bytes).await?;
                    return Ok(versions::served(r, &bytes));
                }
                // what admission charged has changed since: it is asked again
                Err(CommitError::Conflict { key: at, .. })
                    if at != key && attempt < ATTEMPTS_MAX => {}
                Err(CommitError::Conflict { .. })
                    if generated && attempt < GENERATE_ATTEMPTS_MAX => {}
                Err(CommitError::Conflict { .. }) => {
                    return Err(Failure::already_exists(r, &name));
                }
                Err(e) => return Err(unavailable(e)),
            }
        }
        unreachable!("the loop above ends by return")
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

    /// Reads the live object, lets `change` make the new one of it, and commits it unless somebody wrote in between: then
    /// again, or 409 when the client named the revision it had seen.
    pub async fn update<F>(&mut self, mut change: F) -> Result<Written, Failure>
    where
        F: FnMut(&Value, &mut Vec<String>) -> Result<Change, Failure>,
    {
        let r = self.r;
        let _allocation = self.allocation().await;
        let key: Arc<str> = catalog::key(r, self.namespace, self.name).into();
        for _ in 0..ATTEMPTS_MAX {
            let snapshot = self.inner.store.snapshot();
            let Some(entry) = snapshot.get(&key) else {
                return Err(Failure::not_found(r, self.name));
            };
            let current = crate::crd::bring(self.inner, r, entry.value.clone()).await?;
            let live = versions::read(r, object::parse(&current)?);
            let mut warnings = Vec::new();
            let changed = change(&live, &mut warnings)?;
            let given = match meta(&changed.object, "resourceVersion") {
                "0" => String::new(), // upstream: unconditional, too
                version => version.to_string(),
            };
            let live_version = meta(&live, "resourceVersion");
            if !given.is_empty() && given.parse::<u64>().is_err() {
                return Err(Failure::new(
                    500,
                    "",
                    format!("strconv.ParseUint: parsing {given:?}: invalid syntax"),
                ));
            }
            if !given.is_empty() && given != live_version {
                return Err(Failure::modified(r, self.name));
            }
            let old_scale = self.projection.map(|p| scale::of(p, &live));
            let mut a = self.attributes(Operation::Update);
            a.old = Some(old_scale.as_ref().unwrap_or(&live));
            let finished = match self.finish(changed, &live, &mut a).await {
                Ok(finished) => finished,
                Err(f) => return Err(f.warned(warnings)),
            };
            warnings.append(&mut a.warnings);
            let Some((new, mut admitted)) = finished else {
                self.warnings.extend(warnings);
                self.warnings.extend(news(r, &live, &live));
                return Ok(Written::Object(versions::served(r, &current)));
            };
            let gone = may_go(r, &new);
            if self.options.dry_run {
                self.warnings.extend(warnings);
                self.warnings.extend(news(r, &new, &live));
                let shown = versions::shown(r, new);
                return Ok(Written::Object(object::encode(&shown).at(live_version)));
            }
            let stored = crate::crd::stored(self.inner, r, &new).await?;
            let encoded = versions::encode(r, &stored);
            let expect = Expect::Revision(entry.mod_revision);
            let stays = (!gone).then_some(&new);
            let addresses = held_addresses::ops(self.inner, &snapshot, r, Some(&live), stays);
            admitted.ops.extend(addresses);
            let op = if gone {
                Op::Delete {
                    key: key.clone(),
                    expect,
                    last: Some(encoded.spliced()),
                }
            } else {
                Op::Put {
                    key: key.clone(),
                    value: encoded.spliced(),
                    expect,
                }
            };
            match self.inner.store.commit(admitted.with(op)).await {
                Ok(revision) => {
                    self.warnings.extend(warnings);
                    self.warnings.extend(news(r, &new, &live));
                    let bytes = encoded.at(&revision.to_string());
                    let bytes = crate::crd::bring(self.inner, r, bytes).await?;
                    let bytes = versions::served(r, &bytes);
                    return Ok(if gone {
                        Written::Deleted(bytes)
                    } else {
                        Written::Object(bytes)
                    });
                }
                // the next round sees the other writer's object: a named revision then gets its 409
                Err(CommitError::Conflict { .. }) => {}
                Err(e) => return Err(unavailable(e)),
            }
        }
        Err(Failure::modified(r, self.name))
    }

    /// What the part written does not cover stays as it is.
    fn keep(&self, new: &mut Value, live: &Value) -> Result<(), Failure> {
        self.keep_metadata(new, live)?;
        match self.part {
            Part::Status => {
                let mut base = live.clone();
                copy(&mut base, new, "status");
                let m = meta_mut(new);
                copy_in(m, &live["metadata"], "ownerReferences");
                let m = std::mem::take(m);
                *meta_mut(&mut base) = m;
                *new = base;
            }
            Part::Main if self.r.has_status => copy(new, live, "status"),
            _ => {}
        }
        Ok(())
    }

    /// The mutating phase of an update; what it made of the new object.
    async fn mutate(
        &self,
        mut new: Value,
        live: &Value,
        a: &mut Attributes<'_>,
    ) -> Result<Value, Failure> {
        let Some(pointers) = self.projection else {
            a.object = Some(new);
            admission::mutate(self.inner, a).await?;
            new = a.object.take().unwrap_or_default();
            if a.changed {
                self.keep(&mut new, live)?;
            }
            return Ok(new);
        };
        a.object = Some(scale::of(pointers, &new));
        admission::mutate(self.inner, a).await?;
        if let (true, Some(scale)) = (a.changed, a.object.take()) {
            let changed = scale::scaled(self.r, pointers, live, &scale)?;
            copy(&mut new, &changed.object, "spec");
        }
        Ok(new)
    }

    /// From what the client wants to what is stored; None when that is what is stored already.
    async fn finish(
        &self,
        change: Change,
        live: &Value,
        a: &mut Attributes<'_>,
    ) -> Result<Option<(Value, Admitted)>, Failure> {
        let r = self.r;
        let Change {
            object: mut new,
            applied,
        } = change;
        let now = object::now();
        self.keep(&mut new, live)?;
        // the other subresources change one thing and leave the kind's update rules (a Pod's spec is immutable) aside
        let regular = matches!(self.part, Part::Main | Part::Sub("scale"));
        let full = self.part != Part::Status;
        // a subresource with rules of its own
        let own = match self.part {
            Part::Main => None,
            part => r.strategy().part(part.name()),
        };
        if full || r.custom.is_none() {
            r.strategy().default(&mut new);
        }
        if !applied {
            if let Some(own) = own {
                // nobody owns what the subresource takes back
                own.prepare_update(&mut new, live, &self.view())
                    .map_err(|e| self.invalid(self.name, &e))?;
            }
            self.manage(Some(live), &mut new, &now);
        }
        if !self.admitted {
            new = self.mutate(new, live, a).await?;
        }
        if full {
            self.check_escalation(&new, Some(live))?;
        }
        let rules = own.or(regular.then_some(r.strategy()));
        if let Some(rules) = rules {
            rules
                .prepare_update(&mut new, live, &self.view())
                .map_err(|e| self.invalid(self.name, &e))?;
        }
        if is_namespace(r) {
            namespaces::label(&mut new);
        }
        let unchanged = same(&new, live);
        if !unchanged {
            let mut errors = Vec::new();
            if full {
                errors.extend(self.validate(&new, false));
            } else {
                let metadata = new.get("metadata").unwrap_or(&Value::Null);
                let rule = r.strategy().name();
                crate::names::object_meta(metadata, rule, r.namespaced, &mut errors);
            }
            if self.part == Part::Status {
                let said =
                    crate::access::devices::check(self.inner, self.who, r, self.verb, &new, live);
                errors.extend(said);
            }
            if let Some(rules) = rules {
                errors.extend(rules.validate_update(&new, live));
            }
            finalizers::none_added(&new, live, &mut errors);
            if !errors.is_empty() {
                return Err(self.invalid(self.name, &errors));
            }
            // a Pod's node is no change of what is wanted
            let counts = full && self.part != Part::Sub("binding");
            if counts && let Some(g) = crate::kinds::generation(r, live) {
                // upstream's Deployment strategy counts annotations, too
                let annotations = (r.group, r.plural) == ("apps", "deployments")
                    && new["metadata"].get("annotations") != live["metadata"].get("annotations");
                // the status of a custom resource may be a field like any other
                let status =
                    r.custom.is_some() && !r.has_status && new.get("status") != live.get("status");
                if annotations || status || !same_spec(&new, live) {
                    meta_mut(&mut new).insert("generation".into(), (g + 1).into());
                }
            }
        }
        let mut admitted = Admitted::default();
        if !self.admitted {
            match self.projection {
                Some(p) => {
                    a.object = Some(scale::of(p, &new));
                    admitted = admission::validate(self.inner, a).await?;
                }
                None => {
                    a.object = Some(new);
                    admitted = admission::validate(self.inner, a).await?;
                    new = a.object.take().unwrap_or_default();
                }
            }
        }
        Ok((!unchanged).then_some((new, admitted)))
    }

    /// Server-owned metadata stays as it is.
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

/// What there is to warn of after an update; kinds that judge updates themselves don't repeat what was there before.
fn news(r: &Resource, new: &Value, live: &Value) -> Vec<String> {
    let mut told = r.strategy().warnings(new);
    if r.strategy().validates_updates_itself() {
        let before = r.strategy().warnings(live);
        told.retain(|w| !before.contains(w));
    }
    told
}
