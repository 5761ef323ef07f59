//! Endpoints behind a Service's port: whom to ask next, and the connections that can be used again.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{net::TcpStream, sync::watch, time::timeout};

use crate::{body::Body, listen::keep_alive};

/// A connection idle for longer is not used again: Node.js closes its side after 5 s, others after more.
const IDLE_MAX: Duration = Duration::from_secs(3);
/// Idle connections kept for each endpoint.
const IDLE_CONNECTIONS_MAX: usize = 64;
const CONNECT: Duration = Duration::from_secs(2);
/// Requests of one Service port that wait for an endpoint.
const WAITING_MAX: usize = 16384;
/// How long a connection that just answered may take to be ready again.
const SETTLE: Duration = Duration::from_millis(20);

pub(crate) type Sender1 = http1::SendRequest<Body>;
pub(crate) type Sender2 = http2::SendRequest<Body>;

struct Idle {
    sender: Sender1,
    since: Instant,
}

/// One endpoint of one Service port.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    in_flight: AtomicUsize,
    idle: Mutex<Vec<Idle>>,
    h2: tokio::sync::Mutex<Option<Sender2>>,
    /// No longer an endpoint: nothing new goes there.
    gone: AtomicBool,
    sweeping: AtomicBool,
}

impl Backend {
    fn new(address: SocketAddr) -> Arc<Backend> {
        Arc::new(Backend {
            address,
            in_flight: AtomicUsize::new(0),
            idle: Mutex::default(),
            h2: tokio::sync::Mutex::default(),
            gone: AtomicBool::new(false),
            sweeping: AtomicBool::new(false),
        })
    }

    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        let stream = timeout(CONNECT, TcpStream::connect(self.address)).await??;
        stream.set_nodelay(true)?;
        keep_alive(&stream);
        Ok(stream)
    }

    /// A connection that was used before, if there is one that still stands.
    pub(crate) async fn reuse(&self) -> Option<Sender1> {
        loop {
            // The lock is not held across the wait.
            let mut idle = {
                let mut all = self.idle.lock();
                all.pop()?
            };
            if idle.since.elapsed() > IDLE_MAX || idle.sender.is_closed() {
                continue;
            }
            if idle.sender.is_ready()
                || matches!(timeout(SETTLE, idle.sender.ready()).await, Ok(Ok(())))
            {
                return Some(idle.sender);
            }
        }
    }

    /// A new HTTP/1.1 connection.
    pub(crate) async fn open1(&self) -> io::Result<Sender1> {
        let io = TokioIo::new(self.connect().await?);
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(64 << 10)
            .handshake(io)
            .await
            .map_err(io::Error::other)?;
        // Ends with the last use of its sender.
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    /// The one HTTP/2 connection (prior knowledge); its requests share it.
    pub(crate) async fn open2(&self) -> io::Result<Sender2> {
        let mut held = self.h2.lock().await;
        if let Some(sender) = held.as_ref().filter(|s| !s.is_closed()) {
            return Ok(sender.clone());
        }
        let io = TokioIo::new(self.connect().await?);
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .handshake(io)
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        *held = Some(sender.clone());
        Ok(sender)
    }

    /// Keeps a connection whose answer has been read to the end.
    pub(crate) fn give_back(self: &Arc<Self>, sender: Sender1) {
        if self.gone.load(Relaxed) || sender.is_closed() {
            return;
        }
        {
            let mut idle = self.idle.lock();
            if idle.len() >= IDLE_CONNECTIONS_MAX {
                return;
            }
            idle.push(Idle {
                sender,
                since: Instant::now(),
            });
        }
        if !self.sweeping.swap(true, Relaxed) {
            let backend = self.clone();
            tokio::spawn(async move { backend.sweep().await });
        }
    }

    /// Closes connections that were idle for too long; ends when there is none.
    async fn sweep(&self) {
        loop {
            tokio::time::sleep(IDLE_MAX).await;
            let mut idle = self.idle.lock();
            idle.retain(|i| i.since.elapsed() < IDLE_MAX && !i.sender.is_closed());
            if idle.is_empty() {
                idle.shrink_to_fit();
                self.sweeping.store(false, Relaxed);
                return;
            }
        }
    }

    /// No longer an endpoint.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }

    fn leave(&self) {
        self.gone.store(true, Relaxed);
        self.idle.lock().clear();
        // Requests on it go on; they hold senders of their own.
        if let Ok(mut h2) = self.h2.try_lock() {
            *h2 = None;
        }
    }
}

/// Counts a request or connection as long as it lives.
pub(crate) struct InFlight(pub(crate) Arc<Backend>);

impl InFlight {
    fn new(backend: Arc<Backend>) -> InFlight {
        backend.in_flight.fetch_add(1, Relaxed);
        InFlight(backend)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// The endpoints of one Service port.
pub(crate) struct Group {
    /// `namespace/name:port`, for messages.
    pub(crate) name: String,
    backends: ArcSwap<Vec<Arc<Backend>>>,
    sticky: AtomicBool,
    changed: watch::Sender<()>,
    waiting: AtomicUsize,
}

/// Counts one that waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Group {
    pub(crate) fn new(name: String) -> Arc<Group> {
        Arc::new(Group {
            name,
            backends: ArcSwap::default(),
            sticky: AtomicBool::new(false),
            changed: watch::Sender::new(()),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Replaces the endpoints; those that stay keep their connections and counts.
    pub(crate) fn set(&self, addresses: &[SocketAddr]) {
        let old = self.backends.load();
        if old.iter().map(|b| b.address).eq(addresses.iter().copied()) {
            return;
        }
        let new = addresses
            .iter()
            .map(|address| {
                old.iter()
                    .find(|b| b.address == *address)
                    .cloned()
                    .unwrap_or_else(|| Backend::new(*address))
            })
            .collect::<Vec<_>>();
        // Before the old ones leave: who finds one gone must find another in its place.
        self.backends.store(Arc::new(new));
        for backend in old.iter().filter(|b| !addresses.contains(&b.address)) {
            backend.leave();
        }
        self.changed.send_replace(());
    }

    /// `sessionAffinity: ClientIP`: a client's endpoint stays the same as long as it is one. That is calculated, not
    /// remembered, and so outlasts the seconds that are asked for, and a restart.
    pub(crate) fn stick(&self, sticky: bool) {
        self.sticky.store(sticky, Relaxed);
    }

    /// Two at random, the less busy one of them ("power of two choices", Mitzenmacher 2001); never one of `tried`
    /// while there is another.
    fn pick(&self, client: IpAddr, tried: &[SocketAddr]) -> Option<InFlight> {
        let all = self.backends.load();
        let fresh = all.iter().filter(|b| !tried.contains(&b.address)).count();
        let usable = |b: &&Arc<Backend>| fresh == 0 || !tried.contains(&b.address);
        let count = if fresh == 0 { all.len() } else { fresh };
        let chosen = match count {
            0 => return None,
            1 => all.iter().find(usable)?,
            _ if self.sticky.load(Relaxed) => {
                let usable = all.iter().filter(usable);
                usable.max_by_key(|b| closeness(client, b.address))?
            }
            _ => {
                let first = rand::random_range(0..count);
                let second = (first + rand::random_range(1..count)) % count;
                let nth = |n| all.iter().filter(usable).nth(n);
                let (first, second) = (nth(first)?, nth(second)?);
                // Of equals the first: it is random, so that quiet Services are spread, too.
                match first.in_flight.load(Relaxed) <= second.in_flight.load(Relaxed) {
                    true => first,
                    false => second,
                }
            }
        };
        Some(InFlight::new(chosen.clone()))
    }

    /// An endpoint; waits for one until `end` when there is none, unless too many do.
    pub(crate) async fn choose(
        &self,
        client: IpAddr,
        tried: &[SocketAddr],
        end: tokio::time::Instant,
    ) -> Option<InFlight> {
        if let Some(found) = self.pick(client, tried) {
            return Some(found);
        }
        let others = self.waiting.fetch_add(1, Relaxed);
        let _waiting = Waiting(&self.waiting);
        if others >= WAITING_MAX {
            return None;
        }
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(found) = self.pick(client, tried) {
                return Some(found);
            }
            match tokio::time::timeout_at(end, changed.changed()).await {
                Ok(Ok(())) => {}
                _ => return None,
            }
        }
    }

    /// Waits for `pause`, or until the endpoints change.
    pub(crate) async fn rest(&self, pause: Duration) {
        let mut changed = self.changed.subscribe();
        let _ = timeout(pause, changed.changed()).await;
    }
}

/// The endpoint with the highest is the client's: others that come and go change nothing for most clients
/// ("rendezvous hashing", Thaler and Ravishankar 1998).
fn closeness(client: IpAddr, endpoint: SocketAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    (client, endpoint).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn the_less_busy_of_two() {
        let group = Group::new("x".into());
        assert!(group.pick(CLIENT, &[]).is_none());
        group.set(&[address(1), address(2)]);
        let busy = group.pick(CLIENT, &[]).unwrap();
        for _ in 0..20 {
            assert_ne!(group.pick(CLIENT, &[]).unwrap().0.address, busy.0.address);
        }
        drop(busy);
        let tried = [address(1)];
        for _ in 0..20 {
            assert_eq!(group.pick(CLIENT, &tried).unwrap().0.address, address(2));
        }
        assert!(
            group.pick(CLIENT, &[address(1), address(2)]).is_some(),
            "rather again than nobody"
        );
    }

    #[test]
    fn load_spreads_over_all() {
        let group = Group::new("x".into());
        group.set(&[address(1), address(2), address(3), address(4)]);
        let held = (0..40)
            .map(|_| group.pick(CLIENT, &[]).unwrap())
            .collect::<Vec<_>>();
        for backend in group.backends.load().iter() {
            let count = backend.in_flight.load(Relaxed);
            assert!((6..=14).contains(&count), "{count} of 40 at one of four");
        }
        drop(held);
    }

    #[test]
    fn without_load_all_get_their_turn() {
        let group = Group::new("x".into());
        group.set(&[address(1), address(2), address(3)]);
        let seen = (0..200).map(|_| group.pick(CLIENT, &[]).unwrap().0.address);
        assert_eq!(seen.collect::<std::collections::BTreeSet<_>>().len(), 3);
    }

    #[test]
    fn a_client_keeps_its_endpoint_where_that_is_asked() {
        let group = Group::new("x".into());
        group.stick(true);
        let client = |n: u8| IpAddr::from([192, 0, 2, n]);
        let theirs = |tried: &[SocketAddr]| {
            let all = (0..=255).map(|n| group.pick(client(n), tried).unwrap().0.address);
            all.collect::<Vec<_>>()
        };
        group.set(&[address(1), address(2), address(3)]);
        let busy = (0..9)
            .map(|n| group.pick(client(n), &[]))
            .collect::<Vec<_>>();
        let first = theirs(&[]);
        assert_eq!(theirs(&[]), first, "whatever is busy");
        for endpoint in 1..=3 {
            let count = first.iter().filter(|a| **a == address(endpoint)).count();
            assert!(count > 40, "{count} of 256 clients at one of three");
        }

        let others = theirs(&[address(3)]);
        assert!(
            !others.contains(&address(3)),
            "one that refuses is passed over"
        );
        group.set(&[address(1), address(2)]);
        assert_eq!(theirs(&[]), others);
        group.set(&[address(1), address(2), address(3)]);
        assert_eq!(theirs(&[]), first);
        for (before, after) in first.iter().zip(&others) {
            assert!(before == after || *before == address(3));
        }

        drop(busy);
        group.stick(false);
        let seen = (0..200).map(|_| group.pick(client(1), &[]).unwrap().0.address);
        assert_eq!(seen.collect::<std::collections::BTreeSet<_>>().len(), 3);
    }

    #[tokio::test]
    async fn those_that_wait_get_the_first_endpoint() {
        let group = Group::new("x".into());
        let waiting = group.clone();
        let end = tokio::time::Instant::now() + Duration::from_secs(30);
        let task =
            tokio::spawn(
                async move { waiting.choose(CLIENT, &[], end).await.map(|i| i.0.address) },
            );
        tokio::task::yield_now().await;
        group.set(&[address(7)]);
        assert_eq!(task.await.unwrap(), Some(address(7)));
    }
}
