//! Docker's Engine API, so that `docker` and `docker compose` work against the platform.
//!
//! It is: Docker's requests turned into Pods, images and folders, and their states turned into Docker's answers.
//! It is not: an engine: the node runs the containers, the image store keeps the images.
//! It must never know: the store, the runtime, the kernel.
//!
//! # What a Docker container is here
//!
//! One Pod with one container in the namespace [`NAMESPACE`]. Docker's own request, the container's name and its id of 64
//! hex digits are in the Pod's annotation [`record::ANNOTATION`]; nothing is kept anywhere else, so a Pod that is deleted
//! with `kubectl` is a container that is gone, and what the platform forgets in a crash is nothing.
//!
//! | Docker | Pod |
//! | --- | --- |
//! | created | waits at a scheduling gate |
//! | running | runs; `restart: always` and `on-failure` are the Pod's restart policy |
//! | stopped | has ended (its deadline was set to now, when its policy would start it again); it stays, with its logs |
//! | started again | a new Pod, of the same id and one run further, takes the place of the one that has ended |
//! | removed | is deleted |
//!
//! What a container wrote into its own file system is kept by the id from run to run (the Pod's annotation
//! [`pod::LAYER`]), and goes when the container is removed.
//!
//! User-defined networks are a headless Service each, whose endpoints have the containers' names and aliases as host
//! names and whose domain the containers search, and a NetworkPolicy that lets in who is in the same network and who is
//! no Docker container. Volumes are folders of the machine. What Kubernetes has no word for (a signal, a command as another
//! user, a container's files) is asked of the [`Machine`].
//!
//! Source of what is answered: moby `api/swagger.yaml` (1.24 to 1.51) and, where it is silent, `daemon/`.
#![forbid(unsafe_code)]
#![recursion_limit = "256"]

mod archive;
mod attach;
mod build;
mod buildkit;
mod containers;
mod create;
mod daemon;
mod error;
mod events;
mod exec;
mod filters;
mod frames;
mod http;
mod images;
mod inspect;
mod joins;
mod lifecycle;
mod list;
mod logs;
mod machine;
mod names;
mod networks;
mod others;
mod pod;
mod record;
mod route;
mod server;
mod state;
mod stats;
mod system;
mod units;
mod update;
mod volumes;

pub use archive::{Rules as UnpackRules, changes_of, pack, plain as plain_tar, unpack_into};
pub use create::health::Health;
pub use create::limits::{Limits, Rate};
pub use daemon::Builder;
pub use images::{Snapshot, fits_machine};
pub use machine::{Check, Checks, Exec, Input, Machine, Output, PodName, Resize, Streams, Usage};
pub use networks::ipam::{NoAddress, Pool, Range, pick as pick_address};
pub use networks::links::{split as split_link, variables_of as link_variables};
pub use units::{bytes_size, human_size};

use std::{path::PathBuf, sync::Arc};

/// Changes an image's configuration as instructions of a Dockerfile say, `docker import --change`.
///
/// # Errors
/// For an instruction that isn't known or can't be part of a configuration.
pub fn change(config: &mut serde_json::Value, lines: &[String]) -> Result<(), String> {
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    images::change(config, &lines).map_err(|fault| fault.message)
}

/// Reads subnets as they are in `IPAM` of a request.
///
/// # Errors
/// For what is none, or can't be had.
pub fn subnets(ipam: serde_json::Map<String, serde_json::Value>) -> Result<Vec<Pool>, String> {
    networks::ipam::read(ipam).map_err(|fault| fault.message)
}

/// A hardware address as it is kept.
///
/// # Errors
/// For what is none.
pub fn hardware_address(text: &str) -> Result<String, String> {
    networks::ipam::mac(text).map_err(|fault| fault.message)
}

/// Where the containers' Pods are.
pub const NAMESPACE: &str = "docker";
/// The newest version of the API that is spoken.
pub const API_VERSION: (u32, u32) = (1, 51);
/// The oldest.
pub const API_VERSION_MIN: (u32, u32) = (1, 24);

/// What the daemon is made of.
pub struct Config {
    /// For Pods, Services and policies; may do all in [`NAMESPACE`], make it, and read nodes.
    pub client: kube::Client,
    pub images: knarr_image::ImageStore,
    pub machine: Arc<dyn Machine>,
    /// Opens what builds images; called for each build, off the event loop.
    pub builder: Builder,
    /// Volumes and what else Docker keeps in files.
    pub data_dir: PathBuf,
    /// Where the node looks for profiles of seccomp.
    pub seccomp_dir: PathBuf,
    /// The node on which the containers run.
    pub node: String,
    /// The machine, as the Pods reach it.
    pub gateway: std::net::IpAddr,
    /// Ranges of the Pods' addresses, `10.42.0.0/16`.
    pub pod_ranges: Vec<String>,
    /// The platform's version.
    pub version: String,
}

/// Serves the API on a socket until dropped.
pub async fn serve(listener: tokio::net::UnixListener, config: Config) {
    let daemon = daemon::Daemon::new(config);
    daemon.clone().resume().await;
    server::serve(listener, daemon).await;
}
