//! Definitions of custom resources: apiextensions-apiserver `pkg/controller/openapi/{builder,v2}`.

use serde_json::{Map, Value, json};

use super::schemas::Version;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const ABOUT_METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const ABOUT_LIST: &str = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const ABOUT_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const ABOUT_KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

/// What the definition of a custom resource says of it beyond its names.
pub struct Custom<'a> {
    pub list_kind: &'a str,
    /// `selectableFields[*].jsonPath`
    pub fields: &'a [String],
    /// Its `openAPIV3Schema`, read when it is written.
    pub schema: &'a dyn Fn() -> Option<Value>,
}

/// `com.example.v1.Widget`
pub(crate) fn name(group: &str, version: &str, kind: &str) -> String {
    let reversed: Vec<&str> = group.split('.').rev().collect();
    format!("{}.{version}.{kind}", reversed.join("."))
}

/// The definition of the kind.
pub(crate) fn definition(
    to: Version,
    group: &str,
    version: &str,
    kind: &str,
    custom: &Custom<'_>,
) -> Value {
    let schema = (custom.schema)();
    let mut out = match schema {
        None => json!({"type": "object"}),
        // kubectl of old takes declared fields for all there may be
        Some(s) if to == Version::V2 && s[PRESERVE] == true => json!({"type": "object"}),
        Some(mut s) => {
            node(&mut s, to);
            let fields = object(&mut s, "properties");
            fields.insert("metadata".into(), about(to, "ObjectMeta", ABOUT_METADATA));
            fields.insert("apiVersion".into(), text(ABOUT_VERSION));
            fields.insert("kind".into(), text(ABOUT_KIND));
            s
        }
    };
    mark(&mut out, group, version, kind, custom);
    out
}

/// The definition of its lists.
pub(crate) fn list(
    to: Version,
    group: &str,
    version: &str,
    kind: &str,
    plural: &str,
    custom: &Custom<'_>,
) -> Value {
    let mut out = json!({
        "description": format!("{} is a list of {kind}", custom.list_kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text(ABOUT_VERSION),
            "kind": text(ABOUT_KIND),
            "items": {
                "description": format!("List of {plural}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"),
                "type": "array",
                "items": to.reference(&name(group, version, kind)),
            },
            "metadata": about(to, "ListMeta", ABOUT_LIST),
        },
    });
    mark(&mut out, group, version, custom.list_kind, custom);
    out
}

fn mark(out: &mut Value, group: &str, version: &str, kind: &str, custom: &Custom<'_>) {
    out["x-kubernetes-group-version-kind"] =
        json!([{"group": group, "kind": kind, "version": version}]);
    if !custom.fields.is_empty() {
        let fields: Vec<Value> = custom
            .fields
            .iter()
            .map(|f| json!({"fieldPath": f.trim_start_matches('.')}))
            .collect();
        out["x-kubernetes-selectable-fields"] = fields.into();
    }
}

fn text(description: &str) -> Value {
    json!({"description": description, "type": "string"})
}

/// A reference with a description.
fn about(to: Version, ty: &str, description: &str) -> Value {
    let mut reference = to.reference(&format!("{META}.{ty}"));
    if to == Version::V3 {
        return json!({"allOf": [reference], "description": description, "default": {}});
    }
    reference["description"] = description.into();
    reference
}

fn object<'v>(s: &'v mut Value, key: &str) -> &'v mut Map<String, Value> {
    if !s[key].is_object() {
        s[key] = json!({});
    }
    match &mut s[key] {
        Value::Object(map) => map,
        _ => unreachable!("made an object just above"),
    }
}

/// Brings a schema into the form that is published.
fn node(s: &mut Value, to: Version) {
    let Some(map) = s.as_object_mut() else { return };
    let is = |map: &Map<String, Value>, key: &str| map.get(key) == Some(&Value::Bool(true));
    let preserves = is(map, PRESERVE);
    let embedded = is(map, "x-kubernetes-embedded-resource");
    match to {
        Version::V2 => {
            // what clients of v2 can't read
            for key in ["allOf", "oneOf", "anyOf", "not", "default"] {
                map.remove(key);
            }
            if is(map, "nullable") {
                for key in ["type", "nullable", "items", "properties"] {
                    map.remove(key);
                }
            }
            if preserves {
                map.remove("items");
                map.remove("properties");
                if map.get("type") == Some(&json!("object")) {
                    map.remove("type");
                }
            }
            if !map.contains_key("items") && map.get("type") == Some(&json!("array")) {
                map.remove("type");
            }
            let nullable: Vec<String> = map
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .filter(|(_, p)| p["nullable"] == true)
                .map(|(k, _)| k.clone())
                .collect();
            if let Some(Value::Array(required)) = map.get_mut("required") {
                required.retain(|r| !nullable.iter().any(|n| r == n));
                if required.is_empty() {
                    map.remove("required");
                }
            }
            if map
                .get("additionalProperties")
                .is_some_and(|a| a["nullable"] == true)
            {
                map.remove("required");
            }
        }
        Version::V3 => {
            if is(map, "x-kubernetes-int-or-string") {
                let either = json!([{"type": "integer"}, {"type": "string"}]);
                let first = map.get("allOf").map(|a| &a[0]["anyOf"]);
                if map.get("anyOf") != Some(&either) && first != Some(&either) {
                    if map.contains_key("anyOf") {
                        let rest = map.remove("allOf");
                        let mut all = vec![json!({ "anyOf": either })];
                        all.extend(rest.and_then(|r| r.as_array().cloned()).unwrap_or_default());
                        map.insert("allOf".into(), all.into());
                    } else {
                        map.insert("anyOf".into(), either);
                    }
                }
            }
        }
    }
    if let Some(Value::Object(fields)) = map.get_mut("properties") {
        fields.values_mut().for_each(|p| node(p, to));
    }
    for key in ["items", "additionalProperties"] {
        if let Some(below) = map.get_mut(key) {
            node(below, to);
        }
    }
    if embedded && !(to == Version::V2 && preserves) {
        let fields = object(s, "properties");
        fields.insert("apiVersion".into(), text("apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"));
        fields.insert("kind".into(), text("kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"));
        fields.insert("metadata".into(), about(to, "ObjectMeta", ABOUT_METADATA));
        if !s["required"].is_array() {
            s["required"] = json!([]);
        }
        if let Value::Array(required) = &mut s["required"] {
            for name in ["kind", "apiVersion"] {
                if !required.iter().any(|r| r == name) {
                    required.push(name.into());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_forms() {
        let schema = json!({"type": "object", "description": "d", "properties": {"spec": {"type": "object",
            "required": ["a", "n"], "properties": {
                "a": {"type": "string", "default": "x"}, "n": {"type": "integer", "nullable": true},
                "p": {"x-kubernetes-int-or-string": true},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"k": {"type": "string"}}}},
            "oneOf": [{"required": ["a"]}]}}});
        let custom = Custom {
            list_kind: "WidgetList",
            fields: &[],
            schema: &|| Some(schema.clone()),
        };
        let v2 = definition(Version::V2, "x.io", "v1", "Widget", &custom);
        assert_eq!(
            v2["properties"]["spec"],
            json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}, "n": {},
                "p": {"x-kubernetes-int-or-string": true}, "free": {"x-kubernetes-preserve-unknown-fields": true}}})
        );
        let v3 = definition(Version::V3, "x.io", "v1", "Widget", &custom);
        assert_eq!(
            v3["properties"]["spec"]["properties"]["p"]["anyOf"],
            json!([{"type": "integer"}, {"type": "string"}])
        );
        assert_eq!(v3["properties"]["spec"]["properties"]["a"]["default"], "x");
        assert_eq!(name("b.example.com", "v1", "Foo"), "com.example.b.v1.Foo");
    }
}
