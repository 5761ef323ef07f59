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
    Json(json_patch::Patch),
    /// RFC 7386
    Merge(Value),
    /// Kubernetes' strategic merge
    Strategic(Value),
    /// Server-side apply
    Apply(Value),
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
        let bad = |e: serde_json::Error| Failure::bad_request(format!("error decoding patch: {e}"));
        let object = |v: Value| {
            if v.is_object() {
                Ok(v)
            } else {
                Err(Failure::bad_request("error decoding patch: not an object"))
            }
        };
        match content_type {
            "application/json-patch+json" => {
                let patch: json_patch::Patch = serde_json::from_slice(body).map_err(bad)?;
                if patch.0.len() > JSON_PATCH_OPERATIONS_MAX {
                    return Err(Failure::new(
                        413,
                        "RequestEntityTooLarge",
                        format!(
                            "The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS_MAX}, got {}",
                            patch.0.len()
                        ),
                    ));
                }
                Ok(Patch::Json(patch))
            }
            "application/merge-patch+json" => Ok(Patch::Merge(object(
                serde_json::from_slice(body).map_err(bad)?,
            )?)),
            "application/strategic-merge-patch+json" => Ok(Patch::Strategic(object(
                serde_json::from_slice(body).map_err(bad)?,
            )?)),
            t if Patch::is_apply(t) => Ok(Patch::Apply(object(decode::yaml(body)?)?)),
            _ => Err(negotiate::unsupported(&[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
                "application/apply-patch+yaml",
            ])),
        }
    }

    /// The patched object, not yet conformed. Not for Apply.
    pub fn merge(&self, r: &Resource, name: &str, live: &Value) -> Result<Value, Failure> {
        match self {
            Patch::Json(patch) => {
                let mut out = live.clone();
                json_patch::patch(&mut out, patch).map_err(|e| {
                    Failure::new(
                        422,
                        "Invalid",
                        format!(
                            "the server rejected our request due to an error in our request: {e}"
                        ),
                    )
                })?;
                Ok(out)
            }
            Patch::Merge(patch) => {
                let mut out = live.clone();
                json_patch::merge(&mut out, patch);
                Ok(out)
            }
            Patch::Strategic(patch) => {
                let Some(ty) = type_of(r) else {
                    return Err(negotiate::unsupported(&[
                        "application/json-patch+json",
                        "application/merge-patch+json",
                        "application/apply-patch+yaml",
                    ]));
                };
                knarr_schema::strategic_merge(ty, live, patch)
                    .map_err(|e| Failure::bad_request(e.0))
            }
            Patch::Apply(_) => Err(Failure::internal(format!(
                "apply of {} {name:?} took the merge path",
                group_resource(r.group, r.plural)
            ))),
        }
    }
}

/// Conforms a patched object: types, unknown fields.
pub fn conform(
    r: &Resource,
    value: Value,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, Failure> {
    let ty = type_of(r);
    let text = match validation {
        FieldValidation::Strict => value.to_string(),
        _ => String::new(),
    };
    let decoded = decode::conform(ty, value)
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
    match patch {
        Patch::Apply(applied) => apply(w, applied, options).await,
        patch => {
            let name = w.name.to_string();
            let written = w
                .update(|live, warnings| {
                    let merged = patch.merge(r, &name, live)?;
                    check_identity(r, &merged)?;
                    let object = conform(r, merged, options.validation, warnings)?;
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

fn check_identity(r: &Resource, merged: &Value) -> Result<(), Failure> {
    let text = |k: &str| merged.get(k).and_then(Value::as_str).unwrap_or("");
    let want = catalog::api_version(r);
    if text("kind") != r.kind || text("apiVersion") != want {
        return Err(Failure::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: a patch can't change the kind or API version",
            text("kind"),
            text("apiVersion"),
            r.kind
        )));
    }
    Ok(())
}

async fn apply(
    w: &mut Write<'_>,
    mut applied: Value,
    options: &WriteOptions,
) -> Result<(bool, Written), Failure> {
    let r = w.r;
    let Some(ty) = type_of(r) else {
        return Err(negotiate::unsupported(&[
            "application/json-patch+json",
            "application/merge-patch+json",
        ]));
    };
    let want = catalog::api_version(r);
    let text = |k: &str| applied.get(k).and_then(Value::as_str).unwrap_or("");
    if text("apiVersion").is_empty() || text("kind").is_empty() {
        return Err(Failure::bad_request(
            "error decoding patch: apiVersion and kind must be set in an apply patch",
        ));
    }
    if text("kind") != r.kind || text("apiVersion") != want {
        return Err(Failure::bad_request(format!(
            "{} {} in the patch cannot be applied as {want} {}",
            text("apiVersion"),
            text("kind"),
            r.kind
        )));
    }
    let managed_given = applied.pointer("/metadata/managedFields");
    if managed_given.is_some_and(|m| m.as_array().is_none_or(|l| !l.is_empty())) {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    meta_mut(&mut applied).remove("managedFields");
    w.check_place(&mut applied)?;
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
    // types and unknown fields are told here, in the words of decoding; the merge itself sees what the client sent
    let mut warnings = Vec::new();
    let given_version = meta(&applied, "resourceVersion").to_string();
    let uid = meta(&applied, "uid").to_string();
    conform(r, applied.clone(), options.validation, &mut warnings)?;
    w.warnings.append(&mut warnings);
    let time = object::now();
    let manager = managed::Manager {
        name: &options.manager,
        subresource: part.name(),
        api_version: &want,
        time: &time,
    };
    let failed = |e: ApplyError| apply_failure(r, w_name(&applied), e);
    for _ in 0..4 {
        let updated = w
            .update(|live, _| {
                let merged = managed::apply(ty, Some(live), &applied, &manager, options.force)
                    .map_err(failed)?;
                let mut object = decode::conform(Some(ty), merged)
                    .map_err(|e| Failure::bad_request(decode::cannot_handle(r, &e)))?
                    .value;
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
        if !given_version.is_empty() {
            return Err(Failure::not_found(r, w.name));
        }
        let merged = managed::apply(ty, None, &applied, &manager, options.force).map_err(failed)?;
        let object = decode::conform(Some(ty), merged)
            .map_err(|e| Failure::bad_request(decode::cannot_handle(r, &e)))?
            .value;
        match w.create(object, true).await {
            // somebody else created it in between: apply onto theirs
            Err(f) if f.reason() == "AlreadyExists" => {}
            done => return done.map(|b| (true, Written::Object(b))),
        }
    }
    Err(Failure::modified(r, w.name))
}

fn w_name(applied: &Value) -> &str {
    meta(applied, "name")
}

fn apply_failure(r: &Resource, name: &str, e: ApplyError) -> Failure {
    match e {
        ApplyError::Conflicts { message, causes } => {
            let mut f = Failure::new(409, "Conflict", message);
            for c in causes {
                f = f.cause("FieldManagerConflict", &c.message, &c.field);
            }
            f
        }
        ApplyError::Invalid(why) => Failure::bad_request(if why.is_empty() {
            format!("{} {name:?} cannot be applied", r.kind)
        } else {
            why
        }),
    }
}
