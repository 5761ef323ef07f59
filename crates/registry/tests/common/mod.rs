//! A registry in this process, and requests to it.
#![allow(dead_code)] // not each test uses all of it

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use http_body_util::BodyExt;
use knarr_image::ImageStore;
use knarr_registry::{Options, Registry};
use sha2::Digest as _;
use std::sync::{Arc, Mutex};
use tower::ServiceExt;

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

pub fn sha512(bytes: &[u8]) -> String {
    format!("sha512:{}", hex::encode(sha2::Sha512::digest(bytes)))
}

/// So many bytes, always the same.
pub fn blob(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 % 251) as u8).collect()
}

/// The config and the manifest of an image of one layer.
pub fn image(layer: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let config = serde_json::json!({ "architecture": "none", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [digest(layer)] } });
    let config = config.to_string().into_bytes();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(layer), "size": layer.len() }],
    });
    (config, manifest.to_string().into_bytes())
}

/// A manifest of nothing whose subject is another.
pub fn referrer(subject: &[u8], kind: Option<&str>, note: &str) -> Vec<u8> {
    let mut manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2 },
        "layers": [],
        "subject": { "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(subject), "size": subject.len() },
        "annotations": { "n": note },
    });
    if let Some(kind) = kind {
        manifest["artifactType"] = kind.into();
    }
    manifest.to_string().into_bytes()
}

/// A request, and what the answer should be.
#[derive(Clone)]
pub struct Asked {
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    status: Option<u16>,
    want: Vec<Want>,
}

#[derive(Clone)]
enum Want {
    Header(String, String),
    NoHeader(String),
    Body(String),
    Contains(String),
    Lacks(String),
    Code(String),
}

impl Asked {
    /// `{upload}` and `{id}` in the path are the last upload's address and id.
    pub fn new(method: &'static str, path: impl Into<String>) -> Asked {
        Asked {
            method,
            path: path.into(),
            headers: Vec::new(),
            body: Vec::new(),
            status: None,
            want: Vec::new(),
        }
    }
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Asked {
        self.headers.push((name.into(), value.into()));
        self
    }
    pub fn body(mut self, body: &[u8]) -> Asked {
        self.body = body.to_vec();
        self
    }
    pub fn status(mut self, status: u16) -> Asked {
        self.status = Some(status);
        self
    }
    fn want(mut self, want: Want) -> Asked {
        self.want.push(want);
        self
    }
    pub fn has(self, name: &str, value: &str) -> Asked {
        self.want(Want::Header(name.into(), value.into()))
    }
    pub fn hasnt(self, name: &str) -> Asked {
        self.want(Want::NoHeader(name.into()))
    }
    /// The whole body.
    pub fn says(self, body: &str) -> Asked {
        self.want(Want::Body(body.into()))
    }
    pub fn contains(self, part: &str) -> Asked {
        self.want(Want::Contains(part.into()))
    }
    pub fn lacks(self, part: &str) -> Asked {
        self.want(Want::Lacks(part.into()))
    }
    /// The specification's code of a refusal.
    pub fn code(self, code: &str) -> Asked {
        self.want(Want::Code(code.into()))
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub store: ImageStore,
    pub registry: Arc<Registry>,
    router: Router,
    runtime: tokio::runtime::Runtime,
    upload: Mutex<String>,
}

impl World {
    pub fn new() -> World {
        World::with(Options {
            hosts: vec!["localhost:5000".into(), "registry.test:5000".into()],
            ..Options::default()
        })
    }

    pub fn with(options: Options) -> World {
        World::at(tempfile::tempdir().unwrap(), options)
    }

    pub fn at(dir: tempfile::TempDir, options: Options) -> World {
        let store = ImageStore::open(dir.path()).unwrap();
        let registry = Registry::open(store.clone(), options).unwrap();
        World {
            dir,
            store,
            router: registry.router(),
            registry,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
            upload: Mutex::default(),
        }
    }

    /// The same folder with a registry that was started anew.
    pub fn restarted(self, options: Options) -> World {
        let upload = self.upload.lock().unwrap().clone();
        let world = World::at(self.dir, options);
        *world.upload.lock().unwrap() = upload;
        world
    }

    pub fn ask(&self, asked: &Asked) -> Answer {
        let upload = self.upload.lock().unwrap().clone();
        let id = upload.rsplit('/').next().unwrap_or("").to_string();
        let path = asked.path.replace("{upload}", &upload).replace("{id}", &id);
        let mut request = Request::builder().method(asked.method).uri(&path);
        if !asked.headers.iter().any(|(name, _)| name == "host") {
            request = request.header("host", "localhost:5000");
        }
        for (name, value) in &asked.headers {
            request = request.header(name, value);
        }
        let request = request.body(Body::from(asked.body.clone())).unwrap();
        self.runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await.unwrap();
            let (parts, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes().to_vec();
            if let Some(location) = parts.headers.get("location") {
                let location = location.to_str().unwrap();
                if location.contains("/blobs/uploads/") {
                    *self.upload.lock().unwrap() = location.to_string();
                }
            }
            Answer {
                status: parts.status,
                headers: parts.headers,
                body,
            }
        })
    }

    pub fn run(&self, name: &str, steps: Vec<Asked>) {
        for (number, step) in steps.iter().enumerate() {
            let answer = self.ask(step);
            let body = String::from_utf8_lossy(&answer.body);
            let at = format!("{name}, step {}: {} {}", number + 1, step.method, step.path);
            if let Some(status) = step.status {
                assert_eq!(answer.status.as_u16(), status, "{at}: {body}");
            }
            for want in &step.want {
                match want {
                    Want::Header(name, value) => {
                        let all = answer.headers.get_all(name);
                        let has = all.iter().any(|v| v == value);
                        assert!(has, "{at}: {name} should be {value}: {:?}", answer.headers);
                    }
                    Want::NoHeader(name) => {
                        assert!(!answer.headers.contains_key(name), "{at}: {name}");
                    }
                    Want::Body(want) => assert_eq!(&body, want, "{at}"),
                    Want::Contains(part) => assert!(body.contains(part), "{at}: {part} in {body}"),
                    Want::Lacks(part) => assert!(!body.contains(part), "{at}: {part} in {body}"),
                    Want::Code(code) => {
                        let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
                        assert_eq!(said["errors"][0]["code"], *code, "{at}: {body}");
                        assert!(
                            said["errors"][0]["message"]
                                .as_str()
                                .is_some_and(|m| !m.is_empty()),
                            "{at}"
                        );
                    }
                }
            }
        }
    }
}
