//! `--cache-from` and `--cache-to`: steps of builds on other machines.
//!
//! A shared cache is an image: its layers are steps' results, and its configuration has, beside what it must have, a list of
//! the steps with their keys ([`FIELD`]). So it is pushed, pulled, and kept in layouts like any other image; an inline cache
//! is such a list in the built image's own configuration. What BuildKit exports can't be used here, nor the other way round:
//! keys are made of different things.

mod options;
mod read;
mod write;

pub use options::{CacheFrom, CacheStore, CacheTo};
pub(crate) use read::{Imported, import};
pub(crate) use write::put_inline;

use serde::{Deserialize, Serialize};

use crate::cache::{Key, Record};

/// Where an image's configuration has the steps.
pub(crate) const FIELD: &str = "org.knarr.build.cache.v1";
/// Steps of one cache; more are neither written nor read.
pub(crate) const STEPS_MAX: usize = 1000;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Steps {
    pub(crate) steps: Vec<Shared>,
}

/// A step with the layer that is its result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Shared {
    pub(crate) key: Key,
    pub(crate) record: Record,
    pub(crate) diff_id: String,
}
