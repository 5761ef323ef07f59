//! Whoever pushes or pulls is killed in the middle: the next try goes on with what is whole. Needs root.

#[allow(dead_code)]
mod common;

use common::{
    Fault, Registry,
    images::{config, make_of, store},
};
use knarr_image::{
    ImageStore,
    client::{ClientConfig, Event, PullOptions, PushOptions, Silent, Step},
};
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

const STORE: &str = "KNARR_TEST_RESUMED_STORE";
const NAME: &str = "KNARR_TEST_RESUMED_NAME";
const PUSHES: &str = "KNARR_TEST_RESUMED_PUSHES";
const LAYERS: u32 = 3;
const BYTES: usize = 3 << 20;

/// One blob after the other, so that it is known which are whole.
fn in_order() -> ClientConfig {
    ClientConfig {
        parallel: 1,
        ..config()
    }
}

/// What is killed: it pushes or pulls, and tells each step.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let (Some(dir), Ok(name)) = (std::env::var_os(STORE), std::env::var(NAME)) else {
        return;
    };
    let store = ImageStore::open(Path::new(&dir)).unwrap();
    let tell = |event: Event| {
        if let Event::Blob { digest, step } = event {
            println!("step {digest} {step:?}");
        }
    };
    if std::env::var_os(PUSHES).is_some() {
        let options = PushOptions {
            config: in_order(),
            ..PushOptions::default()
        };
        store.push("app:1", &name, &options, &tell).await.unwrap();
    } else {
        let options = PullOptions {
            config: in_order(),
            ..PullOptions::default()
        };
        store.pull(&name, &options, &tell).await.unwrap();
    }
    println!("all of it");
}

/// Runs the child until it has said these steps in their order, and kills it.
fn killed_after(dir: &Path, name: &str, pushes: bool, steps: &[&str]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--nocapture"])
        .env(STORE, dir)
        .env(NAME, name)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if pushes {
        command.env(PUSHES, "1");
    }
    let mut child: Child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = lines
        .map(Result::unwrap)
        .inspect(|line| assert!(!line.contains("all of it"), "it ended by itself"));
    for step in steps {
        let said = lines.any(|line| line.starts_with("step") && line.contains(step));
        assert!(said, "the child ended before {step}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The digests of the image's config and layers, in the order in which they are pulled one after the other.
fn parts(registry: &Registry) -> Vec<String> {
    let key = ("app".to_string(), "1".to_string());
    let manifest: serde_json::Value =
        registry.with(|r| serde_json::from_slice(&r.manifests[&key].1).unwrap());
    let layers = manifest["layers"].as_array().unwrap().iter();
    let all = [&manifest["config"]].into_iter().chain(layers);
    all.map(|part| part["digest"].as_str().unwrap().to_string())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_goes_on_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start().await;
    let source = dir.path().join("source");
    let name = format!("{}/app:1", registry.host());
    let image = make_of(dir.path(), &store(&source), "app:1", LAYERS, BYTES);
    registry.fault_nth("PATCH", 2, Fault::Deaf(1 << 20));
    let child = {
        let (source, name) = (source.clone(), name.clone());
        let steps = ["Done", "Done", "Transferring"];
        tokio::task::spawn_blocking(move || killed_after(&source, &name, true, &steps))
    };
    child.await.unwrap();
    let before = registry.with(|r| r.blobs.len());
    assert_eq!(before, 2, "layers that are whole");
    registry.with(|r| {
        r.log.clear();
        r.nth.clear();
    });
    let options = PushOptions {
        config: in_order(),
        ..PushOptions::default()
    };
    let again = store(&source);
    again.push("app:1", &name, &options, &Silent).await.unwrap();
    // the layer that wasn't whole, and the config
    assert_eq!(registry.count("POST", "/blobs/uploads/"), 2);
    let target = store(&dir.path().join("target"));
    let options = PullOptions {
        config: config(),
        ..PullOptions::default()
    };
    let pulled = target.pull(&name, &options, &Silent).await.unwrap();
    assert_eq!(pulled.id, image.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_on_after_a_kill_while_it_unpacks() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start().await;
    let source = store(&dir.path().join("source"));
    let name = format!("{}/app:1", registry.host());
    let image = make_of(dir.path(), &source, &name, LAYERS, BYTES);
    let options = PushOptions {
        config: config(),
        ..PushOptions::default()
    };
    source.push(&name, &name, &options, &Silent).await.unwrap();
    let target = dir.path().join("target");
    let done = {
        let (target, name) = (target.clone(), name.clone());
        // it has begun to unpack the second layer
        let steps = ["Working", "Working"];
        tokio::task::spawn_blocking(move || killed_after(&target, &name, false, &steps))
    };
    done.await.unwrap();
    // it may have begun to bring the third one, too
    let whole = parts(&registry)[..3].to_vec();
    let steps = std::sync::Mutex::new(Vec::new());
    let watch = |event: Event| {
        if let Event::Blob { digest, step } = event {
            steps.lock().unwrap().push((digest, step));
        }
    };
    let options = PullOptions {
        config: in_order(),
        ..PullOptions::default()
    };
    let pulled = store(&target).pull(&name, &options, &watch).await.unwrap();
    assert_eq!(pulled.id, image.id);
    // what was whole didn't come twice
    for part in whole {
        let times = registry.with(|r| r.begins.iter().filter(|(b, _)| *b == part).count());
        assert_eq!(times, 1, "{part}");
    }
    let exist = steps
        .lock()
        .unwrap()
        .iter()
        .filter(|(_, s)| *s == Step::Exists)
        .count();
    assert!(exist >= 2, "{:?}", steps.lock().unwrap());
    // and what is there is right
    for layer in store(&target).layer_infos(&pulled).unwrap() {
        let mut bytes = Vec::new();
        let mut blob = store(&target).open_blob(&layer.diff_id).unwrap().unwrap();
        std::io::Read::read_to_end(&mut blob.content, &mut bytes).unwrap();
        assert_eq!(common::digest(&bytes), layer.diff_id);
    }
}
