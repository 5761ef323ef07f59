//! Resources that are asked, not stored: access reviews, token reviews, token requests.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{reviews, tokens};
use crate::{
    admission::{self, Attributes, Kind, Operation, RequestOptions},
    audit,
    decode::Raw,
    kinds::PLAIN,
    negotiate,
    query::WriteOptions,
    registry::Resource,
    server::{Answer, Call, Inner},
    status::Failure,
};

/// A create-only resource for discovery: group, version, kind, plural, namespaced.
pub type Virtual = (&'static str, &'static str, &'static str, &'static str, bool);

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// All of them, and the bindings of Pods, which are another way to write to `pods/…/binding`.
pub const VIRTUAL: [Virtual; 7] = [
    ("", "v1", "Binding", "bindings", true),
    (
        AUTHENTICATION,
        "v1",
        "SelfSubjectReview",
        "selfsubjectreviews",
        false,
    ),
    (AUTHENTICATION, "v1", "TokenReview", "tokenreviews", false),
    (
        AUTHORIZATION,
        "v1",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        true,
    ),
    (
        AUTHORIZATION,
        "v1",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        false,
    ),
    (
        AUTHORIZATION,
        "v1",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        false,
    ),
    (
        AUTHORIZATION,
        "v1",
        "SubjectAccessReview",
        "subjectaccessreviews",
        false,
    ),
];

/// Answers a review; None when the path is something else.
pub async fn answer(inner: &Inner, call: &Call, path: &str) -> Result<Option<Answer>, Failure> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, namespace, plural) = match parts.as_slice() {
        ["apis", g, v, plural] => (*g, *v, "", *plural),
        ["apis", g, v, "namespaces", namespace, plural] => (*g, *v, *namespace, *plural),
        [
            "api",
            "v1",
            "namespaces",
            namespace,
            "serviceaccounts",
            name,
            "token",
        ] => {
            return token(inner, call, namespace, name).await.map(Some);
        }
        _ => return Ok(None),
    };
    let Some((group, version, kind, plural, namespaced)) = VIRTUAL
        .iter()
        .find(|(g, v, _, p, _)| *g == group && *v == version && *p == plural)
    else {
        return Ok(None);
    };
    if *namespaced == namespace.is_empty() {
        return Err(Failure::no_such_path());
    }
    let r = Resource {
        group,
        version,
        kind,
        plural,
        namespaced: *namespaced,
        ..PLAIN
    };
    let mut asked = read(call, &r)?;
    let options = RequestOptions::Write(&asked.options);
    let mut a = Attributes::new(&call.who, Operation::Create, &r, namespace, "", options);
    a.object = Some(std::mem::take(&mut asked.object));
    let (object, warnings) = admission::transient(inner, a).await?;
    let review = object.unwrap_or_default();
    let answered = match *kind {
        "SelfSubjectReview" => reviews::self_subject(&call.who, review),
        "TokenReview" => tokens::review(inner, review)?,
        "SelfSubjectRulesReview" => reviews::rules(inner, &call.who, review)?,
        "SelfSubjectAccessReview" => reviews::own_access(inner, &call.who, review)?,
        "LocalSubjectAccessReview" => reviews::local_access(inner, namespace, review)?,
        _ => reviews::access(inner, review)?,
    };
    asked.warnings.extend(warnings);
    let answer = Answer::coded(StatusCode::CREATED, answered.to_string());
    Ok(Some(answer.warn(asked.warnings)))
}

async fn token(inner: &Inner, call: &Call, namespace: &str, name: &str) -> Result<Answer, Failure> {
    let r = Resource {
        group: AUTHENTICATION,
        version: "v1",
        kind: "TokenRequest",
        ..PLAIN
    };
    let accounts = inner
        .catalog()
        .preferred("", "serviceaccounts")
        .ok_or_else(Failure::no_such_path)?;
    let mut asked = read(call, &r)?;
    let options = RequestOptions::Write(&asked.options);
    let mut a = Attributes::new(
        &call.who,
        Operation::Create,
        &accounts,
        namespace,
        name,
        options,
    );
    a.subresource = "token";
    a.kind = Kind::of(&r);
    a.object = Some(std::mem::take(&mut asked.object));
    let (object, warnings) = admission::transient(inner, a).await?;
    let request = object.unwrap_or_default();
    let (answered, id) = tokens::request(inner, namespace, name, request)?;
    if let Some(span) = audit::Span::of(&call.parts) {
        let key = "authentication.kubernetes.io/issued-credential-id";
        span.annotate(key, &format!("JTI={id}"));
    }
    asked.warnings.extend(warnings);
    let answer = Answer::coded(StatusCode::CREATED, answered.to_string());
    Ok(answer.warn(asked.warnings))
}

/// What is asked, with `metadata` and `spec` there; warnings are about unknown fields.
struct Asked {
    object: Value,
    options: WriteOptions,
    warnings: Vec<String>,
}

fn read(call: &Call, r: &Resource) -> Result<Asked, Failure> {
    if call.parts.method != Method::POST {
        return Err(Failure::method_not_allowed());
    }
    // these have no columns, and no metadata to be cut down to
    negotiate::document(&call.parts.headers)?;
    let options = WriteOptions::read(&call.query, None, "CreateOptions", false)?;
    let mut warnings = Vec::new();
    let raw = Raw::new(&call.parts.headers, call.body.clone())?;
    let mut object = raw.object(r, options.validation, &mut warnings)?;
    for field in ["metadata", "spec"] {
        if !object[field].is_object() {
            object[field] = json!({});
        }
    }
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
    Ok(Asked {
        object,
        options,
        warnings,
    })
}
