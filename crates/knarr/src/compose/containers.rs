//! The containers of a project, as Compose thinks of them: a container of a Pod each.

use super::Target;
use crate::error::Error;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod},
    jiff::Timestamp,
};
use knarr_image::ImageConfig;
use kube::{Api, ResourceExt, api::ListParams};

/// The label of a container that `run` made.
pub const ONE_OFF: &str = "compose.knarr.dev/oneoff";
/// The service that a container belongs to, where labels can't say it as the file writes it.
const NAME: &str = "app.kubernetes.io/name";

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It waits for its image, or for its turn.
    Created,
    Running,
    /// Its processes are held.
    Paused,
    /// It ended, and will start again.
    Restarting,
    Exited(i32),
}

/// A container of a service.
#[derive(Debug, Clone)]
pub struct Container {
    /// `SERVICE-1`, counted from the oldest.
    pub index: usize,
    pub service: String,
    /// In its Pod.
    pub name: String,
    pub pod: Pod,
    pub state: State,
    pub one_off: bool,
}

impl Container {
    pub fn pod_name(&self) -> String {
        self.pod.name_any()
    }

    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    pub fn status(&self) -> Option<&ContainerStatus> {
        let all = self.pod.status.as_ref()?.container_statuses.as_ref()?;
        all.iter().find(|s| s.name == self.name)
    }

    /// The runtime's id; empty: it hasn't been made.
    pub fn id(&self) -> String {
        let id = self.status().and_then(|s| s.container_id.as_deref());
        let id = id.unwrap_or_default();
        id.rsplit_once("//").map_or(id, |(_, id)| id).to_string()
    }

    pub fn image(&self) -> String {
        let spec = self.pod.spec.iter().flat_map(|s| &s.containers);
        let mut own = spec.filter(|c| c.name == self.name);
        own.next().and_then(|c| c.image.clone()).unwrap_or_default()
    }

    /// The image's name as the file has it, where it has one.
    pub fn image_name(&self) -> String {
        let image = self.image();
        let named = image.split_once('@').filter(|(name, _)| {
            name.rsplit('/')
                .next()
                .is_some_and(|last| last.contains(':'))
        });
        named.map_or(image.clone(), |(name, _)| name.to_string())
    }

    /// The words it runs: those of the file, and for the rest the image's, where that is known.
    pub fn command(&self, image: Option<&ImageConfig>) -> Vec<String> {
        let spec = self.pod.spec.iter().flat_map(|s| &s.containers);
        let own = spec.filter(|c| c.name == self.name).map(|c| {
            let (command, args) = (c.command.as_deref(), c.args.as_deref());
            words(command.unwrap_or_default(), args.unwrap_or_default(), image)
        });
        own.flatten().collect()
    }

    /// `healthy`, `unhealthy` or `starting`; empty: it has no check.
    pub fn health(&self) -> &'static str {
        let spec = self.pod.spec.iter().flat_map(|s| &s.containers);
        let mut own = spec.filter(|c| c.name == self.name);
        let checked = own.any(|c| c.readiness_probe.is_some());
        let Some(status) = self.status().filter(|_| checked && self.is_running()) else {
            return "";
        };
        match (status.ready, status.started) {
            (true, _) => "healthy",
            (false, Some(true)) => "unhealthy",
            (false, _) => "starting",
        }
    }

    /// When it began, or ended.
    pub fn since(&self) -> Option<Timestamp> {
        let state = self.status()?.state.as_ref()?;
        let ended = state
            .terminated
            .as_ref()
            .and_then(|t| t.finished_at.as_ref());
        let began = state.running.as_ref().and_then(|r| r.started_at.as_ref());
        ended.or(began).map(|t| t.0)
    }

    pub fn created(&self) -> Option<Timestamp> {
        self.pod.metadata.creation_timestamp.as_ref().map(|t| t.0)
    }
}

/// What a container's status says of it.
pub fn state(pod: &Pod, status: Option<&ContainerStatus>) -> State {
    let restarts = pod
        .spec
        .as_ref()
        .and_then(|s| s.restart_policy.as_deref())
        .unwrap_or("Always");
    let Some(state) = status.and_then(|s| s.state.as_ref()) else {
        return State::Created;
    };
    if state.running.is_some() {
        return State::Running;
    }
    if let Some(ended) = &state.terminated {
        let name = status.map(|s| s.name.as_str()).unwrap_or_default();
        let own = pod.annotations().get(&format!("restart.knarr.dev/{name}"));
        if ended.exit_code == 0 && own.is_some_and(|own| own.starts_with("on-failure")) {
            return State::Exited(0);
        }
        return match restarts {
            "Always" => State::Restarting,
            "OnFailure" if ended.exit_code != 0 => State::Restarting,
            _ => State::Exited(ended.exit_code),
        };
    }
    let before = status.and_then(|s| s.last_state.as_ref()?.terminated.as_ref());
    match before {
        Some(_) => State::Restarting,
        None => State::Created,
    }
}

/// All containers of the project, or those of some services; a service's are in order of their age.
///
/// # Errors
/// When the platform doesn't answer.
pub async fn containers(target: &Target, services: &[String]) -> Result<Vec<Container>, Error> {
    target.known(services)?;
    let pods: Api<Pod> = Api::namespaced(target.client.clone(), &target.namespace);
    let mut pods = pods.list(&ListParams::default()).await?.items;
    pods.sort_by_key(|p| {
        (
            p.metadata.creation_timestamp.clone().map(|t| t.0),
            p.name_any(),
        )
    });
    let mut all: Vec<Container> = Vec::new();
    for pod in pods {
        let leaves = pod.metadata.deletion_timestamp.is_some() || is_replaced(&pod);
        let Some(spec) = &pod.spec else { continue };
        for container in &spec.containers {
            let service = service_of(target, &pod, &container.name);
            let status = pod
                .status
                .as_ref()
                .and_then(|s| s.container_statuses.as_ref())
                .and_then(|all| all.iter().find(|s| s.name == container.name));
            let state = state(&pod, status);
            // What a rollout takes away is no longer the project's.
            if leaves || !(services.is_empty() || services.contains(&service)) {
                continue;
            }
            let one_off = pod.labels().contains_key(ONE_OFF);
            let before = all.iter();
            let index = 1 + before
                .filter(|c| c.service == service && c.one_off == one_off)
                .count();
            all.push(Container {
                index,
                service,
                name: container.name.clone(),
                pod: pod.clone(),
                state,
                one_off,
            });
        }
    }
    Ok(all)
}

/// A Pod that the node has given up, and that another has taken the place of.
fn is_replaced(pod: &Pod) -> bool {
    let failed = pod
        .status
        .as_ref()
        .is_some_and(|s| s.phase.as_deref() == Some("Failed"));
    let mut owners = pod.owner_references().iter();
    failed && owners.any(|o| matches!(&*o.kind, "ReplicaSet" | "DaemonSet"))
}

/// The service's name as the file writes it; without a file, the container's.
fn service_of(target: &Target, pod: &Pod, container: &str) -> String {
    if let Some(service) = pod.labels().get(ONE_OFF) {
        return service.clone();
    }
    let services = target.project.iter().flat_map(|p| p.services.keys());
    let mut own = services.filter(|s| knarr_compose::object_name(s) == container);
    let label = pod.labels().get(NAME);
    let several = pod.spec.as_ref().is_some_and(|s| s.containers.len() > 1);
    let plain = match label {
        Some(label) if !several => label.clone(),
        _ => container.to_string(),
    };
    own.next().cloned().unwrap_or(plain)
}

/// The container that is meant by a service and perhaps a number; one that runs.
///
/// # Errors
/// When none does.
pub async fn running(target: &Target, service: &str, index: usize) -> Result<Container, Error> {
    let all = containers(target, &[service.to_string()]).await?;
    let wanted = |c: &&Container| !c.one_off && c.is_running();
    let found = match index {
        0 => all.iter().find(wanted),
        n => all.iter().filter(wanted).find(|c| c.index == n),
    };
    let found =
        found.ok_or_else(|| Error::Failed(format!("service \"{service}\" is not running")))?;
    match super::held::held().contains(&found.id()) {
        true => Err(Error::Failed(format!(
            "Container {} is paused, unpause the container first",
            found.pod_name()
        ))),
        false => Ok(found.clone()),
    }
}

/// SOURCE: Kubernetes, "Define a Command and Arguments for a Container": a command takes the image's place whole, arguments
/// that of its `CMD`.
fn words(command: &[String], args: &[String], image: Option<&ImageConfig>) -> Vec<String> {
    let of_image = |list: fn(&ImageConfig) -> &Vec<String>| image.map_or(&[][..], |i| list(i));
    let (first, then) = match (command.is_empty(), args.is_empty()) {
        (false, _) => (command, args),
        (true, false) => (of_image(|i| &i.entrypoint), args),
        (true, true) => (of_image(|i| &i.entrypoint), of_image(|i| &i.cmd)),
    };
    first.iter().chain(then).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_it_runs() {
        let all =
            |text: &str| -> Vec<String> { text.split_whitespace().map(String::from).collect() };
        let image = ImageConfig {
            entrypoint: all("/entry"),
            cmd: all("serve -v"),
            ..ImageConfig::default()
        };
        for (case, command, args, known, want) in [
            ("the image's", "", "", true, "/entry serve -v"),
            (
                "arguments of its own",
                "",
                "migrate",
                true,
                "/entry migrate",
            ),
            ("a command of its own", "sh", "-c true", true, "sh -c true"),
            ("without its image", "", "", false, ""),
            (
                "arguments without the image",
                "",
                "migrate",
                false,
                "migrate",
            ),
        ] {
            let got = words(&all(command), &all(args), known.then_some(&image));
            assert_eq!(got, all(want), "{case}");
        }
    }

    #[test]
    fn what_a_container_does() {
        for (name, policy, status, expected) in [
            ("no status", "Always", json!(null), State::Created),
            (
                "waits",
                "Always",
                json!({"state": {"waiting": {"reason": "ContainerCreating"}}}),
                State::Created,
            ),
            (
                "runs",
                "Always",
                json!({"state": {"running": {}}}),
                State::Running,
            ),
            (
                "waits to start again",
                "Always",
                json!({"state": {"waiting": {}}, "lastState": {"terminated": {"exitCode": 1}}}),
                State::Restarting,
            ),
            (
                "ended, never again",
                "Never",
                json!({"state": {"terminated": {"exitCode": 3}}}),
                State::Exited(3),
            ),
            (
                "ended well",
                "OnFailure",
                json!({"state": {"terminated": {"exitCode": 0}}}),
                State::Exited(0),
            ),
            (
                "ended badly",
                "OnFailure",
                json!({"state": {"terminated": {"exitCode": 2}}}),
                State::Restarting,
            ),
        ] {
            let mut status = status;
            if !status.is_null() {
                for (key, value) in [
                    ("name", json!("c")),
                    ("image", json!("i")),
                    ("imageID", json!("")),
                    ("ready", json!(true)),
                    ("restartCount", json!(0)),
                ] {
                    status[key] = value;
                }
            }
            let statuses = if status.is_null() {
                json!([])
            } else {
                json!([status])
            };
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "p"}, "spec": {"restartPolicy": policy, "containers": [{"name": "c"}]},
                "status": {"containerStatuses": statuses},
            }))
            .unwrap();
            let status = pod
                .status
                .as_ref()
                .unwrap()
                .container_statuses
                .as_ref()
                .unwrap()
                .first();
            assert_eq!(state(&pod, status), expected, "{name}");
        }
    }
}
