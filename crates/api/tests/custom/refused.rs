//! Definitions and objects that are refused, and why.

use crate::*;

#[tokio::test]
async fn what_does_not_fit_is_told_in_upstreams_words() {
    let f = start();
    f.made(CRDS, widgets()).await;
    for (name, spec, want) in [
        (
            "type",
            json!({"size": "x"}),
            r#"spec.size: Invalid value: "string": spec.size in body must be of type integer: "string""#,
        ),
        ("required", json!({}), "spec.size: Required value"),
        (
            "enum",
            json!({"size": 1, "color": "blue"}),
            r#"spec.color: Unsupported value: "blue": supported values: "red", "green""#,
        ),
        (
            "maximum",
            json!({"size": 11}),
            "spec.size: Invalid value: 11: spec.size in body should be less than or equal to 10",
        ),
        (
            "format",
            json!({"size": 1, "when": "x"}),
            r#"spec.when: Invalid value: "x": spec.when in body must be of type date-time: "x""#,
        ),
        (
            "set",
            json!({"size": 1, "tags": ["a", "a"]}),
            r#"spec.tags[1]: Duplicate value: "a""#,
        ),
        (
            "map",
            json!({"size": 1, "parts": [{"name": "a"}, {"name": "a"}]}),
            r#"spec.parts[1]: Duplicate value: {"name":"a"}"#,
        ),
        (
            "port",
            json!({"size": 1, "port": true}),
            r#"spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean""#,
        ),
    ] {
        let a = f.post(WIDGETS, widget("a", spec)).await;
        assert_eq!(a.code, 422, "{name}: {}", message(&a));
        assert!(message(&a).contains(want), "{name}: {}", message(&a));
    }
    let strict = format!("{WIDGETS}?fieldValidation=Strict");
    let mut odd = widget("a", json!({"size": 1, "odd": 1, "free": {"any": 1}}));
    odd["metadata"]["strange"] = 1.into();
    let a = f.post(&strict, odd).await;
    assert_eq!(a.code, 400);
    assert!(
        message(&a).contains(r#"unknown field "metadata.strange", unknown field "spec.odd""#),
        "{}",
        message(&a)
    );
    let twice = br#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a"},"spec":{"size":1,"size":2}}"#;
    let a = f
        .send(
            http::Method::POST,
            &strict,
            &[("content-type", "application/json")],
            twice.to_vec(),
        )
        .await;
    assert!(
        message(&a).contains(r#"duplicate field "spec.size""#),
        "{}",
        message(&a)
    );
    let mut put = widget("a", json!({"size": 1}));
    let a = f.put(&format!("{WIDGETS}/a"), put.clone()).await;
    assert_eq!(a.code, 404, "{}", message(&a));
    f.made(WIDGETS, put.clone()).await;
    let a = f.put(&format!("{WIDGETS}/a"), put.take()).await;
    assert!(
        message(&a).contains("metadata.resourceVersion: Invalid value"),
        "{}",
        message(&a)
    );
    let a = f
        .patch(&format!("{WIDGETS}/a"), "strategic-merge-patch", "{}")
        .await;
    assert_eq!(a.code, 415, "{}", message(&a));
}

#[tokio::test]
async fn rules_hold() {
    let f = start();
    let mut crd = widgets();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    *crd.pointer_mut(spec).unwrap() = json!({"type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "messageExpression": "self.min > 9 ? 'min is far above max' : 'min is above max'", "fieldPath": ".min"},
            {"rule": "self.min < 100", "message": "min is too large", "reason": "FieldValueForbidden"},
            {"rule": "self.max >= oldSelf.max", "message": "max may not shrink"}],
        "required": ["min", "max"],
        "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}, "other": {"type": "string"},
            "name": {"type": "string", "maxLength": 20, "x-kubernetes-validations": [{"rule": "self.startsWith('x')"}]},
            "parts": {"type": "array", "maxItems": 5, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", "maxLength": 9},
                    "n": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf", "message": "n may not shrink"}]}}}}}});
    crd["spec"]["versions"][0]["selectableFields"] = Value::Null;
    crd["spec"]["versions"][0]["additionalPrinterColumns"] = Value::Null;
    crd["spec"]["versions"][0]["subresources"] = Value::Null;
    // a rule that doesn't compile is refused in cel-go's words
    let mut bad = crd.clone();
    *bad.pointer_mut(&format!("{spec}/x-kubernetes-validations/0/rule"))
        .unwrap() = "self.mim > 1".into();
    let a = f.post(CRDS, bad).await;
    assert_eq!(a.code, 422, "{}", message(&a));
    assert!(message(&a).contains("spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value:"), "{}", message(&a));
    assert!(
        message(&a).contains("compilation failed: ERROR: <input>:1:5: undefined field 'mim'"),
        "{}",
        message(&a)
    );
    // and so is a default that its own rule refuses
    let mut bad = crd.clone();
    bad.pointer_mut(&format!("{spec}/properties/name")).unwrap()["default"] = "y".into();
    let a = f.post(CRDS, bad).await;
    assert!(
        message(&a).contains(
            "properties[name].default: Invalid value: \"y\": failed rule: self.startsWith('x')"
        ),
        "{}",
        message(&a)
    );
    f.made(CRDS, crd.clone()).await;

    let good = json!({"min": 1, "max": 2, "parts": [{"name": "a", "n": 3}]});
    f.made(WIDGETS, widget("a", good.clone())).await;
    for (name, spec, want) in [
        (
            "messageExpression and fieldPath",
            json!({"min": 3, "max": 2}),
            "spec.min: Invalid value: min is above max",
        ),
        (
            "reason",
            json!({"min": 100, "max": 200}),
            "spec: Forbidden: min is too large",
        ),
        (
            "no message",
            json!({"min": 1, "max": 2, "name": "a"}),
            r#"spec.name: Invalid value: "a": failed rule: self.startsWith('x')"#,
        ),
        (
            "not asked of what is wrong already",
            json!({"min": 1}),
            "some validation rules were not checked because the object was invalid",
        ),
    ] {
        let a = f.post(WIDGETS, widget("b", spec)).await;
        assert_eq!(a.code, 422, "{name}");
        assert!(message(&a).contains(want), "{name}: {}", message(&a));
    }
    for (name, patch, want) in [
        (
            "transition",
            json!({"spec": {"max": 1}}),
            "spec: Invalid value: max may not shrink",
        ),
        (
            "transition in a list",
            json!({"spec": {"parts": [{"name": "z"}, {"name": "a", "n": 2}]}}),
            "spec.parts[1].n: Invalid value: 2: n may not shrink",
        ),
    ] {
        let a = f
            .patch(&format!("{WIDGETS}/a"), "merge-patch", &patch.to_string())
            .await;
        assert_eq!(a.code, 422, "{name}");
        assert!(message(&a).contains(want), "{name}: {}", message(&a));
    }
    // what a stricter definition makes wrong may stay until it is touched
    *crd.pointer_mut(&format!("{spec}/x-kubernetes-validations"))
        .unwrap() = json!([]);
    *crd.pointer_mut(&format!("{spec}/properties/min")).unwrap() =
        json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self > 5"}]});
    let apply = crd.to_string();
    let a = f
        .patch(
            &format!("{CRDS}/widgets.example.com?fieldManager=t&force=true"),
            "apply",
            &apply,
        )
        .await;
    assert_eq!(a.code, 200, "{}", message(&a));
    let a = f
        .patch(
            &format!("{WIDGETS}/a"),
            "merge-patch",
            r#"{"spec":{"other":"x"}}"#,
        )
        .await;
    assert_eq!(a.code, 200, "{}", message(&a));
    let a = f
        .patch(
            &format!("{WIDGETS}/a"),
            "merge-patch",
            r#"{"spec":{"min":2}}"#,
        )
        .await;
    assert!(
        message(&a).contains("spec.min: Invalid value: 2: failed rule: self > 5"),
        "{}",
        message(&a)
    );
}
