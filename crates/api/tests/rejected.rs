//! What a real kube-apiserver v1.36 said of some hundred bad or doubtful objects (`data/rejected.jsonl`), asked of ours:
//! messages in its words, places and order, and warnings.

mod common;

use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Case {
    case: String,
    path: String,
    object: Value,
    /// Empty: the object is taken.
    message: String,
    warnings: Vec<String>,
}

#[tokio::test]
async fn bad_objects_are_refused_in_upstreams_words() {
    let f = common::builtin();
    let namespaces = "/api/v1/namespaces";
    f.made(namespaces, json!({"metadata": {"name": "t"}})).await;
    let accounts = format!("{namespaces}/t/serviceaccounts");
    f.made(&accounts, json!({"metadata": {"name": "default"}}))
        .await;
    let mut wrong = Vec::new();
    for line in include_str!("data/rejected.jsonl").lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        let path = format!("{}?dryRun=All", case.path);
        let answer = f.post(&path, case.object).await;
        let refused = answer.code >= 400;
        let message = match refused {
            true => answer.json()["message"].as_str().unwrap().to_string(),
            false => String::new(),
        };
        let told = |w: &String| w["299 - \"".len()..w.len() - 1].replace("\\\"", "\"");
        let mut warnings: Vec<String> = answer.warnings().iter().map(told).collect();
        warnings.sort();
        let mut want = case.warnings;
        want.sort();
        if message != case.message || warnings != want {
            wrong.push(format!(
                "{}\n  want {:?} {want:?}\n  got  {message:?} {warnings:?}",
                case.case, case.message
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
