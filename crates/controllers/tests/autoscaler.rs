//! HorizontalPodAutoscalers against the API server, with metrics that the test makes up.

mod cluster;

use cluster::{Cluster, deployment, eventually, same, start};
use serde_json::{Value, json};

/// The three metrics APIs, as a metrics server and adapters would answer.
fn measure(c: &Cluster, path: &str, answer: Value) {
    c.made_up.lock().insert(path.to_owned(), answer);
}
fn use_of(names: &[String], cpu: &str) -> Value {
    let items: Vec<Value> = names
        .iter()
        .map(|n| {
            json!({"metadata":{"name":n,"namespace":"default"},"timestamp":"2099-01-01T00:00:00Z","window":"10s",
                "containers":[{"name":"main","usage":{"cpu":cpu,"memory":"64Mi"}}]})
        })
        .collect();
    json!({"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1","metadata":{},"items":items})
}
const PODS: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods";

async fn hpa(c: &Cluster, name: &str, target: &str, kind: &str, metrics: Value, extra: Value) {
    let mut spec = json!({
        "scaleTargetRef":{"apiVersion":"apps/v1","kind":kind,"name":target},
        "minReplicas":1,"maxReplicas":6,"metrics":metrics});
    for (k, v) in extra.as_object().unwrap() {
        spec[k] = v.clone();
    }
    c.create("hpa", json!({"metadata":{"name":name},"spec":spec}))
        .await;
}
fn condition(hpa: &Value, kind: &str) -> Value {
    let all = hpa["status"]["conditions"].as_array();
    let found = all.and_then(|all| all.iter().find(|c| c["type"] == kind));
    found.map_or(Value::Null, |c| {
        json!([c["status"], c["reason"], c["message"]])
    })
}

async fn web(c: &Cluster, replicas: i32) -> Vec<String> {
    let mut d = deployment("web", replicas, "v1");
    d["spec"]["template"]["spec"]["containers"][0]["resources"] =
        json!({"requests":{"cpu":"100m","memory":"128Mi"}});
    c.create("deploy", d).await;
    eventually("they run", || async {
        same(c.ready_pods().await, replicas as usize)
    })
    .await;
    c.names("pod").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grows_with_what_is_used() {
    let c = start().await;
    let pods = web(&c, 2).await;
    measure(&c, PODS, use_of(&pods, "200m"));
    let cpu = json!([{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":100}}}]);
    // until it looks again
    let (seen, ()) = futures::join!(
        c.first("hpa", |h| h["status"]["desiredReplicas"] == 4),
        hpa(&c, "web", "web", "Deployment", cpu, json!({})),
    );
    assert_eq!(c.field("deploy", "web", "/spec/replicas").await, 4);
    assert_eq!(
        seen["status"]["currentMetrics"],
        json!([{"type":"Resource","resource":{"name":"cpu","current":{"averageUtilization":200,"averageValue":"200m"}}}])
    );
    assert_eq!(seen["status"]["currentReplicas"], 2);
    assert!(seen["status"]["lastScaleTime"].is_string());
    assert_eq!(
        condition(&seen, "AbleToScale"),
        json!([
            "True",
            "SucceededRescale",
            "the HPA controller was able to update the target scale to 4"
        ])
    );
    assert_eq!(
        condition(&seen, "ScalingActive"),
        json!([
            "True",
            "ValidMetricFound",
            "the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)"
        ])
    );
    assert_eq!(
        condition(&seen, "ScalingLimited"),
        json!([
            "False",
            "DesiredWithinRange",
            "the desired count is within the acceptable range"
        ])
    );
    eventually("said in an event", || async {
        let want = "SuccessfulRescale New size: 4; reason: cpu resource utilization (percentage of request) above target";
        same(c.events("web").await.contains(&want.to_owned()), true)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_metrics_and_what_is_missing() {
    let c = start().await;
    let pods = web(&c, 2).await;
    // nobody measures
    let cpu = json!([{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":100}}}]);
    hpa(&c, "none", "web", "Deployment", cpu, json!({})).await;
    eventually("it says what's missing", || async {
        let h = c.get("hpa", "none").await.unwrap_or_default();
        same(
            condition(&h, "ScalingActive"),
            json!(["False","FailedGetResourceMetric","the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API"]),
        )
    })
    .await;
    c.delete("hpa", "none", Default::default()).await;
    // no such target
    hpa(&c, "lost", "nothing", "Deployment", json!([{"type":"External","external":{"metric":{"name":"q"},"target":{"type":"Value","value":"1"}}}]), json!({})).await;
    eventually("it says that there is no target", || async {
        let h = c.get("hpa", "lost").await.unwrap_or_default();
        same(
            condition(&h, "AbleToScale"),
            json!(["False","FailedGetScale","the HPA controller was unable to get the target's current scale: deployments.apps \"nothing\" not found"]),
        )
    })
    .await;
    // by what a queue says, at most 2 at a time
    measure(
        &c,
        "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/queue",
        json!({"items":[{"metricName":"queue","value":"30","timestamp":"2099-01-01T00:00:00Z"},{"metricName":"queue","value":"20","timestamp":"2099-01-01T00:00:00Z"}]}),
    );
    measure(
        &c,
        "/apis/custom.metrics.k8s.io",
        json!({"name":"custom.metrics.k8s.io","versions":[{"groupVersion":"custom.metrics.k8s.io/v1beta2","version":"v1beta2"}],"preferredVersion":{"groupVersion":"custom.metrics.k8s.io/v1beta2","version":"v1beta2"}}),
    );
    let items: Vec<Value> = pods
        .iter()
        .map(|n| json!({"describedObject":{"kind":"Pod","name":n},"timestamp":"2099-01-01T00:00:00Z","metric":{"name":"rps"},"value":"500m"}))
        .collect();
    measure(
        &c,
        "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/pods/*/rps",
        json!({"items":items}),
    );
    measure(
        &c,
        "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/services/front/hits",
        json!({"items":[{"describedObject":{"kind":"Service","name":"front"},"timestamp":"2099-01-01T00:00:00Z","metric":{"name":"hits"},"value":"10"}]}),
    );
    let metrics = json!([
        {"type":"External","external":{"metric":{"name":"queue"},"target":{"type":"AverageValue","averageValue":"10"}}},
        {"type":"Pods","pods":{"metric":{"name":"rps"},"target":{"type":"AverageValue","averageValue":"1"}}},
        {"type":"Object","object":{"describedObject":{"apiVersion":"v1","kind":"Service","name":"front"},"metric":{"name":"hits"},"target":{"type":"Value","value":"10"}}}]);
    let slowly = json!({"behavior":{"scaleUp":{"policies":[{"type":"Pods","value":1,"periodSeconds":600}]}}});
    let (seen, ()) = futures::join!(
        c.first("hpa", |h| h["status"]["desiredReplicas"] == 3),
        hpa(&c, "many", "web", "Deployment", metrics, slowly),
    );
    assert_eq!(
        seen["status"]["currentMetrics"],
        json!([
            {"type":"External","external":{"metric":{"name":"queue"},"current":{"averageValue":"25"}}},
            {"type":"Pods","pods":{"metric":{"name":"rps"},"current":{"averageValue":"500m"}}},
            {"type":"Object","object":{"describedObject":{"apiVersion":"v1","kind":"Service","name":"front"},"metric":{"name":"hits"},"current":{"value":"10"}}}])
    );
    assert_eq!(
        condition(&seen, "ScalingLimited"),
        json!([
            "True",
            "ScaleUpLimit",
            "the desired replica count is increasing faster than the maximum scale rate"
        ])
    );
    assert_eq!(c.field("deploy", "web", "/spec/replicas").await, 3);
    // two that scale the same pods don't
    let one = json!([{"type":"External","external":{"metric":{"name":"queue"},"target":{"type":"Value","value":"1"}}}]);
    hpa(&c, "rival", "web", "Deployment", one, json!({})).await;
    eventually("the rival says so", || async {
        let h = c.get("hpa", "rival").await.unwrap_or_default();
        same(
            condition(&h, "ScalingActive"),
            json!(["False","AmbiguousSelector","pods by selector app=web are controlled by multiple HPAs: [{many default} {rival default}]"]),
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_kind_with_a_scale() {
    let c = start().await;
    c.create(
        "crd",
        json!({"metadata":{"name":"shops.example.com"},"spec":{"group":"example.com","scope":"Namespaced",
            "names":{"plural":"shops","singular":"shop","kind":"Shop"},
            "versions":[{"name":"v1","served":true,"storage":true,
                "schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}},
                "subresources":{"status":{},"scale":{"specReplicasPath":".spec.replicas","statusReplicasPath":".status.replicas","labelSelectorPath":".status.selector"}}}]}}),
    )
    .await;
    let shop = json!({"apiVersion":"example.com/v1","kind":"Shop","metadata":{"name":"s"},"spec":{"replicas":9}});
    eventually("shops are served", || async {
        let request = http::Request::post("/apis/example.com/v1/namespaces/default/shops")
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&shop).unwrap())
            .unwrap();
        let made: Result<Value, _> = c.client.request(request).await;
        made.map(|_| ()).map_err(|e| e.to_string())
    })
    .await;
    let mut spec = json!({"scaleTargetRef":{"apiVersion":"example.com/v1","kind":"Shop","name":"s"},"maxReplicas":6});
    spec["metrics"] = json!([{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":50}}}]);
    c.create("hpa", json!({"metadata":{"name":"s"},"spec":spec}))
        .await;
    eventually("it has as many as it may", || async {
        let request = http::Request::get("/apis/example.com/v1/namespaces/default/shops/s")
            .body(vec![])
            .unwrap();
        let s: Value = c.client.request(request).await.map_err(|e| e.to_string())?;
        same(s["spec"]["replicas"].clone(), json!(6))
    })
    .await;
    eventually("said in an event", || async {
        let want = "SuccessfulRescale New size: 6; reason: Current number of replicas above Spec.MaxReplicas";
        same(c.events("s").await.contains(&want.to_owned()), true)
    })
    .await;
}
