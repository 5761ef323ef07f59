//! Images of several platforms come and go whole. Needs root: layers keep owners.

#[allow(dead_code)]
mod common;

use common::{
    Registry, digest,
    images::{make_of, pulling, pushing, store},
};
use knarr_image::{
    LayerOptions,
    client::{Platforms, PullOptions, PushOptions, Silent},
};
use serde_json::json;
use std::{collections::BTreeMap, fs};

fn here_and_there() -> (&'static str, &'static str) {
    match cfg!(target_arch = "aarch64") {
        true => ("arm64", "amd64"),
        false => ("amd64", "arm64"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_platforms_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let (registry, second) = (Registry::start().await, Registry::start().await);
    let source = store(&dir.path().join("source"));
    let (here, there) = here_and_there();
    let name = |tag: &str| format!("{}/app:{tag}", registry.host());
    make_of(dir.path(), &source, &name(here), 2, 50_000);
    let upper = dir.path().join("other");
    fs::create_dir(&upper).unwrap();
    fs::write(upper.join("other"), "of another machine").unwrap();
    let layer = source
        .commit_layer(&upper, LayerOptions::default())
        .unwrap();
    let config = json!({"architecture": there, "os": "linux"});
    let to = name(there);
    source
        .put_image(&config, &[layer], &BTreeMap::new(), Some(&to))
        .unwrap();
    let mut manifests = Vec::new();
    for architecture in [here, there] {
        let name = name(architecture);
        let pushed = source
            .push(&name, &name, &pushing(), &Silent)
            .await
            .unwrap();
        manifests.push(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": pushed.digest, "size": pushed.size,
            "platform": {"os": "linux", "architecture": architecture},
        }));
    }
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests});
    let index = serde_json::to_vec(&index).unwrap();
    registry.with(|r| {
        let entry = (kind.to_string(), index.clone().into());
        r.manifests.insert(("app".into(), "1".into()), entry);
    });

    let all = PullOptions {
        platforms: Platforms::All,
        ..pulling()
    };
    let target = store(&dir.path().join("target"));
    let pulled = target.pull(&name("1"), &all, &Silent).await.unwrap();
    assert_eq!(pulled.digest, digest(&index));
    let options = PushOptions {
        all_platforms: true,
        ..pushing()
    };
    let again = format!("{}/copy:1", second.host());
    let pushed = target
        .push(&name("1"), &again, &options, &Silent)
        .await
        .unwrap();
    // what came compressed goes as it came: the index is the same
    assert_eq!(pushed.digest, digest(&index));
    second.with(|r| {
        for one in &manifests {
            let key = (
                "copy".to_string(),
                one["digest"].as_str().unwrap().to_string(),
            );
            assert!(r.manifests.contains_key(&key), "{one}");
        }
    });
    for (platform, want) in [
        (Platforms::Here, here),
        (Platforms::One(format!("linux/{there}")), there),
    ] {
        let options = PullOptions {
            platforms: platform.clone(),
            ..pulling()
        };
        let last = store(&dir.path().join(want));
        let image = last.pull(&again, &options, &Silent).await.unwrap();
        let config = last.raw_config(&image).map(|c| c["architecture"].clone());
        assert_eq!(config.ok(), Some(json!(want)), "{platform:?}");
    }
    // without it, this machine's alone goes
    let third = Registry::start().await;
    let to = format!("{}/app:1", third.host());
    let pushed = target
        .push(&name("1"), &to, &pushing(), &Silent)
        .await
        .unwrap();
    assert_eq!(manifests[0]["digest"], pushed.digest);
    assert_eq!(third.with(|r| r.manifests.len()), 2);
}
