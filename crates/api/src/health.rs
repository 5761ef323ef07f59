//! `/healthz`, `/livez`, `/readyz` and `/version`: all that is answered to anybody. Follows apiserver's `server/healthz`.

use http::{Method, Response, StatusCode, header, request::Parts};
use serde_json::json;

use crate::{body::Body, negotiate, query::Query, server::Inner, status::Failure};

/// Kubernetes version whose API this is.
pub const GIT_VERSION: &str = concat!("v1.36.0+knarr", env!("CARGO_PKG_VERSION"));

const TEXT: &str = "text/plain; charset=utf-8";

/// Which endpoints a check belongs to.
const LIVE: u8 = 1;
const READY: u8 = 2;
const HEALTH: u8 = 4;
const ALL: u8 = LIVE | READY | HEALTH;

/// The checks, in order, under the names that clients and probes know from upstream. `etcd` is the store; the start-up hooks
/// are upstream's: what they are about is all begun here by one function before the first request is answered, with definitions
/// of custom resources, priority classes, roles, APIServices, and the namespaces, Service and ConfigMap that every cluster has.
const CHECKS: [(&str, u8); 38] = [
    ("ping", ALL),
    ("log", ALL),
    ("loopback-serving-certificate", LIVE | HEALTH),
    ("etcd", ALL),
    ("etcd-readiness", READY),
    ("informer-sync", READY),
    ("poststarthook/start-apiserver-admission-initializer", ALL),
    ("poststarthook/generic-apiserver-start-informers", ALL),
    ("poststarthook/priority-and-fairness-config-consumer", ALL),
    ("poststarthook/priority-and-fairness-filter", ALL),
    ("poststarthook/storage-object-count-tracker-hook", ALL),
    ("poststarthook/start-apiextensions-informers", ALL),
    ("poststarthook/start-apiextensions-controllers", ALL),
    ("poststarthook/crd-informer-synced", ALL),
    ("poststarthook/start-system-namespaces-controller", ALL),
    ("poststarthook/peer-endpoint-reconciler-controller", ALL),
    (
        "poststarthook/start-cluster-authentication-info-controller",
        ALL,
    ),
    (
        "poststarthook/start-kube-apiserver-identity-lease-controller",
        ALL,
    ),
    (
        "poststarthook/start-kube-apiserver-identity-lease-garbage-collector",
        ALL,
    ),
    ("poststarthook/storage-readiness", ALL),
    ("poststarthook/start-legacy-token-tracking-controller", ALL),
    ("poststarthook/start-service-ip-repair-controllers", ALL),
    ("poststarthook/rbac/bootstrap-roles", ALL),
    (
        "poststarthook/scheduling/bootstrap-system-priority-classes",
        ALL,
    ),
    ("poststarthook/priority-and-fairness-config-producer", ALL),
    ("poststarthook/bootstrap-controller", ALL),
    (
        "poststarthook/start-kubernetes-service-cidr-controller",
        ALL,
    ),
    ("poststarthook/aggregator-reload-proxy-client-cert", ALL),
    ("poststarthook/start-kube-aggregator-informers", ALL),
    (
        "poststarthook/apiservice-status-local-available-controller",
        ALL,
    ),
    (
        "poststarthook/apiservice-status-remote-available-controller",
        ALL,
    ),
    ("poststarthook/apiservice-registration-controller", ALL),
    ("poststarthook/apiservice-discovery-controller", ALL),
    ("poststarthook/kube-apiserver-autoregistration", ALL),
    ("autoregister-completion", ALL),
    ("poststarthook/apiservice-openapi-controller", ALL),
    ("poststarthook/apiservice-openapiv3-controller", ALL),
    ("shutdown", READY),
];

/// Answers a public path.
pub async fn answer(
    inner: &std::sync::Arc<Inner>,
    parts: &Parts,
) -> Result<Response<Body>, Failure> {
    let path = parts.uri.path().trim_start_matches('/');
    if path.trim_end_matches('/') == "version" {
        if parts.method != Method::GET {
            return Err(Failure::method_not_allowed());
        }
        negotiate::only_json(&parts.headers)?;
        let mut text = serde_json::to_vec_pretty(&version()).map_err(Failure::internal)?;
        text.push(b'\n');
        return Ok(plain("application/json", text.into()));
    }
    let (endpoint, one) = match path.split_once('/') {
        Some((e, one)) => (e, Some(one)),
        None => (path, None),
    };
    let (endpoint, group) = match endpoint {
        "livez" => ("livez", LIVE),
        "readyz" => ("readyz", READY),
        _ => ("healthz", HEALTH),
    };
    let checks = CHECKS.iter().filter(|(_, of)| of & group != 0);
    if let Some(one) = one {
        return match checks.clone().find(|(name, _)| *name == one) {
            Some((name, _)) => Ok(match observed(inner, name, endpoint).await {
                Ok(()) => plain(TEXT, "ok".to_string().into()),
                Err(why) => error(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("internal server error: {why}\n"),
                ),
            }),
            None => Ok(not_found()),
        };
    }
    let query = Query::parse(parts.uri.query());
    let mut excluded: Vec<&str> = query.all("exclude").collect();
    excluded.sort_unstable();
    excluded.dedup();
    let (mut out, mut failed) = (String::new(), false);
    for (name, _) in checks {
        if let Some(at) = excluded.iter().position(|e| e == name) {
            excluded.remove(at);
            out.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match observed(inner, name, endpoint).await {
            Ok(()) => out.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                tracing::warn!("the check {name} of /{endpoint} failed: {why}");
                failed = true;
                out.push_str(&format!("[-]{name} failed: reason withheld\n"));
            }
        }
    }
    if !excluded.is_empty() {
        let names: Vec<String> = excluded.iter().map(|e| format!("{e:?}")).collect();
        out.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {}\n",
            names.join(", ")
        ));
    }
    if failed {
        out.push_str(&format!("{endpoint} check failed\n"));
        return Ok(error(StatusCode::INTERNAL_SERVER_ERROR, out));
    }
    if query.has("verbose") {
        out.push_str(&format!("{endpoint} check passed\n"));
    } else {
        out = "ok".into();
    }
    Ok(unsniffed(plain(TEXT, out.into())))
}

/// The check, noted for `/metrics/slis`.
async fn observed(
    inner: &std::sync::Arc<Inner>,
    name: &'static str,
    endpoint: &'static str,
) -> Result<(), String> {
    let outcome = check(inner, name).await;
    inner.slis.observe(name, endpoint, outcome.is_ok());
    outcome
}

/// The paths of all checks.
pub fn paths() -> impl Iterator<Item = String> {
    let of = |(endpoint, group): (&'static str, u8)| {
        let checks = CHECKS.iter().filter(move |(_, of)| of & group != 0);
        checks.map(move |(name, _)| format!("/{endpoint}/{name}"))
    };
    let all = [("healthz", HEALTH), ("livez", LIVE), ("readyz", READY)];
    all.into_iter().flat_map(of)
}

async fn check(inner: &std::sync::Arc<Inner>, name: &str) -> Result<(), String> {
    match name {
        "ping" | "log" => Ok(()),
        "etcd" if inner.store.takes_commits() => Ok(()),
        "etcd" => Err("the store takes no more commits; see the log".into()),
        "shutdown" if inner.stopping.is_cancelled() => Err("process is shutting down".into()),
        "shutdown" => Ok(()),
        // all of it is begun by one function, which says whether it could
        _ => inner.ready().await.map_err(|f| f.message().to_string()),
    }
}

fn plain(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        http::HeaderValue::from_static(content_type),
    );
    headers.insert(
        header::CACHE_CONTROL,
        http::HeaderValue::from_static("no-cache, private"),
    );
    response
}

fn unsniffed(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        http::HeaderValue::from_static("nosniff"),
    );
    response
}

/// As Go's `http.Error`.
fn error(code: StatusCode, text: String) -> Response<Body> {
    let mut response = unsniffed(plain(TEXT, text.into()));
    *response.status_mut() = code;
    response
}

/// What is answered at paths that aren't of the API.
pub fn not_found() -> Response<Body> {
    error(StatusCode::NOT_FOUND, "404 page not found\n".into())
}

fn version() -> serde_json::Value {
    json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    })
}
