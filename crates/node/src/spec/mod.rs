//! From a Pod's container to what the runtime needs: pure functions, but for looking up objects and image files.

pub(crate) mod apparmor;
pub(crate) mod build;
pub(crate) mod copy_up;
pub(crate) mod env;
mod env_file;
pub(crate) mod expand;
pub(crate) mod extras;
pub(crate) mod fields;
pub(crate) mod files;
pub(crate) mod joins;
pub(crate) mod kept;
pub(crate) mod pod_resources;
pub(crate) mod resources;
pub(crate) mod security;
pub(crate) mod sysctl;
pub(crate) mod user;
