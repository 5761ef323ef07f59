//! `status.volumesInUse` of the Node: what must not be detached.
//!
//! Source: kubernetes `pkg/kubelet/volumemanager/volume_manager.go` (GetVolumesInUse).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{Csi, record};
use crate::{
    context::Context,
    volumes::{READ_DEADLINE, blocking},
};

impl Csi {
    /// Tells the API which attached volumes are, or may be, mounted here; before a driver is asked for one, and after
    /// it has taken one back.
    ///
    /// # Errors
    /// When the API doesn't take it.
    pub(crate) async fn report(&self, context: &Context) -> Result<(), String> {
        let mut reported = self.reported.lock().await;
        let layout = self.layout.clone();
        let now: BTreeSet<String> = blocking(move || {
            let all = layout.all().into_iter().map(|(_, record)| record);
            Ok(all
                .filter(|r| !r.attachment.is_empty())
                .map(|r| record::unique(&r.driver, &r.handle))
                .collect())
        })
        .await?;
        if reported.as_ref() == Some(&now) {
            return Ok(());
        }
        let api: Api<Node> = Api::all(context.client.clone());
        let patch = json!({"status": {"volumesInUse": now}});
        let (patch, params) = (Patch::Merge(&patch), PatchParams::default());
        let call = api.patch_status(&context.name, &params, &patch);
        match tokio::time::timeout(READ_DEADLINE, call).await {
            Ok(Ok(_)) => {
                *reported = Some(now);
                Ok(())
            }
            Ok(Err(error)) => Err(format!("the Node's status can't be changed: {error}")),
            Err(_) => Err("the API server did not answer in time".into()),
        }
    }
}
