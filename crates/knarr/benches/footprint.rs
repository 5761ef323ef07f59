//! What the platform keeps in memory and uses of a processor: idle, with ten small containers, with the shop; beside it
//! podman's conmon for ten containers of the same program.
//!
//! `cargo bench -p knarr --bench footprint` as root. `KNARR_BENCH_SECONDS` changes the minute that each state is left
//! alone before it is measured, and over which the processor's time is taken.
//!
//! Memory is PSS (`/proc/PID/smaps_rollup`): a process's own pages and its share of those that it shares, program code
//! included.

mod common;

use common::{Memory, Platform, Podman, Result, cpu, isolate, mb, memory, memory_of, run, setting};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};
use serde_json::json;
use std::{fs, time::Duration};

const CONTAINERS: usize = 10;

fn main() -> Result<()> {
    isolate()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(bench())
}

async fn bench() -> Result<()> {
    let rest = Duration::from_secs(setting("KNARR_BENCH_SECONDS", 60)?);
    println!(
        "| state | containers | platform PSS MB | of it heap and stacks MB | shim PSS KB each | of it its own KB | CPU % of a core | wake-ups/s |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    let platform = Platform::start()?;
    measure("idle", &platform, rest)?;
    ten_pods(&platform).await?;
    measure("ten busybox Pods", &platform, rest)?;
    let podman = podman(&platform);
    drop(platform);

    let platform = Platform::start()?;
    let shop = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/shop");
    match run(platform
        .knarr()
        .args(["up", shop])
        .env("CARGO_NET_OFFLINE", "true"))
    {
        Ok(_) => measure("the shop", &platform, rest)?,
        Err(e) => println!("| the shop | does not start here: {e} |"),
    }
    match podman {
        Ok(each) => println!(
            "\npodman, {CONTAINERS} containers: conmon {} KB PSS each, of it its own {} KB",
            each.pss, each.anonymous
        ),
        Err(e) => println!("\npodman does not work here: {e}"),
    }
    Ok(())
}

fn measure(state: &str, platform: &Platform, rest: Duration) -> Result<()> {
    std::thread::sleep(rest);
    let before = cpu(platform.pid())?;
    std::thread::sleep(rest);
    let after = cpu(platform.pid())?;
    let used = after.0.saturating_sub(before.0).as_secs_f64() / rest.as_secs_f64();
    let wakes = after.1.saturating_sub(before.1) as f64 / rest.as_secs_f64();
    let whole = memory(platform.pid())?;
    let shims = platform.shims()?;
    let each = memory_of(&shims)?;
    let count = shims.len().max(1) as u64;
    println!(
        "| {state} | {} | {:.1} | {:.1} | {} | {} | {:.2} | {wakes:.1} |",
        shims.len(),
        mb(whole.pss),
        mb(whole.anonymous),
        each.pss / count,
        each.anonymous / count,
        used * 100.0,
    );
    Ok(())
}

async fn ten_pods(platform: &Platform) -> Result<()> {
    platform.pack_busybox()?;
    let client = platform.client().await?;
    let pods: Api<Pod> = Api::default_namespaced(client);
    for n in 0..CONTAINERS {
        let name = format!("sleeper-{n}");
        let pod = serde_json::from_value(json!({
            "metadata": { "name": name },
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{ "name": "c", "image": "bench:1" }],
            },
        }))?;
        pods.create(&PostParams::default(), &pod).await?;
        let running = kube::runtime::conditions::is_pod_running();
        let wait = kube::runtime::wait::await_condition(pods.clone(), &name, running);
        tokio::time::timeout(Duration::from_secs(60), wait).await??;
    }
    Ok(())
}

/// One conmon's memory while ten run.
fn podman(platform: &Platform) -> Result<Memory> {
    let mut podman = Podman::new(platform.data.path())?;
    let mut monitors = Vec::new();
    for _ in 0..CONTAINERS {
        let id = run(&mut podman.start())?;
        podman.ids.push(id.clone());
        monitors.push(conmon_of(&id)?);
    }
    let all = memory_of(&monitors)?;
    Ok(Memory {
        pss: all.pss / CONTAINERS as u64,
        anonymous: all.anonymous / CONTAINERS as u64,
    })
}

fn conmon_of(id: &str) -> Result<u32> {
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        if line.contains("conmon\0") && line.contains(id) {
            return Ok(pid);
        }
    }
    Err("a container without a conmon".into())
}
