//! Bringing a driver's volume into a Pod.
//!
//! Source: kubernetes `pkg/volume/csi/{csi_attacher,csi_mounter,csi_block}.go`.

use std::{path::Path, time::Duration};

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, CSIVolumeSource, PersistentVolume, SecretReference,
};

use super::{
    Csi, objects,
    objects::{NotAttached, Rules},
    proto::Map,
    record::{self, Place, Record},
    rpc::Status,
    service::{Publish, Usage},
};
use crate::volumes::{ATTACH_LIMIT, Request, Source, blocking, ownership::Group};

/// How long a Pod waits for a driver or an attacher before it tries again from the start.
const PATIENCE: Duration = Duration::from_secs(20);
/// A driver that wants to be asked again and again is asked so often.
pub(crate) const REPUBLISH: Duration = Duration::from_secs(60);

/// A volume, whatever its kind.
pub(crate) struct Volume<'a> {
    pub place: Place,
    pub driver: &'a str,
    pub handle: String,
    pub usage: Usage,
    pub read_only: bool,
    pub attributes: Map,
    /// None: inline
    pub persistent: Option<&'a CSIPersistentVolumeSource>,
    pub publish_secret: Option<SecretReference>,
    /// ReadWriteOnce is among the volume's modes, or it is inline
    once: bool,
}

impl<'a> Volume<'a> {
    pub(crate) fn persistent(
        uid: &str,
        name: &str,
        volume: &'a PersistentVolume,
        source: &'a CSIPersistentVolumeSource,
        read_only: bool,
    ) -> Volume<'a> {
        let spec = volume.spec.as_ref();
        let modes = spec
            .and_then(|s| s.access_modes.as_deref())
            .unwrap_or_default();
        let block = spec.and_then(|s| s.volume_mode.as_deref()) == Some("Block");
        let options = spec.and_then(|s| s.mount_options.clone());
        Volume {
            place: Place {
                uid: uid.to_owned(),
                volume: name.to_owned(),
                block,
            },
            driver: &source.driver,
            handle: source.volume_handle.clone(),
            usage: Usage {
                block,
                fs_type: source.fs_type.clone().unwrap_or_default(),
                mount_flags: options.unwrap_or_default(),
                mount_group: None,
                access_mode: modes.first().cloned().unwrap_or_default(),
            },
            read_only: read_only || source.read_only.unwrap_or(false),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            persistent: Some(source),
            publish_secret: source.node_publish_secret_ref.clone(),
            once: modes
                .iter()
                .any(|m| m == "ReadWriteOnce" || m == "ReadWriteOncePod"),
        }
    }

    pub(crate) fn inline(
        uid: &str,
        namespace: &str,
        name: &str,
        source: &'a CSIVolumeSource,
    ) -> Volume<'a> {
        let secret = source.node_publish_secret_ref.as_ref();
        Volume {
            place: Place {
                uid: uid.to_owned(),
                volume: name.to_owned(),
                block: false,
            },
            driver: &source.driver,
            handle: record::inline_handle(uid, name),
            usage: Usage {
                fs_type: source.fs_type.clone().unwrap_or_default(),
                ..Usage::default()
            },
            read_only: source.read_only.unwrap_or(false),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            persistent: None,
            publish_secret: secret.map(|s| SecretReference {
                name: Some(s.name.clone()),
                namespace: Some(namespace.to_owned()),
            }),
            once: true,
        }
    }

    /// Whether it's for the node to apply fsGroup.
    fn wants_group(&self, policy: &str) -> bool {
        match policy {
            _ if self.read_only || self.place.block => false,
            "None" => false,
            "File" => true,
            _ => !self.usage.fs_type.is_empty() && self.once,
        }
    }
}

impl Csi {
    /// Brings the volume in, or finds it there; the time after which to come again, for drivers that ask for it.
    pub(crate) async fn mount(
        &self,
        request: &Request<'_>,
        mut volume: Volume<'_>,
        group: Option<Group>,
    ) -> Result<(Source, Option<Duration>), String> {
        let client = &request.context.client;
        let source = Source {
            path: self.layout.target(&volume.place),
            read_only: volume.read_only,
            device: volume.place.block,
        };
        let rules = Rules::read(client, volume.driver).await?;
        let again = rules.republish().then_some(REPUBLISH);
        let key = Csi::key(&volume.place);
        let place = volume.place.clone();
        let before = self.layout.read(&place).is_some_and(|r| r.published);
        if before && again.is_none() && present(&source.path) {
            self.published.lock().entry(key).or_insert(0);
            return Ok((source, None));
        }
        let waiting = self.drivers.find(volume.driver, PATIENCE);
        let driver = request
            .unless_stopped(waiting)
            .await?
            .map_err(|e| format!("failed to get CSI client: {e}"))?;
        let lifecycle = if volume.persistent.is_some() {
            "Persistent"
        } else {
            "Ephemeral"
        };
        rules.supports(volume.driver, lifecycle)?;
        let mut attachment = String::new();
        let mut publish_context = Map::new();
        if volume.persistent.is_some() && rules.attach_required() {
            let node = &request.context.name;
            attachment = record::attachment(&volume.handle, volume.driver, node);
            let unique = record::unique(volume.driver, &volume.handle);
            let waiting = objects::attached(client, node, &unique, &attachment, PATIENCE);
            let waiting = Box::pin(waiting);
            publish_context = match request.unless_stopped(waiting).await? {
                Ok(context) => context,
                Err(NotAttached::Other(error)) => return Err(error),
                Err(NotAttached::Full) => {
                    if !rules.limit_changes() {
                        return Err(format!(
                            "volume attachment {attachment} is not attached: the node has no room"
                        ));
                    }
                    driver.full.notify_one();
                    return Err(ATTACH_LIMIT.into());
                }
            };
        }
        if driver.abilities.mount_group {
            volume.usage.mount_group = group.map(|g| g.gid);
        }

        let lock = self.lock(volume.driver, &volume.handle);
        let _one_at_a_time = lock.lock().await;
        let record = Record {
            volume: volume.place.volume.clone(),
            handle: volume.handle.clone(),
            driver: volume.driver.to_owned(),
            node_name: request.context.name.clone(),
            attachment,
            lifecycle: lifecycle.to_owned(),
            published: before,
        };
        self.layout
            .write(&volume.place, &record)
            .map_err(|e| format!("failed to save volume info data: {e}"))?;
        if !record.attachment.is_empty() {
            self.report(request.context).await?;
        }
        let mut what = Publish {
            volume: &volume.handle,
            publish_context,
            usage: volume.usage.clone(),
            context: volume.attributes.clone(),
            ..Publish::default()
        };
        let staging = match volume.persistent.filter(|_| driver.abilities.stage) {
            Some(source) => {
                let staging = self.layout.staging(
                    volume.driver,
                    &volume.handle,
                    &volume.place.volume,
                    volume.place.block,
                );
                let staged = self.staged.lock().contains(&staging);
                if !staged {
                    what.secrets = objects::secrets(
                        client,
                        source.node_stage_secret_ref.as_ref(),
                        "NodeStageSecretRef",
                    )
                    .await?;
                    record::make(&staging).map_err(|e| format!("{}: {e}", staging.display()))?;
                    let shown = self.layout.shown(&staging);
                    let asked = driver.service.stage(&what, &shown, driver.abilities).await;
                    if let Err(status) = asked {
                        self.undo(&volume.place, Some(&staging), &status);
                        return Err(format!("MountDevice failed: {status}"));
                    }
                    self.staged.lock().insert(staging.clone());
                }
                Some(staging)
            }
            None => None,
        };

        what.secrets = objects::secrets(
            client,
            volume.publish_secret.as_ref(),
            "NodePublishSecretRef",
        )
        .await?;
        if rules.pod_info() {
            let info = objects::pod_info(request.pod, volume.persistent.is_none());
            what.context.extend(info);
        }
        if !volume.place.block
            && let Some((tokens, secret)) = rules.tokens(client, request.pod).await?
        {
            if secret {
                what.secrets.extend(tokens);
            } else {
                what.context.extend(tokens);
            }
        }
        let shown = self.layout.shown(&source.path);
        let staging_shown = staging.as_ref().map(|s| self.layout.shown(s));
        what.staging = staging_shown.as_deref().map(Path::new);
        what.target = &shown;
        what.read_only = volume.read_only;
        if let Err(status) = driver.service.publish(&what, driver.abilities).await {
            if !before {
                self.undo(&volume.place, None, &status);
            }
            return Err(status.to_string());
        }
        if let Some(group) = group
            && !driver.abilities.mount_group
            && volume.wants_group(&rules.group_policy())
        {
            let dir = source.path.clone();
            blocking(move || group.own(&dir, false).map_err(|e| e.to_string()))
                .await
                .map_err(|e| format!("applyFSGroup failed for vol {}: {e}", volume.handle))?;
        }
        let record = Record {
            published: true,
            ..record
        };
        self.layout
            .write(&volume.place, &record)
            .map_err(|e| format!("failed to save volume info data: {e}"))?;
        self.published.lock().entry(key).or_insert(0);
        Ok((source, again))
    }

    /// What was made for a call that has failed for sure goes; what may still come to be is for the teardown.
    fn undo(&self, place: &Place, staging: Option<&Path>, status: &Status) {
        if status.unfinished() {
            return;
        }
        if let Some(staging) = staging {
            let _ = self.layout.forget_staging(staging);
            let _ = self.layout.forget(place);
        }
    }
}

/// There, be it a mount or a device's file; only a look, as a hanging file system may be behind it.
fn present(path: &Path) -> bool {
    crate::volumes::mounts::below(path).is_ok_and(|found| !found.is_empty())
        || std::fs::symlink_metadata(path).is_ok_and(|m| {
            use std::os::unix::fs::FileTypeExt;
            m.file_type().is_block_device() || m.file_type().is_symlink()
        })
}
