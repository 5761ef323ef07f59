//! The checks of ConfigMap and Secret (`pkg/apis/core/validation`).

use super::{
    path::{Errors, Path},
    rules,
};
use crate::{
    kinds::json::{entries, str_of},
    registry::FieldError,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

/// The most bytes of data one object may hold.
const DATA_BYTES_MAX: usize = 1 << 20;
const ACCOUNT: &str = "kubernetes.io/service-account.name";

fn bytes(text: &Value) -> Vec<u8> {
    STANDARD
        .decode(text.as_str().unwrap_or_default())
        .unwrap_or_default()
}

/// The length of what base64 text stands for.
fn decoded_len(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

fn length(value: &Value, encoded: bool) -> usize {
    let text = value.as_str().unwrap_or_default();
    if encoded {
        decoded_len(text)
    } else {
        text.len()
    }
}

pub(crate) fn config_map(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let mut size = 0;
    for (field, encoded) in [("data", false), ("binaryData", true)] {
        let at = Path::Root(field);
        for (key, value) in entries(&o[field]) {
            let at = at.key(key);
            errors.broken(&at, key, rules::config_key(key));
            if !encoded && !o["binaryData"][key].is_null() {
                errors.invalid(&at, key, "duplicate of key present in binaryData");
            }
            size += length(value, encoded);
        }
    }
    if size > DATA_BYTES_MAX {
        errors.too_long(&Path::Root("[]"), DATA_BYTES_MAX);
    }
    errors.0
}

/// What may not change once `immutable` is set.
fn immutable(new: &Value, old: &Value, fields: &[&str], errors: &mut Errors) {
    const DETAIL: &str = "field is immutable when `immutable` is set";
    if old["immutable"] != true {
        return;
    }
    if new["immutable"] != true {
        errors.forbidden(&Path::Root("immutable"), DETAIL);
    }
    for field in fields {
        if !entries(&new[field]).eq(entries(&old[field])) {
            errors.forbidden(&Path::Root(field), DETAIL);
        }
    }
}

pub(crate) fn config_map_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    immutable(new, old, &["data", "binaryData"], &mut errors);
    errors.0.extend(config_map(new));
    errors.0
}

pub(crate) fn secret(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let data = &o["data"];
    let at = Path::Root("data");
    let mut size = 0;
    for (key, value) in entries(data) {
        errors.broken(&at.key(key), key, rules::config_key(key));
        size += length(value, true);
    }
    if size > DATA_BYTES_MAX {
        errors.too_long(&at, DATA_BYTES_MAX);
    }
    let missing = |key: &str| data[key].is_null();
    match str_of(o, "type") {
        "kubernetes.io/service-account-token"
            if str_of(&o["metadata"]["annotations"], ACCOUNT).is_empty() =>
        {
            errors.required(&Path::Root("metadata.annotations").key(ACCOUNT), "");
        }
        "kubernetes.io/dockercfg" => document(data, ".dockercfg", &mut errors),
        "kubernetes.io/dockerconfigjson" => document(data, ".dockerconfigjson", &mut errors),
        "kubernetes.io/basic-auth" if missing("username") && missing("password") => {
            errors.required(&at.key("username"), "");
            errors.required(&at.key("password"), "");
        }
        "kubernetes.io/ssh-auth" if str_of(data, "ssh-privatekey").is_empty() => {
            errors.required(&at.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if missing(key) {
                    errors.required(&at.key(key), "");
                }
            }
        }
        _ => {}
    }
    errors.0
}

/// A key that must hold a JSON object.
fn document(data: &Value, key: &str, errors: &mut Errors) {
    let at = Path::Root("data");
    let at = at.key(key);
    if data[key].is_null() {
        errors.required(&at, "");
        return;
    }
    let detail = match serde_json::from_slice::<Value>(&bytes(&data[key])) {
        Ok(Value::Object(_) | Value::Null) => return,
        Ok(other) => {
            let kind = match other {
                Value::Bool(_) => "bool",
                Value::Number(_) => "number",
                Value::String(_) => "string",
                _ => "array",
            };
            format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}")
        }
        Err(_) => syntax(&bytes(&data[key])),
    };
    errors.invalid(&at, "<secret contents redacted>", detail);
}

/// What Go's decoder says of text that isn't JSON, where that takes no reading of it to the end.
fn syntax(text: &[u8]) -> String {
    let first = text.iter().find(|b| !b.is_ascii_whitespace());
    match first {
        None => "unexpected end of JSON input".into(),
        Some(b'{') => match text.trim_ascii_end().last() {
            Some(b'}') => "invalid character in JSON".into(),
            _ => "unexpected end of JSON input".into(),
        },
        Some(b) => format!(
            "invalid character '{}' looking for beginning of value",
            char::from(*b)
        ),
    }
}

pub(crate) fn secret_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    errors.immutable(&Path::Root("type"), &new["type"], &old["type"]);
    immutable(new, old, &["data"], &mut errors);
    errors.0.extend(secret(new));
    errors.0
}
