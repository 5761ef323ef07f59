//! Which devices a request means: expressions, and what devices must have in common.

use super::{Case, cel, check, exactly, of, three};
use serde_json::{Value, json};

#[test]
fn expressions() {
    let one = |expression: &str| {
        of(
            &[exactly("r", json!({"selectors": cel(expression)}))],
            vec![three()],
        )
    };
    check(vec![
        (
            "attribute of the driver's own domain",
            one("device.attributes['d.example'].color == 'blue'"),
            "r=b",
        ),
        (
            "version",
            one("device.attributes['d.example'].v.compareTo(semver('2.0.0')) >= 0"),
            "r=b",
        ),
        (
            "an attribute that the first one doesn't have",
            one("device.attributes['d.example'].on"),
            "claim default/c0: selector #0: CEL runtime error: no such key: on",
        ),
        (
            "asked for first",
            one(
                "has(device.attributes['d.example'].v) && device.attributes['d.example'].v.compareTo(semver('2.0.0')) >= 0",
            ),
            "r=b",
        ),
        (
            "capacity",
            one(
                "has(device.capacity['d.example'].memory) && device.capacity['d.example'].memory.compareTo(quantity('1Gi')) > 0",
            ),
            "r=b",
        ),
        (
            "a domain that isn't there is empty",
            one("has(device.attributes['other'].x) || device.attributes['d.example'].size == 3"),
            "r=c",
        ),
        ("the driver", one("device.driver == 'e.example'"), "none"),
        (
            "no bool",
            one("device.driver"),
            "claim default/c0: selector #0: CEL compile error: must evaluate to bool or the unknown type, not string",
        ),
        (
            "the class's too",
            Case {
                classes: vec![(
                    "any",
                    json!({"selectors": cel("device.attributes['d.example'].size > 1")}),
                )],
                ..one("device.attributes['d.example'].color == 'red'")
            },
            "r=c",
        ),
    ]);
}

#[test]
fn constraints() {
    let case = |constraint: Value, count: i64| Case {
        claims: vec![
            json!({"requests": [exactly("r", json!({"count": count}))], "constraints": [constraint]}),
        ],
        ..of(&[], vec![three()])
    };
    check(vec![
        (
            "the same",
            case(json!({"matchAttribute": "d.example/color"}), 2),
            "r=a r=c",
        ),
        (
            "each another",
            case(json!({"distinctAttribute": "d.example/color"}), 2),
            "r=a r=b",
        ),
        (
            "no third",
            case(json!({"distinctAttribute": "d.example/color"}), 3),
            "none",
        ),
        (
            "one without it",
            case(json!({"matchAttribute": "d.example/on"}), 1),
            "r=c",
        ),
        (
            "of another request",
            case(
                json!({"requests": ["other"], "matchAttribute": "d.example/none"}),
                2,
            ),
            "r=a r=b",
        ),
    ]);
}
