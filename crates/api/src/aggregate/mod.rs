//! API aggregation: group versions that another server answers (KEP-263; kube-aggregator).
//!
//! An APIService names the Service behind which that server is. Requests below its `/apis/<group>/<version>` go there as
//! they are, over TLS, in the name of the requester: this server vouches for them by its front-proxy certificate and
//! says who they are in `X-Remote-*` headers.

mod check;
mod documents;
mod follow;
mod register;
mod remote;

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use tokio::sync::Notify;

pub use documents::{aggregated, group, groups, openapi};
pub use follow::start;
pub use remote::{Part, Remote, Remotes};

use crate::{
    body::Body, bootstrap, identity::Identity, pki::FRONT_PROXY, proxy, server::Inner,
    status::Failure,
};

/// What a key of the user's extras may have in a header's name (RFC 9110's token).
const TOKEN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'*')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');
const AUTHENTICATION: &str = "extension-apiserver-authentication";

/// The group versions that others answer.
#[derive(Default)]
pub struct Aggregation {
    remotes: ArcSwap<Remotes>,
    started: OnceLock<()>,
    /// what this server itself serves has changed
    pub changed: Arc<Notify>,
}

impl Aggregation {
    /// Those known at this moment.
    pub fn remotes(&self) -> Arc<Remotes> {
        self.remotes.load_full()
    }

    /// Who answers this path, if it isn't this server: `/apis/<group>/<version>` and below, and its OpenAPI document.
    pub fn remote_for(&self, path: &str) -> Option<Arc<Remote>> {
        let remotes = self.remotes.load();
        if remotes.is_empty() {
            return None;
        }
        let rest = path.strip_prefix("/openapi/v3").unwrap_or(path);
        let mut parts = rest.strip_prefix("/apis/")?.split('/');
        let (group, version) = (parts.next()?, parts.next()?);
        remotes.find(group, version).cloned()
    }
}

/// What aggregated servers read to know whom to believe: the CAs of clients and of this server, and the headers' names.
pub async fn bootstrap(inner: &Inner) -> Result<(), Failure> {
    let Some(r) = inner.catalog().preferred("", "configmaps") else {
        return Ok(());
    };
    let data = json!({
        "client-ca-file": inner.pki.ca_pem,
        "requestheader-allowed-names": json!([FRONT_PROXY]).to_string(),
        "requestheader-client-ca-file": inner.pki.front_ca_pem,
        "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
        "requestheader-group-headers": "[\"X-Remote-Group\"]",
        "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
        "requestheader-username-headers": "[\"X-Remote-User\"]",
    });
    let o = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": AUTHENTICATION, "namespace": "kube-system"}, "data": data,
    });
    bootstrap::ensure(inner, &r, "kube-system", o).await?;
    // the CAs may be new
    crate::own::change_if_there(
        inner,
        &r,
        ("kube-system", AUTHENTICATION),
        crate::write::Part::Main,
        follow::MANAGER,
        |o| {
            o["data"] = data.clone();
        },
    )
    .await
}

/// Says who asks. What a client says of itself in these headers is not believed.
fn vouch(headers: &mut HeaderMap, who: &Identity) {
    let claimed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-remote-"))
        .cloned()
        .collect();
    for name in claimed {
        headers.remove(name);
    }
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_bytes(value.as_bytes()),
        ) {
            headers.append(name, value);
        }
    };
    let user = who.info();
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    for group in &user.groups {
        add("x-remote-group", group);
    }
    for (key, values) in &user.extra {
        let name = format!(
            "x-remote-extra-{}",
            utf8_percent_encode(&key.to_lowercase(), TOKEN)
        );
        for value in values {
            add(&name, value);
        }
    }
}

fn plain(code: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{text}\n")));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Forwards a request to who answers it.
pub async fn answer<B>(
    inner: &Arc<Inner>,
    remote: &Remote,
    mut parts: Parts,
    body: B,
    who: &Identity,
) -> Result<Response<Body>, Failure>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if !remote.is_available() {
        return Ok(plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "service unavailable",
        ));
    }
    vouch(&mut parts.headers, who);
    let body: proxy::RequestBody = body.map_err(Into::into).boxed_unsync();
    match remote.send(inner, parts, body).await {
        Ok(response) => Ok(response),
        Err(why) => Ok(plain(StatusCode::SERVICE_UNAVAILABLE, &why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_access::User;

    #[test]
    fn only_the_server_says_who_asks() {
        let mut user = User::new("jane", &["devs"]);
        user.uid = "7".into();
        user.extra
            .insert("Example.com/a b".into(), vec!["x".into(), "y".into()]);
        let mut headers = HeaderMap::new();
        for name in [
            "x-remote-user",
            "x-remote-group",
            "x-remote-extra-scopes",
            "x-own",
        ] {
            headers.insert(name, HeaderValue::from_static("forged"));
        }
        vouch(&mut headers, &Identity::of(user));
        let all = |name: &str| -> Vec<&str> {
            let values = headers.get_all(name).iter();
            values.map(|v| v.to_str().unwrap()).collect()
        };
        assert_eq!(all("x-remote-user"), ["jane"]);
        assert_eq!(all("x-remote-uid"), ["7"]);
        assert_eq!(all("x-remote-group"), ["devs", "system:authenticated"]);
        assert_eq!(all("x-remote-extra-example.com%2fa%20b"), ["x", "y"]);
        assert!(all("x-remote-extra-scopes").is_empty());
        assert_eq!(all("x-own"), ["forged"]);
    }
}
