//! Service-account tokens for volumes: asked of the API server, and renewed in good time.
//!
//! Source: kubernetes `pkg/kubelet/token/token_manager.go`.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{
        BoundObjectReference, TokenRequest, TokenRequestSpec, TokenRequestStatus,
    },
    core::v1::{Pod, ServiceAccount},
};
use kube::{Api, api::PostParams};
use serde::Deserialize;

use super::READ_DEADLINE;

/// Seconds after which a token is renewed, however long it would be good.
const AGE_MAX: i64 = 24 * 3600;

/// Asks for a token that is good for this Pod alone.
///
/// # Errors
/// In upstream's words, with the server's reason.
pub(crate) async fn request(
    client: &kube::Client,
    pod: &Pod,
    audience: Option<String>,
    seconds: Option<i64>,
) -> Result<TokenRequestStatus, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let account = pod
        .spec
        .as_ref()
        .and_then(|s| s.service_account_name.as_deref())
        .filter(|s| !s.is_empty())
        .unwrap_or("default");
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(audience.into_iter().collect()),
            expiration_seconds: seconds,
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    };
    let failed =
        |e: String| format!("failed to fetch token of service account {namespace}/{account}: {e}");
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let answer = tokio::time::timeout(
        READ_DEADLINE,
        api.create_token_request(account, &PostParams::default(), &request),
    )
    .await
    .map_err(|_| failed("the API server did not answer in time".into()))?
    .map_err(|e| failed(e.to_string()))?;
    answer
        .status
        .filter(|s| s.token.as_ref().is_some_and(|t| !t.is_empty()))
        .ok_or_else(|| failed("the answer carries no token".into()))
}

#[derive(Deserialize)]
struct Claims {
    iat: i64,
    exp: i64,
}

/// Seconds from `now` until the token should be renewed: when a fifth of its life is left, or it's a day old; 0 when
/// that is past, None when it can't be read. The token is our own: its signature isn't looked at.
pub(crate) fn renew_in(token: &[u8], now: Timestamp) -> Option<u64> {
    let payload = token.split(|b| *b == b'.').nth(1)?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    let life = claims.exp.checked_sub(claims.iat)?.max(0);
    let at = (claims.exp - life / 5).min(claims.iat + AGE_MAX);
    Some(u64::try_from(at - now.as_second()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_in_good_time() {
        let token = |iat: i64, exp: i64| {
            let claims = serde_json::json!({"iat": iat, "exp": exp, "sub": "x"}).to_string();
            format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims)).into_bytes()
        };
        let now = |s: i64| Timestamp::from_second(s).unwrap();
        for (name, token, at, want) in [
            ("fresh", token(1000, 4600), 1000, Some(2880)),
            ("later", token(1000, 4600), 3000, Some(880)),
            ("due", token(1000, 4600), 3880, Some(0)),
            ("over", token(1000, 4600), 9000, Some(0)),
            (
                "a year's",
                token(1000, 1000 + 31_536_000),
                1000,
                Some(86_400),
            ),
            ("no token", b"abc".to_vec(), 0, None),
            ("no claims", b"a.e30.c".to_vec(), 0, None),
        ] {
            assert_eq!(renew_in(&token, now(at)), want, "{name}");
        }
    }
}
