//! Who may do what: roles, service accounts and their tokens, impersonation, reviews.

mod common;

use base64::{Engine, engine::general_purpose::STANDARD};
use common::{CONFIGMAPS, Fixture, builtin, send};
use http::Method;
use kube::Client;
use serde_json::{Value, json};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

async fn role(f: &Fixture, kind: &str, name: &str, rules: Value) {
    let (path, namespace) = place(kind);
    let mut o = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
        "metadata": {"name": name}, "rules": rules});
    if let Some(n) = namespace {
        o["metadata"]["namespace"] = n.into();
    }
    f.made(&path, o).await;
}

fn place(kind: &str) -> (String, Option<&'static str>) {
    let plural = format!("{}s", kind.to_lowercase());
    match kind.starts_with("Cluster") {
        true => (format!("{RBAC}/{plural}"), None),
        false => (
            format!("{RBAC}/namespaces/default/{plural}"),
            Some("default"),
        ),
    }
}

fn binding(kind: &str, name: &str, role: &str, subject: Value) -> Value {
    let (role_kind, role) = role.split_once('/').unwrap();
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "subjects": [subject], "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role}})
}

async fn bind(f: &Fixture, kind: &str, name: &str, role: &str, subject: Value) {
    f.made(&place(kind).0, binding(kind, name, role, subject))
        .await;
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "name": name})
}

async fn get(client: &Client, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let a = send(client, Method::GET, path, headers, vec![]).await;
    let body = serde_json::from_slice(&a.bytes).unwrap_or(Value::Null);
    (a.code, body)
}

async fn post(client: &Client, path: &str, body: &Value) -> (u16, Value) {
    let headers = &[("content-type", "application/json")];
    let a = send(client, Method::POST, path, headers, body.to_string().into()).await;
    (a.code, a.json())
}

/// Asks as the holder of a token.
async fn with_token(f: &Fixture, token: &str, path: &str) -> (u16, Value) {
    get(
        &f.client,
        path,
        &[("authorization", &format!("Bearer {token}"))],
    )
    .await
}

async fn whoami(f: &Fixture, headers: &[(&str, &str)]) -> (u16, Value) {
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let a = send(&f.client, Method::POST, path, headers, b"{}".to_vec()).await;
    (a.code, a.json()["status"]["userInfo"].clone())
}

async fn account(f: &Fixture, name: &str) -> String {
    let made = f.made(ACCOUNTS, json!({"metadata": {"name": name}})).await;
    made["metadata"]["uid"].as_str().unwrap().to_string()
}

async fn token(f: &Fixture, account: &str, spec: Value) -> (u16, Value) {
    let path = format!("{ACCOUNTS}/{account}/token");
    post(&f.client, &path, &json!({"spec": spec})).await
}

fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    let text = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(part)
        .unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// Asks until it is so; what follows from a change follows soon, not at once.
async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !ask().await {
        assert!(std::time::Instant::now() < end, "{what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn roles_give_rights_and_take_them_back() {
    let f = builtin();
    role(
        &f,
        "Role",
        "reader",
        json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["configmaps"]}]),
    )
    .await;
    let alice = f.api.client("alice", &[], "test");
    let refused = "configmaps is forbidden: User \"alice\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\"";
    let (code, body) = get(&alice, CONFIGMAPS, &[]).await;
    assert_eq!((code, body["message"].as_str()), (403, Some(refused)));
    bind(&f, "RoleBinding", "a", "Role/reader", user("alice")).await;
    assert_eq!(get(&alice, CONFIGMAPS, &[]).await.0, 200);
    assert_eq!(get(&alice, "/api/v1/configmaps", &[]).await.0, 403);
    assert_eq!(
        get(&alice, "/api/v1/namespaces/kube-system/configmaps", &[])
            .await
            .0,
        403
    );
    let (code, body) = get(&alice, &format!("{CONFIGMAPS}/x"), &[]).await;
    assert_eq!((code, body["reason"].as_str()), (404, Some("NotFound")));
    // who may not ask isn't told what there is
    for path in [
        "/api/v1/namespaces/default/unknowns/x",
        "/apis/unknown.io/v1/things",
    ] {
        assert_eq!(get(&alice, path, &[]).await.0, 403, "{path}");
    }
    f.delete(
        &format!("{RBAC}/namespaces/default/rolebindings/a"),
        json!({}),
    )
    .await;
    assert_eq!(get(&alice, CONFIGMAPS, &[]).await.0, 403);
    // a binding to a role that isn't there says so
    bind(&f, "RoleBinding", "a", "Role/none", user("alice")).await;
    let (_, body) = get(&alice, CONFIGMAPS, &[]).await;
    assert_eq!(
        body["message"],
        format!("{refused}: RBAC: role.rbac.authorization.k8s.io \"none\" not found")
    );
}

#[tokio::test]
async fn default_roles_are_there_and_admin_is_whole() {
    let f = builtin();
    for (name, can, cannot) in [
        ("view", "get pods", "get secrets"),
        (
            "edit",
            "create deployments.apps",
            "create roles.rbac.authorization.k8s.io",
        ),
        (
            "admin",
            "create roles.rbac.authorization.k8s.io",
            "create clusterroles.rbac.authorization.k8s.io",
        ),
        ("cluster-admin", "x y.z", ""),
    ] {
        bind(
            &f,
            "RoleBinding",
            name,
            &format!("ClusterRole/{name}"),
            user(name),
        )
        .await;
        for (what, want) in [(can, true), (cannot, false)] {
            let Some((verb, resource)) = what.split_once(' ') else {
                continue;
            };
            let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
            let review = json!({"spec": {"user": name, "resourceAttributes":
                {"verb": verb, "resource": resource, "group": group, "namespace": "default"}}});
            let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
            let (code, body) = post(&f.client, path, &review).await;
            assert_eq!(
                (code, &body["status"]["allowed"]),
                (201, &json!(want)),
                "{name}: {what}"
            );
        }
    }
    // a role that is labelled so counts in those that aggregate it
    let path = format!("{RBAC}/clusterroles");
    f.made(&path, json!({"metadata": {"name": "more", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"verbs": ["get"], "apiGroups": ["more.io"], "resources": ["things"]}]})).await;
    let view = f.api.client("view", &[], "test");
    eventually("view has more", async || {
        get(&view, "/apis/more.io/v1/namespaces/default/things/x", &[])
            .await
            .0
            == 404
    })
    .await;
}

#[tokio::test]
async fn nobody_hands_out_what_they_lack() {
    let f = builtin();
    let all = json!([{"verbs": ["*"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings", "clusterroles"], }]);
    role(&f, "ClusterRole", "keeper", json!([
        {"verbs": ["create", "update", "get", "patch"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings", "clusterroles"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
        {"verbs": ["bind"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "resourceNames": ["view"]},
    ])).await;
    role(&f, "ClusterRole", "escalator", all).await;
    bind(
        &f,
        "ClusterRoleBinding",
        "k",
        "ClusterRole/keeper",
        user("keeper"),
    )
    .await;
    bind(
        &f,
        "ClusterRoleBinding",
        "e",
        "ClusterRole/escalator",
        user("escalator"),
    )
    .await;
    role(
        &f,
        "Role",
        "secrets",
        json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]),
    )
    .await;
    let keeper = f.api.client("keeper", &[], "test");
    let escalator = f.api.client("escalator", &[], "test");
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let with = |name: &str, resource: &str| json!({"metadata": {"name": name}, "rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": [resource]}]});
    let pods = json!({"metadata": {"name": "p"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
    let cluster_roles = format!("{RBAC}/clusterroles");
    let bound = |name: &str, role: &str| binding("RoleBinding", name, role, user("x"));
    let missing = "user \"keeper\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n";
    let cases: Vec<(&str, &Client, &str, Value, u16, String)> = vec![
        ("a right held", &keeper, &roles, pods, 201, String::new()),
        ("one not held", &keeper, &roles, with("q", "secrets"), 403,
            format!("roles.rbac.authorization.k8s.io \"q\" is forbidden: {missing}{{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}}")),
        ("one not held, with the verb escalate", &escalator, &roles, with("r", "secrets"), 201, String::new()),
        ("a binding to rights not held", &keeper, &bindings, bound("b", "Role/secrets"), 403,
            format!("rolebindings.rbac.authorization.k8s.io \"b\" is forbidden: {missing}{{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}}")),
        ("a binding to rights held", &keeper, &bindings, bound("c", "Role/p"), 201, String::new()),
        ("a binding to what may be bound", &keeper, &bindings, bound("d", "ClusterRole/view"), 201, String::new()),
        ("a binding to nothing", &keeper, &bindings, bound("e", "Role/none"), 404,
            "roles.rbac.authorization.k8s.io \"none\" not found".into()),
        ("an aggregation", &keeper, &cluster_roles,
            json!({"metadata": {"name": "a"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}}), 403,
            "clusterroles.rbac.authorization.k8s.io \"a\" is forbidden: must have cluster-admin privileges to use the aggregationRule".into()),
    ];
    for (name, client, path, body, code, message) in cases {
        let (got, answer) = post(client, path, &body).await;
        assert_eq!(got, code, "{name}: {answer}");
        if !message.is_empty() {
            assert_eq!(answer["message"], message, "{name}");
        }
    }
    let patch = json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
    let headers = &[("content-type", "application/merge-patch+json")];
    let a = send(
        &keeper,
        Method::PATCH,
        &format!("{roles}/p"),
        headers,
        patch.to_string().into(),
    )
    .await;
    assert_eq!(a.code, 403, "a change is looked at, too");
}

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
async fn impersonation_needs_every_right_it_uses() {
    let f = builtin();
    role(&f, "ClusterRole", "actor", json!([
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["bob"]},
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["groups"], "resourceNames": ["devs"]},
        {"verbs": ["impersonate"], "apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"], "resourceNames": ["x"]},
        {"verbs": ["impersonate"], "apiGroups": ["authentication.k8s.io"], "resources": ["uids"], "resourceNames": ["1"]},
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": ["robot"]},
    ])).await;
    bind(
        &f,
        "ClusterRoleBinding",
        "actor",
        "ClusterRole/actor",
        user("alice"),
    )
    .await;
    let alice = f.api.client("alice", &[], "test");
    let bob = ("impersonate-user", "bob");
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    // of all the ways to be refused the first is told
    let refused = "selfsubjectreviews.authentication.k8s.io is forbidden: User \"alice\" cannot impersonate-on:user-info:create resource \"selfsubjectreviews\" in API group \"authentication.k8s.io\" at the cluster scope";
    type Headers<'a> = Vec<(&'a str, &'a str)>;
    let cases: Vec<(&str, Headers, u16, Value)> = vec![
        (
            "user",
            vec![bob],
            201,
            json!({"username": "bob", "groups": ["system:authenticated"]}),
        ),
        (
            "user and group",
            vec![bob, ("impersonate-group", "devs")],
            201,
            json!({"username": "bob", "groups": ["devs", "system:authenticated"]}),
        ),
        (
            "all",
            vec![
                bob,
                ("impersonate-uid", "1"),
                ("impersonate-extra-scopes", "x"),
            ],
            201,
            json!({"username": "bob", "uid": "1", "groups": ["system:authenticated"], "extra": {"scopes": ["x"]}}),
        ),
        (
            "account",
            vec![("impersonate-user", "system:serviceaccount:ns:robot")],
            201,
            json!({"username": "system:serviceaccount:ns:robot", "groups": ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]}),
        ),
        (
            "another user",
            vec![("impersonate-user", "eve")],
            403,
            refused.into(),
        ),
        (
            "another group",
            vec![bob, ("impersonate-group", "system:masters")],
            403,
            refused.into(),
        ),
        (
            "another extra",
            vec![bob, ("impersonate-extra-scopes", "y")],
            403,
            refused.into(),
        ),
        (
            "group without user",
            vec![("impersonate-group", "devs")],
            400,
            Value::Null,
        ),
    ];
    for (name, headers, code, want) in cases {
        let a = send(&alice, Method::POST, path, &headers, b"{}".to_vec()).await;
        let body = a.json();
        assert_eq!(a.code, code, "{name}: {body}");
        match code {
            201 => assert_eq!(body["status"]["userInfo"], want, "{name}"),
            403 => assert_eq!(body["message"], want, "{name}"),
            _ => {}
        }
    }
}
#[tokio::test]
async fn who_may_what() {
    let f = builtin();
    let nobody = f.api.client("eve", &["visitors"], "test");
    let a = send(&nobody, Method::GET, CONFIGMAPS, &[], vec![]).await;
    assert_eq!(a.code, 403);
    assert_eq!(
        a.json()["message"],
        "configmaps is forbidden: User \"eve\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    let a = send(
        &nobody,
        Method::GET,
        "/apis/apps/v1/deployments",
        &[],
        vec![],
    )
    .await;
    assert_eq!(
        a.json()["message"],
        "deployments.apps is forbidden: User \"eve\" cannot list resource \"deployments\" in API group \"apps\" at the cluster scope"
    );
    assert_eq!(
        send(&nobody, Method::GET, "/apis", &[], vec![]).await.code,
        200
    );
    let a = send(&nobody, Method::GET, "/metrics", &[], vec![]).await;
    assert_eq!(
        (a.code, a.json()["message"].as_str()),
        (
            403,
            Some("forbidden: User \"eve\" cannot get path \"/metrics\"")
        )
    );
    let review = json!({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
        "spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}});
    for (client, allowed) in [(&nobody, false), (&f.client, true)] {
        let a = send(
            client,
            Method::POST,
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            &[],
            review.to_string().into(),
        )
        .await;
        assert_eq!(
            (a.code, &a.json()["status"]["allowed"]),
            (201, &json!(allowed))
        );
        assert_eq!(a.json()["spec"], review["spec"]);
    }
    for (client, headers, code) in [
        (&f.client, &[("impersonate-user", "eve")][..], 403),
        (
            &f.client,
            &[
                ("impersonate-user", "bob"),
                ("impersonate-group", "system:masters"),
            ][..],
            200,
        ),
        (&f.client, &[("impersonate-group", "x")][..], 400),
        (
            &nobody,
            &[
                ("impersonate-user", "admin"),
                ("impersonate-group", "system:masters"),
            ][..],
            403,
        ),
    ] {
        let a = send(client, Method::GET, CONFIGMAPS, headers, vec![]).await;
        assert_eq!(a.code, code, "{headers:?}");
    }
    let a = send(
        &nobody,
        Method::POST,
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        &[],
        b"{}".to_vec(),
    )
    .await;
    assert_eq!(
        a.json()["status"]["userInfo"],
        json!({"username": "eve", "groups": ["visitors", "system:authenticated"]})
    );
}

#[tokio::test]
async fn impersonation_may_be_for_some_requests_alone() {
    let f = builtin();
    let on = |mode: &str, verb: &str| format!("impersonate-on:{mode}:{verb}");
    role(&f, "ClusterRole", "actor", json!([
        {"verbs": ["impersonate:user-info"], "apiGroups": ["authentication.k8s.io"], "resources": ["users"], "resourceNames": ["bob"]},
        {"verbs": [on("user-info", "create")], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]},
        {"verbs": ["impersonate:arbitrary-node"], "apiGroups": ["authentication.k8s.io"], "resources": ["nodes"], "resourceNames": ["n1"]},
        {"verbs": [on("arbitrary-node", "create")], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]},
    ])).await;
    bind(
        &f,
        "ClusterRoleBinding",
        "actor",
        "ClusterRole/actor",
        user("alice"),
    )
    .await;
    bind(
        &f,
        "ClusterRoleBinding",
        "bob",
        "ClusterRole/view",
        user("bob"),
    )
    .await;
    let alice = f.api.client("alice", &[], "test");
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    for (name, headers, want) in [
        (
            "bob",
            vec![("impersonate-user", "bob")],
            Ok(json!({"username": "bob", "groups": ["system:authenticated"]})),
        ),
        (
            "n1",
            vec![("impersonate-user", "system:node:n1")],
            Ok(
                json!({"username": "system:node:n1", "groups": ["system:nodes", "system:authenticated"]}),
            ),
        ),
        (
            "n2",
            vec![("impersonate-user", "system:node:n2")],
            Err(
                "nodes.authentication.k8s.io \"n2\" is forbidden: User \"alice\" cannot impersonate:arbitrary-node resource \"nodes\" in API group \"authentication.k8s.io\" at the cluster scope",
            ),
        ),
    ] {
        let a = send(&alice, Method::POST, path, &headers, b"{}".to_vec()).await;
        match want {
            Ok(who) => assert_eq!(a.json()["status"]["userInfo"], who, "{name}"),
            Err(why) => assert_eq!(
                (a.code, a.json()["message"].as_str()),
                (403, Some(why)),
                "{name}"
            ),
        }
    }
    let (code, body) = get(&alice, CONFIGMAPS, &[("impersonate-user", "bob")]).await;
    let why = "configmaps is forbidden: User \"alice\" cannot impersonate-on:user-info:list resource \"configmaps\" in API group \"\" in the namespace \"default\"";
    assert_eq!((code, body["message"].as_str()), (403, Some(why)));
    // masters may be anybody, and a node they are has its group
    let (_, me) = whoami(&f, &[("impersonate-user", "system:node:n9")]).await;
    assert_eq!(
        me["groups"],
        json!(["system:nodes", "system:authenticated"])
    );
}
