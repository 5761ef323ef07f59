//! How the rest of the node speaks to one Pod's task: the latest word counts, nothing queues.

use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::eviction::Verdict;

#[derive(Default)]
pub(crate) struct Mail {
    /// the newest object, when it has changed
    pub pod: Option<Arc<Pod>>,
    /// the object is gone from the API
    pub gone: bool,
    /// a ConfigMap, Secret or claim it refers to has changed
    pub sources: bool,
    /// the image store has changed
    pub images: bool,
    /// there may be room for a resize that waits
    pub room: bool,
    /// the node has no room for it any more
    pub verdict: Option<Verdict>,
}

#[derive(Default)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    /// the newest object as JSON, for those who only look: a tenth of its typed size; empty: none was told of
    latest: Mutex<Bytes>,
    gone: std::sync::atomic::AtomicBool,
    evicted: std::sync::atomic::AtomicBool,
    notify: Notify,
}

impl Mailbox {
    pub(crate) fn pod_changed(&self, pod: Arc<Pod>) {
        // It has only string keys and finite numbers, so this can't fail.
        *self.latest.lock() = Bytes::from(serde_json::to_vec(&*pod).unwrap_or_default());
        self.mail.lock().pod = Some(pod);
        self.notify.notify_one();
    }
    /// The newest object that was told of.
    pub(crate) fn latest(&self) -> Option<Pod> {
        let bytes = self.latest.lock().clone();
        serde_json::from_slice(&bytes).ok()
    }
    pub(crate) fn pod_gone(&self) {
        self.gone.store(true, std::sync::atomic::Ordering::Relaxed);
        self.mail.lock().gone = true;
        self.notify.notify_one();
    }
    /// Something that the task looks at itself has changed.
    pub(crate) fn nudge(&self) {
        self.notify.notify_one();
    }
    pub(crate) fn sources_changed(&self) {
        self.mail.lock().sources = true;
        self.notify.notify_one();
    }
    pub(crate) fn images_changed(&self) {
        self.mail.lock().images = true;
        self.notify.notify_one();
    }
    pub(crate) fn room_made(&self) {
        self.mail.lock().room = true;
        self.notify.notify_one();
    }
    /// The Pod has to go. False: it was told already, or is gone.
    pub(crate) fn evict(&self, verdict: Verdict) -> bool {
        if self.is_gone()
            || self
                .evicted
                .swap(true, std::sync::atomic::Ordering::Relaxed)
        {
            return false;
        }
        self.mail.lock().verdict = Some(verdict);
        self.notify.notify_one();
        true
    }
    /// The object is no longer in the API.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(std::sync::atomic::Ordering::Relaxed)
    }
    /// Waits for mail. Cancel-safe.
    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }
    pub(crate) fn take(&self) -> Mail {
        std::mem::take(&mut *self.mail.lock())
    }
}
