//! Images, and archives of them.

use super::{Daemon, filters};
use serde_json::{Value, json};

#[tokio::test]
async fn images_are_listed_tagged_and_removed() {
    let daemon = Daemon::start().await;
    let (status, _, _) = daemon
        .ask("POST /images/tiny:1/tag?repo=host/other&tag=2", "")
        .await;
    assert_eq!(status, 201);
    let (_, _, text) = daemon.ask("GET /images/json", "").await;
    let list: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(list.len(), 1, "one image of two names");
    assert_eq!(list[0]["RepoTags"].as_array().unwrap().len(), 2);
    let (status, _, text) = daemon.ask("GET /images/host/other:2/json", "").await;
    assert_eq!(status, 200, "{text}");
    let (status, _, text) = daemon.ask("DELETE /images/host/other:2", "").await;
    assert_eq!(
        (status, text.contains("Deleted")),
        (200, false),
        "the other name stays: {text}"
    );
    let (status, _, text) = daemon.ask("DELETE /images/tiny:1", "").await;
    assert_eq!((status, text.contains("Deleted")), (200, true), "{text}");
}

#[tokio::test]
async fn several_images_are_one_archive_and_names_are_filtered() {
    let daemon = Daemon::start().await;
    for (repo, tag) in [("host/other", "2"), ("tiny", "3")] {
        let line = format!("POST /images/tiny:1/tag?repo={repo}&tag={tag}");
        assert_eq!(daemon.ask(&line, "").await.0, 201);
    }
    let check = |pattern: &'static str, wanted: &'static [&'static str]| {
        let daemon = &daemon;
        async move {
            let line = filters(&json!({ "reference": [pattern] }).to_string());
            let (_, _, text) = daemon.ask(&format!("GET /images/json?{line}"), "").await;
            let list: Vec<Value> = serde_json::from_str(&text).unwrap();
            let tags = list.iter().flat_map(|i| i["RepoTags"].as_array().unwrap());
            let mut tags: Vec<&str> = tags.filter_map(Value::as_str).collect();
            tags.sort_unstable();
            assert_eq!(tags, wanted, "{pattern}");
        }
    };
    check("tiny", &["tiny:1", "tiny:3"]).await;
    check("*:3", &["tiny:3"]).await;
    check("host/*", &["host/other:2"]).await;
    check("other", &[]).await;
    let saved = |query: &'static str| {
        let daemon = &daemon;
        async move {
            let (status, _, text) = daemon.ask(&format!("GET /images/get?{query}"), "").await;
            assert_eq!(status, 200, "{query}");
            let at = text.find("[{\"Config\"").expect("a manifest.json");
            let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
            let entries = values.next().unwrap().unwrap();
            let tags = entries.as_array().unwrap().iter();
            let tags = tags.flat_map(|e| e["RepoTags"].as_array().unwrap().clone());
            let mut tags: Vec<String> = tags.map(|t| t.as_str().unwrap().into()).collect();
            tags.sort();
            tags
        }
    };
    assert_eq!(saved("names=tiny").await, ["tiny:1", "tiny:3"]);
    let both = saved("names=tiny%3A3&names=host/other%3A2&names=tiny%3A3").await;
    assert_eq!(both, ["host/other:2", "tiny:3"]);
    // a repository with a digest is all of its names, and none of another's
    let (_, _, text) = daemon.ask("GET /images/tiny:1/json", "").await;
    let shown: Value = serde_json::from_str(&text).unwrap();
    let digests = shown["RepoDigests"].as_array().unwrap().iter();
    let tiny = digests
        .filter_map(Value::as_str)
        .find(|d| d.starts_with("tiny@"));
    let line = format!("DELETE /images/{}", tiny.unwrap());
    let (status, _, text) = daemon.ask(&line, "").await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(daemon.ask("GET /images/tiny:1/json", "").await.0, 404);
    assert_eq!(daemon.ask("GET /images/host/other:2/json", "").await.0, 200);
}
