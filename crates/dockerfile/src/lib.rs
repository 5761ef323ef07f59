//! Dockerfiles: read, checked and expanded as BuildKit's frontend does it (`frontend/dockerfile` and the Dockerfile
//! reference), without building anything.
//!
//! It is: lines to instructions, instructions to stages, the words of a shell with their variables, `.dockerignore`, and the
//! build checks.
//! It is not: a builder. Nothing is read but the text that is given.
//! It must never know: images, containers, files on disk, Kubernetes.
#![forbid(unsafe_code)]

mod bases;
pub mod calls;
mod checks;
mod dump;
mod error;
mod excerpt;
mod flags;
mod heredoc;
mod ignore;
mod instruction;
mod lines;
mod mount;
mod pattern;
mod platform;
mod read;
mod scope;
mod split;
mod stages;
mod suggest;
mod words;

pub use bases::bad_reference;
pub use checks::{Check, Checks, check};
pub use dump::dump;
pub use error::{Error, Result};
pub use excerpt::{excerpt, shown};
pub use heredoc::Heredoc;
pub use ignore::{Ignore, IgnoreError, Judged};
pub use instruction::{
    Add, Arg, Command, CommandLine, Copy, Health, Instruction, KeyValue, Network, Run, Security,
    Sources,
};
pub use lines::{Line, Lines, Warning, lines};
pub use mount::{Mount, MountKind, Sharing};
pub use platform::{Platform, PlatformError};
pub use scope::{Build, Scope, platform_args};
pub use stages::{Base, Dockerfile, Stage};
pub use words::{Env, Escape, Words, WordsError};
