//! A work queue of keys, as client-go's: each key once, never twice at a time, later with back-off.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    hash::Hash,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

/// First pause after a failure.
pub const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// Longest pause after failures.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Keys to look at. It is bounded by the number of distinct keys.
pub struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

struct State<K> {
    order: VecDeque<K>,
    /// to do; a key in `working` and here is done again afterwards
    dirty: HashSet<K>,
    working: HashSet<K>,
    later: BinaryHeap<Reverse<(Instant, K)>>,
    /// the time that counts for a key; other entries of it in `later` are stale
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K: Hash + Eq + Ord + Clone> Default for Queue<K> {
    fn default() -> Self {
        Queue {
            state: Mutex::new(State {
                order: VecDeque::new(),
                dirty: HashSet::new(),
                working: HashSet::new(),
                later: BinaryHeap::new(),
                due: HashMap::new(),
                failures: HashMap::new(),
            }),
            wake: Notify::new(),
        }
    }
}

impl<K: Hash + Eq + Ord + Clone> State<K> {
    fn add(&mut self, key: K) -> bool {
        if !self.dirty.insert(key.clone()) || self.working.contains(&key) {
            return false;
        }
        self.order.push_back(key);
        true
    }
    /// Moves what's due; returns when the next is.
    fn ripen(&mut self, now: Instant) -> Option<Instant> {
        while let Some(Reverse((at, _))) = self.later.peek() {
            if *at > now {
                return Some(*at);
            }
            let Some(Reverse((at, key))) = self.later.pop() else {
                break;
            };
            if self.due.get(&key) == Some(&at) {
                self.due.remove(&key);
                self.add(key);
            }
        }
        None
    }
}

impl<K: Hash + Eq + Ord + Clone> Queue<K> {
    /// To be looked at as soon as possible.
    pub fn add(&self, key: K) {
        if self.state.lock().add(key) {
            self.wake.notify_one();
        }
    }
    /// To be looked at after `pause`, or sooner if it's already due sooner.
    pub fn add_after(&self, key: K, pause: Duration) {
        let at = Instant::now() + pause;
        {
            let mut s = self.state.lock();
            if s.due.get(&key).is_some_and(|t| *t <= at) {
                return;
            }
            s.due.insert(key.clone(), at);
            s.later.push(Reverse((at, key)));
        }
        self.wake.notify_one();
    }
    /// After a failure: each longer than the one before.
    pub fn retry(&self, key: K) -> Duration {
        let n = {
            let mut s = self.state.lock();
            let n = s.failures.entry(key.clone()).or_insert(0);
            *n = n.saturating_add(1);
            *n
        };
        let pause = BACKOFF_MIN
            .saturating_mul(1 << (n - 1).min(20))
            .min(BACKOFF_MAX);
        self.add_after(key, pause);
        pause
    }
    /// It went well: the next failure starts over.
    pub fn forget(&self, key: &K) {
        self.state.lock().failures.remove(key);
    }
    /// The next key; call [`Queue::done`] when through with it.
    pub async fn next(&self) -> K {
        loop {
            let notified = self.wake.notified();
            let (key, more, due) = {
                let mut s = self.state.lock();
                let due = s.ripen(Instant::now());
                let key = s.order.pop_front();
                if let Some(key) = &key {
                    s.dirty.remove(key);
                    s.working.insert(key.clone());
                }
                (key, !s.order.is_empty() || due.is_some(), due)
            };
            if let Some(key) = key {
                if more {
                    self.wake.notify_one();
                }
                return key;
            }
            match due {
                Some(at) => {
                    tokio::select! {
                        _ = notified => {}
                        _ = tokio::time::sleep_until(at) => {}
                    }
                }
                None => notified.await,
            }
        }
    }
    /// Through with a key.
    pub fn done(&self, key: &K) {
        let mut s = self.state.lock();
        s.working.remove(key);
        if s.dirty.contains(key) {
            s.order.push_back(key.clone());
            drop(s);
            self.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_worked_on_once_at_a_time() {
        let q = Queue::<u8>::default();
        q.add(1);
        q.add(1);
        q.add(2);
        assert_eq!(q.next().await, 1);
        q.add(1);
        assert_eq!(q.next().await, 2);
        assert!(
            tokio::time::timeout(Duration::from_secs(1), q.next())
                .await
                .is_err()
        );
        q.done(&1);
        assert_eq!(q.next().await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn later_is_later_and_sooner_wins() {
        let q = Queue::<u8>::default();
        let start = Instant::now();
        q.add_after(1, Duration::from_secs(50));
        q.add_after(1, Duration::from_secs(10));
        q.add_after(1, Duration::from_secs(30));
        q.add_after(2, Duration::from_secs(20));
        assert_eq!(q.next().await, 1);
        assert_eq!(start.elapsed().as_secs(), 10);
        q.done(&1);
        assert_eq!(q.next().await, 2);
        q.done(&2);
        // the stale entries of 1 do nothing
        assert!(
            tokio::time::timeout(Duration::from_secs(100), q.next())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn back_off_grows_to_its_bound_and_is_forgotten() {
        let q = Queue::<u8>::default();
        let pauses: Vec<u128> = (0..16).map(|_| q.retry(1).as_millis()).collect();
        assert_eq!(pauses[..4], [5, 10, 20, 40]);
        assert_eq!(pauses[15], 10_000);
        q.forget(&1);
        assert_eq!(q.retry(1).as_millis(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn no_waiter_is_forgotten() {
        let q = std::sync::Arc::new(Queue::<u32>::default());
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..3 {
            let q = q.clone();
            workers.spawn(async move { q.next().await });
        }
        tokio::task::yield_now().await;
        q.add_after(1, Duration::from_secs(1));
        q.add_after(2, Duration::from_secs(2));
        q.add(3);
        let mut seen = vec![];
        while let Some(k) = workers.join_next().await {
            seen.push(k.unwrap());
        }
        assert_eq!(seen, [3, 1, 2]);
    }
}
