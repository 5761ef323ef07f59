//! One write by one manager: who owns what after it, and what an apply makes of the object.

use serde_json::{Value, json};

use super::Root;
use super::element::{Element, equal, path_text};
use super::pair::{Comparison, compare, merge};
use super::records::{Id, Owned, Records};
use super::set::{Node, Set};
use super::shape::{self, Ty};
use super::{ApplyError, Conflict, LAST_APPLIED, Manager};
use crate::types::{Graph, Gvk, Kind, built_in};

pub(super) enum Failure {
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
        let mut conflicts = match failure {
            Failure::Invalid(text) => return ApplyError::Invalid(text),
            Failure::Conflicts(conflicts) => conflicts,
        };
        conflicts.sort_by_cached_key(|(id, _)| id.text());
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
pub(super) struct Engine<'a> {
    ty: Root<'a>,
    manager: &'a Manager<'a>,
    /// Paths that this endpoint doesn't write (`status` of the resource itself, `spec` of `/status`): never owned through it.
    ignored: Set,
}

impl<'a> Engine<'a> {
    pub(super) fn new(ty: Root<'a>, manager: &'a Manager<'a>) -> Engine<'a> {
        let has = |name: &str| match ty {
            Root::BuiltIn(ty) => ty.graph.field(ty.id, name).is_some(),
            Root::Custom { .. } => false,
        };
        let stored = match ty {
            Root::BuiltIn(_) => has("metadata") && has("status"),
            Root::Custom { has_status, .. } => has_status,
        };
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

    fn root(&self) -> Ty<'a> {
        match self.ty {
            Root::BuiltIn(ty) => Ty::Known(ty.id),
            Root::Custom { ty, .. } => Ty::Custom(ty),
        }
    }

    fn graph(&self) -> &'static Graph {
        built_in()
    }

    fn compare(&self, old: &Value, new: &Value, filled: bool) -> Result<Comparison, String> {
        compare(self.graph(), self.root(), old, new, filled)
    }

    fn field_set(&self, value: &Value) -> Set {
        shape::field_set(self.graph(), self.root(), value)
    }

    fn named(&self, set: &Set) -> Set {
        shape::with_named_fields(self.graph(), Some(self.root()), set)
    }

    fn remove(&self, value: &Value, set: &Set) -> Value {
        shape::remove(self.graph(), self.root(), value, set)
    }

    /// Refuses an applied object that isn't of the type.
    pub(super) fn check(&self, applied: &Value) -> Result<(), ApplyError> {
        let mut errors = Vec::new();
        shape::validate(self.graph(), self.root(), applied, "", &mut errors);
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
        let kinds: Vec<Gvk<'static>> = match self.ty {
            Root::BuiltIn(ty) => match self.graph().kind(ty.id) {
                Kind::Struct { index, .. } => self.graph().structs[index as usize].gvks().collect(),
                _ => Vec::new(),
            },
            Root::Custom { .. } => Vec::new(),
        };
        let served = |version: &str| match self.ty {
            Root::Custom { versions, .. } => versions.iter().any(|v| v == version),
            Root::BuiltIn(_) => false,
        };
        records.retain(|_, owned| {
            let (group, version) = owned
                .api_version
                .split_once('/')
                .unwrap_or(("", &owned.api_version));
            owned.api_version == self.manager.api_version
                || served(&owned.api_version)
                || kinds.iter().any(|k| {
                    self.graph().roots.contains_key(&Gvk {
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
            owned.set = shape::reconciled(self.graph(), self.root(), &node).below;
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
    pub(super) fn updated(
        &self,
        live: &Value,
        new: &Value,
        records: &mut Records,
    ) -> Result<(), String> {
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
    pub(super) fn applied(
        &self,
        live: &Value,
        applied: &Value,
        mut records: Records,
        force: bool,
    ) -> Result<(Value, Records), Failure> {
        self.reconcile(&mut records);
        let id = Id::new(self.manager.name, true, "", self.manager.subresource);
        let merged = merge(self.graph(), self.root(), Some(live), Some(applied))
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
    pub(super) fn allowed_by_last_applied(&self, live: &Value) -> Option<Set> {
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
