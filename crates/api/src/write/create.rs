//! Objects made.

use std::sync::Arc;

use bytes::Bytes;
use knarr_store::{CommitError, Expect, Op};
use serde_json::Value;

use super::{
    ATTEMPTS_MAX, Write,
    kept::{wipe, without_revision},
};
use crate::{
    admission::{self, Operation},
    catalog,
    commit::unavailable,
    held_addresses, names,
    namespaces::{self, is_namespace},
    object::{self, meta, meta_mut},
    status::Failure,
    versions,
};

/// Attempts to find a free generated name (upstream's RetryGenerateName).
const GENERATE_ATTEMPTS_MAX: usize = 8;

impl Write<'_> {
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
}
