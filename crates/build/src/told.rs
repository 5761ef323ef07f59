//! Steps as they are told of: numbered, timed, ended exactly once.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use crate::{
    error::Error,
    progress::{Event, Outcome, Progress, StepId},
};

pub(crate) struct Told<'a> {
    progress: &'a dyn Progress,
    next: AtomicUsize,
    pub(crate) run: AtomicUsize,
    pub(crate) cached: AtomicUsize,
}

impl<'a> Told<'a> {
    pub(crate) fn new(progress: &'a dyn Progress) -> Told<'a> {
        Told {
            progress,
            next: AtomicUsize::new(1),
            run: AtomicUsize::new(0),
            cached: AtomicUsize::new(0),
        }
    }
    pub(crate) fn begin(&self, name: &str) -> Telling<'_> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.progress.tell(Event::Started {
            id,
            name: name.to_owned(),
        });
        Telling {
            told: self,
            id,
            since: Instant::now(),
            ended: false,
        }
    }
    pub(crate) fn warn(&self, text: impl Into<String>) {
        self.progress.tell(Event::Warning { text: text.into() });
    }
}

/// One step. Dropped before its end, it was canceled.
pub(crate) struct Telling<'a> {
    told: &'a Told<'a>,
    id: StepId,
    since: Instant,
    ended: bool,
}

impl Telling<'_> {
    pub(crate) fn output(&self, stderr: bool, bytes: Vec<u8>) {
        let id = self.id;
        let event = Event::Output { id, stderr, bytes };
        self.told.progress.tell(event);
    }
    pub(crate) fn transfer(&self, what: &str, done: u64, total: u64) {
        self.told.progress.tell(Event::Transfer {
            id: self.id,
            what: what.to_owned(),
            done,
            total,
        });
    }
    fn end(&mut self, outcome: Outcome) {
        if !std::mem::replace(&mut self.ended, true) {
            let (id, took) = (self.id, self.since.elapsed());
            let event = Event::Ended { id, outcome, took };
            self.told.progress.tell(event);
        }
    }
    pub(crate) fn done(mut self) {
        self.end(Outcome::Done);
    }
    pub(crate) fn cached(mut self) {
        self.end(Outcome::Cached);
    }
    pub(crate) fn failed(mut self, why: &str) {
        self.end(Outcome::Failed(why.to_owned()));
    }
    /// Ends it as the result says.
    pub(crate) fn result<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        match &result {
            Ok(_) => self.done(),
            Err(e) => self.failed(&e.to_string()),
        }
        result
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.end(Outcome::Canceled);
    }
}
