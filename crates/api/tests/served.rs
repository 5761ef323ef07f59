//! Discovery against what Kubernetes v1.36 serves by default (`data/served.txt`), kind by kind.

mod common;

use common::{Fixture, send};
use http::Method;
use knarr_api::{ApiServer, Config};
use serde_json::Value;

/// Served by upstream, not here yet.
const NOT_YET: &[&str] = &["v1 bindings", "v1 componentstatuses"];

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

/// `group/version plural[/subresource]` of each line.
fn names(lines: &[String]) -> Vec<String> {
    let mut current = String::new();
    lines
        .iter()
        .map(|l| match l.strip_prefix("  ") {
            Some(sub) => format!("{current}{}", sub.split(' ').next().unwrap()),
            None => {
                current = l.split(' ').take(2).collect::<Vec<_>>().join(" ");
                current.clone()
            }
        })
        .collect()
}

/// Is `name` what `missing` names, or a subresource of it?
fn below(missing: &str, name: &str) -> bool {
    let rest = name.strip_prefix(missing);
    rest.is_some_and(|r| r.is_empty() || r.starts_with('/'))
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
    let found = names(&served);
    let wanted = names(&table);
    let expected: Vec<&String> = table
        .iter()
        .zip(&wanted)
        .filter(|(_, name)| found.contains(name) || !NOT_YET.iter().any(|n| below(n, name)))
        .map(|(line, _)| line)
        .collect();
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
        if a.code == 404 && NOT_YET.contains(&name) {
            continue;
        }
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
