//! What the node knows of Services and their endpoints: watched, kept small, shared by the VIP
//! maps and by DNS.

mod feed;
pub(crate) mod fronts;
pub(crate) mod names;
pub(crate) mod objects;
pub(crate) mod own;
pub(crate) mod view;

pub(crate) use feed::{Burst, Step, Table, run, watch};
pub(crate) use objects::resource;
