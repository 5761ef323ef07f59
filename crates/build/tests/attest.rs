//! What is found in an image, and how it is said beside it.

mod common;

use common::World;
use knarr_build::{
    attest::{Attestations, Kind, packages},
    copy::Tree,
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

/// A program with these sections, as little of ELF as there can be.
fn program(sections: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut names = vec![0_u8];
    let mut bytes = vec![0_u8; 64];
    let mut headers = vec![0_u8; 64];
    let mut add = |name: &str, content: &[u8], names: &mut Vec<u8>| {
        let at = bytes.len() as u64;
        bytes.extend_from_slice(content);
        let mut header = [0_u8; 64];
        header[..4].copy_from_slice(&(names.len() as u32).to_le_bytes());
        header[24..32].copy_from_slice(&at.to_le_bytes());
        header[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
        headers.extend_from_slice(&header);
        names.extend_from_slice(name.as_bytes());
        names.push(0);
    };
    for (name, content) in sections {
        add(name, content, &mut names);
    }
    let mut all = names.clone();
    all.extend_from_slice(b".shstrtab\0");
    let last = sections.len() as u16 + 1;
    add(".shstrtab", &all, &mut names);
    let table = bytes.len() as u64;
    bytes.extend_from_slice(&headers);
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[40..48].copy_from_slice(&table.to_le_bytes());
    bytes[58..60].copy_from_slice(&64_u16.to_le_bytes());
    bytes[60..62].copy_from_slice(&(last + 1).to_le_bytes());
    bytes[62..64].copy_from_slice(&last.to_le_bytes());
    bytes
}

/// Go's build info.
fn go(version: &str, modules: &str) -> Vec<u8> {
    let mut bytes = b"\xff Go buildinf:\x08\x02".to_vec();
    bytes.resize(32, 0);
    let marked = format!("{}{modules}{}", "<".repeat(16), ">".repeat(16));
    for word in [version, &marked] {
        let mut size = word.len();
        while size >= 0x80 {
            bytes.push(size as u8 | 0x80);
            size >>= 7;
        }
        bytes.push(size as u8);
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes
}

fn zlib(text: &str) -> Vec<u8> {
    use std::io::Write;
    let mut packed = flate2::write::ZlibEncoder::new(vec![], flate2::Compression::fast());
    packed.write_all(text.as_bytes()).unwrap();
    packed.finish().unwrap()
}

fn put(root: &Path, path: &str, content: &[u8], mode: u32) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn packages_of_all_kinds() {
    let root = tempfile::tempdir().unwrap();
    let text = |path: &str, text: &str| put(root.path(), path, text.as_bytes(), 0o644);
    text(
        "var/lib/dpkg/status",
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u4\nDescription: C\n more\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n",
    );
    text(
        "var/lib/dpkg/status.d/base",
        "Package: base-files\nVersion: 12.4\n",
    );
    text(
        "var/lib/dpkg/status.d/base.md5sums",
        "Package: no\nVersion: 1\n",
    );
    text(
        "lib/apk/db/installed",
        "C:Q1x=\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\n\nP:zlib\nV:1.3\nA:x86_64\n",
    );
    text(
        "app/node_modules/a/package.json",
        "{\"name\":\"a\",\"version\":\"1.0.0\",\"license\":\"ISC\"}",
    );
    text(
        "app/node_modules/@s/b/package.json",
        "{\"name\":\"@s/b\",\"version\":\"2.0.0\"}",
    );
    text(
        "app/node_modules/a/lib/package.json",
        "{\"name\":\"inside\",\"version\":\"0\"}",
    );
    text("app/package.json", "{\"name\":\"app\",\"version\":\"0\"}");
    text(
        "usr/lib/python3/site-packages/My_Pkg-3.dist-info/METADATA",
        "Metadata-Version: 2.1\nName: My_Pkg\nVersion: 3\nLicense: MIT\n\nName: not this\n",
    );
    text(
        "src/Cargo.lock",
        "version = 4\n\n[[package]]\nname = \"serde\"\nversion = \"1.0.1\"\nsource = \"registry\"\n\n[[package]]\nname = \"x\"\nversion = \"0.1.0\"\n",
    );
    text("app/node_modules/broken/package.json", "{");
    let modules = "path\texample.com/cmd\nmod\texample.com/cmd\t(devel)\t\ndep\tgolang.org/x/net\tv0.1.0\th1:x=\ndep\told.org/y\tv1.0.0\n=>\tnew.org/y\tv1.1.0\th1:y=\nbuild\tCGO_ENABLED=0\n";
    let audit = "{\"packages\":[{\"name\":\"libc\",\"version\":\"0.2.0\"},{\"name\":\"cc\",\"version\":\"1.0.0\",\"kind\":\"build\"}]}";
    let both = program(&[
        (".go.buildinfo", go("go1.22.1", modules)),
        (".dep-v0", zlib(audit)),
    ]);
    put(root.path(), "bin/both", &both, 0o755);
    put(root.path(), "bin/data", &both, 0o644);
    for (i, cut) in [10, 70, 200, both.len() - 1].into_iter().enumerate() {
        put(root.path(), &format!("bin/cut{i}"), &both[..cut], 0o755);
    }
    std::os::unix::fs::symlink("/bin/both", root.path().join("bin/link")).unwrap();

    let tree = Tree::root("image", root.path()).unwrap();
    let found = packages(&tree).unwrap();
    let got: Vec<String> = found
        .iter()
        .map(|p| p.purl(Some(("debian", "12"))))
        .collect();
    let want = [
        "pkg:apk/debian/musl@1.2.4-r2?arch=x86_64&distro=debian-12",
        "pkg:apk/debian/zlib@1.3?arch=x86_64&distro=debian-12",
        "pkg:cargo/libc@0.2.0",
        "pkg:cargo/serde@1.0.1",
        "pkg:cargo/x@0.1.0",
        "pkg:deb/debian/base-files@12.4?distro=debian-12",
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=amd64&distro=debian-12",
        "pkg:golang/example.com/cmd@%28devel%29",
        "pkg:golang/golang.org/x/net@v0.1.0",
        "pkg:golang/new.org/y@v1.1.0",
        "pkg:golang/stdlib@1.22.1",
        "pkg:npm/%40s/b@2.0.0",
        "pkg:npm/a@1.0.0",
        "pkg:pypi/my-pkg@3",
    ];
    assert_eq!(got, want);
    let npm = found
        .iter()
        .find(|p| p.kind == Kind::Npm && p.name == "a")
        .unwrap();
    assert_eq!(npm.license.as_deref(), Some("ISC"));
    assert_eq!(npm.found_in, "app/node_modules/a/package.json");
}

fn read(world: &World, digest: &Value) -> Value {
    let bytes = world.images.read_blob(digest.as_str().unwrap()).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn attestations_are_beside_the_image() {
    let world = World::new();
    let text =
        "FROM scratch\nARG A\nCOPY status /var/lib/dpkg/status\nCOPY os-release /etc/os-release\n";
    let files = [
        (
            "status",
            "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36\n",
        ),
        ("os-release", "ID=debian\nVERSION_ID=\"12\"\n"),
    ];
    let mut request = world.request(text, &files);
    request.tags = vec!["example.com/a:1".into(), "b".into()];
    request.args.insert("A".into(), "value".into());
    request.source_date_epoch = Some(1_700_000_000);
    let mut attestations = Attestations::default();
    attestations.add("sbom", "true").unwrap();
    attestations
        .add("provenance", "mode=max,builder-id=https://builder")
        .unwrap();
    request.attestations = attestations;
    let (built, _) = world.good(request.clone()).await;
    let image = built.image.unwrap();
    assert_ne!(image.digest, image.manifest);
    for name in ["example.com/a:1", "b"] {
        let found = world.images.resolve(name).unwrap().unwrap();
        assert_eq!(
            (&found.digest, &found.manifest),
            (&image.digest, &image.manifest),
            "{name}"
        );
    }
    // what a name leads to stays
    world.images.collect(&[]).unwrap();
    let index = read(&world, &json!(image.digest));
    let [own, attestation] = index["manifests"].as_array().unwrap().as_slice() else {
        panic!("{index:#}");
    };
    assert_eq!(own["digest"], image.manifest);
    assert_eq!(own["platform"]["os"], "linux");
    assert_eq!(
        attestation["platform"],
        json!({"architecture": "unknown", "os": "unknown"})
    );
    assert_eq!(
        attestation["annotations"],
        json!({
            "vnd.docker.reference.digest": image.manifest,
            "vnd.docker.reference.type": "attestation-manifest",
        })
    );
    let manifest = read(&world, &attestation["digest"]);
    let [sbom, provenance] = manifest["layers"].as_array().unwrap().as_slice() else {
        panic!("{manifest:#}");
    };
    let config = read(&world, &manifest["config"]["digest"]);
    assert_eq!(
        config["rootfs"]["diff_ids"],
        json!([sbom["digest"], provenance["digest"]])
    );
    for (layer, uri) in [
        (sbom, "https://spdx.dev/Document"),
        (provenance, "https://slsa.dev/provenance/v1"),
    ] {
        assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
        assert_eq!(layer["annotations"]["in-toto.io/predicate-type"], uri);
        let statement = read(&world, &layer["digest"]);
        assert_eq!(statement["_type"], "https://in-toto.io/Statement/v0.1");
        assert_eq!(statement["predicateType"], uri);
        let subject = &statement["subject"][0];
        assert_eq!(
            format!("sha256:{}", subject["digest"]["sha256"].as_str().unwrap()),
            image.manifest
        );
        let name = subject["name"].as_str().unwrap();
        assert!(
            name.starts_with("pkg:docker/example.com/a@1?platform=linux%2F"),
            "{name}"
        );
        assert!(
            statement["subject"][1]["name"]
                .as_str()
                .unwrap()
                .starts_with("pkg:docker/b@latest?")
        );
    }
    let spdx = &read(&world, &sbom["digest"])["predicate"];
    assert_eq!(spdx["spdxVersion"], "SPDX-2.3");
    assert_eq!(spdx["creationInfo"]["created"], "2023-11-14T22:13:20Z");
    assert_eq!(
        spdx["packages"][1]["externalRefs"][0]["referenceLocator"],
        "pkg:deb/debian/libc6@2.36?arch=amd64&distro=debian-12"
    );
    let made = &read(&world, &provenance["digest"])["predicate"];
    assert_eq!(made["runDetails"]["builder"]["id"], "https://builder");
    let parameters = &made["buildDefinition"]["externalParameters"];
    assert_eq!(parameters["request"]["args"]["build-arg:A"], "value");
    // an archive holds all of it, and can be loaded
    let path = world.dir.path().join("saved.tar");
    world.images.save("b", &path).unwrap();
    let mut saved = tar::Archive::new(fs::File::open(&path).unwrap());
    let names = saved.entries().unwrap();
    let names: Vec<String> = names
        .map(|e| e.unwrap().path().unwrap().to_string_lossy().into_owned())
        .collect();
    let digests = [
        &attestation["digest"],
        &sbom["digest"],
        &provenance["digest"],
    ];
    for digest in digests
        .map(|d| d.as_str().unwrap())
        .into_iter()
        .chain([&*image.digest])
    {
        let name = format!("blobs/{}", digest.replace(':', "/"));
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    let other = knarr_image::ImageStore::open(&world.dir.path().join("other")).unwrap();
    other.load(&path, None).unwrap();
    assert_eq!(
        other.resolve("b").unwrap().unwrap().manifest,
        image.manifest
    );
    // the same input, the same digest
    let (again, _) = world.good(request.clone()).await;
    assert_eq!(again.image.unwrap().digest, image.digest);

    request.attestations = Attestations::default();
    request
        .attestations
        .add("", "type=provenance,mode=min,version=v0.2")
        .unwrap();
    let (least, _) = world.good(request).await;
    let index = read(&world, &json!(least.image.unwrap().digest));
    let manifest = read(&world, &index["manifests"][1]["digest"]);
    let statement = read(&world, &manifest["layers"][0]["digest"]);
    assert_eq!(
        statement["predicateType"],
        "https://slsa.dev/provenance/v0.2"
    );
    assert!(
        !statement.to_string().contains("value"),
        "an argument's value is told: {statement:#}"
    );
    world.close().await;
}
