//! `v1` ComponentStatus: whether the store and the controllers run, under the names they have upstream. Deprecated there since
//! v1.19, and still what `kubectl get cs` shows.
//!
//! Source: kubernetes `pkg/registry/core/componentstatus`.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::json;

use crate::{
    catalog::{self, Target},
    computed,
    list::Filter,
    negotiate,
    registry::Resource,
    resource::Outcome,
    server::{Call, Inner},
    status::Failure,
};

/// The store's name. Upstream counts the servers of etcd, of which here is one.
const STORE: &str = "etcd-0";
/// In the order of lists.
const COMPONENTS: [&str; 3] = ["scheduler", "controller-manager", STORE];

/// Says of a component whether it runs: `scheduler` or `controller-manager`. Err = why it doesn't, for people. Must be quick.
pub type Check = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// Who is asked; nobody until the platform is put together.
#[derive(Default)]
pub struct Components(OnceLock<Arc<Check>>);

impl Components {
    /// From now on this one is asked; the first given stays.
    pub fn set(&self, check: Arc<Check>) {
        let _ = self.0.set(check);
    }
}

/// Whether this is the resource.
pub fn is(r: &Resource) -> bool {
    r.group.is_empty() && r.plural == "componentstatuses"
}

fn check(inner: &Inner, name: &str) -> Result<(), String> {
    if name == STORE {
        return match inner.store.takes_commits() {
            true => Ok(()),
            false => Err("the store takes no more commits; see the log".into()),
        };
    }
    match inner.components.0.get() {
        Some(check) => check(name),
        None => Err("it is not running".into()),
    }
}

fn status(inner: &Inner, r: &Resource, name: &str) -> Bytes {
    let condition = match check(inner, name) {
        Ok(()) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(why) => json!({"type": "Healthy", "status": "False", "message": why}),
    };
    computed::written(
        r,
        &json!({"metadata": {"name": name}, "conditions": [condition]}),
    )
}

/// Answers `get` and `list`.
pub fn answer(inner: &Inner, call: &Call, t: &Target, verb: &str) -> Result<Outcome, Failure> {
    let r = &t.resource;
    let body = match verb {
        "get" => {
            let form = negotiate::form(r, &call.parts.headers)?;
            if !COMPONENTS.contains(&t.name.as_str()) {
                // the singular is upstream's
                return Err(Failure::not_found_named("", "componentstatus", &t.name));
            }
            crate::resource::in_form(call, t, form, &status(inner, r, &t.name))?
        }
        "list" => {
            let form = negotiate::form_of_list(r, &call.parts.headers)?;
            let filter = Filter::read(r, &call.query)?;
            let all = COMPONENTS.iter().map(|name| (name, status(inner, r, name)));
            let taken = all.filter(|(name, o)| filter.takes(r, &catalog::key(r, "", name), o));
            computed::listed(call, r, form, taken.map(|(_, o)| o).collect())?
        }
        _ => return Err(Failure::method_not_allowed()),
    };
    Ok(computed::answered(t, body))
}
