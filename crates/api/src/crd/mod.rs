//! CustomResourceDefinitions: the resources they define, made, served and taken away while the server runs.

mod custom;

pub use custom::Custom;
