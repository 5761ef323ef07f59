//! A store with a small base image, an engine, and builds of Dockerfiles given as text.
#![allow(dead_code)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use knarr_build::{
    BuildRequest, Built, Context, DockerfileFrom, Engine, Error, Event, Limits, Options, Outcome,
    build,
};
use knarr_image::{ImageConfig, ImageStore, PackSpec};

pub const EXE: &str = env!("CARGO_BIN_EXE_knarr-build-test");
pub const BASE: &str = "busybox:1";

pub struct World {
    pub dir: tempfile::TempDir,
    pub images: ImageStore,
    pub engine: Engine,
}

/// What a build told.
#[derive(Default, Clone)]
pub struct Heard(pub Arc<Mutex<Vec<Event>>>);

impl Heard {
    /// Names of the steps that ended so.
    pub fn ended(&self, wanted: &Outcome) -> Vec<String> {
        let all = self.0.lock().unwrap();
        let mut names = BTreeMap::new();
        let mut found = vec![];
        for event in all.iter() {
            match event {
                Event::Started { id, name } => {
                    names.insert(*id, name.clone());
                }
                Event::Ended { id, outcome, .. } if outcome == wanted => {
                    found.push(names[id].clone());
                }
                _ => {}
            }
        }
        found
    }
    /// All output, as text.
    pub fn output(&self) -> String {
        let all = self.0.lock().unwrap();
        let mut bytes = vec![];
        for event in all.iter() {
            if let Event::Output { bytes: more, .. } = event {
                bytes.extend_from_slice(more);
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
    pub fn warnings(&self) -> Vec<String> {
        let all = self.0.lock().unwrap();
        let text = |e: &Event| match e {
            Event::Warning { text } => Some(text.clone()),
            _ => None,
        };
        all.iter().filter_map(text).collect()
    }
}

impl World {
    pub fn new() -> World {
        assert!(
            rustix::process::geteuid().is_root(),
            "builds make containers: run these tests as root"
        );
        let dir = tempfile::Builder::new()
            .prefix("knarr-build")
            .tempdir_in("/var/tmp")
            .unwrap();
        let images = ImageStore::open(&dir.path().join("images")).unwrap();
        base(&images, dir.path());
        let engine = engine(dir.path(), &images);
        World {
            dir,
            images,
            engine,
        }
    }
    /// A context with these files; a path that ends in `/` is a folder.
    pub fn context(&self, files: &[(&str, &str)]) -> PathBuf {
        let dir = tempfile::tempdir_in(self.dir.path()).unwrap().keep();
        write(&dir, files);
        dir
    }
    pub fn request(&self, dockerfile: &str, files: &[(&str, &str)]) -> BuildRequest {
        BuildRequest {
            context: Context::Folder(self.context(files)),
            dockerfile: DockerfileFrom::Text(dockerfile.into()),
            ..BuildRequest::default()
        }
    }
    pub async fn build(&self, request: BuildRequest) -> (Result<Built, Error>, Heard) {
        let heard = Heard::default();
        let into = heard.0.clone();
        let told = move |event: Event| into.lock().unwrap().push(event);
        let built = build(&self.engine, request, &told).await;
        (built, heard)
    }
    pub async fn good(&self, request: BuildRequest) -> (Built, Heard) {
        let (built, heard) = self.build(request).await;
        match built {
            Ok(built) => (built, heard),
            Err(e) => panic!("{}\n{}", e.report(), heard.output()),
        }
    }
    /// The image's config as JSON.
    pub fn config(&self, built: &Built) -> serde_json::Value {
        self.images
            .raw_config(built.image.as_ref().unwrap())
            .unwrap()
    }
    /// A file of the image, from the topmost layer that has it.
    pub fn file(&self, built: &Built, path: &str) -> Option<String> {
        let layers = &built.image.as_ref().unwrap().layers;
        let path = path.trim_start_matches('/');
        layers
            .iter()
            .find_map(|l| fs::read_to_string(l.join(path)).ok())
    }
    pub async fn close(self) {
        self.engine.close().await.unwrap();
        drop(self.dir);
    }
}

pub fn engine(dir: &Path, images: &ImageStore) -> Engine {
    Engine::open(Options {
        images: images.clone(),
        dir: dir.join("build"),
        exe: EXE.into(),
        cgroup_parent: cgroup(dir),
        host: Default::default(),
        limits: Limits::default(),
        resolver: None,
        networks: None,
    })
    .unwrap()
}

/// One that no other world of this process has.
pub fn cgroup(dir: &Path) -> String {
    let name = dir.file_name().unwrap().to_string_lossy();
    format!("/knarr-build-test-{}-{name}", std::process::id())
}

/// busybox with its usual names and some accounts.
pub fn base(images: &ImageStore, dir: &Path) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .find(|p| Path::new(p).exists())
        .expect("busybox-static has to be installed");
    let root = dir.join("base");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "echo", "ls", "mkdir", "id", "touch", "rm", "sleep", "env", "stat", "test",
        "true", "false", "chmod", "date", "cp", "mv", "ln", "grep", "pwd", "hostname", "dd",
        "find", "sort", "wc", "kill", "nc", "od", "seq", "head",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    write(
        &root,
        &[
            (
                "etc/passwd",
                "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/sh\n",
            ),
            ("etc/group", "root:x:0:root\nweb:x:34:\nlog:x:4:web\n"),
            ("root/", ""),
            ("tmp/", ""),
        ],
    );
    let spec = PackSpec {
        add: vec![
            (root.join("bin"), "/bin".into()),
            (root.join("etc"), "/etc".into()),
            (root.join("root"), "/root".into()),
            (root.join("tmp"), "/tmp".into()),
        ],
        config: ImageConfig {
            cmd: vec!["sh".into()],
            env: vec!["PATH=/bin".into(), "FROM_BASE=yes".into()],
            ..ImageConfig::default()
        },
        name: BASE.into(),
        bare: true,
        ..PackSpec::default()
    };
    images.pack(&spec).unwrap();
}

pub fn write(dir: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let at = dir.join(path);
        if path.ends_with('/') {
            fs::create_dir_all(&at).unwrap();
            continue;
        }
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(&at, text).unwrap();
    }
}
