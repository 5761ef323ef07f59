//! What every service of the shop needs: configuration, an embedded database, Redis, calls to other services, serving.
//! It is not a framework: a service is an axum router handed to [`serve::run`].
//! It must never know what any service does.
#![forbid(unsafe_code)]

pub mod client;
pub mod config;
pub mod db;
pub mod failure;
pub mod redis;
pub mod serve;

pub use client::{Client, Context};
pub use config::Config;
pub use db::Db;
pub use failure::Failure;
pub use redis::Redis;

/// Names of users, makers, products and pages: 1 to 64 of `a-z`, `0-9` and `-`, so that they are safe in a path.
#[must_use]
pub fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// # Errors
/// 400 if one of `ids` is no id ([`is_id`]).
pub fn check_ids(ids: &[&str]) -> Result<(), Failure> {
    match ids.iter().find(|id| !is_id(id)) {
        None => Ok(()),
        Some(id) => Err(Failure::bad(format!(
            "{id:?}: use 1 to 64 lower-case letters, digits and -"
        ))),
    }
}
