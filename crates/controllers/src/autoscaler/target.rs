//! The scale of whatever is scaled: any kind with a `scale` subresource.

use std::collections::HashMap;

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    error::{Error, Result},
    machinery::rest::{Ignored, Rest},
    objects::{autoscaler::TargetRef, meta::nullable},
};

/// Kinds remembered; above it all are asked for again.
const KINDS_MAX: usize = 256;

#[derive(Deserialize)]
struct Resources {
    #[serde(default, deserialize_with = "nullable")]
    resources: Vec<Item>,
}
#[derive(Deserialize)]
struct Item {
    name: Box<str>,
    kind: Box<str>,
}

type VersionKind = (Box<str>, Box<str>);

/// Names of resources by API version and kind.
#[derive(Default)]
pub struct Targets {
    plurals: Mutex<HashMap<VersionKind, Box<str>>>,
}

/// `autoscaling/v1.Scale`
pub struct Scale {
    path: String,
    object: Value,
    /// wanted
    pub replicas: i32,
    /// there
    pub seen: i32,
    /// of the pods, as queries have it
    pub selector: String,
}

fn api_version(reference: &TargetRef) -> &str {
    match &*reference.api_version {
        "" => "v1",
        v => v,
    }
}

fn root(api_version: &str) -> String {
    if api_version.contains('/') {
        format!("/apis/{api_version}")
    } else {
        format!("/api/{api_version}")
    }
}

impl Targets {
    /// The resource of a kind, e.g. `deployments`.
    pub async fn plural(&self, rest: &Rest, of: &TargetRef) -> Result<Box<str>, String> {
        let version = api_version(of);
        let known = match (version, &*of.kind) {
            ("apps/v1", "Deployment") => Some("deployments"),
            ("apps/v1", "ReplicaSet") => Some("replicasets"),
            ("apps/v1", "StatefulSet") => Some("statefulsets"),
            ("v1", "ReplicationController") => Some("replicationcontrollers"),
            _ => None,
        };
        if let Some(plural) = known {
            return Ok(plural.into());
        }
        let key = (Box::from(version), of.kind.clone());
        if let Some(plural) = self.plurals.lock().get(&key) {
            return Ok(plural.clone());
        }
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let missing = || format!("no matches for kind {:?} in group {group:?}", &*of.kind);
        let list: Resources = rest.get(&root(version)).await.map_err(|e| {
            if e.is_not_found() || matches!(&e, Error::Api(s) if s.code == 404) {
                missing()
            } else {
                super::api_message(&e)
            }
        })?;
        let plural = list
            .resources
            .into_iter()
            .find(|r| r.kind == of.kind && !r.name.contains('/'))
            .map(|r| r.name)
            .ok_or_else(missing)?;
        let mut plurals = self.plurals.lock();
        if plurals.len() >= KINDS_MAX {
            plurals.clear();
        }
        plurals.insert(key, plural.clone());
        Ok(plural)
    }

    /// Reads the scale.
    pub async fn scale(
        &self,
        rest: &Rest,
        namespace: &str,
        of: &TargetRef,
    ) -> Result<Scale, String> {
        let plural = self.plural(rest, of).await?;
        let path = format!(
            "{}/namespaces/{namespace}/{plural}/{}/scale",
            root(api_version(of)),
            of.name
        );
        let object: Value = rest.get(&path).await.map_err(|e| {
            // the kind may have gone, or come back under another name
            self.plurals
                .lock()
                .remove(&(api_version(of).into(), of.kind.clone()));
            super::api_message(&e)
        })?;
        let number = |pointer: &str| {
            let n = object.pointer(pointer).and_then(Value::as_i64);
            i32::try_from(n.unwrap_or(0)).unwrap_or(i32::MAX)
        };
        let selector = object.pointer("/status/selector").and_then(Value::as_str);
        Ok(Scale {
            replicas: number("/spec/replicas"),
            seen: number("/status/replicas"),
            selector: selector.unwrap_or("").to_owned(),
            path,
            object,
        })
    }
}

impl Scale {
    /// Wants so many, if it is still as it was read.
    pub async fn write(&mut self, rest: &Rest, replicas: i32) -> Result<()> {
        if let Some(object) = self.object.as_object_mut() {
            let spec = object
                .entry("spec")
                .or_insert_with(|| Value::Object(Default::default()));
            spec["replicas"] = replicas.into();
        }
        rest.put::<Ignored>(&self.path, &self.object)
            .await
            .map(|_| ())
    }
}
