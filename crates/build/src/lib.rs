//! Dockerfiles built: from a read Dockerfile and a context to an OCI image, as BuildKit does it.
//!
//! It is: the graph of a build's steps, their cache, the containers that `RUN` needs, what `COPY` and `ADD` bring.
//! It is not: a reader of Dockerfiles (`knarr-dockerfile`), an image store, a container runtime.
//! It must never know: Kubernetes, the command line.
//!
//! A build is a set of stages that run side by side, each a chain of steps. A step's result is a folder of what it changed
//! (an overlay's upper layer) under a key made of all that went into it; only the target's chain ever becomes layers of an
//! image. All state is below one folder ([`Options::dir`]), see `cache`.
#![forbid(unsafe_code)]

mod accounts;
pub mod attest;
mod build;
mod cache;
pub mod copy;
mod copying;
mod doc;
mod engine;
mod error;
mod export;
mod fetched;
mod folder;
mod follow;
mod graph;
mod instructions;
mod mounting;
mod network;
mod output;
mod overlay;
mod ports;
mod progress;
mod pull;
mod rehearsal;
mod request;
mod run;
mod running;
mod session;
mod shared_cache;
pub mod source;
mod ssh;
mod state;
mod step;
mod told;

pub use build::build;
pub use cache::{Prune, Pruned, Usage};
pub use engine::{Engine, Limits, Options, Resolver, Space};
pub use error::{Error, Excerpt};
pub use knarr_runtime::Rlimit;
pub use network::Networks;
pub use progress::{Event, Outcome, Progress, Quiet, StepId};
pub use pull::Pulls;
pub use request::{
    Annotations, BuildRequest, Built, Context, DockerfileFrom, Entitlement, Lender, NamedContext,
    NoCache, Output, OutputKind, Packing, Secret,
};
pub use shared_cache::{CacheFrom, CacheStore, CacheTo};
