//! A priority level at work: its seats, and the queues before them.
//!
//! A request of a flow goes into the shortest of a few queues that the flow's hash deals (shuffle sharding), so that a flow
//! that floods its queues leaves others theirs. The queue served next is the one that has had the least work done (start-time
//! fair queuing, in seats × estimated time).

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::shares::{Asked, Demand, deal};

/// What a request is thought to take before it is known, in seconds (upstream's estimate).
const ESTIMATE_SECONDS: f64 = 0.003;

/// What the shortest request counts as, in seconds: its way through the server is work, too.
const SECONDS_MIN: f64 = 0.0003;

/// How a level treats requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Runs everything at once.
    Exempt,
    /// Refuses what has no seat.
    Reject,
    /// Lets it wait.
    Queue {
        queues: usize,
        hand: usize,
        /// requests in one queue
        length: usize,
    },
}

/// Seats of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub nominal: u32,
    pub lower: u32,
    pub upper: u32,
}

impl Limits {
    /// Seats before anybody has asked for any: half of what may be lent is.
    pub fn start(&self) -> u32 {
        self.nominal - (self.nominal - self.lower) / 2
    }
}

/// Why a request was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// All its queues are full.
    QueueFull,
    /// No seat, and no queues.
    ConcurrencyLimit,
    /// No seat in time.
    TimeOut,
}
impl Refusal {
    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::QueueFull => "queue-full",
            Refusal::ConcurrencyLimit => "concurrency-limit",
            Refusal::TimeOut => "time-out",
        }
    }
}

struct Waiter {
    id: u64,
    seats: u32,
    go: oneshot::Sender<()>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiter>,
    executing: u32,
    /// work done and begun for this queue, in seat-seconds
    work: f64,
}

struct State {
    kind: Kind,
    limits: Limits,
    /// seats at this moment, with what is borrowed and lent
    current: u32,
    /// by number, those that have work; a level with nothing to do has none
    queues: HashMap<usize, Queue>,
    executing: u32,
    executing_seats: u32,
    waiting: usize,
    waiting_seats: u32,
    /// work of the queue that was last served: one that was idle begins here
    virtual_time: f64,
    next_id: u64,
    demand: Demand,
}

/// A priority level.
pub struct Level {
    pub name: String,
    pub uid: String,
    state: Mutex<State>,
}

/// Figures for the metrics.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    pub limits: Limits,
    pub current: u32,
    pub executing: u32,
    pub executing_seats: u32,
    pub waiting: usize,
    pub waiting_seats: u32,
}

/// Seats taken; given back when dropped.
pub struct Seat {
    level: Arc<Level>,
    seats: u32,
    queue: Option<usize>,
    /// on the runtime's clock, which tests can stop
    began: tokio::time::Instant,
}

impl Level {
    pub fn new(name: &str, uid: &str, kind: Kind, limits: Limits) -> Level {
        let now = Instant::now();
        Level {
            name: name.into(),
            uid: uid.into(),
            state: Mutex::new(State {
                kind,
                limits,
                current: limits.start(),
                queues: HashMap::new(),
                executing: 0,
                executing_seats: 0,
                waiting: 0,
                waiting_seats: 0,
                virtual_time: 0.0,
                next_id: 0,
                demand: Demand::new(now),
            }),
        }
    }

    /// A new configuration. Requests that wait in queues there are no more of stay until they are served.
    pub fn configure(&self, kind: Kind, limits: Limits) {
        let mut s = self.state.lock();
        s.kind = kind;
        if s.limits != limits {
            s.limits = limits;
            s.current = s.current.clamp(limits.lower, limits.upper);
        }
        s.dispatch();
    }

    /// Seats from now on.
    pub fn set_current(&self, seats: u32) {
        let mut s = self.state.lock();
        s.current = seats;
        s.dispatch();
    }

    pub fn kind(&self) -> Kind {
        self.state.lock().kind
    }

    /// Most seats one request may take.
    pub fn seats_max(&self) -> u32 {
        let s = self.state.lock();
        match s.kind {
            Kind::Queue { hand, .. } => {
                let part = (f64::from(s.limits.nominal) * 0.15).ceil() as u32;
                part.min(s.limits.nominal / hand.max(1) as u32).max(1)
            }
            _ => 1,
        }
    }

    pub fn figures(&self) -> Figures {
        let s = self.state.lock();
        Figures {
            limits: s.limits,
            current: s.current,
            executing: s.executing,
            executing_seats: s.executing_seats,
            waiting: s.waiting,
            waiting_seats: s.waiting_seats,
        }
    }

    /// Limits, and the demand of the period that ends now.
    pub fn period(&self, now: Instant) -> (Limits, Asked) {
        let mut s = self.state.lock();
        (s.limits, s.demand.period(now))
    }

    /// Takes seats for a request of the flow with this hash, at once or after a wait of `patience` at most.
    pub async fn enter(
        self: &Arc<Level>,
        hash: u64,
        seats: u32,
        patience: Duration,
    ) -> Result<Seat, Refusal> {
        // whoever stops waiting, for whatever reason, leaves the queue
        let mut place = match self.try_enter(hash, seats)? {
            Entered::Now(queue) => return Ok(self.seat(seats, queue)),
            Entered::Waits { queue, id, go } => Place {
                level: self,
                queue,
                id,
                seats,
                go,
                served: false,
            },
        };
        match tokio::time::timeout(patience, &mut place.go).await {
            Ok(Ok(())) => {
                place.served = true;
                Ok(self.seat(seats, Some(place.queue)))
            }
            _ => Err(Refusal::TimeOut),
        }
    }

    fn seat(self: &Arc<Level>, seats: u32, queue: Option<usize>) -> Seat {
        Seat {
            level: self.clone(),
            seats,
            queue,
            began: tokio::time::Instant::now(),
        }
    }

    fn try_enter(&self, hash: u64, seats: u32) -> Result<Entered, Refusal> {
        let mut s = self.state.lock();
        let s = &mut *s;
        let free = s.waiting == 0 && s.fits(seats);
        let entered = match s.kind {
            Kind::Exempt => {
                s.begin(seats);
                Entered::Now(None)
            }
            Kind::Reject if !free => return Err(Refusal::ConcurrencyLimit),
            Kind::Reject => {
                s.begin(seats);
                Entered::Now(None)
            }
            Kind::Queue {
                queues,
                hand,
                length,
            } => {
                let mut shortest = 0;
                let mut least = (usize::MAX, f64::MAX);
                deal(hash, queues as u64, hand, |i| {
                    let load = s.queues.get(&i).map_or((0, s.virtual_time), |q| {
                        (q.waiting.len(), q.work.max(s.virtual_time))
                    });
                    if load < least {
                        (shortest, least) = (i, load);
                    }
                });
                let q = s.queues.entry(shortest).or_default();
                if q.waiting.is_empty() {
                    q.work = q.work.max(s.virtual_time);
                }
                if free {
                    s.virtual_time = q.work;
                    q.work += f64::from(seats) * ESTIMATE_SECONDS;
                    q.executing += 1;
                    s.begin(seats);
                    Entered::Now(Some(shortest))
                } else {
                    if q.waiting.len() >= length {
                        return Err(Refusal::QueueFull);
                    }
                    let (go, wait) = oneshot::channel();
                    let id = s.next_id;
                    s.next_id += 1;
                    q.waiting.push_back(Waiter { id, seats, go });
                    s.waiting += 1;
                    s.waiting_seats += seats;
                    Entered::Waits {
                        queue: shortest,
                        id,
                        go: wait,
                    }
                }
            }
        };
        s.note_demand();
        Ok(entered)
    }
}

enum Entered {
    Now(Option<usize>),
    Waits {
        queue: usize,
        id: u64,
        go: oneshot::Receiver<()>,
    },
}

impl State {
    fn fits(&self, seats: u32) -> bool {
        // a request wider than all there is runs alone
        self.executing_seats + seats <= self.current
            || self.executing_seats == 0 && self.current > 0
    }

    fn begin(&mut self, seats: u32) {
        self.executing += 1;
        self.executing_seats += seats;
    }

    /// A request that was let go ends, having taken so long.
    fn end(&mut self, seats: u32, queue: Option<usize>, seconds: f64) {
        self.executing -= 1;
        self.executing_seats -= seats;
        if let Some(i) = queue
            && let Some(q) = self.queues.get_mut(&i)
        {
            q.executing -= 1;
            // what it really took instead of the estimate
            q.work += f64::from(seats) * (seconds.max(SECONDS_MIN) - ESTIMATE_SECONDS);
            if q.executing == 0 && q.waiting.is_empty() && q.work <= self.virtual_time {
                self.queues.remove(&i);
            }
        }
        if self.executing == 0 && self.waiting == 0 {
            self.queues.clear();
            self.virtual_time = 0.0;
        }
        self.dispatch();
    }

    fn note_demand(&mut self) {
        let seats = self.executing_seats + self.waiting_seats;
        self.demand.set(seats, Instant::now());
    }

    /// Lets those go who have a seat now, the queue with the least work first.
    fn dispatch(&mut self) {
        while self.waiting > 0 {
            let next = self.queues.values_mut().filter(|q| !q.waiting.is_empty());
            let Some(q) = next.min_by(|a, b| a.work.total_cmp(&b.work)) else {
                break; // can't be: waiting counts them
            };
            let Some(seats) = q.waiting.front().map(|w| w.seats) else {
                break;
            };
            if self.executing_seats + seats > self.current
                && !(self.executing_seats == 0 && self.current > 0)
            {
                break;
            }
            let Some(waiter) = q.waiting.pop_front() else {
                break;
            };
            self.waiting -= 1;
            self.waiting_seats -= seats;
            // heard for sure: the other end lives until its waiter has been taken out here (see `Place`)
            let _ = waiter.go.send(());
            self.virtual_time = q.work;
            q.work += f64::from(seats) * ESTIMATE_SECONDS;
            q.executing += 1;
            self.executing += 1;
            self.executing_seats += seats;
        }
        self.note_demand();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let took = self.began.elapsed().as_secs_f64();
        self.level.state.lock().end(self.seats, self.queue, took);
    }
}

/// A place in a queue, given up when dropped.
struct Place<'a> {
    level: &'a Arc<Level>,
    queue: usize,
    id: u64,
    seats: u32,
    go: oneshot::Receiver<()>,
    /// the seat is somebody's
    served: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.served {
            return;
        }
        let mut s = self.level.state.lock();
        let s = &mut *s;
        let queue = s.queues.get_mut(&self.queue);
        let found = queue.and_then(|q| {
            let i = q.waiting.iter().position(|w| w.id == self.id)?;
            q.waiting.remove(i)
        });
        match found {
            Some(w) => {
                s.waiting -= 1;
                s.waiting_seats -= w.seats;
                s.note_demand();
            }
            // let go in the same moment: the seat goes to the next
            None => s.end(self.seats, Some(self.queue), 0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    const LONG: Duration = Duration::from_secs(60);
    const QUEUED: Kind = Kind::Queue {
        queues: 16,
        hand: 2,
        length: 3,
    };

    fn level(kind: Kind, seats: u32) -> Arc<Level> {
        let limits = Limits {
            nominal: seats,
            lower: seats,
            upper: seats,
        };
        Arc::new(Level::new("l", "u", kind, limits))
    }
    /// (executing, seats, waiting)
    fn figures(l: &Level) -> (u32, u32, usize) {
        let f = l.figures();
        (f.executing, f.executing_seats, f.waiting)
    }

    #[tokio::test]
    async fn seats_are_taken_waited_for_and_given_back() {
        let l = level(QUEUED, 2);
        let one = l.enter(1, 1, LONG).await.unwrap();
        let two = l.enter(1, 1, LONG).await.unwrap();
        let mut three = Box::pin(l.enter(1, 1, LONG));
        assert!((&mut three).now_or_never().is_none());
        assert_eq!(figures(&l), (2, 2, 1));
        drop(one);
        let three = three.await.unwrap();
        assert_eq!(figures(&l), (2, 2, 0));
        drop((two, three));
        assert_eq!(figures(&l), (0, 0, 0));
        assert!(l.state.lock().queues.is_empty());
    }

    #[tokio::test]
    async fn who_stops_waiting_leaves_nothing_behind() {
        let l = level(QUEUED, 1);
        let one = l.enter(1, 1, LONG).await.unwrap();
        let mut gone = Box::pin(l.enter(2, 1, LONG));
        assert!((&mut gone).now_or_never().is_none());
        drop(gone);
        assert_eq!(figures(&l), (1, 1, 0));
        let refused = l.enter(3, 1, Duration::from_millis(1)).await;
        assert_eq!(refused.err(), Some(Refusal::TimeOut));
        // let go, and dropped before it noticed
        let mut late = Box::pin(l.enter(4, 1, LONG));
        assert!((&mut late).now_or_never().is_none());
        drop(one);
        assert_eq!(figures(&l), (1, 1, 0));
        drop(late);
        assert_eq!(figures(&l), (0, 0, 0));
    }

    #[tokio::test]
    async fn full_queues_and_levels_without_refuse() {
        let l = level(Kind::Reject, 1);
        let one = l.enter(1, 1, LONG).await.unwrap();
        assert_eq!(
            l.enter(1, 1, LONG).await.err(),
            Some(Refusal::ConcurrencyLimit)
        );
        drop(one);
        assert!(l.enter(1, 1, LONG).await.is_ok());
        let l = level(
            Kind::Queue {
                queues: 1,
                hand: 1,
                length: 2,
            },
            1,
        );
        let _one = l.enter(1, 1, LONG).await.unwrap();
        let mut waiting: Vec<_> = (0..2).map(|_| Box::pin(l.enter(1, 1, LONG))).collect();
        assert!(waiting.iter_mut().all(|w| w.now_or_never().is_none()));
        assert_eq!(l.enter(1, 1, LONG).await.err(), Some(Refusal::QueueFull));
        let l = level(Kind::Exempt, 0);
        let many: Vec<_> = futures::future::join_all((0..100).map(|_| l.enter(1, 1, LONG))).await;
        assert_eq!((many.iter().all(Result::is_ok), figures(&l).0), (true, 100));
    }

    #[tokio::test]
    async fn wide_requests_wait_for_room_and_run_alone_when_there_never_is() {
        let l = level(QUEUED, 4);
        let one = l.enter(1, 2, LONG).await.unwrap();
        let mut wide = Box::pin(l.enter(2, 3, LONG));
        assert!((&mut wide).now_or_never().is_none());
        drop(one);
        drop(wide.await.unwrap());
        assert!(l.enter(3, 9, LONG).await.is_ok());
    }

    // turns go by the time that requests took: here all took the same
    #[tokio::test(start_paused = true)]
    async fn a_flood_leaves_the_others_their_turn() {
        let l = level(
            Kind::Queue {
                queues: 64,
                hand: 2,
                length: 50,
            },
            1,
        );
        let first = l.enter(0, 1, LONG).await.unwrap();
        let (elephant, mouse) = (11, 3 * 64 * 63 + 5);
        let order = Arc::new(Mutex::new(vec![]));
        let mut all: Vec<_> = (0..60)
            .map(|n| (elephant, n))
            .chain((0..3).map(|n| (mouse, n)))
            .map(|(flow, _)| {
                let (l, order) = (l.clone(), order.clone());
                Box::pin(async move {
                    let seat = l.enter(flow, 1, LONG).await.unwrap();
                    order.lock().push(flow);
                    drop(seat);
                })
            })
            .collect();
        assert!(all.iter_mut().all(|w| w.now_or_never().is_none()));
        drop(first);
        futures::future::join_all(all).await;
        let order = order.lock();
        let last = order.iter().rposition(|flow| *flow == mouse).unwrap();
        assert!(
            last < 12,
            "the mouse's third request came as number {last} of {}",
            order.len()
        );
    }
}
