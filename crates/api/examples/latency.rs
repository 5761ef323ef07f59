//! Times the ways that must be short, in-process: pod create to watch event, get, list, patch.
//! `cargo run --release -p knarr-api --example latency`
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |q: usize| times[(times.len() * q / 100).min(times.len() - 1)];
    println!("{what:<28} p50 {:>9.1?}  p99 {:>9.1?}", at(50), at(99));
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let api = knarr_api::ApiServer::for_tests(dir.path());
    let pods: Api<Pod> = Api::default_namespaced(api.client("bench", &["system:masters"], "bench"));
    let watcher: Api<Pod> =
        Api::default_namespaced(api.client("bench", &["system:masters"], "watch"));
    let version = pods
        .list(&ListParams::default())
        .await?
        .metadata
        .resource_version
        .unwrap_or_default();
    let mut events = watcher
        .watch(&WatchParams::default(), &version)
        .await?
        .boxed();
    let (mut create, mut seen, mut get, mut list, mut patch) =
        (vec![], vec![], vec![], vec![], vec![]);
    for i in 0..500 {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": format!("p{i}"), "labels": {"app": "web", "n": format!("{i}")}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "docker.io/library/nginx:1",
                "ports": [{"containerPort": 80}], "env": [{"name": "A", "value": "b"}],
                "resources": {"limits": {"memory": "64Mi"}}, "readinessProbe": {"httpGet": {"path": "/", "port": 80}}}]},
        }))?;
        let t = Instant::now();
        pods.create(&PostParams::default(), &pod).await?;
        create.push(t.elapsed());
        while let Some(e) = events.try_next().await? {
            if matches!(e, WatchEvent::Added(_)) {
                break;
            }
        }
        seen.push(t.elapsed());
        let name = format!("p{i}");
        let t = Instant::now();
        pods.get(&name).await?;
        get.push(t.elapsed());
        let status = serde_json::json!({"status": {"phase": "Running", "podIP": "10.42.0.9"}});
        let t = Instant::now();
        pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
            .await?;
        patch.push(t.elapsed());
        let t = Instant::now();
        pods.list_metadata(&ListParams::default().labels(&format!("n={i}")))
            .await?;
        list.push(t.elapsed());
    }
    report("pod create (with fsync)", create);
    report("pod create to watch event", seen);
    report("pod get", get);
    report("pod status merge patch", patch);
    report("list by label, ≤ 500 pods", list);
    Ok(())
}
