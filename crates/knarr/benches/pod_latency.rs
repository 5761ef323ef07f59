//! From the API call that creates a Pod to the watch event that says it is Ready, 100 times, one after the other and ten
//! at a time, on a whole platform; beside it `podman run --detach` of the same program, from start to return.
//!
//! `cargo bench -p knarr --bench pod_latency` as root. `KNARR_BENCH_PODS` changes the hundred.
//!
//! knarr's Pod does more: an API write and a status write to disk, a network of its own with an address, an overlay.
//! podman's has no network and no overlay; it is a process that is started, where ours is asked over HTTPS.

mod common;

use common::{Platform, Podman, Result, isolate, mb, memory, ms, percentile, run, setting};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams, WatchEvent, WatchParams},
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
const AT_ONCE: usize = 10;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Until {
    Ready,
    Gone,
}

type Waiting = Arc<Mutex<HashMap<(String, Until), oneshot::Sender<Instant>>>>;

fn main() -> Result<()> {
    isolate()?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(bench())
}

async fn bench() -> Result<()> {
    let pods = setting("KNARR_BENCH_PODS", 100)? as usize;
    let platform = Platform::start()?;
    platform.pack_busybox()?;
    let pods_api: Api<Pod> = Api::default_namespaced(platform.client().await?);
    let waiting = Waiting::default();
    let watch = tokio::spawn(watch(pods_api.clone(), waiting.clone()));
    // the first ones warm everything that is lazy
    for n in 0..3 {
        one(&pods_api, &waiting, format!("warm-{n}")).await?;
    }
    let mut alone = Vec::new();
    for n in 0..pods {
        alone.push(one(&pods_api, &waiting, format!("alone-{n}")).await?);
    }
    let mut together = Vec::new();
    for round in 0..pods / AT_ONCE {
        let all = (0..AT_ONCE).map(|n| one(&pods_api, &waiting, format!("ten-{round}-{n}")));
        for took in futures::future::join_all(all).await {
            together.push(took?);
        }
    }
    watch.abort();
    let kept = memory(platform.pid())?;
    let podman = Podman::new(platform.data.path())?;
    let rival = podman_alone(&podman, pods.div_ceil(5));
    let rival_together = podman_together(&podman, pods.div_ceil(50));

    println!("| create → Ready | n | p50 ms | p99 ms | max ms | p50 to ours |");
    println!("|---|---:|---:|---:|---:|---:|");
    let base = row("knarr, one after the other", Ok(alone), None);
    row("podman run, one after the other", rival, base);
    let base = row("knarr, ten at a time", Ok(together), None);
    row("podman run, ten at a time", rival_together, base);
    println!(
        "\nthe platform after these {} Pods: {:.1} MB PSS, of it heap and stacks {:.1} MB",
        pods * 2,
        mb(kept.pss),
        mb(kept.anonymous)
    );
    Ok(())
}

/// Prints; gives the median.
fn row(name: &str, times: Result<Vec<Duration>>, base: Option<f64>) -> Option<f64> {
    let mut times = match times {
        Ok(times) => times,
        Err(e) => {
            println!("| {name} | does not work here: {e} |");
            return None;
        }
    };
    times.sort();
    let (p50, p99) = (ms(percentile(&times, 50)), ms(percentile(&times, 99)));
    println!(
        "| {name} | {} | {p50:.1} | {p99:.1} | {:.1} | {:.2} |",
        times.len(),
        ms(times.last().copied().unwrap_or_default()),
        p50 / base.unwrap_or(p50),
    );
    Some(p50)
}

/// Creates a Pod, waits until it is Ready, removes it and waits until it is gone; gives the first.
async fn one(pods: &Api<Pod>, waiting: &Waiting, name: String) -> Result<Duration> {
    let ready = expect(waiting, &name, Until::Ready);
    let gone = expect(waiting, &name, Until::Gone);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "containers": [{ "name": "c", "image": "bench:1" }],
        },
    }))?;
    let begin = Instant::now();
    pods.create(&PostParams::default(), &pod).await?;
    let at = tokio::time::timeout(PATIENCE, ready)
        .await
        .map_err(|_| format!("{name} is not Ready after {PATIENCE:?}"))??;
    pods.delete(&name, &DeleteParams::default()).await?;
    tokio::time::timeout(PATIENCE, gone)
        .await
        .map_err(|_| format!("{name} is not gone after {PATIENCE:?}"))??;
    Ok(at - begin)
}

fn expect(waiting: &Waiting, name: &str, until: Until) -> oneshot::Receiver<Instant> {
    let (sender, receiver) = oneshot::channel();
    if let Ok(mut waiting) = waiting.lock() {
        waiting.insert((name.to_string(), until), sender);
    }
    receiver
}

fn is_ready(pod: &Pod) -> bool {
    pod.status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Tells who waits. Ends with the benchmark.
async fn watch(pods: Api<Pod>, waiting: Waiting) {
    let mut version = "0".to_string();
    loop {
        let stream = match pods.watch(&WatchParams::default(), &version).await {
            Ok(stream) => stream,
            Err(e) => {
                eprintln!("the watch could not be opened: {e}");
                return;
            }
        };
        let mut stream = stream.boxed();
        while let Some(Ok(event)) = stream.next().await {
            let now = Instant::now();
            let (pod, until) = match event {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => (pod, Until::Ready),
                WatchEvent::Deleted(pod) => (pod, Until::Gone),
                _ => continue,
            };
            version = pod.resource_version().unwrap_or(version);
            if until == Until::Ready && !is_ready(&pod) {
                continue;
            }
            let sender = waiting
                .lock()
                .ok()
                .and_then(|mut w| w.remove(&(pod.name_any(), until)));
            if let Some(sender) = sender {
                let _ = sender.send(now);
            }
        }
    }
}

fn podman_alone(podman: &Podman, rounds: usize) -> Result<Vec<Duration>> {
    Podman::remove(&run(&mut podman.start())?)?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let begin = Instant::now();
        let id = run(&mut podman.start())?;
        times.push(begin.elapsed());
        Podman::remove(&id)?;
    }
    Ok(times)
}

fn podman_together(podman: &Podman, rounds: usize) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let begun: Vec<(String, Duration)> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..AT_ONCE)
                .map(|_| {
                    scope.spawn(|| {
                        let begin = Instant::now();
                        run(&mut podman.start())
                            .map(|id| (id, begin.elapsed()))
                            .map_err(|e| e.to_string())
                    })
                })
                .collect();
            all.into_iter()
                .map(|t| t.join().map_err(|_| "a thread panicked".to_string())?)
                .collect::<std::result::Result<_, String>>()
        })?;
        for (id, took) in begun {
            times.push(took);
            Podman::remove(&id)?;
        }
    }
    Ok(times)
}
