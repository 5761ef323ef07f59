//! Values back to JSON.

use serde_json::Value as Json;

use crate::error::EvalError;
use crate::value::{Entries, Items, Key, Value};

/// The largest JSON made of a value, in bytes or so. A value that shares its parts can be small and its JSON huge.
const MAX_SIZE: usize = 16 * 1024 * 1024;

impl Value<'_> {
    /// The value as JSON: what a valueExpression, a messageExpression or a mutation gives.
    ///
    /// An error for what JSON cannot hold (authorizers, types, maps with other than string keys) and for what is too
    /// large.
    pub fn to_json(&self) -> Result<Json, EvalError> {
        write(self, &mut { MAX_SIZE })
    }
}

fn take(left: &mut usize, size: usize) -> Result<(), EvalError> {
    *left = left.checked_sub(size).ok_or_else(EvalError::call_limit)?;
    Ok(())
}

/// Counts what a copy would hold before it is made.
fn copied(j: &Json, left: &mut usize) -> Result<(), EvalError> {
    take(left, 8)?;
    match j {
        Json::String(s) => take(left, s.len()),
        Json::Array(items) => items.iter().try_for_each(|v| copied(v, left)),
        Json::Object(m) => m
            .iter()
            .try_for_each(|(k, v)| take(left, k.len()).and_then(|()| copied(v, left))),
        _ => Ok(()),
    }
}

fn write(v: &Value<'_>, left: &mut usize) -> Result<Json, EvalError> {
    take(left, 8)?;
    Ok(match v {
        Value::Null | Value::Optional(None) => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Int(i) => Json::from(*i),
        Value::Uint(u) => Json::from(*u),
        Value::Double(d) => Json::from(*d),
        Value::String(s) => {
            take(left, s.as_str().len())?;
            Json::from(s.as_str())
        }
        Value::Bytes(b) => {
            take(left, b.len() * 2)?;
            Json::from(crate::functions::base64_encode(b))
        }
        Value::List(l) => match &l.items {
            Items::Json(items) => {
                items.iter().try_for_each(|v| copied(v, left))?;
                Json::Array(items.to_vec())
            }
            _ => Json::Array(
                l.iter()
                    .map(|v| write(&v?, left))
                    .collect::<Result<_, EvalError>>()?,
            ),
        },
        Value::Map(m) => match &m.entries {
            Entries::Json(m) => {
                m.values().try_for_each(|v| copied(v, left))?;
                Json::Object((*m).clone())
            }
            Entries::Owned(m) | Entries::Open(m) => {
                let mut out = serde_json::Map::new();
                for (k, v) in m.iter() {
                    let Key::String(k) = k else {
                        return Err(EvalError::new(format!("map key \"{k}\" is not a string")));
                    };
                    out.insert(k.to_string(), write(v, left)?);
                }
                Json::Object(out)
            }
        },
        Value::Object(o) => {
            let fields = o
                .fields
                .iter()
                .map(|(k, v)| Ok((k.clone(), write(v, left)?)));
            Json::Object(fields.collect::<Result<_, EvalError>>()?)
        }
        Value::Optional(Some(v)) => write(v, left)?,
        Value::Preserved(v) => {
            copied(v, left)?;
            (*v).clone()
        }
        Value::Duration(d) => Json::from(d.to_string()),
        Value::Timestamp(t) => Json::from(t.to_string()),
        Value::Quantity(q) => Json::from(q.to_string()),
        Value::Url(u) => Json::from(u.to_string()),
        Value::Ip(i) => Json::from(i.to_string()),
        Value::Cidr(c) => Json::from(c.to_string()),
        Value::Semver(s) => Json::from(s.to_string()),
        Value::Type(_) | Value::Format(_) | Value::Authz(_) => {
            let name = v.type_of().name().to_string();
            return Err(EvalError::new(format!(
                "type conversion error from '{name}' to JSON"
            )));
        }
    })
}
