//! Pods that wait for a node: those to look at now, those that wait out a pause, those that nothing but an event helps (`backend/queue`). Bounded by the pods there are.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::objects::pod::Pod;

use super::verdict::Rules;

/// Pause after the first attempt; doubled with each.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// Longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A pod is looked at again after this, whatever happened or didn't (`podMaxInUnschedulablePodsDuration`).
const PARKED_MAX: Duration = Duration::from_secs(300);

type Uid = Box<str>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// held by its gates
    Gated,
    /// to look at now: by priority, then in order of arrival
    Active(Reverse<i32>, u64),
    /// waits out a pause, or until there's nothing else to do
    Backoff(Instant),
    /// waits out a pause after an error
    Error(Instant),
    /// waits for something to happen, at most until then
    Parked(Instant),
    /// being looked at
    Busy,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<Pod>,
    at: At,
    attempts: u32,
    /// of the last attempt
    tried: Instant,
    /// what turned it away
    rules: Rules,
    /// something happened while it was being looked at
    again: bool,
}

/// The pods that wait.
#[derive(Debug, Default)]
pub struct Pending {
    entries: HashMap<Uid, Entry>,
    active: BTreeSet<(Reverse<i32>, u64, Uid)>,
    backoff: BTreeSet<(Instant, Uid)>,
    errors: BTreeSet<(Instant, Uid)>,
    parked: BTreeSet<(Instant, Uid)>,
    serial: u64,
}

impl Pending {
    fn place(&mut self, uid: &str, to: At) {
        let Some(entry) = self.entries.get_mut(uid) else {
            return;
        };
        let from = std::mem::replace(&mut entry.at, to);
        let key: Uid = uid.into();
        match from {
            At::Active(p, n) => drop(self.active.remove(&(p, n, key.clone()))),
            At::Backoff(t) => drop(self.backoff.remove(&(t, key.clone()))),
            At::Error(t) => drop(self.errors.remove(&(t, key.clone()))),
            At::Parked(t) => drop(self.parked.remove(&(t, key.clone()))),
            At::Gated | At::Busy => {}
        }
        match to {
            At::Active(p, n) => drop(self.active.insert((p, n, key))),
            At::Backoff(t) => drop(self.backoff.insert((t, key))),
            At::Error(t) => drop(self.errors.insert((t, key))),
            At::Parked(t) => drop(self.parked.insert((t, key))),
            At::Gated | At::Busy => {}
        }
    }
    fn activate(&mut self, uid: &str) {
        let Some(entry) = self.entries.get(uid) else {
            return;
        };
        self.serial += 1;
        let to = At::Active(Reverse(entry.pod.spec.priority), self.serial);
        self.place(uid, to);
    }
    /// A pod came or changed. `worth`: the change may help it.
    pub fn put(&mut self, pod: &Arc<Pod>, worth: bool) {
        let uid = &*pod.metadata.uid;
        let gated = !pod.spec.scheduling_gates.is_empty();
        match self.entries.get_mut(uid) {
            None => {
                let entry = Entry {
                    pod: pod.clone(),
                    at: At::Gated,
                    attempts: 0,
                    tried: Instant::now(),
                    rules: Rules::default(),
                    again: false,
                };
                self.entries.insert(uid.into(), entry);
                if !gated {
                    self.activate(uid);
                }
            }
            Some(entry) => {
                entry.pod = pod.clone();
                match entry.at {
                    At::Gated if !gated => self.activate(uid),
                    At::Busy => entry.again |= worth,
                    At::Parked(_) if worth => self.wake(uid),
                    _ => {}
                }
            }
        }
    }
    /// A pod went, or got its node.
    pub fn remove(&mut self, uid: &str) {
        self.place(uid, At::Busy);
        self.entries.remove(uid);
    }
    /// The newest state of a pod that waits.
    pub fn get(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.entries.get(uid).map(|e| &e.pod)
    }
    fn pause(entry: &Entry) -> Instant {
        let doubled = entry.attempts.saturating_sub(1).min(10);
        entry.tried + BACKOFF_MIN.saturating_mul(1 << doubled).min(BACKOFF_MAX)
    }
    fn wake(&mut self, uid: &str) {
        let Some(entry) = self.entries.get(uid) else {
            return;
        };
        let until = Pending::pause(entry);
        if until <= Instant::now() {
            self.activate(uid);
        } else {
            self.place(uid, At::Backoff(until));
        }
    }
    /// The next to look at: the most important of those that are due, else the first of those that wait out a pause (upstream's `SchedulerPopFromBackoffQ`).
    pub fn pop(&mut self) -> Option<Arc<Pod>> {
        let now = Instant::now();
        for set in ["backoff", "errors", "parked"] {
            loop {
                let from = match set {
                    "backoff" => &self.backoff,
                    "errors" => &self.errors,
                    _ => &self.parked,
                };
                match from.first() {
                    Some((at, uid)) if *at <= now => {
                        let uid = uid.clone();
                        self.activate(&uid);
                    }
                    _ => break,
                }
            }
        }
        let uid = match self.active.first() {
            Some((_, _, uid)) => uid.clone(),
            None => self.backoff.first()?.1.clone(),
        };
        self.place(&uid, At::Busy);
        let entry = self.entries.get_mut(&uid)?;
        entry.attempts = entry.attempts.saturating_add(1);
        entry.tried = now;
        entry.again = false;
        Some(entry.pod.clone())
    }
    /// When there will be one to look at, if nothing happens.
    pub fn due(&self) -> Option<Instant> {
        let first = |set: &BTreeSet<(Instant, Uid)>| set.first().map(|(at, _)| *at);
        first(&self.errors)
            .into_iter()
            .chain(first(&self.parked))
            .min()
    }
    /// No node would do: it waits for something that may help against these rules.
    pub fn park(&mut self, uid: &str, rules: Rules) {
        let Some(entry) = self.entries.get_mut(uid) else {
            return;
        };
        entry.rules = rules;
        let again = std::mem::take(&mut entry.again);
        self.place(uid, At::Parked(Instant::now() + PARKED_MAX));
        if again {
            self.wake(uid);
        }
    }
    /// Something failed: another try after a pause.
    pub fn retry(&mut self, uid: &str) {
        if let Some(entry) = self.entries.get(uid) {
            let until = Pending::pause(entry);
            self.place(uid, At::Error(until));
        }
    }
    /// Something happened: those wake that it `helps`.
    pub fn happened(&mut self, helps: impl Fn(Rules, &Pod) -> bool) {
        let woken: Vec<Uid> = self
            .parked
            .iter()
            .filter(|(_, uid)| {
                self.entries
                    .get(uid)
                    .is_some_and(|e| helps(e.rules, &e.pod))
            })
            .map(|(_, uid)| uid.clone())
            .collect();
        for uid in woken {
            self.wake(&uid);
        }
    }
    /// It's looked at as soon as possible, wherever it waits.
    pub fn now(&mut self, uid: &str) {
        match self.entries.get_mut(uid) {
            Some(e) if matches!(e.at, At::Parked(_) | At::Backoff(_)) => self.activate(uid),
            Some(e) if e.at == At::Busy => e.again = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::verdict::Rule, *};
    use serde_json::json;

    fn pod(uid: &str, priority: i32, gated: bool) -> Arc<Pod> {
        let gates = if gated {
            json!([{"name":"g"}])
        } else {
            json!([])
        };
        Arc::new(
            serde_json::from_value(json!({"metadata":{"name":uid,"uid":uid},
                "spec":{"priority":priority,"schedulingGates":gates}}))
            .unwrap(),
        )
    }
    fn next(q: &mut Pending) -> String {
        q.pop().map_or("-".into(), |p| p.metadata.uid.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn the_important_first_then_the_first() {
        let mut q = Pending::default();
        q.put(&pod("a", 0, false), true);
        q.put(&pod("b", 0, false), true);
        q.put(&pod("c", 5, false), true);
        q.put(&pod("g", 9, true), true);
        assert_eq!(
            [next(&mut q), next(&mut q), next(&mut q), next(&mut q)],
            ["c", "a", "b", "-"]
        );
        q.put(&pod("g", 9, false), true);
        assert_eq!(next(&mut q), "g");
    }

    #[tokio::test(start_paused = true)]
    async fn what_helps_wakes() {
        let mut q = Pending::default();
        let mut rules = Rules::default();
        rules.insert(Rule::Ports);
        for uid in ["a", "b"] {
            q.put(&pod(uid, 0, false), true);
            next(&mut q);
        }
        q.park("a", rules);
        q.park("b", Rules::default());
        assert_eq!(next(&mut q), "-");
        q.happened(|r, _| r.has(Rule::Ports));
        // its pause isn't over, but there is nothing else to do
        assert_eq!(next(&mut q), "a");
        // what happens while it's looked at counts
        q.now("a");
        q.park("a", rules);
        assert_eq!([next(&mut q), next(&mut q)], ["a", "-"]);
        q.remove("a");
        // nothing helped b, but it isn't forgotten
        assert_eq!(q.due().map(|d| d - Instant::now()), Some(PARKED_MAX));
        tokio::time::advance(PARKED_MAX).await;
        assert_eq!(next(&mut q), "b");
    }

    #[tokio::test(start_paused = true)]
    async fn errors_wait_longer_each_time() {
        let mut q = Pending::default();
        q.put(&pod("a", 0, false), true);
        let mut pauses = vec![];
        for _ in 0..6 {
            assert_eq!(next(&mut q), "a");
            q.retry("a");
            assert_eq!(next(&mut q), "-");
            let pause = q.due().unwrap() - Instant::now();
            pauses.push(pause.as_secs());
            tokio::time::advance(pause).await;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
    }
}
