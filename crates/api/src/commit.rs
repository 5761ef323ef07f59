//! The last step of a write, and what the store may say to it.

use std::sync::Arc;

use bytes::Bytes;
use knarr_store::{CommitError, Expect, Op};

use crate::{object::Encoded, server::Inner, status::Failure};

/// A store that can't commit.
pub fn unavailable(e: CommitError) -> Failure {
    match e {
        CommitError::TooLarge(n) => Failure::new(
            413,
            "RequestEntityTooLarge",
            format!("the object is too large to be stored: {n} bytes"),
        ),
        e => Failure::new(
            503,
            "ServiceUnavailable",
            format!("the store can't commit: {e}; see the platform's log, and free disk space if there is none"),
        )
        .retry_after(1),
    }
}

/// Commits an already encoded object against the revision it was made from. Used by deletes.
pub async fn replace(
    inner: &Inner,
    key: Arc<str>,
    encoded: &Encoded,
    expect: Expect,
) -> Result<Bytes, CommitError> {
    let op = Op::Put {
        key,
        value: encoded.spliced(),
        expect,
    };
    let revision = inner.store.commit(vec![op]).await?;
    Ok(encoded.at(&revision.to_string()))
}
