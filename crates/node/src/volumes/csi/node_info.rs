//! What the API knows of the drivers on this node: the CSINode object, the Node's annotation and topology labels.
//!
//! Source: kubernetes `pkg/volume/csi/nodeinfomanager`.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::{
    core::v1::Node,
    storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::service::Info;

const NODE_ID: &str = "csi.volume.kubernetes.io/nodeid";
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Other writers of the same object are few.
const TRIES: u32 = 10;

/// The node's entries; one writer at a time.
pub(crate) struct NodeInfo {
    pub client: kube::Client,
    pub name: String,
    /// of the Node object
    pub uid: String,
}

impl NodeInfo {
    /// Makes the CSINode, without drivers, if there's none.
    pub(crate) async fn create(&self) {
        let made = self.change(|_| false).await;
        if let Err(error) = made {
            tracing::debug!(%error, "the CSINode is made when a driver comes");
        }
    }

    /// Enters a driver.
    ///
    /// # Errors
    /// When the API can't be reached, or a label of its topology has another value already.
    pub(crate) async fn install(&self, driver: &str, info: &Info) -> Result<(), String> {
        self.label(driver, Some(info)).await?;
        let count = i32::try_from(info.volumes_max).unwrap_or(i32::MAX);
        let entry = CSINodeDriver {
            name: driver.to_owned(),
            node_id: info.node_id.clone(),
            topology_keys: (!info.topology.is_empty())
                .then(|| info.topology.keys().cloned().collect()),
            allocatable: (count > 0).then_some(VolumeNodeResources { count: Some(count) }),
        };
        self.change(|drivers| {
            if drivers.contains(&entry) {
                return false;
            }
            drivers.retain(|d| d.name != driver);
            drivers.push(entry.clone());
            true
        })
        .await
        .map_err(|e| format!("error updating CSINode object with CSI driver node info: {e}"))
    }

    /// Strikes a driver out.
    pub(crate) async fn uninstall(&self, driver: &str) {
        let result = async {
            self.change(|drivers| {
                let before = drivers.len();
                drivers.retain(|d| d.name != driver);
                drivers.len() != before
            })
            .await?;
            self.label(driver, None).await
        };
        if let Err(error) = result.await {
            tracing::warn!(%driver, %error, "a driver that has left stays in the CSINode until it comes back");
        }
    }

    async fn change(&self, edit: impl Fn(&mut Vec<CSINodeDriver>) -> bool) -> Result<(), String> {
        let api: Api<CSINode> = Api::all(self.client.clone());
        for _ in 0..TRIES {
            let work = async {
                let Some(mut present) = api.get_opt(&self.name).await? else {
                    let mut drivers = Vec::new();
                    edit(&mut drivers);
                    let made = CSINode {
                        metadata: ObjectMeta {
                            name: Some(self.name.clone()),
                            owner_references: Some(vec![OwnerReference {
                                api_version: "v1".into(),
                                kind: "Node".into(),
                                name: self.name.clone(),
                                uid: self.uid.clone(),
                                ..OwnerReference::default()
                            }]),
                            ..ObjectMeta::default()
                        },
                        spec: CSINodeSpec { drivers },
                    };
                    return api.create(&PostParams::default(), &made).await.map(drop);
                };
                if !edit(&mut present.spec.drivers) {
                    return Ok(());
                }
                api.replace(&self.name, &PostParams::default(), &present)
                    .await
                    .map(drop)
            };
            match tokio::time::timeout(CALL_DEADLINE, work).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => return Err("the API server did not answer in time".into()),
            }
        }
        Err("the object was changed by others again and again".into())
    }

    /// The Node's `nodeid` annotation, and the topology as labels (which stay when the driver leaves).
    async fn label(&self, driver: &str, info: Option<&Info>) -> Result<(), String> {
        let api: Api<Node> = Api::all(self.client.clone());
        let work = async {
            let node = api.get_metadata(&self.name).await.map_err(text)?;
            let annotations = node.metadata.annotations.unwrap_or_default();
            let labels = node.metadata.labels.unwrap_or_default();
            let mut ids: BTreeMap<String, String> = annotations
                .get(NODE_ID)
                .and_then(|t| serde_json::from_str(t).ok())
                .unwrap_or_default();
            let before = ids.clone();
            let mut added = BTreeMap::new();
            match info {
                Some(info) => {
                    for (key, value) in &info.topology {
                        match labels.get(key) {
                            Some(old) if old != value => {
                                return Err(format!(
                                    "detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{old:?}"
                                ));
                            }
                            Some(_) => {}
                            None => {
                                added.insert(key.clone(), value.clone());
                            }
                        }
                    }
                    ids.insert(driver.to_owned(), info.node_id.clone());
                }
                None => {
                    ids.remove(driver);
                }
            }
            if ids == before && added.is_empty() {
                return Ok(());
            }
            let ids = (!ids.is_empty()).then(|| json!(ids).to_string());
            let patch = json!({"metadata": {"annotations": {NODE_ID: ids}, "labels": added}});
            api.patch_metadata(&self.name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
                .map(drop)
                .map_err(text)
        };
        tokio::time::timeout(CALL_DEADLINE, work)
            .await
            .map_err(|_| "the API server did not answer in time".to_owned())?
    }
}

fn text(error: kube::Error) -> String {
    error.to_string()
}
