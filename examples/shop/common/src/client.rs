//! Calls between services: each has a deadline and belongs to a trace.

use axum::extract::FromRequestParts;
use http::{HeaderMap, Method, Request, StatusCode, request::Parts};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

/// Milliseconds that the caller will still wait.
pub const DEADLINE: &str = "x-deadline-ms";
/// <https://www.w3.org/TR/trace-context/>
pub const TRACE: &str = "traceparent";
const DEADLINE_DEFAULT: Duration = Duration::from_secs(5);
const DEADLINE_MAX: Duration = Duration::from_secs(30);
const BODY_MAX: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{url} did not answer in time")]
    Late { url: String },
    #[error("{url} can't be reached: {why}")]
    Unreachable { url: String, why: String },
    #[error("{url} answered {status}")]
    Status { url: String, status: StatusCode },
    #[error("{url}: {why}")]
    Answer { url: String, why: String },
}

impl Error {
    /// What the other service answered, if it did.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// The request that is being served: by when it must be done and the trace it belongs to.
#[derive(Debug, Clone)]
pub struct Context {
    pub deadline: Instant,
    /// 32 hexadecimal digits.
    pub trace: String,
}

impl Context {
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
        let left = text(DEADLINE)
            .and_then(|v| v.parse().ok())
            .map_or(DEADLINE_DEFAULT, Duration::from_millis);
        let trace = text(TRACE).and_then(|v| {
            let fields: Vec<&str> = v.split('-').collect();
            let id = fields.get(1)?;
            let ok = fields.len() >= 4
                && id.len() == 32
                && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                && id.bytes().any(|b| b != b'0');
            ok.then(|| id.to_string())
        });
        Self {
            deadline: Instant::now() + left.min(DEADLINE_MAX),
            trace: trace.unwrap_or_else(|| format!("{:016x}{:016x}", number(), number())),
        }
    }

    #[must_use]
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// A random number other than 0; no secret.
fn number() -> u64 {
    RandomState::new().hash_one(0u8).max(1)
}

impl<S: Sync> FromRequestParts<S> for Context {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers))
    }
}

#[derive(Debug, Clone)]
pub struct Client {
    pool: Pool<HttpConnector, Full<Bytes>>,
    /// For one call, retry included.
    limit: Duration,
}

impl Client {
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(limit));
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(15))
            .pool_max_idle_per_host(16)
            .build(connector);
        Self { pool, limit }
    }

    /// Calls and decodes the answer's JSON.
    ///
    /// # Errors
    /// [`Error`], also for a status other than 2xx.
    pub async fn json<T: DeserializeOwned>(
        &self,
        context: &Context,
        method: Method,
        url: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, Error> {
        let bytes = self.call(context, method, url, body).await?;
        serde_json::from_slice(&bytes).map_err(|e| Error::Answer {
            url: url.into(),
            why: e.to_string(),
        })
    }

    /// # Errors
    /// As [`Self::json`].
    pub async fn get<T: DeserializeOwned>(&self, context: &Context, url: &str) -> Result<T, Error> {
        self.json(context, Method::GET, url, None::<&()>).await
    }

    /// Calls and returns the answer's body. A call whose connection fails is made once more if that can do no harm:
    /// nothing was sent, or the method is idempotent.
    ///
    /// # Errors
    /// [`Error`], also for a status other than 2xx.
    pub async fn call(
        &self,
        context: &Context,
        method: Method,
        url: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<Bytes, Error> {
        let answer = |why: String| Error::Answer {
            url: url.into(),
            why,
        };
        let body = match body {
            None => Bytes::new(),
            Some(b) => serde_json::to_vec(b)
                .map_err(|e| answer(e.to_string()))?
                .into(),
        };
        let exchange = async {
            let mut again = true;
            loop {
                let request = Request::builder()
                    .method(&method)
                    .uri(url)
                    .header("content-type", "application/json")
                    .header(DEADLINE, context.left().min(self.limit).as_millis() as u64)
                    .header(TRACE, format!("00-{}-{:016x}-01", context.trace, number()))
                    .body(Full::new(body.clone()))
                    .map_err(|e| answer(e.to_string()))?;
                let response = match self.pool.request(request).await {
                    Ok(response) => response,
                    Err(e) if again && (e.is_connect() || method.is_idempotent()) => {
                        again = false;
                        continue;
                    }
                    Err(e) => {
                        return Err(Error::Unreachable {
                            url: url.into(),
                            why: e.to_string(),
                        });
                    }
                };
                let status = response.status();
                if !status.is_success() {
                    return Err(Error::Status {
                        url: url.into(),
                        status,
                    });
                }
                return match Limited::new(response.into_body(), BODY_MAX).collect().await {
                    Ok(body) => Ok(body.to_bytes()),
                    Err(e) => Err(answer(e.to_string())),
                };
            }
        };
        tokio::time::timeout(context.left().min(self.limit), exchange)
            .await
            .map_err(|_| Error::Late { url: url.into() })?
    }
}
