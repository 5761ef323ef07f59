//! ResourceClaims of Pods, against the API server.

mod cluster;

use cluster::{Cluster, bare, eventually, same};
use serde_json::{Value, json};

async fn start() -> Cluster {
    bare(Some(vec!["resourceclaim".into()])).await
}

fn spec() -> Value {
    json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu.example.com"}}]}})
}

fn pod(name: &str, claim: Value) -> Value {
    let mut claim = claim;
    claim["name"] = "gpu".into();
    json!({"metadata": {"name": name}, "spec": {"resourceClaims": [claim],
        "containers": [{"name": "c", "image": "i", "resources": {"claims": [{"name": "gpu"}]}}]}})
}

async fn template(c: &Cluster) {
    let template = json!({"metadata": {"name": "t"}, "spec": {
        "metadata": {"labels": {"of": "t"}, "annotations": {"a": "b"}}, "spec": spec()}});
    c.create("claimtemplate", template).await;
}

/// The claim that the Pod says was made for it.
async fn made(c: &Cluster, pod: &str) -> Value {
    let name = eventually("the Pod is told", || async {
        let told = c
            .field(
                "pod",
                pod,
                "/status/resourceClaimStatuses/0/resourceClaimName",
            )
            .await;
        told.as_str().map(str::to_owned).ok_or(told.to_string())
    })
    .await;
    c.get("claim", &name).await.unwrap()
}

/// Sets devices aside for the claim, as a scheduler does, for these users.
async fn allocate(c: &Cluster, claim: &str, users: Value) {
    c.patch(
        "claim",
        claim,
        json!({"metadata": {"finalizers": ["resource.kubernetes.io/delete-protection"]}}),
    )
    .await;
    c.patch_status(
        "claim",
        claim,
        json!({"status": {"reservedFor": users, "allocation": {"devices": {"results": [
        {"request": "r", "driver": "d.example.com", "pool": "p", "device": "x"}]}},
        "devices": [{"driver": "d.example.com", "pool": "p", "device": "x", "data": {"a": "b"}}]}}),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_made_of_the_template_and_goes_when_the_pod_has_ended() {
    let c = start().await;
    // the Pod is there before its template
    let made_pod = c
        .create("pod", pod("p", json!({"resourceClaimTemplateName": "t"})))
        .await;
    template(&c).await;
    let claim = made(&c, "p").await;
    let m = &claim["metadata"];
    assert!(m["name"].as_str().unwrap().starts_with("p-gpu-"), "{m}");
    assert_eq!(m["labels"], json!({"of": "t"}));
    assert_eq!(
        m["annotations"],
        json!({"a": "b", "resource.kubernetes.io/pod-claim-name": "gpu"})
    );
    assert_eq!(
        m["ownerReferences"],
        json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": made_pod["metadata"]["uid"], "controller": true}])
    );
    assert_eq!(claim["spec"]["devices"]["requests"][0]["name"], "r");
    let name = m["name"].as_str().unwrap();
    assert_eq!(c.list("claim").await.len(), 1, "one is enough");

    // someone deletes it: another is made, and the Pod is told
    c.delete("claim", name, Default::default()).await;
    let again = eventually("another claim", || async {
        let told = c
            .field(
                "pod",
                "p",
                "/status/resourceClaimStatuses/0/resourceClaimName",
            )
            .await;
        match told.as_str() {
            Some(new) if new != name => Ok(new.to_owned()),
            _ => Err(told.to_string()),
        }
    })
    .await;
    c.patch_status("pod", "p", json!({"status": {"phase": "Succeeded"}}))
        .await;
    eventually("the claim is gone", || async {
        same(c.get("claim", &again).await.is_none(), true)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_used_no_more_is_given_free() {
    let c = start().await;
    c.create(
        "claim",
        json!({"metadata": {"name": "shared"}, "spec": spec()}),
    )
    .await;
    let p = c
        .create("pod", pod("p", json!({"resourceClaimName": "shared"})))
        .await;
    let user = |name: &str, uid: &Value| json!({"resource": "pods", "name": name, "uid": uid});
    let alive = user("p", &p["metadata"]["uid"]);
    allocate(&c, "shared", json!([alive, user("gone", &json!("1-2-3"))])).await;
    eventually("the one that is no more is taken out", || async {
        same(
            c.field("claim", "shared", "/status/reservedFor").await,
            json!([alive]),
        )
    })
    .await;
    c.delete(
        "pod",
        "p",
        kube::api::DeleteParams::default().grace_period(0),
    )
    .await;
    eventually("the devices are free", || async {
        let o = c.get("claim", "shared").await.unwrap();
        same(
            (
                o["status"].get("allocation").is_none(),
                o["metadata"].get("finalizers").is_none(),
            ),
            (true, true),
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_nobody_placed_gets_its_reservation() {
    let c = start().await;
    c.create(
        "claim",
        json!({"metadata": {"name": "shared"}, "spec": spec()}),
    )
    .await;
    c.create("node", json!({"metadata": {"name": "n"}})).await;
    let mut by_hand = pod("p", json!({"resourceClaimName": "shared"}));
    by_hand["spec"]["nodeName"] = "n".into();
    let p = c.create("pod", by_hand).await;
    // in use by something that isn't a Pod: that is left alone
    let other =
        json!({"apiGroup": "example.com", "resource": "things", "name": "x", "uid": "4-5-6"});
    allocate(&c, "shared", json!([other])).await;
    let mine = json!({"resource": "pods", "name": "p", "uid": p["metadata"]["uid"]});
    eventually("it is reserved", || async {
        same(
            c.field("claim", "shared", "/status/reservedFor").await,
            json!([other, mine]),
        )
    })
    .await;
}
