//! StatefulSets and volumes against the API server.

mod cluster;

use cluster::{eventually, same, serves, start, template};
use futures::StreamExt;
use kube::{api::DeleteParams, runtime::watcher};
use serde_json::{Value, json};

fn set(name: &str, replicas: i32) -> Value {
    json!({"metadata":{"name":name},"spec":{"replicas":replicas,"serviceName":name,
        "selector":{"matchLabels":{"app":name}},"template":template(name,"v1")}})
}

async fn rolled_out(c: &cluster::Cluster, name: &str) -> Value {
    eventually(&format!("rollout of {name}"), || async {
        let s = c.get("sts", name).await.unwrap_or_default();
        let n = s["spec"]["replicas"].as_i64();
        let st = &s["status"];
        let done = st["observedGeneration"] == s["metadata"]["generation"]
            && st["availableReplicas"].as_i64() == n
            && st["replicas"].as_i64() == n
            && st["currentRevision"] == st["updateRevision"]
            && st["updatedReplicas"].as_i64().or(Some(0)) == n;
        if done { Ok(s) } else { Err(st.to_string()) }
    })
    .await
}

/// What happened to pods until the mark, in order: `+a` made, `-a` gone.
async fn history(c: &cluster::Cluster) -> Vec<String> {
    let stream = cluster::until_mark(c);
    tokio::pin!(stream);
    let mut uids = std::collections::HashSet::new();
    let mut log = vec![];
    let mut pods = std::collections::BTreeMap::<String, bool>::new();
    while let Some(event) = stream.next().await {
        match event {
            watcher::Event::Apply(p) | watcher::Event::InitApply(p) => {
                let name = p.metadata.name.clone().unwrap();
                let v = serde_json::to_value(&p).unwrap();
                if uids.insert(p.metadata.uid) {
                    // each starts only when those before it serve
                    let unready: Vec<_> = pods
                        .iter()
                        .filter(|(n, ready)| **n < name && !**ready)
                        .collect();
                    assert!(
                        unready.is_empty(),
                        "{name} was made before {unready:?} were ready"
                    );
                    log.push(format!("+{name}"));
                }
                pods.insert(name, serves(&v));
            }
            watcher::Event::Delete(p) => {
                let name = p.metadata.name.unwrap();
                pods.remove(&name);
                log.push(format!("-{name}"));
            }
            _ => {}
        }
    }
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_after_the_other() {
    let c = start().await;
    let change = async {
        c.create("sts", set("db", 3)).await;
        let s = rolled_out(&c, "db").await;
        let first = s["status"]["currentRevision"].clone();
        let p = c.get("pod", "db-1").await.unwrap();
        assert_eq!(p["spec"]["hostname"], "db-1");
        assert_eq!(p["spec"]["subdomain"], "db");
        let labels = &p["metadata"]["labels"];
        assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "db-1");
        assert_eq!(labels["apps.kubernetes.io/pod-index"], "1");
        assert_eq!(labels["controller-revision-hash"], first);
        // update from the top
        c.patch(
            "sts",
            "db",
            json!({"spec":{"template":template("db","v2")}}),
        )
        .await;
        let s = rolled_out(&c, "db").await;
        assert_ne!(s["status"]["currentRevision"], first);
        // back: the earlier revision is used again
        c.patch(
            "sts",
            "db",
            json!({"spec":{"template":template("db","v1")}}),
        )
        .await;
        let s = rolled_out(&c, "db").await;
        assert_eq!(s["status"]["currentRevision"], first);
        assert_eq!(c.names("rev").await.len(), 2);
        c.patch("sts", "db", json!({"spec":{"replicas":1}})).await;
        rolled_out(&c, "db").await;
        eventually("one left", || async {
            same(c.names("pod").await, vec!["db-0".to_owned()])
        })
        .await;
        c.mark().await;
    };
    let (log, ()) = futures::join!(history(&c), change);
    let want = "+db-0 +db-1 +db-2 \
        -db-2 +db-2 -db-1 +db-1 -db-0 +db-0 \
        -db-2 +db-2 -db-1 +db-1 -db-0 +db-0 \
        -db-2 -db-1";
    assert_eq!(log.join(" "), want);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partition_holds_an_update_back() {
    let c = start().await;
    let mut s = set("db", 3);
    s["spec"]["podManagementPolicy"] = json!("Parallel");
    s["spec"]["updateStrategy"] = json!({"type":"RollingUpdate","rollingUpdate":{"partition":2}});
    c.create("sts", s).await;
    rolled_out(&c, "db").await;
    c.patch(
        "sts",
        "db",
        json!({"spec":{"template":template("db","v2")}}),
    )
    .await;
    let images = || async {
        let all = c.list("pod").await;
        let ready = all.iter().filter(|p| serves(p)).count();
        let images: Vec<_> = all
            .iter()
            .map(|p| {
                p["spec"]["containers"][0]["image"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        (ready, images.join(" "))
    };
    eventually("only the last", || async {
        same(images().await, (3, "v1 v1 v2".to_owned()))
    })
    .await;
    // below the partition a lost pod comes back as it was
    c.delete("pod", "db-0", DeleteParams::default()).await;
    eventually("gone or another", || async {
        let s = c.field("sts", "db", "/status").await;
        same(
            (images().await, s["updatedReplicas"].clone()),
            ((3, "v1 v1 v2".to_owned()), json!(1)),
        )
    })
    .await;
    c.patch(
        "sts",
        "db",
        json!({"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}),
    )
    .await;
    rolled_out(&c, "db").await;
    assert_eq!(images().await.1, "v2 v2 v2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_pod_keeps_its_volume() {
    let c = start().await;
    let mut s = set("db", 2);
    s["spec"]["volumeClaimTemplates"] = json!([{"metadata":{"name":"data"},
        "spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}]);
    c.create("sts", s.clone()).await;
    rolled_out(&c, "db").await;
    assert_eq!(c.names("pvc").await, ["data-db-0", "data-db-1"]);
    let volume = c.field("pvc", "data-db-1", "/spec/volumeName").await;
    let volume = volume.as_str().unwrap().to_owned();
    let pv = c.get("pv", &volume).await.unwrap();
    assert_eq!(pv["spec"]["claimRef"]["name"], "data-db-1");
    assert_eq!(pv["spec"]["storageClassName"], "local-path");
    assert_eq!(pv["spec"]["persistentVolumeReclaimPolicy"], "Delete");
    eventually("bound", || async {
        same(
            (
                c.field("pv", &volume, "/status/phase").await,
                c.field("pvc", "data-db-1", "/status/phase").await,
                c.field("pvc", "data-db-1", "/status/capacity/storage")
                    .await,
            ),
            (json!("Bound"), json!("Bound"), json!("1Gi")),
        )
    })
    .await;
    let path = pv["spec"]["local"]["path"].as_str().unwrap().to_owned();
    assert!(std::path::Path::new(&path).starts_with(&c.volumes));
    std::fs::write(format!("{path}/row"), "1").unwrap();
    // away and back: the same volume
    c.patch("sts", "db", json!({"spec":{"replicas":1}})).await;
    rolled_out(&c, "db").await;
    c.patch("sts", "db", json!({"spec":{"replicas":2}})).await;
    rolled_out(&c, "db").await;
    assert_eq!(
        c.field("pvc", "data-db-1", "/spec/volumeName").await,
        json!(volume)
    );
    assert_eq!(std::fs::read_to_string(format!("{path}/row")).unwrap(), "1");
    // claims outlive the set, volumes don't outlive their claims
    c.delete("sts", "db", DeleteParams::background()).await;
    eventually("pods go", || async { same(c.names("pod").await, vec![]) }).await;
    assert_eq!(c.names("pvc").await.len(), 2);
    c.delete("pvc", "data-db-1", DeleteParams::default()).await;
    c.gone("pv", &volume).await;
    assert!(!std::path::Path::new(&path).exists());
    // whenDeleted: Delete takes them along
    s["spec"]["persistentVolumeClaimRetentionPolicy"] =
        json!({"whenDeleted":"Delete","whenScaled":"Delete"});
    c.create("sts", s).await;
    rolled_out(&c, "db").await;
    eventually("owned", || async {
        same(
            c.field("pvc", "data-db-1", "/metadata/ownerReferences/0/kind")
                .await,
            json!("StatefulSet"),
        )
    })
    .await;
    c.patch("sts", "db", json!({"spec":{"replicas":1}})).await;
    c.gone("pvc", "data-db-1").await;
    c.delete("sts", "db", DeleteParams::background()).await;
    c.gone("pvc", "data-db-0").await;
    eventually("volumes go", || async { same(c.names("pv").await, vec![]) }).await;
}

fn claim(name: &str, class: Value) -> Value {
    json!({"metadata":{"name":name},"spec":{"storageClassName":class,"accessModes":["ReadWriteOnce"],
        "resources":{"requests":{"storage":"1Gi"}}}})
}

fn volume(name: &str, class: &str, size: &str, policy: &str) -> Value {
    json!({"metadata":{"name":name},"spec":{"capacity":{"storage":size},"accessModes":["ReadWriteOnce"],
        "storageClassName":class,"persistentVolumeReclaimPolicy":policy,"hostPath":{"path":format!("/nonexistent/{name}")}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_made_by_hand() {
    let c = start().await;
    c.create("pv", volume("large", "manual", "5Gi", "Retain"))
        .await;
    c.create("pv", volume("small", "manual", "2Gi", "Retain"))
        .await;
    eventually("available", || async {
        same(
            c.field("pv", "small", "/status/phase").await,
            json!("Available"),
        )
    })
    .await;
    c.create("pvc", claim("first", json!("manual"))).await;
    let bound = |name: &'static str, to: &'static str| {
        let c = &c;
        async move {
            let p = c.get("pvc", name).await.unwrap_or_default();
            same(
                (
                    p["spec"]["volumeName"].clone(),
                    p["status"]["phase"].clone(),
                ),
                (json!(to), json!("Bound")),
            )
        }
    };
    eventually("the smallest that will do", || bound("first", "small")).await;
    // by name
    let mut second = claim("second", json!("manual"));
    second["spec"]["volumeName"] = json!("large");
    c.create("pvc", second).await;
    eventually("by name", || bound("second", "large")).await;
    // none left
    c.create("pvc", claim("third", json!("manual"))).await;
    eventually("pending", || async {
        same(
            c.field("pvc", "third", "/status/phase").await,
            json!("Pending"),
        )
    })
    .await;
    // Retain: kept, and not given to the next
    c.delete("pvc", "first", DeleteParams::default()).await;
    eventually("released", || async {
        same(
            c.field("pv", "small", "/status/phase").await,
            json!("Released"),
        )
    })
    .await;
    assert_eq!(c.field("pvc", "third", "/status/phase").await, "Pending");
    // until someone frees it
    c.patch("pv", "small", json!({"spec":{"claimRef":null}}))
        .await;
    eventually("used again", || bound("third", "small")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_wait_for_their_first_pod() {
    let mut c = start().await;
    eventually("default class", || async {
        same(c.names("sc").await, vec!["local-path".to_owned()])
    })
    .await;
    let mut plain = claim("data", Value::Null);
    plain["spec"]
        .as_object_mut()
        .unwrap()
        .remove("storageClassName");
    c.create("pvc", plain).await;
    eventually("gets the default class", || async {
        same(
            c.field("pvc", "data", "/spec/storageClassName").await,
            json!("local-path"),
        )
    })
    .await;
    eventually("waits", || async {
        // before it has heard of the class it may have said so
        let all = c.events("data").await;
        let waits = "WaitForFirstConsumer waiting for first consumer to be created before binding";
        match all.iter().any(|e| e == waits) {
            true => Ok(()),
            false => Err(format!("{all:?}")),
        }
    })
    .await;
    assert!(c.names("pv").await.is_empty());
    let mut pod = template("web", "v1");
    pod["metadata"]["name"] = json!("user");
    pod["spec"]["volumes"] = json!([{"name":"d","persistentVolumeClaim":{"claimName":"data"}}]);
    c.create("pod", pod.clone()).await;
    eventually("runs", || async { same(c.ready_pods().await, 1) }).await;
    // the scheduler waits for the binding itself; the phase is written after it, as upstream
    eventually("bound", || async {
        same(
            c.field("pvc", "data", "/status/phase").await,
            json!("Bound"),
        )
    })
    .await;
    // one without its claim waits, and says so
    pod["metadata"]["name"] = json!("lost");
    pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] = json!("later");
    c.create("pod", pod).await;
    eventually("says why", || async {
        let s = c
            .field("pod", "lost", "/status/conditions")
            .await
            .to_string();
        same(
            s.contains("persistentvolumeclaim \\\"later\\\" not found"),
            true,
        )
    })
    .await;
    // controllers that start in the middle go on
    c.kill_controllers();
    c.create("pvc", claim("later", json!("local-path"))).await;
    c.start_controllers();
    eventually("both run", || async { same(c.ready_pods().await, 2) }).await;
}
