//! The server's state, and a request's way through it: authentication, routing, the answer's encoding.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Limited};
use tokio::sync::{Mutex, OnceCell};
use tokio_util::sync::CancellationToken;

use crate::{
    Config, PodStreams, access,
    access::{Access, authenticate, impersonate, tokens},
    aggregate::{self, Aggregation},
    audit::{self, Audit},
    body::Body,
    bootstrap,
    catalog::{Catalog, Route, Target},
    discovery, encoding,
    fairness::{self, Fairness},
    health, identity,
    identity::Identity,
    metrics::Metrics,
    negotiate::{self, Endpoint, Wants},
    openapi::OpenApi,
    pages::Pages,
    pki::Pki,
    query::Query,
    request_info::RequestInfo,
    resource,
    status::Failure,
    text,
};

/// Largest request body, in bytes (upstream's limit).
pub const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Bytes read of a body that nobody asked for, and the time for them (Go's HTTP server has the same bound).
const DRAINED_BYTES_MAX: usize = 256 << 10;
const DRAIN_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// Time a request's body may take to arrive.
const BODY_PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// All a request needs.
pub struct Inner {
    /// The objects.
    pub store: knarr_store::Store,
    /// As given at the start.
    pub config: Config,
    /// Resources served; see [`Inner::catalog`].
    pub served: ArcSwap<Catalog>,
    /// The streams of the nodes that are there, by the nodes' names.
    pub streams: ArcSwap<BTreeMap<String, Arc<dyn PodStreams>>>,
    /// The nodes' agents.
    pub agents: crate::measured::Agents,
    /// Who knows whether the controllers run.
    pub components: crate::components::Components,
    /// How the server's checks came out.
    pub slis: crate::slis::Slis,
    /// `/statusz` and `/flagz`.
    pub zpages: crate::zpages::Pages,
    /// Frames of watches.
    pub frames: crate::frames::Frames,
    /// Snapshots of chunked lists.
    pub pages: Pages,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Compressed documents.
    pub openapi: OpenApi,
    /// Keys and certificates.
    pub pki: Pki,
    /// Who answers what this server doesn't.
    pub aggregation: Aggregation,
    /// Who is served when there is too much to do.
    pub fairness: Fairness,
    /// The audit log, when one is kept.
    pub audit: std::sync::OnceLock<Audit>,
    /// Who may do what.
    pub access: Access,
    /// Held while a Service is written: the addresses and ports its hooks find free stay free until the commit.
    pub allocation: Mutex<()>,
    /// The MutatingAdmissionPolicies configured.
    pub mutating_policies: crate::admission::policy::mutating::State,
    /// The ValidatingAdmissionPolicies configured.
    pub validating_policies: crate::admission::policy::validating::State,
    /// The webhooks configured.
    pub hooks: crate::admission::webhooks::State,
    /// Connections to webhooks.
    pub webhooks: crate::webhook::Pool,
    /// Held while a namespace's quotas are charged.
    pub quota_locks: crate::admission::quota::Locks,
    /// Cancelled when the server is to end: watches do, too.
    pub stopping: CancellationToken,
    /// CustomResourceDefinitions, and what is served of them.
    pub definitions: crate::crd::Definitions,
    ready: OnceCell<()>,
}

/// A request whose body has been read.
pub struct Call {
    /// Method, URI, headers, extensions.
    pub parts: Parts,
    /// The body.
    pub body: Bytes,
    /// Decoded query.
    pub query: Query,
    /// Who asks.
    pub who: Identity,
}

/// An answer before its encoding.
pub struct Answer {
    /// HTTP code.
    pub code: StatusCode,
    /// JSON, unless `content_type` says otherwise.
    pub body: Body,
    /// Content-Type.
    pub content_type: &'static str,
    /// For the Warning header.
    pub warnings: Vec<String>,
    /// The body is JSON of an API object, sent as the client prefers it; None: as it is.
    pub negotiated: Option<Endpoint>,
}
impl Answer {
    /// 200 with JSON.
    pub fn ok(body: impl Into<Body>) -> Answer {
        Answer::coded(StatusCode::OK, body)
    }
    /// JSON with another code.
    pub fn coded(code: StatusCode, body: impl Into<Body>) -> Answer {
        Answer {
            code,
            body: body.into(),
            content_type: "application/json",
            warnings: vec![],
            negotiated: Some(Endpoint::BuiltIn),
        }
    }
    /// Of this type, whatever the client prefers.
    pub fn fixed(content_type: &'static str, body: impl Into<Body>) -> Answer {
        Answer {
            content_type,
            negotiated: None,
            ..Answer::ok(body)
        }
    }
    /// With warnings.
    pub fn warn(mut self, warnings: Vec<String>) -> Answer {
        self.warnings = warnings;
        self
    }
    /// With the headers of every API answer.
    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.code;
        if let Some(endpoint) = self.negotiated {
            response
                .extensions_mut()
                .insert(encoding::Negotiated(endpoint));
        }
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(self.content_type),
        );
        headers.insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("no-cache, private"),
        );
        warn_all(headers, &self.warnings);
        response
    }
}
/// A Warning header for each that is not there yet.
fn warn_all(headers: &mut http::HeaderMap, warnings: &[String]) {
    for (i, w) in warnings.iter().enumerate() {
        if !warnings[..i].contains(w) {
            warn(headers, w);
        }
    }
}
/// One more Warning header.
fn warn(headers: &mut http::HeaderMap, text: &str) {
    let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
    if let Ok(v) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
        headers.append(header::WARNING, v);
    }
}
impl From<Bytes> for Body {
    fn from(b: Bytes) -> Body {
        Body::Whole(b)
    }
}

/// A failure as a response.
pub fn failure_response(f: &Failure) -> Response<Body> {
    let mut body = f.to_value().to_string();
    body.push('\n');
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        StatusCode::from_u16(f.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    if let Some(s) = f.retry_after_seconds() {
        headers.insert(header::RETRY_AFTER, s.into());
    }
    warn_all(headers, f.warnings());
    response
        .extensions_mut()
        .insert(encoding::Negotiated(Endpoint::Document));
    response
}

impl Inner {
    /// The state around a store; nothing is written before the first request.
    pub fn new(config: Config, catalog: Catalog, pki: Pki, access: Access) -> Inner {
        Inner {
            store: config.store.clone(),
            config,
            served: ArcSwap::from_pointee(catalog),
            streams: ArcSwap::default(),
            agents: Default::default(),
            components: Default::default(),
            slis: Default::default(),
            zpages: Default::default(),
            frames: Default::default(),
            pages: Pages::default(),
            metrics: Arc::default(),
            openapi: OpenApi::default(),
            pki,
            aggregation: Aggregation::default(),
            fairness: Fairness::default(),
            audit: std::sync::OnceLock::new(),
            access,
            allocation: Mutex::new(()),
            mutating_policies: Default::default(),
            validating_policies: Default::default(),
            hooks: Default::default(),
            webhooks: Default::default(),
            quota_locks: Default::default(),
            stopping: CancellationToken::new(),
            definitions: crate::crd::Definitions::default(),
            ready: OnceCell::new(),
        }
    }

    /// The resources served at this moment.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.served.load_full()
    }

    /// Makes what every cluster has, once.
    pub async fn ready(self: &Arc<Self>) -> Result<(), Failure> {
        self.ready
            .get_or_try_init(|| async {
                // before anything else, so that no request finds less than was served before the restart
                crate::crd::sync(self).await;
                bootstrap::run(self).await
            })
            .await
            .map(|_| ())
    }

    /// Answers one request.
    pub async fn handle<B>(self: &Arc<Self>, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (mut parts, body) = request.into_parts();
        let audit_id = audit::audit_id(&parts.headers);
        let span = self
            .audit
            .get()
            .map(|a| audit::Span::begin(a, &mut parts, &audit_id));
        let running = self.metrics.begin(&self.catalog(), &parts);
        let method = parts.method.clone();
        let head = method == Method::HEAD;
        let wants = Wants::of(&parts);
        let path = parts.uri.path().to_string();
        // a bug in one kind's hook must not take the connection's other requests with it
        let mut unread = Some(body);
        let answer = async {
            if running.is_long() {
                return self.authenticated(parts, &mut unread).await;
            }
            let limit = crate::deadline::of(parts.uri.query())?;
            tokio::time::timeout(limit, self.authenticated(parts, &mut unread))
                .await
                .unwrap_or_else(|_| Err(crate::deadline::passed()))
        };
        let answered = AssertUnwindSafe(answer).catch_unwind().await;
        let panicked = answered.is_err();
        if let Some(body) = unread {
            drain(body).await;
        }
        let mut response = match answered {
            Ok(Ok(r)) => r,
            Ok(Err(f)) => failure_response(&f),
            Err(_) => {
                tracing::error!(%method, path, "the handler of this request panicked");
                failure_response(&Failure::internal("the request's handler panicked"))
            }
        };
        if let Some(span) = span {
            span.answered(&mut response, panicked).await;
        }
        response = encoding::finish(&wants, response);
        if let Ok(id) = HeaderValue::from_str(&audit_id) {
            response.headers_mut().insert("audit-id", id);
        }
        running.answered(response.status().as_u16());
        if running.is_long() && matches!(response.body(), Body::Stream(_)) {
            let body = std::mem::replace(response.body_mut(), Body::empty());
            *response.body_mut() = body.holding(running);
        }
        if head {
            *response.body_mut() = Body::empty();
        }
        response
    }

    async fn authenticated<B>(
        self: &Arc<Self>,
        mut parts: Parts,
        unread: &mut Option<B>,
    ) -> Result<Response<Body>, Failure>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let path = parts.uri.path();
        if identity::is_public(path) {
            return health::answer(self, &parts).await;
        }
        self.ready().await?;
        access::start(self);
        fairness::start(self);
        aggregate::start(self);
        let who = authenticate::authenticate(self, &parts)?;
        if let Some(span) = audit::Span::of(&parts) {
            span.authenticated(&who).await;
        }
        let query = Query::parse(parts.uri.query());
        let info = RequestInfo::new(&parts.method, &parts.uri);
        let attributes = access::request::of(&info, &query);
        let asked = who.clone();
        let who = impersonate::impersonated(self, who, &parts.headers, &attributes)?;
        if who != asked
            && let Some(span) = audit::Span::of(&parts)
        {
            span.impersonated(&who);
        }
        authenticate::strip(&mut parts.headers);
        let ticket = match self.fairness.enter(self, &who, &info, &query).await {
            Ok(ticket) => ticket,
            Err(too_many) => return Ok(too_many),
        };
        let answered = self.admitted(parts, unread, query, who, &attributes).await;
        let Some(ticket) = ticket else {
            return answered;
        };
        let mut response = answered.unwrap_or_else(|f| failure_response(&f));
        ticket.mark(&mut response);
        Ok(response)
    }

    async fn admitted<B>(
        self: &Arc<Self>,
        parts: Parts,
        unread: &mut Option<B>,
        query: Query,
        who: Identity,
        attributes: &knarr_access::Attributes,
    ) -> Result<Response<Body>, Failure>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        access::admit(self, &parts, &who, attributes)?;
        let Some(body) = unread.take() else {
            return Err(Failure::internal("a request's body was read twice"));
        };
        if let Some(remote) = self.aggregation.remote_for(parts.uri.path()) {
            return aggregate::answer(self, &remote, parts, body, &who).await;
        }
        if let Some(place) = crate::proxy::Place::read(parts.uri.path()) {
            // its body goes on as it comes, of whatever length
            return crate::proxy::answer(self, place, parts, body, who).await;
        }
        let body = match parts.method {
            Method::GET | Method::HEAD => Bytes::new(),
            _ => text::mended(
                &negotiate::content_type(&parts.headers),
                read_body(body).await?,
            ),
        };
        if let Some(span) = audit::Span::of(&parts) {
            span.request(&parts.headers, &body);
        }
        self.dispatch(Call {
            parts,
            body,
            query,
            who,
        })
        .await
    }

    async fn dispatch(self: &Arc<Self>, call: Call) -> Result<Response<Body>, Failure> {
        let path = call.parts.uri.path().to_string();
        if let Some(answer) = access::asked::answer(self, &call, &path).await? {
            return Ok(answer.into_response());
        }
        let span = audit::Span::of(&call.parts).cloned();
        if let Some(target) = self.bindings(&call, &path) {
            let target = target?;
            return match crate::pods::bind(self, &call, &target, None).await? {
                resource::Outcome::Answer(a) => Ok(a.into_response()),
                resource::Outcome::Response(r) => Ok(r),
            };
        }
        let response = match self.catalog().route(&path) {
            Some(Route::Resource(target)) => {
                let deprecation = match &target.resource.custom {
                    Some(custom) => custom.deprecation(),
                    None => crate::kinds::deprecation(&target.resource),
                };
                let deprecation = deprecation.map(str::to_owned);
                let outcome = if crate::crd::is_definition(&target.resource)
                    && !matches!(call.parts.method, Method::GET | Method::HEAD)
                {
                    self.define(call, target).await
                } else {
                    resource::answer(self, call, target).await
                };
                match outcome {
                    // who is refused is told, too; where nothing is served, nothing is said of it
                    Err(f) => match deprecation {
                        Some(text) if f != Failure::method_not_allowed() => {
                            let mut refused = failure_response(&f);
                            warn(refused.headers_mut(), &text);
                            refused
                        }
                        _ => return Err(f),
                    },
                    Ok(resource::Outcome::Answer(mut a)) => {
                        a.warnings.extend(deprecation);
                        a.into_response()
                    }
                    // streams and upgrades go out as they are
                    Ok(resource::Outcome::Response(mut r)) => {
                        if let Some(text) = deprecation {
                            warn(r.headers_mut(), &text);
                        }
                        return Ok(r);
                    }
                }
            }
            Some(Route::Other) => match path.trim_matches('/') {
                "version" => return health::answer(self, &call.parts).await,
                p if let Some(document) = tokens::discovery(self, p) => return Ok(document),
                "" => Answer::ok(discovery::root(&self.catalog()).to_string()).into_response(),
                "metrics" => {
                    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
                    let mut text = self.metrics.text(self);
                    text.push_str(&self.fairness.metrics());
                    if let Some(audit) = self.audit.get() {
                        text.push_str(&audit.metrics());
                    }
                    Answer::fixed(TEXT, text).into_response()
                }
                "metrics/slis" => {
                    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
                    Answer::fixed(TEXT, self.slis.text()).into_response()
                }
                "statusz" => self.zpages.status(&call),
                "flagz" => self.zpages.flags(&call),
                p if p.starts_with("openapi/") => {
                    return crate::openapi::answer(self, &call, p).await;
                }
                _ => return Ok(health::not_found()),
            },
            Some(route) => {
                if call.parts.method != Method::GET {
                    return Err(Failure::method_not_allowed());
                }
                discovery::answer(&self.catalog(), &self.aggregation.remotes(), &call, route)?
            }
            None => return Err(Failure::no_such_path()),
        };
        if let Some(span) = span {
            span.response(&response);
        }
        Ok(response)
    }
}

impl Inner {
    /// A write of a CustomResourceDefinition: what it changed is served when it is answered, even if the client doesn't
    /// wait for that.
    async fn define(
        self: &Arc<Self>,
        call: Call,
        target: Target,
    ) -> Result<resource::Outcome, Failure> {
        let inner = self.clone();
        let work = async move {
            let outcome = resource::answer(&inner, call, target).await;
            crate::crd::sync(&inner).await;
            outcome
        };
        tokio::spawn(work).await.map_err(Failure::internal)?
    }

    /// `POST /api/v1/namespaces/<ns>/bindings`, the Pod's binding without the Pod in the URL.
    fn bindings(&self, call: &Call, path: &str) -> Option<Result<Target, Failure>> {
        let namespace = path
            .strip_prefix("/api/v1/namespaces/")?
            .strip_suffix("/bindings")
            .filter(|n| !n.contains('/'))?;
        let pods = self.catalog().find("", "v1", "pods")?;
        if call.parts.method != Method::POST {
            return Some(Err(Failure::method_not_allowed()));
        }
        Some(Ok(Target {
            resource: pods,
            namespace: namespace.to_string(),
            name: String::new(),
            subresource: "binding".into(),
            watch: false,
        }))
    }
}

/// Reads a body nobody looked at: a connection whose request wasn't read to its end would have to be closed.
async fn drain<B>(body: B)
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let all = Limited::new(body, DRAINED_BYTES_MAX).collect();
    // whether it came to its end or not, the answer is the same
    let _ = tokio::time::timeout(DRAIN_PATIENCE, all).await;
}

async fn read_body<B>(body: B) -> Result<Bytes, Failure>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let limited = Limited::new(body, BODY_BYTES_MAX);
    let collected = match tokio::time::timeout(BODY_PATIENCE, limited.collect()).await {
        Ok(collected) => collected,
        Err(_) => {
            return Err(Failure::new(
                504,
                "Timeout",
                "Timeout: the body of the request did not arrive in time",
            ));
        }
    };
    match collected {
        Ok(all) => Ok(all.to_bytes()),
        Err(e) if e.is::<http_body_util::LengthLimitError>() => Err(Failure::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {BODY_BYTES_MAX}"),
        )),
        Err(e) => Err(Failure::bad_request(format!(
            "the body of the request can't be read: {e}"
        ))),
    }
}
