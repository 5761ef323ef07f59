//! What goes from one machine's builds to another's: caches, images of several platforms, archives.

mod common;

use common::{BASE, World};
use futures::FutureExt;
use knarr_build::{
    Annotations, BuildRequest, CacheFrom, CacheTo, Engine, Options, Output, OutputKind, Packing,
    Resolver,
};
use knarr_dockerfile::Platform;
use knarr_image::{Image, ImageStore};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

const STAGES: &str = "FROM busybox:1 AS make\nRUN seq 3 > /made; date +%N > /when\nFROM busybox:1\nCOPY --from=make /made /made\nRUN wc -l /made > /count; cat /proc/sys/kernel/random/uuid > /id";

fn cached(from: &str) -> BuildRequest {
    BuildRequest {
        cache_from: vec![CacheFrom::parse(from).unwrap()],
        ..BuildRequest::default()
    }
}

fn caching(to: &str) -> BuildRequest {
    BuildRequest {
        cache_to: vec![CacheTo::parse(to).unwrap()],
        ..BuildRequest::default()
    }
}

/// The request with this Dockerfile.
fn of(world: &World, dockerfile: &str, request: BuildRequest) -> BuildRequest {
    let plain = world.request(dockerfile, &[("a", "1\n")]);
    BuildRequest {
        context: plain.context,
        dockerfile: plain.dockerfile,
        ..request
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_go_by_a_folder() {
    let (here, there) = (World::new(), World::new());
    let folder = here.dir.path().join("cache");
    for (mode, cached_steps) in [("min", 1), ("max", 3)] {
        let folder = folder.join(mode);
        let to = format!("type=local,dest={},mode={mode}", folder.display());
        let (first, _) = here.good(of(&here, STAGES, caching(&to))).await;
        let fresh = World::new();
        let from = format!("type=local,src={}", folder.display());
        let (second, heard) = fresh.good(of(&fresh, STAGES, cached(&from))).await;
        // with the image's own layers alone the first stage is run, and what is copied from it is the same all the same
        assert!(
            second.steps_cached >= cached_steps,
            "{mode}: {} {:?}",
            second.steps_cached,
            heard.ended(&knarr_build::Outcome::Cached)
        );
        for file in ["made", "id"] {
            assert_eq!(fresh.file(&second, file), here.file(&first, file), "{mode}");
        }
        assert_eq!(second.steps_run, 3 - second.steps_cached, "{mode}");
        fresh.close().await;
    }
    // what isn't there is told, and no failure
    let from = format!("type=local,src={}/none", folder.display());
    let (built, heard) = there.good(of(&there, STAGES, cached(&from))).await;
    assert_eq!(built.steps_run, 3);
    let failed = heard.0.lock().unwrap().iter().any(|e| {
        matches!(
            e,
            knarr_build::Event::Ended {
                outcome: knarr_build::Outcome::Failed(_),
                ..
            }
        )
    });
    assert!(failed);
    here.close().await;
    there.close().await;
}

/// A registry that is a folder of archives.
struct Shelf {
    images: ImageStore,
    folder: PathBuf,
    /// What was asked of it.
    asked: Mutex<Vec<String>>,
}

impl Shelf {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name.replace(['/', ':'], "_"))
    }
}

type Told<'a> = &'a (dyn Fn(&str, u64, u64) + Send + Sync);

impl Resolver for Shelf {
    fn pull<'a>(
        &'a self,
        name: &'a str,
        platform: &'a Platform,
        _: Told<'a>,
    ) -> futures::future::BoxFuture<'a, Result<Image, String>> {
        async move {
            let mut asked = self.asked.lock().unwrap();
            asked.push(format!("pull {name} {platform}"));
            let found = self.images.load(&self.file(name), Some(name));
            found
                .map_err(|e| e.to_string())?
                .pop()
                .ok_or_else(|| "nothing".to_owned())
        }
        .boxed()
    }
    fn fetch<'a>(
        &'a self,
        name: &'a str,
        _: Told<'a>,
    ) -> futures::future::BoxFuture<'a, Result<Image, String>> {
        async move {
            self.asked.lock().unwrap().push(format!("fetch {name}"));
            let found = self.images.read_layout(&self.file(name), None);
            found.map_err(|e| e.to_string())
        }
        .boxed()
    }
    fn push<'a>(
        &'a self,
        image: &'a str,
        to: &'a str,
        _: Told<'a>,
    ) -> futures::future::BoxFuture<'a, Result<(), String>> {
        async move {
            self.asked.lock().unwrap().push(format!("push {to}"));
            let found = self.images.resolve(image).map_err(|e| e.to_string())?;
            let image = found.ok_or("nothing to push")?;
            let saved = self.images.save_image(&image, &self.file(to));
            saved.map_err(|e| e.to_string())
        }
        .boxed()
    }
}

/// A world whose registry is that folder.
fn with_shelf(folder: &Path) -> (World, Arc<Shelf>) {
    let mut world = World::new();
    let shelf = Arc::new(Shelf {
        images: world.images.leased().unwrap(),
        folder: folder.to_owned(),
        asked: Mutex::default(),
    });
    world.engine = Engine::open(Options {
        images: world.images.clone(),
        dir: world.dir.path().join("build"),
        exe: common::EXE.into(),
        cgroup_parent: common::cgroup(world.dir.path()),
        host: Default::default(),
        limits: Default::default(),
        resolver: Some(shelf.clone()),
        networks: None,
    })
    .unwrap();
    (world, shelf)
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_go_by_a_registry_and_inside_images() {
    let shelf = tempfile::tempdir().unwrap();
    let (here, _) = with_shelf(shelf.path());
    let mut request = of(
        &here,
        STAGES,
        caching("type=registry,ref=r.test/cache:1,mode=max"),
    );
    request
        .cache_to
        .push(CacheTo::parse("type=inline").unwrap());
    request.tags = vec!["r.test/app:1".into()];
    request.outputs = vec![Output {
        push: true,
        ..Output::default()
    }];
    let (first, _) = here.good(request).await;
    for (from, at_least) in [("r.test/cache:1", 3), ("type=registry,ref=r.test/app:1", 1)] {
        let (there, asked) = with_shelf(shelf.path());
        let (second, _) = there.good(of(&there, STAGES, cached(from))).await;
        assert!(second.steps_cached >= at_least, "{from}");
        assert_eq!(there.file(&second, "id"), here.file(&first, "id"), "{from}");
        assert_eq!(
            *asked.asked.lock().unwrap(),
            [format!("fetch {}", from.rsplit('=').next().unwrap())]
        );
        // the cache's name is no image here
        let names: Vec<String> = there
            .images
            .list()
            .unwrap()
            .into_iter()
            .map(|i| i.name)
            .collect();
        assert!(names.iter().all(|n| !n.contains("r.test")), "{names:?}");
        there.close().await;
    }
    here.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_lies_is_refused() {
    let world = World::new();
    let folder = world.dir.path().join("cache");
    let to = format!("type=local,dest={},mode=max", folder.display());
    world.good(of(&world, STAGES, caching(&to))).await;
    // the steps' results named as files elsewhere
    let blobs = folder.join("blobs/sha256");
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let read = |digest: &str| -> serde_json::Value {
        let path = blobs.join(digest.trim_start_matches("sha256:"));
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    let write = |value: &serde_json::Value| {
        use sha2::{Digest, Sha256};
        let bytes = serde_json::to_vec(value).unwrap();
        let hex = hex::encode(Sha256::digest(&bytes));
        fs::write(blobs.join(&hex), &bytes).unwrap();
        (format!("sha256:{hex}"), bytes.len())
    };
    let mut manifest = read(digest);
    let mut config = read(manifest["config"]["digest"].as_str().unwrap());
    let steps = &mut config["org.knarr.build.cache.v1"]["steps"];
    for step in steps.as_array_mut().unwrap() {
        step["record"]["snapshot"] = "../../../escaped".into();
    }
    let (digest, size) = write(&config);
    manifest["config"]["digest"] = digest.into();
    manifest["config"]["size"] = size.into();
    let (digest, size) = write(&manifest);
    let mut index = index.clone();
    index["manifests"][0]["digest"] = digest.into();
    index["manifests"][0]["size"] = size.into();
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
    let fresh = World::new();
    let from = format!("type=local,src={}", folder.display());
    let (built, _) = fresh.good(of(&fresh, STAGES, cached(&from))).await;
    assert_eq!((built.steps_run, built.steps_cached), (3, 0));
    assert!(!fresh.dir.path().join("escaped").exists());
    fresh.close().await;
    world.close().await;
}

fn platforms(all: &[&str]) -> Vec<Platform> {
    all.iter().map(|p| Platform::parse(p).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn several_platforms_make_an_index() {
    let world = World::new();
    let dockerfile = "FROM --platform=$BUILDPLATFORM busybox:1 AS make\nRUN echo once > /n; cat /proc/sys/kernel/random/uuid > /id\n\
        FROM scratch\nARG TARGETARCH\nCOPY --from=make /id /id\nCOPY <<E /arch\n$TARGETARCH\nE";
    let mut request = of(&world, dockerfile, BuildRequest::default());
    request.platforms = platforms(&["linux/arm64", "linux/amd64"]);
    request.tags = vec!["multi:1".into()];
    let out = world.context(&[]);
    request.outputs = vec![
        Output::default(),
        Output {
            kind: OutputKind::Local,
            destination: out.join("local"),
            ..Output::default()
        },
        Output {
            kind: OutputKind::Tar,
            destination: out.join("all.tar"),
            ..Output::default()
        },
        Output {
            kind: OutputKind::Oci,
            destination: out.join("oci"),
            unpacked: true,
            ..Output::default()
        },
    ];
    let (built, heard) = world.good(request.clone()).await;
    assert!(built.several);
    let image = built.image.clone().unwrap();
    let index: serde_json::Value =
        serde_json::from_slice(&world.images.read_blob(&image.digest).unwrap()).unwrap();
    let all = index["manifests"].as_array().unwrap();
    let shown: Vec<_> = all
        .iter()
        .map(|m| m["platform"]["architecture"].clone())
        .collect();
    assert_eq!(shown, ["amd64", "arm64"]);
    // the stage that is of this machine is run once for both, and so is what copies the same
    assert_eq!(
        built.steps_run,
        2 + 2,
        "{:?}",
        heard.ended(&knarr_build::Outcome::Done)
    );
    let mut ids = vec![];
    for arch in ["amd64", "arm64"] {
        let own = out.join("local").join(format!("linux_{arch}"));
        assert_eq!(
            fs::read_to_string(own.join("arch")).unwrap(),
            format!("{arch}\n")
        );
        ids.push(fs::read_to_string(own.join("id")).unwrap());
        let platform = format!("linux/{arch}");
        let found = world
            .images
            .resolve_platform("multi:1", &platform)
            .unwrap()
            .unwrap();
        let text = fs::read_to_string(found.layers[0].join("arch")).unwrap();
        assert_eq!(text, format!("{arch}\n"));
        assert!(
            heard
                .ended(&knarr_build::Outcome::Done)
                .iter()
                .any(|n| n.starts_with(&format!("[{platform} stage-1 ")))
        );
    }
    assert_eq!(ids[0], ids[1]);
    let mut archive = tar::Archive::new(fs::File::open(out.join("all.tar")).unwrap());
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|e| e.unwrap().path().unwrap().display().to_string())
        .filter(|n| n.ends_with("arch"))
        .collect();
    assert_eq!(names, ["linux_amd64/arch", "linux_arm64/arch"]);
    assert!(out.join("oci/index.json").exists() && out.join("oci/oci-layout").exists());
    // it is a base for each platform
    let mut on_top = of(&world, "FROM multi:1\nCOPY a /b", BuildRequest::default());
    on_top.platforms = platforms(&["linux/arm64"]);
    let (above, _) = world.good(on_top).await;
    assert_eq!(world.file(&above, "arch").as_deref(), Some("arm64\n"));
    // what Docker's archives can't hold
    request.outputs = vec![Output {
        kind: OutputKind::Docker,
        destination: out.join("docker.tar"),
        ..Output::default()
    }];
    let (failed, _) = world.build(request).await;
    let text = failed.unwrap_err().to_string();
    assert_eq!(
        text,
        "docker exporter does not currently support exporting manifest lists"
    );
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_as_they_were_asked_for() {
    let world = World::new();
    let out = world.context(&[]);
    let manifest = |folder: &Path| -> serde_json::Value {
        let read = |path: PathBuf| -> serde_json::Value {
            serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
        };
        let index = read(folder.join("index.json"));
        let digest = index["manifests"][0]["digest"].as_str().unwrap();
        read(
            folder
                .join("blobs/sha256")
                .join(digest.trim_start_matches("sha256:")),
        )
    };
    for (packing, want) in [
        (None, "application/vnd.oci.image.layer.v1.tar"),
        (
            Some(Packing::Gzip),
            "application/vnd.oci.image.layer.v1.tar+gzip",
        ),
        (
            Some(Packing::Zstd),
            "application/vnd.oci.image.layer.v1.tar+zstd",
        ),
    ] {
        let folder = out.join(format!("{packing:?}"));
        let mut request = of(
            &world,
            &format!("FROM {BASE}\nCOPY a /a"),
            BuildRequest::default(),
        );
        request.not_stored = true;
        let mut annotations = Annotations::default();
        annotations.add("org.example.a=1").unwrap();
        request.annotations = annotations;
        request.outputs = vec![Output {
            kind: OutputKind::Oci,
            destination: folder.clone(),
            unpacked: true,
            compression: packing,
            force_compression: true,
            names: vec!["app:1".into(), "app:2".into()],
            ..Output::default()
        }];
        world.good(request).await;
        let found = manifest(&folder);
        for layer in found["layers"].as_array().unwrap() {
            assert_eq!(layer["mediaType"], want, "{packing:?}");
            let digest = layer["digest"].as_str().unwrap();
            let blob = folder
                .join("blobs/sha256")
                .join(digest.trim_start_matches("sha256:"));
            assert_eq!(
                fs::metadata(blob).unwrap().len(),
                layer["size"],
                "{packing:?}"
            );
        }
        assert_eq!(found["annotations"]["org.example.a"], "1");
        let text = fs::read_to_string(folder.join("index.json")).unwrap();
        for name in ["docker.io/library/app:1", "docker.io/library/app:2"] {
            assert!(text.contains(name), "{text}");
        }
        // and back
        let layouts: BTreeMap<_, _> = [(
            "lay".to_owned(),
            knarr_build::NamedContext::Layout {
                folder,
                reference: Some("2".into()),
            },
        )]
        .into();
        let mut back = of(&world, "FROM lay\nRUN cat /a > /b", BuildRequest::default());
        back.contexts = layouts;
        let (built, _) = world.good(back).await;
        assert_eq!(
            world.file(&built, "b").as_deref(),
            Some("1\n"),
            "{packing:?}"
        );
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_fails_before_anything_is_run() {
    let world = World::new();
    let dockerfile =
        format!("FROM {BASE} AS a\nRUN echo 1 > /a\nFROM nowhere.test/none:1\nCOPY --from=a /a /");
    let (failed, heard) = world
        .build(of(&world, &dockerfile, BuildRequest::default()))
        .await;
    let report = failed.unwrap_err().report();
    assert!(report.contains(">>> FROM nowhere.test/none:1"), "{report}");
    let ran = heard.ended(&knarr_build::Outcome::Done);
    assert!(ran.iter().all(|name| !name.contains("RUN")), "{ran:?}");
    world.close().await;
}
