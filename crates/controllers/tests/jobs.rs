//! Jobs: what they count, and what their policies make of failures, against the API server.

mod cluster;

use cluster::{Cluster, eventually, same, start};
use kube::api::DeleteParams;
use serde_json::{Value, json};

fn job(name: &str, exit: &str, more: Value) -> Value {
    let mut spec = json!({"template":{"metadata":{"annotations":{"test/exit":exit}},
        "spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}});
    for (k, v) in more.as_object().into_iter().flatten() {
        spec[k] = v.clone();
    }
    json!({"metadata":{"name":name},"spec":spec})
}

/// Conditions that hold, with their reasons.
async fn ends(c: &Cluster, name: &str, want: &[&str]) -> Value {
    eventually(&format!("{name} ends"), || async {
        let s = c.field("job", name, "/status").await;
        let all = s["conditions"].as_array().cloned().unwrap_or_default();
        let holds: Vec<String> = all
            .iter()
            .filter(|c| c["status"] == "True")
            .map(|c| {
                let text = |k: &str| c[k].as_str().unwrap_or("").to_owned();
                format!("{} {}", text("type"), text("reason"))
            })
            .collect();
        same(holds.iter().map(String::as_str).collect(), want.to_vec())?;
        Ok(s)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_end_is_counted_and_every_finalizer_goes() {
    let c = start().await;
    let spec = json!({"completions":4,"parallelism":2});
    c.create("job", job("all", "0", spec)).await;
    let done = [
        "SuccessCriteriaMet CompletionsReached",
        "Complete CompletionsReached",
    ];
    let s = ends(&c, "all", &done).await;
    assert_eq!(s["succeeded"], 4);
    assert_eq!(s["uncountedTerminatedPods"], json!({}));
    assert_eq!(
        (s["ready"].clone(), s["terminating"].clone()),
        (json!(0), json!(0))
    );
    assert!(s["completionTime"].is_string());
    eventually("no finalizer is left", || async {
        let pods = c.list("pod").await;
        let held = pods
            .iter()
            .filter(|p| !p["metadata"]["finalizers"].is_null());
        same((pods.len(), held.count()), (4, 0))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures() {
    let c = start().await;
    c.create("job", job("limit", "1", json!({"backoffLimit":0})))
        .await;
    let s = ends(
        &c,
        "limit",
        &[
            "FailureTarget BackoffLimitExceeded",
            "Failed BackoffLimitExceeded",
        ],
    )
    .await;
    assert_eq!(s["failed"], 1);
    let each = json!({"completions":2,"parallelism":2,"completionMode":"Indexed","backoffLimitPerIndex":0});
    c.create("job", job("each", "1", each)).await;
    let s = ends(
        &c,
        "each",
        &["FailureTarget FailedIndexes", "Failed FailedIndexes"],
    )
    .await;
    assert_eq!(s["failedIndexes"], "0,1");
    // one that someone deletes while it runs failed, too, and is replaced
    let runs = json!({"completions":1,"template":{"spec":{"restartPolicy":"Never",
        "containers":[{"name":"c","image":"i"}]}}});
    c.create("job", job("runs", "", runs)).await;
    let of_runs = || async {
        let mut pods = c.list("pod").await;
        pods.retain(|p| p["metadata"]["labels"]["batch.kubernetes.io/job-name"] == "runs");
        pods
    };
    let first = eventually("it runs", || async {
        let pods = of_runs().await;
        let pod = pods.into_iter().find(cluster::serves);
        pod.ok_or("not yet".into())
    })
    .await;
    let name = first["metadata"]["name"].as_str().unwrap();
    c.delete("pod", name, DeleteParams::default()).await;
    eventually("counted as failed", || async {
        same(c.field("job", "runs", "/status/failed").await, json!(1))
    })
    .await;
    c.gone("pod", name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_goes_lets_its_pods_go() {
    let c = start().await;
    let runs = json!({"parallelism":2,"completions":2,"template":{"spec":{"restartPolicy":"Never",
        "containers":[{"name":"c","image":"i"}]}}});
    c.create("job", job("gone", "", runs)).await;
    eventually("it runs", || async { same(c.ready_pods().await, 2) }).await;
    c.delete("job", "gone", DeleteParams::background()).await;
    c.gone("job", "gone").await;
    eventually("pods go", || async { same(c.names("pod").await, vec![]) }).await;
    let theirs = json!({"managedBy":"example.com/other"});
    c.create("job", job("theirs", "0", theirs)).await;
    c.create("job", job("ours", "0", json!({}))).await;
    let done = [
        "SuccessCriteriaMet CompletionsReached",
        "Complete CompletionsReached",
    ];
    ends(&c, "ours", &done).await;
    assert_eq!(
        c.field("job", "theirs", "/status/startTime").await,
        Value::Null
    );
}
