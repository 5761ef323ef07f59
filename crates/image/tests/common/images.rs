//! Stores, images and settings for tests.

use knarr_image::{
    Image, ImageStore, LayerOptions,
    client::{ClientConfig, Proxies, PullOptions, PushOptions},
};
use serde_json::json;
use std::{collections::BTreeMap, fs, path::Path, time::Duration};

pub fn store(dir: &Path) -> ImageStore {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test unpacks layers with their owners: run it as root"
    );
    ImageStore::open(dir).unwrap()
}

pub fn config() -> ClientConfig {
    ClientConfig {
        hosts_dirs: vec![],
        credential_files: vec![],
        policies: vec![],
        proxies: Proxies::default(),
        stall_timeout: Duration::from_secs(30),
        ..ClientConfig::default()
    }
}

pub fn pulling() -> PullOptions {
    PullOptions {
        config: config(),
        ..PullOptions::default()
    }
}

pub fn pushing() -> PushOptions {
    PushOptions {
        config: config(),
        ..PushOptions::default()
    }
}

/// An image of `layers` layers, each with a file that doesn't compress.
pub fn make(dir: &Path, store: &ImageStore, name: &str, layers: u32) -> Image {
    make_of(dir, store, name, layers, 400_000)
}

/// As [`make`], with files of so many bytes.
pub fn make_of(dir: &Path, store: &ImageStore, name: &str, layers: u32, bytes: usize) -> Image {
    let mut made = Vec::new();
    for n in 0..layers {
        let upper = dir.join("upper");
        fs::create_dir(&upper).unwrap();
        let mut state = n + 1;
        let noise: Vec<u8> = (0..bytes)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        fs::write(upper.join(format!("file{n}")), noise).unwrap();
        let clamp = LayerOptions {
            clamp_mtime: Some(1),
            ..LayerOptions::default()
        };
        made.push(store.commit_layer(&upper, clamp).unwrap());
    }
    let config = json!({"architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": {"Cmd": ["/file0"]}});
    store
        .put_image(&config, &made, &BTreeMap::new(), Some(name))
        .unwrap()
}
