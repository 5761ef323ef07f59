//! A registry: OCI distribution 1.1 over the machine's image store.
//!
//! It is: the HTTP surface (blobs, uploads, manifests, tags, referrers) and its rules; which repository has what; the
//! registry's tags kept in step with the store's names.
//! It is not: the store, a client of other registries (`knarr-image`).
//! It must never know: Kubernetes, containers.
//!
//! Source: opencontainers/distribution-spec 1.1.1 and what its next version adds (tags as parameters, cancelling); where it
//! leaves room, what the distribution project's registry does.
#![forbid(unsafe_code)]

mod auth;
mod blobs;
mod collect;
mod digest;
mod error;
mod links;
mod lists;
mod manifest;
mod manifests;
mod names;
mod push;
mod route;
mod serve;
mod server;
mod uploads;

pub use auth::{Access, Anonymous, Auth, TokenReview};
pub use collect::Collected;
pub use serve::serve;
pub use server::{Registry, router};

use std::{sync::Arc, time::Duration};

/// The largest manifest that is taken, in bytes: the least that the specification asks for.
pub const MANIFEST_MAX: usize = 4 << 20;

/// How a registry behaves.
#[derive(Clone)]
pub struct Options {
    /// The hosts (with their ports) that stand for this registry in images' names; pushes are named by the first.
    pub hosts: Vec<String>,
    /// Only requests to `hosts` and to names of this machine's loopback are answered: a page in a browser that has its
    /// own name lead here (DNS rebinding) gets nothing. For registries without authentication on loopback.
    pub known_hosts_only: bool,
    /// Who may pull and push; none asks nobody.
    pub auth: Option<Arc<Auth>>,
    /// Manifests may refer to manifests and layers that aren't here.
    pub sparse: bool,
    /// Uploads under way at most.
    pub uploads_max: usize,
    /// An upload that nothing was written to for so long is dropped; as is a blob that no manifest came for.
    pub upload_age: Duration,
    /// A manifest without a tag, that is in no index and refers to nothing, is dropped when nobody asked for it for so
    /// long; none keeps it for ever.
    pub untagged_age: Option<Duration>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            hosts: vec!["localhost:5000".into(), "127.0.0.1:5000".into()],
            known_hosts_only: true,
            auth: None,
            sparse: false,
            uploads_max: 256,
            upload_age: Duration::from_secs(24 * 3600),
            untagged_age: Some(Duration::from_secs(30 * 24 * 3600)),
        }
    }
}

/// What can go wrong before a request comes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Io {
        path: std::path::PathBuf,
        source: std::io::Error,
    },
    #[error("what nobody needs could not be dropped: {0}")]
    Collect(String),
    #[error("{path}, line {line}: {why}; write it with `htpasswd -B`")]
    Htpasswd {
        path: std::path::PathBuf,
        line: usize,
        why: String,
    },
}
