//! Requests in, answers out.

use crate::{
    Error, Options, auth, blobs,
    error::Refusal,
    links::Links,
    lists, manifests,
    names::Names,
    push,
    route::{self, Target},
    uploads::Uploads,
};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use knarr_image::ImageStore;
use std::{sync::Arc, time::Duration};
use tokio::sync::{Notify, Semaphore};

/// Requests answered side by side; more wait.
const REQUESTS_MAX: usize = 128;
/// Requests that look at files side by side; more wait.
const BLOCKING_MAX: usize = 8;
/// How much of a refused request's body is read, in bytes, so that the client gets to read why.
const DRAIN_MAX: usize = 16 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// A registry over one image store.
pub struct Registry {
    pub(crate) names: Names,
    pub(crate) uploads: Uploads,
    pub(crate) options: Options,
    requests: Semaphore,
    blocking: Semaphore,
    /// Something was deleted, or replaced.
    pub(crate) stale: Notify,
}

impl Registry {
    /// Opens what the store's folder has of a registry, or makes it. Blocking.
    ///
    /// # Errors
    /// When the folders can't be made.
    pub fn open(store: ImageStore, options: Options) -> Result<Arc<Registry>, Error> {
        let dir = store.links_dir();
        let io = |source| Error::Io {
            path: dir.clone(),
            source,
        };
        let links = Links::open(&dir).map_err(io)?;
        let (most, age) = (options.uploads_max, options.upload_age);
        let uploads = Uploads::open(dir.join("registry/uploads"), most, age).map_err(io)?;
        Ok(Arc::new(Registry {
            names: Names {
                store,
                links,
                hosts: options.hosts.clone(),
                seen: Default::default(),
            },
            uploads,
            options,
            requests: Semaphore::new(REQUESTS_MAX),
            blocking: Semaphore::new(BLOCKING_MAX),
            stale: Notify::new(),
        }))
    }

    /// Its API, `/v2/` and below.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new().fallback(handle).with_state(self.clone())
    }

    /// Runs what looks at files.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Registry) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let _permit = self.blocking.acquire().await.map_err(Refusal::internal)?;
        let this = self.clone();
        tokio::task::spawn_blocking(move || work(&this))
            .await
            .map_err(Refusal::internal)?
    }
}

/// A registry's API over `store`; blocking for an instant, while its folders are made.
///
/// # Errors
/// When they can't be made.
pub fn router(store: ImageStore, options: Options) -> Result<Router, Error> {
    Ok(Registry::open(store, options)?.router())
}

async fn handle(State(registry): State<Arc<Registry>>, request: Request) -> Response {
    let Ok(_permit) = registry.requests.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let (parts, body) = request.into_parts();
    let mut body = Some(body);
    let mut response = match answer(&registry, &parts, &mut body).await {
        Ok(response) => response,
        Err(refusal) => {
            tracing::debug!(method = %parts.method, path = parts.uri.path(), code = refusal.code, message = refusal.message, "refused");
            if let Some(body) = body {
                drain(body).await;
            }
            refusal.into_response()
        }
    };
    let headers = response.headers_mut();
    headers.insert(
        "docker-distribution-api-version",
        HeaderValue::from_static("registry/2.0"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

async fn drain(body: Body) {
    let mut stream = body.into_data_stream();
    let all = async {
        let mut read = 0;
        while let Some(Ok(bytes)) = stream.next().await {
            read += bytes.len();
            if read > DRAIN_MAX {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_TIME, all).await;
}

async fn answer(
    registry: &Arc<Registry>,
    parts: &Parts,
    body: &mut Option<Body>,
) -> Result<Response, Refusal> {
    auth::known_host(registry, parts)?;
    let target = route::parse(parts.uri.path())?;
    if target == Target::Token {
        return auth::token(registry, parts).await;
    }
    let granted = auth::authorize(registry, parts, &target).await?;
    let query = parts.uri.query();
    let reads = matches!(parts.method, Method::GET | Method::HEAD);
    let mut body = || body.take().unwrap_or_default();
    match (target, parts.method.clone()) {
        (Target::Base, _) if reads => {
            Ok(([(header::CONTENT_TYPE, "application/json")], "{}").into_response())
        }
        (Target::Catalog, _) if reads => lists::catalog(registry, query).await,
        (Target::Tags(name), _) if reads => lists::tags(registry, name, query).await,
        (Target::Referrers(name, digest), _) if reads => {
            lists::referrers(registry, name, digest, query).await
        }
        (Target::Blob(name, digest), _) if reads => blobs::get(registry, parts, name, digest).await,
        (Target::Blob(name, digest), Method::DELETE) => blobs::delete(registry, name, digest).await,
        (Target::Manifest(name, reference), _) if reads => {
            manifests::get(registry, parts, name, reference).await
        }
        (Target::Manifest(name, reference), Method::PUT) => {
            manifests::put(registry, parts, name, reference, body()).await
        }
        (Target::Manifest(name, reference), Method::DELETE) => {
            manifests::delete(registry, name, reference).await
        }
        (Target::Uploads(name), Method::POST) => {
            push::begin(registry, parts, &granted, name, body()).await
        }
        (Target::Upload(name, id), Method::PATCH) => {
            push::chunk(registry, parts, name, id, body()).await
        }
        (Target::Upload(name, id), Method::PUT) => {
            push::finish(registry, parts, name, id, body()).await
        }
        (Target::Upload(name, id), _) if reads => push::status(registry, name, id).await,
        (Target::Upload(name, id), Method::DELETE) => push::cancel(registry, name, id).await,
        (target, method) => {
            let allowed = match target {
                Target::Blob(..) => "GET, HEAD, DELETE",
                Target::Manifest(..) => "GET, HEAD, PUT, DELETE",
                Target::Uploads(_) => "POST",
                Target::Upload(..) => "GET, PATCH, PUT, DELETE",
                _ => "GET, HEAD",
            };
            let why = format!("{method} is not possible here: use {allowed}");
            Err(Refusal::method(why).header(header::ALLOW, allowed))
        }
    }
}

/// The host that the client asked, as it calls it.
pub(crate) fn host(parts: &Parts) -> Option<&str> {
    let header = parts
        .headers
        .get(header::HOST)
        .and_then(|h| h.to_str().ok());
    header.or_else(|| parts.uri.authority().map(|a| a.as_str()))
}
