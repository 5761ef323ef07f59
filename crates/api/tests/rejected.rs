//! What a real kube-apiserver v1.36 said of some hundred bad or doubtful objects (`data/rejected.jsonl`) and of changes to
//! good ones (`data/changes.jsonl`), asked of ours: messages in its words, places and order, and warnings.

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

async fn with_a_namespace() -> common::Fixture {
    let f = common::builtin();
    let namespaces = "/api/v1/namespaces";
    f.made(namespaces, json!({"metadata": {"name": "t"}})).await;
    let accounts = format!("{namespaces}/t/serviceaccounts");
    f.made(&accounts, json!({"metadata": {"name": "default"}}))
        .await;
    f
}

#[tokio::test]
async fn bad_objects_are_refused_in_upstreams_words() {
    let f = with_a_namespace().await;
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

#[derive(Deserialize)]
struct Change {
    case: String,
    path: String,
    old: Value,
    new: Value,
    message: String,
}

#[tokio::test]
async fn bad_changes_are_refused_in_upstreams_words() {
    let f = with_a_namespace().await;
    let mut wrong = Vec::new();
    let mut made = String::new();
    for line in include_str!("data/changes.jsonl").lines() {
        let mut c: Change = serde_json::from_str(line).unwrap();
        let name = c.old["metadata"]["name"].as_str().unwrap().to_owned();
        let path = format!("{}/{name}", c.path);
        if made != path {
            f.made(&c.path, c.old).await;
            made.clone_from(&path);
        }
        let mut a;
        let mut tries = 0..20;
        // somebody may write in between: a policy's types are checked as soon as it is made
        loop {
            let live = f.get(&path).await.json();
            c.new["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
            a = f.put(&format!("{path}?dryRun=All"), c.new.clone()).await;
            if a.code != 409 || tries.next().is_none() {
                break;
            }
        }
        let told = a.json()["message"].as_str().unwrap_or("").to_owned();
        if a.code != 422 || told != c.message {
            let (case, want) = (c.case, c.message);
            wrong.push(format!("{case}\n  want {want}\n  got  {} {told}", a.code));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
