//! Durable writes of 1 KiB values at 1, 8 and 64 writers: this store beside Debian's etcd, in one run, on one disk.
//!
//! `cargo bench -p knarr-store` (needs `etcd` on the PATH: Debian's etcd-server). `KNARR_BENCH_DIR` chooses the
//! filesystem (default: the current directory), `KNARR_BENCH_SECONDS` how long each of the measurements takes
//! (default 3). The two take turns, three times each; the figures are those of the turn with the median throughput.
//! etcd is spoken to as its own clients do, in gRPC over HTTP/2 on loopback, a connection per writer.

mod etcd;

use knarr_store::{Expect, Op, Options, Store, Value};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const VALUE_BYTES: usize = 1024;
const KEYS_PER_WRITER: usize = 100;
const TURNS: usize = 3;

fn main() {
    let dir = std::env::var_os("KNARR_BENCH_DIR").map_or_else(|| ".".into(), PathBuf::from);
    let seconds =
        std::env::var("KNARR_BENCH_SECONDS").map_or(3.0, |text| text.parse().expect("seconds"));
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(run(&dir, Duration::from_secs_f64(seconds)));
}

async fn run(dir: &Path, turn: Duration) {
    let dir = tempfile::tempdir_in(dir).expect("a directory on the filesystem to measure");
    let etcd = etcd::Server::start(&dir.path().join("etcd")).await;
    let store = Store::open(Options::new(dir.path().join("knarr"))).expect("store");
    println!(
        "durable writes, {VALUE_BYTES}-byte values, on {}",
        dir.path().display()
    );
    println!("writers          p50      p99     writes/s");
    for writers in [1, 8, 64] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            ours.push(measure(writers, turn, |writer| Ours::new(&store, writer)).await);
            let clients = etcd::connect(&etcd, writers).await;
            theirs.push(measure(writers, turn, |writer| clients[writer].clone()).await);
        }
        let (ours, theirs) = (median(ours), median(theirs));
        println!("{writers:>3} knarr  {ours}");
        println!("{writers:>3} etcd   {theirs}");
        println!(
            "    ratio  {:>7.2}x {:>7.2}x {:>11.2}x  (above 1: knarr is better)",
            theirs.p50_us / ours.p50_us,
            theirs.p99_us / ours.p99_us,
            ours.writes_per_second / theirs.writes_per_second
        );
    }
    let stats = store.stats();
    println!(
        "knarr put {} commits into {} syncs",
        stats.commits, stats.batches
    );
}

/// One writer's way to write a key durably.
trait Target: Send + 'static {
    fn put(&mut self, key: &str, value: Vec<u8>) -> impl Future<Output = ()> + Send;
}

struct Ours {
    store: Store,
}

impl Ours {
    fn new(store: &Store, _writer: usize) -> Ours {
        Ours {
            store: store.clone(),
        }
    }
}

impl Target for Ours {
    async fn put(&mut self, key: &str, value: Vec<u8>) {
        let op = Op::Put {
            key: key.into(),
            value: Value::Bytes(value.into()),
            expect: Expect::Any,
        };
        self.store.commit(vec![op]).await.expect("commit");
    }
}

struct Figures {
    p50_us: f64,
    p99_us: f64,
    writes_per_second: f64,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (p50, p99) = (self.p50_us / 1000.0, self.p99_us / 1000.0);
        write!(
            f,
            "{p50:>5.2} ms {p99:>5.2} ms {:>12.0}",
            self.writes_per_second
        )
    }
}

fn median(mut turns: Vec<Figures>) -> Figures {
    turns.sort_by(|a, b| a.writes_per_second.total_cmp(&b.writes_per_second));
    turns.swap_remove(TURNS / 2)
}

async fn measure<T: Target>(
    writers: usize,
    turn: Duration,
    target: impl Fn(usize) -> T,
) -> Figures {
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let mut target = target(writer);
            tokio::spawn(async move {
                let keys: Vec<Arc<str>> = (0..KEYS_PER_WRITER)
                    .map(|key| format!("bench/{writer:02}/{key:03}").into())
                    .collect();
                let mut latencies_us = Vec::new();
                for key in keys.iter().cycle() {
                    let before = Instant::now();
                    target.put(key, vec![b'x'; VALUE_BYTES]).await;
                    latencies_us.push(before.elapsed().as_secs_f64() * 1e6);
                    if start.elapsed() > turn {
                        break;
                    }
                }
                latencies_us
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.expect("writer"));
    }
    let seconds = start.elapsed().as_secs_f64();
    all.sort_by(f64::total_cmp);
    Figures {
        p50_us: all[all.len() / 2],
        p99_us: all[all.len() * 99 / 100],
        writes_per_second: all.len() as f64 / seconds,
    }
}
