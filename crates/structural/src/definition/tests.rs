use super::*;
use serde_json::json;

fn told(raw: Value) -> Vec<String> {
    let all = check(&raw, &Path::at("s"), false, Strictness::FULL);
    let mut out: Vec<String> = all
        .into_iter()
        .map(|e| format!("{} {}", e.field, e.detail))
        .collect();
    out.sort();
    out.dedup();
    out
}

#[test]
fn what_is_refused() {
    let spec = |s: Value| json!({"type": "object", "properties": {"a": s}});
    for (name, raw, want) in [
        ("plain", spec(json!({"type": "string"})), vec![]),
        (
            "int or string, both patterns",
            spec(
                json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
            ),
            vec![],
        ),
        (
            "no type",
            spec(json!({"description": "x"})),
            vec!["s.properties[a].type must not be empty for specified object fields"],
        ),
        (
            "array without items",
            spec(json!({"type": "array"})),
            vec!["s.properties[a].items must be specified"],
        ),
        (
            "type in a junctor",
            spec(
                json!({"type": "object", "properties": {"x": {"type": "string"}}, "oneOf": [{"properties": {"x": {"type": "string"}}}]}),
            ),
            vec!["s.properties[a].oneOf[0].properties[x].type must be empty to be structural"],
        ),
        (
            "a junctor speaks of what isn't declared",
            json!({"type": "object", "anyOf": [{"properties": {"x": {"minimum": 1}}}]}),
            vec!["s.properties[x] because it is defined in s.anyOf[0].properties[x]"],
        ),
        (
            "pattern",
            spec(json!({"type": "string", "pattern": "("})),
            vec!["s.properties[a].pattern must be a valid regular expression, but isn't"],
        ),
        (
            "default of the wrong type",
            spec(json!({"type": "integer", "default": "x"})),
            vec!["s.properties[a].default  in body must be of type integer: \"string\""],
        ),
        (
            "default with unknown fields",
            spec(json!({"type": "object", "default": {"x": 1}})),
            vec!["s.properties[a].default must not have unknown fields"],
        ),
        (
            "map without keys",
            spec(
                json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}),
            ),
            vec![
                "s.properties[a].x-kubernetes-list-map-keys must not be empty if x-kubernetes-list-type is map",
            ],
        ),
        (
            "keys must be there",
            spec(
                json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {"k": {"type": "string"}}}}),
            ),
            vec![
                "s.properties[a].items.properties[k].default this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            ],
        ),
        (
            "unsupported keywords are told once",
            spec(json!({"type": "object", "$ref": "#/x"})),
            vec!["s.properties[a].$ref $ref is not supported"],
        ),
        (
            "metadata",
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            vec![
                "s.properties[metadata] must not specify anything other than name and generateName, but metadata is implicitly specified",
            ],
        ),
        (
            "both kinds of fields",
            spec(
                json!({"type": "object", "properties": {"x": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
            ),
            vec![
                "s.properties[a].additionalProperties additionalProperties and properties are mutual exclusive",
            ],
        ),
        (
            "top-level defaults",
            json!({"type": "object", "properties": {"kind": {"type": "string", "default": "X"}}}),
            vec!["s.properties[kind].default must not be set in top-level kind"],
        ),
        (
            "rules",
            spec(
                json!({"type": "string", "x-kubernetes-validations": [{"rule": ""}, {"rule": "a", "reason": "No"}]}),
            ),
            vec![
                "s.properties[a].x-kubernetes-validations[0].rule rule is not specified",
                "s.properties[a].x-kubernetes-validations[1].reason ",
            ],
        ),
    ] {
        let got = told(raw);
        assert_eq!(got.len(), want.len(), "{name}: {got:?}");
        for (g, w) in got.iter().zip(&want) {
            assert!(g.starts_with(w), "{name}: {g}");
        }
    }
}

#[test]
fn an_old_mistake_may_stay() {
    let old =
        json!({"type": "object", "properties": {"a": {"type": "object", "default": {"x": 1}}}});
    let strictness = Strictness::after(std::iter::once(&old));
    assert!(strictness.structural && !strictness.pruned_defaults);
    assert!(check(&old, &Path::at("s"), false, strictness).is_empty());
}

#[test]
fn field_paths() {
    let s = json!({"properties": {"a": {"properties": {"b-c": {"type": "string"}, "l": {"items": {"properties": {"x": {}}}}}},
        "m": {"additionalProperties": {"type": "string"}}}});
    for (path, lists, good) in [
        (".a.b-c", false, true),
        (".a['b-c']", false, true),
        (".a.l[0].x", true, true),
        (".a.l[0].x", false, false),
        (".m.any", false, true),
        (".a.no", false, false),
        ("a", false, false),
    ] {
        assert_eq!(field_path(path, &s, lists).is_ok(), good, "{path}");
    }
}
