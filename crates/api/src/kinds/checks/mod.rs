//! What each kind's objects must fulfil, in upstream's words, field paths and order (`pkg/apis/*/validation`). `path` writes
//! places, `rules` says what is wrong with one value, the rest is a list of rules a kind.

pub(crate) mod admissionregistration;
pub(crate) mod autoscaling;
pub(crate) mod cluster;
mod cron;
pub(crate) mod csi;
pub(crate) mod data;
pub(crate) mod devices;
pub(crate) mod difference;
pub(crate) mod endpoints;
pub(crate) mod events;
pub(crate) mod expressions;
pub(crate) mod ingress;
mod internal;
pub(crate) mod jobs;
pub(crate) mod networks;
pub(crate) mod path;
pub(crate) mod pod;
pub(crate) mod policies;
pub(crate) mod quantity;
pub(crate) mod quotas;
pub(crate) mod rules;
pub(crate) mod selectors;
pub(crate) mod services;
pub(crate) mod volumes;
mod windows;
pub(crate) mod workloads;
