//! Whoever works on a store is killed in the middle, again and again: what has a name is whole each time. Needs root.

#[allow(dead_code)]
mod common;

use common::Registry;
use knarr_image::{
    ImageStore, LayerOptions,
    client::{ClientConfig, PullOptions, PushOptions, Silent},
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

const STORE: &str = "KNARR_TEST_KILLED_STORE";
const HOST: &str = "KNARR_TEST_KILLED_HOST";

fn config() -> ClientConfig {
    ClientConfig {
        hosts_dirs: vec![],
        credential_files: vec![],
        ..ClientConfig::default()
    }
}

fn commit(dir: &Path, store: &ImageStore, name: &str, seed: u64) {
    let upper = dir.join(format!("upper{seed}"));
    fs::create_dir_all(upper.join("etc")).unwrap();
    for n in 0..12 {
        let text = format!("{n} {}", seed % 3).repeat(3000);
        fs::write(upper.join(format!("etc/f{n}")), text).unwrap();
    }
    fs::write(upper.join("own"), seed.to_string()).unwrap();
    let layer = store.commit_layer(&upper, LayerOptions::default()).unwrap();
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let config = json!({"architecture": architecture, "os": "linux"});
    store
        .put_image(&config, &[layer], &BTreeMap::new(), Some(name))
        .unwrap();
}

/// What is killed: it commits, pulls and collects until then.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let (Some(dir), Ok(host)) = (std::env::var_os(STORE), std::env::var(HOST)) else {
        return;
    };
    let dir = Path::new(&dir);
    let options = PullOptions {
        config: config(),
        ..PullOptions::default()
    };
    for seed in 0.. {
        println!("begins {seed}");
        let store = ImageStore::open(&dir.join("images")).unwrap();
        let seed = seed + u64::from(std::process::id()) * 1000;
        commit(dir, &store, &format!("made:{}", seed % 5), seed);
        let name = format!("{host}/app:1");
        store.pull(&name, &options, &Silent).await.unwrap();
        store.untag(&name).unwrap();
        store.collect(&[]).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_name_is_whole_after_each_kill() {
    assert!(
        rustix::process::geteuid().is_root(),
        "layers keep owners: run it as root"
    );
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start().await;
    let source = ImageStore::open(&dir.path().join("source")).unwrap();
    let name = format!("{}/app:1", registry.host());
    commit(dir.path(), &source, &name, 7);
    let push = PushOptions {
        config: config(),
        ..PushOptions::default()
    };
    source.push(&name, &name, &push, &Silent).await.unwrap();
    let images = dir.path().join("images");
    let mut seen = 0;
    for round in 0..6u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(STORE, dir.path())
            .env(HOST, registry.host())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // the harness prints its own first; once around, so that something has a name
        let wanted = format!("begins {}", 1 + round % 2);
        assert!(
            lines.any(|l| l.unwrap().contains(&wanted)),
            "the child ended by itself"
        );
        tokio::time::sleep(Duration::from_millis(20 + round * round * 7 % 400)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let store = ImageStore::open(&images).unwrap();
        for image in store.list().unwrap() {
            for layer in store.layer_infos(&image).unwrap() {
                let mut bytes = Vec::new();
                let mut blob = store.open_blob(&layer.digest).unwrap().unwrap();
                blob.content.read_to_end(&mut bytes).unwrap();
                assert_eq!(common::digest(&bytes), layer.digest, "{}", image.name);
                seen += 1;
            }
        }
        assert_eq!(fs::read_dir(images.join("tmp")).unwrap().count(), 0);
        for left in fs::read_dir(dir.path()).unwrap().flatten() {
            if left.file_name().to_string_lossy().starts_with("upper") {
                fs::remove_dir_all(left.path()).unwrap();
            }
        }
    }
    assert!(seen >= 6, "{seen}");
    // and without names nothing is left
    let store = ImageStore::open(&images).unwrap();
    for image in store.list().unwrap() {
        store.untag(&image.name).unwrap();
    }
    store.collect(&[]).unwrap();
    for folder in [
        "layers",
        "recipes",
        "blobs/sha256",
        "sources",
        "made",
        "leases",
    ] {
        let left = fs::read_dir(images.join(folder)).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{folder}");
    }
}
