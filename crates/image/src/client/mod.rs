//! A client of registries: pull and push by OCI distribution 1.1 and Docker's registry API V2.
//!
//! It is: requests with bounds, credentials, mirrors, downloads that go on where they broke off, uploads.
//! It is not: a registry, a store of credentials (it reads what `docker login` and `podman login` wrote).
//!
//! Sources: opencontainers/distribution-spec 1.1, distribution `docs/spec/auth`, containerd `core/remotes/docker` (hosts,
//! fallback to HTTP, tokens), docker/cli `config/credentials`, containers-image `docs/containers-auth.json.5.md`, `docs/containers-policy.json.5.md`.

mod auth;
mod body;
mod connect;
mod credentials;
mod download;
mod error;
mod hosts;
mod http;
mod names;
mod policy;
mod progress;
mod proxy;
mod pull;
mod push;
mod session;
mod signatures;
mod tags;
mod upload;
mod web;

pub use credentials::{Credential, Logins, remove_login, store_login};
pub use error::Error;
pub use names::Reference;
pub use progress::{Event, Progress, Silent, Step};
pub use proxy::Proxies;
pub use pull::{Platforms, PullOptions};
pub use push::{Compression, PushOptions, Pushed};
pub use session::check_login;
pub use tags::tags;
pub use web::Web;

use std::{path::PathBuf, time::Duration};

/// Where registries are and how to speak to them. The default reads nothing but the well-known folders.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Folders with `HOST/hosts.toml` (containerd's) or `HOST/*.crt` (Docker's); the first that has the host's folder counts.
    pub hosts_dirs: Vec<PathBuf>,
    /// Hosts (`HOST[:PORT]`) whose certificates aren't checked and that may speak plain HTTP. Loopback ones always may.
    pub insecure: Vec<String>,
    /// Files in the form of Docker's `config.json`; the first with a login for the host counts.
    pub credential_files: Vec<PathBuf>,
    /// Who is asked for a login before the files are.
    pub logins: Option<Logins>,
    /// Folders where credential helpers (`docker-credential-NAME`) are looked for; none: `PATH`.
    pub helper_dirs: Option<Vec<PathBuf>>,
    /// What stands between here and the registries.
    pub proxies: Proxies,
    /// Which images may be pulled, by containers-policy.json(5): the first of these files that is there. None: all may.
    pub policies: Vec<PathBuf>,
    /// The policy's file instead of those; it must be there.
    pub signature_policy: Option<PathBuf>,
    /// For a connection to be made, TLS included.
    pub connect_timeout: Duration,
    /// For a request's answer to begin, and between two pieces of a body.
    pub stall_timeout: Duration,
    /// How often a request, or the rest of a download, is tried.
    pub attempts: u32,
    /// How many blobs of one image come or go at the same time.
    pub parallel: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        ClientConfig {
            hosts_dirs: vec![
                "/etc/knarr/certs.d".into(),
                "/etc/containerd/certs.d".into(),
                "/etc/docker/certs.d".into(),
            ],
            insecure: Vec::new(),
            credential_files: credentials::default_files(),
            logins: None,
            helper_dirs: None,
            proxies: Proxies::from_environment(),
            policies: policy::default_files(),
            signature_policy: None,
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(60),
            attempts: 5,
            parallel: 4,
        }
    }
}
