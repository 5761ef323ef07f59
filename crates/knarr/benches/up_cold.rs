//! From nothing running to the shop's first page: `knarr up examples/shop` with built images, the platform's start
//! included, phase by phase.
//!
//! `cargo bench -p knarr --bench up_cold` as root. The first round builds and is not counted; between rounds the app is
//! taken down with its volumes and the platform is stopped. `KNARR_BENCH_ROUNDS` changes the ten.

mod common;

use common::{Result, isolate, knarr, ms, percentile, run, setting};
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

const SHOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/shop");
const PAGE: &str = "127.0.0.1:8080";
/// Between two looks for the page.
const LOOK_MS: u64 = 2;

struct Purge<'a>(&'a Path);

impl Drop for Purge<'_> {
    fn drop(&mut self) {
        if let Err(e) = run(knarr(self.0).args(["stop", "--purge"])) {
            eprintln!("cleaning up {}: {e}", self.0.display());
        }
    }
}

fn main() -> Result<()> {
    isolate()?;
    let rounds = setting("KNARR_BENCH_ROUNDS", 10)?;
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let _purge = Purge(data.path());
    let mut phases: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    for round in 0..=rounds {
        let (page, output) = up(data.path())?;
        if round > 0 {
            phases.entry("first page".into()).or_default().push(page);
            for (name, took) in output.lines().filter_map(phase) {
                phases
                    .entry(format!("phase {name}"))
                    .or_default()
                    .push(took);
            }
        }
        run(knarr(data.path()).args(["down", "--volumes", SHOP]))?;
        run(knarr(data.path()).arg("stop"))?;
    }
    println!("| from nothing running | n | p50 ms | max ms |");
    println!("|---|---:|---:|---:|");
    for (name, times) in &mut phases {
        times.sort();
        println!(
            "| {name} | {} | {:.0} | {:.0} |",
            times.len(),
            ms(percentile(times, 50)),
            ms(percentile(times, 100))
        );
    }
    Ok(())
}

/// `  platform      123 ms`
fn phase(line: &str) -> Option<(&str, Duration)> {
    let words: Vec<&str> = line.strip_prefix("  ")?.split_whitespace().collect();
    match words.as_slice() {
        [name, number, "ms"] => Some((name, Duration::from_millis(number.parse().ok()?))),
        _ => None,
    }
}

/// Runs `up`; gives the time to the first page and what `up` printed.
fn up(data: &Path) -> Result<(Duration, String)> {
    let begin = Instant::now();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let page = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                if fetch().unwrap_or(false) {
                    return Some(begin.elapsed());
                }
                std::thread::sleep(Duration::from_millis(LOOK_MS));
            }
            // it may have come with the end
            fetch().unwrap_or(false).then(|| begin.elapsed())
        });
        let output = run(knarr(data)
            .args(["up", SHOP, "--timings"])
            .env("CARGO_NET_OFFLINE", "true"));
        over.store(true, Ordering::Relaxed);
        let page = page.join().map_err(|_| "the looking thread panicked")?;
        let output = output?;
        let page = page.ok_or("`up` is done and there is no page")?;
        Ok((page, output))
    })
}

fn fetch() -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(PAGE)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}
