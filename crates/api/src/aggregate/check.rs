//! Whether an aggregated server can be used (kube-aggregator's remote availability controller).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use knarr_schema::openapi::Foreign;
use serde_json::{Value, json};

use super::{Remote, vouch};
use crate::{admission::stored, catalog, identity::Identity, object, server::Inner};

/// Time for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest document read, in bytes.
const DOCUMENT_BYTES_MAX: usize = 16 << 20;
/// Endpoints tried: one of several may be on its way out.
const ATTEMPTS: usize = 3;

/// The state of its `Available` condition.
pub struct Finding {
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

fn no(reason: &'static str, message: String) -> Finding {
    Finding {
        status: "False",
        reason,
        message,
    }
}

/// Looks at the Service and its endpoints, then asks the server itself, and keeps what it says it serves.
pub async fn check(inner: &Arc<Inner>, remote: &Remote) -> Finding {
    let (namespace, name, port) = (&remote.namespace, &remote.service, remote.port);
    let Some(service) = stored(inner, "", "services", namespace, name) else {
        let message = format!("service/{name} in {namespace:?} is not present");
        return no("ServiceNotFound", message);
    };
    if matches!(service["spec"]["type"].as_str(), None | Some("ClusterIP")) {
        let ports = service["spec"]["ports"].as_array();
        let Some(found) = ports.into_iter().flatten().find(|p| p["port"] == port) else {
            let message =
                format!("service/{name} in {namespace:?} is not listening on port {port}");
            return no("ServicePortError", message);
        };
        let port_name = found["name"].as_str().unwrap_or("");
        match endpoints(inner, namespace, name, port_name) {
            Endpoints::Ready => {}
            Endpoints::NoSlice => {
                let message =
                    format!("cannot find endpointslices for service/{name} in {namespace:?}");
                return no("EndpointsNotFound", message);
            }
            Endpoints::NoneReady => {
                let message = format!(
                    "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
                );
                return no("MissingEndpoints", message);
            }
        }
    }
    let path = format!("/apis/{}/{}", remote.group, remote.version);
    let url = format!("https://{name}.{namespace}.svc:{port}{path}");
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        match get(inner, remote, &path).await {
            Ok((code, body)) if (200..300).contains(&code) => {
                let resources: Value = serde_json::from_slice(&body).unwrap_or_else(|_| json!({}));
                let tag = openapi(inner, remote).await;
                // one that can't be asked now keeps what it said
                let tag = tag.unwrap_or_else(|_| remote.openapi());
                remote.set_documents(resources, tag);
                openapi_v2(inner, remote).await;
                return Finding {
                    status: "True",
                    reason: "Passed",
                    message: "all checks passed".into(),
                };
            }
            Ok((code, _)) => last = format!("bad status from {url}: {code}"),
            Err(why) => last = why,
        }
    }
    no(
        "FailedDiscoveryCheck",
        format!("failing or missing response from {url}: {last}"),
    )
}

enum Endpoints {
    Ready,
    NoSlice,
    NoneReady,
}

fn endpoints(inner: &Inner, namespace: &str, service: &str, port: &str) -> Endpoints {
    let Some(r) = inner
        .catalog()
        .preferred("discovery.k8s.io", "endpointslices")
    else {
        return Endpoints::NoSlice;
    };
    let snapshot = inner.store.snapshot();
    let mut any = false;
    for entry in snapshot.range(&catalog::prefix(&r, namespace), None) {
        let Ok(slice) = object::parse(&entry.value) else {
            continue;
        };
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] != service {
            continue;
        }
        any = true;
        let all = |k: &str| slice[k].as_array().cloned().unwrap_or_default();
        let ready = all("endpoints")
            .iter()
            .any(|e| e["conditions"]["ready"] != false);
        let named = all("ports")
            .iter()
            .any(|p| p["name"].as_str().unwrap_or("") == port && p["port"].is_u64());
        if ready && named {
            return Endpoints::Ready;
        }
    }
    match any {
        true => Endpoints::NoneReady,
        false => Endpoints::NoSlice,
    }
}

async fn get(inner: &Arc<Inner>, remote: &Remote, path: &str) -> Result<(u16, Bytes), String> {
    let (code, _, body) = get_unless(inner, remote, path, "").await?;
    Ok((code, body))
}

/// The answer's code, tag and body; 304 and no body while the tag is still this one.
async fn get_unless(
    inner: &Arc<Inner>,
    remote: &Remote,
    path: &str,
    tag: &str,
) -> Result<(u16, String, Bytes), String> {
    let mut request = Request::get(path).header(http::header::ACCEPT, "application/json");
    if !tag.is_empty() {
        request = request.header(http::header::IF_NONE_MATCH, tag);
    }
    let (mut parts, ()) = request.body(()).map_err(|e| e.to_string())?.into_parts();
    vouch(
        &mut parts.headers,
        &Identity::new("system:kube-aggregator", &["system:masters"]),
    );
    let body = Empty::new().map_err(|e| match e {}).boxed_unsync();
    let work = async {
        let response = remote.send(inner, parts, body).await?;
        let code = response.status().as_u16();
        let tag = response.headers().get(http::header::ETAG);
        let tag = tag.and_then(|t| t.to_str().ok()).unwrap_or("").to_string();
        let body = Limited::new(response.into_body(), DOCUMENT_BYTES_MAX).collect();
        let body = body.await.map_err(|e| e.to_string())?;
        Ok((code, tag, body.to_bytes()))
    };
    let answered = tokio::time::timeout(PATIENCE, work).await;
    answered.unwrap_or_else(|_| Err("context deadline exceeded".into()))
}

/// Brings its part of OpenAPI v2 up to date.
async fn openapi_v2(inner: &Arc<Inner>, remote: &Remote) {
    let known = remote.openapi_v2().map(|(tag, _)| tag).unwrap_or_default();
    let answered = get_unless(inner, remote, "/openapi/v2", &known).await;
    let part = match answered {
        Ok((304, ..)) => return,
        Ok((200, tag, body)) => {
            // without a tag the document itself tells whether it is another
            let tag = if tag.is_empty() {
                crate::discovery::etag(&body)
            } else {
                tag
            };
            if tag == known {
                return;
            }
            let document = serde_json::from_slice::<Value>(&body).ok();
            let part = |d| Foreign::of(d, &remote.group, &remote.version);
            document.map(|d| (tag, Arc::new(part(d))))
        }
        // one that has none, or can't be asked now, keeps what it said
        Ok((404, ..)) => None,
        _ => return,
    };
    remote.set_openapi_v2(part);
}

/// The tag that its OpenAPI index gives its document. Err: it could not be asked.
async fn openapi(inner: &Arc<Inner>, remote: &Remote) -> Result<Option<String>, String> {
    let (code, body) = get(inner, remote, "/openapi/v3").await?;
    if code != 200 {
        return Ok(None);
    }
    let index: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = format!("apis/{}/{}", remote.group, remote.version);
    let url = index["paths"][path.as_str()]["serverRelativeURL"].as_str();
    Ok(url.map(|url| {
        let tag = url.split_once("hash=");
        tag.map_or("", |(_, tag)| tag).to_string()
    }))
}
