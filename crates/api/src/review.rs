//! Resources that are asked, not stored: access and identity reviews, and the old `bindings`.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    decode::Raw,
    identity::Identity,
    server::{Answer, Call, Inner},
    status::Failure,
};

/// A create-only resource for discovery: group, version, kind, plural, namespaced.
pub type Virtual = (&'static str, &'static str, &'static str, &'static str, bool);

/// All of them.
pub const VIRTUAL: [Virtual; 5] = [
    (
        "authentication.k8s.io",
        "v1",
        "SelfSubjectReview",
        "selfsubjectreviews",
        false,
    ),
    (
        "authorization.k8s.io",
        "v1",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        true,
    ),
    (
        "authorization.k8s.io",
        "v1",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        false,
    ),
    (
        "authorization.k8s.io",
        "v1",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        false,
    ),
    (
        "authorization.k8s.io",
        "v1",
        "SubjectAccessReview",
        "subjectaccessreviews",
        false,
    ),
];

/// Answers a review; None when the path is something else.
pub fn answer(inner: &Inner, call: &Call, path: &str) -> Result<Option<Answer>, Failure> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, plural) = match parts.as_slice() {
        [
            "apis",
            g @ ("authentication.k8s.io" | "authorization.k8s.io"),
            v,
            plural,
        ] => (*g, *v, *plural),
        [
            "apis",
            g @ "authorization.k8s.io",
            v,
            "namespaces",
            _,
            plural,
        ] => (*g, *v, *plural),
        _ => return Ok(None),
    };
    let Some((.., kind, _, _)) = VIRTUAL
        .iter()
        .find(|(g, v, _, p, _)| *g == group && *v == version && *p == plural)
    else {
        return Ok(None);
    };
    if call.parts.method != Method::POST {
        return Err(Failure::method_not_allowed());
    }
    let review = Raw::new(&call.parts.headers, call.body.clone())?.value()?;
    let given = review.get("kind").and_then(Value::as_str).unwrap_or(kind);
    if given != *kind {
        return Err(Failure::bad_request(format!(
            "{given} in version {version:?} cannot be handled as a {kind}: no kind {given:?} is served here"
        )));
    }
    let _ = inner;
    let who = &call.who;
    let spec = review.get("spec").cloned().unwrap_or_else(|| json!({}));
    let status = match *kind {
        "SelfSubjectReview" => {
            json!({"userInfo": {"username": who.user(), "groups": who.groups()}})
        }
        "SelfSubjectRulesReview" => rules(who),
        "SelfSubjectAccessReview" => access(who.is_master() || self_service(&spec)),
        _ => {
            if !who.is_master() {
                return Err(Failure::new(
                    403,
                    "Forbidden",
                    format!(
                        "{plural}.{group} is forbidden: User {:?} cannot create resource {plural:?} in API group {group:?} at the cluster scope",
                        who.user()
                    ),
                ));
            }
            let master = spec
                .get("groups")
                .and_then(Value::as_array)
                .is_some_and(|g| g.iter().any(|g| g == crate::identity::MASTERS));
            access(master || self_service(&spec))
        }
    };
    let metadata = review.get("metadata").filter(|m| m.is_object()).cloned();
    let mut out = json!({
        "kind": kind, "apiVersion": format!("{group}/{version}"),
        "metadata": metadata.unwrap_or_else(|| json!({"creationTimestamp": null})), "status": status,
    });
    if *kind != "SelfSubjectReview" {
        out["spec"] = spec;
    }
    Ok(Some(Answer::coded(StatusCode::CREATED, out.to_string())))
}

/// What every authenticated user may do: discover, and ask about themselves.
fn self_service(spec: &Value) -> bool {
    if let Some(path) = spec
        .pointer("/nonResourceAttributes/path")
        .and_then(Value::as_str)
    {
        let root = path.trim_start_matches('/').split('/').next().unwrap_or("");
        return crate::identity::is_public(path) || matches!(root, "api" | "apis" | "openapi");
    }
    let attribute = |k: &str| {
        spec.pointer(&format!("/resourceAttributes/{k}"))
            .and_then(Value::as_str)
            .unwrap_or("")
    };
    attribute("verb") == "create"
        && matches!(
            attribute("resource"),
            "selfsubjectaccessreviews" | "selfsubjectrulesreviews" | "selfsubjectreviews"
        )
}

fn access(allowed: bool) -> Value {
    if allowed {
        json!({"allowed": true})
    } else {
        json!({"allowed": false, "reason": "only members of system:masters have access"})
    }
}

fn rules(who: &Identity) -> Value {
    if who.is_master() {
        json!({
            "incomplete": false,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        })
    } else {
        json!({
            "incomplete": false,
            "resourceRules": [
                {"verbs": ["create"], "apiGroups": ["authorization.k8s.io"], "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]},
                {"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]},
            ],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version"]}],
        })
    }
}
