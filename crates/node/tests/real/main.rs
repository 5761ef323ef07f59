//! The node on the real runtime and image store: containers of busybox, as root. `cargo test -p knarr-node --test real -- [name …]`
//!
//! Started with `platform`, this binary is a whole small platform (API, runtime, node) that a test can kill.

mod changes;
mod crash;
mod platform;
mod scenarios;
mod world;

use std::{future::Future, panic, pin::Pin, process::ExitCode};

pub type Test = fn() -> Pin<Box<dyn Future<Output = ()> + Send>>;

fn main() -> ExitCode {
    knarr_runtime::dispatch_role();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .init();
    }
    if args.first().map(String::as_str) == Some("platform") {
        platform::main(&args[1..]);
    }
    assert!(
        rustix::process::getuid().is_root(),
        "these tests make containers: run them as root"
    );
    let names: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    if args.iter().any(|a| a == "--list") {
        for (name, _) in scenarios::ALL.iter().chain(changes::ALL).chain(crash::ALL) {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let mut failed = Vec::new();
    for (name, test) in scenarios::ALL.iter().chain(changes::ALL).chain(crash::ALL) {
        if !names.is_empty() && !names.iter().any(|n| name.contains(n.as_str())) {
            continue;
        }
        let start = std::time::Instant::now();
        let run = panic::catch_unwind(|| {
            let tokio = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            tokio.block_on(test());
        });
        let word = if run.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {word} ({:.1?})", start.elapsed());
        if run.is_err() {
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {}", failed.join(", "));
    ExitCode::FAILURE
}
