//! The `request` of an AdmissionReview, and of CEL expressions.

use serde_json::{Value, json};

use super::{Attributes, Kind, versioned::Versioned};

fn kind(k: &Kind<'_>) -> Value {
    json!({"group": k.group, "version": k.version, "kind": k.kind})
}

/// The request without its objects: what expressions see.
pub fn request(a: &Attributes<'_>, v: &Versioned<'_>) -> Value {
    let resource = |(group, version, plural): (&str, &str, &str)| json!({"group": group, "version": version, "resource": plural});
    let r = a.resource;
    let mut request = json!({
        "uid": "",
        "kind": kind(&v.kind),
        "resource": resource(v.resource),
        "requestKind": kind(&a.kind),
        "requestResource": resource((r.group, r.version, r.plural)),
        "operation": a.operation.name(),
        "userInfo": a.who.user_info(),
        "object": null,
        "oldObject": null,
        "dryRun": a.dry_run,
        "options": a.options_value(),
    });
    for (key, value) in [
        ("subResource", a.subresource),
        ("requestSubResource", a.subresource),
        ("name", &a.name),
        ("namespace", &a.namespace),
    ] {
        if !value.is_empty() {
            request[key] = value.into();
        }
    }
    request
}

/// An AdmissionReview of this version (`v1`, `v1beta1`).
pub fn review(a: &Attributes<'_>, v: &Versioned<'_>, version: &str, uid: &str) -> Value {
    let mut request = request(a, v);
    request["uid"] = uid.into();
    request["object"] = v.object.as_deref().cloned().unwrap_or(Value::Null);
    request["oldObject"] = v.old.as_deref().cloned().unwrap_or(Value::Null);
    json!({
        "kind": "AdmissionReview",
        "apiVersion": format!("admission.k8s.io/{version}"),
        "request": request,
    })
}

/// What a webhook said.
pub struct Response {
    /// May it go on?
    pub allowed: bool,
    /// The Status of a refusal; null when there is none.
    pub result: Value,
    /// JSON patch, as text; empty when nothing is to be changed.
    pub patch: Vec<u8>,
    /// Key and value.
    pub annotations: Vec<(String, String)>,
    /// For the client.
    pub warnings: Vec<String>,
}

/// `VerifyAdmissionResponse`: reads an answer, or says what is wrong with it.
pub fn response(
    answer: &Value,
    version: &str,
    uid: &str,
    mutating: bool,
) -> Result<Response, String> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let r = &answer["response"];
    if !r.is_object() {
        return Err("webhook response was absent".into());
    }
    let patch = r["patch"].as_str().unwrap_or("");
    let patch = STANDARD
        .decode(patch)
        .map_err(|e| format!("response.patch is not base64: {e}"))?;
    let kind = r["patchType"].as_str();
    if version == "v1" {
        let given = r["uid"].as_str().unwrap_or("");
        if given != uid {
            return Err(format!("expected response.uid={uid:?}, got {given:?}"));
        }
        let is = |k: &str, want: &str| answer[k].as_str().unwrap_or("") == want;
        if !is("kind", "AdmissionReview") || !is("apiVersion", "admission.k8s.io/v1") {
            let got = answer["apiVersion"].as_str().unwrap_or("");
            let (group, version) = got.split_once('/').unwrap_or(("", got));
            return Err(format!(
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {group}/{version}, Kind={}",
                answer["kind"].as_str().unwrap_or("")
            ));
        }
        match (mutating, patch.is_empty(), kind) {
            (true, false, None) => {
                return Err("webhook returned response.patch but not response.patchType".into());
            }
            (true, true, Some(_)) => {
                return Err("webhook returned response.patchType but not response.patch".into());
            }
            (true, false, Some("JSONPatch")) | (_, true, None) => {}
            (true, false, Some("")) => {
                return Err("webhook returned invalid response.patchType of \"\"".into());
            }
            (true, false, Some(other)) => return Err(format!("unsupported patch type {other:?}")),
            (false, false, _) => {
                return Err("validating webhook may not return response.patch".into());
            }
            (false, true, Some(_)) => {
                return Err("validating webhook may not return response.patchType".into());
            }
        }
    }
    let pairs = r["auditAnnotations"].as_object().into_iter().flatten();
    let warnings = r["warnings"].as_array().into_iter().flatten();
    Ok(Response {
        allowed: r["allowed"].as_bool().unwrap_or(false),
        result: r.get("status").cloned().unwrap_or(Value::Null),
        patch: if mutating { patch } else { vec![] },
        annotations: pairs
            .map(|(k, v)| (k.clone(), v.as_str().unwrap_or("").to_string()))
            .collect(),
        warnings: warnings
            .filter_map(|w| w.as_str().map(String::from))
            .collect(),
    })
}
