//! Where an object's namespace counts, and where claims of devices for administration may be.

use crate::common::*;
use serde_json::{Value, json};

#[tokio::test]
async fn a_namespace_is_of_no_consequence_where_there_is_none() {
    let f = builtin();
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let role = json!({"metadata": {"name": "r", "namespace": "default"}, "rules": []});
    let made = f.made(path, role.clone()).await;
    assert_eq!(made["metadata"]["namespace"], Value::Null);
    let put = f.put(&format!("{path}/r"), role).await;
    assert_eq!(
        (put.code, &put.json()["metadata"]["namespace"]),
        (200, &Value::Null)
    );
}

#[tokio::test]
async fn devices_for_administration_need_a_namespace_that_says_so() {
    let f = builtin();
    let request = |admin: bool| json!({"name": format!("r-{admin}"), "exactly": {"deviceClassName": "c", "adminAccess": admin}});
    let spec = json!({"devices": {"requests": [request(false), request(true)]}});
    let base = "/apis/resource.k8s.io/v1/namespaces/default";
    let named = |name: &str, spec: &Value| json!({"metadata": {"name": name}, "spec": spec});
    let why = "spec.devices.requests[1].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace";
    let claims = format!("{base}/resourceclaims");
    let templates = format!("{base}/resourceclaimtemplates");
    for (path, body) in [
        (&claims, named("a", &spec)),
        (&templates, named("a", &json!({ "spec": spec }))),
    ] {
        let refused = f.post(path, body).await;
        assert_eq!(refused.code, 422);
        let message = refused.json()["message"].to_string();
        assert!(message.contains(why), "{message}");
    }
    f.made(
        &claims,
        named("b", &json!({"devices": {"requests": [request(false)]}})),
    )
    .await;
    let label = r#"{"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}}"#;
    let patched = f
        .patch("/api/v1/namespaces/default", "merge-patch", label)
        .await;
    assert_eq!(patched.code, 200);
    f.made(&claims, named("a", &spec)).await;
    f.made(&templates, named("a", &json!({ "spec": spec })))
        .await;
}

#[tokio::test]
async fn what_is_said_of_a_claims_devices_is_the_drivers() {
    let f = builtin();
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    let spec =
        json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}});
    f.made(claims, json!({"metadata": {"name": "k"}, "spec": spec}))
        .await;
    let path = format!("{claims}/k/status");
    let device = json!({"driver": "d.example", "pool": "p", "device": "a"});
    let mut result = device.clone();
    result["request"] = "r".into();
    let given = json!({"status": {"allocation": {"devices": {"results": [result]}}}}).to_string();
    assert_eq!(f.patch(&path, "merge-patch", &given).await.code, 200);

    // who may write the status, and nothing more
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let rule = |resource: &str, verbs: Value| json!({"apiGroups": ["resource.k8s.io"], "resources": [resource], "verbs": verbs});
    let status = rule("resourceclaims/status", json!(["patch", "update"]));
    let role = |rules: Value| json!({"metadata": {"name": "say"}, "rules": rules});
    f.made(roles, role(json!([status]))).await;
    let binding = json!({"metadata": {"name": "say"}, "subjects": [{"kind": "User", "name": "u", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "say"}});
    f.made(
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        binding,
    )
    .await;
    let user = f.api.client("u", &[], "u");
    let merge = [("content-type", "application/merge-patch+json")];
    let say = |status: Value| {
        let body = json!({ "status": status }).to_string().into_bytes();
        send(&user, http::Method::PATCH, &path, &merge, body)
    };
    let mut told = device.clone();
    told["data"] = json!({"a": "b"});
    let devices = json!({"devices": [told]});
    let refused = say(devices.clone()).await;
    let message = refused.json()["message"].to_string();
    assert_eq!(refused.code, 422, "{message}");
    let why = "changing status.devices requires resource=\\\"resourceclaims/driver\\\", verb=\\\"[arbitrary-node:patch]\\\" permission: ";
    assert!(message.contains(why), "{message}");
    assert!(
        message.contains("cannot arbitrary-node:patch resource"),
        "{message}"
    );
    let users = json!({"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]});
    let refused = say(users).await;
    let message = refused.json()["message"].to_string();
    assert_eq!(refused.code, 422, "{message}");
    let why = "requires resource=\\\"resourceclaims/binding\\\", verb=\\\"patch\\\" permission: ";
    assert!(message.contains(why), "{message}");

    let driver = rule("resourceclaims/driver", json!(["arbitrary-node:patch"]));
    let allowed = f
        .put(&format!("{roles}/say"), role(json!([status, driver])))
        .await;
    assert_eq!(allowed.code, 200);
    assert_eq!(say(devices).await.code, 200);
}
