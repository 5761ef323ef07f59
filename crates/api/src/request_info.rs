//! What a request is about, read from its method and URL alone (apiserver `pkg/endpoints/request`): whether or not
//! anything is served there. Authorization, audit and fairness speak of requests in these words.

use http::{Method, Uri};
use percent_encoding::percent_decode_str;

use crate::query::Query;

/// What a request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// The path names a resource; the fields after `path` are empty otherwise.
    pub is_resource: bool,
    /// `get`, `list`, `watch`, …; the lower-cased method of other requests.
    pub verb: String,
    /// Path of the URL.
    pub path: String,
    /// API group; empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace; for a Namespace itself its name.
    pub namespace: String,
    /// Plural.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Object's name; a collection narrowed to one by `fieldSelector=metadata.name=…` has it, too.
    pub name: String,
}

/// `/api/v1/watch/…` and `/api/v1/proxy/…`, of old.
fn is_special(verb: &str) -> bool {
    matches!(verb, "proxy" | "watch")
}

impl RequestInfo {
    /// Reads a request's head.
    pub fn new(method: &Method, uri: &Uri) -> RequestInfo {
        // decoded first, as the router does it: an escaped slash is a slash
        let path = percent_decode_str(uri.path())
            .decode_utf8_lossy()
            .into_owned();
        let parts: Vec<String> = path
            .trim_matches('/')
            .split('/')
            .map(str::to_owned)
            .collect();
        let plain = RequestInfo {
            verb: method.as_str().to_ascii_lowercase(),
            path,
            ..RequestInfo::default()
        };
        let mut parts = parts.as_slice();
        let mut info = plain.clone();
        match parts {
            [api, rest @ ..] if api == "api" && rest.len() >= 2 => parts = rest,
            [apis, group, rest @ ..] if apis == "apis" && rest.len() >= 2 => {
                info.group = group.clone();
                parts = rest;
            }
            _ => return plain,
        }
        info.is_resource = true;
        info.version = parts[0].clone();
        parts = &parts[1..];
        if is_special(&parts[0]) {
            if parts.len() < 2 {
                return plain;
            }
            info.verb = parts[0].clone();
            parts = &parts[1..];
        } else {
            info.verb = match *method {
                Method::POST => "create",
                Method::GET | Method::HEAD => "get",
                Method::PUT => "update",
                Method::PATCH => "patch",
                Method::DELETE => "delete",
                _ => "",
            }
            .into();
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            info.namespace = parts[1].clone();
            if parts.len() > 2 && !matches!(parts[2].as_str(), "status" | "finalize") {
                parts = &parts[2..];
            }
        }
        info.resource = parts[0].clone();
        info.name = parts.get(1).cloned().unwrap_or_default();
        if info.verb != "proxy" {
            info.subresource = parts.get(2).cloned().unwrap_or_default();
        }
        if info.name.is_empty() && info.verb == "get" {
            let query = Query::parse(uri.query());
            info.verb = if query.flag("watch") { "watch" } else { "list" }.into();
            if let Some(name) = query.get("fieldSelector").and_then(named) {
                info.name = name;
            }
        }
        if info.name.is_empty() && info.verb == "delete" {
            info.verb = "deletecollection".into();
        }
        info
    }

    /// Takes as long as the client likes: watches and streams.
    pub fn is_long_running(&self) -> bool {
        self.is_resource
            && (is_special(&self.verb)
                || matches!(
                    self.subresource.as_str(),
                    "attach" | "exec" | "proxy" | "log" | "portforward"
                ))
    }
}

/// The name in a field selector that demands one (and maybe more).
fn named(selector: &str) -> Option<String> {
    let name = selector.split(',').find_map(|term| {
        let rest = term.trim().strip_prefix("metadata.name")?;
        rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))
    })?;
    let plain = !name.is_empty() && !name.contains(['/', '%']) && name != "." && name != "..";
    plain.then(|| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_upstream_does() {
        // method, URL: verb, group, version, namespace, resource, subresource, name
        let cases = [
            ("GET", "/api/v1/namespaces", "list,,v1,,namespaces,,"),
            (
                "GET",
                "/api/v1/namespaces/other",
                "get,,v1,other,namespaces,,other",
            ),
            (
                "GET",
                "/api/v1/namespaces/other/pods",
                "list,,v1,other,pods,,",
            ),
            (
                "GET",
                "/api/v1/namespaces/other/pods/foo",
                "get,,v1,other,pods,,foo",
            ),
            (
                "HEAD",
                "/api/v1/namespaces/other/pods/foo",
                "get,,v1,other,pods,,foo",
            ),
            ("GET", "/api/v1/pods?watch=true", "watch,,v1,,pods,,"),
            ("GET", "/api/v1/pods?watch=false", "list,,v1,,pods,,"),
            (
                "GET",
                "/api/v1/pods?fieldSelector=metadata.name%3Dfoo",
                "list,,v1,,pods,,foo",
            ),
            (
                "GET",
                "/api/v1/watch/namespaces/other/pods",
                "watch,,v1,other,pods,,",
            ),
            (
                "GET",
                "/api/v1/namespaces/other/pods/foo/log",
                "get,,v1,other,pods,log,foo",
            ),
            (
                "PUT",
                "/api/v1/namespaces/other/finalize",
                "update,,v1,other,namespaces,finalize,other",
            ),
            (
                "POST",
                "/apis/apps/v1/namespaces/other/deployments",
                "create,apps,v1,other,deployments,,",
            ),
            (
                "DELETE",
                "/api/v1/namespaces/other/pods",
                "deletecollection,,v1,other,pods,,",
            ),
            (
                "DELETE",
                "/api/v1/namespaces/other/pods/foo",
                "delete,,v1,other,pods,,foo",
            ),
            (
                "PATCH",
                "/apis/x.y/v1/things/a%2Fb/scale",
                "patch,x.y,v1,,things,b,a",
            ),
            (
                "GET",
                "/api/v1/proxy/namespaces/a/pods/b/c",
                "proxy,,v1,a,pods,,b",
            ),
        ];
        for (method, url, want) in cases {
            let i = RequestInfo::new(&method.parse().unwrap(), &url.parse().unwrap());
            let got = [
                &i.verb,
                &i.group,
                &i.version,
                &i.namespace,
                &i.resource,
                &i.subresource,
                &i.name,
            ];
            assert!(i.is_resource, "{url}");
            assert_eq!(got.map(String::as_str).join(","), want, "{method} {url}");
        }
        for url in [
            "/",
            "/api",
            "/api/v1",
            "/apis",
            "/apis/apps",
            "/apis/apps/v1",
            "/healthz/ping",
            "/api/v1/watch",
        ] {
            let i = RequestInfo::new(&Method::GET, &url.parse().unwrap());
            assert_eq!(
                (i.is_resource, i.verb.as_str(), i.path.as_str()),
                (false, "get", url)
            );
        }
    }
}
