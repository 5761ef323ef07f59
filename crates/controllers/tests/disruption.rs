//! PodDisruptionBudgets and evictions against the API server.

mod cluster;

use cluster::{Cluster, deployment, eventually, same, start};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::EvictParams};
use serde_json::{Value, json};

async fn allows(c: &Cluster, budget: &str, n: i64) {
    eventually(&format!("{budget} allows {n}"), || async {
        let s = c.field("pdb", budget, "/status").await;
        match s["disruptionsAllowed"] == n && s["observedGeneration"].is_i64() {
            true => Ok(()),
            false => Err(s.to_string()),
        }
    })
    .await;
}

/// Code and first cause of a refusal; 201 when it went.
async fn evict(c: &Cluster, pod: &str) -> (u16, String) {
    let pods: Api<Pod> = Api::namespaced(c.client.clone(), "default");
    match pods.evict(pod, &EvictParams::default()).await {
        Ok(_) => (201, String::new()),
        Err(kube::Error::Api(s)) => {
            let cause = s.details.as_ref().and_then(|d| d.causes.first());
            let why = cause.map(|c| c.message.clone());
            (s.code, why.unwrap_or(s.message.clone()))
        }
        Err(e) => panic!("{e}"),
    }
}

fn budget(name: &str, app: &str, more: Value) -> Value {
    let mut spec = json!({"selector":{"matchLabels":{"app":app}}});
    for (k, v) in more.as_object().into_iter().flatten() {
        spec[k] = v.clone();
    }
    json!({"metadata":{"name":name},"spec":spec})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evictions_are_held_against_the_budget() {
    let c = start().await;
    c.create("deploy", deployment("web", 3, "v1")).await;
    c.rolled_out("web").await;
    c.create("pdb", budget("web", "web", json!({"maxUnavailable":1})))
        .await;
    allows(&c, "web", 1).await;
    let s = c.field("pdb", "web", "/status").await;
    assert_eq!(s["expectedPods"], 3);
    assert_eq!(s["desiredHealthy"], 2);
    assert_eq!(s["conditions"][0]["reason"], "SufficientPods");
    let pods = c.names("pod").await;
    assert_eq!(evict(&c, &pods[0]).await, (201, String::new()));
    c.gone("pod", &pods[0]).await;
    // its successor is ready in time
    eventually("whole again", || async { same(c.ready_pods().await, 3) }).await;
    allows(&c, "web", 1).await;
    c.patch("pdb", "web", json!({"spec":{"maxUnavailable":0}}))
        .await;
    allows(&c, "web", 0).await;
    let pod = c.names("pod").await.remove(0);
    let why = "The disruption budget web needs 3 healthy pods and has 3 currently";
    assert_eq!(evict(&c, &pod).await, (429, why.into()));
    // two budgets are one too many
    c.create("pdb", budget("more", "web", json!({"minAvailable":0})))
        .await;
    let (code, why) = evict(&c, &pod).await;
    assert_eq!(code, 500);
    assert!(why.contains("more than one PodDisruptionBudget"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_told_allows_nothing() {
    let c = start().await;
    let job = json!({"metadata":{"name":"work"},"spec":{"template":{"metadata":{"labels":{"app":"work"}},
        "spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}}});
    c.create("job", job).await;
    eventually("it runs", || async { same(c.ready_pods().await, 1) }).await;
    c.create("pdb", budget("work", "work", json!({"maxUnavailable":1})))
        .await;
    // it may hear of the Pod before it hears of the Job
    eventually("it fails", || async {
        let s = c.field("pdb", "work", "/status/conditions/0").await;
        same(
            (s["reason"].clone(), s["message"].clone()),
            (
                json!("SyncFailed"),
                json!("jobs.batch does not implement the scale subresource"),
            ),
        )
    })
    .await;
    // a Pod that isn't healthy goes only when the budget says so
    let pod = json!({"metadata":{"name":"sick","labels":{"app":"sick"},"annotations":{"test/ready":"never"}},
        "spec":{"containers":[{"name":"c","image":"i"}]}});
    c.create("pod", pod).await;
    eventually("it runs", || async {
        same(
            c.field("pod", "sick", "/status/phase").await,
            json!("Running"),
        )
    })
    .await;
    c.create("pdb", budget("sick", "sick", json!({"minAvailable":1})))
        .await;
    eventually("known", || async {
        same(
            c.field("pdb", "sick", "/status/desiredHealthy").await,
            json!(1),
        )
    })
    .await;
    assert_eq!(evict(&c, "sick").await.0, 429);
    let policy = json!({"spec":{"unhealthyPodEvictionPolicy":"AlwaysAllow"}});
    c.patch("pdb", "sick", policy).await;
    assert_eq!(evict(&c, "sick").await.0, 201);
}
