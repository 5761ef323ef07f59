//! Challenges and tokens.
//!
//! Source: RFC 9110 §11 (challenges), RFC 6750, distribution `docs/spec/auth/token.md` and `oauth.md`.

use super::{
    Credential, Error, body,
    http::{Ask, Http},
};
use ::http::{HeaderMap, HeaderValue, Method, header};
use base64::Engine;
use serde::Deserialize;
use std::time::{Duration, Instant};

/// The most bytes of a token service's answer.
const TOKEN_BYTES_MAX: usize = 1 << 20;
/// How we call ourselves to token services.
const CLIENT_ID: &str = "knarr";

/// What a `WWW-Authenticate` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// A token, and until when it may be used.
#[derive(Clone)]
pub(super) struct Token {
    pub header: HeaderValue,
    pub until: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// The challenges of an answer that we can meet; Bearer first.
pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = headers
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .filter_map(|v| challenge(v.to_str().ok()?))
        .collect();
    found.sort_by_key(|c| matches!(c, Challenge::Basic));
    found
}

fn challenge(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    for (name, value) in parameters(rest) {
        match name.to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            "scope" => scope = Some(value),
            _ => {}
        }
    }
    Some(Challenge::Bearer {
        realm: realm?,
        service,
        scope,
    })
}

/// `name=value` and `name="value"` with commas between.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']).to_string();
        let mut value = String::new();
        let after = after.trim_start();
        if let Some(quoted) = after.strip_prefix('"') {
            let mut chars = quoted.char_indices();
            let mut end = quoted.len();
            while let Some((at, c)) = chars.next() {
                match c {
                    '\\' => value.extend(chars.next().map(|(_, c)| c)),
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    c => value.push(c),
                }
            }
            rest = quoted.get(end..).unwrap_or("");
        } else {
            let end = after.find(',').unwrap_or(after.len());
            value = after[..end].trim().into();
            rest = &after[end..];
        }
        found.push((name, value));
    }
    found
}

pub(super) fn basic(credential: &Credential) -> Option<HeaderValue> {
    let pair = format!("{}:{}", credential.username, credential.password);
    let text = base64::engine::general_purpose::STANDARD.encode(pair);
    secret(&format!("Basic {text}"))
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What to send for a challenge; none when the credential can't meet it.
pub(super) async fn meet(
    http: &Http,
    challenge: &Challenge,
    scopes: &[String],
    credential: Option<&Credential>,
) -> Result<Option<Token>, Error> {
    let long = Instant::now() + Duration::from_secs(3600);
    let token = |header: Option<HeaderValue>| {
        header.map(|header| Token {
            header,
            until: long,
        })
    };
    let (realm, service, scope) = match (challenge, credential) {
        (_, Some(c)) if !c.registry_token.is_empty() => {
            return Ok(token(secret(&format!("Bearer {}", c.registry_token))));
        }
        (Challenge::Basic, Some(c)) if !c.username.is_empty() => return Ok(token(basic(c))),
        (Challenge::Basic, _) => return Ok(None),
        (
            Challenge::Bearer {
                realm,
                service,
                scope,
            },
            _,
        ) => (realm, service, scope),
    };
    let mut wanted: Vec<&str> = scopes.iter().map(String::as_str).collect();
    if let Some(scope) = scope
        && !wanted.contains(&scope.as_str())
    {
        wanted.push(scope);
    }
    let refresh = credential.filter(|c| !c.identity_token.is_empty());
    let login = credential.filter(|c| !c.username.is_empty());
    let form = form(service.as_deref(), &wanted, refresh, login);
    let mut headers = HeaderMap::new();
    let text = form.clone();
    let write = move || body::bytes(text.clone());
    let ask = match refresh {
        Some(_) => {
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            headers.insert(header::CONTENT_TYPE, kind);
            Ask {
                method: Method::POST,
                url: realm.clone(),
                headers,
                body: &write,
                authorization: None,
            }
        }
        None => {
            let mark = if realm.contains('?') { '&' } else { '?' };
            Ask {
                method: Method::GET,
                url: format!("{realm}{mark}{form}"),
                headers,
                body: &super::http::empty,
                authorization: login.and_then(basic),
            }
        }
    };
    let answer = http.send(&ask).await?;
    // not the whole address: its query names the account
    if !answer.status().is_success() {
        return match answer.status().as_u16() {
            400 | 401 | 403 => Ok(None),
            _ => Err(http.refused(realm, answer).await),
        };
    }
    let bytes = http
        .whole(realm, answer.into_body(), TOKEN_BYTES_MAX)
        .await?;
    let parsed: TokenAnswer = serde_json::from_slice(&bytes)
        .map_err(|_| Error::wrong(realm, "it answered something else than a token"))?;
    let text = match parsed.token.is_empty() {
        false => parsed.token,
        true => parsed.access_token,
    };
    if text.is_empty() {
        return Err(Error::wrong(realm, "it answered without a token"));
    }
    // 60 s unless it says more, used up a little before
    let seconds = parsed.expires_in.unwrap_or(60).clamp(60, 3600) - 10;
    Ok(secret(&format!("Bearer {text}")).map(|header| Token {
        header,
        until: Instant::now() + Duration::from_secs(seconds),
    }))
}

/// What a token service is asked, as a query or as a body.
fn form(
    service: Option<&str>,
    scopes: &[&str],
    refresh: Option<&Credential>,
    login: Option<&Credential>,
) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    if let Some(service) = service {
        form.append_pair("service", service);
    }
    if let Some(c) = refresh {
        form.append_pair("client_id", CLIENT_ID)
            .append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", &c.identity_token)
            .append_pair("scope", &scopes.join(" "));
        return form.finish();
    }
    for scope in scopes {
        form.append_pair("scope", scope);
    }
    if let Some(c) = login {
        form.append_pair("account", &c.username);
    }
    form.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_servers_write_them() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.into(),
            service: service.map(String::from),
            scope: scope.map(String::from),
        };
        for (text, want) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://a/t\",service=\"r\",scope=\"repository:x:pull,push\"",
                Some(bearer(
                    "https://a/t",
                    Some("r"),
                    Some("repository:x:pull,push"),
                )),
            ),
            (
                "bearer realm=https://a/t, service = \"a\\\"b\"",
                Some(bearer("https://a/t", Some("a\"b"), None)),
            ),
            ("Bearer service=\"r\"", None),
            ("Negotiate abc", None),
            (
                "Bearer realm=\"https://a",
                Some(bearer("https://a", None, None)),
            ),
        ] {
            assert_eq!(challenge(text), want, "{text}");
        }
    }
}
