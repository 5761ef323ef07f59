//! Connections to webhooks that wait for their next request.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use parking_lot::Mutex;

use super::{Place, Target};

/// The sending half of a connection.
pub type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

const IDLE_MAX: Duration = Duration::from_secs(60);
const PER_TARGET_MAX: usize = 8;
const ALL_MAX: usize = 64;

/// Idle connections, few and not for long.
#[derive(Default)]
pub struct Pool(Mutex<HashMap<String, Vec<(Instant, Sender)>>>);

/// Connections with another CA are other connections.
fn key(target: &Target) -> String {
    use sha2::{Digest, Sha256};
    let ca = hex::encode(Sha256::digest(&target.ca_bundle));
    match &target.place {
        Place::Url { host, port, .. } => format!("{host}:{port} {ca}"),
        Place::Service {
            namespace,
            name,
            port,
            ..
        } => format!("{namespace}/{name}:{port} {ca}"),
    }
}

impl Pool {
    /// A connection that was open a moment ago.
    pub(super) fn take(&self, target: &Target) -> Option<Sender> {
        let mut all = self.0.lock();
        let list = all.get_mut(&key(target))?;
        while let Some((since, sender)) = list.pop() {
            if since.elapsed() < IDLE_MAX && !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub(super) fn put(&self, target: &Target, sender: Sender) {
        let mut all = self.0.lock();
        for list in all.values_mut() {
            list.retain(|(since, s)| since.elapsed() < IDLE_MAX && !s.is_closed());
        }
        all.retain(|_, list| !list.is_empty());
        if all.values().map(Vec::len).sum::<usize>() >= ALL_MAX {
            return;
        }
        let list = all.entry(key(target)).or_default();
        if list.len() < PER_TARGET_MAX {
            list.push((Instant::now(), sender));
        }
    }
}
