//! What is known of a container besides its Pod's state: an annotation of the Pod.

use crate::{create::ports::Bindings, networks::Endpoint};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Holds the [`Record`] as JSON.
pub const ANNOTATION: &str = "docker.knarr.dev/container";
/// The first twelve digits of the id; on every Pod of ours.
pub const LABEL: &str = "docker.knarr.dev/id";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// 64 hex digits
    pub id: String,
    /// without the slash
    pub name: String,
    /// RFC 3339
    pub created: String,
    /// As asked for, and what it was then: names may move.
    pub image: String,
    pub image_name: String,
    pub image_id: String,
    pub image_digest: String,
    /// Docker's request as it came.
    pub body: Map<String, Value>,
    /// Counts the Pods.
    pub run: u32,
    /// It was stopped by hand: its restart policy doesn't count.
    #[serde(default)]
    pub stopped: bool,
    /// Why the last start failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    pub mounts: Vec<Mounted>,
    pub bindings: Bindings,
    pub endpoints: Vec<Endpoint>,
    /// the kind of network: `bridge`, `host`, `none`, or the name of one
    pub network_mode: String,
    /// times it was started again by the daemon or its Pod, in Pods before this one
    #[serde(default)]
    pub restarts: i64,
    /// of a healthcheck, request and image taken together
    #[serde(default)]
    pub health: Option<crate::create::health::Health>,
}

/// A mount as it was settled when the container was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// `bind`, `volume`, `tmpfs`
    pub kind: String,
    /// a volume's
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// on the machine
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    pub target: String,
    #[serde(default)]
    pub read_only: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub propagation: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mode: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sub_path: String,
    /// a tmpfs'
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// what is mounted below the source stays writable when the mount isn't
    #[serde(default)]
    pub shallow: bool,
    /// goes with the container
    #[serde(default)]
    pub anonymous: bool,
}

impl Record {
    pub fn short(&self) -> &str {
        &self.id[..self.id.len().min(12)]
    }
}
