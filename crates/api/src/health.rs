//! `/healthz`, `/livez`, `/readyz` and `/version`: all that is answered to anybody.

use http::{Method, Response, header, request::Parts};
use serde_json::json;

use crate::{body::Body, query::Query, server::Inner, status::Failure};

/// Kubernetes version whose API this is.
pub const GIT_VERSION: &str = concat!("v1.36.0+knarr", env!("CARGO_PKG_VERSION"));

/// Answers a public path.
pub async fn answer(inner: &Inner, parts: &Parts) -> Result<Response<Body>, Failure> {
    if parts.method != Method::GET && parts.method != Method::HEAD {
        return Err(Failure::method_not_allowed());
    }
    let path = parts.uri.path().trim_matches('/');
    if path == "version" {
        return Ok(text("application/json", version()));
    }
    let (endpoint, one) = match path.split_once('/') {
        Some((e, one)) => (e, Some(one)),
        None => (path, None),
    };
    let ready = inner.ready().await;
    let mut checks: Vec<(&str, Result<(), String>)> = vec![("ping", Ok(()))];
    checks.push(("store", Ok(())));
    if endpoint != "livez" {
        let bootstrap = ready.as_ref().map(|_| ()).map_err(|f| f.message().into());
        checks.push(("poststarthook/bootstrap", bootstrap));
    }
    if let Some(one) = one {
        let found = checks.iter().find(|(name, _)| *name == one);
        return match found {
            Some((_, Ok(()))) => Ok(text("text/plain; charset=utf-8", "ok".into())),
            Some((_, Err(why))) => Err(Failure::internal(why)),
            None => Err(Failure::no_such_path()),
        };
    }
    let query = Query::parse(parts.uri.query());
    let failed = checks.iter().any(|(_, r)| r.is_err());
    if !failed && !query.has("verbose") {
        return Ok(text("text/plain; charset=utf-8", "ok".into()));
    }
    let mut out = String::new();
    for (name, result) in &checks {
        match result {
            Ok(()) => out.push_str(&format!("[+]{name} ok\n")),
            Err(_) => out.push_str(&format!("[-]{name} failed: reason withheld\n")),
        }
    }
    let verdict = if failed { "failed" } else { "passed" };
    out.push_str(&format!("{endpoint} check {verdict}\n"));
    let mut response = text("text/plain; charset=utf-8", out);
    if failed {
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
    }
    Ok(response)
}

fn text(content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        http::HeaderValue::from_static(content_type),
    );
    response
}

fn version() -> String {
    json!({
        "major": "1", "minor": "36", "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    })
    .to_string()
}
