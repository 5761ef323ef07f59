//! What a proxied request's path names: `…/pods/[scheme:]name[:port]/proxy/rest`, the same of services, and of nodes.

use percent_encoding::percent_decode_str;

/// Whose `proxy` subresource is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Pod,
    Service,
    Node,
}

/// A parsed path.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    pub of: Of,
    /// Empty for nodes.
    pub namespace: String,
    /// `[scheme:]name[:port]`, decoded.
    pub id: String,
    /// What follows `/proxy`, still encoded: empty, or with a leading slash.
    pub rest: String,
}

impl Of {
    /// The resource's name in URLs.
    pub fn plural(self) -> &'static str {
        match self {
            Of::Pod => "pods",
            Of::Service => "services",
            Of::Node => "nodes",
        }
    }
    /// Kind of the options that admission sees.
    pub fn options(self) -> &'static str {
        match self {
            Of::Pod => "PodProxyOptions",
            Of::Service => "ServiceProxyOptions",
            Of::Node => "NodeProxyOptions",
        }
    }
    /// In messages.
    pub fn noun(self) -> &'static str {
        match self {
            Of::Pod => "pod",
            Of::Service => "service",
            Of::Node => "node",
        }
    }
}

impl Place {
    /// None for every other path.
    pub fn read(path: &str) -> Option<Place> {
        let rest = path.strip_prefix("/api/v1/")?;
        let (of, namespace, rest) = match rest.strip_prefix("namespaces/") {
            None => (Of::Node, "", rest.strip_prefix("nodes/")?),
            Some(rest) => {
                let (namespace, rest) = rest.split_once('/')?;
                let (plural, rest) = rest.split_once('/')?;
                let of = match plural {
                    "pods" => Of::Pod,
                    "services" => Of::Service,
                    _ => return None,
                };
                (of, namespace, rest)
            }
        };
        let (id, rest) = rest.split_once('/')?;
        let rest = rest.strip_prefix("proxy")?;
        if !rest.is_empty() && !rest.starts_with('/') {
            return None;
        }
        let decode = |s: &str| {
            percent_decode_str(s)
                .decode_utf8()
                .ok()
                .map(|s| s.into_owned())
        };
        Some(Place {
            of,
            namespace: decode(namespace)?,
            id: decode(id).filter(|id| !id.is_empty())?,
            rest: rest.to_string(),
        })
    }

    /// Scheme (`http` or `https`), name and port (may be empty) of the id; None when it is malformed
    /// (upstream's `SplitSchemeNamePort`).
    pub fn address(&self) -> Option<(&'static str, &str, &str)> {
        let parts: Vec<&str> = self.id.split(':').collect();
        let (scheme, name, port) = match *parts.as_slice() {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return None,
        };
        let scheme = match scheme {
            "" | "http" => "http",
            "https" => "https",
            _ => return None,
        };
        (!name.is_empty()).then_some((scheme, name, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read() {
        for (path, wanted) in [
            ("/api/v1/namespaces/a/pods/b/proxy", Some(("a", "b", ""))),
            ("/api/v1/namespaces/a/pods/b/proxy/", Some(("a", "b", "/"))),
            (
                "/api/v1/namespaces/a/services/https:b:c/proxy/x%2Fy/z",
                Some(("a", "https:b:c", "/x%2Fy/z")),
            ),
            (
                "/api/v1/namespaces/a/services/https%3Ab%3Ac/proxy/",
                Some(("a", "https:b:c", "/")),
            ),
            ("/api/v1/nodes/n/proxy/pods", Some(("", "n", "/pods"))),
            ("/api/v1/namespaces/a/pods/b/proxyish", None),
            ("/api/v1/namespaces/a/pods/b/log", None),
            ("/api/v1/namespaces/a/configmaps/b/proxy", None),
            ("/apis/apps/v1/namespaces/a/pods/b/proxy", None),
            ("/api/v1/namespaces/a/pods//proxy", None),
        ] {
            let read = Place::read(path);
            let got = read
                .as_ref()
                .map(|p| (p.namespace.as_str(), p.id.as_str(), p.rest.as_str()));
            assert_eq!(got, wanted, "{path}");
        }
    }

    #[test]
    fn ids_are_addresses() {
        for (id, wanted) in [
            ("a", Some(("http", "a", ""))),
            ("a:80", Some(("http", "a", "80"))),
            ("a:web", Some(("http", "a", "web"))),
            ("https:a:", Some(("https", "a", ""))),
            (":a:", Some(("http", "a", ""))),
            ("ftp:a:21", None),
            ("a:b:c:d", None),
            (":80", None),
        ] {
            let place = Place {
                of: Of::Pod,
                namespace: "n".into(),
                id: id.into(),
                rest: String::new(),
            };
            assert_eq!(place.address(), wanted, "{id}");
        }
    }
}
