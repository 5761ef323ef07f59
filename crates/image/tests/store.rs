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
