//! Kubernetes controllers on a plain `kube::Client`.
//!
//! It is: Deployment, ReplicaSet, ReplicationController, StatefulSet, DaemonSet, EndpointSlice, Endpoints, garbage collection, namespace deletion, service accounts, a scheduler and a local-path volume provisioner, each runnable against any Kubernetes cluster.
//! It is not: part of knarr's API server or node.
//! It must never know: the store, the runtime, the network.
#![forbid(unsafe_code)]

use std::{path::PathBuf, sync::Arc};

#[derive(Clone)]
pub struct Config {
    /** a new Client per controller (each has its own buffer worker); the argument is the controller's name, used as user agent and field manager */
    pub client: Arc<dyn Fn(&'static str) -> kube::Client + Send + Sync>,
    /** where local-path volumes are made */
    pub volumes_dir: PathBuf,
    /** which to run; None = all */
    pub only: Option<Vec<String>>,
}

/// Runs them all until dropped; a controller that fails is restarted with back-off.
pub async fn run(config: Config) {
    let _ = config;
    todo!()
}
