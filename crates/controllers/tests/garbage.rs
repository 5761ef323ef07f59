//! Garbage collection and namespace deletion against the API server.

mod cluster;

use cluster::{deployment, eventually, same, start};
use kube::api::DeleteParams;
use serde_json::{Value, json};

fn owned_by(name: &str, owner: &Value, block: bool) -> Value {
    json!({"metadata":{"name":name,"ownerReferences":[{
        "apiVersion":owner["apiVersion"],"kind":owner["kind"],"name":owner["metadata"]["name"],
        "uid":owner["metadata"]["uid"],"blockOwnerDeletion":block}]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_go_with_their_owner() {
    let c = start().await;
    c.create("deploy", deployment("web", 3, "v1")).await;
    c.rolled_out("web").await;
    // background: the owner at once, the others after
    c.delete("deploy", "web", DeleteParams::background()).await;
    assert!(c.get("deploy", "web").await.is_none());
    eventually("pods go", || async { same(c.names("pod").await, vec![]) }).await;
    eventually("sets go", || async { same(c.names("rs").await, vec![]) }).await;
    // foreground: the owner last
    c.create("deploy", deployment("web", 3, "v1")).await;
    c.rolled_out("web").await;
    c.delete("deploy", "web", DeleteParams::foreground()).await;
    eventually("the owner goes last", || async {
        match c.get("deploy", "web").await {
            Some(d) => Err(d["metadata"].to_string()),
            None => {
                let left = c.names("pod").await.len() + c.names("rs").await.len();
                assert_eq!(left, 0, "the Deployment went before what it owns");
                Ok(())
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_stay() {
    let c = start().await;
    c.create("deploy", deployment("web", 2, "v1")).await;
    c.rolled_out("web").await;
    c.delete("deploy", "web", DeleteParams::orphan()).await;
    c.gone("deploy", "web").await;
    let [rs] = c.names("rs").await.try_into().unwrap();
    assert_eq!(
        c.field("rs", &rs, "/metadata/ownerReferences").await,
        Value::Null
    );
    assert_eq!(c.ready_pods().await, 2);
    // a new Deployment takes the set up again
    c.create("deploy", deployment("web", 2, "v1")).await;
    c.rolled_out("web").await;
    assert_eq!(c.names("rs").await, vec![rs.clone()]);
    // so do its pods' set; one that hears late of the pods made two more, and takes as many away
    let uid = c.field("rs", &rs, "/metadata/uid").await;
    c.delete("rs", &rs, DeleteParams::orphan()).await;
    eventually("made again, with two pods", || async {
        let d = c.get("rs", &rs).await.unwrap_or_default();
        let ready = d["status"]["readyReplicas"].clone();
        let another = d["metadata"]["uid"].is_string() && d["metadata"]["uid"] != uid;
        let pods = c.names("pod").await.len();
        same((another, ready, pods), (true, json!(2), 2))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_owner_is_enough_and_none_too_few() {
    let c = start().await;
    let a = c.create("cm", json!({"metadata":{"name":"a"}})).await;
    let b = c.create("cm", json!({"metadata":{"name":"b"}})).await;
    let mut both = owned_by("both", &a, false);
    both["metadata"]["ownerReferences"]
        .as_array_mut()
        .unwrap()
        .push(owned_by("", &b, false)["metadata"]["ownerReferences"][0].clone());
    c.create("cm", both).await;
    // one whose owner never was, and one whose owner's name was taken by another
    let mut ghost = a.clone();
    ghost["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
    c.create("cm", owned_by("impostor", &ghost, false)).await;
    ghost["metadata"]["name"] = json!("never-was");
    c.create("cm", owned_by("ghost", &ghost, false)).await;
    c.gone("cm", "impostor").await;
    c.gone("cm", "ghost").await;
    c.delete("cm", "a", DeleteParams::default()).await;
    eventually("the lost owner is forgotten", || async {
        let owners = c.field("cm", "both", "/metadata/ownerReferences").await;
        same(
            owners
                .as_array()
                .map(|o| o.iter().map(|o| o["name"].clone()).collect()),
            Some(vec![json!("b")]),
        )
    })
    .await;
    c.delete("cm", "b", DeleteParams::default()).await;
    c.gone("cm", "both").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreground_waits_for_finalizers_of_those_that_block() {
    let c = start().await;
    let a = c.create("cm", json!({"metadata":{"name":"a"}})).await;
    let mut held = owned_by("held", &a, true);
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    c.create("cm", held).await;
    c.create("cm", owned_by("free", &a, false)).await;
    c.delete("cm", "a", DeleteParams::foreground()).await;
    c.gone("cm", "free").await;
    eventually("held is on its way", || async {
        match c.field("cm", "held", "/metadata/deletionTimestamp").await {
            Value::Null => Err("not yet".into()),
            _ => Ok(()),
        }
    })
    .await;
    assert!(c.get("cm", "a").await.is_some());
    c.patch("cm", "held", json!({"metadata":{"finalizers":null}}))
        .await;
    c.gone("cm", "a").await;
    assert!(c.get("cm", "held").await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happened_while_it_was_away_is_made_up_for() {
    let mut c = start().await;
    c.create("deploy", deployment("web", 2, "v1")).await;
    c.rolled_out("web").await;
    c.kill_controllers();
    c.delete("deploy", "web", DeleteParams::background()).await;
    c.start_controllers();
    eventually("pods go", || async { same(c.names("pod").await, vec![]) }).await;
    eventually("sets go", || async { same(c.names("rs").await, vec![]) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_goes_with_all_in_it() {
    let c = start().await;
    c.create("ns", json!({"metadata":{"name":"shop"}})).await;
    eventually("default service account", || async {
        match c.api_in("sa", "shop").get_opt("default").await.unwrap() {
            Some(_) => Ok(()),
            None => Err("none".into()),
        }
    })
    .await;
    c.create_in("deploy", "shop", deployment("web", 3, "v1"))
        .await;
    c.create_in("cm", "shop", json!({"metadata":{"name":"free"}}))
        .await;
    let held = json!({"metadata":{"name":"held","finalizers":["example.com/hold"]}});
    c.create_in("cm", "shop", held).await;
    let svc =
        json!({"metadata":{"name":"web"},"spec":{"selector":{"app":"web"},"ports":[{"port":80}]}});
    c.create_in("svc", "shop", svc).await;
    eventually("it runs", || async {
        let pods = c.api_in("pod", "shop").list(&Default::default()).await;
        let pods = serde_json::to_value(pods.unwrap().items).unwrap();
        same(
            pods.as_array()
                .unwrap()
                .iter()
                .filter(|p| cluster::serves(p))
                .count(),
            3,
        )
    })
    .await;
    c.delete("ns", "shop", DeleteParams::default()).await;
    eventually("says what it waits for", || async {
        let s = c.field("ns", "shop", "/status").await;
        let text = s["conditions"].to_string();
        same(
            (
                s["phase"].clone(),
                text.contains("configmaps. has 1 resource instances"),
                text.contains("example.com/hold in 1 resource instances"),
            ),
            (json!("Terminating"), true, true),
        )
    })
    .await;
    for kind in ["pod", "deploy", "rs", "svc", "slice", "sa"] {
        eventually(kind, || async {
            let left = c.api_in(kind, "shop").list(&Default::default()).await;
            same(left.unwrap().items.len(), 0)
        })
        .await;
    }
    c.api_in("cm", "shop")
        .patch(
            "held",
            &Default::default(),
            &kube::api::Patch::Merge(json!({"metadata":{"finalizers":null}})),
        )
        .await
        .unwrap();
    c.gone("ns", "shop").await;
    // and it can be made again
    c.create("ns", json!({"metadata":{"name":"shop"}})).await;
    eventually("default service account", || async {
        match c.api_in("sa", "shop").get_opt("default").await.unwrap() {
            Some(_) => Ok(()),
            None => Err("none".into()),
        }
    })
    .await;
    let gone = c.api_in("pod", "shop").list(&Default::default()).await;
    assert_eq!(gone.unwrap().items.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_get_what_each_has() {
    let c = start().await;
    let sa = |ns: &'static str| {
        let api = c.api_in("sa", ns);
        async move { api.get_opt("default").await.unwrap().is_some() }
    };
    for ns in ["default", "kube-system"] {
        eventually(ns, || async { same(sa(ns).await, true) }).await;
    }
    c.delete("sa", "default", DeleteParams::default()).await;
    eventually("made again", || async { same(sa("default").await, true) }).await;
    let root = c.api_in("cm", "kube-public").get("kube-root-ca.crt").await;
    let root = root.unwrap().data["data"]["ca.crt"].clone();
    let ca = || async { c.field("cm", "kube-root-ca.crt", "/data/ca.crt").await };
    eventually("published", || async { same(ca().await, root.clone()) }).await;
    c.patch("cm", "kube-root-ca.crt", json!({"data":{"ca.crt":"x"}}))
        .await;
    eventually("restored", || async { same(ca().await, root.clone()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_in_another_namespace_is_none() {
    let c = start().await;
    c.create("ns", json!({"metadata":{"name":"far"}})).await;
    let owner = c
        .create_in("cm", "far", json!({"metadata":{"name":"owner"}}))
        .await;
    c.create_in("cm", "far", owned_by("near", &owner, true))
        .await;
    c.create("cm", owned_by("across", &owner, true)).await;
    // the same uid under another name or kind is nobody either
    let mut other = owner.clone();
    other["metadata"]["name"] = json!("another");
    c.create_in("cm", "far", owned_by("renamed", &other, true))
        .await;
    other = owner.clone();
    other["kind"] = json!("Secret");
    c.create_in("cm", "far", owned_by("of-another-kind", &other, true))
        .await;
    c.gone("cm", "across").await;
    for gone in ["renamed", "of-another-kind"] {
        eventually(gone, || async {
            let o = c.api_in("cm", "far").get_opt(gone).await.unwrap();
            same(o.is_none(), true)
        })
        .await;
    }
    let near = c.api_in("cm", "far").get("near").await.unwrap();
    assert!(near.metadata.deletion_timestamp.is_none());
    // the one who named it rightly still depends on it
    let far = c.api_in("cm", "far");
    far.delete("owner", &DeleteParams::background())
        .await
        .unwrap();
    eventually("near", || async {
        same(far.get_opt("near").await.unwrap().is_none(), true)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_in_a_namespace_means_nothing_to_the_cluster() {
    let c = start().await;
    let owner = c.create("cm", json!({"metadata":{"name":"owner"}})).await;
    c.create("sc", {
        let mut sc = owned_by("class", &owner, false);
        sc["provisioner"] = json!("example.com/none");
        sc
    })
    .await;
    // what is judged after it has gone
    c.create("cm", owned_by("marker", &owner, false)).await;
    c.delete("cm", "owner", DeleteParams::background()).await;
    c.gone("cm", "marker").await;
    assert!(c.get("sc", "class").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circle_goes_whole() {
    for policy in [DeleteParams::foreground(), DeleteParams::background()] {
        let c = start().await;
        let a = c.create("cm", json!({"metadata":{"name":"a"}})).await;
        let b = c.create("cm", owned_by("b", &a, true)).await;
        let last = c.create("cm", owned_by("c", &b, true)).await;
        let refs = owned_by("", &last, true)["metadata"]["ownerReferences"].clone();
        c.patch("cm", "a", json!({"metadata":{"ownerReferences":refs}}))
            .await;
        c.delete("cm", "a", policy).await;
        for name in ["a", "b", "c"] {
            c.gone("cm", name).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_loses_its_pods_first() {
    let c = start().await;
    c.create("ns", json!({"metadata":{"name":"shop"}})).await;
    let pod = json!({"metadata":{"name":"held","finalizers":["example.com/hold"]},
        "spec":{"containers":[{"name":"c","image":"i"}]}});
    c.create_in("pod", "shop", pod).await;
    c.create_in("cm", "shop", json!({"metadata":{"name":"leaned-on"}}))
        .await;
    c.delete("ns", "shop", DeleteParams::default()).await;
    eventually("says what it waits for", || async {
        let conditions = c.field("ns", "shop", "/status/conditions").await;
        same(
            conditions.to_string().contains(
                "Some content in the namespace has finalizers remaining: example.com/hold in 1",
            ),
            true,
        )
    })
    .await;
    let cm = c.api_in("cm", "shop").get("leaned-on").await.unwrap();
    assert!(cm.metadata.deletion_timestamp.is_none());
    let free = kube::api::Patch::Merge(json!({"metadata":{"finalizers":null}}));
    c.api_in("pod", "shop")
        .patch("held", &Default::default(), &free)
        .await
        .unwrap();
    c.gone("ns", "shop").await;
}
