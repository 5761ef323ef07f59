//! Service accounts' tokens, bootstrap tokens, and their issuer.

mod common;

use base64::{Engine, engine::general_purpose::STANDARD};
use common::{CONFIGMAPS, access::*, builtin};
use serde_json::{Value, json};

#[tokio::test]
async fn tokens_hold_as_long_as_what_they_are_bound_to() {
    let f = builtin();
    let uid = account(&f, "robot").await;
    let (code, made) = token(&f, "robot", json!({})).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["kind"], "TokenRequest");
    assert_eq!(made["spec"]["expirationSeconds"], 3600);
    assert_eq!(made["spec"]["audiences"], json!([ISSUER]));
    let text = made["status"]["token"].as_str().unwrap();
    let c = claims(text);
    assert_eq!(c["iss"], ISSUER);
    assert_eq!(c["sub"], "system:serviceaccount:default:robot");
    assert_eq!(
        c["kubernetes.io"],
        json!({"namespace": "default", "serviceaccount": {"name": "robot", "uid": uid}})
    );
    assert_eq!(
        c["exp"].as_i64().unwrap() - c["iat"].as_i64().unwrap(),
        3600
    );

    let bearer = format!("Bearer {text}");
    let (code, me) = whoami(&f, &[("authorization", &bearer)]).await;
    assert_eq!(code, 201);
    assert_eq!(
        me,
        json!({"username": "system:serviceaccount:default:robot", "uid": uid,
            "groups": ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"],
            "extra": {"authentication.kubernetes.io/credential-id": [format!("JTI={}", c["jti"].as_str().unwrap())]}})
    );
    assert_eq!(with_token(&f, text, CONFIGMAPS).await.0, 403);
    bind(
        &f,
        "RoleBinding",
        "r",
        "ClusterRole/view",
        json!({"kind": "ServiceAccount", "name": "robot", "namespace": "default"}),
    )
    .await;
    assert_eq!(with_token(&f, text, CONFIGMAPS).await.0, 200);
    let (code, body) = with_token(&f, &format!("{text}x"), CONFIGMAPS).await;
    assert_eq!(
        (code, body["message"].as_str()),
        (401, Some("Unauthorized"))
    );

    // bound to a Pod, and gone with it
    let pod = f.made("/api/v1/namespaces/default/pods", json!({"metadata": {"name": "p"},
        "spec": {"serviceAccountName": "robot", "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]}})).await;
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "p"});
    let (code, made) = token(&f, "robot", json!({"boundObjectRef": bound})).await;
    assert_eq!(code, 201, "{made}");
    let text = made["status"]["token"].as_str().unwrap();
    assert_eq!(
        claims(text)["kubernetes.io"]["pod"],
        json!({"name": "p", "uid": pod["metadata"]["uid"]})
    );
    let (_, me) = whoami(&f, &[("authorization", &format!("Bearer {text}"))]).await;
    assert_eq!(
        me["extra"]["authentication.kubernetes.io/pod-name"],
        json!(["p"])
    );
    assert_eq!(with_token(&f, text, CONFIGMAPS).await.0, 200);
    f.delete(
        "/api/v1/namespaces/default/pods/p",
        json!({"gracePeriodSeconds": 0}),
    )
    .await;
    assert_eq!(with_token(&f, text, CONFIGMAPS).await.0, 401);
    let (code, body) = token(&f, "robot", json!({"boundObjectRef": bound})).await;
    assert_eq!(
        (code, body["message"].as_str()),
        (404, Some("pods \"p\" not found"))
    );

    // gone with the account, whoever has its name next
    let (_, made) = token(&f, "robot", json!({})).await;
    let text = made["status"]["token"].as_str().unwrap();
    f.delete(&format!("{ACCOUNTS}/robot"), json!({})).await;
    account(&f, "robot").await;
    assert_eq!(with_token(&f, text, CONFIGMAPS).await.0, 401);
}

#[tokio::test]
async fn token_requests_are_checked() {
    let f = builtin();
    account(&f, "robot").await;
    for (name, spec, code, message) in [
        (
            "too short",
            json!({"expirationSeconds": 599}),
            422,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
        ),
        (
            "too long",
            json!({"expirationSeconds": (1_i64 << 32) + 1}),
            422,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
        ),
        (
            "bound to what can't be",
            json!({"boundObjectRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"}}),
            400,
            "cannot bind token to object of type apps/v1, Kind=Deployment",
        ),
        (
            "bound to what isn't",
            json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": "x"}}),
            404,
            "secrets \"x\" not found",
        ),
    ] {
        let (got, body) = token(&f, "robot", spec).await;
        assert_eq!(
            (got, body["message"].as_str()),
            (code, Some(message)),
            "{name}"
        );
    }
    assert_eq!(
        token(&f, "none", json!({})).await.1["message"],
        "serviceaccounts \"none\" not found"
    );
    // for somebody else: not for us
    let (_, made) = token(&f, "robot", json!({"audiences": ["vault"]})).await;
    let text = made["status"]["token"].as_str().unwrap();
    assert_eq!(with_token(&f, text, "/api").await.0, 401);
    let review = |audiences: Value| json!({"spec": {"token": text, "audiences": audiences}});
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (code, body) = post(&f.client, path, &review(json!(["vault", "other"]))).await;
    assert_eq!(
        (
            code,
            &body["status"]["authenticated"],
            &body["status"]["audiences"]
        ),
        (201, &json!(true), &json!(["vault"]))
    );
    let (_, body) = post(&f.client, path, &review(json!([]))).await;
    assert!(body["status"].get("authenticated").is_none(), "{body}");
    assert!(
        body["status"]["error"]
            .as_str()
            .unwrap()
            .contains("audiences"),
        "{body}"
    );
}

#[tokio::test]
async fn tokens_in_secrets_are_filled_and_go_with_the_account() {
    let f = builtin();
    account(&f, "robot").await;
    let secret = |name: &str, of: &str| {
        json!({"metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": of}},
            "type": "kubernetes.io/service-account-token"})
    };
    f.made(SECRETS, secret("t", "robot")).await;
    f.made(SECRETS, secret("orphan", "none")).await;
    let path = format!("{SECRETS}/t");
    eventually("the Secret is filled", async || {
        f.get(&path).await.json()["data"]["token"].is_string()
    })
    .await;
    let filled = f.get(&path).await.json();
    assert_eq!(filled["data"]["namespace"], STANDARD.encode("default"));
    let text = String::from_utf8(
        STANDARD
            .decode(filled["data"]["token"].as_str().unwrap())
            .unwrap(),
    )
    .unwrap();
    assert_eq!(claims(&text)["iss"], "kubernetes/serviceaccount");
    let (code, me) = whoami(&f, &[("authorization", &format!("Bearer {text}"))]).await;
    assert_eq!(
        (code, me["username"].as_str()),
        (201, Some("system:serviceaccount:default:robot"))
    );
    // its use is noted by the day
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let used = "kubernetes.io/legacy-token-last-used";
    eventually("the token's use is noted", async || {
        let secret = f.get(&path).await.json();
        secret["metadata"]["labels"][used]
            .as_str()
            .is_some_and(|d| d >= today.as_str())
    })
    .await;
    let tracking = "/api/v1/namespaces/kube-system/configmaps/kube-apiserver-legacy-service-account-token-tracking";
    eventually("since when is noted, too", async || {
        f.get(tracking).await.json()["data"]["since"]
            .as_str()
            .is_some_and(|d| d <= today.as_str())
    })
    .await;
    let mark = |value: &str| {
        json!({"metadata": {"labels": {"kubernetes.io/legacy-token-invalid-since": value}}})
            .to_string()
    };
    assert_eq!(
        f.patch(&path, "merge-patch", &mark("2026-01-01"))
            .await
            .code,
        200
    );
    assert_eq!(with_token(&f, &text, "/api").await.0, 401);
    assert_eq!(f.patch(&path, "merge-patch", &mark("")).await.code, 200);
    assert_eq!(with_token(&f, &text, "/api").await.0, 200);
    eventually("the Secret without an account goes", async || {
        f.get(&format!("{SECRETS}/orphan")).await.code == 404
    })
    .await;
    f.delete(&format!("{ACCOUNTS}/robot"), json!({})).await;
    assert_eq!(with_token(&f, &text, "/api").await.0, 401);
    eventually("the Secret goes with its account", async || {
        f.get(&path).await.code == 404
    })
    .await;
}

#[tokio::test]
async fn bootstrap_tokens() {
    let f = builtin();
    let made = |id: &str, expiration: &str| {
        json!({"metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"}, "type": "bootstrap.kubernetes.io/token",
            "stringData": {"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
                "expiration": expiration, "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token"}})
    };
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    f.made(secrets, made("abcdef", "2999-01-01T00:00:00Z"))
        .await;
    f.made(secrets, made("ghijkl", "2020-01-01T00:00:00Z"))
        .await;
    for (token, code) in [
        ("abcdef.0123456789abcdef", 201),
        ("abcdef.0123456789abcdee", 401),
        ("ghijkl.0123456789abcdef", 401),
        ("xxxxxx.0123456789abcdef", 401),
    ] {
        let (got, me) = whoami(&f, &[("authorization", &format!("Bearer {token}"))]).await;
        assert_eq!(got, code, "{token}");
        if code == 201 {
            assert_eq!(
                me,
                json!({"username": "system:bootstrap:abcdef",
                "groups": ["system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token", "system:authenticated"]})
            );
        }
    }
}

#[tokio::test]
async fn the_issuer_can_be_discovered() {
    let f = builtin();
    account(&f, "robot").await;
    let (_, made) = token(&f, "robot", json!({})).await;
    let text = made["status"]["token"].as_str().unwrap();
    for path in ["/.well-known/openid-configuration", "/openid/v1/jwks"] {
        assert_eq!(
            with_token(&f, text, path).await.0,
            200,
            "{path}: accounts may"
        );
        let bob = f.api.client("bob", &[], "test");
        assert_eq!(get(&bob, path, &[]).await.0, 403, "{path}: others may not");
    }
    let (_, document) = with_token(&f, text, "/.well-known/openid-configuration").await;
    assert_eq!(document["issuer"], ISSUER);
    assert_eq!(document["jwks_uri"], format!("{ISSUER}/openid/v1/jwks"));
    let a = f.get("/openid/v1/jwks").await;
    assert_eq!(a.headers["content-type"], "application/jwk-set+json");
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(text.split('.').next().unwrap())
        .unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    assert_eq!(a.json()["keys"][0]["kid"], header["kid"]);
}
