//! Who made a request: client certificates (from the TLS layer), bearer tokens of service accounts and bootstrap tokens,
//! or nobody (apiserver `authentication/request`, `pkg/serviceaccount`, `plugin/pkg/auth/authenticator/token/bootstrap`).

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};
use knarr_access::{
    User,
    jwt::{Claims, LEEWAY_SECONDS, LEGACY_ISSUER, Ref, issuer},
    user::split_account,
};
use serde_json::Value;
use subtle::ConstantTimeEq;

use super::tracking;
use crate::{
    catalog,
    identity::{self, Identity},
    object::{self, meta},
    server::Inner,
    status::Failure,
};

/// Prefix of a WebSocket protocol that carries a token, for browsers, which can't send headers.
const WEBSOCKET_TOKEN: &str = "base64url.bearer.authorization.k8s.io.";
/// Key of `extra` that names the credential.
pub const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// The user of a request; 401 when it brings a token that doesn't hold.
pub fn authenticate(inner: &Inner, parts: &Parts) -> Result<Identity, Failure> {
    if let Some(who) = parts.extensions.get::<Identity>() {
        return Ok(who.clone());
    }
    let Some(token) = bearer(&parts.headers) else {
        return Ok(Identity::anonymous());
    };
    match token_user(inner, &token, &[inner.issuer()]) {
        Ok(found) => Ok(Identity::of(found.user)),
        Err(why) => {
            tracing::debug!("a token was refused: {why}");
            Err(identity::unauthorized())
        }
    }
}

/// The token a request brings.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.trim().split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim().to_string());
    let given = given.or_else(|| {
        let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
        let found = protocols
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .find_map(|p| p.trim().strip_prefix(WEBSOCKET_TOKEN))?;
        let decoded = URL_SAFE_NO_PAD.decode(found.trim_end_matches('=')).ok()?;
        String::from_utf8(decoded).ok()
    });
    given.filter(|t| !t.is_empty())
}

/// Takes credentials and claims off a request once they are read: nobody behind, least of all one it is passed on to,
/// must see them.
pub fn strip(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    let claims: Vec<HeaderName> = headers
        .keys()
        .filter(|k| k.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    for name in claims {
        headers.remove(name);
    }
    let all = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let offered: Vec<String> = all
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|p| p.trim().to_string())
        .collect();
    let kept = offered.iter().filter(|p| !p.starts_with(WEBSOCKET_TOKEN));
    let kept: Vec<&str> = kept.map(String::as_str).collect();
    if kept.len() == offered.len() {
        return;
    }
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if let Ok(v) = HeaderValue::from_str(&kept.join(", "))
        && !kept.is_empty()
    {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, v);
    }
}

/// A token's user, and those of the audiences asked for that it is meant for.
pub struct Found {
    /// Who.
    pub user: User,
    /// For whom.
    pub audiences: Vec<String>,
}

/// Reads a token. Err says why it doesn't hold; it never has the token's text.
pub fn token_user(inner: &Inner, token: &str, audiences: &[String]) -> Result<Found, String> {
    if let Some((id, secret)) = bootstrap_parts(token) {
        return Ok(Found {
            user: bootstrap_user(inner, id, secret)?,
            audiences: matching(&[inner.issuer()], audiences)?,
        });
    }
    let by = issuer(token).ok_or("it is no kind of token known here")?;
    if by != inner.issuer() && by != LEGACY_ISSUER {
        return Err("it was issued by somebody else".into());
    }
    let claims = inner.access.verified(token).map_err(|e| e.to_string())?;
    if claims.iss == LEGACY_ISSUER {
        let audiences = matching(&[inner.issuer()], audiences)?;
        let user = legacy_user(inner, token, &claims)?;
        return Ok(Found { user, audiences });
    }
    let audiences = matching(&claims.aud, audiences)?;
    claims
        .in_time(jiff::Timestamp::now().as_second())
        .map_err(|e| e.to_string())?;
    let user = bound_user(inner, &claims)?;
    Ok(Found { user, audiences })
}

fn matching(of_token: &[String], asked: &[String]) -> Result<Vec<String>, String> {
    let both: Vec<String> = of_token
        .iter()
        .filter(|a| asked.contains(a))
        .cloned()
        .collect();
    if both.is_empty() && !asked.is_empty() {
        return Err(format!(
            "token audiences {} is invalid for the target audiences {}",
            knarr_access::rule::quoted(of_token),
            knarr_access::rule::quoted(asked)
        ));
    }
    Ok(both)
}

/// A stored object of the core group.
pub fn stored(inner: &Inner, plural: &str, namespace: &str, name: &str) -> Option<Value> {
    stored_in(inner, "", plural, namespace, name)
}

/// A stored object.
pub fn stored_in(
    inner: &Inner,
    group: &str,
    plural: &str,
    namespace: &str,
    name: &str,
) -> Option<Value> {
    let r = inner.catalog().preferred(group, plural)?;
    let snapshot = inner.store.snapshot();
    let entry = snapshot.get(&catalog::key(&r, namespace, name))?;
    object::parse(&entry.value).ok()
}

/// Metadata of a stored object of the core group.
fn stored_metadata(inner: &Inner, plural: &str, namespace: &str, name: &str) -> Option<Value> {
    let r = inner.catalog().preferred("", plural)?;
    let snapshot = inner.store.snapshot();
    let entry = snapshot.get(&catalog::key(&r, namespace, name))?;
    object::metadata(&entry.value)
}

/// What a token is bound to must be there, be the same, and not have been deleted for long.
fn alive(
    inner: &Inner,
    plural: &str,
    what: &str,
    namespace: &str,
    wanted: &Ref,
) -> Result<(), String> {
    let metadata = stored_metadata(inner, plural, namespace, &wanted.name)
        .ok_or_else(|| format!("the {what} it is bound to is gone"))?;
    let text = |k: &str| metadata.get(k).and_then(Value::as_str).unwrap_or("");
    if text("uid") != wanted.uid {
        return Err(format!("the {what} it is bound to is another one now"));
    }
    let deleted: Option<jiff::Timestamp> = text("deletionTimestamp").parse().ok();
    let since = jiff::Timestamp::now().as_second() - LEEWAY_SECONDS;
    match deleted {
        Some(t) if t.as_second() < since => Err(format!("the {what} it is bound to is deleted")),
        _ => Ok(()),
    }
}

fn bound_user(inner: &Inner, claims: &Claims) -> Result<User, String> {
    let k = claims
        .kubernetes
        .as_ref()
        .ok_or("it has no kubernetes.io claim")?;
    let account = &k.serviceaccount;
    alive(
        inner,
        "serviceaccounts",
        "service account",
        &k.namespace,
        account,
    )?;
    let mut user = User::service_account(&k.namespace, &account.name, &account.uid);
    let mut extra = |key: &str, value: &str| {
        let key = format!("authentication.kubernetes.io/{key}");
        user.extra.insert(key, vec![value.to_string()]);
    };
    if let Some(secret) = &k.secret {
        alive(inner, "secrets", "Secret", &k.namespace, secret)?;
    }
    if let Some(pod) = &k.pod {
        alive(inner, "pods", "Pod", &k.namespace, pod)?;
        extra("pod-name", &pod.name);
        extra("pod-uid", &pod.uid);
    }
    if let Some(node) = &k.node {
        if k.pod.is_none() {
            alive(inner, "nodes", "Node", "", node)?;
        }
        extra("node-name", &node.name);
        if !node.uid.is_empty() {
            extra("node-uid", &node.uid);
        }
    }
    if !claims.jti.is_empty() {
        extra("credential-id", &format!("JTI={}", claims.jti));
    }
    Ok(user)
}

fn legacy_user(inner: &Inner, token: &str, claims: &Claims) -> Result<User, String> {
    let l = &claims.legacy;
    if split_account(&claims.sub) != Some((l.namespace.as_str(), l.account.as_str())) {
        return Err("its subject and its claims differ".into());
    }
    let secret = stored(inner, "secrets", &l.namespace, &l.secret)
        .filter(|s| meta(s, "deletionTimestamp").is_empty())
        .ok_or("its Secret is gone")?;
    let copy = secret
        .pointer("/data/token")
        .and_then(Value::as_str)
        .and_then(|t| STANDARD.decode(t).ok())
        .unwrap_or_default();
    if !bool::from(copy.ct_eq(token.as_bytes())) {
        return Err("its Secret holds another".into());
    }
    let account = stored_metadata(inner, "serviceaccounts", &l.namespace, &l.account)
        .filter(|m| m.get("deletionTimestamp").is_none())
        .ok_or("its service account is gone")?;
    if account["uid"] != l.uid.as_str() {
        return Err("its service account is another one now".into());
    }
    inner.access.used.note(&secret);
    let marked = secret["metadata"]["labels"][tracking::INVALID_SINCE].as_str();
    if marked.is_some_and(|since| !since.is_empty()) {
        return Err("its Secret is marked as invalid".into());
    }
    Ok(User::service_account(&l.namespace, &l.account, &l.uid))
}

/// Id and secret of a bootstrap token (`[a-z0-9]{6}.[a-z0-9]{16}`).
fn bootstrap_parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |s: &str| {
        s.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

fn bootstrap_user(inner: &Inner, id: &str, given: &str) -> Result<User, String> {
    const NO: &str = "there is no such bootstrap token";
    let name = format!("bootstrap-token-{id}");
    let secret = stored(inner, "secrets", "kube-system", &name)
        .filter(|s| meta(s, "deletionTimestamp").is_empty())
        .filter(|s| s["type"] == "bootstrap.kubernetes.io/token")
        .ok_or(NO)?;
    let data = |key: &str| -> String {
        secret["data"][key]
            .as_str()
            .and_then(|v| STANDARD.decode(v).ok())
            .and_then(|v| String::from_utf8(v).ok())
            .unwrap_or_default()
    };
    let (kept_id, kept) = (data("token-id"), data("token-secret"));
    let same = bool::from(kept.as_bytes().ct_eq(given.as_bytes()));
    if kept_id != id || kept.is_empty() || !same {
        return Err(NO.into());
    }
    let expiration = data("expiration");
    if !expiration.is_empty() {
        let until: jiff::Timestamp = expiration
            .parse()
            .map_err(|_| "the bootstrap token's expiration is no time")?;
        if until <= jiff::Timestamp::now() {
            return Err("the bootstrap token has expired".into());
        }
    }
    if data("usage-bootstrap-authentication") != "true" {
        return Err("the bootstrap token is not for authentication".into());
    }
    let mut groups = vec!["system:bootstrappers".to_string()];
    for group in data("auth-extra-groups").split(',').map(str::trim) {
        if group.is_empty() {
            continue;
        }
        let rest = group.strip_prefix("system:bootstrappers:");
        if !rest.is_some_and(is_group_tail) {
            return Err(
                "the bootstrap token's groups must start with system:bootstrappers:".into(),
            );
        }
        if !groups.iter().any(|g| g == group) {
            groups.push(group.to_string());
        }
    }
    Ok(User {
        name: format!("system:bootstrap:{id}"),
        groups,
        ..User::default()
    })
}

/// `[a-z0-9:-]{0,255}[a-z0-9]`
fn is_group_tail(tail: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    tail.len() <= 256
        && tail.bytes().last().is_some_and(word)
        && tail.bytes().all(|b| word(b) || b == b':' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_where_clients_put_them() {
        let cases: [(&str, &str, Option<&str>); 8] = [
            ("authorization", "Bearer abc", Some("abc")),
            ("authorization", "bearer  abc ", Some("abc")),
            ("authorization", "Bearer ", None),
            ("authorization", "Bearer", None),
            ("authorization", "Basic abc", None),
            (
                "sec-websocket-protocol",
                "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj",
                Some("abc"),
            ),
            ("sec-websocket-protocol", "v4.channel.k8s.io", None),
            ("x", "y", None),
        ];
        for (name, value, want) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(
                http::HeaderName::try_from(name).unwrap(),
                value.parse().unwrap(),
            );
            assert_eq!(bearer(&headers).as_deref(), want, "{name}: {value}");
        }
    }

    #[test]
    fn what_was_read_is_taken_off() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer a"),
            ("impersonate-user", "b"),
            ("impersonate-extra-x", "c"),
            ("accept", "d"),
            (
                "sec-websocket-protocol",
                "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj",
            ),
        ] {
            let name = HeaderName::try_from(name).unwrap();
            headers.insert(name, value.parse().unwrap());
        }
        strip(&mut headers);
        let mut left: Vec<String> = headers
            .iter()
            .map(|(k, v)| format!("{k}: {}", v.to_str().unwrap()))
            .collect();
        left.sort();
        assert_eq!(
            left,
            ["accept: d", "sec-websocket-protocol: v4.channel.k8s.io"]
        );
    }

    #[test]
    fn bootstrap_tokens_have_a_form() {
        let cases = [
            ("abcdef.0123456789abcdef", true),
            ("abcde.0123456789abcdef", false),
            ("abcdef.0123456789abcde", false),
            ("ABCDEF.0123456789abcdef", false),
            ("abcdef0123456789abcdef", false),
        ];
        for (token, want) in cases {
            assert_eq!(bootstrap_parts(token).is_some(), want, "{token}");
        }
        for (tail, want) in [
            ("a", true),
            ("a:b-c", true),
            ("a:", false),
            ("", false),
            ("A", false),
        ] {
            assert_eq!(is_group_tail(tail), want, "{tail}");
        }
    }
}
