use super::*;
use serde_json::json;

fn told(schema: Value, value: Value) -> Vec<String> {
    let s = Schema::read(&schema);
    let all = validate(&s, &value, "");
    all.into_iter()
        .map(|e| format!("{}|{:?}|{}", e.field, e.kind, e.detail))
        .collect()
}

#[test]
fn messages() {
    let spec = |s: Value| json!({"type": "object", "properties": {"spec": s}});
    for (name, schema, value, want) in [
        (
            "type",
            spec(json!({"type": "object", "properties": {"replicas": {"type": "integer"}}})),
            json!({"spec": {"replicas": "3"}}),
            vec![
                r#"spec.replicas|TypeInvalid(String("string"))|spec.replicas in body must be of type integer: "string""#,
            ],
        ),
        (
            "whole floats are integers",
            spec(json!({"type": "integer"})),
            json!({"spec": 3.0}),
            vec![],
        ),
        (
            "fractions aren't",
            spec(json!({"type": "integer", "format": "int32"})),
            json!({"spec": 3.5}),
            vec![
                r#"spec|TypeInvalid(String("float64"))|spec in body must be of type int32: "float64""#,
                r#"<nil>|Invalid(String(""))|Checked value must be of type integer with format int32 in spec"#,
            ],
        ),
        (
            "int32",
            spec(json!({"type": "integer", "format": "int32"})),
            json!({"spec": 5_000_000_000i64}),
            vec![
                r#"<nil>|Invalid(String(""))|Checked value must be of type integer with format int32 in spec"#,
            ],
        ),
        (
            "null",
            spec(json!({"type": "string"})),
            json!({"spec": null}),
            vec![r#"spec|TypeInvalid(String("null"))|spec in body must be of type string: "null""#],
        ),
        (
            "nullable",
            spec(json!({"type": "string", "nullable": true})),
            json!({"spec": null}),
            vec![],
        ),
        (
            "required",
            spec(json!({"type": "object", "required": ["a", "b"]})),
            json!({"spec": {"a": 1}}),
            vec!["spec.b|Required|"],
        ),
        (
            "enum",
            spec(json!({"type": "string", "enum": ["a", "b"]})),
            json!({"spec": "c"}),
            vec![r#"spec|NotSupported(String("c"), ["a", "b"])|"#],
        ),
        (
            "pattern",
            spec(json!({"type": "string", "pattern": "^a+$"})),
            json!({"spec": "b"}),
            vec![r#"spec|Invalid(String("b"))|spec in body should match '^a+$'"#],
        ),
        (
            "bounds",
            spec(
                json!({"type": "array", "items": {"type": "integer", "minimum": 2, "maximum": 4, "exclusiveMaximum": true}}),
            ),
            json!({"spec": [1, 4, 3]}),
            vec![
                "spec[0]|Invalid(Number(1))|spec[0] in body should be greater than or equal to 2",
                "spec[1]|Invalid(Number(4))|spec[1] in body should be less than 4",
            ],
        ),
        (
            "lengths",
            spec(
                json!({"type": "object", "properties": {"s": {"type": "string", "maxLength": 2}, "t": {"type": "string", "minLength": 2},
                "l": {"type": "array", "maxItems": 1, "items": {"type": "string"}}}}),
            ),
            json!({"spec": {"s": "äöü", "t": "ä", "l": ["", ""]}}),
            vec![
                "spec.l|TooMany(2, 1)|",
                "spec.s|TooLong(2)|",
                r#"spec.t|Invalid(String("ä"))|spec.t in body should be at least 2 chars long"#,
            ],
        ),
        (
            "int or string",
            spec(json!({"x-kubernetes-int-or-string": true})),
            json!({"spec": true}),
            vec![
                r#"spec|TypeInvalid(String("boolean"))|spec in body must be of type integer,string: "boolean""#,
            ],
        ),
        (
            "format",
            spec(json!({"type": "string", "format": "date-time"})),
            json!({"spec": "today"}),
            vec![
                r#"spec|TypeInvalid(String("today"))|spec in body must be of type date-time: "today""#,
            ],
        ),
        (
            "oneOf",
            spec(
                json!({"type": "object", "properties": {"a": {"type": "string"}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            ),
            json!({"spec": {}}),
            vec![
                r#"<nil>|Invalid(String(""))|"spec" must validate one and only one schema (oneOf). Found none valid"#,
                "spec.a|Required|",
            ],
        ),
        (
            "anyOf finds one",
            spec(json!({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]})),
            json!({"spec": {"b": 1}}),
            vec![],
        ),
        (
            "not",
            spec(json!({"not": {"required": ["a"]}})),
            json!({"spec": {"a": 1}}),
            vec![r#"<nil>|Invalid(String(""))|"spec" must not validate the schema (not)"#],
        ),
        (
            "allOf",
            spec(json!({"allOf": [{"minimum": 3}, {"maximum": 9}], "type": "integer"})),
            json!({"spec": 1}),
            vec![
                "spec|Invalid(Number(1))|spec in body should be greater than or equal to 3",
                r#"<nil>|Invalid(String(""))|"spec" must validate all the schemas (allOf)"#,
            ],
        ),
        (
            "maps",
            spec(
                json!({"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 1}),
            ),
            json!({"spec": {"a": 1, "b": true}}),
            vec![
                "spec|TooMany(2, 1)|",
                r#"spec.a|TypeInvalid(String("integer"))|spec.a in body must be of type boolean: "integer""#,
            ],
        ),
        (
            "multiples",
            spec(json!({"type": "number", "multipleOf": 0.5})),
            json!({"spec": 0.7}),
            vec!["spec|Invalid(Number(0.7))|spec in body should be a multiple of 0.5"],
        ),
    ] {
        assert_eq!(told(schema, value), want, "{name}");
    }
}

#[test]
fn what_did_not_change_may_stay_wrong() {
    let s = Schema::read(
        &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "a": {"type": "string", "maxLength": 1},
        "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "string", "maxLength": 1}}}},
        "at": {"type": "array", "items": {"type": "string", "maxLength": 1}}}}}}),
    );
    let old = json!({"spec": {"a": "long", "l": [{"k": "x", "v": "long"}, {"k": "y", "v": "1"}], "at": ["long"]}});
    for (name, new, want) in [
        ("nothing", old.clone(), vec![]),
        (
            "another part",
            json!({"spec": {"a": "long", "l": [{"k": "y", "v": "2"}, {"k": "x", "v": "long"}], "at": ["long"]}}),
            vec![],
        ),
        (
            "the wrong part",
            json!({"spec": {"a": "other", "l": [{"k": "x", "v": "other"}], "at": ["long", "1"]}}),
            vec!["spec.a", "spec.at[0]", "spec.l[0].v"],
        ),
    ] {
        let got: Vec<String> = validate_update(&s, &new, &old, "")
            .into_iter()
            .map(|e| e.field)
            .collect();
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn a_part_is_told_where_it_is() {
    let s = Schema::read(&json!({"type": "object", "properties": {"n": {"type": "integer"}}}));
    let got = validate(&s, &json!({"n": "x"}), "status");
    assert_eq!(got[0].field, "status.n");
    assert_eq!(
        got[0].detail,
        "n in body must be of type integer: \"string\""
    );
}

#[test]
fn a_hostile_pattern_costs_little() {
    let s = Schema::read(&json!({"type": "string", "pattern": "(a*)*b"}));
    let text = "a".repeat(50_000);
    assert_eq!(validate(&s, &text.into(), "").len(), 1);
    let huge = Schema::read(&json!({"type": "string", "pattern": "((((x{100}){100}){100}){100})"}));
    let got = validate(&huge, &"x".into(), "");
    assert!(got[0].detail.contains("but pattern is invalid"), "{got:?}");
}
