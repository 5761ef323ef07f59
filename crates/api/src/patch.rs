//! PATCH in its four kinds.

use bytes::Bytes;
use knarr_schema::managed::{self, ApplyError};
use serde_json::Value;

use crate::{
    catalog,
    decode::{self, type_of},
    negotiate,
    object::{self, meta, meta_mut},
    query::{FieldValidation, WriteOptions},
    registry::{FieldError, Resource},
    status::{Failure, group_resource},
    write::{Change, Part, Write, Written},
};

/// Upstream's bound on the operations of one JSON patch.
const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;

/// A patch as it was sent.
pub enum Patch {
    /// RFC 6902
    Json(Vec<Value>),
    /// RFC 7386
    Merge(Value),
    /// Kubernetes' strategic merge
    Strategic(Value),
    /// Server-side apply: the configuration, and what is told of a key that came twice in it
    Apply(Value, Option<String>),
}

impl Patch {
    /// Is this content type server-side apply?
    pub fn is_apply(content_type: &str) -> bool {
        matches!(
            content_type,
            "application/apply-patch+yaml" | "application/apply-patch+json"
        )
    }

    /// Reads the body by its content type; 415 and 400 as upstream.
    pub fn read(content_type: &str, body: &Bytes) -> Result<Patch, Failure> {
        let json = |head: &str, want: &str| -> Result<Value, Failure> {
            let value: Value = serde_json::from_slice(body).map_err(|e| {
                let why = knarr_schema::syntax_error(body, &e);
                Failure::bad_request(format!("{head}{why}"))
            })?;
            let found = match &value {
                Value::Object(_) => "object",
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                Value::Number(_) => "number",
                // no operations, nothing to merge; a merge patch of null would replace the object
                Value::Null if want.starts_with('[') => return Ok(Value::Array(vec![])),
                Value::Null if head.is_empty() => return Ok(Value::Object(serde_json::Map::new())),
                Value::Null => return Err(Failure::bad_request("Invalid JSON Patch")),
            };
            if want.starts_with("map") != (found == "object")
                || (found != "object" && found != "array")
            {
                return Err(Failure::bad_request(format!(
                    "{head}json: cannot unmarshal {found} into Go value of type {want}"
                )));
            }
            Ok(value)
        };
        const DECODING: &str = "error decoding patch: ";
        const MAP: &str = "map[string]interface {}";
        match content_type {
            "application/json-patch+json" => {
                let operations = json(DECODING, "[]handlers.jsonPatchOp")?;
                let count = operations.as_array().map_or(0, Vec::len);
                if count > JSON_PATCH_OPERATIONS_MAX {
                    return Err(Failure::new(
                        413,
                        "RequestEntityTooLarge",
                        format!(
                            "The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS_MAX}, got {count}"
                        ),
                    ));
                }
                match operations {
                    Value::Array(list) => match list.iter().find(|o| !o.is_object()) {
                        None => Ok(Patch::Json(list)),
                        Some(_) => Err(Failure::bad_request(format!(
                            "{DECODING}json: cannot unmarshal string into Go value of type handlers.jsonPatchOp"
                        ))),
                    },
                    _ => Ok(Patch::Json(vec![])),
                }
            }
            "application/merge-patch+json" => Ok(Patch::Merge(json(DECODING, MAP)?)),
            "application/strategic-merge-patch+json" => Ok(Patch::Strategic(json("", MAP)?)),
            t if Patch::is_apply(t) => match decode::yaml_twice(body)? {
                (object @ Value::Object(_), twice) => {
                    Ok(Patch::Apply(object, twice.into_iter().next()))
                }
                (other, _) => {
                    let found = match other {
                        // nothing is an object without a kind
                        Value::Null => {
                            return Err(Failure::bad_request("invalid object type: /, Kind="));
                        }
                        Value::Bool(_) => "bool",
                        Value::Number(_) => "number",
                        Value::String(_) => "string",
                        _ => "array",
                    };
                    Err(Failure::bad_request(format!(
                        "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go value of type {MAP}"
                    )))
                }
            },
            // the router's words
            _ => Err(
                Failure::new(415, "UnsupportedMediaType", "415: Unsupported Media Type")
                    .with_details(),
            ),
        }
    }

    /// The patched object, not yet conformed. Not for Apply.
    pub fn merge(&self, r: &Resource, name: &str, live: &Value) -> Result<Value, Failure> {
        match self {
            Patch::Json(patch) => {
                let mut out = live.clone();
                let done = crate::json_patch6902::apply(&mut out, patch).is_ok();
                if done && out.is_object() && out.get("kind").is_some() {
                    return Ok(out);
                }
                if done && !out.is_object() && !out.is_null() {
                    return Err(invalid_patch(out.to_string(), decode::no_struct(&out)));
                }
                Err(Failure::new(
                    422,
                    "Invalid",
                    "the server rejected our request due to an error in our request",
                )
                .with_details())
            }
            Patch::Merge(patch) => {
                let mut out = live.clone();
                json_patch::merge(&mut out, patch);
                Ok(out)
            }
            Patch::Strategic(patch) => {
                let ty = type_of(r).ok_or_else(no_strategic_merge)?;
                knarr_schema::strategic_merge(ty, live, patch).map_err(|e| {
                    if e.0.starts_with("invalid patch format") {
                        Failure::bad_request(e.0)
                    } else {
                        Failure::new(500, "", e.0)
                    }
                })
            }
            Patch::Apply(..) => Err(Failure::internal(format!(
                "apply of {} {name:?} took the merge path",
                group_resource(r.group, r.plural)
            ))),
        }
    }
}

/// 415 for kinds whose lists have no merge keys: custom resources.
fn no_strategic_merge() -> Failure {
    negotiate::unsupported(&[
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/apply-patch+yaml",
    ])
}

/// Conforms a patched object: types, unknown fields.
pub fn conform(
    r: &Resource,
    value: Value,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, Failure> {
    let text = match validation {
        FieldValidation::Strict => value.to_string(),
        _ => String::new(),
    };
    let decoded = decode::conform(r, value)
        .map_err(|e| Failure::bad_request(decode::cannot_handle(r, &e)))?;
    let mut found = decoded.unknown;
    found.extend(decoded.duplicate);
    if !found.is_empty() {
        match validation {
            FieldValidation::Strict => {
                return Err(Failure::invalid(
                    "",
                    "",
                    "",
                    &[FieldError::Invalid {
                        field: "patch".into(),
                        value: text.into(),
                        detail: format!("strict decoding error: {}", found.join(", ")),
                    }],
                ));
            }
            FieldValidation::Warn => warnings.extend(found),
            FieldValidation::Ignore => {}
        }
    }
    Ok(decoded.value)
}

/// Runs a patch. Returns (created, result).
pub async fn run(
    w: &mut Write<'_>,
    patch: Patch,
    options: &WriteOptions,
) -> Result<(bool, Written), Failure> {
    let r = w.r;
    if let (Patch::Strategic(_), None) = (&patch, type_of(r)) {
        return Err(no_strategic_merge());
    }
    match patch {
        Patch::Apply(applied, twice) => apply(w, applied, twice, options).await,
        patch => {
            let (name, namespace) = (w.name.to_string(), w.namespace.to_string());
            let written = w
                .update(|live, warnings| {
                    let merged = patch.merge(r, &name, live)?;
                    let shown = || match &patch {
                        Patch::Strategic(patch) => knarr_schema::go_value(patch),
                        patch => match (patch.merge(r, &name, live), patch, type_of(r)) {
                            (Err(_), ..) => String::new(),
                            (Ok(m), Patch::Merge(p), Some(ty)) => {
                                knarr_schema::go_merged(ty, &m, p)
                            }
                            (Ok(m), ..) => m.to_string(),
                        },
                    };
                    let refused = |why: String| invalid_patch(shown(), why);
                    // a strategic merge is read as the kind that it is for
                    let strategic = matches!(patch, Patch::Strategic(_));
                    if !strategic && !merged.as_object().is_some_and(serde_json::Map::is_empty) {
                        check_identity(r, &merged).map_err(&refused)?;
                    }
                    let unlike = type_of(r).filter(|_| strategic);
                    if let Some(why) =
                        unlike.and_then(|ty| knarr_schema::unstructured_error(ty, &merged))
                    {
                        return Err(refused(why));
                    }
                    let mut object = decode::conform(r, merged).map_err(&refused)?;
                    let mut found = std::mem::take(&mut object.unknown);
                    found.append(&mut object.duplicate);
                    match options.validation {
                        FieldValidation::Strict if !found.is_empty() => {
                            return Err(refused(format!(
                                "strict decoding error: {}",
                                found.join(", ")
                            )));
                        }
                        FieldValidation::Warn => warnings.append(&mut found),
                        _ => {}
                    }
                    let mut object = object.value;
                    if strategic && let Some(map) = object.as_object_mut() {
                        map.insert("kind".into(), r.kind.into());
                        map.insert("apiVersion".into(), catalog::api_version(r).into());
                    }
                    check_named(&mut object, &name, &namespace, r.namespaced)?;
                    let (uid, live_uid) = (meta(&object, "uid"), meta(live, "uid"));
                    if !uid.is_empty() && uid != live_uid {
                        let error = FieldError::Invalid {
                            field: "metadata.uid".into(),
                            value: uid.into(),
                            detail: "field is immutable".into(),
                        };
                        return Err(Failure::invalid(r.group, r.kind, &name, &[error]));
                    }
                    Ok(Change {
                        object,
                        applied: false,
                    })
                })
                .await?;
            Ok((false, written))
        }
    }
}

/// 422 for what a patch makes of an object.
fn invalid_patch(shown: String, why: String) -> Failure {
    let error = FieldError::Invalid {
        field: "patch".into(),
        value: shown.into(),
        detail: why,
    };
    Failure::invalid("", "", "", &[error])
}

fn check_identity(r: &Resource, merged: &Value) -> Result<(), String> {
    let text = |k: &str| merged.get(k).and_then(Value::as_str).unwrap_or("");
    let want = catalog::api_version(r);
    if text("kind") != r.kind || text("apiVersion") != want {
        return Err(decode::no_conversion(r, text("apiVersion"), text("kind")));
    }
    Ok(())
}

/// 400 when an object isn't the URL's; one without a namespace gets the URL's.
fn check_named(
    object: &mut Value,
    name: &str,
    namespace: &str,
    namespaced: bool,
) -> Result<(), Failure> {
    if namespaced {
        let given = meta(object, "namespace");
        if given.is_empty() {
            meta_mut(object).insert("namespace".into(), namespace.into());
        } else if given != namespace {
            return Err(Failure::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    } else {
        meta_mut(object).remove("namespace");
    }
    match meta(object, "name") {
        given if given == name => Ok(()),
        "" => Err(Failure::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        given => Err(Failure::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        ))),
    }
}

async fn apply(
    w: &mut Write<'_>,
    mut applied: Value,
    twice: Option<String>,
    options: &WriteOptions,
) -> Result<(bool, Written), Failure> {
    let r = w.r;
    let Some(ty) = decode::Owned::of(r) else {
        return Err(negotiate::unsupported(&[
            "application/json-patch+json",
            "application/merge-patch+json",
        ]));
    };
    let want = catalog::api_version(r);
    let text = |k: &str| applied.get(k).and_then(Value::as_str).unwrap_or("");
    if text("kind") != r.kind || text("apiVersion") != want {
        let (group, version) = match text("apiVersion").split_once('/') {
            Some(parts) => parts,
            None => ("", text("apiVersion")),
        };
        return Err(Failure::bad_request(format!(
            "invalid object type: {group}/{version}, Kind={}",
            text("kind")
        )));
    }
    if applied
        .pointer("/metadata/managedFields")
        .is_some_and(|m| !m.is_null())
    {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    meta_mut(&mut applied).remove("managedFields");
    let part = w.part;
    if let Some(map) = applied.as_object_mut() {
        match part {
            Part::Main if r.has_status => {
                map.remove("status");
            }
            Part::Status => map
                .retain(|k, _| matches!(k.as_str(), "apiVersion" | "kind" | "metadata" | "status")),
            _ => {}
        }
    }
    let given_version = meta(&applied, "resourceVersion").to_string();
    let uid = meta(&applied, "uid").to_string();
    let twice = match (twice, options.validation) {
        (Some(why), FieldValidation::Warn) => {
            w.warnings.push(why);
            None
        }
        (Some(why), FieldValidation::Strict) => Some(why),
        _ => None,
    };
    // told after what the merge has to say, as upstream
    let strict = |merged: Value| match &twice {
        Some(why) => Err(Failure::bad_request(format!(
            "error strict decoding YAML: {why}"
        ))),
        None => Ok(merged),
    };
    let time = object::now();
    let manager = managed::Manager {
        name: &options.manager,
        subresource: part.name(),
        api_version: &want,
        time: &time,
    };
    let (name, namespace) = (w.name.to_string(), w.namespace.to_string());
    for _ in 0..4 {
        let updated = w
            .update(|live, _| {
                let merged =
                    managed::apply(ty.root(), Some(live), &applied, &manager, options.force)
                        .map_err(apply_failure)
                        .and_then(strict)?;
                let mut object = decode::conform(r, merged)
                    .map_err(|e| Failure::bad_request(decode::cannot_handle(r, &e)))?
                    .value;
                check_named(&mut object, &name, &namespace, r.namespaced)?;
                if !given_version.is_empty() {
                    meta_mut(&mut object)
                        .insert("resourceVersion".into(), given_version.clone().into());
                }
                Ok(Change {
                    object,
                    applied: true,
                })
            })
            .await;
        match updated {
            Err(f) if f.code() == 404 && part == Part::Main => {}
            done => return done.map(|w| (false, w)),
        }
        if !uid.is_empty() {
            return Err(Failure::conflict(
                r,
                w.name,
                &format!(
                    "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                ),
            ));
        }
        let merged = managed::apply(ty.root(), None, &applied, &manager, options.force)
            .map_err(apply_failure)
            .and_then(strict)?;
        let mut object = decode::conform(r, merged)
            .map_err(|e| Failure::bad_request(decode::cannot_handle(r, &e)))?
            .value;
        check_named(&mut object, &name, &namespace, r.namespaced)?;
        // upstream creates whatever revision an apply was meant for
        meta_mut(&mut object).remove("resourceVersion");
        w.by_update = true;
        match w.create(object, true).await {
            // somebody else created it in between: apply onto theirs
            Err(f) if f.reason() == "AlreadyExists" => {}
            done => return done.map(|b| (true, Written::Object(b))),
        }
    }
    Err(Failure::modified(r, w.name))
}

/// An apply that can't be carried out.
pub fn apply_failure(e: ApplyError) -> Failure {
    match e {
        ApplyError::Conflicts { message, causes } => {
            let mut f = Failure::new(409, "Conflict", message);
            for c in causes {
                f = f.cause("FieldManagerConflict", &c.message, &c.field);
            }
            f
        }
        // upstream's field manager says so without a code of its own
        ApplyError::Invalid(why) => Failure::new(500, "", why),
    }
}
