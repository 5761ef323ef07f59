//! CertificateSigningRequests: who fills in what, and through which subresource what changes.

mod common;

use base64::{Engine, engine::general_purpose::STANDARD};
use common::*;
use http::Method;
use knarr_api::ApiServer;
use serde_json::{Value, json};

const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn server() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::for_tests(dir.path());
    let client = api.client("admin", &["system:masters"], "tester/1.0");
    Fixture { api, client, dir }
}

fn csr(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let request = STANDARD.encode(include_bytes!("data/jane.csr"));
    let mut o = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {"request": request, "signerName": "example.com/own", "usages": ["client auth"]},
    });
    change(&mut o);
    o
}

#[tokio::test]
async fn the_requester_is_who_asks() {
    let f = server();
    let made = f
        .made(
            PATH,
            csr("a", |o| {
                o["spec"]["username"] = "somebody-else".into();
                o["spec"]["groups"] = json!(["system:masters", "x"]);
                o["spec"]["extra"] = json!({"k": ["v"]});
                o["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}]});
            }),
        )
        .await;
    assert_eq!(made["spec"]["username"], "admin");
    assert_eq!(
        made["spec"]["groups"],
        json!(["system:masters", "system:authenticated"])
    );
    assert!(made["spec"].get("extra").is_none());
    assert_eq!(made["status"], json!({}));
    assert!(made["metadata"].get("generation").is_none());

    // the main resource keeps spec and status
    let mut new = made.clone();
    new["spec"]["usages"] = json!(["server auth"]);
    new["metadata"]["labels"] = json!({"a": "b"});
    let put = f.put(&format!("{PATH}/a"), new).await;
    assert_eq!(put.code, 200);
    assert_eq!(put.json()["spec"], made["spec"]);
    assert_eq!(put.json()["metadata"]["labels"]["a"], "b");

    let found = f
        .get(&format!(
            "{PATH}?fieldSelector=spec.signerName%3Dexample.com/own"
        ))
        .await;
    assert_eq!(found.json()["items"].as_array().unwrap().len(), 1);
    let table = f
        .send(
            Method::GET,
            PATH,
            &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")],
            vec![],
        )
        .await
        .json();
    let cells = &table["rows"][0]["cells"];
    assert_eq!(
        (&cells[0], &cells[2], &cells[3], &cells[4], &cells[5]),
        (
            &json!("a"),
            &json!("example.com/own"),
            &json!("admin"),
            &json!("<none>"),
            &json!("Pending")
        )
    );
}

#[tokio::test]
async fn bad_requests_are_told_in_upstreams_words() {
    let f = server();
    type Change = fn(&mut Value);
    let cases: [(&str, Change, &str); 9] = [
        (
            "no PEM",
            |o| o["spec"]["request"] = STANDARD.encode("x").into(),
            "PEM block type must be CERTIFICATE REQUEST",
        ),
        (
            "no usages",
            |o| o["spec"]["usages"] = json!([]),
            "spec.usages: Required value",
        ),
        (
            "an unknown usage",
            |o| o["spec"]["usages"] = json!(["x"]),
            "spec.usages[0]: Unsupported value: \"x\": supported values: \"any\", \"cert sign\", ",
        ),
        (
            "a usage twice",
            |o| o["spec"]["usages"] = json!(["any", "any"]),
            "spec.usages[1]: Duplicate value: \"any\"",
        ),
        (
            "the legacy signer",
            |o| o["spec"]["signerName"] = "kubernetes.io/legacy-unknown".into(),
            "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
        ),
        (
            "no signer",
            |o| o["spec"]["signerName"] = "".into(),
            "spec.signerName: Required value",
        ),
        (
            "a signer without path",
            |o| o["spec"]["signerName"] = "example.com".into(),
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ),
        (
            "a signer's odd domain",
            |o| o["spec"]["signerName"] = "Example/x".into(),
            "validating label \"Example\": a lowercase RFC 1123 label must",
        ),
        (
            "too short",
            |o| o["spec"]["expirationSeconds"] = 599.into(),
            "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
        ),
    ];
    for (name, change, want) in cases {
        let a = f.post(PATH, csr("a", change)).await;
        assert_eq!(a.code, 422, "{name}");
        let message = a.json()["message"].as_str().unwrap().to_string();
        assert!(message.contains(want), "{name}: {message}");
    }
}

#[tokio::test]
async fn approval_and_status_change_their_own_parts() {
    let f = server();
    f.made(PATH, csr("a", |_| {})).await;
    let (approval, status) = (format!("{PATH}/a/approval"), format!("{PATH}/a/status"));
    let conditions = |kind: &str, status: &str| {
        json!({"status": {"conditions": [{"type": kind, "status": status, "reason": "R", "message": "m"}]}})
            .to_string()
    };
    let says = |a: &Answer| a.json()["message"].as_str().unwrap_or("").to_string();

    let a = f
        .patch(&status, "merge-patch", &conditions("Approved", "True"))
        .await;
    assert_eq!(a.code, 422);
    assert!(says(&a).contains("updates may not add a condition of type \"Approved\""));
    let a = f
        .patch(&approval, "merge-patch", &conditions("Approved", "False"))
        .await;
    assert!(says(&a).contains(
        "status.conditions[0].status: Unsupported value: \"False\": supported values: \"True\""
    ));
    let a = f
        .patch(
            &approval,
            "merge-patch",
            &json!({"status": {"certificate": STANDARD.encode("x")}}).to_string(),
        )
        .await;
    assert_eq!(a.code, 200);
    assert_eq!(
        a.json()["status"],
        json!({}),
        "a certificate doesn't come this way"
    );

    let a = f
        .patch(&approval, "merge-patch", &conditions("Approved", "True"))
        .await;
    assert_eq!(a.code, 200, "{}", says(&a));
    let c = a.json()["status"]["conditions"][0].clone();
    assert!(c["lastUpdateTime"].is_string() && c["lastTransitionTime"].is_string());
    let a = f
        .patch(
            &approval,
            "merge-patch",
            &json!({"status": {"conditions": []}}).to_string(),
        )
        .await;
    assert!(says(&a).contains("updates may not remove a condition of type \"Approved\""));

    let certificate =
        |text: &str| json!({"status": {"certificate": STANDARD.encode(text)}}).to_string();
    let a = f
        .patch(&status, "merge-patch", &certificate("nonsense"))
        .await;
    assert!(says(&a).contains("status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block"));
    let ca = std::fs::read_to_string(f.dir.path().join("pki/ca.crt")).unwrap();
    let a = f.patch(&status, "merge-patch", &certificate(&ca)).await;
    assert_eq!(a.code, 200, "{}", says(&a));
    assert_eq!(
        a.json()["status"]["conditions"][0],
        c,
        "the approval stays as it was"
    );
    let a = f
        .patch(&status, "merge-patch", &certificate(&format!("{ca}{ca}")))
        .await;
    assert!(says(&a).contains(
        "status.certificate: Forbidden: updates may not modify existing certificate content"
    ));
    assert_eq!(
        f.get(&approval).await.json()["status"]["certificate"],
        STANDARD.encode(&ca)
    );
}

#[tokio::test]
async fn who_may_approve_and_sign_is_asked_for_the_signer() {
    let f = server();
    f.made(PATH, csr("a", |_| {})).await;
    let masters = STANDARD.encode(include_bytes!("data/masters.csr"));
    let a = f
        .post(
            PATH,
            csr("b", |o| {
                o["spec"]["request"] = masters.into();
                o["spec"]["signerName"] = "kubernetes.io/kube-apiserver-client".into();
            }),
        )
        .await;
    assert_eq!(a.code, 403);
    let said = a.json()["message"].as_str().unwrap().to_string();
    assert!(said.contains("use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"), "{said}");

    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let jane = f.api.client("jane", &[], "tester");
    let grant = |name: &'static str, rule: Value| {
        let f = &f;
        async move {
            f.made(
                &format!("{rbac}/clusterroles"),
                json!({"metadata": {"name": name}, "rules": [rule]}),
            )
            .await;
            let binding = json!({"metadata": {"name": name},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
            f.made(&format!("{rbac}/clusterrolebindings"), binding)
                .await;
        }
    };
    let signers = |verb: &str, name: &str| json!({"apiGroups": ["certificates.k8s.io"], "verbs": [verb], "resources": ["signers"], "resourceNames": [name]});
    let change = |sub: &'static str, conditions: Value| {
        let jane = &jane;
        async move {
            let body = json!({"status": {"conditions": conditions}}).to_string();
            let headers: &[(&str, &str)] = &[("content-type", "application/merge-patch+json")];
            let path = format!("{PATH}/a/{sub}");
            let a = send(jane, Method::PATCH, &path, headers, body.into()).await;
            (
                a.code,
                a.json()["message"].as_str().unwrap_or("").to_string(),
            )
        }
    };
    let approved = json!({"type": "Approved", "status": "True"});
    let approve = || change("approval", json!([approved]));
    let sign = || {
        change(
            "status",
            json!([approved, {"type": "Odd", "status": "True"}]),
        )
    };

    grant(
        "writer",
        json!({"apiGroups": ["certificates.k8s.io"], "verbs": ["*"],
        "resources": ["certificatesigningrequests/approval", "certificatesigningrequests/status"]}),
    )
    .await;
    let (code, said) = approve().await;
    assert_eq!(code, 403);
    assert!(
        said.contains("user not permitted to approve requests with signerName \"example.com/own\""),
        "{said}"
    );
    grant("approver", signers("approve", "example.com/*")).await;
    assert_eq!(approve().await.0, 200);
    let (code, said) = sign().await;
    assert_eq!(code, 403);
    assert!(
        said.contains("user not permitted to sign requests with signerName \"example.com/own\""),
        "{said}"
    );
    grant("signer", signers("sign", "example.com/own")).await;
    assert_eq!(sign().await.0, 200);
}
