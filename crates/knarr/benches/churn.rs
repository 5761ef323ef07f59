//! Pods that come and go without a pause: so many a second are created, and as many deleted, for a minute; how long each
//! takes from the API call that creates it to the watch event that says it is Ready, and where that time goes.
//!
//! `cargo bench -p knarr --bench churn` as root. `KNARR_BENCH_RATE` changes the 20 a second, `KNARR_BENCH_SECONDS` the
//! minute, `KNARR_BENCH_LIFE_MS` how long a Pod stays once it is Ready (1,000).
//!
//! A Pod is created when it is its time to be, whatever became of those before: a platform that falls behind is not let off.

mod common;

use common::{
    Platform, Result, isolated, mb, memory, ms, percentile,
    ready::{each_event, is},
    setting,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How long one Pod may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// When what was first seen of a Pod.
#[derive(Default, Clone)]
struct Seen {
    created: Option<Instant>,
    bound: Option<Instant>,
    networked: Option<Instant>,
    ready: Option<Instant>,
}

struct Awaited {
    seen: Seen,
    ready: Option<oneshot::Sender<Seen>>,
    gone: Option<oneshot::Sender<()>>,
}

type Waiting = Arc<Mutex<HashMap<String, Awaited>>>;

/// One Pod's way.
struct Took {
    begin: Instant,
    answered: Instant,
    seen: Seen,
}

fn main() -> Result<()> {
    isolated(bench())
}

async fn bench() -> Result<()> {
    let rate = setting("KNARR_BENCH_RATE", 20)?.max(1);
    let seconds = setting("KNARR_BENCH_SECONDS", 60)?.max(1);
    let life = Duration::from_millis(setting("KNARR_BENCH_LIFE_MS", 1000)?);
    let platform = Platform::start()?;
    platform.pack_busybox()?;
    let pods: Api<Pod> = Api::default_namespaced(platform.client().await?);
    let waiting = Waiting::default();
    let watch = tokio::spawn(watch(pods.clone(), waiting.clone()));
    for n in 0..5 {
        // what is lazy is made, and the machine has seen its image
        one(pods.clone(), waiting.clone(), format!("warm-{n}"), life).await?;
    }
    let cpu_before = processor_time(platform.pid())?;
    let begin = tokio::time::Instant::now();
    let mut all = tokio::task::JoinSet::new();
    for n in 0..rate * seconds {
        tokio::time::sleep_until(
            begin + Duration::from_secs(1) * u32::try_from(n)? / u32::try_from(rate)?,
        )
        .await;
        let (pods, waiting) = (pods.clone(), waiting.clone());
        all.spawn(async move {
            one(pods, waiting, format!("pod-{n}"), life)
                .await
                .map_err(|e| e.to_string())
        });
    }
    let mut took = Vec::new();
    while let Some(done) = all.join_next().await {
        took.push(done??);
    }
    let whole = begin.elapsed();
    let cpu = processor_time(platform.pid())?.saturating_sub(cpu_before);
    watch.abort();

    println!("| {rate} Pods a second for {seconds} s | n | p50 ms | p90 ms | p99 ms | max ms |");
    println!("|---|---:|---:|---:|---:|---:|");
    let row = |name: &str, of: &dyn Fn(&Took) -> Option<Instant>| {
        let mut times: Vec<Duration> = took
            .iter()
            .filter_map(|t| Some(of(t)?.saturating_duration_since(t.begin)))
            .collect();
        times.sort();
        let at = |p| ms(percentile(&times, p));
        println!(
            "| {name} | {} | {:.1} | {:.1} | {:.1} | {:.1} |",
            times.len(),
            at(50),
            at(90),
            at(99),
            ms(times.last().copied().unwrap_or_default())
        );
    };
    row("create → answered", &|t| Some(t.answered));
    row("create → seen", &|t| t.seen.created);
    row("create → bound to the node", &|t| t.seen.bound);
    row("create → sandbox and network", &|t| t.seen.networked);
    row("create → Ready", &|t| t.seen.ready);
    println!(
        "\nthe platform used {:.0} % of a processor; {:.1} MB PSS at the end",
        cpu.as_secs_f64() * 100.0 / whole.as_secs_f64(),
        mb(memory(platform.pid())?.pss)
    );
    Ok(())
}

/// Of the platform's own threads, without its shims.
fn processor_time(pid: u32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = text.rsplit_once(')').ok_or("no stat")?.1;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let ticks = |n: usize| -> Result<u64> { Ok(fields.get(n).ok_or("no such field")?.parse()?) };
    // utime and stime, in hundredths of a second
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

/// Creates a Pod, waits until it is Ready, lets it be for a while, removes it and waits until it is gone.
async fn one(pods: Api<Pod>, waiting: Waiting, name: String, life: Duration) -> Result<Took> {
    let (ready_sender, ready) = oneshot::channel();
    let (gone_sender, gone) = oneshot::channel();
    if let Ok(mut waiting) = waiting.lock() {
        let awaited = Awaited {
            seen: Seen::default(),
            ready: Some(ready_sender),
            gone: Some(gone_sender),
        };
        waiting.insert(name.clone(), awaited);
    }
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "c", "image": "bench:1" }],
        },
    }))?;
    let begin = Instant::now();
    pods.create(&PostParams::default(), &pod).await?;
    let answered = Instant::now();
    let seen = tokio::time::timeout(PATIENCE, ready)
        .await
        .map_err(|_| format!("{name} is not Ready after {PATIENCE:?}"))??;
    tokio::time::sleep(life).await;
    pods.delete(&name, &DeleteParams::default()).await?;
    tokio::time::timeout(PATIENCE, gone)
        .await
        .map_err(|_| format!("{name} is not gone after {PATIENCE:?}"))??;
    Ok(Took {
        begin,
        answered,
        seen,
    })
}

/// Tells who waits. Ends with the benchmark.
async fn watch(pods: Api<Pod>, waiting: Waiting) {
    each_event(pods, |pod, gone| {
        let now = Instant::now();
        let Ok(mut waiting) = waiting.lock() else {
            return;
        };
        let name = pod.name_any();
        let Some(awaited) = waiting.get_mut(&name) else {
            return;
        };
        if gone {
            if let Some(sender) = awaited.gone.take() {
                let _ = sender.send(());
            }
            waiting.remove(&name);
            return;
        }
        let seen = &mut awaited.seen;
        seen.created.get_or_insert(now);
        if pod.spec.as_ref().is_some_and(|s| s.node_name.is_some()) {
            seen.bound.get_or_insert(now);
        }
        if is(pod, "PodReadyToStartContainers") {
            seen.networked.get_or_insert(now);
        }
        if is(pod, "Ready") {
            seen.ready.get_or_insert(now);
            if let Some(sender) = awaited.ready.take() {
                let _ = sender.send(seen.clone());
            }
        }
    })
    .await;
}
