//! The queue to the log, and the thread that writes it.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{
    event::{Payload, Record, line},
    policy::Policy,
    rotate::{Options, Rotating},
};

/// Events waiting to be written, at most.
const EVENTS_MAX: usize = 4096;
/// Their bodies together, in KiB.
const KIB_MAX: usize = 32 * 1024;
/// Time a request waits for room in the queue.
const PATIENCE: Duration = Duration::from_secs(5);
/// Lines written at once, in bytes.
const BATCH_BYTES: usize = 256 * 1024;
/// Stack of the writing thread, in bytes: bodies nest 10,000 deep at most, and serde_json stops at 128.
const STACK_BYTES: usize = 512 * 1024;

/// Why there can be no audit log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be opened.
    #[error(
        "the audit log {path} can't be opened: {source}; check that its folder exists and can be written to"
    )]
    Open {
        /// which
        path: PathBuf,
        /// why
        source: std::io::Error,
    },
    /// No thread.
    #[error("the audit log's thread can't be started: {0}")]
    Thread(std::io::Error),
}

struct Queued {
    record: Record,
    _room: OwnedSemaphorePermit,
}

/// An audit log in use. Clone = the same log.
#[derive(Clone)]
pub struct Audit {
    pub(super) policy: Arc<Policy>,
    queue: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    events: AtomicU64,
    lost: AtomicU64,
}

impl Audit {
    /// Opens the log and starts its thread; blocking.
    pub fn open(policy: Policy, options: Options) -> Result<Audit, Error> {
        let path = options.path.clone();
        let log = Rotating::open(options).map_err(|source| Error::Open {
            path: path.clone(),
            source,
        })?;
        let (queue, events) = mpsc::channel(EVENTS_MAX);
        let counts = Arc::new(Counts::default());
        let lost = counts.clone();
        std::thread::Builder::new()
            .name("audit".into())
            .stack_size(STACK_BYTES)
            .spawn(move || write_all(log, &path, events, &lost))
            .map_err(Error::Thread)?;
        Ok(Audit {
            policy: Arc::new(policy),
            queue,
            room: Arc::new(Semaphore::new(KIB_MAX)),
            counts,
        })
    }

    /// Permits that a record takes.
    fn size(record: &Record) -> u32 {
        let bodies = [&record.request, &record.response].into_iter().flatten();
        let kib = 1 + bodies.map(Payload::len).sum::<usize>() / 1024;
        kib.min(KIB_MAX) as u32
    }

    /// Queues a record; waits while the queue is full, for five seconds at most.
    pub(super) async fn put(&self, record: Record) {
        self.counts.events.fetch_add(1, Ordering::Relaxed);
        let sent = async {
            let room = self
                .room
                .clone()
                .acquire_many_owned(Audit::size(&record))
                .await;
            let Ok(room) = room else { return false };
            self.queue
                .send(Queued {
                    record,
                    _room: room,
                })
                .await
                .is_ok()
        };
        match tokio::time::timeout(PATIENCE, sent).await {
            Ok(true) => {}
            _ => self.lose(),
        }
    }

    /// Queues a record if there is room at once: for the ends of streams, where nobody can wait.
    pub(super) fn put_now(&self, record: Record) {
        self.counts.events.fetch_add(1, Ordering::Relaxed);
        let room = self
            .room
            .clone()
            .try_acquire_many_owned(Audit::size(&record));
        let sent = room.map(|room| {
            self.queue
                .try_send(Queued {
                    record,
                    _room: room,
                })
                .is_ok()
        });
        if !sent.unwrap_or(false) {
            self.lose();
        }
    }

    fn lose(&self) {
        let lost = self.counts.lost.fetch_add(1, Ordering::Relaxed) + 1;
        // the first of each doubling: an overloaded disk must not be given more to write
        if lost.is_power_of_two() {
            tracing::warn!(
                lost,
                "audit events are lost: the audit log is written too slowly"
            );
        }
    }

    /// The two counters, in the Prometheus text format.
    pub fn metrics(&self) -> String {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let (events, lost) = (read(&self.counts.events), read(&self.counts.lost));
        format!(
            "# HELP apiserver_audit_event_total Audit events made.\n# TYPE apiserver_audit_event_total counter\napiserver_audit_event_total {events}\n# HELP apiserver_audit_error_total Audit events that were not written.\n# TYPE apiserver_audit_error_total counter\napiserver_audit_error_total{{plugin=\"log\"}} {lost}\n"
        )
    }
}

/// Writes until the last handle is dropped.
fn write_all(
    mut log: Rotating,
    path: &std::path::Path,
    mut events: mpsc::Receiver<Queued>,
    counts: &Counts,
) {
    let mut lines = Vec::new();
    let mut failing = false;
    while let Some(first) = events.blocking_recv() {
        let mut n = 0;
        let mut next = Some(first);
        while let Some(queued) = next {
            line(&queued.record, &mut lines);
            n += 1;
            next = match lines.len() < BATCH_BYTES {
                true => events.try_recv().ok(),
                false => None,
            };
        }
        match log.write(&lines) {
            Ok(()) if failing => {
                failing = false;
                tracing::info!(path = %path.display(), "the audit log is written again");
            }
            Ok(()) => {}
            Err(error) => {
                counts.lost.fetch_add(n, Ordering::Relaxed);
                if !failing {
                    failing = true;
                    tracing::error!(path = %path.display(), %error, "the audit log can't be written: free some disk space; events are lost until then");
                }
            }
        }
        lines.clear();
        // one long body must not be paid for ever after
        lines.shrink_to(BATCH_BYTES);
    }
}
