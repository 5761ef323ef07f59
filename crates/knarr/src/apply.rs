//! Server-side apply of any object, and what is needed to find its URL.

use crate::error::Error;
use kube::{
    Api, Client, Discovery,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::Scope,
    runtime::wait,
};
use serde_json::Value;
use std::sync::{PoisonError, RwLock};

/// The manager that owns what `up` writes.
pub const MANAGER: &str = "knarr";

/// How long something that is deleted may take to be gone.
const GOES: std::time::Duration = std::time::Duration::from_secs(10);

pub struct Applier {
    client: Client,
    /// Replaced when kinds have been added. Never held across an await.
    discovery: RwLock<Discovery>,
}

pub struct Applied {
    pub object: Value,
    pub changed: bool,
    /// As it was; None: it is new.
    pub before: Option<Value>,
}

impl Applier {
    pub async fn new(client: Client) -> Result<Applier, Error> {
        let discovery = RwLock::new(discover(&client).await?);
        Ok(Applier { client, discovery })
    }

    /// Looks anew at what the server knows, after kinds were added.
    ///
    /// # Errors
    /// When the server can't be asked.
    pub async fn refresh(&self) -> Result<(), Error> {
        let found = discover(&self.client).await?;
        *self
            .discovery
            .write()
            .unwrap_or_else(PoisonError::into_inner) = found;
        Ok(())
    }

    /// Whether the server knows the object's kind.
    pub fn knows(&self, object: &Value) -> bool {
        self.resource(object).is_ok()
    }

    fn resource(&self, object: &Value) -> Result<(ApiResource, Scope), Error> {
        let (api_version, kind) = (
            object["apiVersion"].as_str().unwrap_or_default(),
            object["kind"].as_str().unwrap_or_default(),
        );
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let discovery = self
            .discovery
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let (resource, capabilities) = discovery.resolve_gvk(&gvk).ok_or_else(|| {
            Error::Input(format!(
                "no matches for kind {kind:?} in version {api_version:?}"
            ))
        })?;
        Ok((resource, capabilities.scope))
    }

    /// The object of the same kind and name that is there.
    ///
    /// # Errors
    /// When the server can't be asked.
    pub async fn find(&self, object: &Value, default: &str) -> Result<Option<Value>, Error> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let found = self.api(object, default)?.get_opt(name).await?;
        let Some(found) = found else { return Ok(None) };
        let mut found = serde_json::to_value(found).map_err(|e| Error::Failed(e.to_string()))?;
        for key in ["apiVersion", "kind"] {
            found[key] = object[key].clone();
        }
        Ok(Some(found))
    }

    pub fn api(
        &self,
        object: &Value,
        default_namespace: &str,
    ) -> Result<Api<DynamicObject>, Error> {
        let (resource, scope) = self.resource(object)?;
        Ok(match scope {
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
            Scope::Namespaced => {
                let namespace = object
                    .pointer("/metadata/namespace")
                    .and_then(Value::as_str)
                    .unwrap_or(default_namespace);
                Api::namespaced_with(self.client.clone(), namespace, &resource)
            }
        })
    }

    pub fn is_namespaced(&self, object: &Value) -> Result<bool, Error> {
        Ok(self.resource(object)?.1 == Scope::Namespaced)
    }

    pub async fn namespace_is_missing(&self, name: &str) -> Result<bool, Error> {
        let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client.clone());
        Ok(api.get_metadata_opt(name).await?.is_none())
    }

    /// Applies; `dry_run` only asks the server whether it would take it.
    pub async fn apply(
        &self,
        object: &Value,
        default_namespace: &str,
        dry_run: bool,
    ) -> Result<Applied, Error> {
        let api = self.api(object, default_namespace)?;
        let name = object
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let mut before = api.get_opt(name).await?;
        // A Service can't gain or lose its address: one of ours is made anew.
        if let Some(old) = before
            .as_ref()
            .filter(|old| !dry_run && is_otherwise(old, object))
        {
            let uid = old.metadata.uid.clone().unwrap_or_default();
            api.delete(name, &DeleteParams::default()).await?;
            let gone = wait::await_condition(api.clone(), name, wait::conditions::is_deleted(&uid));
            if tokio::time::timeout(GOES, gone).await.is_ok() {
                before = None;
            }
        }
        let mut parameters = PatchParams::apply(MANAGER).force().validation_strict();
        parameters.dry_run = dry_run;
        let applied = api
            .patch(name, &parameters, &Patch::Apply(object))
            .await
            .map_err(|e| match e {
                kube::Error::Api(status) if is_bad_input(&status) => Error::Input(format!(
                    "{} {name}: {}",
                    object["kind"].as_str().unwrap_or_default(),
                    status.message
                )),
                other => other.into(),
            })?;
        let known = before.as_ref().and_then(|b| serde_json::to_value(b).ok());
        let changed = before.map(essence) != Some(essence(applied.clone()));
        let object = serde_json::to_value(&applied).map_err(|e| Error::Failed(e.to_string()))?;
        Ok(Applied {
            object,
            changed,
            before: known,
        })
    }
}

async fn discover(client: &Client) -> Result<Discovery, Error> {
    Ok(Discovery::new(client.clone()).run_aggregated().await?)
}

/// Whether one of the two has an address of its own, and the other leads to containers only.
fn is_otherwise(old: &DynamicObject, new: &Value) -> bool {
    let headless = |ip: Option<&Value>| ip.is_some_and(|ip| ip == "None");
    let own = new.pointer("/metadata/labels/app.kubernetes.io~1managed-by");
    new["kind"] == "Service"
        && own.is_some_and(|m| m == MANAGER)
        && headless(old.data.pointer("/spec/clusterIP")) != headless(new.pointer("/spec/clusterIP"))
}

/// The object without the server's bookkeeping: who owns which field may change though nothing else does.
fn essence(mut object: DynamicObject) -> Option<Value> {
    object.metadata.managed_fields = None;
    object.metadata.resource_version = None;
    serde_json::to_value(object).ok()
}

/// Whether the file is at fault. Upstream answers an apply that doesn't fit the schema with a bare 500.
fn is_bad_input(status: &kube::core::Status) -> bool {
    matches!(status.code, 400 | 404 | 422)
        || status
            .message
            .starts_with("failed to create typed patch object")
}
