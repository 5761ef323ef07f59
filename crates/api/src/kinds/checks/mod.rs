//! What each kind's objects must fulfil, in upstream's words, field paths and order (`pkg/apis/*/validation`). `path` writes
//! places, `rules` says what is wrong with one value, the rest is a list of rules a kind.

pub(crate) mod admissionregistration;
pub(crate) mod autoscaling;
mod cron;
pub(crate) mod csi;
pub(crate) mod difference;
pub(crate) mod expressions;
pub(crate) mod jobs;
pub(crate) mod networks;
pub(crate) mod path;
pub(crate) mod pod;
pub(crate) mod quantity;
pub(crate) mod rules;
pub(crate) mod selectors;
pub(crate) mod volumes;
mod windows;
pub(crate) mod workloads;
