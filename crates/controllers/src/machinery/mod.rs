//! What every controller stands on: requests, watches, caches, work queues, expectations, events.

pub mod cache;
pub mod context;
pub mod expectations;
pub mod ownership;
pub mod pods;
pub mod queue;
pub mod recorder;
pub mod reflector;
pub mod rest;
pub mod status;
pub mod work;
pub mod written;
