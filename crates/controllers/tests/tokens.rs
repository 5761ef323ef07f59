//! Bootstrap tokens: they sign, and they end.

mod cluster;

use base64::{Engine, engine::general_purpose::STANDARD};
use cluster::{Cluster, bare, eventually, same};
use serde_json::{Value, json};

fn token(id: &str, more: &[(&str, &str)]) -> Value {
    let mut data = json!({});
    let base = [
        ("token-id", id),
        ("token-secret", "0123456789abcdef"),
        ("usage-bootstrap-signing", "true"),
    ];
    for (key, value) in base.iter().chain(more) {
        data[*key] = STANDARD.encode(value).into();
    }
    json!({"metadata": {"name": format!("bootstrap-token-{id}")}, "type": "bootstrap.kubernetes.io/token", "data": data})
}

async fn signatures(c: &Cluster) -> Vec<String> {
    let info = c.get_in("cm", "kube-public", "cluster-info").await.unwrap();
    let keys = info["data"].as_object().unwrap().keys();
    keys.filter(|k| *k != "kubeconfig").cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bootstrap_tokens_sign_until_they_end() {
    let c = bare(Some(vec!["bootstrapsigner".into(), "tokencleaner".into()])).await;
    let info = json!({"metadata": {"name": "cluster-info"}, "data": {"kubeconfig": "a cluster"}});
    c.create_in("cm", "kube-public", info).await;
    let at = |seconds| {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    };
    let later = at(3600);
    c.create_in("secret", "kube-system", token("aaaaaa", &[]))
        .await;
    c.create_in(
        "secret",
        "kube-system",
        token("bbbbbb", &[("expiration", &later)]),
    )
    .await;
    c.create_in(
        "secret",
        "kube-system",
        token("cccccc", &[("usage-bootstrap-signing", "false")]),
    )
    .await;
    eventually("signed by both", || async {
        same(
            signatures(&c).await,
            vec![
                "jws-kubeconfig-aaaaaa".into(),
                "jws-kubeconfig-bbbbbb".into(),
            ],
        )
    })
    .await;
    // it ends a moment from now, in any case after they have signed
    let soon = json!({"data":{"expiration":STANDARD.encode(at(1))}});
    c.api_in("secret", "kube-system")
        .patch(
            "bootstrap-token-bbbbbb",
            &Default::default(),
            &kube::api::Patch::Merge(soon),
        )
        .await
        .unwrap();
    eventually("one has ended", || async {
        same(signatures(&c).await, vec!["jws-kubeconfig-aaaaaa".into()])
    })
    .await;
    eventually("and is gone", || async {
        let token = c
            .get_in("secret", "kube-system", "bootstrap-token-bbbbbb")
            .await;
        same(token.is_none(), true)
    })
    .await;
    assert!(
        c.get_in("secret", "kube-system", "bootstrap-token-aaaaaa")
            .await
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_told_how_long_what_they_read_is_good() {
    let c = bare(Some(vec!["nodettl".into()])).await;
    c.create("node", json!({"metadata": {"name": "n"}})).await;
    eventually("the annotation", || async {
        let annotations = c.field("node", "n", "/metadata/annotations").await;
        same(
            annotations["node.alpha.kubernetes.io/ttl"].clone(),
            json!("0"),
        )
    })
    .await;
}
