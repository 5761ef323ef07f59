//! compose.yaml → Kubernetes resources: a pure function.
//!
//! It is: the Compose specification's model, interpolation, and its translation.
//! It is not: a runner; it does no I/O beyond reading the files it is given.
//! It must never know: the API server, images, containers.
#![forbid(unsafe_code)]

mod health;
mod interpolate;
mod model;
mod node;
mod ports;
mod translate;
mod units;
mod volumes;

pub use model::{Build, Condition, Dependency, Project, Service, load};
pub use translate::{Resources, Workload, translate};

use std::{collections::BTreeMap, path::PathBuf};

/// What to read, and the surroundings that the file may refer to.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The compose file.
    pub file: PathBuf,
    /// Environment for interpolation; `.env` beside the file fills in what is missing here.
    pub environment: BTreeMap<String, String>,
    /// Profiles switched on, besides those in `COMPOSE_PROFILES`.
    pub profiles: Vec<String>,
    /// Overrides `name:` and the folder's name.
    pub project: Option<String>,
}

/// What is wrong, where: `compose.yaml:12: services.web.prots: …`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {}{message}", line.map(|l| format!(":{l}")).unwrap_or_default(), if path.is_empty() { String::new() } else { format!("{path}: ") })]
pub struct Error {
    pub file: String,
    /// 1-based, when it could be found.
    pub line: Option<usize>,
    /// Dotted path of keys, e.g. `services.web.ports`.
    pub path: String,
    pub message: String,
}
