//! Discovery against what Kubernetes v1.36 serves by default (`data/served.txt`), kind by kind.

mod common;

use common::{Fixture, send};
use http::Method;
use knarr_api::{ApiServer, Config};
use serde_json::{Value, json};

const ALL_VERBS: &str = "create,delete,deletecollection,get,list,patch,update,watch";

/// A server with all built-in kinds.
fn start() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::new(Config::for_tests(dir.path())).unwrap();
    let client = api.client("admin", &["system:masters"], "tester/1.0");
    Fixture { api, client, dir }
}

fn joined(v: &Value) -> String {
    let all: Vec<&str> = v
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    all.join(",")
}

fn kind(v: &Value, of: (&str, &str)) -> String {
    let [g, ver, k] = ["group", "version", "kind"].map(|f| v[f].as_str().unwrap_or_default());
    if (g, ver) == of || g.is_empty() {
        k.to_string()
    } else {
        format!("{g}/{ver}/{k}")
    }
}

/// A discovery document in the words of the table.
fn lines(document: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for g in document["items"].as_array().unwrap() {
        let group = g["metadata"]["name"].as_str().unwrap_or_default();
        for v in g["versions"].as_array().unwrap() {
            let version = v["version"].as_str().unwrap();
            let of = (group, version);
            let gv = format!("{group}/{version}");
            for r in v["resources"].as_array().unwrap() {
                let mut line = format!(
                    "{} {} {} {} {}",
                    gv.trim_start_matches('/'),
                    r["resource"].as_str().unwrap(),
                    r["singularResource"].as_str().unwrap(),
                    kind(&r["responseKind"], of),
                    r["scope"].as_str().unwrap(),
                );
                for (word, field) in [("short", "shortNames"), ("categories", "categories")] {
                    if r[field].is_array() {
                        line += &format!(" {word}={}", joined(&r[field]));
                    }
                }
                let verbs = joined(&r["verbs"]);
                let verbs = if verbs == ALL_VERBS { "all" } else { &verbs };
                out.push(format!("{line} verbs={verbs}"));
                for s in r["subresources"].as_array().into_iter().flatten() {
                    out.push(format!(
                        "  /{} {} {}",
                        s["subresource"].as_str().unwrap(),
                        kind(&s["responseKind"], of),
                        joined(&s["verbs"]),
                    ));
                }
            }
        }
    }
    out
}

#[tokio::test]
async fn discovery_is_upstreams() {
    let f = start();
    let mut served = Vec::new();
    for path in ["/api", "/apis"] {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let a = send(&f.client, Method::GET, path, &[("accept", accept)], vec![]).await;
        served.extend(lines(&a.json()));
    }
    let table: Vec<String> = include_str!("data/served.txt")
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(String::from)
        .collect();
    let expected: Vec<&String> = table.iter().collect();
    let served: Vec<&String> = served.iter().collect();
    let only = |a: &[&String], b: &[&String]| -> Vec<String> {
        let missing = a.iter().filter(|l| !b.contains(l));
        missing.map(|l| l.to_string()).collect()
    };
    let empty: Vec<String> = vec![];
    assert_eq!(only(&expected, &served), empty, "not served as it should");
    assert_eq!(only(&served, &expected), empty, "served as it shouldn't");
    assert_eq!(served, expected, "the order");
}

#[tokio::test]
async fn columns_are_upstreams() {
    let f = start();
    let mut differences = Vec::new();
    let table = include_str!("data/columns.txt");
    for line in table.lines().filter(|l| !l.starts_with('#')) {
        let (name, want) = line.split_once(": ").unwrap();
        let (gv, plural) = name.split_once(' ').unwrap();
        let root = if gv == "v1" { "/api" } else { "/apis" };
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let path = format!("{root}/{gv}/{plural}");
        let a = send(&f.client, Method::GET, &path, &[("accept", accept)], vec![]).await;
        assert_eq!(a.code, 200, "{path}");
        let columns: Vec<String> = a.json()["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| {
                let [n, t, format] =
                    ["name", "type", "format"].map(|k| c[k].as_str().unwrap_or_default());
                format!("{n}|{t}|{format}|{}", c["priority"])
            })
            .collect();
        let got = columns.join("; ");
        if got != want {
            differences.push(format!("{path}\n  got  {got}\n  want {want}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[tokio::test]
async fn documents_tell_what_upstreams_tell() {
    let f = start();
    let get = async |path: &str| send(&f.client, Method::GET, path, &[], vec![]).await.json();
    let v2 = get("/openapi/v2").await;
    for (path, method, id, action, kind) in [
        (
            "/api/v1/namespaces/{namespace}/pods",
            "delete",
            "deleteCoreV1CollectionNamespacedPod",
            "deletecollection",
            "Pod",
        ),
        (
            "/api/v1/namespaces/{namespace}/pods/{name}/exec",
            "get",
            "connectCoreV1GetNamespacedPodExec",
            "connect",
            "PodExecOptions",
        ),
        (
            "/api/v1/nodes/{name}/proxy/{path}",
            "patch",
            "connectCoreV1PatchNodeProxyWithPath",
            "connect",
            "NodeProxyOptions",
        ),
        (
            "/api/v1/namespaces/{namespace}/bindings",
            "post",
            "createCoreV1NamespacedBinding",
            "post",
            "Binding",
        ),
        (
            "/apis/authentication.k8s.io/v1/tokenreviews",
            "post",
            "createAuthenticationV1TokenReview",
            "post",
            "TokenReview",
        ),
        (
            "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
            "get",
            "listFlowcontrolApiserverV1FlowSchema",
            "list",
            "FlowSchema",
        ),
    ] {
        let operation = &v2["paths"][path][method];
        let told = [
            &operation["operationId"],
            &operation["x-kubernetes-action"],
            &operation["x-kubernetes-group-version-kind"]["kind"],
        ];
        assert_eq!(told, [id, action, kind], "{method} {path}");
    }
    let definitions = &v2["definitions"];
    for (ty, field, wanted) in [
        (
            "core.v1.PodSpec",
            "/restartPolicy/enum",
            json!(["Always", "Never", "OnFailure"]),
        ),
        (
            "core.v1.ServiceSpec",
            "/ipFamilies/items/enum",
            json!(["", "IPv4", "IPv6"]),
        ),
        (
            "core.v1.PodList",
            "/items/x-kubernetes-list-type",
            Value::Null,
        ),
        (
            "core.v1.PodSpec",
            "/tolerations/x-kubernetes-list-type",
            json!("atomic"),
        ),
    ] {
        let properties = &definitions[format!("io.k8s.api.{ty}")]["properties"];
        assert!(properties.is_object(), "{ty}");
        let found = properties.pointer(field).unwrap_or(&Value::Null);
        assert_eq!(*found, wanted, "{ty} {field}");
    }
    // what is asked and not stored is explained, too
    let index = get("/openapi/v3").await;
    let url = &index["paths"]["apis/authorization.k8s.io/v1"]["serverRelativeURL"];
    let v3 = get(url.as_str().unwrap()).await;
    let schemas = v3["components"]["schemas"].as_object().unwrap();
    assert!(schemas.contains_key("io.k8s.api.authorization.v1.SelfSubjectRulesReview"));
}
