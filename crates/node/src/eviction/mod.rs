//! Node-pressure eviction: when the machine runs short of memory, disk, or process numbers, Pods that take more than they asked for go first.
#![allow(dead_code)]

mod decide;
mod rank;
pub(crate) mod threshold;
