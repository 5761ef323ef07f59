//! What the registry and the image store make of each other, and what a restart and a collection leave.

mod common;

use common::{Asked, World, blob, digest, image, referrer};
use knarr_image::{ImageStore, PackSpec};
use knarr_registry::Options;
use std::{fs, path::Path, time::Duration};

fn get(path: impl Into<String>) -> Asked {
    Asked::new("GET", path)
}

fn options() -> Options {
    Options {
        hosts: vec!["localhost:5000".into(), "127.0.0.1:5000".into()],
        ..Options::default()
    }
}

/// An image of a script, which needs nothing else of the machine.
fn packed(store: &ImageStore, name: &str, text: &str) -> knarr_image::Image {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("run");
    fs::write(&script, format!("#!/bin/sh\n# {text}\n")).unwrap();
    let spec = PackSpec {
        add: vec![(script, "/run".into())],
        name: name.into(),
        bare: true,
        ..PackSpec::default()
    };
    store.pack(&spec).unwrap()
}

fn json(store: &ImageStore, digest: &str) -> serde_json::Value {
    serde_json::from_slice(&store.read_blob(digest).unwrap()).unwrap()
}

fn pushed(repository: &str, content: &[u8]) -> Asked {
    let at = format!("/v2/{repository}/blobs/uploads/?digest={}", digest(content));
    Asked::new("POST", at).body(content).status(201)
}

fn put(repository: &str, reference: &str, kind: &str, body: &[u8]) -> Asked {
    Asked::new("PUT", format!("/v2/{repository}/manifests/{reference}"))
        .header(
            "content-type",
            format!("application/vnd.oci.image.{kind}.v1+json"),
        )
        .body(body)
        .status(201)
}

/// A blob's bytes, also of one that has no file of its own.
fn content(store: &ImageStore, digest: &str) -> Vec<u8> {
    let mut blob = store.open_blob(digest).unwrap().expect(digest);
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut blob.content, &mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, blob.size);
    bytes
}

/// Pushes an image of another store, as a client would.
fn push(from: &ImageStore, image: &str, repository: &str, tag: &str) -> Vec<Asked> {
    let manifest = json(from, image);
    let mut parts = vec![manifest["config"]["digest"].as_str().unwrap()];
    let layers = manifest["layers"].as_array().unwrap();
    parts.extend(layers.iter().map(|l| l["digest"].as_str().unwrap()));
    let blobs = parts
        .into_iter()
        .map(|part| pushed(repository, &content(from, part)));
    let last = put(repository, tag, "manifest", &from.read_blob(image).unwrap());
    blobs.chain([last]).collect()
}

#[test]
fn what_is_pushed_has_its_name_on_the_machine() {
    let (world, other) = (World::with(options()), tempfile::tempdir().unwrap());
    let other = ImageStore::open(other.path()).unwrap();
    let one = packed(&other, "one", "1");
    world.run("push", push(&other, &one.digest, "team/app", "1"));
    let got = world
        .store
        .resolve("localhost:5000/team/app:1")
        .unwrap()
        .expect("it has a name");
    assert_eq!((got.digest, got.id), (one.digest.clone(), one.id.clone()));
    assert!(got.layers.iter().all(|layer| layer.join("run").is_file()));

    // Another tag's image moves the name; one that was pushed by the other host's name has that one as well.
    let two = packed(&other, "two", "2");
    let mut steps = push(&other, &two.digest, "team/app", "1");
    let last = steps.pop().unwrap().header("host", "127.0.0.1:5000");
    steps.push(last);
    world.run("push again", steps);
    for name in ["localhost:5000/team/app:1", "127.0.0.1:5000/team/app:1"] {
        let got = world.store.resolve(name).unwrap().expect(name);
        assert_eq!(got.digest, two.digest, "{name}");
    }

    // Of an index, the machine's own image.
    let bytes = other.read_blob(&one.digest).unwrap();
    let architecture = if cfg!(target_arch = "x86_64") {
        "amd64"
    } else {
        "arm64"
    };
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": one.digest, "size": bytes.len(),
        "platform": { "os": "linux", "architecture": architecture },
    }] });
    world.run(
        "index",
        vec![put(
            "team/app",
            "many",
            "index",
            index.to_string().as_bytes(),
        )],
    );
    let got = world
        .store
        .resolve("localhost:5000/team/app:many")
        .unwrap()
        .unwrap();
    assert_eq!(
        (got.digest, got.id),
        (digest(index.to_string().as_bytes()), one.id)
    );

    // What can't run here has no name.
    let (config, manifest) = image(b"layer");
    world.run(
        "elsewhere",
        vec![
            pushed("odd", b"layer"),
            pushed("odd", &config),
            put("odd", "1", "manifest", &manifest),
        ],
    );
    assert!(
        world
            .store
            .resolve("localhost:5000/odd:1")
            .unwrap()
            .is_none()
    );
    assert!(world.store.list().is_ok());
}

#[test]
fn what_is_named_on_the_machine_is_served() {
    let world = World::with(options());
    let one = packed(&world.store, "localhost:5000/app:1", "1");
    packed(&world.store, "elsewhere:5000/other:1", "1");
    let by_tag = || get("/v2/app/manifests/1").status(200);
    let manifest = json(&world.store, &one.digest);
    let layer = manifest["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .to_string();
    let gone = || Asked::new("DELETE", "/v2/app/manifests/1").status(202);
    world.run(
        "packed",
        vec![
            get(format!("/v2/app/blobs/{layer}")).status(200),
            by_tag().has("docker-content-digest", &one.digest),
            get("/v2/_catalog").says(r#"{"repositories":["app"]}"#),
            get("/v2/app/tags/list").says(r#"{"name":"app","tags":["1"]}"#),
        ],
    );
    let two = packed(&world.store, "localhost:5000/app:1", "2");
    world.run(
        "packed again",
        vec![
            by_tag().has("docker-content-digest", &two.digest),
            gone(),
            by_tag().status(404),
        ],
    );
    assert!(
        world
            .store
            .resolve("localhost:5000/app:1")
            .unwrap()
            .is_some(),
        "containers may run on it"
    );
    let three = packed(&world.store, "localhost:5000/app:1", "3");
    world.run(
        "packed once more",
        vec![by_tag().has("docker-content-digest", &three.digest)],
    );

    // Images are collected when the disk is short: the registry keeps what it has.
    world.store.remove("localhost:5000/app:1").unwrap();
    world.run(
        "removed",
        vec![
            by_tag().has("docker-content-digest", &three.digest),
            get(format!("/v2/app/blobs/{layer}")).status(200),
        ],
    );
}

#[test]
fn an_upload_goes_on_after_a_restart() {
    let content = blob(3000);
    let chunk = |range: &str, part: &[u8]| {
        Asked::new("PATCH", "{upload}")
            .header("content-range", range)
            .body(part)
            .status(202)
    };
    let world = World::with(options());
    world.run(
        "begin",
        vec![
            Asked::new("POST", "/v2/a/blobs/uploads/").status(202),
            chunk("0-999", &content[..1000]),
        ],
    );
    let world = world.restarted(options());
    let d = digest(&content);
    let end = Asked::new("PUT", format!("{{upload}}?digest={d}")).status(201);
    let steps = vec![
        get("{upload}").status(204).has("range", "0-999"),
        chunk("1000-2999", &content[1000..]),
        end,
        get(format!("/v2/a/blobs/{d}"))
            .status(200)
            .has("content-length", "3000"),
    ];
    world.run("go on", steps);
}

#[test]
fn uploads_are_bounded() {
    let world = World::with(Options {
        uploads_max: 2,
        upload_age: Duration::ZERO,
        ..options()
    });
    let begin = || Asked::new("POST", "/v2/a/blobs/uploads/");
    world.run("two", vec![begin().status(202), begin().status(202)]);
    std::thread::sleep(Duration::from_millis(50));
    world.run("the old ones made room", vec![begin().status(202)]);
    let world = World::with(Options {
        uploads_max: 1,
        ..options()
    });
    let cancel = Asked::new("DELETE", "{upload}").status(204);
    world.run(
        "full",
        vec![
            begin().status(202),
            begin().status(429).code("TOOMANYREQUESTS"),
            cancel,
            begin().status(202),
        ],
    );
}

fn age(dir: &Path) {
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(400 * 24 * 3600);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            age(&path);
        } else {
            fs::File::open(&path)
                .unwrap()
                .set_modified(long_ago)
                .unwrap();
        }
    }
}

#[test]
fn a_collection_takes_what_nobody_needs() {
    let world = World::with(options());
    let (layer, lone, old) = (blob(1000), blob(2000), blob(3000));
    let (config, manifest) = image(&layer);
    let (old_config, old_manifest) = image(&old);
    let signature = referrer(&manifest, Some("text/signature"), "s");
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(&manifest), "size": manifest.len(),
    }] })
    .to_string();
    world.run(
        "push",
        vec![
            pushed("a", &layer),
            pushed("a", &config),
            pushed("a", b"{}"),
            pushed("a", &lone),
            pushed("a", &old),
            pushed("a", &old_config),
            put("a", &digest(&manifest), "manifest", &manifest),
            put("a", "i", "index", index.as_bytes()),
            put("a", &digest(&signature), "manifest", &signature),
            put("a", "old", "manifest", &old_manifest),
            Asked::new("DELETE", "/v2/a/manifests/old").status(202),
        ],
    );
    let blob_at = |content: &[u8]| format!("/v2/a/blobs/{}", digest(content));
    let fresh = world.registry.collect().unwrap();
    assert_eq!(
        (fresh.manifests, fresh.blobs, fresh.bytes),
        (0, 0, 0),
        "all of it is fresh"
    );

    age(&world.store.links_dir());
    // A push that found a blob here counts on it.
    world.run(
        "found",
        vec![Asked::new("HEAD", blob_at(&lone)).status(200)],
    );
    let done = world.registry.collect().unwrap();
    assert_eq!((done.manifests, done.blobs), (1, 2), "the old image");
    assert!(done.bytes >= 3000, "{done:?}");
    world.run(
        "kept",
        vec![
            get(blob_at(&layer)).status(200),
            get(blob_at(&lone)).status(200),
            get(blob_at(&old)).status(404),
            get("/v2/a/manifests/i").status(200),
            get(format!("/v2/a/manifests/{}", digest(&manifest))).status(200),
            get(format!("/v2/a/referrers/{}", digest(&manifest))).contains(&digest(&signature)),
        ],
    );
    assert!(!world.store.has_blob(&digest(&old)));

    let all = [
        "i",
        &digest(index.as_bytes()),
        &digest(&manifest),
        &digest(&signature),
    ]
    .map(|reference| Asked::new("DELETE", format!("/v2/a/manifests/{reference}")).status(202));
    world.run("delete", all.to_vec());
    age(&world.store.links_dir());
    world.registry.collect().unwrap();
    world.run(
        "empty",
        vec![get("/v2/_catalog").says(r#"{"repositories":[]}"#)],
    );
    let left = fs::read_dir(world.store.blob("")).unwrap().count();
    assert_eq!(left, 0, "nothing is left");
}

#[test]
fn images_are_removed_around_the_registrys() {
    let world = World::with(options());
    let content = blob(1000);
    packed(&world.store, "mine:1", "1");
    world.run("push", vec![pushed("a", &content)]);
    world.store.remove("mine:1").unwrap();
    world.run(
        "kept",
        vec![get(format!("/v2/a/blobs/{}", digest(&content))).status(200)],
    );
}

#[test]
fn pushes_and_collections_at_once() {
    let world = World::with(options());
    let registry = world.registry.clone();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (layer, config) = (blob(1000), image(&blob(1000)).0);
    std::thread::scope(|scope| {
        let stopped = stop.clone();
        scope.spawn(move || {
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                registry.collect().unwrap();
            }
        });
        for n in 0..40 {
            let repository = format!("r{}", n % 4);
            let (_, manifest) = image(&layer);
            world.run(
                "push",
                vec![
                    pushed(&repository, &layer),
                    pushed(&repository, &config),
                    put(&repository, "1", "manifest", &manifest),
                    get(format!("/v2/{repository}/blobs/{}", digest(&layer))).status(200),
                    Asked::new(
                        "DELETE",
                        format!("/v2/{repository}/manifests/{}", digest(&manifest)),
                    )
                    .status(202),
                    Asked::new(
                        "DELETE",
                        format!("/v2/{repository}/blobs/{}", digest(&layer)),
                    )
                    .status(202),
                ],
            );
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
