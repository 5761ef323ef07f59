//! A thousand Pods on one machine: how long from the apply to all being Ready, what the platform and the shims keep in
//! memory for each, and how much later a new Pod is Ready while 110 others restart at once.
//!
//! `cargo bench -p knarr --bench density` as root. `KNARR_BENCH_PODS` changes the thousand, `KNARR_BENCH_SECONDS` how long
//! the machine is left alone before memory is measured. `KNARR_BENCH_MARKS` is the kernel's `trace_marker` to which each new
//! Pod's begin and end are written.
//!
//! Each Pod has a network of its own with an address and one busybox that sleeps; they are one Deployment. What restarts is
//! killed by `SIGKILL` to its first process, as a crash would.

mod common;

use common::{Memory, Platform, Result, isolated, mb, memory, memory_of, ms, percentile, setting};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
    runtime::wait::{Condition, await_condition},
};
use serde_json::json;
use std::{
    fs,
    time::{Duration, Instant},
};

/// How long the whole may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(900);
/// Containers that restart at once.
const CRASHES: usize = 110;
/// Times that they do; never the same ones, which would have to wait for their back-off.
const ROUNDS: usize = 8;
/// New Pods before each of them, for the delay at rest.
const PROBES: usize = 3;

fn main() -> Result<()> {
    isolated(bench())
}

async fn bench() -> Result<()> {
    let count = setting("KNARR_BENCH_PODS", 1000)? as usize;
    let rest = Duration::from_secs(setting("KNARR_BENCH_SECONDS", 30)?);
    let platform = Platform::start()?;
    platform.pack_busybox()?;
    let client = platform.client().await?;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    // the first ones warm everything that is lazy
    for n in 0..3 {
        delay(&pods, &format!("warm-{n}")).await?;
    }
    tokio::time::sleep(rest).await;
    let empty = memory(platform.pid())?;

    let took = all_ready(client, count).await?;
    let at_once = memory(platform.pid())?;
    tokio::time::sleep(rest).await;
    let full = memory(platform.pid())?;
    let shims = memory_of(&platform.shims()?)?;

    let (mut calm, mut storm, mut all_back) = (Vec::new(), Vec::new(), Vec::new());
    let inits = first_processes(&pods).await?;
    // in turns, so that what else the machine does is in both
    for (round, crashing) in inits.chunks(CRASHES).take(ROUNDS).enumerate() {
        for n in 0..PROBES {
            calm.push(delay(&pods, &format!("calm-{round}-{n}")).await?);
        }
        let restarts = restarts(&pods).await?;
        let begin = Instant::now();
        for pid in crashing {
            kill(*pid)?;
        }
        storm.push(delay(&pods, &format!("storm-{round}")).await?);
        settled(&pods, restarts + crashing.len() as i64).await?;
        all_back.push(begin.elapsed());
    }

    println!("| {count} Pods | |");
    println!("|---|---:|");
    println!("| apply → all Ready | {:.1} s |", took.as_secs_f64());
    println!(
        "| Pods started per second | {:.0} |",
        count as f64 / took.as_secs_f64()
    );
    let each = |kib: u64| kib as f64 / count as f64;
    println!("| platform without Pods | {} |", shown(empty));
    println!("| platform when all are Ready | {} |", shown(at_once));
    println!("| platform {} s later | {} |", rest.as_secs(), shown(full));
    println!(
        "| platform's memory per Pod | {:.0} KiB |",
        each(full.pss.saturating_sub(empty.pss))
    );
    println!("| a shim | {:.0} KiB PSS |", each(shims.pss));
    row("a new Pod at rest", calm);
    row(&format!("a new Pod while {CRASHES} restart"), storm);
    row("until they all run again and are Ready", all_back);
    Ok(())
}

fn shown(m: Memory) -> String {
    format!(
        "{:.1} MB PSS, {:.1} MB of it heap and stacks",
        mb(m.pss),
        mb(m.anonymous)
    )
}

fn row(name: &str, mut times: Vec<Duration>) {
    times.sort();
    println!(
        "| {name} | p50 {:.0} ms, max {:.0} ms |",
        ms(percentile(&times, 50)),
        ms(times.last().copied().unwrap_or_default())
    );
}

/// Applies the Deployment; how long until all its Pods are Ready.
async fn all_ready(client: kube::Client, count: usize) -> Result<Duration> {
    let deployments: Api<Deployment> = Api::default_namespaced(client);
    let deployment = serde_json::from_value(json!({
        "metadata": { "name": "many" },
        "spec": {
            "replicas": count,
            "selector": { "matchLabels": { "app": "many" } },
            "template": {
                "metadata": { "labels": { "app": "many" } },
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{ "name": "c", "image": "bench:1" }],
                },
            },
        },
    }))?;
    let begin = Instant::now();
    deployments
        .create(&PostParams::default(), &deployment)
        .await?;
    let ready = move |d: Option<&Deployment>| {
        let ready = d.and_then(|d| d.status.as_ref()?.ready_replicas);
        ready == i32::try_from(count).ok()
    };
    tokio::time::timeout(PATIENCE, await_condition(deployments, "many", ready))
        .await
        .map_err(|_| format!("not all are Ready after {PATIENCE:?}"))??;
    Ok(begin.elapsed())
}

/// Makes a Pod, and removes it again; how long until it was Ready.
async fn delay(pods: &Api<Pod>, name: &str) -> Result<Duration> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "c", "image": "bench:1" }],
        },
    }))?;
    mark(&format!("{name} begins"))?;
    let begin = Instant::now();
    pods.create(&PostParams::default(), &pod).await?;
    until(pods, name, is_ready).await?;
    let took = begin.elapsed();
    mark(&format!("{name} took {:.1} ms", ms(took)))?;
    pods.delete(name, &DeleteParams::default()).await?;
    until(pods, name, |pod: Option<&Pod>| pod.is_none()).await?;
    Ok(took)
}

/// Says it to who traces the kernel meanwhile.
fn mark(text: &str) -> Result<()> {
    if let Some(path) = std::env::var_os("KNARR_BENCH_MARKS") {
        fs::write(path, text)?;
    }
    Ok(())
}

async fn until(pods: &Api<Pod>, name: &str, condition: impl Condition<Pod>) -> Result<()> {
    let wait = await_condition(pods.clone(), name, condition);
    tokio::time::timeout(PATIENCE, wait)
        .await
        .map_err(|_| format!("{name}: nothing after {PATIENCE:?}"))??;
    Ok(())
}

fn is_ready(pod: Option<&Pod>) -> bool {
    pod.and_then(|p| p.status.as_ref())
        .and_then(|s| s.conditions.as_ref())
        .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// How often all containers have been started again.
async fn restarts(pods: &Api<Pod>) -> Result<i64> {
    let all = pods.list(&ListParams::default().labels("app=many")).await?;
    let statuses = all.items.iter().filter_map(|p| p.status.as_ref());
    let containers = statuses.flat_map(|s| s.container_statuses.iter().flatten());
    Ok(containers.map(|c| i64::from(c.restart_count)).sum())
}

/// Waits until so many restarts are told and all are Ready.
async fn settled(pods: &Api<Pod>, wanted: i64) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let all = pods.list(&ListParams::default().labels("app=many")).await?;
        if all.items.iter().all(|p| is_ready(Some(p))) && restarts(pods).await? >= wanted {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err("the restarts did not end".into())
}

/// The first process of each container, by the control group that is named after it.
async fn first_processes(pods: &Api<Pod>) -> Result<Vec<u32>> {
    let all = pods.list(&ListParams::default().labels("app=many")).await?;
    let ids: std::collections::HashSet<String> = all
        .items
        .iter()
        .filter_map(|p| {
            p.status
                .as_ref()?
                .container_statuses
                .as_ref()?
                .first()?
                .container_id
                .clone()
        })
        .filter_map(|id| Some(id.split_once("://")?.1.to_string()))
        .collect();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if !command.ends_with(b"sleep\x001000000\0") {
            continue;
        }
        let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if groups.split(['/', '\n']).any(|part| ids.contains(part)) {
            found.push(pid);
        }
    }
    if found.is_empty() {
        return Err("no container's process was found by its control group".into());
    }
    Ok(found)
}

fn kill(pid: u32) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(pid as i32).ok_or("no process")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    Ok(())
}
