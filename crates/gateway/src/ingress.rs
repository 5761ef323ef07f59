//! Ingress rules: which host and path lead where (networking.k8s.io/v1).

use std::sync::Arc;

use hyper::Request;

use crate::{headers, listen::Protocol, pool::Group};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathType {
    Exact,
    /// Also for ImplementationSpecific.
    Prefix,
}

pub(crate) struct Route {
    /// None: any host. May begin with `*.`.
    pub(crate) host: Option<String>,
    pub(crate) path: String,
    pub(crate) kind: PathType,
    pub(crate) to: (Protocol, Arc<Group>),
}

/// All rules, best first: exact hosts, then wildcards by length, then none; exact paths, then prefixes by length.
#[derive(Default)]
pub(crate) struct Routes(Vec<Route>);

impl Routes {
    pub(crate) fn new(mut routes: Vec<Route>) -> Routes {
        let rank = |route: &Route| {
            let (class, length) = match &route.host {
                Some(host) if host.starts_with("*.") => (1, host.len()),
                Some(host) => (2, host.len()),
                None => (0, 0),
            };
            std::cmp::Reverse((
                class,
                length,
                route.kind == PathType::Exact,
                route.path.len(),
            ))
        };
        // Stable: of equals the first one stays first.
        routes.sort_by_key(rank);
        Routes(routes)
    }

    pub(crate) fn find<B>(&self, request: &Request<B>) -> Option<(Protocol, &Arc<Group>)> {
        let host = headers::host(request);
        let path = request.uri().path();
        let found = self.0.iter().find(|route| {
            let host_fits = match &route.host {
                None => true,
                Some(rule) => host.as_deref().is_some_and(|host| host_matches(rule, host)),
            };
            host_fits && path_matches(route.kind, &route.path, path)
        })?;
        Some((found.to.0, &found.to.1))
    }
}

/// A wildcard stands for exactly one label.
fn host_matches(rule: &str, host: &str) -> bool {
    match rule.strip_prefix("*.") {
        None => rule == host,
        Some(parent) => host
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
    }
}

/// Prefixes match element by element; a trailing slash makes no difference.
fn path_matches(kind: PathType, rule: &str, path: &str) -> bool {
    if kind == PathType::Exact {
        return rule == path;
    }
    let rule = rule.trim_end_matches('/');
    path.strip_prefix(rule)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    // The table of the Ingress documentation, "Examples", row by row.
    #[test]
    fn paths() {
        use PathType::{Exact, Prefix};
        let cases = [
            (Prefix, "/", "/any", true),
            (Exact, "/foo", "/foo", true),
            (Exact, "/foo", "/bar", false),
            (Exact, "/foo", "/foo/", false),
            (Exact, "/foo/", "/foo", false),
            (Prefix, "/foo", "/foo", true),
            (Prefix, "/foo", "/foo/", true),
            (Prefix, "/foo/", "/foo", true),
            (Prefix, "/foo/", "/foo/", true),
            (Prefix, "/aaa/bb", "/aaa/bbb", false),
            (Prefix, "/aaa/bbb", "/aaa/bbb", true),
            (Prefix, "/aaa/bbb/", "/aaa/bbb", true),
            (Prefix, "/aaa/bbb", "/aaa/bbb/", true),
            (Prefix, "/aaa/bbb", "/aaa/bbb/ccc", true),
            (Prefix, "/aaa/bbb", "/aaa/bbbxyz", false),
        ];
        for (kind, rule, path, expected) in cases {
            assert_eq!(
                path_matches(kind, rule, path),
                expected,
                "{kind:?} {rule} {path}"
            );
        }
    }

    #[test]
    fn hosts() {
        let cases = [
            ("*.foo.com", "bar.foo.com", true),
            ("*.foo.com", "baz.bar.foo.com", false),
            ("*.foo.com", "foo.com", false),
            ("foo.com", "foo.com", true),
            ("foo.com", "bar.foo.com", false),
        ];
        for (rule, host, expected) in cases {
            assert_eq!(host_matches(rule, host), expected, "{rule} {host}");
        }
    }

    #[test]
    fn the_best_rule_wins() {
        let route = |host: Option<&str>, kind, path: &str| Route {
            host: host.map(str::to_string),
            path: path.into(),
            kind,
            to: (
                Protocol::Http,
                Group::new(format!("{} {path}", host.unwrap_or("any"))),
            ),
        };
        let routes = Routes::new(vec![
            route(None, PathType::Prefix, "/"),
            route(Some("*.a"), PathType::Prefix, "/"),
            route(Some("b.a"), PathType::Prefix, "/"),
            route(Some("b.a"), PathType::Prefix, "/x"),
            route(Some("b.a"), PathType::Exact, "/x/y"),
        ]);
        let cases = [
            ("b.a", "/", "b.a /"),
            ("B.A:80", "/x", "b.a /x"),
            ("b.a", "/x/y", "b.a /x/y"),
            ("b.a", "/x/y/z", "b.a /x"),
            ("c.a", "/x", "*.a /"),
            ("d", "/x", "any /"),
        ];
        for (host, path, expected) in cases {
            let request = Request::builder()
                .uri(path)
                .header("host", host)
                .body(())
                .unwrap();
            assert_eq!(
                routes.find(&request).unwrap().1.name,
                expected,
                "{host} {path}"
            );
        }
    }
}
