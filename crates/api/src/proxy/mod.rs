//! The `proxy` subresource of Pods, Services and Nodes: HTTP to what runs behind them, for all methods.

mod forward;
mod place;
mod rewrite;
mod unverified;

pub use forward::{Backend, RequestBody, Tls, forward};
pub use unverified::builder as unverified;

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use serde_json::{Value, json};

pub use place::Place;

use self::place::Of;
use crate::{
    admission, agent_port, agent_streams,
    body::Body,
    catalog::{self, Target},
    identity::Identity,
    object,
    server::Inner,
    status::Failure,
};

/// Answers a request whose path is `place`.
pub async fn answer<B>(
    inner: &Arc<Inner>,
    place: Place,
    mut parts: Parts,
    body: B,
    who: Identity,
) -> Result<Response<Body>, Failure>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let resource = inner
        .catalog()
        .find("", "v1", place.of.plural())
        .ok_or_else(Failure::no_such_path)?;
    let invalid = || {
        Failure::bad_request(format!(
            "invalid {} request {:?}",
            place.of.noun(),
            place.id
        ))
    };
    let (scheme, name, port) = place.address().ok_or_else(invalid)?;
    let target = Target {
        resource,
        namespace: place.namespace.clone(),
        name: place.id.clone(),
        subresource: "proxy".into(),
        watch: false,
    };
    let options = match place.rest.as_str() {
        "" => json!({}),
        path => json!({ "path": path }),
    };
    admission::connect(inner, &who, &target, place.of.options(), options).await?;

    let live = live(inner, &target, name)?;
    if place.of == Of::Node {
        return agent(inner, name, &place.rest, &mut parts).await;
    }
    let (ip, port) = match place.of {
        Of::Pod => pod(&live, port)?,
        _ => {
            let (ip, port) = endpoint(inner, &place.namespace, &live, port)?;
            (ip, Some(port))
        }
    };
    let ip: IpAddr = ip
        .parse()
        .ok()
        .filter(proxyable)
        .ok_or_else(|| Failure::bad_request("address not allowed"))?;
    let port_number = match port {
        Some(port) => port,
        None if scheme == "https" => 443,
        None => 80,
    };
    if place.rest.is_empty()
        && matches!(parts.method, Method::GET | Method::HEAD)
        && !parts.headers.contains_key(header::UPGRADE)
    {
        return Ok(to_folder(&parts));
    }
    let path = parts.uri.path();
    let host = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let backend = Backend {
        tls: match scheme {
            "https" => Tls::Anyone,
            _ => Tls::No,
        },
        ip,
        port: port_number,
        authority: match port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        },
        prefix: Some(path[..path.len() - place.rest.len()].to_string()),
        path: match place.rest.as_str() {
            "" => "/".to_string(),
            path => path.to_string(),
        },
    };
    let body = body.map_err(Into::into).boxed_unsync();
    forward(inner, backend, parts, body).await
}

/// Relative links of the page count from the proxy's own folder.
fn to_folder(parts: &Parts) -> Response<Body> {
    let query = parts.uri.query().map(|q| format!("?{q}"));
    let location = format!("{}/{}", parts.uri.path(), query.unwrap_or_default());
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn live(inner: &Inner, t: &Target, name: &str) -> Result<Value, Failure> {
    let snapshot = inner.store.snapshot();
    let entry = snapshot
        .get(&catalog::key(&t.resource, &t.namespace, name))
        .ok_or_else(|| Failure::not_found(&t.resource, name))?;
    object::parse(&entry.value)
}

/// Only addresses that name a machine elsewhere (upstream's `IsProxyableIP` and Pod strategy).
fn proxyable(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local)
}

fn bad_port(port: &str) -> Failure {
    Failure::bad_request(format!("invalid port {port:?}"))
}

/// A Pod's address; without a port the first one its containers name.
fn pod(live: &Value, port: &str) -> Result<(String, Option<u16>), Failure> {
    let ip = live.pointer("/status/podIP").and_then(Value::as_str);
    let port = match port {
        "" => {
            let containers = live.pointer("/spec/containers").and_then(Value::as_array);
            containers
                .into_iter()
                .flatten()
                .find_map(|c| c.pointer("/ports/0/containerPort"))
                .and_then(Value::as_u64)
                .and_then(|port| u16::try_from(port).ok())
        }
        port => Some(port.parse().map_err(|_| bad_port(port))?),
    };
    Ok((ip.unwrap_or("").to_string(), port))
}

/// A ready endpoint of the port of the Service `live`, which is named by its number or its name.
pub fn endpoint(
    inner: &Inner,
    namespace: &str,
    live: &Value,
    port: &str,
) -> Result<(String, u16), Failure> {
    let name = object::meta(live, "name");
    let shown = format!("{name}:{port}");
    let unavailable = |why: String| Failure::new(503, "ServiceUnavailable", why);
    let text = |v: &Value, k: &str| v[k].as_str().unwrap_or("").to_string();
    let port = match port.parse::<u64>() {
        Err(_) => port.to_string(),
        Ok(number) => {
            let ports = live.pointer("/spec/ports").and_then(Value::as_array);
            let found = ports.into_iter().flatten().find(|p| p["port"] == number);
            let found = found.ok_or_else(|| {
                unavailable(format!(
                    "no service port {number} found for service {name:?}"
                ))
            })?;
            text(found, "name")
        }
    };
    let none = || unavailable(format!("no endpoints available for service {shown:?}"));
    let slices = inner
        .catalog()
        .preferred("discovery.k8s.io", "endpointslices")
        .ok_or_else(none)?;
    let snapshot = inner.store.snapshot();
    let mut found: Vec<(String, u16)> = Vec::new();
    for entry in snapshot.range(&catalog::prefix(&slices, namespace), None) {
        let slice = object::parse(&entry.value)?;
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] != name {
            continue;
        }
        let list = |k: &str| slice[k].as_array().cloned().unwrap_or_default();
        let number = list("ports")
            .iter()
            .find(|p| text(p, "name") == port)
            .and_then(|p| p["port"].as_u64())
            .and_then(|port| u16::try_from(port).ok());
        let Some(number) = number else { continue };
        for endpoint in list("endpoints") {
            if endpoint["conditions"]["ready"] == false {
                continue;
            }
            if let Some(ip) = endpoint["addresses"][0].as_str() {
                found.push((ip.to_string(), number));
            }
        }
    }
    use rand::seq::IndexedRandom;
    found.choose(&mut rand::rng()).cloned().ok_or_else(none)
}

/// What the node's agent answers, which lives in this process: no connection is made.
pub async fn agent(
    inner: &Inner,
    name: &str,
    path: &str,
    parts: &mut Parts,
) -> Result<Response<Body>, Failure> {
    let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    if let Some(answer) = agent_streams::answer(inner, name, &path, parts).await {
        return Ok(answer);
    }
    let Some(agent) = inner.agents.of(name) else {
        let why = format!("the agent of node {name:?} is not running here");
        return Err(Failure::new(503, "ServiceUnavailable", why));
    };
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        let refused = StatusCode::METHOD_NOT_ALLOWED;
        return Ok(agent_port::plain(refused, "405: Method Not Allowed".into()));
    }
    let query = parts.uri.query().unwrap_or("");
    let query: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect();
    let answer = agent.get(&path, &query).await;
    let mut response = Response::new(Body::Stream(answer.body));
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content_type = HeaderValue::from_static(answer.content_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}
