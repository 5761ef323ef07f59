//! CustomResourceDefinitions: the resources they define, made, served and taken away while the server runs.

mod cel;
mod cleanup;
mod convert;
mod converted;
mod custom;
mod definition;
mod errors;
mod intern;
mod kind;
mod metadata;
mod names;
mod priority;
mod rules;
mod sync;

pub use convert::{between, bring, bring_all, by_webhook, stored};
pub use custom::Custom;
pub use definition::Compiled;
pub use kind::{is_definition, marked, resource};
pub use sync::{Definitions, sync};
