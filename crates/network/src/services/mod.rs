//! What the node knows of Services and their endpoints: watched, kept small, shared by the VIP
//! maps and by DNS.

mod feed;
pub(crate) mod fronts;
mod objects;
pub(crate) mod view;

pub(crate) use feed::run;
