//! Starting one container: image, specification, process.

use std::{net::IpAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, LinuxContainerUser, Pod};
use knarr_runtime::{ContainerSpec, State as RuntimeState};
use tokio_util::sync::CancellationToken;

use super::{
    Done,
    image::{Asker, PULL_DEADLINE},
    time,
};
use crate::{
    context::Context,
    pod::{resize::amounts::Amounts, state},
    spec::{apparmor, build, joins},
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

/// The AppArmor profile of the container; empty: none.
async fn profile(
    context: &Context,
    pod: &Arc<Pod>,
    container: &Container,
) -> Result<String, StartFailure> {
    if !apparmor::matters(pod, &context.app_armor) {
        return Ok(String::new());
    }
    let (host, pod, container) = (context.app_armor.clone(), pod.clone(), container.clone());
    let work = tokio::task::spawn_blocking(move || apparmor::wanted(&pod, &container, &host));
    let wanted = work
        .await
        .unwrap_or_else(|e| Err(format!("a file task failed: {e}")));
    let failed = |message| StartFailure::Config {
        reason: "CreateContainerError",
        message,
    };
    wanted.map(Option::unwrap_or_default).map_err(failed)
}

/// The container with the devices of its claims.
async fn with_devices(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    container: &Container,
    mut spec: ContainerSpec,
) -> Result<ContainerSpec, StartFailure> {
    let resources = container.resources.as_ref();
    if resources.is_none_or(|r| r.claims.as_ref().is_none_or(Vec::is_empty)) {
        return Ok(spec);
    }
    let (context, pod, container) = (context.clone(), pod.clone(), container.clone());
    let work = tokio::task::spawn_blocking(move || {
        context.devices.inject(&pod, &container, &mut spec)?;
        Ok(spec)
    });
    let done = work
        .await
        .unwrap_or_else(|e| Err(format!("a file task failed: {e}")));
    done.map_err(|message| StartFailure::Config {
        reason: "CreateContainerError",
        message,
    })
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
    let target = match joins::of(&pod).target(&*context.engine) {
        Ok(joined) => joined.map(String::into_boxed_str).or(target),
        Err(why) => return Err(config(why)),
    };
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
        let logins = asker.pull_secrets().await;
        let policy = container.image_pull_policy.as_deref();
        let image = asker.image(&name, policy, &logins).await?;
        let image_volumes = asker.volumes(&container, &mut paths, &logins).await?;
        Ok((image, image_volumes))
    };
    let prepared = tokio::time::timeout(START_DEADLINE + PULL_DEADLINE, prepared);
    // a Pod that goes doesn't wait for what a registry may never send
    let prepared = stop.run_until_cancelled(prepared);
    let (turn, prepared) = match attempt {
        0 => (For::First, prepared.await),
        _ => {
            let looked = context.turns.run(For::Look, &stop, prepared).await;
            (For::Again, looked.flatten())
        }
    };
    let prepared = prepared.ok_or(StartFailure::Stopped)?;
    let (image, image_volumes) = prepared.unwrap_or_else(|_| Err(late()))?;
    let id: String = hex::encode(rand::random::<[u8; 16]>());
    let work = async {
        if let Some(old) = old {
            let failed = |e| StartFailure::Config {
                reason: "CreateContainerError",
                message: e,
            };
            context.engine.delete(&old).await.map_err(failed)?;
        }
        let app_armor = profile(&context, &pod, &container).await?;
        let mut spec = build::spec(build::Request {
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
        spec.apparmor = app_armor;
        let spec = with_devices(&context, &pod, &container, spec).await?;
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
