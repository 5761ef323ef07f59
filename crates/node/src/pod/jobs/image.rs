//! Finding an image by its pull policy, and telling about it in upstream's events.
//!
//! What was made or loaded on this machine is never looked for elsewhere while it is here: `Always` asks the registry anew
//! only for what came from one.
//!
//! Source: kubernetes `pkg/kubelet/images/image_manager.go`, `pkg/kubelet/kuberuntime` (getImageVolumes).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Container, Pod};
use knarr_image::{
    Image,
    client::{Credential, Reference},
};

use tokio::sync::{Notify, SemaphorePermit};

use super::{keyring, start::StartFailure};
use crate::{
    context::Context,
    volumes::{self, Paths},
};

/// However slowly a registry sends: one that stalls is given up long before.
pub(super) const PULL_DEADLINE: Duration = Duration::from_secs(3600);

/// A pull of which nothing has come for so long doesn't hold up those that wait for their turn.
const STALLED: Duration = Duration::from_secs(10);

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
        logins: &[(String, Credential)],
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
        match found {
            // what was made or loaded here has no registry to ask for a newer one
            Ok(Some(image)) if policy != Some("Always") || !image.pulled => {
                let message = format!("Container image {name:?} already present on machine");
                self.event(false, "Pulled", message);
                return Ok(image);
            }
            Ok(None) if policy == Some("Never") => {
                let message =
                    format!("Container image {name:?} is not present with pull policy of Never");
                self.event(true, "ErrImageNeverPull", message.clone());
                return Err(failure("ErrImageNeverPull", name, message));
            }
            // one that is damaged may be brought anew
            Err(error) if policy == Some("Never") => {
                return Err(failure(
                    "ImageInspectError",
                    name,
                    format!("image {name:?}: {error}"),
                ));
            }
            _ => {}
        }
        self.pull(name, logins).await.map_err(|message| {
            let shown = format!("Failed to pull image {name:?}: {message}");
            self.event(true, "Failed", shown);
            failure("ErrImagePull", name, message)
        })
    }

    /// Brings it from its registry, when its turn has come.
    async fn pull(&self, name: &str, logins: &[(String, Credential)]) -> Result<Image, String> {
        let reference = Reference::parse(name).map_err(|e| e.to_string())?;
        self.event(false, "Pulling", format!("Pulling image {name:?}"));
        let asked = Instant::now();
        let turn = self.context.pulls.acquire();
        let turn = turn.await.map_err(|e| e.to_string())?;
        let begun = Instant::now();
        let fitting = keyring::fitting(logins, &reference);
        let moved = Arc::new(Notify::new());
        let images = &self.context.images;
        let pulled = hold(
            turn,
            &moved,
            STALLED,
            images.pull(name, fitting, moved.clone()),
        );
        let pulled = tokio::time::timeout(PULL_DEADLINE, pulled).await;
        let image = pulled.map_err(|_| {
            format!(
                "pulling took longer than {} minutes",
                PULL_DEADLINE.as_secs() / 60
            )
        })??;
        let message = format!(
            "Successfully pulled image {name:?} in {} ({} including waiting). Image size: {} bytes.",
            shown(begun.elapsed()),
            shown(asked.elapsed()),
            image.size_bytes
        );
        self.event(false, "Pulled", message);
        Ok(image)
    }

    /// Makes the image volumes that the container mounts, and adds them to `paths`; gives the digests of the images.
    pub(super) async fn volumes(
        &self,
        container: &Container,
        paths: &mut Paths,
        logins: &[(String, Credential)],
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
            let image = self
                .image(reference, source.pull_policy.as_deref(), logins)
                .await?;
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

    /// The logins that the Pod brings along. Secrets that aren't there are told, and are no obstacle.
    pub(super) async fn pull_secrets(&self) -> Vec<(String, Credential)> {
        let spec = self.pod.spec.as_ref();
        let named = spec.and_then(|s| s.image_pull_secrets.as_ref());
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let (mut logins, mut missing) = (Vec::new(), Vec::new());
        for secret in named.into_iter().flatten() {
            let found = self.context.sources.secret(namespace, &secret.name, true);
            match found.await {
                Ok(Some(data)) => logins.extend(keyring::logins(&data.0).unwrap_or_default()),
                _ => missing.push(secret.name.clone()),
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.event(true, "FailedToRetrieveImagePullSecret", message);
        }
        logins
    }
}

/// Works in its turn, which ends early when nothing comes: the next pull then goes ahead beside it.
async fn hold<T>(
    turn: SemaphorePermit<'_>,
    moved: &Notify,
    patience: Duration,
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            beat = tokio::time::timeout(patience, moved.notified()) => if beat.is_err() {
                break;
            }
        }
    }
    drop(turn);
    work.await
}

/// As Go shows a duration, to the millisecond.
fn shown(time: Duration) -> String {
    let ms = time.as_millis();
    match ms {
        0..1000 => format!("{ms}ms"),
        1000..60_000 => {
            let text = format!("{}.{:03}", ms / 1000, ms % 1000);
            format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => format!("{}m{}s", ms / 60_000, ms % 60_000 / 1000),
    }
}

fn failure(reason: &'static str, image: &str, message: String) -> StartFailure {
    StartFailure::Image {
        reason,
        image: image.into(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn a_pull_that_stalls_lets_the_next_one_pass() {
        let turns = Semaphore::new(1);
        let (end, moved) = (Notify::new(), Notify::new());
        let turn = turns.acquire().await.unwrap();
        let stalled = hold(turn, &moved, Duration::from_millis(1), end.notified());
        let next = async {
            drop(turns.acquire().await.unwrap());
            end.notify_one();
        };
        tokio::join!(stalled, next);
        assert_eq!(turns.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_pull_that_ends_in_time_keeps_its_turn() {
        let turns = Semaphore::new(1);
        let (begun, end, moved) = (Notify::new(), Notify::new(), Notify::new());
        let work = async {
            begun.notify_one();
            end.notified().await;
            turns.available_permits()
        };
        let turn = turns.acquire().await.unwrap();
        let other = async {
            begun.notified().await;
            moved.notify_one();
            end.notify_one();
        };
        let (during, ()) = tokio::join!(hold(turn, &moved, STALLED, work), other);
        assert_eq!((during, turns.available_permits()), (0, 1));
    }
}
