//! What is asked of the API for a CSI volume: its CSIDriver, its VolumeAttachment, its secrets, its Pod's tokens.
//!
//! Source: kubernetes `pkg/volume/csi/{csi_plugin,csi_util,csi_attacher}.go`.

use std::{collections::BTreeMap, time::Duration};

use futures::TryStreamExt;
use k8s_openapi::api::{
    core::v1::{Node, Pod, Secret, SecretReference},
    storage::v1::{CSIDriver, CSIDriverSpec, VolumeAttachment},
};
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};

use super::proto::Map;
use crate::volumes::{READ_DEADLINE, token};

/// The CSIDriver object's spec, as it counts where there's none.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Rules(Option<CSIDriverSpec>);

impl Rules {
    pub(crate) async fn read(client: &kube::Client, driver: &str) -> Result<Rules, String> {
        let api: Api<CSIDriver> = Api::all(client.clone());
        let found = read(api.get_opt(driver)).await?;
        Ok(Rules(found.map(|d| d.spec)))
    }

    fn get<T>(&self, of: impl Fn(&CSIDriverSpec) -> Option<T>) -> Option<T> {
        self.0.as_ref().and_then(of)
    }

    pub(crate) fn attach_required(&self) -> bool {
        self.get(|s| s.attach_required).unwrap_or(true)
    }
    /// Its limit of volumes may change while it runs.
    pub(crate) fn limit_changes(&self) -> bool {
        self.get(limit_period).is_some()
    }
    pub(crate) fn pod_info(&self) -> bool {
        self.get(|s| s.pod_info_on_mount).unwrap_or(false)
    }
    pub(crate) fn republish(&self) -> bool {
        self.get(|s| s.requires_republish).unwrap_or(false)
    }
    pub(crate) fn group_policy(&self) -> String {
        self.get(|s| s.fs_group_policy.clone())
            .unwrap_or_else(|| "ReadWriteOnceWithFSType".into())
    }

    /// # Errors
    /// When volumes of this lifecycle (`Persistent`, `Ephemeral`) are not what the driver is for.
    pub(crate) fn supports(&self, driver: &str, lifecycle: &str) -> Result<(), String> {
        let Some(spec) = &self.0 else {
            return match lifecycle {
                "Persistent" => Ok(()),
                _ => Err(format!(
                    "volume mode {lifecycle:?} not supported by driver {driver} (no CSIDriver object)"
                )),
            };
        };
        let modes = spec.volume_lifecycle_modes.as_deref().unwrap_or_default();
        let persistent = ["Persistent".to_owned()];
        let modes = if modes.is_empty() { &persistent } else { modes };
        if modes.iter().any(|m| m == lifecycle) {
            return Ok(());
        }
        Err(format!(
            "volume mode {lifecycle:?} not supported by driver {driver} (only supports {modes:?})"
        ))
    }

    /// The tokens that the driver asks for, as the attribute it gets; and whether it goes among the secrets.
    pub(crate) async fn tokens(
        &self,
        client: &kube::Client,
        pod: &Pod,
    ) -> Result<Option<(Map, bool)>, String> {
        let asked = self.get(|s| s.token_requests.clone()).unwrap_or_default();
        if asked.is_empty() {
            return Ok(None);
        }
        let mut all = BTreeMap::new();
        for request in asked {
            let audience = Some(request.audience.clone()).filter(|a| !a.is_empty());
            let status = token::request(client, pod, audience, request.expiration_seconds).await?;
            all.insert(request.audience, status);
        }
        let text = serde_json::to_string(&all).map_err(|e| e.to_string())?;
        let secret = self
            .get(|s| s.service_account_token_in_secrets)
            .unwrap_or(false);
        let key = "csi.storage.k8s.io/serviceAccount.tokens".to_owned();
        Ok(Some((Map::from([(key, text)]), secret)))
    }
}

async fn read<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(READ_DEADLINE, call).await {
        Ok(found) => found.map_err(|e| e.to_string()),
        Err(_) => Err("the API server did not answer in time".into()),
    }
}

/// A secret's content, as drivers get it; `what` names the field.
pub(crate) async fn secrets(
    client: &kube::Client,
    reference: Option<&SecretReference>,
    what: &str,
) -> Result<Map, String> {
    let Some(reference) = reference else {
        return Ok(Map::new());
    };
    let (namespace, name) = (
        reference.namespace.as_deref().unwrap_or_default(),
        reference.name.as_deref().unwrap_or_default(),
    );
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = read(api.get(name))
        .await
        .map_err(|e| format!("fetching {what} {namespace}/{name} failed: {e}"))?;
    let data = secret.data.into_iter().flatten();
    Ok(data
        .map(|(k, v)| (k, String::from_utf8_lossy(&v.0).into_owned()))
        .collect())
}

/// How often a driver is asked for its limits.
pub(crate) fn limit_period(spec: &CSIDriverSpec) -> Option<Duration> {
    let seconds = spec.node_allocatable_update_period_seconds?;
    let seconds = u64::try_from(seconds).ok().filter(|s| *s > 0)?;
    Some(Duration::from_secs(seconds))
}

/// Why a volume is not attached.
#[derive(Debug)]
pub(crate) enum NotAttached {
    /// the attacher was told that there is no room on this node
    Full,
    Other(String),
}

impl From<String> for NotAttached {
    fn from(text: String) -> NotAttached {
        NotAttached::Other(text)
    }
}

/// Waits until this node has the volume attached (its `volumesAttached` says so: attachments themselves can't be
/// watched by a node); what the attacher left for the driver.
///
/// # Errors
/// The attacher's own, or that it has not come to an end within `patience`.
pub(crate) async fn attached(
    client: &kube::Client,
    node: &str,
    volume: &str,
    attachment: &str,
    patience: Duration,
) -> Result<Map, NotAttached> {
    let attachments: Api<VolumeAttachment> = Api::all(client.clone());
    let nodes: Api<Node> = Api::all(client.clone());
    let config = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let mut stream = Box::pin(watcher(nodes, config).default_backoff());
    let wait = async {
        loop {
            let found = match stream.try_next().await {
                Ok(Some(watcher::Event::Apply(n) | watcher::Event::InitApply(n))) => n,
                Ok(Some(_)) | Err(_) => continue,
                Ok(None) => return,
            };
            let attached = found.status.and_then(|s| s.volumes_attached);
            if attached.iter().flatten().any(|v| v.name == volume) {
                return;
            }
        }
    };
    let in_time = tokio::time::timeout(patience, wait).await.is_ok();
    drop(stream);
    let status = read(attachments.get_opt(attachment))
        .await?
        .and_then(|a| a.status)
        .unwrap_or_default();
    if in_time && status.attached {
        return Ok(status.attachment_metadata.unwrap_or_default());
    }
    let error = status.attach_error.unwrap_or_default();
    if error.error_code == i32::try_from(super::rpc::code::RESOURCE_EXHAUSTED).ok() {
        return Err(NotAttached::Full);
    }
    let told = error.message;
    let waits = || format!("volume attachment {attachment} is not attached yet");
    Err(told.unwrap_or_else(waits).into())
}

/// The attributes that tell a driver of the Pod.
pub(crate) fn pod_info(pod: &Pod, ephemeral: bool) -> Map {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let account = pod
        .spec
        .as_ref()
        .and_then(|s| s.service_account_name.clone());
    [
        ("pod.name", text(&pod.metadata.name)),
        ("pod.namespace", text(&pod.metadata.namespace)),
        ("pod.uid", text(&pod.metadata.uid)),
        ("serviceAccount.name", text(&account)),
        ("ephemeral", ephemeral.to_string()),
    ]
    .map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value))
    .into()
}
