//! Making and deleting pods for an owner, with the Events that people look for.

use std::future::Future;

use futures::future::join_all;
use serde::Deserialize;

use super::{
    recorder::Recorder,
    rest::{Delete, Rest},
};
use crate::{
    error::{Error, Result},
    objects::{
        meta::{Meta, Object},
        pod::Pod,
    },
};

/// Makes and deletes pods.
pub struct PodControl {
    rest: Rest,
    recorder: Recorder,
    source: &'static str,
}

/// What is known of a new pod.
#[derive(Deserialize)]
pub struct Created {
    /// its metadata
    pub metadata: Meta,
}

impl PodControl {
    /// Events come from `source`.
    pub fn new(rest: Rest, recorder: Recorder, source: &'static str) -> PodControl {
        PodControl {
            rest,
            recorder,
            source,
        }
    }
    /// Creates a pod from JSON.
    pub async fn create(&self, owner: &impl Object, body: Vec<u8>) -> Result<Created> {
        let collection = Pod::KIND.collection(&owner.meta().namespace);
        match self.rest.create_raw::<Created>(&collection, body).await {
            Ok(c) => {
                let message = format!("Created pod: {}", c.metadata.name);
                self.recorder
                    .normal(owner, self.source, "SuccessfulCreate", message);
                Ok(c)
            }
            Err(e) => {
                if !e.is_namespace_terminating() && !e.is_already_exists() {
                    let message = format!("Error creating: {}", said(&e));
                    self.recorder
                        .warning(owner, self.source, "FailedCreate", message);
                }
                Err(e)
            }
        }
    }
    /// Deletes exactly this pod.
    pub async fn delete(&self, owner: &impl Object, pod: &Pod) -> Result<()> {
        let meta = &pod.metadata;
        match self
            .rest
            .delete(&Pod::KIND.at(meta), &Delete::uid(&meta.uid))
            .await
        {
            Ok(()) => {
                let message = format!("Deleted pod: {}", meta.name);
                self.recorder
                    .normal(owner, self.source, "SuccessfulDelete", message);
                Ok(())
            }
            Err(e) => {
                let message = format!("Error deleting: {}", said(&e));
                self.recorder
                    .warning(owner, self.source, "FailedDelete", message);
                Err(e)
            }
        }
    }
}

/// What the server said, for an Event.
pub fn said(e: &Error) -> String {
    match e {
        Error::Api(s) => s.message.clone(),
        other => other.to_string(),
    }
}

/// Runs `make` for 0..count in batches of 1, 2, 4, …: a spec that the server refuses costs one refusal, not `count`. Returns how many went well and the first failure.
pub async fn slow_start<F, Fut>(count: usize, make: F) -> (usize, Option<Error>)
where
    F: Fn(usize) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let mut done = 0;
    let mut batch = 1;
    while done < count {
        let n = batch.min(count - done);
        let results = join_all((done..done + n).map(&make)).await;
        let good = results.iter().filter(|r| r.is_ok()).count();
        done += good;
        if let Some(e) = results.into_iter().find_map(Result::err) {
            return (done, Some(e));
        }
        batch *= 2;
    }
    (done, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[tokio::test]
    async fn batches_grow_and_stop_at_a_failure() {
        for (count, fail_at, want_done, want_tried) in [
            (10, 99, 10, 10),
            (0, 99, 0, 0),
            (10, 0, 0, 1),
            (10, 2, 2, 3),
            (10, 5, 6, 7),
        ] {
            let tried = Mutex::new(0);
            let (done, error) = slow_start(count, |i| {
                *tried.lock() += 1;
                async move {
                    if i == fail_at {
                        Err(Error::Other("no".into()))
                    } else {
                        Ok(())
                    }
                }
            })
            .await;
            assert_eq!(
                (done, *tried.lock()),
                (want_done, want_tried),
                "{count} {fail_at}"
            );
            assert_eq!(error.is_some(), fail_at < count);
        }
    }
}
