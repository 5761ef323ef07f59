//! Where an HTTP probe or hook goes next when it's sent elsewhere.
//!
//! Source: Go `net/http` (client.go), `net/url` (ResolveReference), kubernetes `pkg/probe/http` (RedirectChecker).

use super::http::authority;

/// One place to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub https: bool,
    /// without brackets
    pub host: String,
    pub port: u16,
    /// with its query
    pub path: String,
}

impl Target {
    /// As it is shown in messages.
    pub(super) fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!(
            "{scheme}://{}{}",
            authority(&self.host, self.port),
            self.path
        )
    }

    /// What a `Location` that was given here means; None when it can't be asked.
    pub(super) fn resolve(&self, location: &str) -> Option<Target> {
        let location = location.split('#').next().unwrap_or_default();
        let lower = location.to_ascii_lowercase();
        if lower.starts_with("http://")
            || lower.starts_with("https://")
            || location.starts_with("//")
        {
            let (https, rest) = match lower.find("://") {
                Some(at) if !location.starts_with("//") => {
                    (lower.starts_with("https"), location.get(at + 3..)?)
                }
                _ => (self.https, location.get(2..)?),
            };
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (place, path) = rest.split_at(end);
            let place = place.rsplit('@').next().unwrap_or_default();
            let parsed: http::uri::Authority = place.parse().ok()?;
            let host = parsed.host().trim_start_matches('[').trim_end_matches(']');
            let default = if https { 443 } else { 80 };
            return Some(Target {
                https,
                host: host.to_owned(),
                port: parsed.port_u16().unwrap_or(default),
                path: if path.starts_with('/') {
                    path.to_owned()
                } else {
                    format!("/{path}")
                },
            });
        }
        // Another scheme, such as `ftp:`.
        let colon = location.find(':');
        if colon.is_some_and(|at| !location[..at].contains(['/', '?'])) {
            return None;
        }
        let path = self.path.split('?').next().unwrap_or("/");
        let path = if location.starts_with('/') {
            location.to_owned()
        } else if location.starts_with('?') {
            format!("{path}{location}")
        } else {
            let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
            format!("{folder}{location}")
        };
        Some(Target {
            path,
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        let base = Target {
            https: false,
            host: "10.1.0.1".into(),
            port: 8080,
            path: "/a/b?q=1".into(),
        };
        let check = |location: &str, want: Option<&str>| {
            let got = base.resolve(location).map(|t| t.url());
            assert_eq!(got.as_deref(), want, "{location}");
        };
        check("/next", Some("http://10.1.0.1:8080/next"));
        check("next?x=1", Some("http://10.1.0.1:8080/a/next?x=1"));
        check("?x=2", Some("http://10.1.0.1:8080/a/b?x=2"));
        check("http://10.1.0.1:9090/n#f", Some("http://10.1.0.1:9090/n"));
        check("https://10.1.0.1/n", Some("https://10.1.0.1:443/n"));
        check("HTTP://other.example", Some("http://other.example:80/"));
        check("//[::1]:81?x", Some("http://[::1]:81/?x"));
        check("ftp://other.example/", None);
        check("http://a b/", None);
    }
}
