//! The node against a real API server and a fake runtime.

mod adoption;
mod csi;
mod csi_driver;
mod devices;
mod endings;
mod ephemeral;
pub(crate) mod fake;
mod images;
mod lifecycle;
mod material;
mod pressure;
mod probes;
mod resize;
mod restarts;
mod scale;
mod statics;
mod talk;
