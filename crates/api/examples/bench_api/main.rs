//! The API server beside upstream's, on one machine, taking turns: reads, writes, lists, watches and memory.
//!
//! `cargo build --release -p knarr-api --examples && target/release/examples/bench_api --rival kube-apiserver --etcd etcd
//! [--ours target/release/examples/apiserver] [--pods 5000] [--watchers 1000] [--only ours|rival]`
//!
//! The rival is upstream's kube-apiserver, which you bring, with an etcd of its own. Both serve on loopback with TLS and
//! client certificates, both answer writes after an fsync, and both are asked by the same client.

mod load;
mod servers;

use std::path::PathBuf;

use anyhow_free::Result;
use servers::Server;

/// `Box<dyn Error>` under a short name.
mod anyhow_free {
    pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
}

struct Options {
    ours: PathBuf,
    rival: Option<PathBuf>,
    etcd: PathBuf,
    pods: usize,
    watchers: usize,
    only: String,
}

fn options() -> Result<Options> {
    let beside = std::env::current_exe()?.with_file_name("apiserver");
    let mut o = Options {
        ours: beside,
        rival: None,
        etcd: "etcd".into(),
        pods: 5000,
        watchers: 1000,
        only: String::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--ours" => o.ours = value.into(),
            "--rival" => o.rival = Some(value.into()),
            "--etcd" => o.etcd = value.into(),
            "--pods" => o.pods = value.parse()?,
            "--watchers" => o.watchers = value.parse()?,
            "--only" => o.only = value,
            _ => return Err(format!("{flag} is no option; see the head of this example").into()),
        }
    }
    Ok(o)
}

/// One figure of both sides; smaller is better.
struct Line {
    what: String,
    unit: &'static str,
    ours: Option<f64>,
    rival: Option<f64>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let o = options()?;
    let mut lines: Vec<Line> = Vec::new();
    let mut record = |side: usize, what: String, unit: &'static str, value: f64| {
        let at = lines.iter().position(|l| l.what == what);
        let at = at.unwrap_or_else(|| {
            lines.push(Line {
                what,
                unit,
                ours: None,
                rival: None,
            });
            lines.len() - 1
        });
        let line = &mut lines[at];
        if side == 0 {
            line.ours = Some(value);
        } else {
            line.rival = Some(value);
        }
    };
    for side in [0, 1] {
        let skipped = match side {
            0 => o.only == "rival",
            _ => o.only == "ours" || o.rival.is_none(),
        };
        if skipped {
            continue;
        }
        let dir = tempfile::tempdir()?;
        let server = match (side, &o.rival) {
            (0, _) => Server::ours(&o.ours, dir.path()).await?,
            (_, Some(rival)) => Server::rival(rival, &o.etcd, dir.path()).await?,
            _ => continue,
        };
        eprintln!("{} is ready", server.name);
        run(&server, &o, &mut |what, unit, value| {
            eprintln!("  {what:<44} {value:>10.2} {unit}");
            record(side, what, unit, value);
        })
        .await?;
    }
    println!("| smaller is better | | knarr | upstream | ratio |\n|---|---|---:|---:|---:|");
    for l in &lines {
        let show = |v: Option<f64>| v.map_or("–".into(), |v| format!("{v:.2}"));
        let ratio = match (l.ours, l.rival) {
            (Some(a), Some(b)) if a > 0.0 => format!("{:.1}", b / a),
            _ => "–".into(),
        };
        println!(
            "| {} | {} | {} | {} | {ratio} |",
            l.what,
            l.unit,
            show(l.ours),
            show(l.rival)
        );
    }
    Ok(())
}

async fn run(
    s: &Server,
    o: &Options,
    record: &mut impl FnMut(String, &'static str, f64),
) -> Result<()> {
    let client = s.client().await?;
    load::namespace(&client).await?;
    settle().await;
    record("memory idle".into(), "MB PSS", s.pss_mb()?);

    let times = load::create_pods(&client, 500, 0, 1).await?;
    percentiles("create a Pod, one after the other", &times, record);
    let started = std::time::Instant::now();
    load::create_pods(&client, o.pods - 500, 500, 16).await?;
    let each = started.elapsed().as_secs_f64() * 1e6 / (o.pods - 500) as f64;
    record("create a Pod, 16 at a time".into(), "µs each", each);
    settle().await;
    record(
        format!("memory with {} Pods", o.pods),
        "MB PSS",
        s.pss_mb()?,
    );

    let times = load::get_pods(&client, 2000, 1).await?;
    percentiles("get a Pod, one after the other", &times, record);
    let started = std::time::Instant::now();
    load::get_pods(&client, 16_000, 16).await?;
    record(
        "get a Pod, 16 at a time".into(),
        "µs each",
        started.elapsed().as_secs_f64() * 1e6 / 16_000.0,
    );
    for (what, accept) in [
        ("JSON", "application/json"),
        ("protobuf", "application/vnd.kubernetes.protobuf"),
    ] {
        let (times, bytes) = load::list_pods(&client, accept, 15).await?;
        record(
            format!("list {} Pods, {what}", o.pods),
            "ms",
            median(&times) * 1e3,
        );
        eprintln!("  ({:.1} MB)", bytes as f64 / 1e6);
    }
    let times = load::update_pods(&client, 500).await?;
    percentiles("update a Pod", &times, record);
    let times = load::apply(&client, 500).await?;
    percentiles("apply a ConfigMap", &times, record);
    let times = load::paced(&client, 1000, 10).await?;
    percentiles(
        "create at 1,000 a second, from when it was due",
        &times,
        record,
    );

    for (name, what, accept) in [
        ("watched", "watchers", "application/json"),
        (
            "watched-as-rows",
            "watchers of rows",
            "application/json;as=Table;v=v1;g=meta.k8s.io",
        ),
    ] {
        let cpu = s.cpu_seconds()?;
        let times = load::fan_out(s, name, accept, o.watchers, 50).await?;
        percentiles(
            &format!("change seen by {} {what}", o.watchers),
            &times,
            record,
        );
        record(
            format!("processor for {} {what} × 50 changes", o.watchers),
            "s",
            s.cpu_seconds()? - cpu,
        );
    }
    settle().await;
    record("memory at the end".into(), "MB PSS", s.pss_mb()?);
    Ok(())
}

async fn settle() {
    tokio::time::sleep(std::time::Duration::from_secs(8)).await;
}

fn median(times: &[f64]) -> f64 {
    at(times, 0.5)
}

fn at(times: &[f64], quantile: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len() as f64 * quantile) as usize;
    sorted
        .get(index.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0.0)
}

fn percentiles(what: &str, times: &[f64], record: &mut impl FnMut(String, &'static str, f64)) {
    record(format!("{what}, p50"), "ms", median(times) * 1e3);
    record(format!("{what}, p99"), "ms", at(times, 0.99) * 1e3);
}
