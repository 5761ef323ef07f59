//! How long the controllers take: `cargo run --release -p knarr-controllers --example rollout_latency`.
//!
//! In-process, with a durable store in the temporary directory (`TMPDIR` chooses the disk). No pods are run: a node only
//! pretends to be there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;

const ROUNDS: usize = 100;

fn typed<T: serde::de::DeserializeOwned>(v: serde_json::Value) -> T {
    serde_json::from_value(v).expect("a literal of this file")
}

fn show(what: &str, mut all: Vec<Duration>) {
    all.sort();
    let at = |q: usize| all[(all.len() * q / 100).min(all.len() - 1)];
    println!("{what:<44} p50 {:>9.2?}   p99 {:>9.2?}", at(50), at(99));
}

/// Memory of the process's own, without the program's file: heap and stacks, KiB.
fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|l| l.strip_prefix("RssAnon:"))
        .and_then(|l| l.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let api = knarr_api::ApiServer::for_tests(dir.path());
    let client = api.client("admin", &["system:masters"], "latency");
    let nodes: Api<Node> = Api::all(client.clone());
    let post = PostParams::default();
    let before = memory_kib();
    let for_controllers = api.clone();
    let controllers = tokio::spawn(knarr_controllers::run(knarr_controllers::Config {
        client: Arc::new(move |name| for_controllers.client(name, &["system:masters"], name)),
        authority: None,
        running: Default::default(),
        node_grace: knarr_controllers::NODE_GRACE,
        volumes_dir: dir.path().join("volumes"),
        only: None,
    }));
    nodes
        .create(&post, &typed(json!({"metadata":{"name":"n"}})))
        .await?;
    let status = json!({"status":{"allocatable":{"cpu":"64","memory":"64Gi","pods":"5000"},
        "conditions":[{"type":"Ready","status":"True"}]}});
    nodes
        .patch_status("n", &PatchParams::default(), &Patch::Merge(status))
        .await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("controllers, idle: {} KiB more", memory_kib() - before);

    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let template =
        json!({"metadata":{"labels":{"app":"a"}},"spec":{"containers":[{"name":"c","image":"i"}]}});
    let mut watch = pods.watch(&WatchParams::default(), "0").await?.boxed();
    let (mut bound, mut created) = (vec![], vec![]);
    for i in 0..ROUNDS {
        let mut pod = template.clone();
        pod["metadata"]["name"] = format!("p{i}").into();
        let start = Instant::now();
        pods.create(&post, &typed(pod)).await?;
        created.push(start.elapsed());
        let from = Instant::now();
        while let Some(event) = watch.next().await {
            if let WatchEvent::Modified(p) = event?
                && p.name_any() == format!("p{i}")
                && p.spec.is_some_and(|s| s.node_name.is_some())
            {
                break;
            }
        }
        bound.push(from.elapsed());
    }
    show("pod: create answered", created);
    show("pod: create answered → bound seen", bound);

    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let (mut first, mut all) = (vec![], vec![]);
    for i in 0..ROUNDS / 2 {
        let name = format!("d{i}");
        let mut t = template.clone();
        t["metadata"]["labels"]["app"] = name.clone().into();
        let d = typed(json!({"metadata":{"name":name},"spec":{"replicas":3,
            "selector":{"matchLabels":{"app":name}},"template":t}}));
        let start = Instant::now();
        deployments.create(&post, &d).await?;
        let mut placed = 0;
        while let Some(event) = watch.next().await {
            match event? {
                WatchEvent::Added(p)
                    if p.labels().get("app") == Some(&name) && first.len() == i =>
                {
                    first.push(start.elapsed());
                }
                WatchEvent::Modified(p)
                    if p.labels().get("app") == Some(&name)
                        && p.spec.as_ref().is_some_and(|s| s.node_name.is_some()) =>
                {
                    placed += 1;
                    if placed == 3 {
                        break;
                    }
                }
                _ => {}
            }
        }
        all.push(start.elapsed());
    }
    show("Deployment: create → first pod made", first);
    show("Deployment: create → 3 pods bound", all);
    println!(
        "controllers and store with {} pods: {} KiB in all",
        pods.list(&Default::default()).await?.items.len(),
        memory_kib()
    );

    let start = Instant::now();
    deployments
        .delete_collection(&DeleteParams::background(), &Default::default())
        .await?;
    loop {
        let left = pods
            .list_metadata(&Default::default())
            .await?
            .items
            .iter()
            .filter(|p| p.metadata.deletion_timestamp.is_none() && p.name_any().starts_with('d'))
            .count();
        if left == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!(
        "{} Deployments deleted → all their pods told to go: {:.2?}",
        ROUNDS / 2,
        start.elapsed()
    );
    controllers.abort();
    Ok(())
}
