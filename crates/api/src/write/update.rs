//! Objects changed: guarded by the revision that was read, and again when somebody wrote in between.

use std::sync::Arc;

use knarr_store::{CommitError, Expect};
use serde_json::Value;

use super::{
    ATTEMPTS_MAX, Change, Part, Write, Written,
    kept::{copy, copy_in, may_go, put_or_delete},
};
use crate::{
    admission::{self, Admitted, Attributes, Operation},
    catalog,
    commit::unavailable,
    compare::{same, same_spec},
    finalizers, held_addresses,
    namespaces::{self, is_namespace},
    object::{self, meta, meta_mut},
    registry::Resource,
    scale,
    status::Failure,
    versions,
};

impl Write<'_> {
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
            let op = put_or_delete(key.clone(), &encoded, expect, gone);
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
