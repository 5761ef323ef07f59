//! What a decoded JSON object lacks to be one of Go's structs, in the words of `runtime.DefaultUnstructuredConverter`,
//! which reads the results of strategic merges; and an object as Go prints it after a merge patch.

use serde_json::Value;

use crate::types::{Field, Graph, Kind, Scalar, TypeId, TypeRef};

/// Fields in the order of Go's struct, as far as their protobuf numbers tell.
fn in_go_order(fields: &[Field]) -> Vec<&Field> {
    let mut all: Vec<&Field> = fields.iter().collect();
    all.sort_by_key(|f| match (f.name, f.protobuf) {
        ("kind", [0, ..]) => [0, 0, 0],
        ("apiVersion", [0, ..]) => [0, 0, 1],
        (_, numbers) => numbers,
    });
    all
}

/// `reflect.Kind` of a decoded JSON value.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

/// The first thing that keeps `value` from being of the type; None when nothing does, as far as shapes tell.
pub fn unstructured_error(ty: TypeRef, value: &Value) -> Option<String> {
    fault(ty.graph, ty.id, "", value)
}

fn fault(graph: &Graph, ty: TypeId, go: &str, value: &Value) -> Option<String> {
    if value.is_null() {
        return None;
    }
    match graph.kind(ty) {
        Kind::Scalar(scalar) => simple(scalar, go, value),
        Kind::List { elem, .. } => match value {
            Value::Array(items) => {
                let go = go.strip_prefix("[]").unwrap_or_default();
                items.iter().find_map(|v| fault(graph, elem, go, v))
            }
            other => Some(format!("cannot restore slice from {}", kind_of(other))),
        },
        Kind::Map { elem, .. } => match value {
            Value::Object(fields) => fields.values().find_map(|v| fault(graph, elem, "", v)),
            other => Some(format!("cannot restore map from {}", kind_of(other))),
        },
        Kind::Struct { .. } => {
            let Value::Object(given) = value else {
                return Some(format!("cannot restore struct from: {}", kind_of(value)));
            };
            let (_, fields) = graph.fields_of(ty)?;
            in_go_order(fields)
                .into_iter()
                .find_map(|f| fault(graph, f.ty, f.go, given.get(f.name)?))
        }
    }
}

/// Values that Go holds in a basic type. The others read JSON themselves, and have words of their own.
fn simple(scalar: Scalar, go: &str, value: &Value) -> Option<String> {
    let (name, whole, number) = match scalar {
        Scalar::String => ("string", false, false),
        Scalar::Bool => ("bool", false, false),
        Scalar::Int32 => ("int32", true, true),
        Scalar::Int64 => ("int64", true, true),
        Scalar::Double => ("float64", false, true),
        Scalar::Bytes => match value {
            Value::String(_) => return None,
            other => return Some(format!("cannot restore slice from {}", kind_of(other))),
        },
        _ => return None,
    };
    let shown = if go.is_empty() { name } else { go };
    match value {
        Value::String(_) if scalar == Scalar::String => None,
        Value::Bool(_) if scalar == Scalar::Bool => None,
        Value::Number(n) if whole && n.is_f64() && n.as_f64().is_some_and(|f| f.fract() != 0.0) => {
            Some(format!("cannot convert float64 to {shown}"))
        }
        Value::Number(_) if number => None,
        // Go would make a character of it
        Value::Number(n) if scalar == Scalar::String && n.is_i64() => {
            Some(format!("cannot convert int64 to {shown}"))
        }
        _ => Some(format!("unrecognized type: {name}")),
    }
}

/// The text of an object that a merge patch was applied to: what the patch touched is in the order of names, what it left
/// alone as Go wrote it.
pub fn go_merged(ty: TypeRef, merged: &Value, patch: &Value) -> String {
    let mut out = String::new();
    touched(ty.graph, Some(ty.id), merged, Some(patch), &mut out);
    out
}

fn touched(
    graph: &Graph,
    ty: Option<TypeId>,
    merged: &Value,
    patch: Option<&Value>,
    out: &mut String,
) {
    let (Value::Object(fields), Some(Value::Object(patch))) = (merged, patch) else {
        return match patch {
            // the patch's own
            Some(_) => out.push_str(&merged.to_string()),
            None => written(graph, ty, merged, out),
        };
    };
    let names = fields.keys();
    object(names, out, |name, out| {
        let ty = below(graph, ty, name);
        touched(graph, ty, &fields[name], patch.get(name), out);
    });
}

fn below(graph: &Graph, ty: Option<TypeId>, name: &str) -> Option<TypeId> {
    match graph.kind(ty?) {
        Kind::Map { elem, .. } => Some(elem),
        _ => Some(graph.field(ty?, name)?.ty),
    }
}

fn object<'k>(
    names: impl Iterator<Item = &'k String>,
    out: &mut String,
    mut value: impl FnMut(&str, &mut String),
) {
    out.push('{');
    for (i, name) in names.enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(&Value::from(name.as_str()).to_string());
        out.push(':');
        value(name, out);
    }
    out.push('}');
}

/// A value as Go writes it: fields of structs in their order.
fn written(graph: &Graph, ty: Option<TypeId>, value: &Value, out: &mut String) {
    let kind = ty.map(|ty| graph.kind(ty));
    match (value, kind) {
        (Value::Object(given), Some(Kind::Struct { .. })) => {
            let fields = ty.and_then(|ty| graph.fields_of(ty)).map(|(_, f)| f);
            let order = in_go_order(fields.unwrap_or_default());
            let mut names: Vec<&String> = given.keys().collect();
            names.sort_by_key(|n| order.iter().position(|f| f.name == n.as_str()));
            object(names.into_iter(), out, |name, out| {
                written(graph, below(graph, ty, name), &given[name], out);
            });
        }
        (Value::Object(given), Some(Kind::Map { elem, .. })) => {
            object(given.keys(), out, |name, out| {
                written(graph, Some(elem), &given[name], out);
            });
        }
        (Value::Array(items), Some(Kind::List { elem, .. })) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                written(graph, Some(elem), item, out);
            }
            out.push(']');
        }
        (other, _) => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn says_what_go_says() {
        let ty = crate::kind("apps", "v1", "Deployment").unwrap();
        for (value, want) in [
            (json!({"kind": 1}), "cannot convert int64 to string"),
            (json!({"apiVersion": []}), "unrecognized type: string"),
            (
                json!({"metadata": "x"}),
                "cannot restore struct from: string",
            ),
            (
                json!({"metadata": {"labels": []}}),
                "cannot restore map from slice",
            ),
            (
                json!({"spec": {"replicas": "x"}}),
                "unrecognized type: int32",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": {}}}}}),
                "cannot restore slice from map",
            ),
            (json!({"spec": {"replicas": 1.0, "paused": null}}), ""),
        ] {
            assert_eq!(
                unstructured_error(ty, &value).unwrap_or_default(),
                want,
                "{value}"
            );
        }
    }

    #[test]
    fn what_a_patch_leaves_alone_is_in_gos_order() {
        let ty = crate::kind("", "v1", "ConfigMap").unwrap();
        let live = json!({"apiVersion": "v1", "kind": "Spam", "data": {"k": "v"},
            "metadata": {"labels": {"a": "b"}, "name": "n", "uid": "u", "namespace": "d"}});
        assert_eq!(
            go_merged(ty, &live, &json!({"kind": "Spam"})),
            r#"{"apiVersion":"v1","data":{"k":"v"},"kind":"Spam","metadata":{"name":"n","namespace":"d","uid":"u","labels":{"a":"b"}}}"#
        );
        assert_eq!(
            go_merged(ty, &live, &json!({"metadata": {"name": "n"}})),
            r#"{"apiVersion":"v1","data":{"k":"v"},"kind":"Spam","metadata":{"labels":{"a":"b"},"name":"n","namespace":"d","uid":"u"}}"#
        );
    }
}
