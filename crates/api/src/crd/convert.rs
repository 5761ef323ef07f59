//! Conversion between versions by webhook: apiextensions-apiserver `pkg/apiserver/conversion`.
//!
//! Everything else converts objects without asking anyone (see `custom.rs`). What a webhook must convert is brought into
//! the version asked for first; from then on it is treated like an object stored in it.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};

use super::definition::Definition;
use crate::{
    names, object,
    registry::Resource,
    server::Inner,
    status::Failure,
    webhook::{self, Target},
};

/// Time a webhook may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most objects of one review.
const OBJECTS_MAX: usize = 500;

/// Who converts.
pub struct Hook {
    /// Err = why it can't be called.
    target: Result<Target, String>,
    /// `v1` or `v1beta1`: the first that both know.
    review: Option<&'static str>,
}

impl Hook {
    /// Reads `spec.conversion.webhook`.
    pub fn read(webhook: &Value) -> Hook {
        let known = ["v1", "v1beta1"];
        let asked = webhook["conversionReviewVersions"].as_array();
        let review = asked
            .into_iter()
            .flatten()
            .find_map(|v| known.into_iter().find(|k| v == k));
        Hook {
            target: Target::read(&webhook["clientConfig"]).map_err(|e| e.to_string()),
            review,
        }
    }
}

/// Whether a webhook stands between what is stored and what is served of the resource.
pub fn by_webhook(r: &Resource) -> bool {
    definition(r).is_some()
}

fn definition(r: &Resource) -> Option<(&Definition, &Hook)> {
    let d = &*r.custom.as_ref()?.definition;
    Some((d, d.webhook.as_ref()?))
}

/// Stored bytes in the version of the resource; those of resources without a webhook as they are.
pub async fn bring(inner: &Inner, r: &Resource, bytes: Bytes) -> Result<Bytes, Failure> {
    if !by_webhook(r) {
        return Ok(bytes);
    }
    let mut all = bring_all(inner, r, vec![bytes]).await?;
    all.pop()
        .ok_or_else(|| Failure::internal("a conversion lost its object"))
}

/// [`bring`] for many.
pub async fn bring_all(
    inner: &Inner,
    r: &Resource,
    mut all: Vec<Bytes>,
) -> Result<Vec<Bytes>, Failure> {
    let Some((d, hook)) = definition(r) else {
        return Ok(all);
    };
    let wanted = format!("{}/{}", r.group, r.version);
    let mut others: Vec<(usize, Value)> = Vec::new();
    for (i, bytes) in all.iter().enumerate() {
        let o = object::parse(bytes)?;
        if o["apiVersion"] != wanted {
            others.push((i, o));
        }
    }
    while !others.is_empty() {
        let rest = others.split_off(others.len().min(OBJECTS_MAX));
        let (places, objects): (Vec<usize>, Vec<Value>) = others.into_iter().unzip();
        let converted = convert(inner, d, hook, objects, &wanted)
            .await
            .map_err(Failure::internal)?;
        for (i, o) in places.into_iter().zip(converted) {
            let revision = object::meta(&o, "resourceVersion").to_string();
            all[i] = object::encode(&o).at(&revision);
        }
        others = rest;
    }
    Ok(all)
}

/// An object of the resource's version in the version it is stored in.
pub async fn stored<'o>(
    inner: &Inner,
    r: &Resource,
    o: &'o Value,
) -> Result<Cow<'o, Value>, Failure> {
    let Some((d, hook)) = definition(r) else {
        return Ok(Cow::Borrowed(o));
    };
    let wanted = format!("{}/{}", r.group, d.storage());
    if o["apiVersion"] == wanted {
        return Ok(Cow::Borrowed(o));
    }
    let mut all = convert(inner, d, hook, vec![o.clone()], &wanted)
        .await
        .map_err(Failure::internal)?;
    all.pop()
        .map(Cow::Owned)
        .ok_or_else(|| Failure::internal("a conversion lost its object"))
}

/// An object in another version of its resource, as `ConvertToVersion` gives it: nothing is pruned, nothing filled in.
/// Err = why the webhook didn't convert it.
pub async fn between(inner: &Inner, to: &Resource, mut o: Value) -> Result<Value, String> {
    let wanted = crate::catalog::api_version(to);
    if o["apiVersion"] == wanted.as_str() {
        return Ok(o);
    }
    let Some((d, hook)) = definition(to) else {
        if let Some(map) = o.as_object_mut() {
            map.insert("apiVersion".into(), wanted.into());
        }
        return Ok(o);
    };
    let mut all = convert(inner, d, hook, vec![o], &wanted).await?;
    all.pop()
        .ok_or_else(|| "a conversion lost its object".to_owned())
}

/// Asks the webhook; Err = what it did wrong, in upstream's words. The answer has as many objects, in the same order.
async fn convert(
    inner: &Inner,
    d: &Definition,
    hook: &Hook,
    objects: Vec<Value>,
    wanted: &str,
) -> Result<Vec<Value>, String> {
    let from = objects
        .first()
        .and_then(|o| o["apiVersion"].as_str())
        .unwrap_or("");
    let subject = format!("{from}, Kind={}", d.kind);
    let failed = |why: String| format!("conversion webhook for {subject} failed: {why}");
    let target = hook.target.as_ref().map_err(|e| failed(e.clone()))?;
    let review = hook
        .review
        .ok_or_else(|| failed("no supported conversion review versions".into()))?;
    let uid = uuid::Uuid::new_v4().to_string();
    let body = json!({
        "kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{review}"),
        "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects},
    });
    let answer = webhook::post(inner, target, PATIENCE, body.to_string().into())
        .await
        .map_err(|e| failed(e.to_string()))?;
    let converted = answered(answer, review, &uid).map_err(failed)?;
    if converted.len() != objects.len() {
        return Err(format!(
            "conversion webhook for {subject} returned {} objects, expected {}",
            converted.len(),
            objects.len()
        ));
    }
    let mut out = Vec::with_capacity(converted.len());
    for (i, (original, new)) in objects.iter().zip(converted).enumerate() {
        let new = accepted(original, new, wanted).map_err(|why| {
            format!(
                "conversion webhook for {subject} returned invalid converted object at index {i}: {why}"
            )
        })?;
        out.push(new);
    }
    Ok(out)
}

/// The objects of a review's response.
fn answered(mut answer: Value, review: &str, uid: &str) -> Result<Vec<Value>, String> {
    if review == "v1" {
        let (version, kind) = (
            answer["apiVersion"].as_str().unwrap_or(""),
            answer["kind"].as_str().unwrap_or(""),
        );
        if (version, kind) != ("apiextensions.k8s.io/v1", "ConversionReview") {
            return Err(format!(
                "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {version}, Kind={kind}"
            ));
        }
    }
    let response = &mut answer["response"];
    if !response.is_object() {
        return Err("no response provided".into());
    }
    let given = response["uid"].as_str().unwrap_or("");
    if review == "v1" && given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    let result = &response["result"];
    if result["status"] != "Success" {
        let message = result["message"].as_str().unwrap_or("");
        if !message.is_empty() {
            return Err(message.to_owned());
        }
        let status = result["status"].as_str().unwrap_or("");
        return Err(format!(
            "response.result.status was '{status}', not 'Success'"
        ));
    }
    match response["convertedObjects"].take() {
        Value::Array(all) => Ok(all),
        _ => Ok(vec![]),
    }
}

/// The converted object with the metadata of the original but for labels and annotations.
fn accepted(original: &Value, mut new: Value, wanted: &str) -> Result<Value, String> {
    if new["apiVersion"] != wanted {
        let given = new["apiVersion"].as_str().unwrap_or("");
        return Err(format!(
            "invalid groupVersion (expected {wanted}, received {given})"
        ));
    }
    if new["kind"] != original["kind"] {
        return Err(format!(
            "invalid kind (expected {}, received {})",
            original["kind"].as_str().unwrap_or(""),
            new["kind"].as_str().unwrap_or("")
        ));
    }
    for (key, word) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (was, is) = (object::meta(original, key), object::meta(&new, key));
        if was != is {
            return Err(format!("must have the same {word}: {was} != {is}"));
        }
    }
    if !new["metadata"].is_object() {
        return Err("missing metadata in converted object".into());
    }
    let given = new["metadata"].take();
    let mut metadata = original["metadata"].clone();
    for key in ["labels", "annotations"] {
        let Some(map) = metadata.as_object_mut() else {
            continue;
        };
        match &given[key] {
            Value::Null => {
                map.remove(key);
            }
            Value::Object(pairs) => {
                for (k, v) in pairs {
                    if !v.is_string() {
                        return Err(format!(
                            "metadata.{key}[{k}] must be a string, but is {v} in converted object"
                        ));
                    }
                    if let Some(why) = names::qualified_name(k).into_iter().next() {
                        return Err(format!("metadata.{key}: Invalid value: {k:?}: {why}"));
                    }
                }
                map.insert(key.into(), Value::Object(pairs.clone()));
            }
            other => {
                return Err(format!(
                    "invalid metadata.{key} {other} in converted object"
                ));
            }
        }
    }
    new["metadata"] = metadata;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked() {
        let good = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
            "response": {"uid": "u", "result": {"status": "Success"}, "convertedObjects": [{}]}});
        let with = |pointer: &str, v: Value| {
            let mut a = good.clone();
            *a.pointer_mut(pointer).unwrap() = v;
            a
        };
        for (name, answer, want) in [
            ("good", good.clone(), Ok(1)),
            (
                "kind",
                with("/kind", "X".into()),
                Err("expected webhook response of"),
            ),
            (
                "uid",
                with("/response/uid", "v".into()),
                Err("expected response.uid=\"u\""),
            ),
            (
                "failure",
                with(
                    "/response/result",
                    json!({"status": "Failure", "message": "no"}),
                ),
                Err("no"),
            ),
            (
                "none",
                with("/response", Value::Null),
                Err("no response provided"),
            ),
        ] {
            match (answered(answer, "v1", "u"), want) {
                (Ok(all), Ok(n)) => assert_eq!(all.len(), n, "{name}"),
                (Err(why), Err(w)) => assert!(why.starts_with(w), "{name}: {why}"),
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
    }

    #[test]
    fn converted_objects_keep_what_the_server_owns() {
        let original = json!({"apiVersion": "x.io/v1", "kind": "X",
            "metadata": {"name": "n", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}}});
        let new = json!({"apiVersion": "x.io/v2", "kind": "X", "spec": 1,
            "metadata": {"name": "n", "uid": "u", "resourceVersion": "99", "annotations": {"c": "d"}}});
        let got = accepted(&original, new.clone(), "x.io/v2").unwrap();
        assert_eq!(
            got["metadata"],
            json!({"name": "n", "uid": "u", "resourceVersion": "7", "annotations": {"c": "d"}})
        );
        for (pointer, value, want) in [
            (
                "/metadata/name",
                json!("m"),
                "must have the same name: n != m",
            ),
            ("/apiVersion", json!("x.io/v3"), "invalid groupVersion"),
            ("/kind", json!("Y"), "invalid kind"),
            ("/metadata", Value::Null, "must have the same name"),
        ] {
            let mut bad = new.clone();
            *bad.pointer_mut(pointer).unwrap() = value;
            let why = accepted(&original, bad, "x.io/v2").unwrap_err();
            assert!(why.starts_with(want), "{pointer}: {why}");
        }
    }
}
