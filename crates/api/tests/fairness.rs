//! Priority and fairness: the objects, the classification, and who is served when there is too much to do.

mod common;

use common::*;
use http::Method;
use knarr_api::ApiServer;
use serde_json::{Value, json};
use std::time::Duration;

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";
const PF_SCHEMA: &str = "x-kubernetes-pf-flowschema-uid";
const PF_LEVEL: &str = "x-kubernetes-pf-prioritylevel-uid";

fn server() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::for_tests(dir.path());
    let client = api.client("admin", &["system:masters"], "tester/1.0");
    Fixture { api, client, dir }
}

fn level(name: &str, shares: u32, response: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": "Limited",
        "limited": {"nominalConcurrencyShares": shares, "borrowingLimitPercent": 0, "limitResponse": response}}})
}
fn schema(name: &str, level: &str, user: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": 500,
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": [{"kind": "Group", "group": {"name": user}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}]}})
}

/// Looks again until it is so.
async fn until<F: Future<Output = bool>>(what: &str, look: impl Fn() -> F) {
    let end = std::time::Instant::now() + Duration::from_secs(120);
    while !look().await {
        assert!(std::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn uid(o: &Value) -> &str {
    o["metadata"]["uid"].as_str().unwrap()
}
fn header<'a>(a: &'a Answer, name: &str) -> &'a str {
    a.headers.get(name).map_or("", |v| v.to_str().unwrap())
}

#[tokio::test]
async fn every_cluster_has_its_levels_and_schemas() {
    let f = server();
    let names = |list: &Value| -> Vec<String> {
        let all = list["items"].as_array().unwrap().iter();
        all.map(|o| o["metadata"]["name"].as_str().unwrap().to_string())
            .collect()
    };
    let levels = f.get(LEVELS).await.json();
    assert_eq!(
        names(&levels),
        [
            "catch-all",
            "exempt",
            "global-default",
            "leader-election",
            "node-high",
            "system",
            "workload-high",
            "workload-low"
        ]
    );
    let schemas = f.get(SCHEMAS).await.json();
    assert_eq!(schemas["items"].as_array().unwrap().len(), 11);
    for s in schemas["items"].as_array().unwrap() {
        assert_eq!(s["status"]["conditions"][0]["status"], "False", "{s}");
    }
    let a = f.get(LEVELS).await;
    let exempt = f.get(&format!("{LEVELS}/exempt")).await.json();
    assert_eq!(header(&a, PF_LEVEL), uid(&exempt));

    // mandatory ones can't be changed, and come back
    let path = format!("{SCHEMAS}/catch-all");
    let a = f
        .patch(
            &path,
            "merge-patch",
            r#"{"spec":{"matchingPrecedence":9000}}"#,
        )
        .await;
    assert_eq!(a.code, 422);
    assert!(
        a.json()["message"]
            .as_str()
            .unwrap()
            .contains("spec of 'catch-all' must equal the fixed value")
    );
    let old = f.get(&path).await.json();
    assert_eq!(f.delete(&path, json!({})).await.code, 200);
    until("the schema is back", || async {
        let a = f.get(&path).await;
        a.code == 200 && uid(&a.json()) != uid(&old)
    })
    .await;
    // what follows the defaults is put right, what doesn't stays
    let system = format!("{LEVELS}/system");
    let shares = |n: u32| json!({"spec": {"limited": {"nominalConcurrencyShares": n}}}).to_string();
    f.patch(&system, "merge-patch", &shares(31)).await;
    until("the default is back", || async {
        f.get(&system).await.json()["spec"]["limited"]["nominalConcurrencyShares"] == 30
    })
    .await;
    f.patch(
        &system,
        "merge-patch",
        r#"{"metadata":{"annotations":{"apf.kubernetes.io/autoupdate-spec":"false"}}}"#,
    )
    .await;
    f.patch(&system, "merge-patch", &shares(32)).await;
    until("the change is in use", || async {
        let text = String::from_utf8(f.get("/metrics").await.bytes).unwrap();
        // 600 seats * 32 / 247 shares
        text.contains("apiserver_flowcontrol_nominal_limit_seats{priority_level=\"system\"} 78\n")
    })
    .await;
    assert_eq!(
        f.get(&system).await.json()["spec"]["limited"]["nominalConcurrencyShares"],
        32
    );
}

#[tokio::test]
async fn requests_are_classified_and_refused_when_their_level_has_no_seat() {
    let f = server();
    let jane = f
        .api
        .client("jane", &["strangers", "system:masters"], "tester");
    let ask = || send(&jane, Method::GET, "/api/v1/namespaces", &[], vec![]);
    let dangling = f
        .made(SCHEMAS, {
            let mut s = schema("strangers", "none", "strangers");
            // before the one for masters there is none but `exempt` itself
            s["spec"]["matchingPrecedence"] = 2.into();
            s
        })
        .await;
    assert_eq!(dangling["status"], json!({}));
    let path = format!("{SCHEMAS}/strangers");
    until("the missing level is told", || async {
        let c = &f.get(&path).await.json()["status"]["conditions"][0];
        (&c["type"], &c["status"], &c["reason"])
            == (&json!("Dangling"), &json!("True"), &json!("NotFound"))
    })
    .await;
    assert_eq!(ask().await.code, 200);

    let bob = f.api.client("bob", &["strangers"], "tester");
    let ask = || {
        send(
            &bob,
            Method::GET,
            "/api",
            &[("accept", "application/json")],
            vec![],
        )
    };
    let nothing = f
        .made(LEVELS, level("none", 0, json!({"type": "Reject"})))
        .await;
    until("the level is found", || async {
        f.get(&path).await.json()["status"]["conditions"][0]["status"] == "False"
    })
    .await;
    // `/api` is no resource: another schema's
    let a = ask().await;
    let default = f.get(&format!("{SCHEMAS}/global-default")).await.json();
    assert_eq!((a.code, header(&a, PF_SCHEMA)), (200, uid(&default)));
    let a = send(&bob, Method::GET, "/api/v1/namespaces", &[], vec![]).await;
    assert_eq!(a.code, 429);
    assert_eq!(header(&a, "retry-after"), "1");
    assert_eq!(
        (header(&a, PF_SCHEMA), header(&a, PF_LEVEL)),
        (uid(&dangling), uid(&nothing))
    );
    assert_eq!(a.bytes, b"Too many requests, please try again later.\n");
    let text = String::from_utf8(f.get("/metrics").await.bytes).unwrap();
    let counted = "apiserver_flowcontrol_rejected_requests_total{flow_schema=\"strangers\",priority_level=\"none\",reason=\"concurrency-limit\"} 1\n";
    assert!(text.contains(counted), "{text}");
}

#[tokio::test]
async fn wrong_objects_are_refused_in_upstreams_words() {
    let f = server();
    type Change = fn(&mut Value);
    let schemas: [(&str, Change, &str); 12] = [
        (
            "precedence",
            |o| o["spec"]["matchingPrecedence"] = 10_001.into(),
            "spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000",
        ),
        (
            "negative",
            |o| o["spec"]["matchingPrecedence"] = (-1).into(),
            "spec.matchingPrecedence: Invalid value: -1: must be a positive value",
        ),
        (
            "first",
            |o| o["spec"]["matchingPrecedence"] = 1.into(),
            "only the schema named 'exempt' may have matchingPrecedence 1",
        ),
        (
            "method",
            |o| o["spec"]["distinguisherMethod"] = json!({"type": "ByHat"}),
            "spec.distinguisherMethod.type: Unsupported value: {\"Type\":\"ByHat\"}: supported values: \"ByNamespace\", \"ByUser\"",
        ),
        (
            "level",
            |o| o["spec"]["priorityLevelConfiguration"] = json!({"name": ""}),
            "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
        ),
        (
            "subjects",
            |o| o["spec"]["rules"][0]["subjects"] = json!([]),
            "spec.rules[0].subjects: Required value: subjects must contain at least one value",
        ),
        (
            "kind",
            |o| o["spec"]["rules"][0]["subjects"][0]["kind"] = "Cat".into(),
            "spec.rules[0].subjects[0].kind: Unsupported value: \"Cat\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
        ),
        (
            "two subjects",
            |o| o["spec"]["rules"][0]["subjects"][0]["user"] = json!({"name": "a"}),
            "spec.rules[0].subjects[0].user: Forbidden: user is forbidden when subject kind is not 'User'",
        ),
        (
            "no rules",
            |o| o["spec"]["rules"][0]["resourceRules"] = json!([]),
            "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
        ),
        (
            "verbs",
            |o| o["spec"]["rules"][0]["resourceRules"][0]["verbs"] = json!(["eat"]),
            "spec.rules[0].resourceRules[0].verbs: Unsupported value",
        ),
        (
            "namespaces",
            |o| {
                o["spec"]["rules"][0]["resourceRules"][0]["namespaces"] = json!([]);
                o["spec"]["rules"][0]["resourceRules"][0]["clusterScope"] = false.into();
            },
            "resource rules that are not cluster scoped must supply at least one namespace",
        ),
        (
            "URL",
            |o| {
                o["spec"]["rules"][0]["nonResourceRules"] =
                    json!([{"verbs": ["get"], "nonResourceURLs": ["/a*"]}])
            },
            "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"/a*\": wildcard can only do suffix matching",
        ),
    ];
    for (name, change, want) in schemas {
        let mut o = schema("x", "system", "crowd");
        change(&mut o);
        let a = f.post(SCHEMAS, o).await;
        let said = a.json()["message"].as_str().unwrap_or("").to_string();
        assert!(a.code == 422 && said.contains(want), "{name}: {said}");
    }
    let levels: [(&str, Change, &str); 9] = [
        (
            "type",
            |o| o["spec"]["type"] = "Odd".into(),
            "spec.type: Unsupported value: \"Odd\": supported values: \"Exempt\", \"Limited\"",
        ),
        (
            "exempt",
            |o| o["spec"]["type"] = "Exempt".into(),
            "must be 'Exempt' if and only if `name` is 'exempt'",
        ),
        (
            "no limits",
            |o| o["spec"]["limited"] = Value::Null,
            "spec.limited: Required value: must not be empty when type is Limited",
        ),
        (
            "shares",
            |o| o["spec"]["limited"]["nominalConcurrencyShares"] = (-1).into(),
            "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer",
        ),
        (
            "lendable",
            |o| o["spec"]["limited"]["lendablePercent"] = 101.into(),
            "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
        ),
        (
            "borrowing",
            |o| o["spec"]["limited"]["borrowingLimitPercent"] = (-1).into(),
            "if specified, must be a non-negative integer",
        ),
        (
            "queueless",
            |o| o["spec"]["limited"]["limitResponse"] = json!({"type": "Queue"}),
            "spec.limited.limitResponse.queuing: Required value: must not be empty if limited.limitResponse.type is Limited",
        ),
        (
            "hand",
            |o| o["spec"]["limited"]["limitResponse"]["queuing"]["handSize"] = 65.into(),
            "handSize: Invalid value: 65: should not be greater than queues (64)",
        ),
        (
            "bits",
            |o| o["spec"]["limited"]["limitResponse"]["queuing"]["handSize"] = 11.into(),
            "required entropy bits of deckSize 64 and handSize 11 should not be greater than 60",
        ),
    ];
    for (name, change, want) in levels {
        let mut o = level("x", 1, json!({"type": "Queue", "queuing": {}}));
        change(&mut o);
        let a = f.post(LEVELS, o).await;
        let said = a.json()["message"].as_str().unwrap_or("").to_string();
        assert!(a.code == 422 && said.contains(want), "{name}: {said}");
    }
}
