//! ResourceSlices of drivers that aren't there: Pods would be sent here for devices that nobody makes ready.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use tokio::time::Instant;

use super::plugins::Plugins;

/// A driver that restarts keeps its slices for so long (`defaultWipingDelay`).
const WIPING_DELAY: Duration = Duration::from_secs(30);
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

pub(crate) struct Wiper {
    pub client: kube::Client,
    pub node: String,
    pub plugins: Arc<Plugins>,
}

impl Wiper {
    /// Removes the slices of all drivers now, as none has registered yet, and of each that leaves for good. Until cancelled.
    pub(crate) async fn run(self) {
        let mut changes = self.plugins.changes();
        self.wipe(None).await;
        let mut present: BTreeSet<Box<str>> = BTreeSet::new();
        let mut leaving: BTreeMap<Box<str>, Instant> = BTreeMap::new();
        loop {
            let now: BTreeSet<Box<str>> = self.plugins.names().into_iter().collect();
            for driver in present.difference(&now) {
                leaving.insert(driver.clone(), Instant::now() + WIPING_DELAY);
            }
            leaving.retain(|driver, _| !now.contains(driver));
            present = now;
            let next = leaving.iter().min_by_key(|(_, at)| **at);
            let next = next.map(|(driver, at)| (driver.clone(), *at));
            let due = async {
                match &next {
                    Some((_, at)) => tokio::time::sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
                () = due => if let Some((driver, _)) = next {
                    leaving.remove(&driver);
                    self.wipe(Some(&driver)).await;
                },
            }
        }
    }

    async fn wipe(&self, driver: Option<&str>) {
        let api: Api<ResourceSlice> = Api::all(self.client.clone());
        let mut fields = format!("spec.nodeName={}", self.node);
        if let Some(driver) = driver {
            fields.push_str(&format!(",spec.driver={driver}"));
        }
        let list = ListParams::default().fields(&fields);
        for tries in 0.. {
            match api.delete_collection(&DeleteParams::default(), &list).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if status.code == 404 => return,
                Err(error) => {
                    tracing::debug!(%error, %fields, "ResourceSlices are removed later");
                    let pause = crate::pod::backoff::doubling(RETRY.0, RETRY.1, tries);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}
