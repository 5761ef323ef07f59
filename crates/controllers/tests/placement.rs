//! Scheduler, DaemonSets, Services' endpoints and Jobs against the API server.

mod cluster;

use cluster::{bare, deployment, eventually, same, start, template};
use kube::api::DeleteParams;
use serde_json::{Value, json};

fn pod(name: &str, spec: Value) -> Value {
    let mut p = template("web", "v1");
    p["metadata"]["name"] = name.into();
    for (k, v) in spec.as_object().unwrap() {
        p["spec"][k] = v.clone();
    }
    p
}

fn wanting(name: &str, cpu: &str) -> Value {
    pod(
        name,
        json!({"containers":[{"name":"main","image":"v1","resources":{"requests":{"cpu":cpu}}}]}),
    )
}

async fn bound_to(c: &cluster::Cluster, name: &str, node: &str) {
    eventually(&format!("{name} on {node}"), || async {
        same(c.field("pod", name, "/spec/nodeName").await, json!(node))
    })
    .await
}

async fn unschedulable(c: &cluster::Cluster, name: &str, message: &str) {
    eventually(&format!("{name} waits"), || async {
        let p = c.get("pod", name).await.unwrap_or_default();
        let why: Vec<Value> = p["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|c| c["type"] == "PodScheduled")
            .map(|c| json!([c["status"], c["reason"], c["message"]]))
            .collect();
        same(why, vec![json!(["False", "Unschedulable", message])])
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_go_where_there_is_room() {
    let c = bare(None).await;
    c.create("pod", wanting("early", "1")).await;
    unschedulable(&c, "early", "no nodes available to schedule pods").await;
    c.node("node-1", json!({})).await;
    bound_to(&c, "early", "node-1").await;
    c.create("pod", wanting("large", "63500m")).await;
    let why = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    unschedulable(&c, "large", why).await;
    eventually("said in an event", || async {
        let all = c.events("large").await;
        same(all.contains(&format!("FailedScheduling {why}")), true)
    })
    .await;
    // room is made
    c.delete("pod", "early", DeleteParams::default().grace_period(0))
        .await;
    bound_to(&c, "large", "node-1").await;
    // the one with room, once it is ready; then the emptier
    c.node("node-2", json!({})).await;
    c.create("pod", wanting("wide", "600m")).await;
    bound_to(&c, "wide", "node-2").await;
    c.create("pod", wanting("next", "100m")).await;
    bound_to(&c, "next", "node-2").await;
    c.create("pod", pod("picky", json!({"nodeSelector":{"disk":"ssd"}})))
        .await;
    unschedulable(
        &c,
        "picky",
        "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
    )
    .await;
    c.patch(
        "node",
        "node-1",
        json!({"metadata":{"labels":{"disk":"ssd"}}}),
    )
    .await;
    bound_to(&c, "picky", "node-1").await;
    // someone else's
    c.create("pod", pod("other", json!({"schedulerName":"mine"})))
        .await;
    c.create("pod", wanting("last", "100m")).await;
    bound_to(&c, "last", "node-2").await;
    assert_eq!(c.field("pod", "other", "/spec/nodeName").await, Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_fills_nodes_evenly_and_never_too_full() {
    let c = bare(None).await;
    for n in ["node-1", "node-2"] {
        let size = json!({"cpu":"2","memory":"64Gi","pods":"110"});
        c.node_of(n, json!({}), size).await;
    }
    for i in 0..30 {
        c.create("pod", wanting(&format!("p{i}"), "200m")).await;
    }
    eventually("20 are placed, 10 wait", || async {
        let all = c.list("pod").await;
        let on = |n: &str| all.iter().filter(|p| p["spec"]["nodeName"] == n).count();
        let waits = all
            .iter()
            .filter(|p| {
                p["status"]["conditions"]
                    .to_string()
                    .contains("Insufficient cpu")
            })
            .count();
        same((on("node-1"), on("node-2"), waits), (10, 10, 10))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_on_each_node_that_fits() {
    let mut c = bare(None).await;
    c.kubelet();
    c.node("node-1", json!({})).await;
    c.node("node-2", json!({"unschedulable":true})).await;
    c.node(
        "node-3",
        json!({"taints":[{"key":"x","value":"y","effect":"NoSchedule"}]}),
    )
    .await;
    c.create(
        "ds",
        json!({"metadata":{"name":"agent"},"spec":{"selector":{"matchLabels":{"app":"agent"}},"template":template("agent","v1")}}),
    )
    .await;
    let ready = |n: i64, updated: i64| {
        let c = &c;
        async move {
            let s = c.field("ds", "agent", "/status").await;
            same(
                (
                    s["desiredNumberScheduled"].clone(),
                    s["numberAvailable"].clone(),
                    s["updatedNumberScheduled"].clone(),
                ),
                (json!(n), json!(n), json!(updated)),
            )
        }
    };
    eventually("on two", || ready(2, 2)).await;
    c.patch("node", "node-3", json!({"spec":{"taints":null}}))
        .await;
    eventually("on three", || ready(3, 3)).await;
    c.patch(
        "ds",
        "agent",
        json!({"spec":{"template":template("agent","v2")}}),
    )
    .await;
    eventually("all new", || async {
        let all = c.list("pod").await;
        let new = all
            .iter()
            .filter(|p| p["spec"]["containers"][0]["image"] == "v2")
            .count();
        same((all.len(), new), (3, 3))
    })
    .await;
    eventually("and counted", || ready(3, 3)).await;
    assert_eq!(c.names("rev").await.len(), 2);
    c.patch(
        "node",
        "node-1",
        json!({"spec":{"taints":[{"key":"x","value":"y","effect":"NoExecute"}]}}),
    )
    .await;
    eventually("off one", || ready(2, 2)).await;
    c.delete("ds", "agent", DeleteParams::background()).await;
    eventually("all gone", || async { same(c.names("pod").await, vec![]) }).await;
    eventually("history, too", || async {
        same(c.names("rev").await, vec![])
    })
    .await;
}

/// `ready/serving/terminating` counts over a service's slices.
async fn slices(c: &cluster::Cluster, service: &str) -> (usize, usize, usize) {
    let all = c.list("slice").await;
    let endpoints: Vec<Value> = all
        .iter()
        .filter(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == service)
        .flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default())
        .collect();
    let count = |what: &str| {
        endpoints
            .iter()
            .filter(|e| e["conditions"][what] == true)
            .count()
    };
    (count("ready"), count("serving"), count("terminating"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_follow_pods() {
    let c = start().await;
    c.create(
        "svc",
        json!({"metadata":{"name":"web","labels":{"team":"a"}},"spec":{"selector":{"app":"web"},"ports":[{"name":"http","port":80,"targetPort":"web"}]}}),
    )
    .await;
    eventually("an empty slice", || async {
        same(c.list("slice").await.len(), 1)
    })
    .await;
    c.create("deploy", deployment("web", 3, "v1")).await;
    eventually("three", || async {
        same(slices(&c, "web").await, (3, 3, 0))
    })
    .await;
    let all = c.list("slice").await;
    let [slice] = all.as_slice() else {
        panic!("{all:?}")
    };
    let labels = &slice["metadata"]["labels"];
    assert_eq!(
        labels["endpointslice.kubernetes.io/managed-by"],
        "endpointslice-controller.k8s.io"
    );
    assert_eq!(labels["team"], "a");
    assert_eq!(slice["addressType"], "IPv4");
    assert_eq!(
        slice["ports"],
        json!([{"name":"http","port":8080,"protocol":"TCP"}])
    );
    assert_eq!(slice["endpoints"][0]["nodeName"], "node-1");
    assert_eq!(slice["endpoints"][0]["targetRef"]["kind"], "Pod");
    // the older object
    eventually("Endpoints", || async {
        let s = c.field("ep", "web", "/subsets/0").await;
        same(
            (
                s["addresses"].as_array().map(Vec::len),
                s["ports"][0]["port"].clone(),
            ),
            (Some(3), json!(8080)),
        )
    })
    .await;
    // one that ends serves until it's gone, but takes nothing new
    let name = c.names("pod").await.remove(0);
    c.patch(
        "pod",
        &name,
        json!({"metadata":{"finalizers":["example.com/hold"]}}),
    )
    .await;
    c.patch("deploy", "web", json!({"spec":{"replicas":3}}))
        .await;
    c.delete("pod", &name, DeleteParams::default()).await;
    eventually("terminating and replaced", || async {
        same(slices(&c, "web").await, (3, 4, 1))
    })
    .await;
    c.patch("pod", &name, json!({"metadata":{"finalizers":null}}))
        .await;
    eventually("gone", || async {
        same(slices(&c, "web").await, (3, 3, 0))
    })
    .await;
    // what someone else breaks is mended
    let slice = c.names("slice").await.remove(0);
    c.delete("slice", &slice, DeleteParams::default()).await;
    eventually("made again", || async {
        same(slices(&c, "web").await, (3, 3, 0))
    })
    .await;
    c.patch("svc", "web", json!({"spec":{"selector":{"app":"none"}}}))
        .await;
    eventually("none", || async {
        same(slices(&c, "web").await, (0, 0, 0))
    })
    .await;
    c.delete("svc", "web", DeleteParams::default()).await;
    eventually("slices go", || async {
        let left = c.list("slice").await;
        let left = left
            .iter()
            .filter(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == "web")
            .count();
        same(left, 0)
    })
    .await;
    c.gone("ep", "web").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_and_headless_services() {
    let c = start().await;
    c.create(
        "svc",
        json!({"metadata":{"name":"many"},"spec":{"clusterIP":"None","selector":{"app":"many"},"ports":[{"port":80}]}}),
    )
    .await;
    c.create("rs", deployment("many", 130, "v1")).await;
    eventually("all in slices of at most 100", || async {
        let all = c.list("slice").await;
        let sizes: Vec<usize> = all
            .iter()
            .filter(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == "many")
            .map(|s| s["endpoints"].as_array().map_or(0, Vec::len))
            .collect();
        if sizes.iter().sum::<usize>() == 130 && sizes.iter().all(|n| *n <= 100) {
            same(slices(&c, "many").await, (130, 130, 0))
        } else {
            Err(format!("{sizes:?}"))
        }
    })
    .await;
    let label = "/metadata/labels/service.kubernetes.io~1headless";
    let slice = c.names("slice").await;
    let slice = slice.iter().find(|s| s.starts_with("many-")).unwrap();
    assert_eq!(c.field("slice", slice, label).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_run_to_their_end() {
    let c = start().await;
    let job = |name: &str, exit: &str, extra: Value| {
        let mut t = template(name, "v1");
        t["metadata"]["annotations"] = json!({"test/exit":exit});
        t["spec"]["restartPolicy"] = json!("Never");
        let mut spec = json!({"template":t});
        for (k, v) in extra.as_object().unwrap() {
            spec[k] = v.clone();
        }
        json!({"metadata":{"name":name},"spec":spec})
    };
    c.create(
        "job",
        job("three", "0", json!({"completions":3,"parallelism":2})),
    )
    .await;
    eventually("complete", || async {
        let s = c.field("job", "three", "/status").await;
        same(
            (
                s["succeeded"].clone(),
                s["conditions"].to_string().contains("\"Complete\""),
                s["completionTime"].is_string(),
            ),
            (json!(3), true, true),
        )
    })
    .await;
    assert_eq!(c.names("pod").await.len(), 3);
    c.create("job", job("bad", "1", json!({"backoffLimit":0})))
        .await;
    eventually("failed", || async {
        let s = c.field("job", "bad", "/status").await;
        same(
            (
                s["failed"].clone(),
                s["conditions"].to_string().contains("BackoffLimitExceeded"),
            ),
            (json!(1), true),
        )
    })
    .await;
    // with a selector of one's own
    c.create(
        "job",
        job(
            "indexed",
            "0",
            json!({"completions":4,"parallelism":4,"completionMode":"Indexed",
            "manualSelector":true,"selector":{"matchLabels":{"app":"indexed"}}}),
        ),
    )
    .await;
    eventually("all indexes", || async {
        same(
            c.field("job", "indexed", "/status/completedIndexes").await,
            json!("0-3"),
        )
    })
    .await;
    let soon = json!({"spec":{"ttlSecondsAfterFinished":1}});
    c.patch("job", "indexed", soon).await;
    c.gone("job", "indexed").await;
    eventually("its pods went with it", || async {
        same(c.names("pod").await.len(), 4)
    })
    .await;
}
