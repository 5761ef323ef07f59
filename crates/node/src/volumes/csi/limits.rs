//! How many volumes a driver takes may change: it is asked anew as often as its CSIDriver object says, and when the
//! attacher has found the node full.
//!
//! Source: kubernetes `pkg/volume/csi/{csi_node_updater,csi_plugin}.go`.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::storage::v1::CSIDriver;
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::Notify;

use super::{node_info::NodeInfo, objects::limit_period, service::Service};

/// Between two questions that were asked for at once.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps the node's entry of a driver as the driver says, until dropped. `full`: the attacher was told that there's no room.
pub(crate) async fn keep(node: Arc<NodeInfo>, driver: String, service: Service, full: Arc<Notify>) {
    let api: Api<CSIDriver> = Api::all(node.client.clone());
    let config = watcher::Config::default().fields(&format!("metadata.name={driver}"));
    let mut rules = std::pin::pin!(watcher(api, config).default_backoff());
    let mut period = None;
    let mut next = tokio::time::Instant::now();
    loop {
        let due = async {
            match period {
                Some(_) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = rules.next() => {
                let now = match event {
                    Some(Ok(watcher::Event::Apply(d) | watcher::Event::InitApply(d))) => limit_period(&d.spec),
                    Some(Ok(watcher::Event::Delete(_))) => None,
                    // the watcher comes back by itself
                    Some(_) => continue,
                    None => return,
                };
                if now != period {
                    period = now;
                    next = tokio::time::Instant::now() + period.unwrap_or_default();
                }
                continue;
            }
            () = due => {}
            () = full.notified() => tokio::time::sleep(PAUSE).await,
        }
        match service.info().await {
            Ok(info) => {
                if let Err(error) = node.install(&driver, &info).await {
                    tracing::warn!(%driver, %error, "the driver's limits in the CSINode stay as they are");
                }
            }
            Err(error) => tracing::warn!(%driver, %error, "the driver does not tell its limits"),
        }
        next = tokio::time::Instant::now() + period.unwrap_or_default();
    }
}
