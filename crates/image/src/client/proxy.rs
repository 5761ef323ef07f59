//! Which proxy stands before a registry: `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`, as Docker's daemon reads them.
//!
//! Source: golang.org/x/net `http/httpproxy` (`FromEnvironment`, `ProxyFunc`), which Docker, containerd and podman use.

use super::Error;
use ::http::{HeaderValue, Uri};
use base64::Engine;
use std::net::IpAddr;

/// What the environment says of proxies. The default says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For plain HTTP: `[http://|https://|socks5://][USER:PASSWORD@]HOST[:PORT]`.
    pub http: Option<String>,
    /// For HTTPS.
    pub https: Option<String>,
    /// Who is reached without: `*`, or a list with commas of addresses, networks (`10.0.0.0/8`), names (with what is below
    /// them), names of which only what is below is meant (`.example`, `*.example`), each but networks with a port if only
    /// that is meant. Loopback always is.
    pub none: String,
}

impl Proxies {
    /// What this process' environment says. The upper-case name counts before the lower-case one.
    pub fn from_environment() -> Proxies {
        let set = |upper: &str, lower: &str| {
            [upper, lower]
                .into_iter()
                .find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()))
        };
        Proxies {
            http: set("HTTP_PROXY", "http_proxy"),
            https: set("HTTPS_PROXY", "https_proxy"),
            none: set("NO_PROXY", "no_proxy").unwrap_or_default(),
        }
    }

    /// The proxy for an address; none: directly.
    ///
    /// # Errors
    /// When what is set is no address of a proxy.
    pub(super) fn of(&self, uri: &Uri) -> Result<Option<Proxy>, Error> {
        let (name, set, port) = match uri.scheme_str() {
            Some("https") => ("HTTPS_PROXY", &self.https, 443),
            _ => ("HTTP_PROXY", &self.http, 80),
        };
        let Some(set) = set else { return Ok(None) };
        let host = uri.host().unwrap_or_default();
        match self.uses(host, uri.port_u16().unwrap_or(port)) {
            true => Proxy::parse(name, set).map(Some),
            false => Ok(None),
        }
    }

    fn uses(&self, host: &str, port: u16) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let ip: Option<IpAddr> = host.parse().ok();
        if host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
            return false;
        }
        let mut entries = self.none.split(',').map(|e| e.trim().to_ascii_lowercase());
        !entries.any(|entry| excludes(&entry, &host, ip, port))
    }
}

/// Whether an entry of `NO_PROXY` means this host.
fn excludes(entry: &str, host: &str, ip: Option<IpAddr>, port: u16) -> bool {
    match entry {
        "" => return false,
        "*" => return true,
        _ => {}
    }
    if let Some((network, bits)) = entry.split_once('/')
        && let (Ok(network), Ok(bits)) = (network.parse(), bits.parse())
    {
        return ip.is_some_and(|ip| within(ip, network, bits));
    }
    let (name, only) = with_port(entry);
    if only.is_some_and(|only| only != port) {
        return false;
    }
    if let Ok(address) = name.parse::<IpAddr>() {
        return ip == Some(address);
    }
    if name.is_empty() {
        return false;
    }
    let name = name
        .strip_prefix('*')
        .filter(|n| n.starts_with('.'))
        .unwrap_or(name);
    match name.strip_prefix('.') {
        Some(below) => host.strip_suffix(below).is_some_and(|h| h.ends_with('.')),
        None => host == name || host.strip_suffix(name).is_some_and(|h| h.ends_with('.')),
    }
}

/// `NAME:PORT`, `[V6]:PORT`, or either without a port.
fn with_port(entry: &str) -> (&str, Option<u16>) {
    if let Some(rest) = entry.strip_prefix('[') {
        let (name, port) = rest.split_once(']').unwrap_or((rest, ""));
        return (name, port.strip_prefix(':').and_then(|p| p.parse().ok()));
    }
    match entry.split_once(':') {
        // more than one colon: an address of version 6
        Some((name, port)) if !port.contains(':') => (name, port.parse().ok()),
        _ => (entry, None),
    }
}

fn within(ip: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (ip, network, size): (u128, u128, u32) = match (ip, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a).into(), u32::from(b).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.into(), b.into(), 128),
        _ => return false,
    };
    let Some(shift) = size.checked_sub(bits) else {
        return false;
    };
    ip.checked_shr(shift).unwrap_or(0) == network.checked_shr(shift).unwrap_or(0)
}

/// How a proxy is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `CONNECT` for HTTPS, whole addresses for plain HTTP.
    Http,
    Socks5,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    pub kind: Kind,
    /// Its scheme, host and port.
    pub uri: Uri,
    pub login: Option<(String, String)>,
}

impl Proxy {
    fn parse(name: &str, text: &str) -> Result<Proxy, Error> {
        let broken = |why: &str| Error::Config {
            path: name.into(),
            // it may have a password
            why: format!("no address of a proxy: {why}; expected http://HOST:PORT"),
        };
        let full = match text.contains("://") {
            true => text.to_owned(),
            false => format!("http://{text}"),
        };
        let (scheme, rest) = full.split_once("://").unwrap_or_default();
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (login, host) = match authority.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, authority),
        };
        let (kind, scheme, port) = match scheme {
            "http" => (Kind::Http, "http", 80),
            "https" => (Kind::Http, "https", 443),
            "socks5" | "socks5h" => (Kind::Socks5, "http", 1080),
            other => return Err(broken(&format!("the scheme {other:?}"))),
        };
        let parsed: ::http::uri::Authority = host.parse().map_err(|_| broken("no host"))?;
        if parsed.host().is_empty() {
            return Err(broken("no host"));
        }
        let port = parsed.port_u16().unwrap_or(port);
        let uri = format!("{scheme}://{}:{port}/", parsed.host());
        let login = login.map(|login| {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            let unescaped = |t| {
                percent_encoding::percent_decode_str(t)
                    .decode_utf8_lossy()
                    .into_owned()
            };
            (unescaped(user), unescaped(password))
        });
        Ok(Proxy {
            kind,
            uri: uri.parse().map_err(|_| broken("no host"))?,
            login,
        })
    }

    /// `Proxy-Authorization`, for one that asks for a login.
    pub fn authorization(&self) -> Option<HeaderValue> {
        let (user, password) = self.login.as_ref()?;
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let mut value = HeaderValue::try_from(format!("Basic {pair}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_reached_without_a_proxy() {
        let check = |none: &str, url: &str, want: bool| {
            let proxies = Proxies {
                http: Some("p.example:3128".into()),
                https: Some("http://s.example".into()),
                none: none.into(),
            };
            let found = proxies.of(&url.parse().unwrap()).unwrap();
            assert_eq!(found.is_some(), want, "{none:?} {url}");
        };
        for (none, url, want) in [
            ("", "https://r.example/v2/", true),
            ("", "http://r.example/v2/", true),
            ("", "http://localhost:5000/", false),
            ("", "http://127.0.0.9/", false),
            ("", "http://[::1]:5000/", false),
            ("*", "https://r.example/", false),
            ("r.example", "https://r.example/", false),
            ("r.example", "https://R.Example:5000/", false),
            ("r.example", "https://a.r.example/", false),
            ("r.example", "https://ar.example/", true),
            (".r.example", "https://r.example/", true),
            (".r.example", "https://a.r.example/", false),
            ("*.r.example", "https://r.example/", true),
            ("*.r.example", "https://a.b.r.example/", false),
            ("x, r.example:443", "https://r.example/", false),
            ("r.example:443", "https://r.example:444/", true),
            ("10.1.2.3", "https://10.1.2.3:5000/", false),
            ("10.1.2.3:80", "https://10.1.2.3:5000/", true),
            ("10.0.0.0/8", "https://10.1.2.3:5000/", false),
            ("10.0.0.0/8", "https://11.1.2.3/", true),
            ("10.0.0.0/8", "https://r.example/", true),
            ("fd00::/8", "https://[fd12::1]:5000/", false),
            ("[fd12::1]:5000", "https://[fd12::1]:5000/", false),
            ("fd12::2", "https://[fd12::1]/", true),
            ("0.0.0.0/0", "https://1.2.3.4/", false),
        ] {
            check(none, url, want);
        }
    }

    #[test]
    fn addresses_of_proxies_are_read() {
        let check = |text: &str, want: Option<(&str, &str, Option<&str>)>| {
            let got = Proxy::parse("HTTPS_PROXY", text).ok().map(|proxy| {
                let kind = format!("{:?}", proxy.kind);
                (
                    kind,
                    proxy.uri.to_string(),
                    proxy.login.map(|(u, p)| format!("{u}|{p}")),
                )
            });
            let want =
                want.map(|(kind, uri, login)| (kind.into(), uri.into(), login.map(String::from)));
            assert_eq!(got, want, "{text}");
        };
        check("p.example", Some(("Http", "http://p.example:80/", None)));
        check(
            "p.example:3128",
            Some(("Http", "http://p.example:3128/", None)),
        );
        check(
            "https://p.example/x",
            Some(("Http", "https://p.example:443/", None)),
        );
        check(
            "http://u:p%40w@p:1",
            Some(("Http", "http://p:1/", Some("u|p@w"))),
        );
        check(
            "socks5://[::1]",
            Some(("Socks5", "http://[::1]:1080/", None)),
        );
        check("ftp://p.example", None);
        check("http://", None);
    }
}
