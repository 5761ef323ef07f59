//! Starting one container: image, specification, process.

use std::{net::IpAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LinuxContainerUser, Pod};
use knarr_runtime::State as RuntimeState;
use tokio_util::sync::CancellationToken;

use super::{Done, image::Asker, time};
use crate::{
    context::Context,
    pod::{resize::amounts::Amounts, state},
    spec::build,
    turns::For,
    volumes::Paths,
};

const START_DEADLINE: Duration = Duration::from_secs(120);

pub(crate) struct StartedContainer {
    pub id: Box<str>,
    pub since: Timestamp,
    pub image: Box<str>,
    pub image_id: Box<str>,
    /// what it may use
    pub amounts: Amounts,
    pub user: Box<LinuxContainerUser>,
}

/// The groups begin with the primary one, as containerd tells them.
pub(crate) fn linux_user(user: &knarr_runtime::User) -> LinuxContainerUser {
    let groups = std::iter::once(user.gid).chain(user.additional_gids.iter().copied());
    LinuxContainerUser {
        uid: user.uid.into(),
        gid: user.gid.into(),
        supplemental_groups: Some(groups.map(i64::from).collect()),
    }
}

pub(crate) enum StartFailure {
    /// the image can't be had
    Image {
        reason: &'static str,
        /// its name in the Pod
        image: String,
        message: String,
    },
    /// nothing was made
    Config {
        reason: &'static str,
        message: String,
    },
    /// the Pod is to stop, and its turn had not come
    Stopped,
    /// a container was made and its process couldn't be started
    Run {
        id: Box<str>,
        message: String,
        image: Box<str>,
        image_id: Box<str>,
    },
}

pub(crate) struct StartRequest {
    pub context: Arc<Context>,
    pub pod: Arc<Pod>,
    pub index: usize,
    pub attempt: u32,
    pub paths: Arc<Paths>,
    pub pod_ip: Option<IpAddr>,
    /// the runtime's id of the running container that an ephemeral one names as its target
    pub target: Option<Box<str>>,
    /// the container of the attempt before, to be removed
    pub old: Option<Box<str>>,
    /// the Pod is to stop: nothing new begins
    pub stop: CancellationToken,
}

pub(crate) async fn start(request: StartRequest) -> Done {
    let (index, attempt) = (request.index, request.attempt);
    Done::Started {
        index,
        attempt,
        result: make_container(request).await,
    }
}

fn late() -> StartFailure {
    StartFailure::Config {
        reason: "CreateContainerError",
        message: format!(
            "starting the container took longer than {} s",
            START_DEADLINE.as_secs()
        ),
    }
}

async fn make_container(request: StartRequest) -> Result<StartedContainer, StartFailure> {
    let StartRequest {
        context,
        pod,
        index,
        attempt,
        paths,
        pod_ip,
        target,
        old,
        stop,
    } = request;
    let config = |message: String| StartFailure::Config {
        reason: "CreateContainerConfigError",
        message,
    };
    let kind = state::containers(&pod).nth(index).map(|(kind, _)| kind);
    let container =
        state::container_at(&pod, index).ok_or_else(|| config("no such container".into()))?;
    if let (Some(wanted), None) = (state::target(&pod, &container.name), &target) {
        return Err(config(format!("unable to find target container {wanted}")));
    }
    let field = kind.map(|k| state::field_path(k, &container.name));
    let event = |reason: &'static str, message: String| {
        context
            .events
            .pod(&pod, field.clone(), false, reason, message);
    };

    let name = container.image.clone().unwrap_or_default();
    let asker = Asker {
        context: &context,
        pod: &pod,
        field: field.clone(),
    };
    let mut paths = (*paths).clone();
    let prepared = async {
        asker.pull_secrets().await;
        let policy = container.image_pull_policy.as_deref();
        let image = asker.image(&name, policy).await?;
        let image_volumes = asker.volumes(&container, &mut paths).await?;
        Ok((image, image_volumes))
    };
    let prepared = tokio::time::timeout(START_DEADLINE, prepared).await;
    let (image, image_volumes) = prepared.unwrap_or_else(|_| Err(late()))?;
    let id: String = hex::encode(rand::random::<[u8; 16]>());
    let turn = if attempt == 0 { For::First } else { For::Again };
    let work = async {
        if let Some(old) = old {
            let failed = |e| StartFailure::Config {
                reason: "CreateContainerError",
                message: e,
            };
            context.engine.delete(&old).await.map_err(failed)?;
        }
        let spec = build::spec(build::Request {
            context: &context,
            pod: &pod,
            container: &container,
            id: id.clone(),
            attempt,
            image: &image,
            paths: &paths,
            pod_ip,
            target: target.map(String::from),
            image_volumes,
        })
        .await
        .map_err(config)?;
        let amounts = Amounts::effective(&pod, &container);
        let image_id = build::image_id(&image).into();
        let image = image.name.into_boxed_str();
        event("Created", format!("Created container: {}", container.name));
        match context.engine.run(spec).await {
            Ok(made) => {
                let since = match &made.state {
                    RuntimeState::Running { since, .. } => time(*since),
                    RuntimeState::Exited {
                        since: Some(since), ..
                    } => time(*since),
                    RuntimeState::Failed(message) => {
                        return Err(StartFailure::Run {
                            id: id.as_str().into(),
                            message: message.clone(),
                            image,
                            image_id,
                        });
                    }
                    _ => Timestamp::now(),
                };
                event("Started", format!("Started container {}", container.name));
                Ok(StartedContainer {
                    id: id.as_str().into(),
                    since,
                    image,
                    image_id,
                    amounts,
                    user: Box::new(linux_user(&made.spec.user)),
                })
            }
            Err(message) => Err(StartFailure::Run {
                id: id.as_str().into(),
                message,
                image,
                image_id,
            }),
        }
    };
    let in_time = async {
        match tokio::time::timeout(START_DEADLINE, work).await {
            Ok(result) => result,
            Err(_) => {
                // Whatever came of it must not run beside the next attempt.
                let work = context.engine.delete(&id);
                let removed = tokio::time::timeout(START_DEADLINE, work).await;
                if !matches!(removed, Ok(Ok(()))) {
                    tracing::warn!(%id, "a container that was not started in time could not be removed, either");
                }
                Err(late())
            }
        }
    };
    let done = context.turns.run(turn, &stop, in_time).await;
    done.unwrap_or(Err(StartFailure::Stopped))
}
