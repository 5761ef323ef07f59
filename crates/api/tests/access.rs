//! Roles and bindings: rights given, taken back, and not handed out by who lacks them.

mod common;

use common::{CONFIGMAPS, Fixture, access::*, builtin, send};
use http::Method;
use kube::Client;
use serde_json::{Value, json};

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
async fn nodes_see_what_their_pods_refer_to() {
    let f = builtin();
    f.made(SECRETS, json!({"metadata": {"name": "s"}, "data": {}}))
        .await;
    account(&f, "default").await;
    let node = f.api.client("system:node:n", &["system:nodes"], "test");
    let secret = format!("{SECRETS}/s");
    let (code, body) = get(&node, &secret, &[]).await;
    let why = "secrets \"s\" is forbidden: User \"system:node:n\" cannot get resource \"secrets\" in API group \"\" in the namespace \"default\": no relationship found between node 'n' and this object";
    assert_eq!((code, body["message"].as_str()), (403, Some(why)));
    f.made(
        "/api/v1/namespaces/default/pods",
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n",
        "containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": "s"}}]}]}}),
    )
    .await;
    assert_eq!(get(&node, &secret, &[]).await.0, 200);
    let pods = "/api/v1/pods?fieldSelector=spec.nodeName%3D";
    assert_eq!(get(&node, &format!("{pods}n"), &[]).await.0, 200);
    assert_eq!(get(&node, &format!("{pods}m"), &[]).await.0, 403);
    f.delete(
        "/api/v1/namespaces/default/pods/p",
        json!({"gracePeriodSeconds": 0}),
    )
    .await;
    assert_eq!(get(&node, &secret, &[]).await.0, 403);
}

#[tokio::test]
async fn default_roles_come_back_after_a_restart_and_protected_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let config = knarr_api::Config::for_tests(dir.path());
    let store = config.store.clone();
    let api = knarr_api::ApiServer::new(config).unwrap();
    let client = api.client("admin", &["system:masters"], "tester/1.0");
    let f = Fixture { api, client, dir };
    let role = format!("{RBAC}/clusterroles/system:node-proxier");
    let binding = format!("{RBAC}/clusterrolebindings/system:discovery");
    let kept = format!("{RBAC}/clusterroles/system:kube-dns");
    let gone = format!("{RBAC}/clusterroles/view");
    assert_eq!(
        f.patch(&role, "merge-patch", r#"{"rules": []}"#).await.code,
        200
    );
    assert_eq!(
        f.patch(&binding, "merge-patch", r#"{"subjects": []}"#)
            .await
            .code,
        200
    );
    let keep = r#"{"rules": [], "metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}}"#;
    assert_eq!(f.patch(&kept, "merge-patch", keep).await.code, 200);
    assert_eq!(f.delete(&gone, json!({})).await.code, 200);
    let Fixture { api, client, dir } = f;
    store.close().await;
    drop((api, client, store));
    let config = knarr_api::Config::for_tests(dir.path());
    let api = knarr_api::ApiServer::new(config).unwrap();
    let client = api.client("admin", &["system:masters"], "tester/1.0");
    let f = Fixture { api, client, dir };
    assert!(
        !f.get(&role).await.json()["rules"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        f.get(&binding).await.json()["subjects"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(f.get(&kept).await.json()["rules"], json!([]));
    assert!(
        !f.get(&gone).await.json()["rules"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn nodes_write_what_is_theirs() {
    let f = builtin();
    account(&f, "robot").await;
    let node = f.api.client("system:node:n", &["system:nodes"], "test");
    let nodes = "/api/v1/nodes";
    let named = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
    let merge = &[("content-type", "application/merge-patch+json")];
    for (name, body, why) in [
        (
            "another node",
            named("m", json!({})),
            Some("nodes \"m\" is forbidden: node \"n\" is not allowed to modify node \"m\""),
        ),
        (
            "a role",
            named("n", json!({"node-role.kubernetes.io/control-plane": ""})),
            Some(
                "nodes \"n\" is forbidden: node \"n\" is not allowed to set the following labels: node-role.kubernetes.io/control-plane",
            ),
        ),
        (
            "itself",
            named("n", json!({"kubernetes.io/os": "linux", "x": "y"})),
            None,
        ),
    ] {
        let (code, answer) = post(&node, nodes, &body).await;
        match why {
            Some(why) => assert_eq!(
                (code, answer["message"].as_str()),
                (403, Some(why)),
                "{name}"
            ),
            None => assert_eq!(code, 201, "{name}: {answer}"),
        }
    }
    let taints = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}).to_string();
    let a = send(
        &node,
        Method::PATCH,
        "/api/v1/nodes/n",
        merge,
        taints.into(),
    )
    .await;
    assert_eq!(
        a.json()["message"],
        "nodes \"n\" is forbidden: node \"n\" is not allowed to modify taints"
    );

    let pod = |name: &str, node: &str| {
        json!({"metadata": {"name": name}, "spec": {"nodeName": node, "serviceAccountName": "robot",
        "containers": [{"name": "c", "image": "i"}]}})
    };
    let pods = "/api/v1/namespaces/default/pods";
    let mine = f.made(pods, pod("mine", "n")).await;
    let other = f.made(pods, pod("other", "m")).await;
    let (code, answer) = post(&node, pods, &pod("new", "n")).await;
    assert_eq!(
        (code, answer["message"].as_str()),
        (
            403,
            Some(
                "pods \"new\" is forbidden: pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n\" can only create mirror pods"
            )
        )
    );
    let status = json!({"status": {"message": "x"}}).to_string();
    for (name, code) in [("mine", 200), ("other", 403)] {
        let a = send(
            &node,
            Method::PATCH,
            &format!("{pods}/{name}/status"),
            merge,
            status.clone().into(),
        )
        .await;
        assert_eq!(a.code, code, "{name}");
    }
    let token = |pod: &Value, audiences: Value| {
        json!({"spec": {"audiences": audiences, "boundObjectRef":
        {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}}})
    };
    let path = format!("{ACCOUNTS}/robot/token");
    for (name, body, why) in [
        ("its Pod's", token(&mine, json!([])), None),
        (
            "another's",
            token(&other, json!([])),
            Some("node requested token bound to a pod scheduled on a different node"),
        ),
        (
            "for nobody in the Pod",
            token(&mine, json!(["vault"])),
            Some(
                "audience \"vault\" not found in pod spec volume, system:node:n is not authorized to request tokens for this audience",
            ),
        ),
        (
            "unbound",
            json!({"spec": {}}),
            Some("node requested token not bound to a pod"),
        ),
    ] {
        let (code, answer) = post(&node, &path, &body).await;
        match why {
            None => assert_eq!(code, 201, "{name}: {answer}"),
            Some(why) => {
                let message = format!("serviceaccounts \"robot\" is forbidden: {why}");
                assert_eq!(
                    (code, answer["message"].as_str()),
                    (403, Some(&*message)),
                    "{name}"
                );
            }
        }
    }
    for (name, code) in [("other", 403), ("mine", 200)] {
        let a = send(
            &node,
            Method::DELETE,
            &format!("{pods}/{name}?gracePeriodSeconds=0"),
            &[],
            vec![],
        )
        .await;
        assert_eq!(a.code, code, "{name}");
    }
}

/// To change what is there is not to make what isn't.
#[tokio::test]
async fn who_may_change_may_not_make() {
    let f = builtin();
    let rules = |verbs: Value| json!([{"verbs": verbs, "apiGroups": [""], "resources": ["configmaps", "services"]}]);
    role(
        &f,
        "Role",
        "changer",
        rules(json!(["get", "update", "patch"])),
    )
    .await;
    role(&f, "Role", "maker", rules(json!(["create"]))).await;
    bind(&f, "RoleBinding", "a", "Role/changer", user("alice")).await;
    let alice = f.api.client("alice", &[], "test");
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": [{"port": 80}]},
    });
    let services = "/api/v1/namespaces/default/services";
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}});
    let apply = "application/apply-patch+yaml";
    let asked = [
        (
            Method::PATCH,
            format!("{CONFIGMAPS}/x?fieldManager=a"),
            apply,
            &config,
            "configmaps",
        ),
        (
            Method::PUT,
            format!("{services}/x"),
            "application/json",
            &service,
            "services",
        ),
    ];
    for (round, wanted) in [("may not", 403), ("may", 201)] {
        if wanted == 201 {
            bind(&f, "RoleBinding", "b", "Role/maker", user("alice")).await;
        }
        for (method, path, kind, body, plural) in &asked {
            let body = body.to_string().into_bytes();
            let headers = [("content-type", *kind)];
            let answer = send(&alice, method.clone(), path, &headers, body).await;
            let (code, answer) = (answer.code, answer.json());
            assert_eq!(code, wanted, "{round}: {path}: {answer}");
            if wanted == 403 {
                let told = format!(
                    "{plural} \"x\" is forbidden: User \"alice\" cannot create resource \"{plural}\" in API group \"\" in the namespace \"default\""
                );
                assert_eq!(answer["message"], told);
            }
        }
    }
}
