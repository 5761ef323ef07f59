//! The bound on names of custom resources. It is the process's, hence a program of its own.

mod common;

use common::Fixture;
use knarr_api::{ApiServer, Config};
use serde_json::{Value, json};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn definition(name: &str, categories: Vec<String>) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{name}s.example.com")},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": format!("{name}s"), "kind": name, "categories": categories},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}})
}

fn established(o: &Value) -> (&str, &str) {
    let all = o["status"]["conditions"].as_array().unwrap();
    let c = all.iter().find(|c| c["type"] == "Established").unwrap();
    (c["status"].as_str().unwrap(), c["reason"].as_str().unwrap())
}

#[tokio::test]
async fn a_definition_past_the_bound_says_that_it_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::new(Config::for_tests(dir.path())).unwrap();
    let client = api.client("admin", &["system:masters"], "tester/1.0");
    let f = Fixture { api, client, dir };
    // each has more than a megabyte of names
    let many = |of: &str| -> Vec<String> { (0..18_000).map(|n| format!("{of}{n:060}")).collect() };
    let mut refused = 0;
    for name in ["a", "b", "c", "d"] {
        f.made(CRDS, definition(name, many(name))).await;
        let path = format!("{CRDS}/{name}s.example.com");
        let objects = f.get(&format!("/apis/example.com/v1/{name}s")).await;
        let o = f.get(&path).await.json();
        if objects.code == 200 {
            assert_eq!(established(&o), ("True", "InitialNamesAccepted"));
            continue;
        }
        refused += 1;
        assert_eq!(established(&o), ("False", "NotServed"), "{name}");
        assert!(o.to_string().contains("too many different names"));
        // others are none the worse
        let again = f.get(&path).await.json();
        assert_eq!(
            again["metadata"]["resourceVersion"],
            o["metadata"]["resourceVersion"]
        );
    }
    assert!(refused > 0, "the bound was not reached");
    assert_eq!(f.get("/apis/example.com/v1/as").await.code, 200);
}
