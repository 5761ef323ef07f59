//! The audit log: what of which request is written down.

mod common;

use common::*;
use http::Method;
use knarr_api::{ApiServer, Audit, AuditPolicy, Config, LogOptions};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

struct Log(PathBuf);

impl Log {
    /// Waits until the log's events are as wanted.
    async fn until(&self, what: &str, done: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
        loop {
            let text = std::fs::read_to_string(&self.0).unwrap_or_default();
            let whole = text.rfind('\n').map_or("", |i| &text[..i]);
            let events: Vec<Value> = whole
                .lines()
                .map(|l| serde_json::from_str(l).unwrap())
                .collect();
            if done(&events) {
                return events;
            }
            assert!(std::time::Instant::now() < end, "{what}: {events:#?}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

fn server(policy: &str) -> (Fixture, Log) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let api = ApiServer::with_resources(Config::for_tests(dir.path()), RESOURCES).unwrap();
    api.set_audit(Audit::open(AuditPolicy::parse(policy).unwrap(), options(&path)).unwrap());
    let client = api.client("admin", &["system:masters"], "tester/1.0");
    (Fixture { api, client, dir }, Log(path))
}

fn options(path: &Path) -> LogOptions {
    LogOptions {
        path: path.into(),
        max_megabytes: 100,
        max_backups: 0,
        max_age_days: 0,
    }
}

const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  resources: [{group: '', resources: [namespaces]}]
- level: Metadata
  resources: [{group: '', resources: [configmaps], resourceNames: [hidden]}]
- level: RequestResponse
  resources: [{group: '', resources: [configmaps]}]
  omitManagedFields: true
- level: Request
  omitStages: []
  resources: [{group: apps}]
- level: Metadata
  resources: [{group: '', resources: [pods]}]
- level: None
";

#[tokio::test]
async fn events_say_what_the_policy_asks_for() {
    let (f, log) = server(POLICY);
    f.made(CONFIGMAPS, configmap("shown", json!({"k": "v"})))
        .await;
    let hidden = format!("{CONFIGMAPS}/hidden");
    f.made(CONFIGMAPS, configmap("hidden", json!({"k": "secret-text"})))
        .await;
    f.patch(&hidden, "merge-patch", r#"{"data":{"k":"secret-text-2"}}"#)
        .await;
    f.get(&format!("{CONFIGMAPS}/none")).await;
    f.made(DEPLOYMENTS, deployment("d", 1)).await;
    f.get("/api").await;
    f.get("/api/v1/namespaces").await;
    let events = log.until("five events", |e| e.len() == 5).await;
    let brief: Vec<(&str, &str, &str, &str, i64)> = events
        .iter()
        .map(|e| {
            let text = |p: &str| e.pointer(p).and_then(Value::as_str).unwrap_or("");
            (
                text("/level"),
                text("/stage"),
                text("/verb"),
                text("/objectRef/name"),
                e["responseStatus"]["code"].as_i64().unwrap_or(0),
            )
        })
        .collect();
    let done = "ResponseComplete";
    assert_eq!(
        brief,
        [
            ("RequestResponse", done, "create", "shown", 201),
            // the rule names the object, whose name isn't in the URL yet
            ("RequestResponse", done, "create", "hidden", 201),
            ("Metadata", done, "patch", "hidden", 200),
            ("RequestResponse", done, "get", "none", 404),
            ("Request", done, "create", "d", 201),
        ]
    );
    let first = &events[0];
    assert_eq!(
        (&first["kind"], &first["apiVersion"], &first["requestURI"]),
        (
            &json!("Event"),
            &json!("audit.k8s.io/v1"),
            &json!(CONFIGMAPS)
        )
    );
    assert_eq!(first["user"]["username"], "admin");
    assert_eq!(first["userAgent"], "tester/1.0");
    assert_eq!(first["sourceIPs"], json!(["127.0.0.1"]));
    assert_eq!(
        first["objectRef"],
        json!({"resource": "configmaps", "namespace": "default", "name": "shown", "apiVersion": "v1"})
    );
    assert_eq!(first["requestObject"]["data"]["k"], "v");
    assert_eq!(first["responseObject"]["data"]["k"], "v");
    assert!(
        first["responseObject"]["metadata"]
            .get("managedFields")
            .is_none()
    );
    assert_eq!(
        first["annotations"]["authorization.k8s.io/decision"],
        "allow"
    );
    let patched = &events[2];
    assert!(patched.get("requestObject").is_none() && patched.get("responseObject").is_none());
    assert!(!patched.to_string().contains("secret-text"));
    assert_eq!(
        events[3]["responseStatus"],
        json!({"metadata": {}, "status": "Failure", "reason": "NotFound", "code": 404,
            "message": "configmaps \"none\" not found", "details": {"name": "none", "kind": "configmaps"}})
    );
    assert!(events[4].get("requestObject").is_some() && events[4].get("responseObject").is_none());
}

#[tokio::test]
async fn a_watch_has_a_start_and_an_end_and_a_stranger_a_refusal() {
    let (f, log) =
        server("{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: RequestResponse}]}");
    let watch = f.watch(&format!("{PODS}?watch=true")).await;
    let stages = |e: &[Value], verb: &str| -> Vec<String> {
        let of = e.iter().filter(|e| e["verb"] == verb);
        of.map(|e| e["stage"].as_str().unwrap().to_string())
            .collect()
    };
    let events = log
        .until("the start", |e| stages(e, "watch").len() == 2)
        .await;
    assert_eq!(
        stages(&events, "watch"),
        ["RequestReceived", "ResponseStarted"]
    );
    drop(watch);
    let events = log
        .until("the end", |e| stages(e, "watch").len() == 3)
        .await;
    assert_eq!(events.last().unwrap()["stage"], "ResponseComplete");
    assert_eq!(events[0]["auditID"], events.last().unwrap()["auditID"]);

    let jane = f.api.client("jane", &[], "tester");
    let a = send(
        &jane,
        Method::DELETE,
        &format!("{PODS}/x"),
        &[("audit-id", "mine")],
        vec![],
    )
    .await;
    assert_eq!(
        (a.code, a.headers["audit-id"].to_str().unwrap()),
        (403, "mine")
    );
    let of = |e: &&Value| e["auditID"] == "mine" && e["stage"] == "ResponseComplete";
    let events = log.until("the refusal", |e| e.iter().any(|e| of(&e))).await;
    let refused = events.iter().find(of).unwrap();
    assert_eq!(
        refused["annotations"]["authorization.k8s.io/decision"],
        "forbid"
    );
    assert_eq!(refused["responseStatus"]["reason"], "Forbidden");

    let other = send(
        &f.client,
        Method::GET,
        &format!("{PODS}/x"),
        &[("impersonate-user", "jane"), ("audit-id", "as-jane")],
        vec![],
    )
    .await;
    assert_eq!(other.code, 403);
    let events = log
        .until("the impersonation", |e| {
            e.iter()
                .any(|e| e["auditID"] == "as-jane" && e["stage"] == "ResponseComplete")
        })
        .await;
    let e = events.last().unwrap();
    assert_eq!(
        (&e["user"]["username"], &e["impersonatedUser"]["username"]),
        (&json!("admin"), &json!("jane"))
    );
}

#[test]
fn wrong_policies_are_refused_in_upstreams_words() {
    let with =
        |rule: &str| format!("{{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{rule}]}}");
    for (name, policy, want) in [
        (
            "no policy",
            "{kind: Pod, apiVersion: v1}".to_string(),
            "kind: Policy",
        ),
        ("no rules", with(""), "loaded illegal policy with 0 rules"),
        ("no level", with("{users: [a]}"), "level"),
        ("an odd level", with("{level: All}"), "All"),
        ("an odd field", with("{level: None, user: [a]}"), "user"),
        (
            "an odd stage",
            with("{level: None, omitStages: [Later]}"),
            "Later",
        ),
        (
            "an URL without slash",
            with("{level: None, nonResourceURLs: [a]}"),
            "rules[0].nonResourceURLs[0]: Invalid value: \"a\": non-resource URL rules must begin with a '/' character",
        ),
        (
            "a star within",
            with("{level: None, nonResourceURLs: ['/a*/b']}"),
            "wildcards '*' must be the final character of the rule",
        ),
        (
            "both",
            with("{level: None, nonResourceURLs: [/a], namespaces: [x]}"),
            "rules cannot apply to both regular resources and non-resource URLs",
        ),
        (
            "a version as group",
            with("{level: None, resources: [{group: apps/v1}]}"),
            "rules[0].resources.group: Invalid value: \"apps/v1\"",
        ),
        (
            "names of nothing",
            with("{level: None, resources: [{group: '', resourceNames: [a]}]}"),
            "using resourceNames requires at least one resource",
        ),
    ] {
        let said = AuditPolicy::parse(&policy).unwrap_err().to_string();
        assert!(said.contains(want), "{name}: {said}");
    }
    let missing = Path::new("/nowhere/at/all/audit.log");
    let opened = Audit::open(AuditPolicy::metadata_only(), options(missing));
    assert!(
        opened
            .err()
            .unwrap()
            .to_string()
            .contains("/nowhere/at/all/audit.log")
    );
}
