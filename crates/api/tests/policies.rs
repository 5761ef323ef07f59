//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy.

mod common;

use std::time::Duration;

use common::{Answer, send};
use http::Method;
use knarr_api::ApiServer;
use kube::Client;
use serde_json::{Value, json};

struct Server {
    client: Client,
    _dir: tempfile::TempDir,
}

fn start() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::for_tests(dir.path());
    Server {
        client: api.client("admin", &["system:masters"], "tester/1.0"),
        _dir: dir,
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

impl Server {
    async fn call(&self, method: Method, path: &str, body: Value) -> Answer {
        let headers = [("content-type", "application/json")];
        send(
            &self.client,
            method,
            path,
            &headers,
            body.to_string().into(),
        )
        .await
    }
    async fn made(&self, path: &str, body: Value) -> Value {
        let a = self.call(Method::POST, path, body).await;
        assert_eq!(a.code, 201, "{path}: {}", String::from_utf8_lossy(&a.bytes));
        a.json()
    }
    async fn told(&self, path: &str, body: Value) -> String {
        let a = self.call(Method::POST, path, body).await;
        let o = a.json();
        format!(
            "{} {} {}",
            a.code,
            o["reason"].as_str().unwrap_or(""),
            o["message"].as_str().unwrap_or("")
        )
    }
    /// A policy about creates and updates of a resource, and its binding.
    async fn policy(&self, name: &str, resource: (&str, &str), spec: Value, binding: Value) {
        let mutating = spec.get("mutations").is_some();
        let kind = if mutating { "mutating" } else { "validating" };
        let mut full = json!({"matchConstraints": {"resourceRules": [{"apiGroups": [resource.0], "apiVersions": ["v1"],
            "operations": ["CREATE", "UPDATE"], "resources": [resource.1]}]}});
        let mut bound = json!({"policyName": name});
        if mutating {
            full["reinvocationPolicy"] = "Never".into();
        } else {
            bound["validationActions"] = json!(["Deny"]);
        }
        for (to, from) in [(&mut full, spec), (&mut bound, binding)] {
            for (k, v) in from.as_object().unwrap() {
                to[k] = v.clone();
            }
        }
        self.made(
            &format!("{GROUP}/{kind}admissionpolicies"),
            json!({"metadata": {"name": name}, "spec": full}),
        )
        .await;
        self.made(
            &format!("{GROUP}/{kind}admissionpolicybindings"),
            json!({"metadata": {"name": format!("{name}-b")}, "spec": bound}),
        )
        .await;
    }
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn deployment(name: &str, replicas: i64) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[tokio::test]
async fn a_policy_denies_in_upstreams_words() {
    let s = start();
    s.policy("replicas", ("apps", "deployments"), json!({
        "variables": [{"name": "n", "expression": "object.spec.replicas"}],
        "validations": [
            {"expression": "variables.n > 1"},
            {"expression": "variables.n < 100", "message": "too many", "reason": "Forbidden"},
            {"expression": "variables.n != 50", "messageExpression": "'not ' + string(variables.n) + ' in ' + namespaceObject.metadata.name", "message": "unused"},
        ],
    }), json!({})).await;
    let by = "deployments.apps \"d\" is forbidden: ValidatingAdmissionPolicy 'replicas' with binding 'replicas-b' denied request:";
    for (n, want) in [
        (
            1,
            format!("422 Invalid {by} failed expression: variables.n > 1"),
        ),
        (100, format!("403 Forbidden {by} too many")),
        (50, format!("422 Invalid {by} not 50 in default")),
    ] {
        assert_eq!(s.told(DEPLOYMENTS, deployment("d", n)).await, want);
    }
    let d = s.made(DEPLOYMENTS, deployment("d", 2)).await;
    // an update is judged like a create, and a deleted binding no more
    let mut d = d;
    d["spec"]["replicas"] = 1.into();
    let path = format!("{DEPLOYMENTS}/d");
    assert_eq!(s.call(Method::PUT, &path, d.clone()).await.code, 422);
    let binding = format!("{GROUP}/validatingadmissionpolicybindings/replicas-b");
    assert_eq!(s.call(Method::DELETE, &binding, json!({})).await.code, 200);
    assert_eq!(s.call(Method::PUT, &path, d).await.code, 200);
}

#[tokio::test]
async fn params_come_from_objects() {
    let s = start();
    s.policy("limit", ("apps", "deployments"), json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "not-free", "expression": "!object.metadata.name.startsWith('free')"}],
        "validations": [{"expression": "object.spec.replicas < int(params.data.max)", "messageExpression": "'at most ' + string(params.data.max)"}],
    }), json!({"paramRef": {"name": "limit", "parameterNotFoundAction": "Deny"}})).await;
    let by = "deployments.apps \"a\" is forbidden: ValidatingAdmissionPolicy 'limit' with binding 'limit-b' denied request:";
    assert_eq!(
        s.told(DEPLOYMENTS, deployment("a", 1)).await,
        format!(
            "422 Invalid {by} failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
        )
    );
    s.made(MAPS, map("limit", json!({"max": "5"}))).await;
    assert_eq!(
        s.told(DEPLOYMENTS, deployment("a", 7)).await,
        format!("422 Invalid {by} at most 5")
    );
    s.made(DEPLOYMENTS, deployment("free", 7)).await;
    s.made(DEPLOYMENTS, deployment("a", 1)).await;
    // an expression without a value denies
    let a = s
        .call(
            Method::PUT,
            &format!("{MAPS}/limit"),
            map("limit", json!({"min": "5"})),
        )
        .await;
    assert_eq!(a.code, 200);
    assert_eq!(
        s.told(DEPLOYMENTS, deployment("b", 1)).await,
        "422 Invalid deployments.apps \"b\" is forbidden: ValidatingAdmissionPolicy 'limit' with binding 'limit-b' denied request: expression 'object.spec.replicas < int(params.data.max)' resulted in error: no such key: max"
    );
    // params of a kind that isn't there
    s.policy(
        "unknown",
        ("", "secrets"),
        json!({
            "paramKind": {"apiVersion": "example.com/v1", "kind": "Limit"},
            "validations": [{"expression": "params.x == 1"}],
        }),
        json!({"paramRef": {"selector": {}, "parameterNotFoundAction": "Allow"}}),
    )
    .await;
    assert_eq!(
        s.told(
            "/api/v1/namespaces/default/secrets",
            json!({"metadata": {"name": "s"}})
        )
        .await,
        "422 Invalid secrets \"s\" is forbidden: ValidatingAdmissionPolicy 'unknown' denied request: failed to configure policy: failed to find resource referenced by paramKind: 'example.com/v1, Kind=Limit'"
    );
}

#[tokio::test]
async fn warnings_authorizer_and_selectors() {
    let s = start();
    s.policy("warn", ("", "configmaps"), json!({
        "validations": [{"expression": "authorizer.group('').resource('pods').namespace('default').check('create').allowed() && request.userInfo.username != 'admin'", "message": "who are you"}],
    }), json!({"validationActions": ["Warn", "Audit"], "matchResources": {"namespaceSelector": {"matchExpressions": [{"key": "quiet", "operator": "DoesNotExist"}]}}})).await;
    let a = s.call(Method::POST, MAPS, map("a", json!({}))).await;
    assert_eq!(a.code, 201);
    assert_eq!(
        a.warnings(),
        [
            "299 - \"Validation failed for ValidatingAdmissionPolicy 'warn' with binding 'warn-b': who are you\""
        ]
    );
    s.made(
        "/api/v1/namespaces",
        json!({"metadata": {"name": "quiet", "labels": {"quiet": "yes"}}}),
    )
    .await;
    let a = s
        .call(
            Method::POST,
            "/api/v1/namespaces/quiet/configmaps",
            map("a", json!({})),
        )
        .await;
    assert_eq!((a.code, a.warnings().len()), (201, 0));
    // policies are not judged by policies
    s.policy("all", ("*", "*"), json!({"matchConstraints": {"resourceRules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}]},
        "validations": [{"expression": "false"}]}), json!({})).await;
    assert_eq!(
        s.call(Method::POST, MAPS, map("b", json!({}))).await.code,
        422
    );
    assert_eq!(
        s.call(
            Method::DELETE,
            &format!("{GROUP}/validatingadmissionpolicies/all"),
            json!({})
        )
        .await
        .code,
        200
    );
}

#[tokio::test]
async fn expressions_are_checked() {
    let s = start();
    let path = format!("{GROUP}/validatingadmissionpolicies");
    let rules = json!({"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}]});
    let bad = json!({"metadata": {"name": "bad"}, "spec": {"matchConstraints": rules, "validations": [
        {"expression": "object.x ==", "messageExpression": "1"}, {"expression": "params.x == 1"}, {"expression": "1"}]}});
    let a = s.call(Method::POST, &path, bad).await;
    assert_eq!(a.code, 422);
    let message = a.json()["message"].as_str().unwrap().to_string();
    for want in [
        "spec.validations[0].expression: Invalid value: \"object.x ==\": compilation failed: ERROR: <input>:1:12: Syntax error: mismatched input '<EOF>'",
        "spec.validations[0].messageExpression: Invalid value: \"1\": must evaluate to string but got int",
        "spec.validations[1].expression: Invalid value: \"params.x == 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params'",
        "spec.validations[2].expression: Invalid value: \"1\": must evaluate to bool but got int",
    ] {
        assert!(message.contains(want), "{want}\nin {message}");
    }
    // what compiles may still be about fields that aren't there: the status says so
    s.made(&path, json!({"metadata": {"name": "odd"}, "spec": {"matchConstraints": rules, "validations": [
        {"expression": "object.spec.replicas > '1'"}, {"expression": "object.spec.replicas > 1", "messageExpression": "string(object.spec.nope)"}]}})).await;
    let mut status = Value::Null;
    for _ in 0..1200 {
        status = s
            .call(Method::GET, &format!("{path}/odd"), Value::Null)
            .await
            .json()["status"]
            .clone();
        if status["observedGeneration"] == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let warnings = &status["typeChecking"]["expressionWarnings"];
    assert_eq!(
        warnings[0]["fieldRef"], "spec.validations[0].expression",
        "{status}"
    );
    let text = warnings[0]["warning"].as_str().unwrap();
    assert!(text.starts_with("apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'"), "{text}");
    assert_eq!(
        warnings[1]["fieldRef"],
        "spec.validations[1].messageExpression"
    );
    assert!(
        warnings[1]["warning"]
            .as_str()
            .unwrap()
            .contains("undefined field 'nope'")
    );
}

#[tokio::test]
async fn mutations_patch_and_merge() {
    let s = start();
    s.policy("patch", ("", "configmaps"), json!({
        "variables": [{"name": "v", "expression": "'yes'"}],
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'test', path: '/data/k', value: 'v'}, JSONPatch{op: 'add', path: '/metadata/labels', value: {'made': variables.v}}]"}}],
    }), json!({})).await;
    let made = s.made(MAPS, map("a", json!({"k": "v"}))).await;
    assert_eq!(made["metadata"]["labels"], json!({"made": "yes"}));
    // a test that fails changes nothing
    let made = s.made(MAPS, map("b", json!({"k": "other"}))).await;
    assert_eq!(made["metadata"].get("labels"), None);
    s.policy("side", ("apps", "deployments"), json!({
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{initContainers: [Object.spec.template.spec.initContainers{name: 'side', image: 'x'}]}}}}"}}],
    }), json!({})).await;
    let d = s.made(DEPLOYMENTS, deployment("d", 1)).await;
    let pod = &d["spec"]["template"]["spec"];
    assert_eq!(
        (
            &pod["initContainers"][0]["name"],
            &pod["containers"][0]["name"]
        ),
        (&json!("side"), &json!("c"))
    );
    // defaults reach what was merged
    assert_eq!(
        pod["initContainers"][0]["terminationMessagePath"],
        "/dev/termination-log"
    );
    // again with the same: the object stays as it is
    let mut same = d.clone();
    same["metadata"]["annotations"] = json!({"x": "y"});
    let a = s
        .call(Method::PUT, &format!("{DEPLOYMENTS}/d"), same)
        .await
        .json();
    assert_eq!(a["spec"], d["spec"]);
    s.policy("atomic", ("", "services"), json!({
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{spec: Object.spec{selector: {'a': 'b'}}}"}}],
    }), json!({})).await;
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let told = s.told("/api/v1/namespaces/default/services", service).await;
    assert!(told.starts_with("403 Invalid policy 'atomic' with binding 'atomic-b' denied request: error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector"), "{told}");
}

#[tokio::test]
async fn params_must_be_readable_by_who_asks_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::for_tests(dir.path());
    let s = Server {
        client: api.client("admin", &["system:masters"], "tester/1.0"),
        _dir: dir,
    };
    s.made("/apis/rbac.authorization.k8s.io/v1/clusterroles", json!({"metadata": {"name": "policies"},
        "rules": [{"apiGroups": ["admissionregistration.k8s.io"], "resources": ["*"], "verbs": ["*"]}]})).await;
    s.made("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", json!({"metadata": {"name": "policies"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "policies"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]})).await;
    let jane = Server {
        client: api.client("jane", &[], "tester/1.0"),
        _dir: tempfile::tempdir().unwrap(),
    };
    let policy = json!({"metadata": {"name": "p"}, "spec": {"paramKind": {"apiVersion": "v1", "kind": "Secret"},
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]},
        "validations": [{"expression": "true"}]}});
    let told = jane
        .told(
            &format!("{GROUP}/validatingadmissionpolicies"),
            policy.clone(),
        )
        .await;
    assert_eq!(
        told,
        "422 Invalid ValidatingAdmissionPolicy.admissionregistration.k8s.io \"p\" is invalid: spec.paramKind: Forbidden: user &{jane  [system:authenticated] map[]} must have \"get\" permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)"
    );
    s.made(&format!("{GROUP}/validatingadmissionpolicies"), policy)
        .await;
    let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"],
        "paramRef": {"name": "x", "namespace": "kube-system", "parameterNotFoundAction": "Allow"}}});
    let told = jane
        .told(
            &format!("{GROUP}/validatingadmissionpolicybindings"),
            binding,
        )
        .await;
    assert_eq!(
        told,
        "422 Invalid ValidatingAdmissionPolicyBinding.admissionregistration.k8s.io \"b\" is invalid: spec.paramRef: Forbidden: user &{jane  [system:authenticated] map[]} does not have \"get\" permission on the object referenced by paramRef"
    );
}
