//! Server-side apply and metadata.managedFields.
//!
//! Follows sigs.k8s.io/structured-merge-diff (merge.Updater) and apimachinery's managedfields: field sets, ownership, conflicts, per-subresource managers, removal of what an applier no longer applies and nobody else owns. One object version at a time: entries of other served versions are compared as if they were of this one, entries of unknown versions are dropped, as upstream drops those.

mod element;
mod pair;
mod records;
mod set;
mod shape;

use serde_json::{Value, json};

use crate::types::{Gvk, Kind, TypeRef};
use element::{Element, equal, path_text};
use pair::{Comparison, compare, merge};
use records::{Id, Owned, Records};
use set::{Node, Set};
use shape::Ty;

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
pub fn apply(
    ty: TypeRef,
    live: Option<&Value>,
    applied: &Value,
    manager: &Manager<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
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
    let mut merged = crate::conform(ty, merged)
        .map_err(|e| ApplyError::Invalid(e.0))?
        .value;
    records::write(&mut merged, &records);
    Ok(keep_times(live, merged))
}

/// After create/update/patch by a non-apply manager: `new` gets its managedFields (from `live`'s, or the request's own if it set them validly; `[]` clears).
pub fn update(ty: TypeRef, live: Option<&Value>, new: &mut Value, manager: &Manager<'_>) {
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
fn empty(ty: TypeRef) -> Value {
    crate::conform(ty, json!({}))
        .map(|d| d.value)
        .unwrap_or_default()
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

enum Failure {
    Conflicts(Vec<(Id, Vec<Element>)>),
    Invalid(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Failure::Invalid(text)
    }
}

impl From<Failure> for ApplyError {
    fn from(failure: Failure) -> Self {
        let conflicts = match failure {
            Failure::Invalid(text) => return ApplyError::Invalid(text),
            Failure::Conflicts(conflicts) => conflicts,
        };
        let message = match conflicts.as_slice() {
            [(id, path)] => format!(
                "Apply failed with 1 conflict: conflict with {}: {}",
                id.text(),
                path_text(path)
            ),
            many => {
                let mut lines = Vec::new();
                for (at, (id, path)) in many.iter().enumerate() {
                    if at == 0 || many[at - 1].0 != *id {
                        lines.push(format!("conflicts with {}:", id.text()));
                    }
                    lines.push(format!("- {}", path_text(path)));
                }
                format!(
                    "Apply failed with {} conflicts: {}",
                    many.len(),
                    lines.join("\n")
                )
            }
        };
        let causes = conflicts.iter().map(|(id, path)| Conflict {
            manager: id.manager.clone(),
            message: format!("conflict with {}", id.text()),
            field: path_text(path),
        });
        ApplyError::Conflicts {
            message,
            causes: causes.collect(),
        }
    }
}

/// One write by one manager to objects of one type.
struct Engine<'a> {
    ty: TypeRef,
    manager: &'a Manager<'a>,
    /// Paths that this endpoint doesn't write (`status` of the resource itself, `spec` of `/status`): never owned through it.
    ignored: Set,
}

impl<'a> Engine<'a> {
    fn new(ty: TypeRef, manager: &'a Manager<'a>) -> Engine<'a> {
        let has = |name: &str| ty.graph.field(ty.id, name).is_some();
        let stored = has("metadata") && has("status");
        let ignored = match manager.subresource {
            "" if stored => Set::of(&[&["status"]]),
            "status" => match ty.name() {
                "io.k8s.api.apps.v1.Deployment" => Set::of(&[&["spec"], &["metadata", "labels"]]),
                "io.k8s.api.core.v1.Pod" => Set::of(&[
                    &["spec"],
                    &["metadata", "deletionTimestamp"],
                    &["metadata", "ownerReferences"],
                ]),
                _ => Set::of(&[&["spec"]]),
            },
            _ => Set::default(),
        };
        Engine {
            ty,
            manager,
            ignored,
        }
    }

    fn root(&self) -> Ty {
        Ty::Known(self.ty.id)
    }

    fn compare(&self, old: &Value, new: &Value, filled: bool) -> Result<Comparison, String> {
        compare(self.ty.graph, self.root(), old, new, filled)
    }

    fn field_set(&self, value: &Value) -> Set {
        shape::field_set(self.ty.graph, self.root(), value)
    }

    fn named(&self, set: &Set) -> Set {
        shape::with_named_fields(self.ty.graph, Some(self.root()), set)
    }

    fn remove(&self, value: &Value, set: &Set) -> Value {
        shape::remove(self.ty.graph, self.root(), value, set)
    }

    /// Refuses an applied object that isn't of the type.
    fn check(&self, applied: &Value) -> Result<(), ApplyError> {
        let mut errors = Vec::new();
        shape::validate(self.ty.graph, self.root(), applied, "", &mut errors);
        let text = match errors.as_slice() {
            [] => return Ok(()),
            [one] => one.clone(),
            many => format!("errors:\n  {}", many.join("\n  ")),
        };
        let metadata = |key: &str| {
            applied["metadata"][key]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let kind = applied["kind"].as_str().unwrap_or_default();
        // A group version's text has the slash even when the group is empty.
        let version = self.manager.api_version;
        let slash = if version.contains('/') { "" } else { "/" };
        Err(ApplyError::Invalid(format!(
            "failed to create typed patch object ({}/{}; {slash}{version}, Kind={kind}): {text}",
            metadata("namespace"),
            metadata("name")
        )))
    }

    /// Drops entries of versions that the kind doesn't have, and brings sets in line with types that became atomic.
    fn reconcile(&self, records: &mut Records) {
        let kinds: Vec<Gvk<'static>> = match self.ty.graph.kind(self.ty.id) {
            Kind::Struct { index, .. } => self.ty.graph.structs[index as usize].gvks().collect(),
            _ => Vec::new(),
        };
        records.retain(|_, owned| {
            let (group, version) = owned
                .api_version
                .split_once('/')
                .unwrap_or(("", &owned.api_version));
            owned.api_version == self.manager.api_version
                || kinds.iter().any(|k| {
                    self.ty.graph.roots.contains_key(&Gvk {
                        group,
                        version,
                        kind: k.kind,
                    })
                })
        });
        for owned in records.values_mut() {
            let node = Node {
                member: false,
                below: std::mem::take(&mut owned.set),
            };
            owned.set = shape::reconciled(self.ty.graph, self.root(), &node).below;
        }
    }

    /// Takes what changed from the other managers. Without `force`, changes of what they own are conflicts.
    fn take_over(
        &self,
        records: &mut Records,
        comparison: &Comparison,
        writer: Option<&Id>,
        force: bool,
    ) -> Result<(), Failure> {
        let written = comparison.written();
        let others = || records.iter().filter(|(id, _)| Some(*id) != writer);
        let conflicts: Vec<(Id, Vec<Element>)> = others()
            .flat_map(|(id, owned)| {
                owned
                    .set
                    .intersection(&written)
                    .paths()
                    .into_iter()
                    .map(|path| (id.clone(), path))
            })
            .collect();
        if !force && !conflicts.is_empty() {
            return Err(Failure::Conflicts(conflicts));
        }
        for (id, owned) in records.iter_mut() {
            if Some(id) != writer {
                owned.set = owned
                    .set
                    .difference(&written)
                    .difference(&comparison.removed);
            }
        }
        records.retain(|_, owned| !owned.set.is_empty());
        Ok(())
    }

    /// Records a write that wasn't an apply.
    fn updated(&self, live: &Value, new: &Value, records: &mut Records) -> Result<(), String> {
        self.reconcile(records);
        let comparison = self.compare(live, new, true)?.without(&self.ignored);
        // Forced: it can't conflict.
        let _ = self.take_over(records, &comparison, None, true);
        let set = comparison
            .written()
            .recursive_difference(&self.ignored)
            .difference(&stripped());
        if set.is_empty() {
            return Ok(());
        }
        let id = Id::new(
            self.manager.name,
            false,
            self.manager.api_version,
            self.manager.subresource,
        );
        let set = records
            .get(&id)
            .map_or_else(|| set.clone(), |previous| previous.set.union(&set));
        records.insert(
            id,
            Owned {
                set,
                api_version: self.manager.api_version.to_owned(),
                time: Some(self.manager.time.to_owned()),
            },
        );
        Ok(())
    }

    /// Merges the applied object into the live one and records it.
    fn applied(
        &self,
        live: &Value,
        applied: &Value,
        mut records: Records,
        force: bool,
    ) -> Result<(Value, Records), Failure> {
        self.reconcile(&mut records);
        let id = Id::new(self.manager.name, true, "", self.manager.subresource);
        let merged = merge(self.ty.graph, self.root(), Some(live), Some(applied))
            .map_err(|e| format!("failed to merge config: {e}"))?
            .unwrap_or_else(|| json!({}));
        let last = records.remove(&id);
        let set = self.field_set(applied).recursive_difference(&self.ignored);
        let time = last.as_ref().and_then(|l| l.time.clone());
        records.insert(
            id.clone(),
            Owned {
                set,
                api_version: self.manager.api_version.to_owned(),
                time,
            },
        );
        let merged = match &last {
            Some(last) if !last.set.is_empty() => self.prune(merged, &records, &last.set),
            _ => merged,
        };
        let comparison = self
            .compare(live, &merged, false)
            .map_err(|e| format!("failed to compare objects: {e}"))?
            .without(&self.ignored);
        self.take_over(&mut records, &comparison, Some(&id), force)?;
        let changed = !equal(live, &merged);
        if let Some(owned) = records.get_mut(&id) {
            owned.set = owned.set.difference(&stripped());
            if changed {
                owned.time = Some(self.manager.time.to_owned());
            }
            if owned.set.is_empty() {
                records.remove(&id);
            }
        }
        Ok((if changed { merged } else { live.clone() }, records))
    }

    /// Removes what the manager applied last, applies no more, and nobody else owns.
    fn prune(&self, merged: Value, records: &Records, last: &Set) -> Value {
        let last = self.named(last);
        let pruned = self.remove(&merged, &last);
        let owned = records
            .values()
            .fold(Set::default(), |all, owned| all.union(&owned.set));
        let all = self.named(&self.field_set(&merged));
        let kept = self
            .named(&self.field_set(&pruned))
            .union(&self.named(&owned));
        let pruned = self.remove(&merged, &all.difference(&kept));
        // Items that hang below what was removed but weren't of the last apply come back.
        let gone = all.difference(&self.named(&self.field_set(&pruned)));
        self.remove(&merged, &gone.intersection(&last))
    }

    /// What kubectl applied on the client's side and nobody changed since.
    fn allowed_by_last_applied(&self, live: &Value) -> Option<Set> {
        let text = live["metadata"]["annotations"][LAST_APPLIED].as_str()?;
        let last: Value = serde_json::from_str(text).ok()?;
        if last["apiVersion"].as_str() != Some(self.manager.api_version)
            || self.check(&last).is_err()
        {
            return None;
        }
        let comparison = self.compare(&last, live, true).ok()?;
        Some(
            self.field_set(&last)
                .difference(&comparison.modified)
                .difference(&comparison.added)
                .difference(&comparison.removed),
        )
    }
}

/// Fields that nobody owns.
fn stripped() -> Set {
    let metadata = [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ];
    let mut set = Set::of(&[&["apiVersion"], &["kind"], &["metadata"]]);
    for name in metadata {
        set.insert(&[Element::field("metadata"), Element::field(name)]);
    }
    set
}
