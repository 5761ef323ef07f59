//! A registry in memory that can be told to misbehave.

pub mod images;

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
};
use base64::Engine;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

#[derive(Default)]
pub struct Inner {
    pub blobs: HashMap<String, Bytes>,
    /// By repository and tag or digest: type and bytes.
    pub manifests: HashMap<(String, String), (String, Bytes)>,
    /// Blobs that a repository has.
    pub owners: Vec<(String, String)>,
    uploads: HashMap<String, Vec<u8>>,
    /// Uploads so far: two that begin at the same time must not share a name.
    begun: usize,
    /// Requests so far, `METHOD path`.
    pub log: Vec<String>,
    /// Of each blob's bytes that were asked for: which blob, and from which byte on.
    pub begins: Vec<(String, usize)>,
    /// Each is used up by the first request whose path contains the text.
    pub faults: Vec<(String, Fault)>,
    /// Of requests with this method, so many are let through first.
    pub nth: Vec<(String, usize, Fault)>,
    /// User and password that a token is given for; none: everybody may.
    pub login: Option<(String, String)>,
    pub no_ranges: bool,
    /// Uploads come in one request only.
    pub no_streams: bool,
    /// Bytes of blobs that came in requests that ended well.
    pub taken: usize,
}

#[derive(Clone, Debug)]
pub enum Fault {
    Status(u16),
    /// Sends so many bytes and closes.
    Half(usize),
    /// Sends so many bytes and nothing more.
    Stall(usize),
    /// Sends this instead.
    Lie(Vec<u8>),
    /// Takes so many bytes of an upload and fails.
    Took(usize),
    /// Takes so many bytes of an upload and then nothing, until the client is gone.
    Deaf(usize),
}

#[derive(Clone, Default)]
pub struct Registry(pub Arc<Mutex<Inner>>, pub Arc<Mutex<Option<SocketAddr>>>);

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

impl Registry {
    pub async fn start() -> Registry {
        let registry = Registry::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        *registry.1.lock().unwrap() = Some(listener.local_addr().unwrap());
        let app = axum::Router::new()
            .fallback(serve)
            .with_state(registry.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        registry
    }

    /// `HOST:PORT`.
    pub fn host(&self) -> String {
        self.1.lock().unwrap().unwrap().to_string()
    }

    pub fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.0.lock().unwrap())
    }

    pub fn fault(&self, path: &str, fault: Fault) {
        self.with(|r| r.faults.push((path.into(), fault)));
    }

    /// As [`Registry::fault`], for the request with this method that comes after `before` others.
    pub fn fault_nth(&self, method: &str, before: usize, fault: Fault) {
        self.with(|r| r.nth.push((method.into(), before, fault)));
    }

    /// How many requests there were of this method with this in their path.
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.with(|r| {
            let fits = |l: &&String| l.starts_with(method) && l.contains(part);
            r.log.iter().filter(fits).count()
        })
    }
}

async fn serve(State(registry): State<Registry>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_string();
    let query: HashMap<String, String> =
        form_urlencoded::parse(head.uri.query().unwrap_or("").as_bytes())
            .into_owned()
            .collect();
    let fault = registry.with(|r| {
        r.log.push(format!("{} {path}", head.method));
        let at = r
            .faults
            .iter()
            .position(|(part, _)| path.contains(part.as_str()));
        let by_path = at.map(|at| r.faults.remove(at).1);
        let fits = |(method, _, _): &&mut (String, usize, Fault)| *method == head.method.as_str();
        let due = match r.nth.iter_mut().find(fits) {
            Some((_, 0, _)) => r
                .nth
                .iter()
                .position(|(method, _, _)| *method == head.method.as_str()),
            Some((_, left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        by_path.or_else(|| due.map(|at| r.nth.remove(at).2))
    });
    if path == "/token" {
        return token(&registry, &head.headers, &query);
    }
    if let Some(login) = registry.with(|r| r.login.clone()) {
        let want = format!("Bearer token-of-{}", login.0);
        let has = head
            .headers
            .get("authorization")
            .and_then(|v| v.to_str().ok());
        if has != Some(&want) {
            let realm = format!(
                "Bearer realm=\"http://{}/token\",service=\"test\"",
                registry.host()
            );
            return (StatusCode::UNAUTHORIZED, [("www-authenticate", realm)]).into_response();
        }
    }
    if let Some(Fault::Took(n) | Fault::Deaf(n)) = fault {
        let id = path.rsplit('/').next().unwrap_or_default();
        take(&registry, id, n, body).await;
        if let Some(Fault::Deaf(_)) = fault {
            std::future::pending::<()>().await;
        }
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let body = axum::body::to_bytes(body, usize::MAX).await;
    let Ok(body) = body else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    if let Some(Fault::Status(code)) = fault {
        let text = r#"{"errors":[{"code":"UNKNOWN","message":"told to fail"}]}"#;
        return (StatusCode::from_u16(code).unwrap(), text).into_response();
    }
    answer(
        &registry,
        head.method,
        &path,
        &query,
        &head.headers,
        body,
        fault,
    )
}

/// Appends the first bytes of a body to an upload.
async fn take(registry: &Registry, id: &str, mut left: usize, body: Body) {
    use futures::StreamExt;
    let mut pieces = body.into_data_stream();
    while left > 0
        && let Some(Ok(piece)) = pieces.next().await
    {
        let n = piece.len().min(left);
        registry.with(|r| {
            let data = r.uploads.get_mut(id).unwrap();
            data.extend_from_slice(&piece[..n]);
        });
        left -= n;
    }
}

fn token(registry: &Registry, headers: &HeaderMap, query: &HashMap<String, String>) -> Response {
    let login = registry.with(|r| r.login.clone()).unwrap_or_default();
    let pair = format!("{}:{}", login.0, login.1);
    let want = format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(pair)
    );
    let has = headers.get("authorization").and_then(|v| v.to_str().ok());
    if has != Some(&want) || query.get("service").map(String::as_str) != Some("test") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    format!("{{\"token\":\"token-of-{}\",\"expires_in\":300}}", login.0).into_response()
}

fn answer(
    registry: &Registry,
    method: Method,
    path: &str,
    query: &HashMap<String, String>,
    headers: &HeaderMap,
    body: Bytes,
    fault: Option<Fault>,
) -> Response {
    let mut r = registry.0.lock().unwrap();
    let rest = path.strip_prefix("/v2/").unwrap_or("");
    if rest.is_empty() {
        return StatusCode::OK.into_response();
    }
    if let Some((repository, reference)) = rest.split_once("/manifests/") {
        let key = (repository.to_string(), reference.to_string());
        if method == Method::PUT {
            let kind = headers["content-type"].to_str().unwrap().to_string();
            let id = (repository.to_string(), digest(&body));
            r.manifests.insert(id, (kind.clone(), body.clone()));
            r.manifests.insert(key, (kind, body));
            return StatusCode::CREATED.into_response();
        }
        return match r.manifests.get(&key) {
            Some((kind, bytes)) => {
                let bytes = match fault {
                    Some(Fault::Lie(other)) => other.into(),
                    _ => bytes.clone(),
                };
                ([("content-type", kind.clone())], bytes).into_response()
            }
            None => StatusCode::NOT_FOUND.into_response(),
        };
    }
    let (repository, rest) = rest.split_once("/blobs/").unwrap_or((rest, ""));
    if let Some(id) = rest.strip_prefix("uploads/") {
        return upload(&mut r, method, repository, id, query, headers, body);
    }
    let owned = r
        .owners
        .contains(&(repository.to_string(), rest.to_string()));
    let Some(bytes) = r.blobs.get(rest).filter(|_| owned).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if method == Method::HEAD {
        return [("content-length", bytes.len().to_string())].into_response();
    }
    let range = headers.get("range").filter(|_| !r.no_ranges);
    let from = range.map_or(0, |v| {
        let text = v.to_str().unwrap().strip_prefix("bytes=").unwrap();
        text.trim_end_matches('-').parse().unwrap()
    });
    r.begins.push((rest.to_string(), from));
    let part = bytes.slice(from..);
    let mut headers = HeaderMap::new();
    headers.insert("content-length", part.len().into());
    let status = match range {
        Some(_) => {
            let text = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            headers.insert("content-range", text.parse().unwrap());
            StatusCode::PARTIAL_CONTENT
        }
        None => StatusCode::OK,
    };
    use futures::StreamExt;
    let end = futures::stream::once(async {
        // what was sent before must have left
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        Err(std::io::Error::other("closed"))
    });
    let body = match fault {
        Some(Fault::Half(n)) => {
            let first = futures::stream::once(std::future::ready(Ok(part.slice(..n))));
            Body::from_stream(first.chain(end))
        }
        Some(Fault::Stall(n)) => {
            let first =
                futures::stream::once(std::future::ready(Ok::<_, std::io::Error>(part.slice(..n))));
            Body::from_stream(first.chain(futures::stream::pending()))
        }
        Some(Fault::Lie(other)) => {
            headers.insert("content-length", other.len().into());
            other.into()
        }
        _ => part.into(),
    };
    (status, headers, body).into_response()
}

fn upload(
    r: &mut Inner,
    method: Method,
    repository: &str,
    id: &str,
    query: &HashMap<String, String>,
    headers: &HeaderMap,
    body: Bytes,
) -> Response {
    let at = |id: &str| format!("/v2/{repository}/blobs/uploads/{id}?state=x");
    if method == Method::POST {
        if let (Some(digest), Some(from)) = (query.get("mount"), query.get("from"))
            && r.owners.contains(&(from.clone(), digest.clone()))
        {
            r.owners.push((repository.into(), digest.clone()));
            return StatusCode::CREATED.into_response();
        }
        r.begun += 1;
        let id = format!("u{}", r.begun);
        r.uploads.insert(id.clone(), Vec::new());
        return (StatusCode::ACCEPTED, [("location", at(&id))]).into_response();
    }
    if method == Method::DELETE {
        r.uploads.remove(id);
        return StatusCode::NO_CONTENT.into_response();
    }
    let Some(data) = r.uploads.get_mut(id) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if method == Method::GET {
        let range = format!("0-{}", data.len().saturating_sub(1));
        let headers = [("location", at(id)), ("range", range)];
        return (StatusCode::NO_CONTENT, headers).into_response();
    }
    if method == Method::PATCH && r.no_streams {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    if let Some(range) = headers.get("content-range") {
        let want = format!("{}-{}", data.len(), data.len() + body.len() - 1);
        if range.to_str().unwrap() != want {
            return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
        }
    }
    r.taken += body.len();
    data.extend_from_slice(&body);
    if method == Method::PATCH {
        return (StatusCode::ACCEPTED, [("location", at(id))]).into_response();
    }
    let bytes = Bytes::from(data.clone());
    if query.get("digest") != Some(&digest(&bytes)) {
        return StatusCode::BAD_REQUEST.into_response();
    }
    r.uploads.remove(id);
    r.owners.push((repository.into(), digest(&bytes)));
    r.blobs.insert(digest(&bytes), bytes);
    StatusCode::CREATED.into_response()
}
