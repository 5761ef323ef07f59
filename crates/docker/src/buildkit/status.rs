//! How a build goes, as clients are told: `StatusResponse`s.

use super::history::LOG_BYTES;
use knarr_build::{Event, Outcome};
use knarr_dockerfile::calls::rule_page;
use knarr_grpc::proto::Message;
use parking_lot::Mutex;
use sha2::Digest;
use std::{
    collections::{HashMap, VecDeque},
    time::SystemTime,
};
use tokio::sync::Notify;

/// As many wait for a client that is slow to listen; then the oldest are forgotten.
const KEPT: usize = 8192;

/// Messages of one build, until somebody has taken them.
#[derive(Default)]
pub struct Told {
    waiting: Mutex<(VecDeque<Message>, bool)>,
    more: Notify,
    steps: Mutex<HashMap<usize, Step>>,
    /// the build's own, so that the steps of two builds differ
    salt: String,
    /// what is remembered of it, and how many bytes that are
    sum: Mutex<(Counts, Vec<Message>, usize)>,
}

/// How many steps and warnings a build has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub total: i64,
    pub completed: i64,
    pub cached: i64,
    pub warnings: i64,
}

/// How far something is.
struct Transfer {
    began: Message,
    done: u64,
    total: u64,
}

struct Step {
    name: String,
    started: Message,
    /// what is transferred
    transfers: HashMap<String, Transfer>,
}

/// `google.protobuf.Timestamp`
pub fn now() -> Message {
    timestamp(SystemTime::now())
}

pub fn timestamp(at: SystemTime) -> Message {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or_default();
    Message::default()
        .number(1, since.as_secs() as i64)
        .number(2, since.subsec_nanos().into())
}

impl Told {
    pub fn new(salt: &str) -> Told {
        Told {
            salt: salt.into(),
            ..Told::default()
        }
    }

    fn digest(&self, step: usize) -> String {
        let text = format!("{} {step}", self.salt);
        format!("sha256:{}", hex::encode(sha2::Sha256::digest(text)))
    }

    fn put(&self, message: Message) {
        {
            let mut sum = self.sum.lock();
            // of what is too much the end is left out
            sum.2 += message.as_bytes().len();
            if sum.2 <= LOG_BYTES {
                sum.1.push(message.clone());
            }
        }
        let mut waiting = self.waiting.lock();
        if waiting.0.len() >= KEPT {
            waiting.0.pop_front();
        }
        waiting.0.push_back(message);
        drop(waiting);
        self.more.notify_waiters();
    }

    /// No more will come.
    pub fn end(&self) {
        self.waiting.lock().1 = true;
        self.more.notify_waiters();
    }

    /// What is remembered of it.
    pub fn summed(&self) -> (Counts, Vec<Message>) {
        let sum = self.sum.lock();
        (sum.0, sum.1.clone())
    }

    fn count(&self, event: &Event) {
        let counts = &mut self.sum.lock().0;
        match event {
            Event::Started { .. } => counts.total += 1,
            Event::Ended { outcome, .. } => {
                counts.cached += i64::from(*outcome == Outcome::Cached);
                counts.completed += i64::from(matches!(outcome, Outcome::Cached | Outcome::Done));
            }
            Event::Warning { .. } => counts.warnings += 1,
            // each is counted where it is told
            Event::Found { .. } | Event::Output { .. } | Event::Transfer { .. } => {}
        }
    }

    /// The next message; None: that was all.
    pub async fn next(&self) -> Option<Message> {
        loop {
            let more = self.more.notified();
            {
                let mut waiting = self.waiting.lock();
                if let Some(message) = waiting.0.pop_front() {
                    return Some(message);
                }
                if waiting.1 {
                    return None;
                }
            }
            more.await;
        }
    }

    fn vertex(&self, id: usize, step: &Step) -> Message {
        Message::default()
            .text(1, &self.digest(id))
            .text(3, &step.name)
            .message(5, &step.started)
    }

    /// `VertexStatus`
    fn transferred(&self, id: usize, what: &str, transfer: &Transfer) -> Message {
        Message::default()
            .text(1, what)
            .text(2, &self.digest(id))
            .text(3, what)
            .number(4, transfer.done as i64)
            .number(5, transfer.total as i64)
            .message(6, &now())
            .message(7, &transfer.began)
    }

    /// SOURCE: moby/buildkit `solver/progress.go`, `client/graph.go`
    pub fn tell(&self, event: Event) {
        self.count(&event);
        match event {
            Event::Started { id, name } => {
                let step = Step {
                    name,
                    started: now(),
                    transfers: HashMap::new(),
                };
                let vertex = self.vertex(id, &step);
                self.steps.lock().insert(id, step);
                self.put(Message::default().message(1, &vertex));
            }
            Event::Output { id, stderr, bytes } => {
                let log = Message::default()
                    .text(1, &self.digest(id))
                    .message(2, &now())
                    .number(3, if stderr { 2 } else { 1 })
                    .data(4, &bytes);
                self.put(Message::default().message(3, &log));
            }
            Event::Transfer {
                id,
                what,
                done,
                total,
            } => {
                let mut steps = self.steps.lock();
                let Some(step) = steps.get_mut(&id) else {
                    return;
                };
                let transfer = step.transfers.entry(what.clone());
                let transfer = transfer.or_insert_with(|| Transfer {
                    began: now(),
                    done,
                    total,
                });
                (transfer.done, transfer.total) = (done, total);
                let status = self.transferred(id, &what, transfer);
                drop(steps);
                self.put(Message::default().message(2, &status));
            }
            Event::Ended { id, outcome, .. } => {
                let Some(step) = self.steps.lock().remove(&id) else {
                    return;
                };
                // one that isn't told to be over is shown as going on for ever
                for (what, transfer) in &step.transfers {
                    let status = self.transferred(id, what, transfer).message(8, &now());
                    self.put(Message::default().message(2, &status));
                }
                let vertex = self
                    .vertex(id, &step)
                    .flag(4, outcome == Outcome::Cached)
                    .message(6, &now());
                let vertex = match &outcome {
                    Outcome::Failed(why) => vertex.text(7, why),
                    Outcome::Canceled => vertex.text(7, "context canceled"),
                    Outcome::Done | Outcome::Cached => vertex,
                };
                self.put(Message::default().message(1, &vertex));
            }
            Event::Warning { text } => {
                let warning = Message::default()
                    .text(1, &self.digest(0))
                    .number(2, 1)
                    .data(3, text.as_bytes());
                self.put(Message::default().message(4, &warning));
            }
            Event::Found { checks } => {
                for check in &checks {
                    self.found(
                        check.rule,
                        &check.message,
                        &rule_page(check.rule),
                        check.line,
                    );
                }
            }
        }
    }

    /// What a check of the Dockerfile found, at its line.
    pub fn found(&self, rule: &str, message: &str, url: &str, line: usize) {
        let place = Message::default()
            .message(1, &Message::default().number(1, line as i64))
            .message(2, &Message::default().number(1, line as i64));
        let warning = Message::default()
            .text(1, &self.digest(1))
            .number(2, 1)
            .data(3, format!("{rule}: {message} (line {line})").as_bytes())
            .text(5, url)
            .message(7, &place);
        self.sum.lock().0.warnings += 1;
        self.put(Message::default().message(4, &warning));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_grpc::proto::Fields;
    use std::time::Duration;

    #[tokio::test]
    async fn a_step_is_told_from_its_start_to_its_end() {
        let told = Told::new("x");
        told.tell(Event::Started {
            id: 1,
            name: "[1/2] FROM x".into(),
        });
        told.tell(Event::Output {
            id: 1,
            stderr: true,
            bytes: b"hi".to_vec(),
        });
        told.tell(Event::Ended {
            id: 1,
            outcome: Outcome::Failed("no".into()),
            took: Duration::ZERO,
        });
        told.end();
        let mut kinds = Vec::new();
        let mut errors = Vec::new();
        while let Some(message) = told.next().await {
            for (field, value) in Fields(message.as_bytes()) {
                kinds.push(field);
                if field == 1 {
                    let error = value.fields().find(|(f, _)| *f == 7);
                    errors.extend(error.map(|(_, v)| v.text()));
                }
            }
        }
        assert_eq!(kinds, [1, 3, 1]);
        assert_eq!(errors, ["no"]);
    }
}
