//! The real program, real containers, real clients. Needs root; see `.ci/run` for the Debian packages.

mod attach;
mod chaos;
mod crash;
mod crew;
mod dockerfile;
mod faults;
mod forward;
mod input;
mod kubectl;
mod lifecycle;
mod load;
mod network;
mod shop;
mod workloads;
