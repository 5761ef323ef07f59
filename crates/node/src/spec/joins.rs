//! Namespaces that a Pod shares with another Pod: Docker's `--network container:NAME` and the like. Kubernetes has no word
//! for them, and they would let a Pod into others that its maker must not enter; so only Docker's own containers have them:
//! who may make one of those is root anyway.

use super::{extras, files};
use crate::{context::Context, engine::ContainerEngine, volumes};
use k8s_openapi::api::core::v1::Pod;
use knarr_runtime::{Sandbox, SandboxSpec, State};
use serde::Deserialize;

/// The namespace of Docker's containers.
const DOCKERS: &str = "docker";

/// UIDs of the Pods whose namespaces a Pod shares; empty: its own.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Joins {
    pub network: String,
    /// with /dev/shm
    pub ipc: String,
    /// the first process that runs there
    pub pid: String,
}

/// Whether the Pod is a container of Docker's, and may have what else is given to nobody.
pub(crate) fn is_dockers(pod: &Pod) -> bool {
    pod.metadata.namespace.as_deref() == Some(DOCKERS)
}

/// What its first container's annotation says.
pub(crate) fn of(pod: &Pod) -> Joins {
    let first = pod.spec.as_ref().and_then(|s| s.containers.first());
    let extras = first.filter(|_| is_dockers(pod));
    // an annotation that can't be read is told when the container is made
    let extras = extras.and_then(|c| extras::of(pod, c).ok());
    extras.map(|e| e.joins).unwrap_or_default()
}

fn other(engine: &dyn ContainerEngine, uid: &str, what: &str) -> Result<Sandbox, String> {
    let labels = &super::build::labels::POD_NAMESPACE;
    let found = engine.sandbox(uid);
    let found = found.filter(|s| s.spec.labels.get(*labels).is_some_and(|n| n == DOCKERS));
    found.ok_or_else(|| format!("cannot join {what} namespace of a non running container"))
}

impl Joins {
    /// The sandbox, with what it shares in place of what it would have.
    pub(crate) fn apply(
        &self,
        engine: &dyn ContainerEngine,
        spec: &mut SandboxSpec,
    ) -> Result<(), String> {
        if !self.network.is_empty() {
            let other = other(engine, &self.network, "network")?;
            match other.spec.host_network {
                true => spec.host_network = true,
                false => spec.net_of = Some(self.network.clone()),
            }
        }
        if !self.ipc.is_empty() {
            let other = other(engine, &self.ipc, "IPC")?;
            match other.spec.host_ipc {
                true => spec.host_ipc = true,
                false => spec.ipc_of = Some(self.ipc.clone()),
            }
        }
        Ok(())
    }

    /// The running container whose processes are seen, if one's are.
    pub(crate) fn target(&self, engine: &dyn ContainerEngine) -> Result<Option<String>, String> {
        if self.pid.is_empty() {
            return Ok(None);
        }
        other(engine, &self.pid, "PID")?;
        let mut all = engine.containers_in(&self.pid).into_iter();
        let runs = |id: &String| {
            let state = engine.container(id).map(|c| c.state);
            matches!(state, Some(State::Running { .. }))
        };
        let found = all.find(runs);
        let none = || "cannot join PID namespace of a non running container".to_owned();
        found.ok_or_else(none).map(Some)
    }

    /// Gives the Pod the files of the one whose network it shares: what is written to one is read in both. Blocking.
    pub(crate) fn share_files(&self, context: &Context, uid: &str) -> Result<(), String> {
        let etc = |uid: &str| volumes::pod_dir(&context.data_dir, uid).join(files::ETC);
        let (theirs, ours) = (etc(&self.network), etc(uid));
        let failed = |e: std::io::Error| format!("cannot share the pod's files: {e}");
        std::fs::create_dir_all(&ours).map_err(failed)?;
        for name in ["hosts", "hostname", "resolv.conf"] {
            // the other may be gone by the next start of the node
            if !ours.join(name).exists() {
                std::fs::hard_link(theirs.join(name), ours.join(name)).map_err(failed)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_dockers_containers_share_namespaces() {
        for (namespace, wanted) in [("docker", "u"), ("shop", ""), ("", "")] {
            let extras = r#"{"joins":{"network":"u"}}"#;
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"namespace": namespace, "annotations": {"knarr.dev/container.c": extras}},
                "spec": {"containers": [{"name": "c"}]},
            }))
            .unwrap();
            assert_eq!(of(&pod).network, wanted, "{namespace}");
        }
    }
}
