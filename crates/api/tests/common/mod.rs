//! A server over a few plain descriptors of our own: what the engine does must not hang on the built-in kinds' hooks.
#![allow(dead_code)]

pub mod access;

use http::{Method, Request};
use knarr_api::{
    ApiServer, Config,
    registry::{Column, FieldError, Generic, Resource, Scale, Selector, Strategy},
};
use kube::{Client, client::Body};
use serde_json::{Value, json};

pub struct Deployments;
impl Strategy for Deployments {
    fn default(&self, o: &mut Value) {
        if o.pointer("/spec/replicas").is_none() && o["spec"].is_object() {
            o["spec"]["replicas"] = 1.into();
        }
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        let replicas = o.pointer("/spec/replicas").and_then(Value::as_i64);
        replicas
            .filter(|n| *n < 0)
            .map(|n| FieldError::Invalid {
                field: "spec.replicas".into(),
                value: n.into(),
                detail: "must be greater than or equal to 0".into(),
            })
            .into_iter()
            .collect()
    }
}

pub struct Pods;
impl Strategy for Pods {
    fn grace_period(&self, o: &Value, requested: Option<i64>) -> Option<i64> {
        if o.pointer("/spec/nodeName").is_none() {
            return Some(0);
        }
        Some(requested.unwrap_or_else(|| {
            o.pointer("/spec/terminationGracePeriodSeconds")
                .and_then(Value::as_i64)
                .unwrap_or(30)
        }))
    }
}

const PLAIN: Resource = Resource {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    has_status: false,
    scale: None,
    subresources: &[],
    selectable_fields: &[],
    columns: &[],
    strategy: &Generic,
    stored: None,
    custom: None,
};

fn text(o: &Value, p: &str) -> String {
    o.pointer(p).and_then(Value::as_str).unwrap_or("").into()
}

pub static RESOURCES: &[Resource] = &[
    Resource {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        namespaced: false,
        has_status: true,
        subresources: &["finalize"],
        ..PLAIN
    },
    Resource {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        columns: &[
            Column {
                name: "Name",
                r#type: "string",
                format: "name",
                description: "Name",
                priority: 0,
                cell: |o| o["metadata"]["name"].clone(),
            },
            Column {
                name: "Data",
                r#type: "string",
                format: "",
                description: "Entries",
                priority: 0,
                cell: |o| o["data"].as_object().map_or(0, |d| d.len()).into(),
            },
        ],
        ..PLAIN
    },
    Resource {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        has_status: true,
        subresources: &["log", "exec", "attach", "binding", "eviction"],
        selectable_fields: &[
            ("spec.nodeName", |o| text(o, "/spec/nodeName")),
            ("status.phase", |o| text(o, "/status/phase")),
        ],
        strategy: &Pods,
        ..PLAIN
    },
    Resource {
        kind: "Service",
        plural: "services",
        singular: "service",
        has_status: true,
        ..PLAIN
    },
    Resource {
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        has_status: true,
        scale: Some(Scale {
            spec_replicas: "/spec/replicas",
            status_replicas: "/status/replicas",
            selector: Selector::LabelSelector("/spec/selector"),
        }),
        strategy: &Deployments,
        ..PLAIN
    },
];

pub struct Fixture {
    pub api: ApiServer,
    pub client: Client,
    pub dir: tempfile::TempDir,
}

pub fn start() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::with_resources(Config::for_tests(dir.path()), RESOURCES).unwrap();
    let client = api.client("admin", &["system:masters"], "tester/1.0");
    Fixture { api, client, dir }
}

/// With all built-in kinds, and so with roles.
pub fn builtin() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::for_tests(dir.path());
    let client = api.client("admin", &["system:masters"], "tester/1.0");
    Fixture { api, client, dir }
}

/// A raw answer.
pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub bytes: Vec<u8>,
}
impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.bytes)))
    }
    pub fn warnings(&self) -> Vec<String> {
        self.headers
            .get_all("warning")
            .iter()
            .map(|v| v.to_str().unwrap().to_string())
            .collect()
    }
}

impl Fixture {
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        send(&self.client, method, path, headers, body).await
    }
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], vec![]).await
    }
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, JSON, body.to_string().into())
            .await
    }
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, JSON, body.to_string().into())
            .await
    }
    pub async fn delete(&self, path: &str, body: Value) -> Answer {
        self.send(Method::DELETE, path, JSON, body.to_string().into())
            .await
    }
    pub async fn patch(&self, path: &str, kind: &str, body: &str) -> Answer {
        let content_type = match kind {
            "apply" => "application/apply-patch+yaml".to_string(),
            k => format!("application/{k}+json"),
        };
        self.send(
            Method::PATCH,
            path,
            &[("content-type", &content_type)],
            body.into(),
        )
        .await
    }
    /// Creates and expects 201.
    pub async fn made(&self, path: &str, body: Value) -> Value {
        let a = self.post(path, body).await;
        assert_eq!(a.code, 201, "{}", String::from_utf8_lossy(&a.bytes));
        a.json()
    }
    pub async fn watch(&self, path: &str) -> Frames {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = self.client.send(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Frames {
            body: response.into_body(),
            rest: vec![],
        }
    }
}

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

pub async fn send(
    client: &Client,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (k, v) in headers {
        request = request.header(*k, *v);
    }
    let response = client
        .send(request.body(Body::from(body)).unwrap())
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    Answer {
        code: parts.status.as_u16(),
        headers: parts.headers,
        bytes: body.collect_bytes().await.unwrap().to_vec(),
    }
}

/// A watch's frames.
pub struct Frames {
    body: Body,
    rest: Vec<u8>,
}
impl Frames {
    /// The next frame; None at the end. Fails after two minutes.
    pub async fn next(&mut self) -> Option<Value> {
        use http_body_util::BodyExt;
        loop {
            if let Some(i) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=i).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame =
                tokio::time::timeout(std::time::Duration::from_secs(120), self.body.frame())
                    .await
                    .expect("a frame in time")?;
            self.rest
                .extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }
    /// `(type, name)` of the next frame.
    pub async fn step(&mut self) -> (String, String) {
        let f = self.next().await.expect("a frame");
        (
            f["type"].as_str().unwrap().into(),
            f["object"]["metadata"]["name"]
                .as_str()
                .unwrap_or("")
                .into(),
        )
    }
}

pub const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

pub fn configmap(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}
pub fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}
pub fn deployment(name: &str, replicas: i64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

/// Frames of a watch's response.
pub fn watch_of(response: http::Response<Body>) -> Frames {
    assert_eq!(response.status(), 200);
    Frames {
        body: response.into_body(),
        rest: vec![],
    }
}
