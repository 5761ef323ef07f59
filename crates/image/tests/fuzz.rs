//! Random damage to layers and manifests in bounded amounts: nothing panics, nothing lands outside, and what is taken is
//! written anew as it came. Needs root. `cargo run -p xtask -- fuzz --target layer --minutes N` runs more of it.

#[allow(dead_code)]
#[path = "../../api/tests/fuzz/mutate.rs"]
mod mutate;

use knarr_image::{ImageStore, LayerOptions};
use mutate::{Mutator, rounds};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fs, io::Read, os::unix::fs::symlink, path::Path};

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A layer with one of everything, as the store itself writes it.
fn seed(dir: &Path, store: &ImageStore) -> Vec<u8> {
    let upper = dir.join("upper");
    fs::create_dir_all(upper.join("etc/deep")).unwrap();
    fs::write(upper.join("etc/conf"), "content\n").unwrap();
    fs::hard_link(upper.join("etc/conf"), upper.join("etc/second")).unwrap();
    symlink("../outside", upper.join("etc/deep/link")).unwrap();
    symlink("/outside", upper.join("etc/out")).unwrap();
    fs::write(upper.join("n".repeat(130)), vec![5; 700]).unwrap();
    let none = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(upper.join("etc/conf"), "user.x", b"y", none).unwrap();
    let layer = store.commit_layer(&upper, LayerOptions::default()).unwrap();
    let mut bytes = Vec::new();
    let mut blob = store.open_blob(&layer.digest).unwrap().unwrap();
    blob.content.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Some blocks of the tar changed, swapped, doubled or cut; check sums set right, so that the rest is looked at.
fn damage(m: &mut Mutator, tar: &[u8]) -> Vec<u8> {
    let mut blocks: Vec<[u8; 512]> = tar.as_chunks::<512>().0.to_vec();
    for _ in 0..1 + m.below(4) {
        let (a, b) = (m.below(blocks.len()), m.below(blocks.len()));
        match m.below(6) {
            0 => blocks.swap(a, b),
            1 => blocks.insert(a, blocks[b]),
            2 if blocks.len() > 2 => {
                blocks.remove(a);
            }
            3 => blocks[a][156] = b"0123456LKxgS7V"[m.below(14)],
            4 => {
                let words: [&[u8]; 8] = [
                    b"../x",
                    b"/etc/x",
                    b"etc/out/x",
                    b"etc/deep/link/x",
                    b"etc/.wh.conf",
                    b".wh...",
                    b"etc",
                    b".",
                ];
                let word = words[m.below(8)];
                let at = [0, 157, 345][m.below(3)];
                blocks[a][at..at + 100].fill(0);
                blocks[a][at..at + word.len()].copy_from_slice(word);
            }
            _ => blocks[a][m.below(512)] = m.below(256) as u8,
        }
        for block in &mut blocks {
            if &block[257..262] == b"ustar" {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
    }
    blocks.concat()
}

#[test]
fn fuzz_layer() {
    assert!(
        rustix::process::geteuid().is_root(),
        "layers keep owners: run it as root"
    );
    let mut m = Mutator::new("layer");
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("keep"), "kept").unwrap();
    let store = ImageStore::open(&dir.path().join("images")).unwrap();
    let good = seed(dir.path(), &store);
    let mut taken = 0;
    for _ in rounds(300) {
        let tar = damage(&mut m, &good);
        if let Ok(image) = store.import(&tar[..], &serde_json::json!({}), Some("fuzz:1")) {
            taken += 1;
            let layer = &store.layer_infos(&image).unwrap()[0];
            let mut again = Vec::new();
            let mut blob = store.open_blob(&layer.digest).unwrap().unwrap();
            blob.content.read_to_end(&mut again).unwrap();
            assert!(again == tar, "it is written anew with other bytes");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::read(outside.join("keep")).unwrap(), b"kept");
        assert!(
            !Path::new("/etc/x").exists()
                && !Path::new("/x").exists()
                && !Path::new("/outside").exists()
        );
        let _ = store.untag("fuzz:1");
    }
    assert!(
        taken > 0,
        "all were refused: the damage is too much to find anything"
    );
    store.collect(&[]).unwrap();
}

/// Other values in the document, or other bytes.
fn change(m: &mut Mutator, text: &[u8]) -> Vec<u8> {
    match (m.below(3), serde_json::from_slice(text)) {
        (1.., Ok(value)) => m.json(&value),
        _ => m.bytes(text),
    }
}

#[test]
fn fuzz_manifest() {
    assert!(
        rustix::process::geteuid().is_root(),
        "layers keep owners: run it as root"
    );
    let mut m = Mutator::new("manifest");
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&dir.path().join("images")).unwrap();
    seed(dir.path(), &store);
    let upper = dir.path().join("upper");
    fs::create_dir(&upper).unwrap();
    fs::write(upper.join("file"), "x").unwrap();
    let layer = store.commit_layer(&upper, LayerOptions::default()).unwrap();
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/file"], "Env": ["A=b"]},
        "history": [{"created_by": "x"}]});
    let image = store
        .put_image(&config, &[layer], &BTreeMap::new(), Some("seed:1"))
        .unwrap();
    let (config, manifest) = (
        store.read_blob(&image.id).unwrap(),
        store.read_blob(&image.digest).unwrap(),
    );
    let target = ImageStore::open(&dir.path().join("target")).unwrap();
    for _ in rounds(300) {
        // a layout folder whose digests are right all along, so that what they lead to is read
        let layout = tempfile::tempdir_in(dir.path()).unwrap();
        let blobs = layout.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let put = |bytes: &[u8]| {
            let digest = digest(bytes);
            fs::write(blobs.join(&digest[7..]), bytes).unwrap();
            digest
        };
        let changed = change(&mut m, &config);
        let id = put(if m.below(2) == 0 { &changed } else { &config });
        let text = String::from_utf8(manifest.clone())
            .unwrap()
            .replace(&image.id, &id);
        let changed = change(&mut m, text.as_bytes());
        let top = if m.below(2) == 0 {
            changed
        } else {
            text.into_bytes()
        };
        let top_digest = put(&top);
        let layer = &store.layer_infos(&image).unwrap()[0];
        let mut tar = Vec::new();
        let mut blob = store.open_blob(&layer.digest).unwrap().unwrap();
        blob.content.read_to_end(&mut tar).unwrap();
        put(&tar);
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{top_digest}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"fuzz:1"}}}}]}}"#,
            top.len()
        );
        let index = if m.below(4) == 0 {
            change(&mut m, index.as_bytes())
        } else {
            index.into_bytes()
        };
        fs::write(layout.path().join("index.json"), index).unwrap();
        fs::write(
            layout.path().join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        if let Ok(images) = target.load(layout.path(), None) {
            for image in images {
                let inside = dir.path().join("target/layers");
                assert!(
                    image
                        .layers
                        .iter()
                        .all(|l| l.starts_with(&inside) && l.is_dir() && *l != inside)
                );
            }
        }
    }
}
