//! A node agent's own HTTPS port, as the kubelet's: who asks is authenticated and authorized as at the API, by subresources
//! of the node.
//!
//! Source: kubernetes `pkg/kubelet/server/auth.go` (GetRequestAttributes), `server.go` (InstallAuthFilter); KEP-2862.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use knarr_access::Attributes;

use crate::{
    access::{self, authenticate},
    body::Body,
    proxy,
    server::Inner,
};

/// The subresources of nodes, any of which a user must be allowed for a path: the fine-grained one first.
fn subresources(path: &str) -> Vec<&'static str> {
    let below = |base: &str| {
        let rest = path.strip_prefix(base);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut all = Vec::new();
    let first = |names: &[(&str, &'static str)]| {
        let found = names.iter().find(|(base, _)| below(base));
        found.map(|(_, name)| *name)
    };
    all.extend(first(&[
        ("/pods", "pods"),
        ("/healthz", "healthz"),
        ("/configz", "configz"),
        ("/runningpods", "pods"),
    ]));
    let coarse = first(&[
        ("/stats", "stats"),
        ("/metrics", "metrics"),
        ("/logs", "log"),
        ("/checkpoint", "checkpoint"),
        ("/statusz", "statusz"),
        ("/flagz", "configz"),
    ]);
    all.push(coarse.unwrap_or("proxy"));
    all
}

/// As Go's servers answer in plain words.
pub fn plain(code: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = code;
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

/// Answers one request to the agent of `node`.
pub async fn handle<B>(inner: &Arc<Inner>, node: &str, request: Request<B>) -> Response<Body> {
    let (parts, _) = request.into_parts();
    let head = parts.method == Method::HEAD;
    let mut response = answer(inner, node, parts).await;
    if head {
        // in HTTP/2 a body would break the answer
        *response.body_mut() = Body::empty();
    }
    response
}

async fn answer(inner: &Arc<Inner>, node: &str, mut parts: Parts) -> Response<Body> {
    if let Err(failure) = inner.ready().await {
        let text = failure.message().to_string();
        return plain(StatusCode::SERVICE_UNAVAILABLE, text);
    }
    access::start(inner);
    let who = match authenticate::authenticate(inner, &parts) {
        Ok(who) if who.user() != "system:anonymous" => who,
        _ => return plain(StatusCode::UNAUTHORIZED, "Unauthorized".into()),
    };
    let verb = match parts.method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    let subresources = subresources(parts.uri.path());
    let allowed = subresources.iter().any(|sub| {
        let attributes = Attributes {
            verb: verb.into(),
            resource_request: true,
            version: "v1".into(),
            resource: "nodes".into(),
            subresource: (*sub).into(),
            name: node.into(),
            path: parts.uri.path().into(),
            ..Attributes::default()
        };
        access::decide(inner, who.info(), &attributes).allowed()
    });
    if !allowed {
        let text = format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
            who.user(),
            subresources.join(" ")
        );
        return plain(StatusCode::FORBIDDEN, text);
    }
    let path = parts.uri.path().to_owned();
    match proxy::agent(inner, node, &path, &mut parts).await {
        Ok(response) => response,
        Err(failure) => plain(
            StatusCode::from_u16(failure.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            failure.message().to_string(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_subresources_of_nodes() {
        for (path, wanted) in [
            ("/stats/summary", &["stats"][..]),
            ("/metrics", &["metrics"]),
            ("/metrics/cadvisor", &["metrics"]),
            ("/metricsx", &["proxy"]),
            ("/logs/", &["log"]),
            ("/checkpoint/a/b/c", &["checkpoint"]),
            ("/statusz", &["statusz"]),
            ("/flagz", &["configz"]),
            ("/pods", &["pods", "proxy"]),
            ("/runningpods/", &["pods", "proxy"]),
            ("/healthz", &["healthz", "proxy"]),
            ("/healthz/ping", &["healthz", "proxy"]),
            ("/configz", &["configz", "proxy"]),
            ("/containerLogs/a/b/c", &["proxy"]),
            ("/exec/a/b/c", &["proxy"]),
            ("/", &["proxy"]),
        ] {
            assert_eq!(subresources(path), wanted, "{path}");
        }
    }
}
