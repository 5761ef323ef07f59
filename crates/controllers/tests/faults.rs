//! All goes well in the end although requests get lost, answers get lost, watches break and controllers are killed.

mod cluster;

use std::{sync::atomic::Ordering, time::Duration};

use cluster::{deployment, eventually, same, serves, start, template};
use kube::api::DeleteParams;
use serde_json::json;

/// Per cent of requests that fail.
const FAULTS: u32 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_goes_well_in_the_end() {
    let mut c = start().await;
    c.faults.store(FAULTS, Ordering::Relaxed);
    c.create("ns", json!({"metadata":{"name":"doomed"}})).await;
    c.create_in("deploy", "doomed", deployment("web", 3, "v1"))
        .await;
    for name in ["a", "b", "c"] {
        c.create("deploy", deployment(name, 4, "v1")).await;
        let svc = json!({"metadata":{"name":name},"spec":{"selector":{"app":name},"ports":[{"port":80}]}});
        c.create("svc", svc).await;
    }
    let mut sts = json!({"metadata":{"name":"db"},"spec":{"replicas":3,"serviceName":"db",
        "selector":{"matchLabels":{"app":"db"}},"template":template("db","v1")}});
    sts["spec"]["volumeClaimTemplates"] = json!([{"metadata":{"name":"data"},
        "spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}]);
    c.create("sts", sts).await;
    c.create(
        "ds",
        json!({"metadata":{"name":"agent"},"spec":{"selector":{"matchLabels":{"app":"agent"}},"template":template("agent","v1")}}),
    )
    .await;
    for round in 2..6 {
        let image = format!("v{round}");
        for name in ["a", "b", "c"] {
            let patch =
                json!({"spec":{"replicas":3 + round % 2,"template":template(name, &image)}});
            c.patch("deploy", name, patch).await;
        }
        for (kind, name) in [("sts", "db"), ("ds", "agent")] {
            c.patch(
                kind,
                name,
                json!({"spec":{"template":template(name, &image)}}),
            )
            .await;
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
        if round % 2 == 0 {
            c.kill_controllers();
            c.start_controllers();
        }
    }
    c.delete("ns", "doomed", DeleteParams::default()).await;
    c.delete("deploy", "c", DeleteParams::foreground()).await;
    // nothing more fails from here on in the last half: what is wrong now must come right by itself
    tokio::time::sleep(Duration::from_secs(2)).await;
    c.faults.store(0, Ordering::Relaxed);

    for name in ["a", "b"] {
        c.rolled_out(name).await;
    }
    c.gone("deploy", "c").await;
    c.gone("ns", "doomed").await;
    let images = |app: &'static str| {
        let c = &c;
        async move {
            let all = c.list("pod").await;
            let mut images: Vec<String> = all
                .iter()
                .filter(|p| p["metadata"]["labels"]["app"] == app)
                .map(|p| {
                    let image = p["spec"]["containers"][0]["image"].as_str().unwrap();
                    format!("{image}{}", if serves(p) { "" } else { "!" })
                })
                .collect();
            images.sort();
            images.join(" ")
        }
    };
    for (app, want) in [
        ("a", "v5 v5 v5 v5"),
        ("b", "v5 v5 v5 v5"),
        ("c", ""),
        ("db", "v5 v5 v5"),
        ("agent", "v5"),
    ] {
        eventually(app, || async { same(images(app).await.as_str(), want) }).await;
    }
    eventually("claims are bound", || async {
        let all = c.list("pvc").await;
        same(
            all.iter()
                .filter(|p| p["status"]["phase"] == "Bound")
                .count(),
            3,
        )
    })
    .await;
    assert_eq!(
        c.names("pv").await.len(),
        3,
        "a volume for each claim, no more"
    );
    for (service, want) in [("a", 4), ("b", 4), ("c", 0)] {
        eventually(&format!("endpoints of {service}"), || async {
            let all = c.list("slice").await;
            let ready: usize = all
                .iter()
                .filter(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == service)
                .flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default())
                .filter(|e| e["conditions"]["ready"] == true)
                .count();
            same(ready, want)
        })
        .await;
    }
    // and stays so
    let before = c.names("pod").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(c.names("pod").await, before);
}
