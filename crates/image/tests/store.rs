//! Images made, saved, loaded and removed on a real disk. Needs root: layers keep owners and whiteouts are device nodes.

use knarr_image::{Error, ImageConfig, ImageStore, PackSpec};
use std::{fs, path::Path, process::Command};

fn store() -> (tempfile::TempDir, ImageStore) {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test unpacks layers with their owners: run it as root"
    );
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&dir.path().join("images")).unwrap();
    (dir, store)
}

fn spec(name: &str) -> PackSpec {
    PackSpec {
        executables: vec!["/bin/ls".into()],
        name: name.into(),
        ..PackSpec::default()
    }
}

#[test]
fn same_input_gives_the_same_digest_in_two_stores() {
    let ((_a, one), (_b, two)) = (store(), store());
    assert_eq!(
        one.pack(&spec("x:1")).unwrap().digest,
        two.pack(&spec("x:1")).unwrap().digest
    );
}

#[test]
fn a_packed_executable_runs_in_its_own_root() {
    let (dir, store) = store();
    let image = store.pack(&spec("demo/ls")).unwrap();
    assert_eq!(image.name, "docker.io/demo/ls:latest");
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    for layer in image.layers.iter().rev() {
        let done = Command::new("cp")
            .arg("-a")
            .arg(layer.join("."))
            .arg(&root)
            .status()
            .unwrap();
        assert!(done.success());
    }
    let out = Command::new("chroot")
        .arg(&root)
        .arg(&image.config.entrypoint[0])
        .arg("/etc")
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(String::from_utf8_lossy(&out.stdout).contains("passwd"));
}

#[test]
fn saved_images_load_again_with_the_same_digest() {
    let ((dir, one), (_b, two)) = (store(), store());
    let mut spec = spec("docker.io/library/thing:7");
    spec.config = ImageConfig {
        user: "7:8".into(),
        exposed_ports: vec!["80/tcp".into()],
        ..ImageConfig::default()
    };
    let image = one.pack(&spec).unwrap();
    let tar = dir.path().join("thing.tar");
    one.save("thing:7", &tar).unwrap();
    let loaded = two.load(&tar, None).unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(
        (&loaded[0].name, &loaded[0].digest),
        (&image.name, &image.digest)
    );
    assert_eq!(loaded[0].config, image.config);
    assert_eq!(
        two.resolve(&image.id).unwrap().unwrap().digest,
        image.digest
    );
    assert!(two.resolve("thing:8").unwrap().is_none());
}

#[test]
fn layers_in_use_stay_when_their_image_has_lost_its_name() {
    let (_dir, store) = store();
    let runs = store.pack(&spec("a")).unwrap();
    let mut newer = spec("a");
    newer.executables = vec!["/bin/cat".into()];
    store.pack(&newer).unwrap();
    store.pack(&spec("b")).unwrap();
    store.remove_keeping("b", &runs.layers).unwrap();
    assert!(runs.layers.iter().all(|l| l.exists()));
    store.remove("a").unwrap();
    assert!(runs.layers.iter().all(|l| !l.exists()));
}

#[test]
fn removing_the_last_name_frees_the_space_and_keeps_what_others_use() {
    let (dir, store) = store();
    let kept = store.pack(&spec("a")).unwrap();
    let mut other = spec("b");
    other.executables = vec!["/bin/cat".into()];
    store.pack(&other).unwrap();
    store.remove("b").unwrap();
    assert!(matches!(store.remove("b"), Err(Error::NotFound(_))));
    assert!(kept.layers.iter().all(|l| l.exists()));
    let layers = fs::read_dir(dir.path().join("images/layers"))
        .unwrap()
        .count();
    assert_eq!(layers, kept.layers.len());
}

/// Writes a docker-save archive with one layer made of the given tar bytes.
fn docker_archive(dir: &Path, layer: &[u8]) -> std::path::PathBuf {
    use sha2::{Digest, Sha256};
    let diff = hex::encode(Sha256::digest(layer));
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["/x"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{diff}"]}}}}"#
    );
    let path = dir.join("image.tar");
    let mut tar = tar::Builder::new(fs::File::create(&path).unwrap());
    let manifest = r#"[{"Config":"c.json","RepoTags":["evil:1"],"Layers":["l/layer.tar"]}]"#;
    for (name, data) in [
        ("c.json", config.as_bytes()),
        ("l/layer.tar", layer),
        ("manifest.json", manifest.as_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, data).unwrap();
    }
    tar.finish().unwrap();
    path
}

fn entry(
    tar: &mut tar::Builder<Vec<u8>>,
    name: &str,
    kind: tar::EntryType,
    link: &str,
    data: &[u8],
) {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(data.len() as u64);
    if !link.is_empty() {
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    }
    header.set_cksum();
    tar.append(&header, data).unwrap();
}

#[test]
fn layers_cannot_write_outside_their_root() {
    let (dir, store) = store();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let out = outside.to_str().unwrap();
    use tar::EntryType::{Link, Regular, Symlink};
    type Entries<'a> = Vec<(String, tar::EntryType, &'a str)>;
    let cases: Vec<(&str, Entries<'_>)> = vec![
        ("dotdot", vec![("../outside/f".into(), Regular, "")]),
        ("absolute", vec![(format!("{out}/f"), Regular, "")]),
        (
            "through a link",
            vec![("l".into(), Symlink, out), ("l/f".into(), Regular, "")],
        ),
        (
            "hard link out",
            vec![
                ("h".into(), Link, "/etc/hostname"),
                ("h".into(), Regular, ""),
            ],
        ),
        (
            "whiteout through a link",
            vec![
                ("l".into(), Symlink, out),
                ("l/.wh.keep".into(), Regular, ""),
            ],
        ),
    ];
    fs::write(outside.join("keep"), "kept").unwrap();
    let hostname = fs::read("/etc/hostname").ok();
    for (name, entries) in cases {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, kind, link) in &entries {
            entry(
                &mut tar,
                path,
                *kind,
                link,
                if *kind == Regular { b"evil" } else { b"" },
            );
        }
        let layer = tar.into_inner().unwrap();
        let _ = store.load(&docker_archive(dir.path(), &layer), None);
        let left: Vec<_> = fs::read_dir(&outside)
            .unwrap()
            .flatten()
            .map(|e| e.file_name())
            .collect();
        assert_eq!(left, ["keep"], "{name}");
        assert_eq!(fs::read("/etc/hostname").ok(), hostname, "{name}");
    }
}

#[test]
fn whiteouts_become_what_overlayfs_reads() {
    use std::os::unix::fs::FileTypeExt;
    let (dir, store) = store();
    let mut tar = tar::Builder::new(Vec::new());
    entry(&mut tar, "d/.wh.gone", tar::EntryType::Regular, "", b"");
    entry(&mut tar, "o/.wh..wh..opq", tar::EntryType::Regular, "", b"");
    let layer = tar.into_inner().unwrap();
    let image = store
        .load(&docker_archive(dir.path(), &layer), None)
        .unwrap()
        .remove(0);
    let root = &image.layers[0];
    assert!(
        fs::symlink_metadata(root.join("d/gone"))
            .unwrap()
            .file_type()
            .is_char_device()
    );
    let mut value = [0u8; 8];
    let n = rustix::fs::getxattr(root.join("o"), "trusted.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value[..n], b"y");
}

#[test]
fn damaged_archives_say_what_is_wrong() {
    let (dir, store) = store();
    let path = dir.path().join("broken.tar");
    for (name, bytes) in [
        ("empty", &b""[..]),
        ("text", b"hello"),
        ("half a gzip", b"\x1f\x8b\x08\x00"),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = store.load(&path, None).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("broken.tar"), "{name}: {error}");
    }
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn archives_hold_several_images_and_what_they_share_once() {
    let ((dir, one), (_b, two)) = (store(), store());
    one.pack(&spec("a:1")).unwrap();
    let mut other = spec("b:2");
    other.executables = vec!["/bin/cat".into()];
    one.pack(&other).unwrap();
    let (tar, again) = (dir.path().join("both.tar"), dir.path().join("again.tar"));
    one.save_file(&["a:1", "b:2"], &tar).unwrap();
    one.save_file(&["a:1", "b:2"], &again).unwrap();
    assert!(fs::read(&tar).unwrap() == fs::read(&again).unwrap());
    let mut names = std::collections::BTreeSet::new();
    for entry in tar::Archive::new(fs::File::open(&tar).unwrap())
        .entries()
        .unwrap()
    {
        assert!(
            names.insert(entry.unwrap().path().unwrap().into_owned()),
            "twice in it"
        );
    }
    let loaded = two.load(&tar, None).unwrap();
    let loaded: Vec<_> = loaded
        .iter()
        .map(|i| (i.name.as_str(), i.digest.clone()))
        .collect();
    let digest = |name: &str| one.resolve(name).unwrap().unwrap().digest;
    assert_eq!(
        loaded,
        [
            ("docker.io/library/a:1", digest("a:1")),
            ("docker.io/library/b:2", digest("b:2"))
        ]
    );
    // and as a `docker save` archive, for who looks at manifest.json alone
    let folder = dir.path().join("unpacked");
    fs::create_dir(&folder).unwrap();
    tar::Archive::new(fs::File::open(&tar).unwrap())
        .unpack(&folder)
        .unwrap();
    fs::remove_file(folder.join("index.json")).unwrap();
    fs::remove_file(folder.join("oci-layout")).unwrap();
    let (_c, three) = store();
    let loaded = three.load(&folder, None).unwrap();
    assert_eq!(loaded[0].name, "docker.io/library/a:1");
    assert_eq!(loaded[0].id, one.resolve("a:1").unwrap().unwrap().id);
}

#[test]
fn a_tree_is_exported_as_it_is() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    let (dir, store) = store();
    let root = dir.path().join("tree");
    let long = format!("d/{}", "ü".repeat(90));
    fs::create_dir_all(root.join("d")).unwrap();
    fs::write(root.join("d/file"), "x".repeat(1000)).unwrap();
    fs::write(root.join(&long), "long").unwrap();
    fs::hard_link(root.join("d/file"), root.join("same")).unwrap();
    symlink("d/file", root.join("link")).unwrap();
    fs::set_permissions(root.join("d/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::lchown(root.join("link"), Some(12), Some(34)).unwrap();
    rustix::fs::setxattr(
        root.join("d"),
        "user.a",
        b"b",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let mut tar = Vec::new();
    knarr_image::export_tree(&root, &mut tar).unwrap();
    // tar reads it, too
    fs::write(dir.path().join("out.tar"), &tar).unwrap();
    let listed = Command::new("tar")
        .args(["-tf", "out.tar"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(listed.status.success());
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), 5);
    let image = store
        .import(&tar[..], &serde_json::json!({}), None)
        .unwrap();
    let at = |name: &str| image.layers[0].join(name);
    let meta = |name: &str| fs::symlink_metadata(at(name)).unwrap();
    assert_eq!(fs::read(at("d/file")).unwrap(), "x".repeat(1000).as_bytes());
    assert_eq!(fs::read(at(&long)).unwrap(), b"long");
    assert_eq!(meta("d/file").mode() & 0o7777, 0o4751);
    assert_eq!(meta("d/file").ino(), meta("same").ino());
    assert_eq!((meta("link").uid(), meta("link").gid()), (12, 34));
    assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("d/file"));
    let mut value = [0; 8];
    assert_eq!(
        rustix::fs::getxattr(at("d"), "user.a", &mut value).unwrap(),
        1
    );
    assert!(!at("socket").exists());
}

#[test]
fn a_root_file_system_becomes_an_image() {
    let (dir, store) = store();
    let made = Command::new("tar")
        .args(["-czf", "root.tar.gz", "-C", "/etc", "passwd", "group"])
        .current_dir(dir.path())
        .status()
        .unwrap();
    assert!(made.success());
    let tar = fs::File::open(dir.path().join("root.tar.gz")).unwrap();
    let config = serde_json::json!({"Cmd": ["/bin/x"]});
    let history = serde_json::json!({ "created": "2020-01-01T00:00:00Z", "comment": "by hand" });
    let image = store
        .import_told(tar, &config, &history, Some("root:1"))
        .unwrap();
    assert_eq!(image.config.cmd, ["/bin/x"]);
    let bytes = store.read_blob(&image.id).unwrap();
    let told: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(told["history"], serde_json::json!([history]));
    assert_eq!(told["created"], history["created"]);
    let read = |path: &Path| fs::read(path.join("passwd")).unwrap();
    assert!(read(&image.layers[0]) == read(Path::new("/etc")));
    assert!(
        store
            .import(
                &b"no tar at all, but long enough to be looked at"[..],
                &config,
                None
            )
            .is_err()
    );
}

#[test]
fn a_damaged_image_is_its_own_affair() {
    let (_dir, store) = store();
    store.pack(&spec("good:1")).unwrap();
    // a layer that is another one than the configuration says
    let put = |bytes: &[u8]| store.put_bytes(bytes).unwrap();
    let layer = put(&[0; 1024]);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "e".repeat(64))]},
    });
    let config = config.to_string();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": put(config.as_bytes()), "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": 1024,
        }],
    });
    store
        .tag("bad:1", &put(manifest.to_string().as_bytes()))
        .unwrap();
    let told = store.resolve("bad:1").unwrap_err().to_string();
    assert!(told.contains("is damaged"), "{told}");
    let names = || -> Vec<String> {
        let all = store.list().unwrap();
        all.into_iter().map(|image| image.name).collect()
    };
    assert_eq!(names(), ["docker.io/library/good:1"]);
    // as the message says
    store.remove("bad:1").unwrap();
    assert!(store.resolve("bad:1").unwrap().is_none());
    assert_eq!(names(), ["docker.io/library/good:1"]);
}

#[test]
fn a_collection_takes_nothing_of_what_is_being_named_and_heeds_no_end() {
    let (_dir, store) = store();
    // a folder of names takes a while to read
    let old = store.put_bytes(b"old").unwrap();
    for i in 0..40 {
        store.tag(&format!("old/{i}"), &old).unwrap();
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    let still = || !done.load(std::sync::atomic::Ordering::Relaxed);
    let (collected, kept) = std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            while still() {
                store.collect(&[])?;
            }
            Ok::<_, Error>(())
        });
        let keeper = scope.spawn(|| {
            while still() {
                store.keep("somebody", "something", std::slice::from_ref(&old))?;
                store.unkeep("somebody", "something")?;
                drop(store.leased()?);
            }
            Ok::<_, Error>(())
        });
        for i in 0..20 {
            let leased = store.leased().unwrap();
            let digest = leased.put_bytes(format!("new {i}").as_bytes()).unwrap();
            leased.tag(&format!("new/{i}"), &digest).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        (collector.join().unwrap(), keeper.join().unwrap())
    });
    collected.unwrap();
    kept.unwrap();
    let named = store.named().unwrap();
    assert_eq!(named.len(), 60);
    let lost = named
        .iter()
        .filter(|(_, digest)| !store.blob(digest).exists());
    let lost: Vec<&String> = lost.map(|(name, _)| name).collect();
    assert_eq!(lost, [""; 0], "named images that were collected");
}

#[test]
fn what_several_load_at_once_is_there_for_all() {
    let (dir, one) = store();
    one.pack(&spec("thing:7")).unwrap();
    let archive = dir.path().join("thing.tar");
    one.save("thing:7", &archive).unwrap();
    for round in 0..4 {
        let (_dir, other) = store();
        let begin = std::sync::Barrier::new(4);
        let load = || {
            begin.wait();
            other.load(&archive, None).map(|_| ())
        };
        let done = std::thread::scope(|scope| {
            let all = [(); 4].map(|()| scope.spawn(load));
            all.map(|one| one.join().unwrap())
        });
        for loaded in done {
            loaded.unwrap_or_else(|e| panic!("round {round}: {e}"));
        }
        let image = other.resolve("thing:7").unwrap().unwrap();
        assert!(image.layers.iter().all(|l| l.is_dir()), "round {round}");
    }
}
