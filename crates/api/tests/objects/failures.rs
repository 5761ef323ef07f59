//! What can't be, and how it is told: upstream's words, causes, warnings.

use crate::common::*;
use http::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn failures_carry_upstreams_words() {
    let f = start();
    f.made(CONFIGMAPS, configmap("taken", json!({}))).await;
    let cases: &[(&str, Method, &str, Value, u16, &str, &str)] = &[
        (
            "missing",
            Method::GET,
            "/api/v1/namespaces/default/configmaps/x",
            Value::Null,
            404,
            "NotFound",
            "configmaps \"x\" not found",
        ),
        (
            "missing in a group",
            Method::GET,
            "/apis/apps/v1/namespaces/default/deployments/x",
            Value::Null,
            404,
            "NotFound",
            "deployments.apps \"x\" not found",
        ),
        (
            "unknown resource",
            Method::GET,
            "/api/v1/nonsense",
            Value::Null,
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
        (
            "taken",
            Method::POST,
            CONFIGMAPS,
            configmap("taken", json!({})),
            409,
            "AlreadyExists",
            "configmaps \"taken\" already exists",
        ),
        (
            "no namespace",
            Method::POST,
            "/api/v1/namespaces/none/configmaps",
            configmap("a", json!({})),
            404,
            "NotFound",
            "namespaces \"none\" not found",
        ),
        (
            "other namespace",
            Method::POST,
            CONFIGMAPS,
            json!({"metadata": {"name": "a", "namespace": "b"}}),
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            "no name",
            Method::POST,
            CONFIGMAPS,
            json!({"metadata": {}}),
            422,
            "Invalid",
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
        (
            "bad name",
            Method::POST,
            CONFIGMAPS,
            json!({"metadata": {"name": "A"}}),
            422,
            "Invalid",
            "ConfigMap \"A\" is invalid: metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of",
        ),
        (
            "bad label",
            Method::POST,
            CONFIGMAPS,
            json!({"metadata": {"name": "a", "labels": {"a b": "c"}}}),
            422,
            "Invalid",
            "metadata.labels: Invalid value: \"a b\": name part must consist of",
        ),
        (
            "other kind",
            Method::POST,
            CONFIGMAPS,
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}}),
            400,
            "BadRequest",
            "Pod in version \"v1\" cannot be handled as a ConfigMap",
        ),
        (
            "revision at create",
            Method::POST,
            CONFIGMAPS,
            json!({"metadata": {"name": "a", "resourceVersion": "1"}}),
            500,
            "",
            "resourceVersion should not be set on objects to be created",
        ),
        (
            "not JSON",
            Method::POST,
            CONFIGMAPS,
            Value::String("}".into()),
            400,
            "BadRequest",
            "",
        ),
        (
            "validation",
            Method::POST,
            DEPLOYMENTS,
            deployment("a", -1),
            422,
            "Invalid",
            "Deployment.apps \"a\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "wrong type",
            Method::POST,
            DEPLOYMENTS,
            json!({"metadata": {"name": "a"}, "spec": {"replicas": "x"}}),
            400,
            "BadRequest",
            "json: cannot unmarshal string into Go struct field",
        ),
        (
            "unknown field, strict",
            Method::POST,
            "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
            json!({"metadata": {"name": "a"}, "dada": {}}),
            400,
            "BadRequest",
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dada\"",
        ),
        (
            "bad dryRun",
            Method::POST,
            "/api/v1/namespaces/default/configmaps?dryRun=Some",
            configmap("a", json!({})),
            422,
            "Invalid",
            "Unsupported value: [\"Some\"]: supported values: \"All\"",
        ),
        (
            "PUT of a missing object",
            Method::PUT,
            "/api/v1/namespaces/default/configmaps/x",
            configmap("x", json!({})),
            404,
            "NotFound",
            "configmaps \"x\" not found",
        ),
        (
            "PUT with another name",
            Method::PUT,
            "/api/v1/namespaces/default/configmaps/taken",
            configmap("x", json!({})),
            400,
            "BadRequest",
            "the name of the object (x) does not match the name on the URL (taken)",
        ),
        (
            "PUT with another uid",
            Method::PUT,
            "/api/v1/namespaces/default/configmaps/taken",
            json!({"metadata": {"name": "taken", "uid": "u"}}),
            409,
            "Conflict",
            "Precondition failed: UID in precondition: u",
        ),
        (
            "method",
            Method::POST,
            "/api/v1/namespaces/default/configmaps/taken",
            json!({}),
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ),
        (
            "default namespace",
            Method::DELETE,
            "/api/v1/namespaces/default",
            Value::Null,
            403,
            "Forbidden",
            "namespaces \"default\" is forbidden: this namespace may not be deleted",
        ),
        (
            "uid precondition",
            Method::DELETE,
            "/api/v1/namespaces/default/configmaps/taken",
            json!({"preconditions": {"uid": "u"}}),
            409,
            "Conflict",
            "the UID in the precondition (u) does not match the UID in record",
        ),
        (
            "bad label selector",
            Method::GET,
            "/api/v1/namespaces/default/configmaps?labelSelector=a%20b",
            Value::Null,
            400,
            "BadRequest",
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        ),
        (
            "bad field selector",
            Method::GET,
            "/api/v1/namespaces/default/configmaps?fieldSelector=x%3Dy",
            Value::Null,
            400,
            "BadRequest",
            "\"x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        (
            "bad pod field selector",
            Method::GET,
            "/api/v1/pods?fieldSelector=x%3Dy",
            Value::Null,
            400,
            "BadRequest",
            "field label not supported: x",
        ),
        (
            "future list",
            Method::GET,
            "/api/v1/pods?resourceVersion=99999",
            Value::Null,
            504,
            "Timeout",
            "Too large resource version: 99999, current: ",
        ),
        (
            "match without revision",
            Method::GET,
            "/api/v1/pods?resourceVersionMatch=Exact",
            Value::Null,
            422,
            "Invalid",
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "bad continue",
            Method::GET,
            "/api/v1/pods?continue=x",
            Value::Null,
            400,
            "BadRequest",
            "continue key is not valid",
        ),
        (
            "past",
            Method::GET,
            "/api/v1/pods?resourceVersion=1&resourceVersionMatch=Exact",
            Value::Null,
            410,
            "Expired",
            "The resourceVersion for the provided list is too old.",
        ),
    ];
    for (what, method, path, body, code, reason, message) in cases {
        let bytes = match body {
            Value::Null => vec![],
            Value::String(s) => s.clone().into_bytes(),
            v => v.to_string().into_bytes(),
        };
        let a = f.send(method.clone(), path, &[], bytes).await;
        let s = a.json();
        assert_eq!(
            (
                a.code,
                s["code"].as_u64(),
                s["reason"].as_str().unwrap_or("")
            ),
            (*code, Some(u64::from(*code)), *reason),
            "{what}: {s}"
        );
        let got = s["message"].as_str().unwrap();
        assert!(got.contains(message), "{what}: {got}");
        assert_eq!(
            (&s["kind"], &s["apiVersion"], &s["status"]),
            (&json!("Status"), &json!("v1"), &json!("Failure")),
            "{what}"
        );
    }
}

#[tokio::test]
async fn invalid_answers_list_their_causes() {
    let f = start();
    let mut d = deployment("x", -1);
    d["metadata"]["labels"] = json!({"a": "b c"});
    let s = f.post(DEPLOYMENTS, d).await.json();
    assert!(
        s["message"]
            .as_str()
            .unwrap()
            .starts_with("Deployment.apps \"x\" is invalid: [metadata.labels: Invalid value"),
        "{s}"
    );
    assert_eq!(s["details"]["kind"], "Deployment");
    assert_eq!(s["details"]["group"], "apps");
    let fields: Vec<&str> = s["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["field"].as_str().unwrap())
        .collect();
    assert_eq!(fields, ["metadata.labels", "spec.replicas"]);
    assert_eq!(s["details"]["causes"][1]["reason"], "FieldValueInvalid");
}

#[tokio::test]
async fn unknown_fields_warn_are_dropped_or_ignored() {
    let f = start();
    let mut o = configmap("a", json!({}));
    o["dada"] = json!(1);
    let a = f.post(CONFIGMAPS, o.clone()).await;
    assert_eq!(a.code, 201);
    assert_eq!(a.warnings(), ["299 - \"unknown field \\\"dada\\\"\""]);
    assert!(a.json().get("dada").is_none());
    o["metadata"]["name"] = "b".into();
    let a = f
        .post(&format!("{CONFIGMAPS}?fieldValidation=Ignore"), o)
        .await;
    assert_eq!((a.code, a.warnings().len()), (201, 0));
    let twice = r#"{"metadata":{"name":"c"},"data":{"k":"1"},"data":{"k":"2"}}"#;
    let a = f
        .send(
            Method::POST,
            &format!("{CONFIGMAPS}?fieldValidation=Strict"),
            &[],
            twice.into(),
        )
        .await;
    assert!(
        a.json()["message"]
            .as_str()
            .unwrap()
            .contains("duplicate field \"data\""),
        "{}",
        a.json()
    );
    let a = f
        .patch(
            &format!("{CONFIGMAPS}/a?fieldValidation=Strict"),
            "merge-patch",
            r#"{"dada":1}"#,
        )
        .await;
    assert_eq!(a.code, 422);
    assert!(
        a.json()["message"]
            .as_str()
            .unwrap()
            .contains("strict decoding error: unknown field \"dada\"")
    );
}
