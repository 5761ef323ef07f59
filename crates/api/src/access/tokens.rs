//! Tokens for service accounts: the TokenRequest subresource, TokenReview, and what outsiders need to check tokens
//! themselves (upstream `pkg/registry/core/serviceaccount/storage/token.go`, `pkg/registry/authentication/tokenreview`,
//! `pkg/routes/openidmetadata.go`).

use http::{HeaderValue, Response, header};
use knarr_access::{
    jwt::{Claims, Kubernetes, Legacy, Ref},
    user::account_user,
};
use serde_json::{Value, json};

use super::authenticate::{self, stored};
use crate::{
    body::Body,
    object::{self, meta, meta_mut},
    registry::FieldError,
    server::Inner,
    status::Failure,
};

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";
/// Shortest life of a token, in seconds.
const AGE_SECONDS_MIN: i64 = 600;
/// Longest that may be asked for, in seconds.
const AGE_SECONDS_MAX: i64 = 1 << 32;
/// What is asked for when nothing is, in seconds.
const AGE_SECONDS_DEFAULT: i64 = 3600;
/// The life a Pod's default token volume asks for, in seconds: such a token is taken for longer, as old clients read
/// their token only once.
const EXTENDED_FROM_SECONDS: i64 = 3607;
/// How much longer, in seconds.
const EXTENDED_SECONDS: i64 = 365 * 24 * 60 * 60;
/// For how long the keys may be kept by whoever asked for them, in seconds.
const KEYS_AGE_SECONDS: u32 = 3600;

fn invalid(name: &str, field: &str, value: Value, detail: &str) -> Failure {
    let error = FieldError::Invalid {
        field: field.into(),
        value,
        detail: detail.into(),
    };
    Failure::invalid(GROUP, KIND, name, &[error])
}

/// A token for a service account: the answered request, and the token's own name.
pub fn request(
    inner: &Inner,
    namespace: &str,
    name: &str,
    mut request: Value,
) -> Result<(Value, String), Failure> {
    for (field, at_url, what) in [
        (
            "name",
            name,
            "must match the service account name if specified",
        ),
        (
            "namespace",
            namespace,
            "must match the service account namespace if specified",
        ),
    ] {
        let given = meta(&request, field);
        if !given.is_empty() && given != at_url {
            let field = format!("metadata.{field}");
            return Err(invalid(name, &field, given.into(), what));
        }
    }
    let account = stored(inner, "serviceaccounts", namespace, name)
        .ok_or_else(|| Failure::not_found_named("", "serviceaccounts", name))?;
    let uid = meta(&account, "uid").to_string();
    let given = meta(&request, "uid");
    if !given.is_empty() && given != uid {
        let why = format!(
            "the UID in the token request ({given}) does not match the UID of the service account ({uid})"
        );
        return Err(Failure::conflict_named(GROUP, KIND, name, &why));
    }
    let now = jiff::Timestamp::now();
    let metadata = meta_mut(&mut request);
    for (key, value) in [("name", name), ("namespace", namespace), ("uid", &uid)] {
        metadata.insert(key.into(), value.into());
    }
    metadata.insert("creationTimestamp".into(), object::timestamp(now).into());
    let spec = &mut request["spec"];
    if spec["audiences"].as_array().is_none_or(Vec::is_empty) {
        spec["audiences"] = json!([inner.issuer()]);
    }
    let seconds = spec["expirationSeconds"]
        .as_i64()
        .unwrap_or(AGE_SECONDS_DEFAULT);
    spec["expirationSeconds"] = seconds.into();
    let bound = spec
        .get("boundObjectRef")
        .filter(|b| b.is_object())
        .cloned();
    spec["boundObjectRef"] = bound.clone().unwrap_or(Value::Null);
    let field = "spec.expirationSeconds";
    if seconds < AGE_SECONDS_MIN {
        let why = "may not specify a duration less than 10 minutes";
        return Err(invalid("", field, seconds.into(), why));
    }
    if seconds > AGE_SECONDS_MAX {
        let why = "may not specify a duration larger than 2^32 seconds";
        return Err(invalid("", field, seconds.into(), why));
    }
    let audiences: Vec<String> =
        serde_json::from_value(spec["audiences"].clone()).unwrap_or_default();
    let mut kubernetes = Kubernetes {
        namespace: namespace.into(),
        serviceaccount: Ref {
            name: name.into(),
            uid,
        },
        ..Kubernetes::default()
    };
    if let Some(bound) = &bound {
        bind(inner, namespace, name, bound, &mut kubernetes)?;
    }
    let mut life = seconds;
    let ours = audiences.iter().all(|a| *a == inner.issuer());
    if kubernetes.pod.is_some() && seconds == EXTENDED_FROM_SECONDS && ours {
        kubernetes.warnafter = Some(now.as_second() + seconds);
        life = EXTENDED_SECONDS;
    }
    let claims = Claims {
        aud: audiences,
        exp: Some(now.as_second() + life),
        iat: Some(now.as_second()),
        iss: inner.issuer(),
        jti: uuid::Uuid::new_v4().to_string(),
        kubernetes: Some(kubernetes),
        nbf: Some(now.as_second()),
        sub: account_user(namespace, name),
        legacy: Legacy::default(),
    };
    let token = inner
        .access
        .signer()
        .sign(&claims)
        .map_err(Failure::internal)?;
    let until = jiff::Timestamp::from_second(now.as_second() + seconds).unwrap_or(now);
    request["status"] = json!({"token": token, "expirationTimestamp": object::timestamp(until)});
    Ok((request, claims.jti))
}

/// Puts what the token is bound to into its claims.
fn bind(
    inner: &Inner,
    namespace: &str,
    account: &str,
    bound: &Value,
    claims: &mut Kubernetes,
) -> Result<(), Failure> {
    let text = |k: &str| bound.get(k).and_then(Value::as_str).unwrap_or("");
    let (version, kind, name) = (text("apiVersion"), text("kind"), text("name"));
    let core = !version.contains('/');
    let found = |plural: &str, namespace: &str| {
        stored(inner, plural, namespace, name)
            .ok_or_else(|| Failure::not_found_named("", plural, name))
    };
    let reference = |o: &Value| Ref {
        name: name.into(),
        uid: meta(o, "uid").into(),
    };
    let uid = match kind {
        "Pod" if core => {
            let pod = found("pods", namespace)?;
            if pod["spec"]["serviceAccountName"] != account {
                return Err(Failure::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
                let known = stored(inner, "nodes", "", node);
                claims.node = Some(Ref {
                    name: node.into(),
                    uid: known.map(|n| meta(&n, "uid").into()).unwrap_or_default(),
                });
            }
            claims.pod.insert(reference(&pod)).uid.clone()
        }
        "Node" if core => {
            let node = found("nodes", "")?;
            claims.node.insert(reference(&node)).uid.clone()
        }
        "Secret" if core => {
            let secret = found("secrets", namespace)?;
            claims.secret.insert(reference(&secret)).uid.clone()
        }
        _ => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            return Err(Failure::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    let given = text("uid");
    if !given.is_empty() && given != uid {
        let why = format!(
            "the UID in the bound object reference ({given}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Failure::conflict_named("", kind, name, &why));
    }
    Ok(())
}

/// TokenReview: whose token is this?
pub fn review(inner: &Inner, mut review: Value) -> Result<Value, Failure> {
    let token = review["spec"]["token"].as_str().unwrap_or("").to_string();
    if token.is_empty() {
        return Err(Failure::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let mut audiences: Vec<String> =
        serde_json::from_value(review["spec"]["audiences"].clone()).unwrap_or_default();
    if audiences.is_empty() {
        audiences = vec![inner.issuer()];
    }
    review["status"] = match authenticate::token_user(inner, &token, &audiences) {
        Ok(found) => {
            let who = crate::identity::Identity::of(found.user);
            json!({"authenticated": true, "user": who.user_info(), "audiences": found.audiences})
        }
        Err(why) => json!({"user": {}, "error": format!("[invalid bearer token, {why}]")}),
    };
    Ok(review)
}

/// The discovery documents of the issuer; None for another path.
pub fn discovery(inner: &Inner, path: &str) -> Option<Response<Body>> {
    let (content_type, document) = match path {
        ".well-known/openid-configuration" => (
            "application/json",
            json!({
                "issuer": inner.issuer(),
                "jwks_uri": format!("{}/openid/v1/jwks", inner.issuer()),
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            }),
        ),
        "openid/v1/jwks" => ("application/jwk-set+json", inner.access.signer().jwks()),
        _ => return None,
    };
    let mut response = Response::new(Body::from(document.to_string()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    let age = format!("public, max-age={KEYS_AGE_SECONDS}");
    if let Ok(age) = HeaderValue::from_str(&age) {
        headers.insert(header::CACHE_CONTROL, age);
    }
    Some(response)
}
