//! Finding an image by its pull policy, and telling about it in upstream's events.
//!
//! Images come from the store of this machine, which stands for the registry: `Always` asks it anew with each start, as
//! every policy does. What it hasn't got can't be pulled.
//!
//! Source: kubernetes `pkg/kubelet/images/image_manager.go`, `pkg/kubelet/kuberuntime` (getImageVolumes).

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use knarr_image::Image;

use super::start::StartFailure;
use crate::{
    context::Context,
    volumes::{self, Paths},
};

/// Who asks: the Pod, and the container that the events name.
pub(super) struct Asker<'a> {
    pub context: &'a Arc<Context>,
    pub pod: &'a Pod,
    pub field: Option<String>,
}

impl Asker<'_> {
    fn event(&self, warning: bool, reason: &'static str, message: String) {
        let events = &self.context.events;
        events.pod(self.pod, self.field.clone(), warning, reason, message);
    }

    /// The image of this name.
    pub(super) async fn image(
        &self,
        name: &str,
        policy: Option<&str>,
    ) -> Result<Image, StartFailure> {
        if let Err(error) = knarr_image::normalize(name) {
            let message = format!(
                "Failed to apply default image tag {name:?}: couldn't parse image name {name:?}: {error}"
            );
            self.event(true, "InspectFailed", message.clone());
            return Err(failure("InvalidImageName", name, message));
        }
        let images = self.context.images.clone();
        let owned = name.to_owned();
        let found = tokio::task::spawn_blocking(move || images.resolve(&owned))
            .await
            .unwrap_or_else(|e| Err(e.to_string()));
        let message = match found {
            Ok(Some(image)) => {
                let message = format!("Container image {name:?} already present on machine");
                self.event(false, "Pulled", message);
                return Ok(image);
            }
            Ok(None) if policy == Some("Never") => {
                let message = format!(
                    "Container image {name:?} is not present with pull policy of Never: add it with `knarr image load` or `knarr image pack`"
                );
                self.event(true, "ErrImageNeverPull", message.clone());
                return Err(failure("ErrImageNeverPull", name, message));
            }
            Ok(None) => format!(
                "image {name:?} is not on this machine, and this node does not pull from registries: add it with `knarr image load <archive>` or `knarr image pack`"
            ),
            Err(error) => format!("image {name:?}: {error}"),
        };
        let shown = format!("Failed to pull image {name:?}: {message}");
        self.event(true, "Failed", shown);
        Err(failure("ErrImagePull", name, message))
    }

    /// Makes the image volumes that the container mounts, and adds them to `paths`; gives the digests of the images.
    pub(super) async fn volumes(
        &self,
        container: &Container,
        paths: &mut Paths,
    ) -> Result<Vec<String>, StartFailure> {
        let mut digests = Vec::new();
        let spec = self.pod.spec.as_ref();
        let volumes = spec.and_then(|s| s.volumes.as_ref());
        for volume in volumes.into_iter().flatten() {
            let Some(source) = &volume.image else {
                continue;
            };
            let mut mounts = container.volume_mounts.iter().flatten();
            if !mounts.any(|m| m.name == volume.name) {
                continue;
            }
            let reference = source.reference.as_deref().unwrap_or_default();
            let image = self.image(reference, source.pull_policy.as_deref()).await?;
            let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
            let made = volumes::image(&self.context.data_dir, uid, &volume.name, image.layers);
            let found = made.await.map_err(|error| StartFailure::Config {
                reason: "CreateContainerError",
                message: format!("mount of image volume {:?} failed: {error}", volume.name),
            })?;
            paths.insert(volume.name.as_str().into(), found);
            digests.push(image.digest);
        }
        Ok(digests)
    }

    /// Secrets for registries that aren't there are told, and are no obstacle.
    pub(super) async fn pull_secrets(&self) {
        let spec = self.pod.spec.as_ref();
        let named = spec.and_then(|s| s.image_pull_secrets.as_ref());
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut missing = Vec::new();
        for secret in named.into_iter().flatten() {
            let found = self.context.sources.secret(namespace, &secret.name, true);
            if !matches!(found.await, Ok(Some(_))) {
                missing.push(secret.name.clone());
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.event(true, "FailedToRetrieveImagePullSecret", message);
        }
    }
}

fn failure(reason: &'static str, image: &str, message: String) -> StartFailure {
    StartFailure::Image {
        reason,
        image: image.into(),
        message,
    }
}
