//! Server-side apply and metadata.managedFields.
//!
//! Follows sigs.k8s.io/structured-merge-diff (merge.Updater) and apimachinery's managedfields: field sets, ownership, conflicts, per-subresource managers, removal of what an applier no longer applies and nobody else owns. One object version at a time: entries of other served versions are compared as if they were of this one, entries of unknown versions are dropped, as upstream drops those.

mod element;
mod engine;
mod pair;
mod records;
mod set;
mod shape;

use serde_json::{Value, json};

use crate::custom::CustomType;
use crate::types::TypeRef;
use engine::{Engine, Failure};
use records::Records;

/// The type of the objects written.
#[derive(Clone, Copy)]
pub enum Root<'a> {
    BuiltIn(TypeRef),
    Custom {
        ty: &'a CustomType,
        /// Status is a subresource.
        has_status: bool,
        /// `group/version` of every served version.
        versions: &'a [String],
    },
}

impl Root<'_> {
    /// OpenAPI name of a built-in type; empty for others.
    fn name(self) -> &'static str {
        match self {
            Root::BuiltIn(ty) => ty.name(),
            Root::Custom { .. } => "",
        }
    }
}

impl From<TypeRef> for Root<'_> {
    fn from(ty: TypeRef) -> Self {
        Root::BuiltIn(ty)
    }
}

/// Who writes.
pub struct Manager<'a> {
    pub name: &'a str,
    pub subresource: &'a str,
    /// e.g. "apps/v1"
    pub api_version: &'a str,
    /// RFC 3339 seconds
    pub time: &'a str,
}

/// One field that another manager owns.
#[derive(Debug, PartialEq)]
pub struct Conflict {
    pub manager: String,
    /// A status cause's message: `conflict with "kubectl-client-side-apply" using apps/v1`
    pub message: String,
    /// `.spec.replicas`
    pub field: String,
}

/// Why an apply didn't happen.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// 409 with causes FieldManagerConflict, upstream's wording.
    #[error("{message}")]
    Conflicts {
        message: String,
        causes: Vec<Conflict>,
    },
    /// 400: the applied object can't be what it says it is.
    #[error("{0}")]
    Invalid(String),
}

/// The name under which the fields of an object without managers are kept when somebody applies to it.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// kubectl's name of old: its conflicts with its own client-side applies are none.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Upstream's bound on all annotations of an object together.
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

/// Applies `applied` to `live` (None creates). Returns the merged object with metadata.managedFields updated; equal to `live` (incl. managedFields times) when nothing changed.
///
/// # Errors
/// [`ApplyError::Conflicts`] without `force` when other managers own fields with other values; [`ApplyError::Invalid`] when `applied` doesn't fit the type.
pub fn apply<'a>(
    ty: impl Into<Root<'a>>,
    live: Option<&Value>,
    applied: &Value,
    manager: &Manager<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    let ty = ty.into();
    let engine = Engine::new(ty, manager);
    let given = applied["apiVersion"].as_str().unwrap_or_default();
    if given != manager.api_version {
        return Err(ApplyError::Invalid(format!(
            "Incorrect version specified in apply patch. Specified patch version: {given}, expected: {}",
            manager.api_version
        )));
    }
    if applied["metadata"]
        .get("managedFields")
        .is_some_and(|m| !m.is_null())
    {
        return Err(ApplyError::Invalid(
            "metadata.managedFields must be nil".to_owned(),
        ));
    }
    let mut records = records::read(live)
        .map_err(|e| ApplyError::Invalid(format!("failed to decode managed fields: {e}")))?;
    let mut bare = live.cloned().unwrap_or_else(|| empty(ty));
    records::set_entries(&mut bare, None);
    if records.is_empty() {
        let before = Manager {
            name: BEFORE_FIRST_APPLY,
            ..*manager
        };
        Engine::new(ty, &before)
            .updated(&empty(ty), &bare, &mut records)
            .map_err(ApplyError::Invalid)?;
    }
    engine.check(applied)?;
    let (mut merged, records) = match engine.applied(&bare, applied, records.clone(), force) {
        Err(Failure::Conflicts(conflicts)) if manager.name == KUBECTL => {
            match engine.allowed_by_last_applied(&bare) {
                Some(allowed) if conflicts.iter().all(|(_, path)| allowed.has(path)) => {
                    engine.applied(&bare, applied, records, true)?
                }
                Some(allowed) => {
                    return Err(Failure::Conflicts(
                        conflicts
                            .into_iter()
                            .filter(|(_, path)| !allowed.has(path))
                            .collect(),
                    )
                    .into());
                }
                None => return Err(Failure::Conflicts(conflicts).into()),
            }
        }
        other => other?,
    };
    if manager.name == KUBECTL {
        refresh_last_applied(&mut merged, applied);
    }
    // The merge is of JSON: what Go's types would drop (nulls, empty maps) goes here.
    let mut merged = match ty {
        Root::BuiltIn(ty) => {
            crate::conform(ty, merged)
                .map_err(|e| ApplyError::Invalid(e.0))?
                .value
        }
        Root::Custom { .. } => merged,
    };
    records::write(&mut merged, &records);
    Ok(keep_times(live, merged))
}

/// After create/update/patch by a non-apply manager: `new` gets its managedFields (from `live`'s, or the request's own if it set them validly; `[]` clears).
pub fn update<'a>(
    ty: impl Into<Root<'a>>,
    live: Option<&Value>,
    new: &mut Value,
    manager: &Manager<'_>,
) {
    let ty = ty.into();
    let engine = Engine::new(ty, manager);
    let own = |object: Option<&Value>| records::read(object).unwrap_or_default();
    let mut records = match new["metadata"]
        .get("managedFields")
        .and_then(Value::as_array)
    {
        // A subresource's request doesn't speak for the managers.
        _ if !manager.subresource.is_empty() => own(live),
        Some(entries) if is_reset(entries) => Records::new(),
        _ => match records::read(Some(new)) {
            Ok(records) if !records.is_empty() => records,
            _ => own(live),
        },
    };
    records::set_entries(new, None);
    let mut bare = live.cloned().unwrap_or_else(|| empty(ty));
    records::set_entries(&mut bare, None);
    // An object whose managers were cleared isn't tracked until somebody applies to it.
    let untracked = records.is_empty() && live.is_some();
    if untracked || engine.updated(&bare, new, &mut records).is_err() {
        return;
    }
    records::cap(&mut records);
    records::write(new, &records);
    *new = keep_times(live, std::mem::take(new));
}

/// An object of the type without anything in it.
fn empty(ty: Root<'_>) -> Value {
    match ty {
        Root::BuiltIn(ty) => crate::conform(ty, json!({}))
            .map(|d| d.value)
            .unwrap_or_default(),
        Root::Custom { .. } => json!({}),
    }
}

/// `[]` and `[{}]` ask for the managers to be forgotten.
fn is_reset(entries: &[Value]) -> bool {
    match entries {
        [] => true,
        [entry] => entry.as_object().is_some_and(serde_json::Map::is_empty),
        _ => false,
    }
}

/// The object with the old times when nothing but times changed.
fn keep_times(live: Option<&Value>, mut new: Value) -> Value {
    let Some(live) = live else { return new };
    let old = records::entries(Some(live));
    if !old.is_empty() && records::same_but_times(old, records::entries(Some(&new))) {
        let entries = new["metadata"]["managedFields"].take();
        records::set_entries(&mut new, Some(Value::Array(old.to_vec())));
        if new != *live {
            records::set_entries(&mut new, Some(entries));
        }
    }
    new
}

/// Old client-side appliers must find what was applied last.
fn refresh_last_applied(merged: &mut Value, applied: &Value) {
    let Some(annotations) = merged
        .get_mut("metadata")
        .and_then(|m| m.get_mut("annotations"))
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    if annotations
        .get(LAST_APPLIED)
        .and_then(Value::as_str)
        .is_none_or(str::is_empty)
    {
        return;
    }
    let mut applied = applied.clone();
    if let Some(own) = applied["metadata"]
        .get_mut("annotations")
        .and_then(Value::as_object_mut)
    {
        own.remove(LAST_APPLIED);
    }
    annotations.insert(LAST_APPLIED.to_owned(), format!("{applied}\n").into());
    let bytes: usize = annotations
        .iter()
        .map(|(k, v)| k.len() + v.as_str().map_or(0, str::len))
        .sum();
    if bytes > ANNOTATIONS_BYTES_MAX {
        annotations.remove(LAST_APPLIED);
    }
}
