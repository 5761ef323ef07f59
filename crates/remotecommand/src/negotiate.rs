//! Which framing and which protocol: from the request's headers to the 101 response.

use crate::error::Error;
use http::header::{CONNECTION, HeaderMap, HeaderName, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderValue, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Spdy,
    WebSocket,
}

/// Both framings of one kind of request, each with the protocols it knows.
pub(crate) struct Offer {
    pub(crate) spdy: &'static [&'static str],
    pub(crate) websocket: &'static [&'static str],
}

/// The 101 response, the framing, and the protocol (`""` when the client named none).
pub(crate) fn negotiate(
    headers: &HeaderMap,
    offer: &Offer,
) -> Result<(Response<()>, Framing, &'static str), Error> {
    let upgrades = tokens(headers, UPGRADE);
    let has = |name: &str| {
        upgrades
            .iter()
            .any(|token| token.eq_ignore_ascii_case(name))
    };
    let connection = tokens(headers, CONNECTION);
    let asks_for_upgrade = connection
        .iter()
        .any(|token| token.eq_ignore_ascii_case("upgrade"));
    if asks_for_upgrade && has("websocket") {
        return websocket(headers, offer.websocket);
    }
    if asks_for_upgrade && has("SPDY/3.1") {
        return spdy(headers, offer.spdy);
    }
    Err(Error::BadRequest(
        "unable to upgrade: missing upgrade headers in request: need \"Connection: Upgrade\" with \"Upgrade: SPDY/3.1\" or \"Upgrade: websocket\""
            .to_owned(),
    ))
}

fn spdy(
    headers: &HeaderMap,
    server: &'static [&'static str],
) -> Result<(Response<()>, Framing, &'static str), Error> {
    let protocol = choose(tokens(headers, STREAM_PROTOCOL), server)?;
    let mut response = switching("SPDY/3.1");
    if !protocol.is_empty() {
        let value = HeaderValue::from_static(protocol);
        response.headers_mut().insert(STREAM_PROTOCOL, value);
    }
    Ok((response, Framing::Spdy, protocol))
}

fn websocket(
    headers: &HeaderMap,
    server: &'static [&'static str],
) -> Result<(Response<()>, Framing, &'static str), Error> {
    let key = headers
        .get(http::header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| {
            Error::BadRequest("unable to upgrade: missing Sec-WebSocket-Key".to_owned())
        })?;
    let version = headers.get(http::header::SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version != "13") {
        let message = "unable to upgrade: only Sec-WebSocket-Version 13 is supported";
        return Err(Error::BadRequest(message.to_owned()));
    }
    let protocol = choose(tokens(headers, SEC_WEBSOCKET_PROTOCOL), server)?;
    let mut response = switching("websocket");
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()))
        .map_err(|_| Error::BadRequest("unable to upgrade: bad Sec-WebSocket-Key".to_owned()))?;
    let answer = response.headers_mut();
    answer.insert(http::header::SEC_WEBSOCKET_ACCEPT, accept);
    if !protocol.is_empty() {
        answer.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok((response, Framing::WebSocket, protocol))
}

/// The first of the client's protocols that the server knows; a client that names none gets the oldest (`""`).
fn choose(client: Vec<String>, server: &'static [&'static str]) -> Result<&'static str, Error> {
    if client.is_empty() {
        return Ok("");
    }
    let known = |name: &String| server.iter().find(|known| *known == name);
    match client.iter().find_map(known) {
        Some(protocol) => Ok(protocol),
        None => Err(Error::NoCommonProtocol { client, server }),
    }
}

fn switching(to: &'static str) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(to));
    response
}

/// All values of a list header, be it repeated, comma-separated, or both.
pub(crate) fn tokens(headers: &HeaderMap, name: HeaderName) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|token| token.trim().to_owned())
        .filter(|token| !token.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Offer = Offer {
        spdy: &["v4.channel.k8s.io", "v3.channel.k8s.io"],
        websocket: &["v5.channel.k8s.io", "v4.channel.k8s.io"],
    };

    fn check(name: &str, request: &[(&str, &str)], expected: Result<(Framing, &str), &str>) {
        let mut headers = HeaderMap::new();
        for (key, value) in request {
            headers.append(HeaderName::try_from(*key).unwrap(), value.parse().unwrap());
        }
        match (negotiate(&headers, &OFFER), expected) {
            (Ok((response, framing, protocol)), Ok(expected)) => {
                assert_eq!((framing, protocol), expected, "{name}");
                assert_eq!(response.status(), 101, "{name}");
            }
            (Err(error), Err(expected)) => {
                assert!(error.to_string().contains(expected), "{name}: {error}");
            }
            (got, expected) => panic!("{name}: {got:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn table() {
        let up = ("connection", "Upgrade");
        let spdy = ("upgrade", "SPDY/3.1");
        let ws = ("upgrade", "websocket");
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let v13 = ("sec-websocket-version", "13");
        check("nothing", &[], Err("missing upgrade headers"));
        check(
            "no connection header",
            &[spdy],
            Err("missing upgrade headers"),
        );
        check(
            "another protocol",
            &[up, ("upgrade", "h2c")],
            Err("missing upgrade headers"),
        );
        check("SPDY, none named", &[up, spdy], Ok((Framing::Spdy, "")));
        check(
            "SPDY, headers repeated as kubectl does",
            &[
                up,
                spdy,
                ("x-stream-protocol-version", "v9.channel.k8s.io"),
                ("x-stream-protocol-version", "v3.channel.k8s.io"),
                ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ],
            Ok((Framing::Spdy, "v3.channel.k8s.io")),
        );
        check(
            "SPDY, comma-separated, other case",
            &[
                ("connection", "keep-alive, upgrade"),
                ("upgrade", "spdy/3.1"),
                (
                    "x-stream-protocol-version",
                    "v4.channel.k8s.io, v3.channel.k8s.io",
                ),
            ],
            Ok((Framing::Spdy, "v4.channel.k8s.io")),
        );
        check(
            "SPDY, nothing in common",
            &[up, spdy, ("x-stream-protocol-version", "v9.channel.k8s.io")],
            Err("unable to negotiate protocol: client supports [\"v9.channel.k8s.io\"]"),
        );
        check(
            "WebSocket",
            &[
                up,
                ws,
                key,
                v13,
                ("sec-websocket-protocol", "v5.channel.k8s.io"),
            ],
            Ok((Framing::WebSocket, "v5.channel.k8s.io")),
        );
        check(
            "WebSocket, no key",
            &[up, ws, v13],
            Err("Sec-WebSocket-Key"),
        );
        check(
            "WebSocket, old",
            &[up, ws, key, ("sec-websocket-version", "8")],
            Err("Sec-WebSocket-Version 13"),
        );
    }
}
