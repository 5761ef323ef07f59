//! A group version that another server answers, and the way to that server.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Response, request::Parts};
use knarr_schema::openapi::Foreign;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;

use crate::{
    body::Body,
    object::meta,
    proxy::{self, Backend, RequestBody, Tls},
    server::Inner,
    webhook,
};

/// One of them, as its APIService says.
pub struct Remote {
    /// The APIService's.
    pub name: String,
    pub group: String,
    pub version: String,
    pub group_priority: i64,
    pub version_priority: i64,
    pub namespace: String,
    pub service: String,
    pub port: u16,
    spec: Value,
    tls: Result<(Arc<ClientConfig>, ServerName<'static>), String>,
    available: AtomicBool,
    /// its APIResourceList and the tag of its OpenAPI document, when it was last asked
    documents: Mutex<(Option<Arc<Value>>, Option<String>)>,
    /// its part of OpenAPI v2, and the tag of the document that it is of
    v2: Mutex<Option<Part>>,
}

/// Part of an OpenAPI v2 document, and the whole one's tag.
pub type Part = (String, Arc<Foreign>);

/// All of them by group and version.
#[derive(Default)]
pub struct Remotes(BTreeMap<(String, String), Arc<Remote>>);

impl Remotes {
    /// Those of these APIServices; what hasn't changed is kept from before.
    pub fn new(inner: &Inner, before: &Remotes, objects: &[Value]) -> Remotes {
        let mut all = BTreeMap::new();
        for o in objects {
            let text = |k: &str| o["spec"][k].as_str().unwrap_or("").to_string();
            let key = (text("group"), text("version"));
            let old = before.0.get(&key).filter(|r| r.spec == o["spec"]);
            let remote = match old {
                Some(old) => old.clone(),
                None => Arc::new(Remote::new(inner, o)),
            };
            all.insert(key, remote);
        }
        Remotes(all)
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn find(&self, group: &str, version: &str) -> Option<&Arc<Remote>> {
        self.0.get(&(group.to_string(), version.to_string()))
    }
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Remote>> {
        self.0.values()
    }
}

impl Remote {
    fn new(inner: &Inner, o: &Value) -> Remote {
        let spec = &o["spec"];
        let text = |v: &Value| v.as_str().unwrap_or("").to_string();
        let number = |v: &Value| v.as_i64().unwrap_or(0);
        let (namespace, service) = (
            text(&spec["service"]["namespace"]),
            text(&spec["service"]["name"]),
        );
        let conditions = o["status"]["conditions"].as_array();
        let available = conditions
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Available" && c["status"] == "True");
        Remote {
            name: meta(o, "name").to_string(),
            group: text(&spec["group"]),
            version: text(&spec["version"]),
            group_priority: number(&spec["groupPriorityMinimum"]),
            version_priority: number(&spec["versionPriority"]),
            port: u16::try_from(number(&spec["service"]["port"])).unwrap_or(443),
            tls: tls(inner, spec, &format!("{service}.{namespace}.svc")),
            namespace,
            service,
            spec: spec.clone(),
            available: AtomicBool::new(available),
            documents: Mutex::default(),
            v2: Mutex::default(),
        }
    }

    pub fn is_available(&self) -> bool {
        self.available.load(Ordering::Relaxed)
    }
    pub fn set_available(&self, yes: bool) {
        self.available.store(yes, Ordering::Relaxed);
    }
    /// Its APIResourceList.
    pub fn resources(&self) -> Option<Arc<Value>> {
        self.documents.lock().0.clone()
    }
    /// Tag of its OpenAPI v3 document, when it has one.
    pub fn openapi(&self) -> Option<String> {
        self.documents.lock().1.clone()
    }
    pub fn set_documents(&self, resources: Value, openapi: Option<String>) {
        *self.documents.lock() = (Some(Arc::new(resources)), openapi);
    }

    /// Its part of OpenAPI v2, when it has one.
    pub fn openapi_v2(&self) -> Option<Part> {
        self.v2.lock().clone()
    }
    pub fn set_openapi_v2(&self, part: Option<Part>) {
        *self.v2.lock() = part;
    }

    /// Sends a request to an endpoint of the Service. Err is what is told to the client.
    pub async fn send(
        &self,
        inner: &Arc<Inner>,
        parts: Parts,
        body: RequestBody,
    ) -> Result<Response<Body>, String> {
        let (config, name) = self.tls.clone()?;
        let (host, port) = webhook::service(inner, &self.namespace, &self.service, self.port)?;
        let backend = Backend {
            tls: Tls::Verified(config, name),
            ip: address(&host, port).await?,
            port,
            authority: format!("{}.{}.svc:{}", self.service, self.namespace, self.port),
            path: parts.uri.path().to_string(),
            prefix: None,
        };
        let sent = proxy::forward(inner, backend, parts, body).await;
        sent.map_err(|f| f.message().to_string())
    }
}

/// An IP address; of a Service that stands for another host, that host's.
async fn address(host: &str, port: u16) -> Result<IpAddr, String> {
    if let Ok(ip) = host.parse() {
        return Ok(ip);
    }
    let mut found = tokio::net::lookup_host((host, port))
        .await
        .map_err(|e| format!("dial tcp: lookup {host}: {e}"))?;
    let first = found
        .next()
        .ok_or_else(|| format!("dial tcp: lookup {host}: no such host"))?;
    Ok(first.ip())
}

fn tls(
    inner: &Inner,
    spec: &Value,
    name: &str,
) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
    let builder = if spec["insecureSkipTLSVerify"] == true {
        proxy::unverified().map_err(|e| e.to_string())?
    } else {
        let bundle = STANDARD
            .decode(spec["caBundle"].as_str().unwrap_or(""))
            .map_err(|e| format!("caBundle is not base64: {e}"))?;
        webhook::verifying(&bundle)?
    };
    let (chain, key) = inner.pki.front_proxy().map_err(|e| e.to_string())?;
    let config = builder
        .with_client_auth_cert(chain, key)
        .map_err(|e| e.to_string())?;
    let name = ServerName::try_from(name.to_string()).map_err(|e| format!("{name:?}: {e}"))?;
    Ok((Arc::new(config), name))
}
