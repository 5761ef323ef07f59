//! Figures, not tests: run by hand with `--ignored --nocapture`.

use serde_json::json;

use super::fake::World;

fn rss_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text
        .lines()
        .find(|l| l.starts_with("Private_Dirty:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn figures() {
    let world = World::new().await;
    let spec = || {
        json!({"volumes": [{"name": "d", "emptyDir": {}}],
        "containers": [{"name": "c", "image": "app:1", "command": ["run"], "env": [{"name": "A", "value": "b"}],
            "ports": [{"containerPort": 80}], "volumeMounts": [{"name": "d", "mountPath": "/d"}],
            "readinessProbe": {"exec": {"command": ["r"]}, "periodSeconds": 3600}}]})
    };
    let mut times = vec![];
    for n in 0..100 {
        let name = format!("warm-{n}");
        let start = std::time::Instant::now();
        world.create(&name, spec()).await;
        loop {
            let pod = world.get(&name).await;
            if super::fake::condition(&pod, "Ready") == "True" {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_micros(200)).await;
        }
        times.push(start.elapsed());
    }
    times.sort();
    eprintln!("create to ready: p50 {:?} p99 {:?}", times[50], times[98]);
    let before = rss_kib();
    let registry = world.node.as_ref().unwrap().inner.registry.clone();
    const MORE: u64 = 500;
    for n in 0..MORE {
        world.create(&format!("more-{n}"), spec()).await;
    }
    for n in 0..MORE {
        world.until_ready(&format!("more-{n}")).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    eprintln!(
        "{} pods; {} KiB a pod, API and fake runtime included",
        registry.all().len(),
        (rss_kib() - before) / MORE
    );
}
