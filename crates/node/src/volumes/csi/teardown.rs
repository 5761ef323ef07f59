//! Taking drivers' volumes back: out of a Pod, and off the machine when no Pod has them any more.
//!
//! Source: kubernetes `pkg/volume/csi/{csi_mounter,csi_attacher,csi_block}.go` (TearDown, UnmountDevice).

use std::time::Duration;

use super::{
    Csi,
    drivers::Driver,
    record::{Place, Record},
    rpc::code,
};
use crate::{
    context::Context,
    volumes::{blocking, mounts},
};

/// A driver that is gone is waited for so long; then the clean-up is tried again later.
const PATIENCE: Duration = Duration::from_secs(5);

impl Csi {
    /// Takes all that a Pod has of drivers out of it.
    ///
    /// # Errors
    /// When a driver isn't there or doesn't let go: what is left is known, and the next try goes on there.
    pub(crate) async fn tear_down(&self, context: &Context, uid: &str) -> Result<(), String> {
        let result = self.take_all_out(context, uid).await;
        if result.is_ok() {
            self.alone.lock().retain(|_, owner| owner != uid);
        }
        result
    }

    async fn take_all_out(&self, context: &Context, uid: &str) -> Result<(), String> {
        let layout = self.layout.clone();
        let pod = uid.to_owned();
        let places = blocking(move || Ok(layout.of_pod(&pod))).await?;
        if places.is_empty() {
            return Ok(());
        }
        let mut result = Ok(());
        for place in places {
            let taken = self.take_out(&place).await;
            if let Err(error) = taken {
                result = Err(format!(
                    "UnmountVolume.TearDown failed for volume {:?} : {error}",
                    place.volume
                ));
            }
        }
        self.published.lock().retain(|(u, _), _| u != uid);
        let pod = self.layout.kubelet_dir.join("pods").join(uid);
        for folder in ["volumes", "volumeDevices", ""] {
            let _ = std::fs::remove_dir(pod.join(folder));
        }
        if let Err(error) = self.report(context).await {
            tracing::debug!(%error, "the Node's volumesInUse is brought up to date with the next change");
        }
        result
    }

    async fn take_out(&self, place: &Place) -> Result<(), String> {
        let failed = |e: std::io::Error| format!("failed to clean mount dir: {e}");
        let Some(record) = self.layout.read(place) else {
            // nothing was asked of a driver yet
            return self.layout.forget(place).map_err(failed);
        };
        let driver = self
            .drivers
            .find(&record.driver, PATIENCE)
            .await
            .map_err(|e| format!("failed to get CSI client: {e}"))?;
        let lock = self.lock(&record.driver, &record.handle);
        let _one_at_a_time = lock.lock().await;
        let target = self.layout.target(place);
        let shown = self.layout.shown(&target);
        match driver.service.unpublish(&record.handle, &shown).await {
            Ok(()) => {}
            // it knows nothing of it, and nothing is there: as good as done
            Err(status) if status.code == code::NOT_FOUND && !target.exists() => {}
            Err(status) => return Err(status.to_string()),
        }
        if mounts::below(&target).is_ok_and(|m| !m.is_empty()) {
            return Err(format!("{shown} is still mounted"));
        }
        // Staged until no Pod has it; the record goes last, for what fails is found again by it.
        let last = !record.ephemeral() && !self.used_by_another(place, &record).await?;
        if last && driver.abilities.stage {
            self.unstage(&driver, place, &record).await?;
        }
        self.layout.forget(place).map_err(failed)
    }

    async fn used_by_another(&self, place: &Place, record: &Record) -> Result<bool, String> {
        let layout = self.layout.clone();
        let (place, record) = (place.clone(), record.clone());
        blocking(move || {
            let same = |(p, r): &(Place, Record)| {
                *p != place && r.driver == record.driver && r.handle == record.handle
            };
            Ok(layout.all().iter().any(same))
        })
        .await
    }

    async fn unstage(&self, driver: &Driver, place: &Place, record: &Record) -> Result<(), String> {
        let staging =
            self.layout
                .staging(&record.driver, &record.handle, &place.volume, place.block);
        if !staging.exists() {
            return Ok(());
        }
        let shown = self.layout.shown(&staging);
        driver
            .service
            .unstage(&record.handle, &shown)
            .await
            .map_err(|e| format!("UnmountDevice failed: {e}"))?;
        self.staged.lock().remove(&staging);
        if mounts::below(&staging).is_ok_and(|m| !m.is_empty()) {
            return Err(format!("{shown} is still mounted"));
        }
        self.layout
            .forget_staging(&staging)
            .map_err(|e| format!("failed to clean up global mount {shown}: {e}"))
    }
}
