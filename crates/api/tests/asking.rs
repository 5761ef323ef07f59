//! Acting as somebody else, and asking what somebody may.

mod common;

use common::{CONFIGMAPS, access::*, builtin, send};
use http::Method;
use serde_json::{Value, json};

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

#[tokio::test]
async fn access_reviews_are_checked_and_answered() {
    let f = builtin();
    bind(&f, "RoleBinding", "bob", "ClusterRole/view", user("bob")).await;
    let api = "/apis/authorization.k8s.io/v1";
    let (sar, own) = (
        format!("{api}/subjectaccessreviews"),
        format!("{api}/selfsubjectaccessreviews"),
    );
    let local = format!("{api}/namespaces/default/localsubjectaccessreviews");
    let far = format!("{api}/namespaces/nowhere/localsubjectaccessreviews");
    let pods = || json!({"verb": "list", "resource": "pods", "namespace": "default"});
    let bob =
        |attributes: Value| json!({"spec": {"user": "bob", "resourceAttributes": attributes}});
    let with = |kind: &str, selector: Value| {
        let mut a = pods();
        a[kind] = selector;
        bob(a)
    };
    let invalid = |rest: &str| format!(".authorization.k8s.io \"\" is invalid: {rest}");
    let cases: Vec<(&str, &str, Value, Result<Value, String>)> = vec![
        (
            "allowed",
            &sar,
            bob(pods()),
            Ok(
                json!({"allowed": true, "reason": "RBAC: allowed by RoleBinding \"bob/default\" of ClusterRole \"view\" to User \"bob\""}),
            ),
        ),
        (
            "not allowed",
            &sar,
            bob(json!({"verb": "list", "resource": "pods"})),
            Ok(json!({"allowed": false})),
        ),
        (
            "here",
            &local,
            bob(pods()),
            Ok(
                json!({"allowed": true, "reason": "RBAC: allowed by RoleBinding \"bob/default\" of ClusterRole \"view\" to User \"bob\""}),
            ),
        ),
        (
            "in no namespace",
            &far,
            bob(json!({"verb": "list", "resource": "pods", "namespace": "nowhere"})),
            Ok(json!({"allowed": false})),
        ),
        (
            "path",
            &sar,
            json!({"spec": {"groups": ["system:authenticated"], "nonResourceAttributes": {"verb": "get", "path": "/version"}}}),
            Ok(
                json!({"allowed": true, "reason": "RBAC: allowed by ClusterRoleBinding \"system:discovery\" of ClusterRole \"system:discovery\" to Group \"system:authenticated\""}),
            ),
        ),
        (
            "a selector with an unknown operator",
            &sar,
            with(
                "labelSelector",
                json!({"requirements": [{"key": "a", "operator": "Near", "values": ["b"]}]}),
            ),
            Ok(
                json!({"allowed": true, "reason": "RBAC: allowed by RoleBinding \"bob/default\" of ClusterRole \"view\" to User \"bob\"",
                "evaluationError": "spec.resourceAttributes.labelSelector ignored due to parse error"}),
            ),
        ),
        (
            "nothing asked",
            &own,
            json!({"spec": {}}),
            Err(invalid(
                "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
            )),
        ),
        (
            "nobody",
            &sar,
            json!({"spec": {"resourceAttributes": pods()}}),
            Err(invalid(
                "spec.user: Invalid value: \"\": at least one of user or group must be specified",
            )),
        ),
        (
            "elsewhere",
            &local,
            bob(json!({"verb": "list", "resource": "pods", "namespace": "kube-system"})),
            Err(invalid(
                "spec.resourceAttributes.namespace: Invalid value: \"kube-system\": must match metadata.namespace",
            )),
        ),
        (
            "an empty selector",
            &sar,
            with("fieldSelector", json!({})),
            Err(invalid(
                "spec.resourceAttributes.fieldSelector.requirements: Required value: when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required",
            )),
        ),
        (
            "two selectors",
            &sar,
            with(
                "labelSelector",
                json!({"rawSelector": "a", "requirements": [{"key": "a", "operator": "Exists"}]}),
            ),
            Err(invalid(
                "spec.resourceAttributes.labelSelector.rawSelector: Invalid value: \"a\": may not specified at the same time as requirements",
            )),
        ),
    ];
    for (name, path, body, want) in cases {
        let (code, answer) = post(&f.client, path, &body).await;
        match want {
            Ok(status) => assert_eq!(
                (code, &answer["status"]),
                (201, &status),
                "{name}: {answer}"
            ),
            Err(message) => assert_eq!(
                (code, answer["message"].as_str()),
                (422, Some(&*message)),
                "{name}"
            ),
        }
    }
    let (code, _) = post(
        &f.client,
        &format!("{api}/localsubjectaccessreviews"),
        &bob(pods()),
    )
    .await;
    assert_eq!(code, 404, "only in a namespace");
    let table = &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let body = json!({"spec": {"resourceAttributes": pods()}}).to_string();
    let a = send(&f.client, Method::POST, &own, table, body.clone().into()).await;
    assert_eq!(a.code, 406);
    let or_plain = &[(
        "accept",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    )];
    let a = send(&f.client, Method::POST, &own, or_plain, body.into()).await;
    assert_eq!(a.code, 201);
}

#[tokio::test]
async fn everybody_may_ask_what_they_may() {
    let f = builtin();
    role(&f, "Role", "named", json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"]}])).await;
    bind(&f, "RoleBinding", "bob", "Role/named", user("bob")).await;
    let bob = f.api.client("bob", &[], "test");
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let (code, answer) = post(&bob, path, &json!({"spec": {"namespace": "default"}})).await;
    assert_eq!(code, 201, "{answer}");
    let status = &answer["status"];
    assert_eq!(status["incomplete"], false);
    let own = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"]});
    let rules = status["resourceRules"].as_array().unwrap();
    assert!(rules.contains(&own), "{answer}");
    assert_eq!(rules.len(), 3, "and what system:basic-user gives: {answer}");
    let paths = status["nonResourceRules"].as_array().unwrap();
    assert!(paths.iter().any(|r| {
        r["nonResourceURLs"]
            .as_array()
            .unwrap()
            .contains(&json!("/version"))
    }));
    let (code, answer) = post(&bob, path, &json!({"spec": {}})).await;
    assert_eq!(
        (code, answer["message"].as_str()),
        (400, Some("no namespace on request"))
    );
    let node = f.api.client("system:node:n", &["system:nodes"], "test");
    let (_, answer) = post(&node, path, &json!({"spec": {"namespace": "default"}})).await;
    assert_eq!(answer["status"]["incomplete"], true);
}
