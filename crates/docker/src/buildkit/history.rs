//! The last builds, for `docker buildx history`: how each went, and what it said.
//!
//! They are kept in memory, as many as [`BUILDS`], each with as much of its log as [`LOG_BYTES`].
//!
//! SOURCE: moby/buildkit `solver/llbsolver/history.go`, `api/services/control/control.proto`

use super::{
    request::Solve,
    status::{Counts, timestamp},
};
use knarr_grpc::{
    Answer, Reply, Status, code,
    proto::{Fields, Map, Message},
};
use parking_lot::Mutex;
use std::{collections::VecDeque, sync::Arc, time::SystemTime};
use tokio::sync::{broadcast, mpsc};

/// Builds that are remembered; of the older only those that were pinned.
const BUILDS: usize = 30;
/// Of a build's log, in bytes.
pub const LOG_BYTES: usize = 128 << 10;
/// Events that a listener may be behind.
const EVENTS: usize = 64;

const STARTED: i64 = 0;
const COMPLETE: i64 = 1;
const DELETED: i64 = 2;

/// One build.
#[derive(Clone)]
struct Record {
    reference: String,
    frontend: String,
    attrs: Map,
    exporters: Vec<(String, Map)>,
    created: SystemTime,
    /// When it ended, and how.
    ended: Option<(SystemTime, Result<Map, Status>)>,
    counts: Counts,
    pinned: bool,
    log: Arc<Vec<Message>>,
}

impl Record {
    fn message(&self) -> Message {
        let mut record = Message::default()
            .text(1, &self.reference)
            .text(2, &self.frontend)
            .map(3, &self.attrs);
        for (kind, attrs) in &self.exporters {
            record = record.message(4, &Message::default().text(1, kind).map(2, attrs));
        }
        record = record.message(6, &timestamp(self.created));
        if let Some((at, outcome)) = &self.ended {
            record = record.message(7, &timestamp(*at));
            record = match outcome {
                Ok(response) => record.map(9, response),
                Err(why) => {
                    let status = Message::default()
                        .number(1, why.code.into())
                        .text(2, &why.message);
                    record.message(5, &status)
                }
            };
        }
        record
            .flag(14, self.pinned)
            .number(15, self.counts.cached)
            .number(16, self.counts.total)
            .number(17, self.counts.completed)
            .number(19, self.counts.warnings)
    }

    fn event(&self, kind: i64) -> Message {
        Message::default()
            .number(1, kind)
            .message(2, &self.message())
    }

    fn now(&self) -> Message {
        self.event(if self.ended.is_some() {
            COMPLETE
        } else {
            STARTED
        })
    }
}

/// The last builds, the newest last.
pub struct History {
    records: Mutex<VecDeque<Record>>,
    /// Each with the build that it is of.
    events: broadcast::Sender<(String, Message)>,
}

impl Default for History {
    fn default() -> History {
        History {
            records: Mutex::default(),
            events: broadcast::Sender::new(EVENTS),
        }
    }
}

impl History {
    /// A build begins.
    pub fn begin(&self, solve: &Solve) {
        let record = Record {
            reference: solve.reference.clone(),
            frontend: solve.frontend.clone(),
            attrs: solve.options.clone(),
            exporters: solve
                .exports
                .iter()
                .map(|e| (e.kind.clone(), e.attrs.clone()))
                .collect(),
            created: SystemTime::now(),
            ended: None,
            counts: Counts::default(),
            pinned: false,
            log: Arc::default(),
        };
        let mut records = self.records.lock();
        self.tell(&record, STARTED);
        records.retain(|old| old.reference != record.reference);
        while records.len() >= BUILDS {
            let oldest = records
                .iter()
                .position(|old| !old.pinned && old.ended.is_some());
            records.remove(oldest.unwrap_or(0));
        }
        records.push_back(record);
    }

    /// What its frontend was asked for, where that comes by itself.
    pub fn asked(&self, reference: &str, frontend: &str, attrs: &Map) {
        if let Some(record) = self
            .records
            .lock()
            .iter_mut()
            .find(|r| r.reference == reference)
        {
            record.frontend = frontend.into();
            record
                .attrs
                .extend(attrs.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
    }

    /// It is over.
    pub fn end(
        &self,
        reference: &str,
        how: Result<Map, Status>,
        counts: Counts,
        log: Vec<Message>,
    ) {
        let mut records = self.records.lock();
        let Some(record) = records.iter_mut().find(|r| r.reference == reference) else {
            return;
        };
        record.ended = Some((SystemTime::now(), how));
        record.counts = counts;
        record.log = Arc::new(log);
        self.tell(record, COMPLETE);
    }

    /// While the records are locked: who lists them and then listens hears of each change once.
    fn tell(&self, record: &Record, kind: i64) {
        // nobody may listen
        let _ = self
            .events
            .send((record.reference.clone(), record.event(kind)));
    }

    /// What a build that is over has said; None when it isn't over, or not known.
    pub fn log(&self, reference: &str) -> Option<Arc<Vec<Message>>> {
        let records = self.records.lock();
        let record = records.iter().find(|r| r.reference == reference)?;
        record.ended.as_ref().map(|_| record.log.clone())
    }

    /// `ListenBuildHistory`
    pub fn listen(&self, asked: &[u8]) -> Reply {
        let (mut active, mut reference, mut once, mut limit) = (false, String::new(), false, 0);
        for (field, value) in Fields(asked) {
            match field {
                1 => active = value.number() != 0,
                2 => reference = value.text(),
                3 => once = value.number() != 0,
                4 => {
                    return Err(Status::new(
                        code::UNIMPLEMENTED,
                        format!(
                            "the filter {:?} of builds is not supported by knarr",
                            value.text()
                        ),
                    ));
                }
                5 => limit = usize::try_from(value.number()).unwrap_or(0),
                _ => {}
            }
        }
        let (known, mut events): (Vec<Message>, _) = {
            let records = self.records.lock();
            let of = |r: &&Record| {
                (reference.is_empty() || r.reference == reference) && !(active && r.ended.is_some())
            };
            // the newest first, of which as many as are wanted
            let wanted = records.iter().rev().filter(of);
            let most = if limit == 0 { usize::MAX } else { limit };
            let known = wanted.take(most).map(Record::now).collect();
            (known, self.events.subscribe())
        };
        let (send, receive) = mpsc::channel(16);
        tokio::spawn(async move {
            for event in known {
                if send.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            if once {
                return;
            }
            loop {
                let event = tokio::select! {
                    event = events.recv() => event,
                    () = send.closed() => return,
                };
                match event {
                    Ok((of, event)) if reference.is_empty() || of == reference => {
                        if send.send(Ok(event)).await.is_err() {
                            return;
                        }
                    }
                    // it was too slow: what it missed it can ask for
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        Ok(Answer::Many(receive))
    }

    /// `UpdateBuildHistory`: pinned, or forgotten.
    pub fn update(&self, asked: &[u8]) -> Reply {
        let (mut reference, mut pinned, mut delete, mut finalize) =
            (String::new(), false, false, false);
        for (field, value) in Fields(asked) {
            match field {
                1 => reference = value.text(),
                2 => pinned = value.number() != 0,
                3 => delete = value.number() != 0,
                4 => finalize = value.number() != 0,
                _ => {}
            }
        }
        let mut records = self.records.lock();
        let at = records.iter().position(|r| r.reference == reference);
        let at =
            at.ok_or_else(|| Status::new(code::NOT_FOUND, format!("ref {reference} not found")))?;
        if delete {
            if let Some(record) = records.remove(at) {
                self.tell(&record, DELETED);
            }
        } else if !finalize {
            records[at].pinned = pinned;
            self.tell(
                &records[at],
                if records[at].ended.is_some() {
                    COMPLETE
                } else {
                    STARTED
                },
            );
        }
        Ok(Answer::One(Message::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solve(reference: &str) -> Solve {
        Solve {
            reference: reference.into(),
            options: Map::from([("filename".into(), "Dockerfile".into())]),
            ..Solve::default()
        }
    }

    /// (event, build, did it fail) of all that are told.
    async fn told(history: &History, asked: Message) -> Vec<String> {
        let Ok(Answer::Many(mut events)) = history.listen(asked.as_bytes()) else {
            panic!("no events");
        };
        let mut all = vec![];
        while let Some(Ok(event)) = events.recv().await {
            let mut text = String::from("started");
            for (field, value) in Fields(event.as_bytes()) {
                match field {
                    1 if value.number() == COMPLETE => text = "complete".into(),
                    2 => {
                        for (field, value) in value.fields() {
                            match field {
                                1 => text += &format!(" {}", value.text()),
                                5 => text += " failed",
                                14 => text += " pinned",
                                _ => {}
                            }
                        }
                    }
                    _ => {}
                }
            }
            all.push(text);
        }
        all
    }

    fn once() -> Message {
        Message::default().flag(3, true)
    }

    /// As `BuildHistoryRecord` of control.proto numbers them; 18 is no number, and clients break on one.
    #[tokio::test]
    async fn counts_have_buildkits_numbers() {
        let history = History::default();
        history.begin(&solve("a"));
        let counts = Counts {
            total: 3,
            completed: 2,
            cached: 1,
            warnings: 4,
        };
        history.end("a", Ok(Map::new()), counts, vec![]);
        let Ok(Answer::Many(mut events)) = history.listen(once().as_bytes()) else {
            panic!("no events");
        };
        let event = events.recv().await.unwrap().unwrap();
        let record = Fields(event.as_bytes()).find(|(field, _)| *field == 2);
        let numbers = record.unwrap().1.fields().filter(|(field, _)| *field >= 14);
        let numbers: Vec<(u32, i64)> = numbers.map(|(f, v)| (f, v.number())).collect();
        assert_eq!(numbers, [(15, 1), (16, 3), (17, 2), (19, 4)]);
    }

    #[tokio::test]
    async fn builds_are_remembered() {
        let history = History::default();
        for name in ["a", "b", "c"] {
            history.begin(&solve(name));
        }
        assert!(history.log("a").is_none(), "it isn't over");
        history.end(
            "a",
            Ok(Map::new()),
            Counts::default(),
            vec![Message::default()],
        );
        history.end("b", Err(Status::unknown("no")), Counts::default(), vec![]);
        assert_eq!(history.log("a").unwrap().len(), 1);
        assert_eq!(
            told(&history, once()).await,
            ["started c", "complete b failed", "complete a"]
        );
        assert_eq!(told(&history, once().flag(1, true)).await, ["started c"]);
        assert_eq!(told(&history, once().number(5, 2)).await.len(), 2);
        let pin = Message::default().text(1, "a").flag(2, true);
        history.update(pin.as_bytes()).map(drop).unwrap();
        assert_eq!(
            told(&history, once().text(2, "a")).await,
            ["complete a pinned"]
        );
        let forget = Message::default().text(1, "b").flag(3, true);
        history.update(forget.as_bytes()).map(drop).unwrap();
        assert!(history.update(forget.as_bytes()).is_err(), "it is gone");
        assert_eq!(
            told(&history, once()).await,
            ["started c", "complete a pinned"]
        );
        assert!(
            history
                .listen(Message::default().text(4, "x").as_bytes())
                .is_err()
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_lists_and_then_listens_hears_of_each_build_once() {
        for round in 0..500 {
            let history = Arc::new(History::default());
            let both = Arc::new(std::sync::Barrier::new(2));
            let begins = {
                let (history, both) = (history.clone(), both.clone());
                tokio::task::spawn_blocking(move || {
                    both.wait();
                    history.begin(&solve("a"));
                })
            };
            both.wait();
            let Ok(Answer::Many(mut events)) = history.listen(&[]) else {
                panic!("no events");
            };
            begins.await.unwrap();
            history.begin(&solve("b"));
            for wanted in ["a", "b"] {
                let event = events.recv().await.unwrap().unwrap();
                let record = Fields(event.as_bytes()).find(|(field, _)| *field == 2);
                let reference = record.unwrap().1.fields().find(|(field, _)| *field == 1);
                assert_eq!(reference.unwrap().1.text(), wanted, "round {round}");
            }
        }
    }

    #[tokio::test]
    async fn only_the_last_are_kept_and_those_that_are_pinned() {
        let history = History::default();
        for n in 0..BUILDS + 5 {
            let name = n.to_string();
            history.begin(&solve(&name));
            history.end(&name, Ok(Map::new()), Counts::default(), vec![]);
            if n == 0 {
                let pin = Message::default().text(1, "0").flag(2, true);
                history.update(pin.as_bytes()).map(drop).unwrap();
            }
        }
        let all = told(&history, once()).await;
        assert_eq!(all.len(), BUILDS);
        assert_eq!(all.last().map(String::as_str), Some("complete 0 pinned"));
    }
}
