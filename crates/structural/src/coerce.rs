//! Metadata of resources embedded in resources: apiextensions-apiserver `pkg/apiserver/schema/objectmeta`.

use serde_json::Value;

use crate::{error::Error, path::Path, schema::Schema};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Brings the metadata of embedded resources into the shape of ObjectMeta and removes what it doesn't know. Returns the
/// paths of what was unknown. `drop_invalid`: fields of wrong types are removed (read from storage), not refused.
pub fn coerce(
    value: &mut Value,
    schema: &Schema,
    root: bool,
    drop_invalid: bool,
) -> Result<Vec<String>, Error> {
    let mut walk = Walk {
        unknown: Vec::new(),
        drop_invalid,
    };
    walk.node(value, schema, schema.embedded || root, &Path::ROOT)?;
    walk.unknown.sort_unstable();
    Ok(walk.unknown)
}

struct Walk {
    unknown: Vec<String>,
    drop_invalid: bool,
}

impl Walk {
    fn node(
        &mut self,
        value: &mut Value,
        s: &Schema,
        embedded: bool,
        path: &Path<'_>,
    ) -> Result<(), Error> {
        match value {
            Value::Object(map) => {
                if embedded {
                    for k in ["apiVersion", "kind"] {
                        match map.get(k) {
                            Some(v) if !v.is_string() && self.drop_invalid => {
                                map.remove(k);
                            }
                            Some(v) if !v.is_string() => {
                                return Err(Error::invalid(
                                    path.child(k),
                                    v.clone(),
                                    "must be a string",
                                ));
                            }
                            _ => {}
                        }
                    }
                    if let Some(metadata) = map.get_mut("metadata") {
                        self.metadata(metadata, &path.child("metadata"))?;
                    }
                }
                for (k, v) in map.iter_mut() {
                    if let Some(p) = s.property(k) {
                        self.node(v, p, p.embedded, &path.child(k))?;
                    } else if let Some(a) = s.additional_schema() {
                        self.node(v, a, a.embedded, &path.key(k))?;
                    }
                }
            }
            Value::Array(items) => {
                let Some(of) = s.items.as_deref() else {
                    return Ok(());
                };
                for (i, item) in items.iter_mut().enumerate() {
                    self.node(item, of, of.embedded, &path.index(i))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn metadata(&mut self, metadata: &mut Value, path: &Path<'_>) -> Result<(), Error> {
        let Some(ty) = knarr_schema::named(OBJECT_META) else {
            return Ok(());
        };
        let decoded = match knarr_schema::conform(ty, metadata.clone()) {
            Ok(decoded) => decoded,
            Err(e) if !self.drop_invalid => {
                return Err(Error::invalid(path, metadata.take(), e.0));
            }
            Err(_) => {
                if let Some(map) = metadata.as_object_mut() {
                    map.retain(|k, v| {
                        let mut one = serde_json::Map::new();
                        one.insert(k.clone(), v.clone());
                        knarr_schema::conform(ty, Value::Object(one)).is_ok()
                    });
                }
                return Ok(());
            }
        };
        for told in decoded.unknown {
            // `unknown field "x"`
            let name = told.split('"').nth(1).unwrap_or_default();
            self.unknown.push(path.child(name).to_string());
        }
        *metadata = decoded.value;
        Ok(())
    }
}

/// An embedded resource, and where it is: what `check` is called with.
pub fn embedded<'v>(
    schema: &Schema,
    value: &'v Value,
    check: &mut dyn FnMut(&Path<'_>, &'v serde_json::Map<String, Value>),
) {
    find(schema, value, &Path::ROOT, check);
}

fn find<'v>(
    s: &Schema,
    value: &'v Value,
    path: &Path<'_>,
    check: &mut dyn FnMut(&Path<'_>, &'v serde_json::Map<String, Value>),
) {
    match value {
        Value::Object(map) => {
            if s.embedded {
                check(path, map);
            }
            for (k, v) in map {
                if let Some(p) = s.property(k) {
                    find(p, v, &path.child(k), check);
                } else if let Some(a) = s.additional_schema() {
                    find(a, v, &path.key(k), check);
                }
            }
        }
        Value::Array(items) => {
            if let Some(of) = s.items.as_deref() {
                for (i, item) in items.iter().enumerate() {
                    find(of, item, &path.index(i), check);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn embedded_metadata() {
        let s = Schema::read(
            &json!({"type": "object", "properties": {"t": {"type": "object",
            "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}}),
        );
        let mut v = json!({"t": {"kind": "Pod", "metadata": {"name": "n", "odd": 1}}});
        assert_eq!(
            coerce(&mut v, &s, false, false).unwrap(),
            ["t.metadata.odd"]
        );
        assert_eq!(v, json!({"t": {"kind": "Pod", "metadata": {"name": "n"}}}));
        let mut bad = json!({"t": {"kind": 5, "metadata": {"name": 5, "labels": {"a": "b"}}}});
        let e = coerce(&mut bad.clone(), &s, false, false).unwrap_err();
        assert_eq!(
            (e.field.as_str(), e.detail.as_str()),
            ("t.kind", "must be a string")
        );
        coerce(&mut bad, &s, false, true).unwrap();
        assert_eq!(bad, json!({"t": {"metadata": {"labels": {"a": "b"}}}}));
        let mut at = Vec::new();
        embedded(&s, &v, &mut |p, _| at.push(p.to_string()));
        assert_eq!(at, ["t"]);
    }
}
