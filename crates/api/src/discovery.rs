//! Discovery: the legacy documents and the aggregated one (apidiscovery.k8s.io), with ETag.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use crate::{
    access::asked::VIRTUAL,
    aggregate::{self, Remotes},
    body::Body,
    catalog::{Catalog, Route},
    discovery_order, negotiate,
    negotiate::Endpoint,
    registry::Resource,
    server::{Answer, Call},
    status::Failure,
};

const ALL_VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// Verbs of a stored resource.
pub fn verbs(r: &Resource) -> Vec<&'static str> {
    if crate::computed::is(r) {
        return vec!["get", "list"];
    }
    let namespaces = r.group.is_empty() && r.plural == "namespaces";
    ALL_VERBS
        .into_iter()
        .filter(|v| !(namespaces && *v == "deletecollection"))
        .collect()
}

/// Subresources: name, group and version of the kind (empty: the resource's own), kind, verbs.
pub fn subresources(
    r: &Resource,
) -> Vec<(
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    Vec<&'static str>,
)> {
    let object = vec!["get", "patch", "update"];
    let mut out = Vec::new();
    if r.has_status {
        out.push(("status", "", "", r.kind, object.clone()));
    }
    if r.scale.is_some() {
        out.push(("scale", "autoscaling", "v1", "Scale", object.clone()));
    }
    for sub in r.subresources {
        if (*sub == "status" && r.has_status) || (*sub == "scale" && r.scale.is_some()) {
            continue;
        }
        let (group, version, kind, verbs) = match *sub {
            "log" => ("", "", r.kind, vec!["get"]),
            "exec" => ("", "", "PodExecOptions", vec!["create", "get"]),
            "attach" => ("", "", "PodAttachOptions", vec!["create", "get"]),
            "portforward" => ("", "", "PodPortForwardOptions", vec!["create", "get"]),
            "token" => (
                "authentication.k8s.io",
                "v1",
                "TokenRequest",
                vec!["create"],
            ),
            "binding" => ("", "", "Binding", vec!["create"]),
            "eviction" => ("policy", "v1", "Eviction", vec!["create"]),
            "finalize" => ("", "", r.kind, vec!["update"]),
            "proxy" => {
                let kind = match r.kind {
                    "Pod" => "PodProxyOptions",
                    "Node" => "NodeProxyOptions",
                    _ => "ServiceProxyOptions",
                };
                let all = vec!["create", "delete", "get", "patch", "update"];
                ("", "", kind, all)
            }
            "ephemeralcontainers" | "resize" | "approval" => ("", "", r.kind, object.clone()),
            // declared by the kind, not served yet: not to be discovered either
            _ => continue,
        };
        out.push((sub, group, version, kind, verbs));
    }
    out.sort_by_key(|s| s.0);
    out
}

/// Groups (without core) in order, with those of the reviews.
pub fn groups(catalog: &Catalog) -> Vec<&'static str> {
    let mut groups = catalog.groups();
    for (g, ..) in VIRTUAL {
        if !g.is_empty() && !groups.contains(&g) {
            groups.push(g);
        }
    }
    groups.sort_by_key(|g| crate::kinds::group_order(g));
    groups
}
/// Versions of a group, preferred first, with those of the reviews.
pub fn versions(catalog: &Catalog, group: &str) -> Vec<&'static str> {
    let mut versions = catalog.versions(group);
    for (g, v, ..) in VIRTUAL {
        if g == group && !versions.contains(&v) {
            versions.push(v);
        }
    }
    versions
}
fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.into()
    } else {
        format!("{group}/{version}")
    }
}

/// Answers a discovery path.
pub fn answer(
    catalog: &Catalog,
    remotes: &Remotes,
    call: &Call,
    route: Route,
) -> Result<Response<Body>, Failure> {
    let document = match route {
        Route::LegacyVersions | Route::Groups => {
            let legacy = matches!(route, Route::LegacyVersions);
            match aggregated_version(call) {
                Some((version, content_type)) => {
                    let mut document = aggregated(catalog, legacy, version);
                    if !legacy {
                        aggregate::aggregated(&mut document, remotes);
                    }
                    let mut text = discovery_order::text(&document);
                    text.push('\n');
                    return Ok(tagged(call, content_type, text.into()));
                }
                None => negotiate::document(&call.parts.headers)?,
            }
            if legacy {
                legacy_versions(call)
            } else {
                let mut list = group_list(catalog);
                aggregate::groups(&mut list, remotes);
                list
            }
        }
        Route::Group(group) => {
            negotiate::document(&call.parts.headers)?;
            let local = groups(catalog)
                .contains(&group.as_str())
                .then(|| api_group(catalog, &group));
            let Some(mut g) = aggregate::group(local, &group, remotes) else {
                return Ok(crate::health::not_found());
            };
            g["kind"] = "APIGroup".into();
            g["apiVersion"] = "v1".into();
            g
        }
        Route::Version(group, version) => {
            negotiate::document(&call.parts.headers)?;
            if !versions(catalog, &group).contains(&version.as_str()) {
                return Err(Failure::no_such_path());
            }
            resource_list(catalog, &group, &version)
        }
        Route::Resource(_) | Route::Other => return Err(Failure::no_such_path()),
    };
    let mut answer = Answer::ok(discovery_order::text(&document));
    answer.negotiated = Some(Endpoint::Document);
    Ok(answer.into_response())
}

/// With an ETag, or 304 when the client has this very document.
fn tagged(call: &Call, content_type: &'static str, body: Bytes) -> Response<Body> {
    let tag = etag(&body);
    let mut response = Response::new(Body::Whole(body));
    let matches = call
        .parts
        .headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .any(|v| v.to_str().is_ok_and(|v| v.contains(&tag)));
    if matches {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    if let Ok(v) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, v);
    }
    response
}

/// A document's strong tag, with its quotes: upper-case SHA-512, as upstream.
pub fn etag(body: &[u8]) -> String {
    format!("\"{}\"", hex::encode_upper(Sha512::digest(body)))
}

fn aggregated_version(call: &Call) -> Option<(&'static str, &'static str)> {
    for range in negotiate::accepts(&call.parts.headers) {
        if !range.covers("application/json") {
            continue;
        }
        match (range.param("as"), range.param("g"), range.param("v")) {
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => {
                return Some((
                    "v2",
                    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                ));
            }
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => {
                return Some((
                    "v2beta1",
                    "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
                ));
            }
            // a plain range before it doesn't count: whoever knows this form is given it
            _ => {}
        }
    }
    None
}

fn legacy_versions(call: &Call) -> Value {
    let host = call
        .parts
        .headers
        .get(header::HOST)
        .and_then(|h| h.to_str().ok())
        .unwrap_or("");
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": host}]})
}

fn api_group(catalog: &Catalog, group: &str) -> Value {
    let versions: Vec<Value> = versions(catalog, group)
        .into_iter()
        .map(|v| json!({"groupVersion": group_version(group, v), "version": v}))
        .collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

fn group_list(catalog: &Catalog) -> Value {
    let groups: Vec<Value> = groups(catalog)
        .into_iter()
        .map(|g| api_group(catalog, g))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// What changes when objects are stored in another version (apiserver `StorageVersionHash`).
fn storage_hash(r: &Resource) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let (group, version) = match (r.group, r.plural) {
        // of the kinds served in two places, the one they are kept in
        ("events.k8s.io", "events") => ("", "v1"),
        ("autoscaling", "horizontalpodautoscalers") => ("autoscaling", "v2"),
        (group, _) => match &r.custom {
            Some(custom) => (group, custom.definition.storage()),
            None => (group, r.version),
        },
    };
    let hash = sha2::Sha256::digest(format!("{group}/{version}/{}", r.kind));
    STANDARD.encode(&hash[..8])
}

/// Among the others, which are in the order of their names.
fn insert(all: &mut Vec<Value>, key: &str, name: &str, new: Value) {
    let at = all.partition_point(|r| r[key].as_str().is_some_and(|n| n < name));
    all.insert(at, new);
}

fn resource_list(catalog: &Catalog, group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for r in catalog.of(group, version) {
        let mut v = json!({"name": r.plural, "singularName": r.singular, "namespaced": r.namespaced,
            "kind": r.kind, "verbs": verbs(&r)});
        if !r.short_names.is_empty() {
            v["shortNames"] = json!(r.short_names);
        }
        if !r.categories.is_empty() {
            v["categories"] = json!(r.categories);
        }
        if !crate::computed::is(&r) {
            v["storageVersionHash"] = storage_hash(&r).into();
        }
        resources.push(v);
        for (sub, g, ver, kind, verbs) in subresources(&r) {
            let mut v = json!({"name": format!("{}/{sub}", r.plural), "singularName": "",
                "namespaced": r.namespaced, "kind": kind, "verbs": verbs});
            if !g.is_empty() {
                v["group"] = g.into();
                v["version"] = ver.into();
            }
            resources.push(v);
        }
    }
    for (g, v, kind, plural, namespaced) in VIRTUAL {
        if g == group && v == version {
            let v = json!({"name": plural, "singularName": kind.to_lowercase(),
                "namespaced": namespaced, "kind": kind, "verbs": ["create"]});
            insert(&mut resources, "name", plural, v);
        }
    }
    let mut list = json!({"kind": "APIResourceList", "groupVersion": group_version(group, version),
        "resources": resources});
    if !group.is_empty() {
        // upstream leaves it out of the core group's
        list["apiVersion"] = "v1".into();
    }
    list
}

fn aggregated(catalog: &Catalog, legacy: bool, document_version: &str) -> Value {
    let names = if legacy { vec![""] } else { groups(catalog) };
    let items: Vec<Value> = names
        .into_iter()
        .map(|group| {
            let versions: Vec<Value> = versions(catalog, group)
                .into_iter()
                .map(|v| {
                    json!({"version": v, "freshness": "Current", "resources": aggregated_resources(catalog, group, v)})
                })
                .collect();
            let mut metadata = json!({});
            if !group.is_empty() {
                metadata["name"] = group.into();
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{document_version}"),
        "metadata": {}, "items": items})
}

fn aggregated_resources(catalog: &Catalog, group: &str, version: &str) -> Vec<Value> {
    let kind_of = |g: &str, v: &str, k: &str| json!({"group": g, "version": v, "kind": k});
    let scope = |namespaced: bool| if namespaced { "Namespaced" } else { "Cluster" };
    let mut out = Vec::new();
    for r in catalog.of(group, version) {
        let mut v = json!({"resource": r.plural, "responseKind": kind_of("", "", r.kind),
            "scope": scope(r.namespaced), "singularResource": r.singular, "verbs": verbs(&r)});
        if !r.short_names.is_empty() {
            v["shortNames"] = json!(r.short_names);
        }
        if !r.categories.is_empty() {
            v["categories"] = json!(r.categories);
        }
        let subs: Vec<Value> = subresources(&r)
            .into_iter()
            .map(|(sub, g, ver, kind, verbs)| {
                json!({"subresource": sub, "responseKind": kind_of(g, ver, kind), "verbs": verbs})
            })
            .collect();
        if !subs.is_empty() {
            v["subresources"] = subs.into();
        }
        out.push(v);
    }
    for (g, ver, kind, plural, namespaced) in VIRTUAL {
        if g == group && ver == version {
            let v = json!({"resource": plural, "responseKind": kind_of("", "", kind),
                "scope": scope(namespaced), "singularResource": kind.to_lowercase(), "verbs": ["create"]});
            insert(&mut out, "resource", plural, v);
        }
    }
    out
}

/// `/`: the paths served.
pub fn root(catalog: &Catalog) -> Value {
    let mut paths: Vec<String> = vec!["/api".into(), "/api/v1".into(), "/apis".into()];
    for g in groups(catalog) {
        paths.push(format!("/apis/{g}"));
        for v in versions(catalog, g) {
            paths.push(format!("/apis/{g}/{v}"));
        }
    }
    for p in [
        "/.well-known/openid-configuration",
        "/flagz",
        "/healthz",
        "/livez",
        "/metrics",
        "/metrics/slis",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/statusz",
        "/version",
    ] {
        paths.push(p.into());
    }
    paths.extend(crate::health::paths());
    paths.sort();
    json!({ "paths": paths })
}
