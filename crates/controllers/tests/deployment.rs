//! Deployments and ReplicaSets against the API server.

mod cluster;

use cluster::{deployment, eventually, same, serves, start, template, until_mark};
use futures::{FutureExt, StreamExt};
use kube::{ResourceExt, api::DeleteParams, runtime::watcher};
use serde_json::{Value, json};

const REVISION: &str = "/metadata/annotations/deployment.kubernetes.io~1revision";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_nothing_to_serving() {
    let c = start().await;
    let mut d = deployment("web", 3, "v1");
    d["metadata"]["annotations"] = json!({"kubernetes.io/change-cause":"first"});
    c.create("deploy", d).await;
    let d = c.rolled_out("web").await;
    assert_eq!(d.pointer(REVISION), Some(&json!("1")));
    let condition = |kind: &str| {
        d["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["type"] == kind)
            .cloned()
            .unwrap_or_else(|| panic!("no condition {kind}: {}", d["status"]))
    };
    assert_eq!(condition("Available")["reason"], "MinimumReplicasAvailable");
    assert_eq!(condition("Progressing")["reason"], "NewReplicaSetAvailable");
    let sets = c.list("rs").await;
    let [rs] = sets.as_slice() else {
        panic!("{sets:?}")
    };
    let hash = rs["metadata"]["labels"]["pod-template-hash"]
        .as_str()
        .unwrap();
    assert_eq!(rs["metadata"]["name"], format!("web-{hash}"));
    assert_eq!(
        rs["spec"]["selector"]["matchLabels"],
        json!({"app":"web","pod-template-hash":hash})
    );
    assert_eq!(
        rs["metadata"]["annotations"]["kubernetes.io/change-cause"],
        "first"
    );
    assert_eq!(rs["status"]["readyReplicas"], 3);
    for pod in c.list("pod").await {
        assert_eq!(pod["metadata"]["labels"]["pod-template-hash"], hash);
        assert_eq!(
            pod["metadata"]["ownerReferences"][0]["name"],
            rs["metadata"]["name"]
        );
        assert_eq!(pod["spec"]["nodeName"], "node-1");
    }
    eventually("event", || async {
        same(
            c.events("web").await,
            vec![format!(
                "ScalingReplicaSet Scaled up replica set web-{hash} from 0 to 3"
            )],
        )
    })
    .await;
}

/// Follows all objects of a kind from a watch, and gives what `count` made of them at any time. `follow` opens when they
/// are followed.
async fn counts(
    c: &cluster::Cluster,
    kind: &str,
    stop: impl Future<Output = ()>,
    follow: &tokio::sync::Barrier,
    count: impl Fn(&Value) -> usize,
) -> Vec<usize> {
    let stream = watcher(c.api(kind), watcher::Config::default()).take_until(Box::pin(stop));
    tokio::pin!(stream);
    let mut all = std::collections::HashMap::<String, usize>::new();
    let (mut seen, mut started) = (vec![], false);
    while let Some(event) = stream.next().await {
        match event.unwrap() {
            watcher::Event::Apply(o) | watcher::Event::InitApply(o) => {
                let o = serde_json::to_value(o).unwrap();
                let name = o["metadata"]["name"].as_str().unwrap().into();
                all.insert(name, count(&o));
            }
            watcher::Event::Delete(o) => {
                all.remove(o.metadata.name.as_deref().unwrap());
            }
            watcher::Event::InitDone if !started => {
                started = true;
                follow.wait().await;
            }
            watcher::Event::InitDone => {}
            watcher::Event::Init => {}
        }
        if started {
            seen.push(all.values().sum());
        }
    }
    seen
}

/// How many Pods served at least, and how many were wanted at most, at any time. The sets work side by side, as upstream's:
/// one may have made its Pod before another has deleted its own.
async fn fewest_and_most(
    c: &cluster::Cluster,
    stop: tokio::sync::oneshot::Receiver<()>,
    follow: &tokio::sync::Barrier,
) -> (usize, usize) {
    let stop = stop.map(drop).shared();
    let serving = counts(c, "pod", stop.clone(), follow, |p| usize::from(serves(p)));
    let wanted = counts(c, "rs", stop, follow, |rs| {
        rs["spec"]["replicas"].as_u64().unwrap() as usize
    });
    let (serving, wanted) = futures::join!(serving, wanted);
    let least = serving.into_iter().min().expect("it has served");
    (least, wanted.into_iter().max().expect("some are wanted"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_never_serves_less_than_promised() {
    let c = start().await;
    for (name, surge, unavailable, least, most) in [
        ("steady", json!(1), json!(0), 4, 5),
        ("tight", json!(0), json!(1), 3, 4),
        ("quarter", json!("50%"), json!("25%"), 3, 6),
    ] {
        let mut d = deployment(name, 4, "v1");
        d["spec"]["strategy"] = json!({"type":"RollingUpdate","rollingUpdate":{"maxSurge":surge,"maxUnavailable":unavailable}});
        c.create("deploy", d).await;
        c.rolled_out(name).await;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let follow = tokio::sync::Barrier::new(3);
        let change = async {
            follow.wait().await;
            for image in ["v2", "v3"] {
                c.patch(
                    "deploy",
                    name,
                    json!({"spec":{"template":template(name, image)}}),
                )
                .await;
                c.rolled_out(name).await;
            }
            stop.send(()).unwrap();
        };
        let (seen, ()) = futures::join!(fewest_and_most(&c, stopped, &follow), change);
        assert!(
            seen.0 >= least,
            "{name}: only {} served, {least} promised",
            seen.0
        );
        assert!(
            seen.1 <= most,
            "{name}: {} pods wanted at once, {most} allowed",
            seen.1
        );
        assert_eq!(c.names("rs").await.len(), 3);
        c.delete("deploy", name, DeleteParams::background()).await;
        eventually("all gone", || async { same(c.names("pod").await, vec![]) }).await;
        eventually("sets gone", || async { same(c.names("rs").await, vec![]) }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn back_to_an_earlier_template_uses_its_set_again() {
    let c = start().await;
    c.create("deploy", deployment("web", 2, "v1")).await;
    c.rolled_out("web").await;
    let first = c.names("rs").await.remove(0);
    c.patch(
        "deploy",
        "web",
        json!({"spec":{"template":template("web", "v2")}}),
    )
    .await;
    let d = c.rolled_out("web").await;
    assert_eq!(d.pointer(REVISION), Some(&json!("2")));
    // as kubectl rollout undo does it: the old set's template without its hash, with Go's empty fields
    let mut old = c.field("rs", &first, "/spec/template").await;
    old["metadata"]["labels"]
        .as_object_mut()
        .unwrap()
        .remove("pod-template-hash");
    old["metadata"]["creationTimestamp"] = Value::Null;
    for container in old["spec"]["containers"].as_array_mut().unwrap() {
        container["resources"] = json!({});
    }
    eventually("undone", || async {
        let mut d = c.api("deploy").get("web").await.unwrap();
        d.data["spec"]["template"] = old.clone();
        d.annotations_mut()
            .insert("kubernetes.io/change-cause".into(), "undone".into());
        c.api("deploy")
            .replace("web", &Default::default(), &d)
            .await
            .map_err(|e| e.to_string())
    })
    .await;
    eventually("revision 3", || async {
        same(c.field("deploy", "web", REVISION).await, json!("3"))
    })
    .await;
    c.rolled_out("web").await;
    assert_eq!(c.names("rs").await.len(), 2);
    let rs = c.get("rs", &first).await.unwrap();
    assert_eq!(rs["spec"]["replicas"], 2);
    let a = &rs["metadata"]["annotations"];
    assert_eq!(a["deployment.kubernetes.io/revision"], "3");
    assert_eq!(a["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(a["kubernetes.io/change-cause"], "undone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scale_pause_and_resume() {
    let c = start().await;
    c.create("deploy", deployment("web", 2, "v1")).await;
    c.rolled_out("web").await;
    c.patch("deploy", "web", json!({"spec":{"replicas":5}}))
        .await;
    c.rolled_out("web").await;
    assert_eq!(c.ready_pods().await, 5);
    c.patch("deploy", "web", json!({"spec":{"replicas":0}}))
        .await;
    c.rolled_out("web").await;
    eventually("no pods", || async { same(c.names("pod").await, vec![]) }).await;
    c.patch(
        "deploy",
        "web",
        json!({"spec":{"replicas":3,"paused":true,"template":template("web", "v2")}}),
    )
    .await;
    // paused: scaled, but not rolled
    eventually("3 of the old", || async { same(c.ready_pods().await, 3) }).await;
    eventually("paused is said", || async {
        let d = c.get("deploy", "web").await.unwrap();
        let s = d["status"]["conditions"].to_string();
        same(
            (
                s.contains("DeploymentPaused"),
                d["status"]["updatedReplicas"].is_null(),
            ),
            (true, true),
        )
    })
    .await;
    assert_eq!(c.names("rs").await.len(), 1);
    c.patch("deploy", "web", json!({"spec":{"paused":false}}))
        .await;
    c.rolled_out("web").await;
    assert_eq!(c.names("rs").await.len(), 2);
    assert!(
        c.list("pod")
            .await
            .iter()
            .filter(|p| serves(p))
            .all(|p| p["spec"]["containers"][0]["image"] == "v2")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recreate_never_mixes_and_history_has_its_limit() {
    let c = start().await;
    let mut d = deployment("web", 2, "v1");
    d["spec"]["strategy"] = json!({"type":"Recreate"});
    d["spec"]["revisionHistoryLimit"] = json!(1);
    c.create("deploy", d).await;
    c.rolled_out("web").await;
    let stream = watcher(c.api("pod"), watcher::Config::default());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let watch = async {
        let stream = stream.take_until(stopped);
        tokio::pin!(stream);
        let mut images = std::collections::HashMap::<String, String>::new();
        while let Some(event) = stream.next().await {
            match event.unwrap() {
                watcher::Event::Apply(p) | watcher::Event::InitApply(p) => {
                    let image = p.data["spec"]["containers"][0]["image"].as_str().unwrap();
                    images.insert(p.metadata.name.unwrap(), image.into());
                }
                watcher::Event::Delete(p) => {
                    images.remove(p.metadata.name.as_deref().unwrap());
                }
                _ => {}
            }
            let kinds: std::collections::HashSet<_> = images.values().collect();
            assert!(kinds.len() <= 1, "old and new at once: {images:?}");
        }
    };
    let change = async {
        for image in ["v2", "v3", "v4"] {
            c.patch(
                "deploy",
                "web",
                json!({"spec":{"template":template("web", image)}}),
            )
            .await;
            c.rolled_out("web").await;
        }
        stop.send(()).unwrap();
    };
    futures::join!(watch, change);
    eventually("one old set", || async {
        same(c.names("rs").await.len(), 2)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_survives_its_controllers() {
    let mut c = start().await;
    let mut d = deployment("web", 6, "v1");
    d["spec"]["strategy"] =
        json!({"type":"RollingUpdate","rollingUpdate":{"maxSurge":1,"maxUnavailable":0}});
    c.create("deploy", d).await;
    c.rolled_out("web").await;
    for round in 0..6 {
        let image = format!("r{round}");
        c.patch(
            "deploy",
            "web",
            json!({"spec":{"template":template("web", &image)}}),
        )
        .await;
        // somewhere in the middle, another place each round
        eventually("some are new", || async {
            let n = c
                .list("pod")
                .await
                .iter()
                .filter(|p| p["spec"]["containers"][0]["image"] == *image)
                .count();
            if n > round {
                Ok(())
            } else {
                Err(n.to_string())
            }
        })
        .await;
        c.kill_controllers();
        let ready = c.ready_pods().await;
        assert!(ready >= 6, "{ready} after the kill");
        c.start_controllers();
        c.rolled_out("web").await;
    }
    eventually("no more than wanted", || async {
        same(c.names("pod").await.len(), 6)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_as_many_pods_are_made_as_wanted() {
    let c = start().await;
    let watch = async {
        let stream = until_mark(&c);
        tokio::pin!(stream);
        let mut made = std::collections::HashSet::new();
        while let Some(event) = stream.next().await {
            if let watcher::Event::Apply(p) | watcher::Event::InitApply(p) = event {
                made.insert(p.metadata.uid);
            }
        }
        made.len()
    };
    let change = async {
        for i in 0..4 {
            let name = format!("many-{i}");
            let mut rs = deployment(&name, 40, "v1");
            rs["spec"]["template"] = template(&name, "v1");
            c.create("rs", rs).await;
        }
        eventually("160 ready", || async { same(c.ready_pods().await, 160) }).await;
        // as many again for the ones that go
        let all = c.names("pod").await;
        for name in all.iter().take(10) {
            c.delete("pod", name, DeleteParams::default()).await;
        }
        for name in all.iter().take(10) {
            c.gone("pod", name).await;
        }
        eventually("160 ready again", || async {
            same(c.ready_pods().await, 160)
        })
        .await;
        for i in 0..4 {
            c.patch("rs", &format!("many-{i}"), json!({"spec":{"replicas":1}}))
                .await;
        }
        eventually("4 left", || async { same(c.names("pod").await.len(), 4) }).await;
        c.mark().await;
    };
    let (made, ()) = futures::join!(watch, change);
    assert_eq!(made, 170);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_are_adopted_and_strays_released() {
    let c = start().await;
    let mut pod = template("web", "v1");
    pod["metadata"]["name"] = json!("orphan");
    c.create("pod", pod).await;
    // then it is known: all controllers see the same Pods
    eventually("it runs", || async { same(c.ready_pods().await, 1) }).await;
    let mut rs = deployment("web", 2, "v1");
    rs["spec"]["template"] = template("web", "v1");
    c.create("rs", rs).await;
    eventually("adopted", || async {
        same(
            c.field("pod", "orphan", "/metadata/ownerReferences/0/name")
                .await,
            json!("web"),
        )
    })
    .await;
    eventually("two in all", || async { same(c.ready_pods().await, 2) }).await;
    assert_eq!(c.names("pod").await.len(), 2);
    c.patch(
        "pod",
        "orphan",
        json!({"metadata":{"labels":{"app":"debug"}}}),
    )
    .await;
    eventually("released", || async {
        same(
            c.field("pod", "orphan", "/metadata/ownerReferences").await,
            Value::Null,
        )
    })
    .await;
    eventually("replaced", || async { same(c.names("pod").await.len(), 3) }).await;
    // the ReplicationController does the same work
    c.create(
        "rc",
        json!({"metadata":{"name":"old"},"spec":{"replicas":2,"selector":{"app":"old"},"template":template("old","v1")}}),
    )
    .await;
    eventually("rc is ready", || async {
        same(
            c.field("rc", "old", "/status/readyReplicas").await,
            json!(2),
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_that_hangs_is_said_to() {
    let c = start().await;
    let mut d = deployment("web", 2, "v1");
    d["spec"]["progressDeadlineSeconds"] = json!(2);
    d["spec"]["minReadySeconds"] = json!(1);
    c.create("deploy", d).await;
    c.rolled_out("web").await;
    let mut bad = template("web", "v2");
    bad["metadata"]["annotations"] = json!({"test/ready":"never"});
    c.patch("deploy", "web", json!({"spec":{"template":bad}}))
        .await;
    eventually("deadline", || async {
        let s = c
            .field("deploy", "web", "/status/conditions")
            .await
            .to_string();
        same(
            (
                s.contains("ProgressDeadlineExceeded"),
                s.contains("has timed out progressing."),
                s.contains("MinimumReplicasAvailable"),
            ),
            (true, true, true),
        )
    })
    .await;
    // 25 % of 2 rounds down to none missing: both old ones serve
    assert_eq!(c.ready_pods().await, 2);
    c.patch(
        "deploy",
        "web",
        json!({"spec":{"template":{"metadata":{"annotations":null},"spec":template("web","v3")["spec"]}}}),
    )
    .await;
    c.rolled_out("web").await;
}
