//! Certificate requests, from the request to the certificate.

mod cluster;

use cluster::{bare, eventually};
use kube::{
    Api,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};

const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

fn requests(c: &cluster::Cluster) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::gvk("certificates.k8s.io", "v1", "CertificateSigningRequest");
    let r = ApiResource::from_gvk_with_plural(&gvk, "certificatesigningrequests");
    Api::all_with(c.client.clone(), &r)
}

async fn ask(api: &Api<DynamicObject>, name: &str, signer: &str, usages: &[&str], pem: &[u8]) {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let o = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {"request": STANDARD.encode(pem), "signerName": signer, "usages": usages},
    });
    let o = serde_json::from_value(o).unwrap();
    api.create(&Default::default(), &o).await.unwrap();
}

async fn status(api: &Api<DynamicObject>, name: &str, done: impl Fn(&Value) -> bool) -> Value {
    eventually(name, || async {
        let o = api.get(name).await.map_err(|e| e.to_string())?;
        match done(&o.data["status"]) {
            true => Ok(o.data["status"].clone()),
            false => Err(o.data["status"].to_string()),
        }
    })
    .await
}

const NODE: &[u8] = include_bytes!("../../api/tests/data/node-rsa.csr");
const JANE: &[u8] = include_bytes!("../../api/tests/data/jane.csr");

#[tokio::test]
async fn a_node_gets_its_certificate_by_itself_and_a_user_after_approval() {
    let c = bare(Some(vec!["certificates".into()])).await;
    let api = requests(&c);
    let usages = ["digital signature", "client auth"];
    ask(&api, "node", KUBELET_CLIENT, &usages, NODE).await;
    let s = status(&api, "node", |s| s["certificate"].is_string()).await;
    assert_eq!(s["conditions"][0]["reason"], "AutoApproved");

    ask(&api, "jane", CLIENT, &usages, JANE).await;
    ask(&api, "wrong", CLIENT, &["server auth"], JANE).await;
    ask(&api, "foreign", "example.com/own", &usages, JANE).await;
    for name in ["jane", "wrong", "foreign"] {
        let approved = json!({"status": {"conditions": [
            {"type": "Approved", "status": "True", "reason": "Test", "message": "by the test"}]}});
        api.patch_subresource(
            "approval",
            name,
            &PatchParams::default(),
            &Patch::Merge(approved),
        )
        .await
        .unwrap();
    }
    let s = status(&api, "jane", |s| s["certificate"].is_string()).await;
    assert_eq!(s["conditions"][0]["reason"], "Test");
    let s = status(&api, "wrong", |s| {
        s["conditions"].as_array().is_some_and(|c| c.len() == 2)
    })
    .await;
    assert_eq!(
        (&s["conditions"][1]["type"], &s["conditions"][1]["message"]),
        (
            &json!("Failed"),
            &json!("invalid usage for client certificate: server auth")
        )
    );
    let foreign = api.get("foreign").await.unwrap();
    assert!(foreign.data["status"]["certificate"].is_null());
}

#[tokio::test]
async fn old_requests_go() {
    let c = bare(Some(vec!["certificates".into()])).await;
    let api = requests(&c);
    ask(&api, "old", "example.com/own", &["client auth"], JANE).await;
    let denied = json!({"status": {"conditions": [
        {"type": "Denied", "status": "True", "lastUpdateTime": "2020-01-01T00:00:00Z"}]}});
    // the controller may be quicker than the answer is read
    let _ = api
        .patch_subresource(
            "approval",
            "old",
            &PatchParams::default(),
            &Patch::Merge(denied),
        )
        .await;
    eventually("the old request goes", || async {
        match api.get_opt("old").await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
