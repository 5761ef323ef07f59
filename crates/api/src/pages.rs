//! Chunked lists: continue tokens, and the few snapshots they stand for.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use knarr_store::Snapshot;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::status::Failure;

/// Snapshots kept for continue tokens.
const KEPT_MAX: usize = 32;
/// How long one is kept (etcd's default compaction interval upstream).
const LIFETIME: Duration = Duration::from_secs(300);

const VERSION: &str = "meta.k8s.io/v1";
const INVALID: &str = "continue key is not valid";
const EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
const EXPIRED_EXACT: &str = "The resourceVersion for the provided list is too old.";

/// Content of a continue token; upstream's JSON.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
pub struct Token {
    #[serde(default)]
    v: String,
    /// revision of the list; -1: whatever is newest
    #[serde(default)]
    rv: i64,
    /// last key given out, without its prefix and with a zero byte
    #[serde(default)]
    start: String,
}

impl Token {
    /// A token for what follows `start` in the list at `revision`.
    pub fn new(revision: i64, start: &str) -> Token {
        Token {
            v: VERSION.into(),
            rv: revision,
            start: format!("{}\0", start.trim_end_matches('\0')),
        }
    }
    /// As text.
    pub fn encode(&self) -> String {
        // a struct of strings and a number always serialises
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }
    /// Reads a token; 400 as upstream.
    pub fn decode(text: &str) -> Result<Token, Failure> {
        let invalid =
            |why: &str| Failure::bad_request(format!("invalid continue token: {INVALID}{why}"));
        let bad = |why: String| invalid(&format!(": {why}"));
        let bytes = URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .map_err(|e| match e {
                base64::DecodeError::InvalidByte(at, _)
                | base64::DecodeError::InvalidLastSymbol(at, _) => {
                    bad(format!("illegal base64 data at input byte {at}"))
                }
                _ => bad(format!(
                    "illegal base64 data at input byte {}",
                    text.len() - 1
                )),
            })?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        if token.v != VERSION {
            return Err(bad(format!(
                "server does not recognize this encoded version {}",
                token.v
            )));
        }
        if token.rv == 0 {
            return Err(bad(format!(
                "incorrect encoded start resourceVersion (version {VERSION})"
            )));
        }
        if token.start.is_empty() {
            return Err(bad(format!("encoded start key empty (version {VERSION})")));
        }
        // what path.Clean would change could lead out of the collection
        let parts = token.start.strip_prefix('/').unwrap_or(&token.start);
        if parts.split('/').any(|p| matches!(p, "" | "." | "..")) {
            return Err(bad(token.start));
        }
        Ok(token)
    }
    /// Revision of the list begun; None: whatever is newest.
    pub fn revision(&self) -> Option<u64> {
        u64::try_from(self.rv).ok()
    }
    /// Key to go on after.
    pub fn start(&self) -> &str {
        self.start.strip_prefix('/').unwrap_or(&self.start)
    }
}

/// The bounded set of snapshots; entries go after five minutes, or when newer lists push them out.
#[derive(Default, Clone)]
pub struct Pages(Arc<Mutex<VecDeque<(Instant, Snapshot)>>>);

impl Pages {
    /// Keeps a snapshot for the tokens that name its revision.
    pub fn keep(&self, snapshot: &Snapshot) {
        let mut kept = self.0.lock();
        let revision = snapshot.revision();
        let idle = kept.is_empty();
        kept.retain(|(_, s)| s.revision() != revision);
        if kept.len() >= KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back((Instant::now() + LIFETIME, snapshot.clone()));
        if idle {
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
    }
    /// The snapshot of this revision, if it is still kept.
    pub fn find(&self, revision: u64) -> Option<Snapshot> {
        let kept = self.0.lock();
        kept.iter()
            .find(|(_, s)| s.revision() == revision)
            .map(|(_, s)| s.clone())
    }
}

/// Lives as long as there are snapshots to let go of.
async fn sweep(pages: std::sync::Weak<Mutex<VecDeque<(Instant, Snapshot)>>>) {
    loop {
        let Some(next) = pages
            .upgrade()
            .and_then(|p| p.lock().front().map(|(t, _)| *t))
        else {
            return;
        };
        tokio::time::sleep_until(next).await;
        let Some(pages) = pages.upgrade() else { return };
        let mut kept = pages.lock();
        let now = Instant::now();
        kept.retain(|(t, _)| *t > now);
        if kept.is_empty() {
            return;
        }
    }
}

/// 410 for a continue token whose snapshot is gone, with one to go on inconsistently.
pub fn expired_continue(start: &str) -> Failure {
    Failure::expired(EXPIRED).with_continue(Token::new(-1, start).encode())
}

/// 410 for `resourceVersionMatch=Exact`.
pub fn expired_exact() -> Failure {
    Failure::expired(EXPIRED_EXACT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn snapshots_are_let_go_in_time_and_in_number() {
        let dir = tempfile::tempdir().unwrap();
        let store = knarr_store::Store::open(knarr_store::Options::new(dir.path())).unwrap();
        let pages = Pages::default();
        let first = store.snapshot();
        pages.keep(&first);
        tokio::time::sleep(LIFETIME / 2).await;
        assert!(pages.find(first.revision()).is_some());
        // asked for again: kept from now on
        pages.keep(&first);
        tokio::time::sleep(LIFETIME / 2 + Duration::from_secs(1)).await;
        assert!(pages.find(first.revision()).is_some());
        tokio::time::sleep(LIFETIME).await;
        assert!(pages.find(first.revision()).is_none());
        assert!(pages.0.lock().is_empty());
    }

    #[test]
    fn tokens_are_upstreams() {
        let token = Token::new(7, "default/a");
        assert_eq!(Token::decode(&token.encode()).unwrap(), token);
        // as an upstream API server writes it
        let theirs = "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6Nywic3RhcnQiOiJkZWZhdWx0L2FcdTAwMDAifQ";
        assert_eq!(Token::decode(theirs).unwrap(), token);
        let json = |text: &str| URL_SAFE_NO_PAD.encode(text);
        for (bad, why) in [
            ("x".to_string(), "illegal base64 data at input byte 0"),
            (
                json("{}"),
                "server does not recognize this encoded version ",
            ),
            (
                json(r#"{"v":"v2"}"#),
                "server does not recognize this encoded version v2",
            ),
            (
                json(r#"{"v":"meta.k8s.io/v1"}"#),
                "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
            ),
            (
                json(r#"{"v":"meta.k8s.io/v1","rv":1}"#),
                "encoded start key empty (version meta.k8s.io/v1)",
            ),
            (
                json(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../a"}"#),
                "../a",
            ),
        ] {
            let f = Token::decode(&bad).unwrap_err();
            assert_eq!(f.code(), 400, "{bad}");
            assert_eq!(
                f.message(),
                format!("invalid continue token: continue key is not valid: {why}")
            );
        }
    }
}
