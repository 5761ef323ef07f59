//! A Service's address beside its Pod's own: requests a second and latency by wrk on nginx, and the throughput of one large
//! answer; in turns.
//!
//! `cargo bench -p knarr --bench service` as root, with wrk and nginx. `KNARR_BENCH_ROUNDS` changes the five, each of
//! `KNARR_BENCH_SECONDS` (5) a side; nginx has one worker, wrk two threads and 32 connections.

mod common;

use common::{
    Platform, Result,
    figures::{Better, Figures},
    isolated,
    ready::Pods,
    setting, web, wrk,
};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, api::PostParams};
use serde_json::json;

fn main() -> Result<()> {
    isolated(bench())
}

async fn bench() -> Result<()> {
    let rounds = setting("KNARR_BENCH_ROUNDS", 5)?;
    let seconds = setting("KNARR_BENCH_SECONDS", 5)?;
    let platform = Platform::start()?;
    web::pack(&platform)?;
    let client = platform.client().await?;
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": "web" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": web::PORT }] },
    }))?;
    let service = services.create(&PostParams::default(), &service).await?;
    let vip = service
        .spec
        .and_then(|s| s.cluster_ip)
        .ok_or("the Service has no address")?;
    let pods = Pods::new(client);
    let pod = web::start(&platform, &pods).await?;
    let sides = [
        ("directly to the Pod", format!("{pod}:{}", web::PORT)),
        ("by the Service's address", format!("{vip}:80")),
    ];
    for (_, at) in &sides {
        web::until_there(at)?;
    }
    let mut requests = Figures::new("requests a second", "1/s", Better::More);
    let mut half = Figures::times("latency of a request, the half");
    let mut most = Figures::times("latency of a request, 99 of 100");
    let mut large = Figures::new("one large answer", "MB/s", Better::More);
    for round in 0..=rounds {
        for (name, at) in &sides {
            let load = wrk::load(at, 2, 32, seconds)?;
            let speed = web::download(at, "/large")?;
            // the first round warms
            if round > 0 {
                requests.add(name, load.requests);
                half.add(name, load.half_ms);
                most.add(name, load.most_ms);
                large.add(name, speed);
            }
        }
    }
    for figures in [&requests, &half, &most, &large] {
        figures.print();
    }
    Ok(())
}
