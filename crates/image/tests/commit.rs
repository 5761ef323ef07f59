//! Folders that become layers, and their tars as they are written anew. Needs root: owners, devices, trusted attributes.

use knarr_image::{ImageStore, LayerOptions};
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

fn store() -> (tempfile::TempDir, ImageStore) {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test makes devices and owners: run it as root"
    );
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&dir.path().join("images")).unwrap();
    (dir, store)
}

fn set_mtime(path: &Path, seconds: i64) {
    let time = rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: 500,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags).unwrap();
}

fn device(path: &Path, major: u32, minor: u32) {
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o600),
        rustix::fs::makedev(major, minor),
    )
    .unwrap();
}

/// One of everything that an overlay's upper folder may hold.
fn fill(upper: &Path) {
    fs::create_dir_all(upper.join("etc/opaque")).unwrap();
    fs::write(upper.join("etc/conf"), "one\n").unwrap();
    fs::hard_link(upper.join("etc/conf"), upper.join("etc/zz-other-name")).unwrap();
    fs::write(upper.join("etc/copy"), "one\n").unwrap();
    fs::write(upper.join("etc/empty"), "").unwrap();
    symlink("/etc/conf", upper.join("etc/link")).unwrap();
    device(&upper.join("etc/gone"), 0, 0);
    device(&upper.join("null"), 1, 3);
    let opaque = upper.join("etc/opaque");
    let none = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&opaque, "trusted.overlay.opaque", b"y", none).unwrap();
    rustix::fs::setxattr(&opaque, "trusted.overlay.origin", b"\x01", none).unwrap();
    rustix::fs::setxattr(upper.join("etc/copy"), "user.note", b"a\0b", none).unwrap();
    let long = "d".repeat(120);
    fs::create_dir(upper.join(&long)).unwrap();
    fs::write(upper.join(&long).join("ü".repeat(60)), vec![7u8; 70_000]).unwrap();
    fs::write(upper.join("tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(upper.join("tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    std::os::unix::fs::chown(upper.join("etc/empty"), Some(3_000_000), Some(5)).unwrap();
    let mut all = vec![];
    let mut rest = vec![upper.to_path_buf()];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                rest.push(entry.path());
            }
            all.push(entry.path());
        }
    }
    for path in all {
        set_mtime(&path, 1_700_000_000);
    }
}

fn tar_of(store: &ImageStore, digest: &str) -> Vec<u8> {
    let mut blob = store.open_blob(digest).unwrap().unwrap();
    let mut bytes = Vec::new();
    blob.content.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, blob.size);
    // from anywhere
    for at in [700, 513, bytes.len() - 3] {
        blob.content.seek(SeekFrom::Start(at as u64)).unwrap();
        let mut rest = Vec::new();
        blob.content.read_to_end(&mut rest).unwrap();
        assert!(rest == bytes[at..], "{at}");
    }
    bytes
}

#[test]
fn a_folder_becomes_a_layer_whose_tar_is_written_anew() {
    let (dir, store) = store();
    let upper = dir.path().join("upper");
    fill(&upper);
    let layer = store.commit_layer(&upper, LayerOptions::default()).unwrap();
    assert!(!upper.exists());
    let tar = tar_of(&store, &layer.digest);
    assert_eq!(layer.digest, layer.diff_id);
    assert_eq!(tar.len() as u64, layer.size_bytes);
    use sha2::{Digest, Sha256};
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&tar)));
    assert_eq!(digest, layer.digest);
    assert!(!store.blob(&layer.digest).exists());

    // what another program reads in it
    let list = |args: &[&str]| {
        let file = dir.path().join("layer.tar");
        fs::write(&file, &tar).unwrap();
        let out = std::process::Command::new("tar")
            .args(args)
            .arg(&file)
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    let listed = list(&["--numeric-owner", "--quoting-style=literal", "-tvf"]);
    let has = |what: &str| {
        let words: Vec<&str> = what.split(' ').collect();
        let found = listed.lines().any(|line| {
            let line: Vec<&str> = line.split_whitespace().collect();
            words.iter().all(|w| line.contains(w))
        });
        assert!(found, "{what} is not in\n{listed}");
    };
    has("-rw-r--r-- 3000000/5 0 etc/empty");
    has("-rwsr-xr-x 0/0 10 tool");
    has("crw------- 1,3 null");
    has("etc/zz-other-name link to etc/conf");
    has("etc/link -> /etc/conf");
    has("etc/.wh.gone");
    has("etc/opaque/.wh..wh..opq");
    has(&format!("70000 {}/{}", "d".repeat(120), "ü".repeat(60)));
    assert!(!listed.contains("overlay"));

    let notes = list(&["--xattrs", "--xattrs-include=*", "-tvvf"]);
    assert!(notes.contains("user.note"), "{notes}");

    // the folder serves as an overlay's lower one
    let root = store.layer(&layer.diff_id);
    let meta = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!(meta("etc/conf").ino(), meta("etc/zz-other-name").ino());
    assert_ne!(meta("etc/conf").ino(), meta("etc/copy").ino());
    assert_eq!(meta("etc").mtime(), 1_700_000_000);
    assert_eq!(meta("etc/gone").rdev(), 0);
}

#[test]
fn the_same_content_is_the_same_layer_and_shares_its_files() {
    let (dir, store) = store();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    fill(&a);
    fill(&b);
    let one = store.commit_layer(&a, LayerOptions::default()).unwrap();
    let two = store.commit_layer(&b, LayerOptions::default()).unwrap();
    assert_eq!(one, two);
    // another layer with some of the same files
    let c = dir.path().join("c");
    fill(&c);
    fs::write(c.join("new"), "new").unwrap();
    let three = store.commit_layer(&c, LayerOptions::default()).unwrap();
    assert_ne!(three.diff_id, one.diff_id);
    let ino =
        |diff_id: &str, name: &str| fs::metadata(store.layer(diff_id).join(name)).unwrap().ino();
    for name in ["etc/conf", "etc/zz-other-name", "etc/copy", "tool"] {
        assert_eq!(ino(&one.diff_id, name), ino(&three.diff_id, name), "{name}");
    }
    assert_eq!(tar_of(&store, &three.digest).len() as u64, three.size_bytes);
    assert_eq!(tar_of(&store, &one.digest).len() as u64, one.size_bytes);
}

#[test]
fn options_change_what_they_say() {
    let (dir, store) = store();
    let commit = |name: &str, later: i64, options: LayerOptions| {
        let upper = dir.path().join(name);
        fill(&upper);
        set_mtime(&upper.join("tool"), later);
        store.commit_layer(&upper, options).unwrap()
    };
    let clamp = LayerOptions {
        clamp_mtime: Some(1_000_000_000),
        rewrite_owner: None,
    };
    let a = commit("a", 1_800_000_000, clamp.clone());
    let b = commit("b", 1_900_000_000, clamp);
    assert_eq!(a, b);
    let owner = LayerOptions {
        clamp_mtime: None,
        rewrite_owner: Some((7, 8)),
    };
    let c = commit("c", 1_800_000_000, owner);
    let meta = fs::metadata(store.layer(&c.diff_id).join("etc/empty")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (7, 8));
}

#[test]
fn an_image_of_layers_keeps_its_whole_configuration() {
    let (dir, store) = store();
    let upper = dir.path().join("upper");
    fill(&upper);
    let layer = store.commit_layer(&upper, LayerOptions::default()).unwrap();
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z",
        "config": {
            "Cmd": ["/tool"], "Shell": ["/bin/sh", "-ec"], "StopTimeout": 3, "OnBuild": ["RUN x"],
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5_000_000_000_u64, "Retries": 4}
        },
        "history": [{"created_by": "COPY . .", "comment": "kept"}],
        "strange": {"kept": true}
    });
    let notes = BTreeMap::from([("org.example".to_string(), "x".to_string())]);
    let image = store
        .put_image(
            &config,
            std::slice::from_ref(&layer),
            &notes,
            Some("made:1"),
        )
        .unwrap();
    assert_eq!(image.name, "docker.io/library/made:1");
    let raw = store.raw_config(&image).unwrap();
    assert_eq!(raw["strange"], config["strange"]);
    assert_eq!(raw["history"], config["history"]);
    assert_eq!(raw["rootfs"]["diff_ids"], json!([layer.diff_id]));
    assert_eq!(
        store.raw_manifest(&image).unwrap()["annotations"]["org.example"],
        "x"
    );
    let health = image.config.healthcheck.clone().unwrap();
    assert_eq!((health.interval_ns, health.retries), (5_000_000_000, 4));
    assert_eq!(image.config.shell, ["/bin/sh", "-ec"]);
    assert_eq!(image.config.stop_timeout_s, Some(3));
    assert_eq!(image.config.on_build, ["RUN x"]);
    assert_eq!(store.layer_infos(&image).unwrap(), [layer]);

    // and passes through an archive
    let archive = dir.path().join("made.tar");
    store.save("made:1", &archive).unwrap();
    let other = ImageStore::open(&dir.path().join("other")).unwrap();
    let loaded = other.load(&archive, None).unwrap().remove(0);
    assert_eq!(loaded.digest, image.digest);
    assert_eq!(other.raw_config(&loaded).unwrap(), raw);
}

#[test]
fn what_is_leased_or_kept_is_no_garbage() {
    let (dir, store) = store();
    let commit = |store: &ImageStore, text: &str| {
        let upper = dir.path().join("upper");
        fs::create_dir(&upper).unwrap();
        fs::write(upper.join("file"), text).unwrap();
        store.commit_layer(&upper, LayerOptions::default()).unwrap()
    };
    let leased = store.leased().unwrap();
    let a = commit(&leased, "a");
    let b = commit(&store, "b");
    let c = commit(&store, "c");
    store
        .keep("cache", "step 1", std::slice::from_ref(&c.diff_id))
        .unwrap();
    // a lease whose writer was killed
    fs::write(
        dir.path().join("images/leases/dead"),
        format!("{}\n", b.diff_id),
    )
    .unwrap();
    let gone = store.collect(&[]).unwrap();
    assert_eq!(gone.layers, 1);
    assert!(!store.layer(&b.diff_id).exists() && !store.has_blob(&b.digest));
    assert!(store.layer(&a.diff_id).exists() && store.has_blob(&c.digest));
    drop(leased);
    store.unkeep("cache", "step 1").unwrap();
    let gone = store.collect(&[]).unwrap();
    assert_eq!(gone.layers, 2);
    let files = dir.path().join("images/files");
    let left: usize = fs::read_dir(files)
        .unwrap()
        .flatten()
        .map(|d| fs::read_dir(d.path()).unwrap().count())
        .sum();
    assert_eq!(left, 0);
}
