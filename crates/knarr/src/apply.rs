//! Server-side apply of any object, and what is needed to find its URL.

use crate::error::Error;
use kube::{
    Api, Client, Discovery,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::Scope,
};
use serde_json::Value;

/// The manager that owns what `up` writes.
pub const MANAGER: &str = "knarr";

pub struct Applier {
    client: Client,
    discovery: Discovery,
}

pub struct Applied {
    pub object: Value,
    pub changed: bool,
}

impl Applier {
    pub async fn new(client: Client) -> Result<Applier, Error> {
        let discovery = Discovery::new(client.clone()).run_aggregated().await?;
        Ok(Applier { client, discovery })
    }

    fn resource(&self, object: &Value) -> Result<(ApiResource, Scope), Error> {
        let (api_version, kind) = (
            object["apiVersion"].as_str().unwrap_or_default(),
            object["kind"].as_str().unwrap_or_default(),
        );
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let (resource, capabilities) = self.discovery.resolve_gvk(&gvk).ok_or_else(|| {
            Error::Input(format!(
                "no matches for kind {kind:?} in version {api_version:?}"
            ))
        })?;
        Ok((resource, capabilities.scope))
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
        let before = api.get_opt(name).await?;
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
        let changed = before.map(essence) != Some(essence(applied.clone()));
        let object = serde_json::to_value(&applied).map_err(|e| Error::Failed(e.to_string()))?;
        Ok(Applied { object, changed })
    }
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
