//! Deletion as upstream's generic registry does it: preconditions, grace, finalizers, propagation.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use knarr_store::{CommitError, Expect, Op};
use serde_json::{Value, json};

use crate::{
    admission::{self, Attributes, Operation, RequestOptions},
    audit::Span,
    catalog,
    commit::{replace, unavailable},
    decode::Raw,
    finalizers, held_addresses,
    identity::Identity,
    namespaces::is_namespace,
    object::{self, meta_mut},
    query::{self, Query},
    registry::{FieldError, Resource},
    server::Inner,
    status::Failure,
    versions,
    write::may_go,
};

const ATTEMPTS_MAX: usize = 64;
/// Kinds whose delete answers with the object instead of a Status (`ReturnDeletedObject`).
const RETURNS_OBJECT: [(&str, &str); 11] = [
    ("", "pods"),
    ("", "podtemplates"),
    ("", "persistentvolumes"),
    ("", "persistentvolumeclaims"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "volumeattachments"),
];

/// `metav1.DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds until the object is gone for good.
    pub grace_period_seconds: Option<i64>,
    /// What happens to dependents.
    pub propagation: Option<Propagation>,
    /// Only if the object has this uid.
    pub uid: Option<String>,
    /// Only if the object has this revision.
    pub resource_version: Option<String>,
    /// Do all but the commit.
    pub dry_run: bool,
}

/// What happens to an object's dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They lose their owner.
    Orphan,
    /// They go later.
    Background,
    /// They go first.
    Foreground,
}

/// Anything that isn't an object is an error.
#[derive(serde::Deserialize)]
struct NoOptions {}

impl DeleteOptions {
    /// From the body, or else from the query.
    pub fn read(headers: &HeaderMap, body: Bytes, query: &Query) -> Result<DeleteOptions, Failure> {
        let value = if body.is_empty() {
            json!({})
        } else {
            let shown = body.clone();
            match Raw::new(headers, body)?.value()? {
                Value::Null => json!({}),
                value @ Value::Object(_) => {
                    let named = |k: &str| value.get(k).is_none_or(|v| v.is_string() || v.is_null());
                    if !named("kind") || !named("apiVersion") {
                        return Err(Failure::bad_request(crate::decode::no_struct(&value)));
                    }
                    if let Some(ty) = knarr_schema::kind("", "v1", "DeleteOptions") {
                        knarr_schema::conform(ty, value.clone())
                            .map_err(|e| Failure::bad_request(e.0))?;
                    }
                    value
                }
                // the words of the decoder, which expects a struct
                _ => {
                    let error = crate::decode::object_or_null::<NoOptions>(&shown).err();
                    let why = error.map(|e| crate::decode::no_type_meta(&shown, &e));
                    return Err(Failure::bad_request(why.unwrap_or_default()));
                }
            }
        };
        Self::from_value(&value, query)
    }

    /// From a DeleteOptions object (may be null or empty) and the query.
    pub fn from_value(value: &Value, query: &Query) -> Result<DeleteOptions, Failure> {
        let mut errors = Vec::new();
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or("");
        if !matches!(kind, "" | "DeleteOptions") {
            let version = value.get("apiVersion").and_then(Value::as_str);
            let version = version
                .filter(|v| !v.is_empty())
                .unwrap_or("meta.k8s.io/v1");
            return Err(Failure::bad_request(format!(
                "no kind {kind:?} is registered for version {version:?} in scheme \"pkg/runtime/scheme.go:111\""
            )));
        }
        let dry_values: Vec<&str> = match value.get("dryRun").and_then(Value::as_array) {
            Some(list) => list.iter().filter_map(Value::as_str).collect(),
            None => query.all("dryRun").collect(),
        };
        let dry_run = query::dry_run(dry_values.into_iter(), &mut errors);
        let grace = match value.get("gracePeriodSeconds").and_then(Value::as_i64) {
            Some(n) => Some(n),
            None => query.number("gracePeriodSeconds")?,
        };
        let policy = value
            .get("propagationPolicy")
            .and_then(Value::as_str)
            .or_else(|| query.get("propagationPolicy"));
        let orphan = match value.get("orphanDependents").and_then(Value::as_bool) {
            Some(b) => Some(b),
            None => query
                .has("orphanDependents")
                .then(|| query.flag("orphanDependents")),
        };
        if policy.is_some() && orphan.is_some() {
            errors.push(FieldError::Invalid {
                field: "propagationPolicy".into(),
                value: policy.into(),
                detail: "orphanDependents and deletionPropagation cannot be both set".into(),
            });
        }
        let propagation = match policy {
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                errors.push(FieldError::NotSupported {
                    field: "propagationPolicy".into(),
                    value: other.into(),
                    supported: vec![
                        "Foreground".into(),
                        "Background".into(),
                        "Orphan".into(),
                        "nil".into(),
                    ],
                });
                None
            }
            None => orphan.map(|o| {
                if o {
                    Propagation::Orphan
                } else {
                    Propagation::Background
                }
            }),
        };
        if !errors.is_empty() {
            return Err(Failure::invalid(
                "meta.k8s.io",
                "DeleteOptions",
                "",
                &errors,
            ));
        }
        let text = |p: &str| value.pointer(p).and_then(Value::as_str).map(String::from);
        Ok(DeleteOptions {
            grace_period_seconds: grace,
            propagation,
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            dry_run,
        })
    }

    /// The DeleteOptions object, as admission shows it.
    pub fn to_value(&self) -> Value {
        let mut value = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if let Some(n) = self.grace_period_seconds {
            value["gracePeriodSeconds"] = n.into();
        }
        if let Some(p) = self.propagation {
            value["propagationPolicy"] = format!("{p:?}").into();
        }
        if let Some(uid) = &self.uid {
            value["preconditions"]["uid"] = uid.as_str().into();
        }
        if let Some(version) = &self.resource_version {
            value["preconditions"]["resourceVersion"] = version.as_str().into();
        }
        if self.dry_run {
            value["dryRun"] = json!(["All"]);
        }
        value
    }
}

/// In whose name a delete is made.
#[derive(Clone, Copy)]
pub enum Requester<'a> {
    /// A delete of one object.
    Named(&'a Identity),
    /// The same, noted in the request's audit event.
    Audited(&'a Identity, &'a Span),
    /// One of the objects of a deletecollection: admission sees no name.
    Collection(&'a Identity),
    /// Admission has let it through already (an eviction).
    Admitted,
}

/// What a delete came to.
pub struct Deleted {
    /// The object's bytes: its last state, or the state that waits for finalizers or grace.
    pub object: Bytes,
    /// What upstream answers: the object, or a Status.
    pub answer: Bytes,
    /// For the Warning header.
    pub warnings: Vec<String>,
}

/// Lets admission judge the delete of `live`, whose bytes are `stored`; its warnings.
async fn admit(
    inner: &Inner,
    r: &Resource,
    namespace: &str,
    name: &str,
    (live, stored): (&Value, &Bytes),
    options: &DeleteOptions,
    by: Requester<'_>,
) -> Result<Vec<String>, Failure> {
    let (who, shown) = match by {
        Requester::Named(who) | Requester::Audited(who, _) => (who, name),
        Requester::Collection(who) => (who, ""),
        Requester::Admitted => return Ok(vec![]),
    };
    let options = RequestOptions::Delete(options);
    let mut a = Attributes::new(who, Operation::Delete, r, namespace, shown, options);
    let served: Value;
    a.old = Some(if r.stored.is_some() || r.custom.is_some() {
        let bytes = crate::crd::bring(inner, r, stored.clone()).await?;
        served = versions::read(r, object::parse(&bytes)?);
        &served
    } else {
        live
    });
    if let Requester::Audited(_, span) = by {
        a.span = Some(span.clone());
    }
    Ok(admission::transient(inner, a).await?.1)
}

/// Deletes one object, or marks it for deletion.
pub async fn delete(
    inner: &Inner,
    r: &Resource,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
    by: Requester<'_>,
) -> Result<Deleted, Failure> {
    let mut done = delete_stored(inner, r, namespace, name, options, by).await?;
    // it is gone or going, whatever a webhook says to its last state
    let last = crate::crd::bring(inner, r, done.object.clone()).await;
    let object = versions::served(r, last.as_ref().unwrap_or(&done.object));
    if done.answer == done.object {
        done.answer = object.clone();
    }
    done.object = object;
    Ok(done)
}

/// [`delete`], with the answer as it is stored.
async fn delete_stored(
    inner: &Inner,
    r: &Resource,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
    by: Requester<'_>,
) -> Result<Deleted, Failure> {
    let key: Arc<str> = catalog::key(r, namespace, name).into();
    for _ in 0..ATTEMPTS_MAX {
        let snapshot = inner.store.snapshot();
        let Some(entry) = snapshot.get(&key) else {
            return Err(Failure::not_found(r, name));
        };
        let live = object::parse(&entry.value)?;
        check_preconditions(r, name, &live, options)?;
        let expect = Expect::Revision(entry.mod_revision);
        let plan = plan(r, &live, options);
        if matches!(plan, Plan::Nothing) {
            return Ok(Deleted {
                object: entry.value.clone(),
                answer: entry.value.clone(),
                warnings: vec![],
            });
        }
        let seen = (&live, &entry.value);
        let warnings = admit(inner, r, namespace, name, seen, options, by).await?;
        match plan {
            Plan::Nothing => unreachable!("answered above"),
            Plan::Mark(new) => {
                let encoded = object::encode(&new);
                if options.dry_run {
                    let bytes = encoded.at(object::meta(&live, "resourceVersion"));
                    return Ok(Deleted {
                        object: bytes.clone(),
                        answer: bytes,
                        warnings,
                    });
                }
                match replace(inner, key.clone(), &encoded, expect).await {
                    Ok(bytes) => {
                        return Ok(Deleted {
                            object: bytes.clone(),
                            answer: bytes,
                            warnings,
                        });
                    }
                    Err(CommitError::Conflict { .. }) => continue,
                    Err(e) => return Err(unavailable(e)),
                }
            }
            Plan::Remove(last) => {
                let encoded = last.as_ref().map(object::encode);
                let mut revision = entry.mod_revision;
                if !options.dry_run {
                    // the addresses of a Service go with it
                    let mut ops = held_addresses::ops(inner, &snapshot, r, Some(&live), None);
                    ops.push(Op::Delete {
                        key: key.clone(),
                        expect,
                        last: encoded.as_ref().map(object::Encoded::spliced),
                    });
                    match inner.store.commit(ops).await {
                        Ok(n) => revision = n,
                        Err(CommitError::Conflict { .. }) => continue,
                        Err(e) => return Err(unavailable(e)),
                    }
                }
                let bytes = match encoded {
                    Some(e) => e.at(&revision.to_string()),
                    None => object::with_revision(&entry.value, revision),
                };
                let answer = if RETURNS_OBJECT.contains(&(r.group, r.plural)) {
                    bytes.clone()
                } else {
                    success(r, name, object::meta(&live, "uid"))
                };
                return Ok(Deleted {
                    object: bytes,
                    answer,
                    warnings,
                });
            }
        }
    }
    Err(Failure::modified(r, name))
}

/// `Status: Success` naming what was deleted.
pub fn success(r: &Resource, name: &str, uid: &str) -> Bytes {
    let mut details = json!({"name": name, "kind": r.plural, "uid": uid});
    if !r.group.is_empty() {
        details["group"] = r.group.into();
    }
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    });
    status.to_string().into()
}

fn check_preconditions(
    r: &Resource,
    name: &str,
    live: &Value,
    options: &DeleteOptions,
) -> Result<(), Failure> {
    let uid = object::meta(live, "uid");
    if let Some(want) = &options.uid
        && want != uid
    {
        return Err(Failure::conflict(
            r,
            name,
            &format!(
                "the UID in the precondition ({want}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
            ),
        ));
    }
    let version = object::meta(live, "resourceVersion");
    if let Some(want) = &options.resource_version
        && want != version
    {
        return Err(Failure::conflict(
            r,
            name,
            &format!(
                "the ResourceVersion in the precondition ({want}) does not match the ResourceVersion in record ({version}). The object might have been modified"
            ),
        ));
    }
    Ok(())
}

enum Plan {
    /// Already on its way; nothing to write.
    Nothing,
    /// Write this state, which waits for grace or finalizers.
    Mark(Value),
    /// Remove it; the last state if it differs from the stored.
    Remove(Option<Value>),
}

fn plan(r: &Resource, live: &Value, options: &DeleteOptions) -> Plan {
    let m = &live["metadata"];
    let deleting = m.get("deletionTimestamp").is_some();
    let pending_grace = m
        .get("deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    let graceful_kind = r
        .strategy()
        .grace_period(live, options.grace_period_seconds);
    if crate::crd::is_definition(r) && !deleting {
        return Plan::Mark(crate::crd::marked(live));
    }
    let mut new = live.clone();
    let mut graceful = None;
    if deleting {
        if graceful_kind.is_some() && pending_grace > 0 {
            // may only be shortened
            match options.grace_period_seconds {
                Some(n) if n < pending_grace => {
                    let n = n.max(0);
                    set_deadline(&mut new, n, Some(pending_grace));
                    graceful = Some(n);
                }
                _ => return Plan::Nothing,
            }
        }
    } else if let Some(seconds) = graceful_kind {
        let seconds = seconds.max(0);
        set_deadline(&mut new, seconds, None);
        bump_generation(&mut new);
        graceful = Some(seconds);
    }
    let finalizers = finalizers::after(r, live, options.propagation);
    let changed = finalizers != finalizers::of(live);
    if changed {
        meta_mut(&mut new).insert("finalizers".into(), finalizers.clone().into());
    }
    let mut pending = !finalizers.is_empty();
    if is_namespace(r) {
        pending |= live
            .pointer("/spec/finalizers")
            .and_then(Value::as_array)
            .is_some_and(|l| !l.is_empty());
        if !deleting {
            new["status"]["phase"] = "Terminating".into();
        }
    }
    if pending && graceful.is_none() && !deleting {
        set_deadline(&mut new, 0, None);
        if is_namespace(r) {
            meta_mut(&mut new).remove("deletionGracePeriodSeconds");
        }
        bump_generation(&mut new);
    }
    if pending || graceful.unwrap_or(0) > 0 {
        return if new == *live {
            Plan::Nothing
        } else {
            Plan::Mark(new)
        };
    }
    debug_assert!(graceful.is_none() || may_go(r, &new));
    Plan::Remove((new != *live).then_some(new))
}

fn set_deadline(o: &mut Value, seconds: i64, old_grace: Option<i64>) {
    let base = old_grace
        .and_then(|grace| {
            let t: jiff::Timestamp = object::meta(o, "deletionTimestamp").parse().ok()?;
            t.checked_sub(jiff::SignedDuration::from_secs(grace)).ok()
        })
        .unwrap_or_else(jiff::Timestamp::now);
    let at = base
        .checked_add(jiff::SignedDuration::from_secs(seconds))
        .unwrap_or(base);
    let m = meta_mut(o);
    m.insert("deletionTimestamp".into(), object::timestamp(at).into());
    m.insert("deletionGracePeriodSeconds".into(), seconds.into());
}

fn bump_generation(o: &mut Value) {
    if let Some(g) = o["metadata"].get("generation").and_then(Value::as_i64)
        && g > 0
    {
        meta_mut(o).insert("generation".into(), (g + 1).into());
    }
}
