//! Which headers go on and which end here (RFC 9110, section 7.6.1).

use std::{fmt::Write, net::IpAddr};

use hyper::{
    HeaderMap, Request,
    header::{self, HeaderName, HeaderValue},
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The protocol a message asks to switch to.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks =
        tokens(headers, header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| asks).cloned()
}

fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Removes what concerns one connection only; an agreed upgrade and `TE: trailers` go on.
pub(crate) fn strip(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    let named = tokens(headers, header::CONNECTION)
        .filter_map(|token| HeaderName::try_from(token).ok())
        .filter(|name| name != header::HOST && name != header::CONTENT_LENGTH)
        .collect::<Vec<_>>();
    let trailers = tokens(headers, header::TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
}

/// Tells the endpoint whom it serves.
pub(crate) fn forwarded(headers: &mut HeaderMap, client: IpAddr, tls: bool) {
    let mut text = String::new();
    for before in headers.get_all(FORWARDED_FOR) {
        if let Ok(before) = before.to_str() {
            text += before;
            text += ", ";
        }
    }
    // Writing to a String can't fail.
    let _ = write!(text, "{client}");
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(FORWARDED_FOR, value);
    }
    let proto = if tls { "https" } else { "http" };
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(proto));
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.insert(FORWARDED_HOST, host);
    }
}

/// The request's host without port, lower case; None when it has none, or two that differ.
pub(crate) fn host<B>(request: &Request<B>) -> Option<String> {
    let mut named = request.headers().get_all(header::HOST).iter();
    let name = match (request.uri().authority(), named.next(), named.next()) {
        (_, _, Some(_)) => return None,
        // RFC 9112, section 3.2.2: an absolute target wins.
        (Some(authority), _, None) => authority.as_str(),
        (None, Some(host), None) => host.to_str().ok()?,
        (None, None, None) => return None,
    };
    let name = name.rsplit('@').next()?;
    let end = match name.starts_with('[') {
        true => name.find(']').map_or(name.len(), |at| at + 1),
        false => name.find(':').unwrap_or(name.len()),
    };
    Some(name[..end].to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (
                name.parse::<HeaderName>().unwrap(),
                value.parse::<HeaderValue>().unwrap(),
            )
        };
        let mut map = HeaderMap::new();
        for (name, value) in pairs.iter().map(pair) {
            map.append(name, value);
        }
        map
    }

    fn show(map: &HeaderMap) -> Vec<String> {
        let mut all = map
            .iter()
            .map(|(k, v)| format!("{k}: {}", v.to_str().unwrap()))
            .collect::<Vec<_>>();
        all.sort();
        all
    }

    fn check(name: &str, headers: &[(&str, &str)], expected: &[&str]) {
        let mut map = map(headers);
        let upgrade = upgrade(&map);
        strip(&mut map, upgrade.as_ref());
        assert_eq!(show(&map), expected, "{name}");
    }

    #[test]
    fn what_goes_on() {
        check("plain", &[("accept", "*/*")], &["accept: */*"]);
        check(
            "hop by hop",
            &[
                ("connection", "close, X-Once"),
                ("x-once", "1"),
                ("keep-alive", "3"),
                ("te", "gzip"),
                ("transfer-encoding", "chunked"),
            ],
            &[],
        );
        check(
            "trailers",
            &[("te", "trailers, deflate")],
            &["te: trailers"],
        );
        check(
            "an upgrade",
            &[
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "websocket"),
            ],
            &["connection: upgrade", "upgrade: websocket"],
        );
        check("an upgrade not asked for", &[("upgrade", "h2c")], &[]);
        check(
            "the host can't be taken away",
            &[
                ("connection", "host, content-length"),
                ("host", "a"),
                ("content-length", "0"),
            ],
            &["content-length: 0", "host: a"],
        );
    }

    #[test]
    fn whose_request_it_is() {
        let mut headers = map(&[
            ("host", "a.example"),
            ("x-forwarded-for", "192.0.2.9"),
            ("x-forwarded-for", "192.0.2.8"),
            ("x-forwarded-proto", "spoofed"),
        ]);
        forwarded(&mut headers, [192, 0, 2, 1].into(), false);
        assert_eq!(
            show(&headers),
            [
                "host: a.example",
                "x-forwarded-for: 192.0.2.9, 192.0.2.8, 192.0.2.1",
                "x-forwarded-host: a.example",
                "x-forwarded-proto: http"
            ]
        );
    }

    fn check_host(uri: &str, hosts: &[&str], expected: Option<&str>) {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        assert_eq!(
            host(&request.body(()).unwrap()).as_deref(),
            expected,
            "{uri} {hosts:?}"
        );
    }

    #[test]
    fn hosts() {
        check_host("/", &["A.example:8080"], Some("a.example"));
        check_host("/", &["[::1]:80"], Some("[::1]"));
        check_host("/", &[], None);
        check_host("/", &["a", "b"], None);
        check_host("http://b.example:1/", &["a"], Some("b.example"));
    }
}
