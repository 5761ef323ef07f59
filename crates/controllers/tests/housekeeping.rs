//! What the small controllers keep in order, against the API server.

mod cluster;

use cluster::{eventually, same, start};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aggregated_roles_follow_their_parts() {
    let c = start().await;
    let rule = |r: &str| json!({"apiGroups":[""],"verbs":["get"],"resources":[r]});
    c.create(
        "clusterrole",
        json!({"metadata":{"name":"sum"},"rules":null,
        "aggregationRule":{"clusterRoleSelectors":[{"matchLabels":{"example.com/to":"sum"}}]}}),
    )
    .await;
    let part = |name: &str, r: &str| json!({"metadata":{"name":name,"labels":{"example.com/to":"sum"}},"rules":[rule(r)]});
    c.create("clusterrole", part("one", "pods")).await;
    c.create("clusterrole", part("two", "secrets")).await;
    let rules = |want| {
        let c = &c;
        async move {
            eventually("the sum", || async {
                same(c.field("clusterrole", "sum", "/rules").await, json!(want))
            })
            .await;
        }
    };
    rules(vec![rule("pods"), rule("secrets")]).await;
    c.patch("clusterrole", "one", json!({"rules":[rule("nodes")]}))
        .await;
    rules(vec![rule("nodes"), rule("secrets")]).await;
    c.patch("clusterrole", "two", json!({"metadata":{"labels":null}}))
        .await;
    rules(vec![rule("nodes")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pods_own_claims() {
    let c = start().await;
    let claim = json!({"metadata":{"labels":{"of":"scratch"}},"spec":{"accessModes":["ReadWriteOnce"],
        "resources":{"requests":{"storage":"1Mi"}}}});
    let pod = json!({"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}],
        "volumes":[{"name":"scratch","ephemeral":{"volumeClaimTemplate":claim}}]}});
    let pod = c.create("pod", pod).await;
    let made = eventually("the claim", || async {
        c.get("pvc", "p-scratch").await.ok_or("none".to_owned())
    })
    .await;
    assert_eq!(made["metadata"]["labels"]["of"], "scratch");
    let owner = &made["metadata"]["ownerReferences"][0];
    assert_eq!(owner["uid"], pod["metadata"]["uid"]);
    assert_eq!(made["spec"]["resources"]["requests"]["storage"], "1Mi");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_kept_by_hand_are_mirrored() {
    let c = start().await;
    let service = json!({"metadata":{"name":"db"},"spec":{"ports":[{"port":5432}]}});
    c.create("svc", service).await;
    let endpoints = |ip: &str| {
        json!({"metadata":{"name":"db","labels":{"team":"a"}},
            "subsets":[{"addresses":[{"ip":ip}],"ports":[{"port":5432,"protocol":"TCP"}]}]})
    };
    c.create("ep", endpoints("192.0.2.1")).await;
    let mirrored = |want: Vec<&'static str>| {
        let c = &c;
        async move {
            eventually("mirrored", || async {
                let slices = c.list("slice").await;
                let mine = slices
                    .iter()
                    .filter(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == "db");
                let all: Vec<_> = mine
                    .map(|s| {
                        let labels = &s["metadata"]["labels"];
                        assert_eq!(labels["team"], "a");
                        assert_eq!(
                            labels["endpointslice.kubernetes.io/managed-by"],
                            "endpointslicemirroring-controller.k8s.io"
                        );
                        s["endpoints"][0]["addresses"][0].clone()
                    })
                    .collect();
                same(all, want.iter().map(|w| json!(w)).collect())
            })
            .await;
        }
    };
    mirrored(vec!["192.0.2.1"]).await;
    c.patch(
        "ep",
        "db",
        json!({"subsets":endpoints("192.0.2.2")["subsets"]}),
    )
    .await;
    mirrored(vec!["192.0.2.2"]).await;
    c.patch("ep", "db", json!({"subsets":null})).await;
    mirrored(vec![]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_are_no_masters() {
    let c = cluster::bare(Some(vec![])).await;
    let asks = async |name: &str, method: &str, path: &str| {
        let who = knarr_controllers::identity(name);
        let client = c.api.client(&who.user, who.groups, name);
        let request = http::Request::builder().method(method).uri(path);
        let answer = client.send(request.body(kube::client::Body::empty()).unwrap());
        answer.await.unwrap().status().as_u16()
    };
    // these see everything, as upstream's do
    const SEE_ALL: [&str; 4] = [
        "garbagecollector",
        "legacytokencleaner",
        "namespace",
        "resourcequota",
    ];
    // these have their own work alone
    const SEE_NO_PODS: [&str; 5] = [
        "bootstrapsigner",
        "tokencleaner",
        "nodettl",
        "servicecidr",
        "serviceaddresses",
    ];
    for name in knarr_controllers::names() {
        let pods = asks(name, "GET", "/api/v1/pods").await;
        let allowed = !SEE_NO_PODS.contains(&name);
        assert_eq!(pods, if allowed { 200 } else { 403 }, "{name}");
        let secrets = asks(name, "GET", "/api/v1/secrets").await;
        let allowed = SEE_ALL.contains(&name);
        assert_eq!(secrets, if allowed { 200 } else { 403 }, "{name}");
        let create = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
        assert_eq!(asks(name, "POST", create).await, 403, "{name}");
    }
}
