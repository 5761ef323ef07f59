//! Requests to the API server, with a deadline and without a schema.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use kube::client::Body;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::{Error, Result, Status};

/// An answer takes no longer than this, s.
const DEADLINE_S: u64 = 30;
/// Answers above this are refused, bytes.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A client under a controller's name.
#[derive(Clone)]
pub struct Rest {
    client: kube::Client,
    manager: &'static str,
}

/// `metav1.DeleteOptions`
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Delete<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    preconditions: Option<Preconditions<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    propagation_policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grace_period_seconds: Option<i64>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Preconditions<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_version: Option<&'a str>,
}

impl<'a> Delete<'a> {
    /// Only the object with this uid.
    pub fn uid(uid: &'a str) -> Self {
        Delete {
            preconditions: Some(Preconditions {
                uid: Some(uid),
                resource_version: None,
            }),
            propagation_policy: None,
            grace_period_seconds: None,
        }
    }
    /// Without waiting for anyone.
    pub fn by_force(mut self) -> Self {
        self.grace_period_seconds = Some(0);
        self
    }
    /// Only in this state.
    pub fn at(mut self, resource_version: &'a str) -> Self {
        if let Some(p) = &mut self.preconditions {
            p.resource_version = Some(resource_version);
        }
        self
    }
    /// Background, Foreground or Orphan.
    pub fn propagate(mut self, policy: &'a str) -> Self {
        self.propagation_policy = Some(policy);
        self
    }
}

/// An answer that nobody reads.
#[derive(Debug, Deserialize)]
pub struct Ignored {}

impl Rest {
    /// Writes as `manager`.
    pub fn new(client: kube::Client, manager: &'static str) -> Rest {
        Rest { client, manager }
    }
    /// Reads.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, None, Vec::new(), None).await
    }
    /// Reads in another form than the whole object.
    pub async fn get_as<T: DeserializeOwned>(&self, path: &str, accept: &str) -> Result<T> {
        self.call(Method::GET, path, None, Vec::new(), Some(accept))
            .await
    }
    /// Creates in a collection.
    pub async fn create<T: DeserializeOwned>(
        &self,
        collection: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        self.create_raw(collection, json(body, collection)?).await
    }
    /// Creates in a collection, from bytes.
    pub async fn create_raw<T: DeserializeOwned>(
        &self,
        collection: &str,
        body: Vec<u8>,
    ) -> Result<T> {
        let path = self.managed(collection);
        self.call(Method::POST, &path, Some("application/json"), body, None)
            .await
    }
    /// Replaces.
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = json(body, path)?;
        let path = self.managed(path);
        self.call(Method::PUT, &path, Some("application/json"), body, None)
            .await
    }
    /// Strategic merge patch: lists with keys are merged by them.
    pub async fn strategic<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        self.patch(path, "application/strategic-merge-patch+json", body)
            .await
    }
    /// JSON merge patch (RFC 7396); `metadata.resourceVersion` in it is a precondition.
    pub async fn merge<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.patch(path, "application/merge-patch+json", body).await
    }
    /// Server-side apply by force, as another manager than usual.
    pub async fn apply<T: DeserializeOwned>(
        &self,
        path: &str,
        manager: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let body = json(body, path)?;
        let path = format!("{path}?fieldManager={manager}&force=true");
        let content_type = Some("application/apply-patch+yaml");
        self.call(Method::PATCH, &path, content_type, body, None)
            .await
    }
    async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        content_type: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let body = json(body, path)?;
        let path = self.managed(path);
        self.call(Method::PATCH, &path, Some(content_type), body, None)
            .await
    }
    /// Deletes; what isn't there counts as deleted.
    pub async fn delete(&self, path: &str, options: &Delete<'_>) -> Result<()> {
        let body = json(options, path)?;
        match self
            .call::<Ignored>(Method::DELETE, path, Some("application/json"), body, None)
            .await
        {
            Ok(_) => Ok(()),
            Err(e) if e.is_not_found() => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn managed(&self, path: &str) -> String {
        let sep = if path.contains('?') { '&' } else { '?' };
        format!("{path}{sep}fieldManager={}", self.manager)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Vec<u8>,
        accept: Option<&str>,
    ) -> Result<T> {
        let what = || format!("{method} {path}");
        let work = async {
            let response = self
                .send(method.clone(), path, content_type, body, accept)
                .await?;
            read(response).await
        };
        let bytes = match tokio::time::timeout(Duration::from_secs(DEADLINE_S), work).await {
            Ok(r) => r?,
            Err(_) => {
                return Err(Error::Timeout {
                    what: what(),
                    seconds: DEADLINE_S,
                });
            }
        };
        serde_json::from_slice(&bytes).map_err(|source| Error::Decode {
            what: what(),
            source,
        })
    }

    /// Sends a request; a refusal becomes an error, an answer is the caller's to read.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Vec<u8>,
        accept: Option<&str>,
    ) -> Result<Response<Body>> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(c) = content_type {
            request = request.header(header::CONTENT_TYPE, c);
        }
        if let Some(a) = accept {
            request = request.header(header::ACCEPT, a);
        }
        let request = request
            .body(Body::from(body))
            .map_err(|_| Error::Request(path.to_owned()))?;
        let response = self
            .client
            .send(request)
            .await
            .map_err(|e| Error::Transport(Box::new(e)))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let bytes = read(response).await?;
        let mut status: Status = serde_json::from_slice(&bytes).unwrap_or_else(|_| Status {
            message: String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned(),
            ..Default::default()
        });
        status.code = code;
        Err(Error::Api(Box::new(status)))
    }
}

fn json(body: &impl Serialize, path: &str) -> Result<Vec<u8>> {
    serde_json::to_vec(body).map_err(|_| Error::Request(path.to_owned()))
}

async fn read(response: Response<Body>) -> Result<Bytes> {
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    Ok(body
        .collect()
        .await
        .map_err(|e| Error::Broken(e.to_string()))?
        .to_bytes())
}
