//! Light forms of the API's objects: what controllers look at, read straight from the wire by serde.
//!
//! A 30 KB typed Pod is about 1 KB here. Pod templates stay as the bytes they came in.

pub mod address;
pub mod affinity;
pub mod autoscaler;
pub mod batch;
pub mod csi;
pub mod device;
pub mod intstr;
pub mod lease;
pub mod meta;
pub mod node;
pub mod pod;
pub mod policy;
pub mod requests;
pub mod selector;
pub mod service;
pub mod template;
pub mod volume;
pub mod workload;

pub use knarr_quantity as quantity;
