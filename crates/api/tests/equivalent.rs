//! Admission by rules that name another version of a custom resource than the request's: what is asked sees that version,
//! as the definition's conversion webhook makes it.

mod common;
mod webhook_server;

use common::Fixture;
use knarr_api::{ApiServer, Config};
use serde_json::{Value, json};
use webhook_server::{Webhook, patch, serve};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const V1: &str = "/apis/example.com/v1/namespaces/default/widgets";
const V2: &str = "/apis/example.com/v2/namespaces/default/widgets";

/// Converts `spec.size` of v1 to `spec.width` of v2 and back; a size of 66 it refuses. Admission is answered by `judge`.
async fn webhook(judge: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) -> Webhook {
    serve(&["127.0.0.1"], move |path, review| {
        if path != "/convert" {
            return (200, judge(path, &review["request"]));
        }
        let wanted = &review["request"]["desiredAPIVersion"];
        let (from, to) = match wanted.as_str() {
            Some("example.com/v2") => ("size", "width"),
            _ => ("width", "size"),
        };
        let mut objects = review["request"]["objects"].clone();
        for o in objects.as_array_mut().unwrap() {
            if o["spec"][from] == 66 {
                return (
                    200,
                    json!({"result": {"status": "Failure", "message": "66 does not fit"}}),
                );
            }
            let spec = o["spec"].as_object_mut().unwrap();
            if let Some(v) = spec.remove(from) {
                spec.insert(to.into(), v);
            }
            o["apiVersion"] = wanted.clone();
        }
        (
            200,
            json!({"result": {"status": "Success"}, "convertedObjects": objects}),
        )
    })
    .await
}

/// A server with the definition: v1 is stored, v2 isn't.
async fn start(w: &Webhook) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::new(Config::for_tests(dir.path())).unwrap();
    let client = api.client("admin", &["system:masters"], "tester/1.0");
    let f = Fixture { api, client, dir };
    let version = |name: &str, field: &str| {
        json!({"name": name, "served": true, "storage": name == "v1", "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {field: {"type": "integer"}, "note": {"type": "string"},
                    "shape": {"type": "string", "default": "round"}}},
                "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}})
    };
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [version("v1", "size"), version("v2", "width")],
            "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
                "clientConfig": w.url("/convert")}}}});
    f.made(CRDS, crd).await;
    f
}

fn widget(version: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("example.com/{version}"), "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

/// A configuration of one webhook for v2 of the widgets.
async fn configure(f: &Fixture, kind: &str, w: &Webhook, more: Value) {
    let mut hook = json!({"name": format!("{kind}.example.com"), "clientConfig": w.url(&format!("/{kind}")),
        "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 30,
        "rules": [{"operations": ["*"], "apiGroups": ["example.com"], "apiVersions": ["v2"], "resources": ["widgets", "widgets/status"]}]});
    for (k, v) in more.as_object().unwrap() {
        hook[k] = v.clone();
    }
    let path = format!("{GROUP}/{kind}webhookconfigurations");
    f.made(
        &path,
        json!({"metadata": {"name": kind}, "webhooks": [hook]}),
    )
    .await;
}

fn asked(w: &Webhook, path: &str) -> Vec<Value> {
    let all = w.asked.lock().unwrap();
    let of = all.iter().filter(|(p, _)| p == path);
    of.map(|(_, review)| review["request"].clone()).collect()
}

#[tokio::test]
async fn a_validating_webhook_sees_the_version_it_names() {
    let w = webhook(|_, r| json!({"allowed": r["object"]["spec"]["width"] != 7})).await;
    let f = start(&w).await;
    configure(&f, "validating", &w, json!({})).await;
    f.made(V1, widget("v1", "a", json!({"size": 1}))).await;
    let a = f.post(V1, widget("v1", "b", json!({"size": 7}))).await;
    assert_eq!(a.code, 400, "{}", a.json());
    let a = f
        .patch(&format!("{V1}/a"), "merge-patch", r#"{"spec":{"size":2}}"#)
        .await;
    assert_eq!(a.code, 200, "{}", a.json());
    let a = f
        .patch(
            &format!("{V1}/a/status"),
            "merge-patch",
            r#"{"status":{"x":1}}"#,
        )
        .await;
    assert_eq!(a.code, 200, "{}", a.json());
    assert_eq!(f.delete(&format!("{V1}/a"), json!({})).await.code, 200);
    let seen = asked(&w, "/validating");
    let want = [
        ("CREATE", json!(1), Value::Null),
        ("CREATE", json!(7), Value::Null),
        ("UPDATE", json!(2), json!(1)),
        ("UPDATE", json!(2), json!(2)),
        ("DELETE", Value::Null, json!(2)),
    ];
    assert_eq!(seen.len(), want.len());
    for (r, (operation, width, before)) in seen.iter().zip(want) {
        assert_eq!(r["operation"], operation);
        assert_eq!(r["object"]["spec"]["width"], width, "{operation}");
        assert_eq!(r["oldObject"]["spec"]["width"], before, "{operation}");
        assert_eq!(
            (&r["kind"]["version"], &r["requestKind"]["version"]),
            (&json!("v2"), &json!("v1"))
        );
        assert_eq!(
            (&r["resource"]["version"], &r["requestResource"]["version"]),
            (&json!("v2"), &json!("v1"))
        );
        for o in [&r["object"], &r["oldObject"]] {
            assert!(o.is_null() || o["apiVersion"] == "example.com/v2", "{o}");
        }
    }
}

#[tokio::test]
async fn exact_rules_and_other_groups_are_not_asked() {
    let w = webhook(|_, _| json!({"allowed": false})).await;
    let f = start(&w).await;
    configure(&f, "validating", &w, json!({"matchPolicy": "Exact"})).await;
    f.made(V1, widget("v1", "a", json!({"size": 1}))).await;
    let a = f.post(V2, widget("v2", "b", json!({"width": 1}))).await;
    assert_eq!(a.code, 400);
    assert_eq!(w.count("/validating"), 1);
}

#[tokio::test]
async fn what_a_mutating_webhook_changes_is_converted_back() {
    let w = webhook(|_, r| {
        let width = r["object"]["spec"]["width"].as_i64().unwrap_or(0);
        patch(json!([
            {"op": "replace", "path": "/spec/width", "value": width + 1},
            {"op": "add", "path": "/spec/note", "value": "grown"},
            {"op": "add", "path": "/spec/unheard", "value": "of"}]))
    })
    .await;
    let f = start(&w).await;
    let conditions =
        json!({"matchConditions": [{"name": "small", "expression": "object.spec.width < 10"}]});
    configure(&f, "mutating", &w, conditions).await;
    let made = f.made(V1, widget("v1", "a", json!({"size": 1}))).await;
    assert_eq!(made["apiVersion"], "example.com/v1");
    assert_eq!(
        made["spec"],
        json!({"size": 2, "note": "grown", "shape": "round"})
    );
    let made = f.made(V1, widget("v1", "b", json!({"size": 11}))).await;
    assert_eq!(made["spec"]["size"], 11, "its condition does not hold");
    assert_eq!(w.count("/mutating"), 1);
}

#[tokio::test]
async fn what_cannot_be_converted_is_told() {
    let w = webhook(|_, _| json!({"allowed": true})).await;
    let why = "conversion webhook for example.com/v1, Kind=Widget failed: 66 does not fit";
    let internal = "Internal error occurred: ";
    for (kind, want) in [
        ("validating", format!("{internal}{why}")),
        // as upstream wraps it
        ("mutating", format!("{internal}{internal}{why}")),
    ] {
        let f = start(&w).await;
        configure(&f, kind, &w, json!({"failurePolicy": "Ignore"})).await;
        let a = f.post(V1, widget("v1", "a", json!({"size": 66}))).await;
        assert_eq!(
            (a.code, a.json()["message"].as_str().unwrap()),
            (500, want.as_str())
        );
    }
    assert_eq!(w.count("/validating") + w.count("/mutating"), 0);
}

/// A policy about v2 of the widgets, and its binding.
async fn policy(f: &Fixture, spec: Value, action: Option<&str>) {
    let kind = if spec.get("mutations").is_some() {
        "mutating"
    } else {
        "validating"
    };
    let mut full = json!({"matchConstraints": {"resourceRules": [{"apiGroups": ["example.com"], "apiVersions": ["v2"],
        "operations": ["*"], "resources": ["widgets"]}]}});
    for (k, v) in spec.as_object().unwrap() {
        full[k] = v.clone();
    }
    let mut bound = json!({"policyName": "p"});
    if let Some(action) = action {
        bound["validationActions"] = json!([action]);
    }
    for (what, spec) in [("policies", full), ("policybindings", bound)] {
        let path = format!("{GROUP}/{kind}admission{what}");
        f.made(&path, json!({"metadata": {"name": "p"}, "spec": spec}))
            .await;
    }
}

#[tokio::test]
async fn policies_see_the_version_they_name() {
    let w = webhook(|_, _| Value::Null).await;
    let f = start(&w).await;
    policy(&f, json!({"validations": [{"expression": "object == null || object.spec.width < 5",
        "messageExpression": "'width ' + string(object.spec.width) + ' in ' + object.apiVersion"}]}), Some("Deny")).await;
    f.made(V1, widget("v1", "a", json!({"size": 4}))).await;
    for (size, want) in [
        (5, "denied request: width 5 in example.com/v2"),
        (
            66,
            "denied request: failed to configure binding: failed to convert object version: conversion webhook for example.com/v1, Kind=Widget failed: 66 does not fit",
        ),
    ] {
        let a = f.post(V1, widget("v1", "b", json!({"size": size}))).await;
        let message = a.json()["message"].as_str().unwrap().to_owned();
        assert!(message.ends_with(want), "{size}: {message}");
    }
    let a = f.delete(&format!("{V1}/a"), json!({})).await;
    assert_eq!(a.code, 200, "{}", a.json());
}

#[tokio::test]
async fn what_a_policy_changes_is_converted_back() {
    let w = webhook(|_, _| Value::Null).await;
    let f = start(&w).await;
    policy(
        &f,
        json!({"reinvocationPolicy": "Never", "mutations": [
        {"patchType": "JSONPatch", "jsonPatch": {"expression":
            "[JSONPatch{op: 'replace', path: '/spec/width', value: object.spec.width * 2}]"}},
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
            "Object{spec: Object.spec{note: 'width ' + string(object.spec.width)}}"}}]}),
        None,
    )
    .await;
    let made = f.made(V1, widget("v1", "a", json!({"size": 2}))).await;
    assert_eq!(
        made["spec"],
        json!({"size": 4, "note": "width 4", "shape": "round"})
    );
    let made = f.made(V2, widget("v2", "b", json!({"width": 3}))).await;
    assert_eq!(
        made["spec"],
        json!({"width": 6, "note": "width 6", "shape": "round"})
    );
    assert_eq!(f.get(&format!("{V1}/b")).await.json()["spec"]["size"], 6);
}

#[tokio::test]
async fn params_come_in_the_version_their_policy_names() {
    let w = webhook(|_, _| Value::Null).await;
    let f = start(&w).await;
    f.made(V1, widget("v1", "limit", json!({"size": 3}))).await;
    let rules = json!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]});
    f.made(
        &format!("{GROUP}/validatingadmissionpolicies"),
        json!({"metadata": {"name": "p"}, "spec": {
        "paramKind": {"apiVersion": "example.com/v2", "kind": "Widget"}, "matchConstraints": rules,
        "validations": [{"expression": "size(object.data) <= params.spec.width"}]}}),
    )
    .await;
    f.made(
        &format!("{GROUP}/validatingadmissionpolicybindings"),
        json!({"metadata": {"name": "p"}, "spec": {
        "policyName": "p", "validationActions": ["Deny"],
        "paramRef": {"name": "limit", "namespace": "default", "parameterNotFoundAction": "Deny"}}}),
    )
    .await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = |n: usize| {
        let data: Value = (0..n)
            .map(|i| (format!("k{i}"), json!("v")))
            .collect::<serde_json::Map<_, _>>()
            .into();
        json!({"metadata": {"generateName": "m"}, "data": data})
    };
    assert_eq!(f.post(maps, map(3)).await.code, 201);
    let a = f.post(maps, map(4)).await;
    assert_eq!(a.code, 422, "{}", a.json());
}
