//! Secrets on disk: nothing of them can be read there, and all of it through the API.

mod common;

use common::*;
use knarr_api::{ApiServer, Config};
use serde_json::json;
use std::path::Path;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn server(dir: tempfile::TempDir) -> (Fixture, knarr_store::Store) {
    let config = Config::for_tests(dir.path());
    let store = config.store.clone();
    let api = ApiServer::new(config).unwrap();
    let client = api.client("admin", &["system:masters"], "tester/1.0");
    (Fixture { api, client, dir }, store)
}

/// Files below the folder that hold this text.
fn found(dir: &Path, text: &str) -> Vec<std::path::PathBuf> {
    loop {
        match look(dir, text) {
            Ok(all) => return all,
            // files get other names while the store is open: only a look at all of them counts
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => panic!("{e}"),
        }
    }
}

fn look(dir: &Path, text: &str) -> std::io::Result<Vec<std::path::PathBuf>> {
    let mut all = vec![];
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            all.extend(look(&path, text)?);
        } else if std::fs::read(&path)?
            .windows(text.len())
            .any(|w| w == text.as_bytes())
        {
            all.push(path);
        }
    }
    Ok(all)
}

#[tokio::test]
async fn secrets_are_not_in_the_data_directory() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let (f, store) = server(tempfile::tempdir().unwrap());
    let texts = [
        "correct-horse-battery-staple",
        "another-pass-phrase-entirely",
    ];
    let coded = texts.map(|t| STANDARD.encode(t));
    let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
        "stringData": {"one": texts[0]}, "data": {"two": coded[1]}});
    f.made(SECRETS, body).await;
    f.made(
        CONFIGMAPS,
        configmap("m", json!({"k": "a-text-for-everybody"})),
    )
    .await;
    let path = format!("{SECRETS}/s");
    f.patch(&path, "merge-patch", r#"{"metadata":{"labels":{"a":"b"}}}"#)
        .await;
    let second = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "gone"}, "data": {"two": coded[1]}});
    f.made(SECRETS, second).await;
    f.delete(&format!("{SECRETS}/gone"), json!({})).await;
    let check = |when: &str, dir: &Path| {
        for text in texts.iter().map(|t| t.to_string()).chain(coded.clone()) {
            assert_eq!(
                found(dir, &text),
                Vec::<std::path::PathBuf>::new(),
                "{when}: {text}"
            );
        }
        assert!(!found(dir, "a-text-for-everybody").is_empty(), "{when}");
    };
    check("in the log", f.dir.path());
    store.close().await;
    check("in the snapshot", f.dir.path());
    let (f, _store) = server(f.dir);
    let read = f.get(&path).await.json();
    assert_eq!(read["data"], json!({"one": coded[0], "two": coded[1]}));
    assert_eq!(read["metadata"]["labels"]["a"], "b");
    check("after a restart", f.dir.path());
}
