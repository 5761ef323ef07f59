//! Pull and push against a registry that misbehaves. Needs root: layers keep owners.

#[allow(dead_code)]
mod common;

use common::{
    Fault, Registry,
    images::{make, pulling, pushing, store},
};
use knarr_image::client::{Compression, Credential, Event, PushOptions, Silent, Step};
use std::{fs, sync::Mutex, time::Duration};

/// A registry with the image `app:1`, and a folder for stores.
async fn world(layers: u32) -> (tempfile::TempDir, Registry, String) {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start().await;
    let source = store(&dir.path().join("source"));
    let name = format!("{}/app:1", registry.host());
    make(dir.path(), &source, &name, layers);
    source
        .push(&name, &name, &pushing(), &Silent)
        .await
        .unwrap();
    registry.with(|r| r.log.clear());
    (dir, registry, name)
}

fn layer_digest(registry: &Registry, at: usize) -> String {
    registry.with(|r| {
        let (_, bytes) = r
            .manifests
            .iter()
            .find(|((_, tag), _)| tag == "1")
            .unwrap()
            .1;
        let parsed: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        parsed["layers"][at]["digest"].as_str().unwrap().to_string()
    })
}

/// From which bytes on a blob was asked for.
fn begins(registry: &Registry, digest: &str) -> Vec<usize> {
    registry.with(|r| {
        let of = r.begins.iter().filter(|(blob, _)| blob == digest);
        of.map(|(_, from)| *from).collect()
    })
}

/// The second request goes on where the first broke off, after at most so many bytes: a registry that ends takes with it
/// what a slow reader has left.
fn goes_on(begins: &[usize], most: usize) -> bool {
    matches!(begins, [0, from] if (1..=most).contains(from))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_pulled_again() {
    for compression in [Compression::Gzip, Compression::Zstd] {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::start().await;
        let source = store(&dir.path().join("source"));
        let name = format!("{}/team/app:1", registry.host());
        let image = make(dir.path(), &source, &name, 3);
        let options = PushOptions {
            compression,
            chunk_bytes: Some(150_000),
            ..pushing()
        };
        let steps = Mutex::new(Vec::new());
        let watch = |event: Event| {
            if let Event::Blob { step, .. } = event {
                steps.lock().unwrap().push(step);
            }
        };
        let pushed = source.push(&name, &name, &options, &watch).await.unwrap();
        let done = steps
            .lock()
            .unwrap()
            .iter()
            .filter(|s| **s == Step::Done)
            .count();
        assert_eq!(done, 4, "{:?}", steps.lock().unwrap());
        // a second time nothing is sent, and the digest is the same
        let puts = registry.count("PUT", "uploads");
        let again = source.push(&name, &name, &options, &Silent).await.unwrap();
        assert_eq!(again, pushed);
        assert_eq!(registry.count("PUT", "uploads"), puts);

        let target = store(&dir.path().join("target"));
        let pulled = target.pull(&name, &pulling(), &Silent).await.unwrap();
        assert_eq!(pulled.digest, pushed.digest);
        assert_eq!(pulled.id, image.id);
        let found = target.resolve(&name).unwrap().unwrap();
        assert_eq!(found.layers.len(), 3);
        assert!(found.layers[2].join("file0").exists());
        // what we compressed ourselves is made again when asked for, instead of kept
        let layer = registry.with(|r| {
            let key = ("team/app".to_string(), "1".to_string());
            let parsed: serde_json::Value = serde_json::from_slice(&r.manifests[&key].1).unwrap();
            parsed["layers"][0]["digest"].as_str().unwrap().to_string()
        });
        let kept = compression == Compression::Zstd;
        assert!(target.blob(&layer).exists());
        assert_eq!(target.shrink().unwrap() > 0, !kept);
        assert_eq!(target.blob(&layer).exists(), kept);
        let mut blob = target.open_blob(&layer).unwrap().unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut blob.content, &mut bytes).unwrap();
        assert_eq!(common::digest(&bytes), layer);

        // by digest, too, without asking for any blob
        registry.with(|r| r.log.clear());
        let by_digest = format!("{}/team/app@{}", registry.host(), pushed.digest);
        target.pull(&by_digest, &pulling(), &Silent).await.unwrap();
        assert_eq!(registry.count("GET", "blobs"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_another_repository_is_not_sent_again() {
    let (dir, registry, name) = world(2).await;
    let source = store(&dir.path().join("source"));
    let other = format!("{}/other:1", registry.host());
    source
        .push(&name, &other, &pushing(), &Silent)
        .await
        .unwrap();
    assert_eq!(
        registry.count("PUT", "other/blobs/uploads"),
        0,
        "{:?}",
        registry.with(|r| r.log.clone())
    );
    assert_eq!(registry.count("PUT", "other/manifests"), 1);
    // what was pulled is known to be there as well
    let target = store(&dir.path().join("target"));
    target.pull(&name, &pulling(), &Silent).await.unwrap();
    let third = format!("{}/third:1", registry.host());
    target
        .push(&name, &third, &pushing(), &Silent)
        .await
        .unwrap();
    assert_eq!(registry.count("PUT", "third/blobs/uploads"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_where_it_broke_off() {
    for (case, fault, broken) in [
        ("it closes", Fault::Half(150_000), Some(150_000)),
        ("it stalls", Fault::Stall(150_000), Some(150_000)),
        ("it fails", Fault::Status(500), None),
        ("it is busy", Fault::Status(429), None),
    ] {
        // each a registry of its own: a request that was given up may be late
        let (dir, registry, name) = world(1).await;
        let layer = layer_digest(&registry, 0);
        let target = store(&dir.path().join("target"));
        registry.fault(&layer, fault.clone());
        let mut options = pulling();
        if matches!(fault, Fault::Stall(_)) {
            options.config.stall_timeout = Duration::from_secs(8);
        }
        target.pull(&name, &options, &Silent).await.unwrap();
        let begun = begins(&registry, &layer);
        match broken {
            Some(most) => assert!(goes_on(&begun, most), "{case}: {begun:?}"),
            None => assert_eq!(begun, [0], "{case}"),
        }
        assert!(target.resolve(&name).unwrap().is_some(), "{case}");
    }
    // a registry without ranges begins again
    let (dir, registry, name) = world(1).await;
    let layer = layer_digest(&registry, 0);
    let target = store(&dir.path().join("target"));
    registry.with(|r| r.no_ranges = true);
    registry.fault(&layer, Fault::Half(150_000));
    target.pull(&name, &pulling(), &Silent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_pull_goes_on_with_what_an_earlier_one_left() {
    let (dir, registry, name) = world(1).await;
    let layer = layer_digest(&registry, 0);
    let target = store(&dir.path().join("target"));
    let mut options = pulling();
    options.config.attempts = 1;
    registry.fault(&layer, Fault::Half(300_000));
    let error = target.pull(&name, &options, &Silent).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(target.resolve(&name).unwrap().is_none());
    target.pull(&name, &options, &Silent).await.unwrap();
    let begun = begins(&registry, &layer);
    assert!(goes_on(&begun, 300_000), "{begun:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_are_told_and_nothing_is_kept_of_them() {
    let (dir, registry, name) = world(1).await;
    let layer = layer_digest(&registry, 0);
    let size = registry.with(|r| r.blobs[&layer].len());
    let check = async |case: &str, path: &str, fault: Fault, want: &str| {
        let target = store(&dir.path().join(case));
        registry.with(|r| r.faults.clear());
        for _ in 0..6 {
            registry.fault(path, fault.clone());
        }
        let mut options = pulling();
        options.config.attempts = 2;
        let error = target
            .pull(&name, &options, &Silent)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(want), "{case}: {error}");
        assert!(target.list().unwrap().is_empty(), "{case}");
        assert!(!target.has_blob(&layer), "{case}");
        // and the next try isn't spoilt
        registry.with(|r| r.faults.clear());
        target.pull(&name, &options, &Silent).await.unwrap();
    };
    check(
        "other bytes",
        &layer,
        Fault::Lie(vec![1; size]),
        "has content with digest",
    )
    .await;
    check(
        "too many bytes",
        &layer,
        Fault::Lie(vec![1; size + 1]),
        "more than",
    )
    .await;
    check(
        "too few bytes",
        &layer,
        Fault::Lie(vec![1; 10]),
        "ended after",
    )
    .await;
    check(
        "no manifest",
        "manifests",
        Fault::Lie(b"<html>".to_vec()),
        "no manifest",
    )
    .await;
    check("refused", "manifests", Fault::Status(400), "told to fail").await;
    check("traversal", "manifests", Fault::Lie(
        br#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:../../../etc/passwd","size":2},"layers":[]}"#.to_vec()),
        "no sha256 digest").await;
    let missing = format!("{}/none:1", registry.host());
    let target = store(&dir.path().join("missing"));
    let error = target
        .pull(&missing, &pulling(), &Silent)
        .await
        .unwrap_err();
    assert!(
        matches!(error, knarr_image::client::Error::NotFound { .. }),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_are_tried_in_order() {
    let (dir, registry, name) = world(1).await;
    registry.with(|r| r.login = Some(("ann".into(), "right".into())));
    let login = |password: &str| Credential {
        username: "ann".into(),
        password: password.into(),
        ..Credential::default()
    };
    let target = store(&dir.path().join("target"));
    let mut options = pulling();
    for wrong in [vec![], vec![login("wrong")]] {
        options.credentials = wrong;
        let error = target.pull(&name, &options, &Silent).await.unwrap_err();
        assert!(
            matches!(error, knarr_image::client::Error::Denied { .. }),
            "{error}"
        );
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
    options.credentials = vec![login("wrong"), login("right")];
    target.pull(&name, &options, &Silent).await.unwrap();

    let file = dir.path().join("config.json");
    knarr_image::client::store_login(&file, &registry.host(), &login("right")).unwrap();
    options.credentials = vec![];
    options.config.credential_files = vec![file];
    let target = store(&dir.path().join("by file"));
    target.pull(&name, &options, &Silent).await.unwrap();
    let check = |password: &str| {
        knarr_image::client::check_login(
            &options.config,
            &name[..name.find('/').unwrap()],
            login(password),
        )
    };
    let host = registry.host();
    assert!(
        knarr_image::client::check_login(&options.config, &host, login("right"))
            .await
            .is_ok()
    );
    assert!(check("wrong").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_come_first_and_the_registry_stays_behind_them() {
    let (dir, registry, _) = world(1).await;
    let hosts = dir.path().join("hosts");
    fs::create_dir_all(hosts.join("images.example")).unwrap();
    let text = format!(
        "server = \"http://{0}\"\n[host.\"http://127.0.0.1:1\"]\n[host.\"http://{0}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        registry.host()
    );
    fs::write(hosts.join("images.example/hosts.toml"), text).unwrap();
    let mut options = pulling();
    options.config.hosts_dirs = vec![hosts];
    let target = store(&dir.path().join("target"));
    let image = target
        .pull("images.example/app:1", &options, &Silent)
        .await
        .unwrap();
    assert_eq!(image.name, "images.example/app:1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_about_an_image_goes_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start().await;
    let source = store(&dir.path().join("source"));
    let name = format!("{}/team/told:1", registry.host());
    let image = make(dir.path(), &source, &name, 1);
    let put = |value: &serde_json::Value| {
        let bytes = serde_json::to_vec(value).unwrap();
        (source.put_bytes(&bytes).unwrap(), bytes.len())
    };
    let (statement, statement_size) = put(&serde_json::json!({"predicateType": "x"}));
    let (config, config_size) = put(&serde_json::json!({
        "architecture": "unknown", "os": "unknown", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [statement]},
    }));
    let (told, told_size) = put(&serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
        "layers": [{
            "mediaType": "application/vnd.in-toto+json", "digest": statement, "size": statement_size,
            "annotations": {"in-toto.io/predicate-type": "x"},
        }],
    }));
    let manifest = source.read_blob(&image.manifest).unwrap();
    let (index, _) = put(&serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.manifest,
             "size": manifest.len(), "platform": {"os": "linux", "architecture": "amd64"}},
            {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": told, "size": told_size,
             "platform": {"os": "unknown", "architecture": "unknown"}},
        ],
    }));
    source.tag(&name, &index).unwrap();
    let options = PushOptions {
        all_platforms: true,
        ..pushing()
    };
    source.push(&name, &name, &options, &Silent).await.unwrap();
    let there = registry.with(|r| {
        r.manifests[&("team/told".to_string(), told.clone())]
            .1
            .clone()
    });
    assert_eq!(common::digest(&there), told);
}
