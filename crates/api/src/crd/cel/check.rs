//! What the API refuses of rules when they are defined: what doesn't compile, what may cost too much, transition rules
//! where the old value can't be known.

use knarr_cel::{Schema, limits};
use serde_json::{Value, json};

use super::{
    compile::{Compiled, compile},
    tree::SELF_TYPE,
};
use crate::registry::FieldError;

/// Most rules that are named when all together cost too much.
const NAMED_MAX: usize = 4;

/// Checks the rules of a version's schema at `path`. `unchanged`: it is as it was, so that no rule is too expensive.
pub fn check(raw: &Value, path: &str, unchanged: bool) -> Vec<FieldError> {
    let mut walk = Walk {
        errors: Vec::new(),
        unchanged,
        total: 0,
        expensive: Vec::new(),
    };
    let at = Place {
        times: Some(1),
        blind: None,
        root: true,
    };
    walk.node(raw, path, &at);
    walk.total(path);
    walk.errors
}

struct Walk {
    errors: Vec<FieldError>,
    unchanged: bool,
    total: u64,
    expensive: Vec<(u64, String)>,
}

#[derive(Clone)]
struct Place {
    /// How many values there may be; None when nothing bounds them.
    times: Option<u64>,
    /// Where around here old values can't be told apart.
    blind: Option<String>,
    root: bool,
}

/// How many values a schema may have directly below it; None when nothing bounds them.
fn elements(raw: &Value) -> Option<u64> {
    let bound = |key: &str| raw[key].as_i64().map(|n| n.max(0) as u64);
    match raw["type"].as_str() {
        Some("object") if !raw["additionalProperties"].is_null() => bound("maxProperties"),
        Some("array") => bound("maxItems"),
        _ => Some(1),
    }
}

impl Walk {
    fn node(&mut self, raw: &Value, path: &str, place: &Place) {
        if !raw.is_object() {
            return;
        }
        let below = Place {
            times: place
                .times
                .zip(elements(raw))
                .map(|(a, b)| a.saturating_mul(b)),
            blind: place.blind.clone(),
            root: false,
        };
        let additional = format!("{path}.additionalProperties");
        self.node(&raw["additionalProperties"], &additional, &below);
        for (k, p) in raw["properties"].as_object().into_iter().flatten() {
            self.node(p, &format!("{path}.properties[{k}]"), &below);
        }
        if raw["items"].is_object() {
            let mut below = below;
            if raw["x-kubernetes-list-type"] != "map" {
                below.blind.get_or_insert_with(|| path.to_owned());
            }
            self.node(&raw["items"], &format!("{path}.items"), &below);
        }
        self.rules(raw, path, place);
    }

    fn rules(&mut self, raw: &Value, path: &str, place: &Place) {
        let rules = knarr_structural::Schema::read(raw).rules;
        if rules.is_empty() {
            return;
        }
        let list = format!("{path}.x-kubernetes-validations");
        let root = place.root || raw["x-kubernetes-embedded-resource"] == true;
        let Some(schema) = Schema::from_openapi(raw, root, SELF_TYPE) else {
            self.invalid(
                list,
                Value::Null,
                "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations".into(),
            );
            return;
        };
        let times = place.times.unwrap_or_else(|| schema.max_cardinality());
        for (i, c) in compile(raw, &rules, &schema).iter().enumerate() {
            self.rule(c, &format!("{list}[{i}]"), times, place);
        }
    }

    fn rule(&mut self, c: &Compiled, path: &str, times: u64, place: &Place) {
        let r = &c.rule;
        let shown = json!({"Rule": r.rule, "Message": r.message, "MessageExpression": r.message_expression,
            "Reason": (!r.reason.is_empty()).then_some(&*r.reason), "FieldPath": r.field_path,
            "OptionalOldSelf": r.optional_old_self});
        let at = format!("{path}.rule");
        if let Some(program) = &c.program {
            let cost = program.estimated_cost().max.saturating_mul(times);
            self.cost(at.clone(), "estimated rule cost", cost);
        }
        if let Some(why) = &c.error {
            self.invalid(at.clone(), shown.clone(), why.clone());
        }
        let message = format!("{path}.messageExpression");
        if let Some(why) = &c.message_error {
            self.invalid(message, shown, why.clone());
        } else if let Some(program) = &c.message {
            let cost = program.estimated_cost().max;
            self.cost(message, "estimated messageExpression cost", cost);
        }
        if c.uses_old {
            if let Some(blind) = &place.blind {
                let detail = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {blind}"
                );
                self.invalid(at, (*r.rule).into(), detail);
            }
        } else if let Some(optional) = r.optional_old_self {
            let detail = "may not be set if oldSelf is not used in rule".to_owned();
            self.invalid(format!("{path}.optionalOldSelf"), optional.into(), detail);
        }
    }

    fn invalid(&mut self, field: String, value: Value, detail: String) {
        self.errors.push(FieldError::Invalid {
            field,
            value,
            detail,
        });
    }

    fn cost(&mut self, field: String, what: &str, cost: u64) {
        if !self.unchanged && cost > limits::STATIC_ESTIMATED_COST {
            self.errors.push(FieldError::Forbidden {
                field: field.clone(),
                detail: exceeds(what, cost, limits::STATIC_ESTIMATED_COST),
            });
        }
        self.total = self.total.saturating_add(cost);
        if cost >= limits::STATIC_ESTIMATED_CRD_COST / 100 {
            self.expensive.push((cost, field));
            self.expensive.sort_by_key(|e| std::cmp::Reverse(e.0));
            self.expensive.truncate(NAMED_MAX);
        }
    }

    fn total(&mut self, path: &str) {
        if self.total <= limits::STATIC_ESTIMATED_CRD_COST {
            return;
        }
        for (_, field) in std::mem::take(&mut self.expensive) {
            self.errors.push(FieldError::Forbidden {
                field,
                detail: "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema".into(),
            });
        }
        self.errors.push(FieldError::Forbidden {
            field: path.to_owned(),
            detail: exceeds(
                "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema",
                self.total,
                limits::STATIC_ESTIMATED_CRD_COST,
            ),
        });
    }
}

fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused() {
        let list = |inner: Value| json!({"type": "object", "properties": {"l": inner}});
        let rule = |r: &str| json!([{ "rule": r }]);
        for (name, raw, want) in [
            (
                "good",
                json!({"type": "object", "properties": {"a": {"type": "integer", "x-kubernetes-validations": rule("self > 1")}}}),
                vec![],
            ),
            (
                "unknown",
                json!({"type": "object", "x-kubernetes-validations": rule("self.b")}),
                vec!["s.x-kubernetes-validations[0].rule: Invalid value: {\"FieldPath\":\"\""],
            ),
            (
                "too expensive",
                list(
                    json!({"type": "array", "items": {"type": "string", "x-kubernetes-validations": rule("self.contains('x')")}}),
                ),
                vec![
                    "s.properties[l].items.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x",
                    "s.properties[l].items.x-kubernetes-validations[0].rule: Forbidden: contributed to",
                    "s: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget",
                ],
            ),
            (
                "bounded",
                list(
                    json!({"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 10, "x-kubernetes-validations": rule("self.contains('x')")}}),
                ),
                vec![],
            ),
            (
                "transition in a list without keys",
                list(
                    json!({"type": "array", "maxItems": 5, "items": {"type": "integer", "x-kubernetes-validations": rule("self >= oldSelf")}}),
                ),
                vec![
                    "s.properties[l].items.x-kubernetes-validations[0].rule: Invalid value: \"self >= oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[l]",
                ],
            ),
            (
                "optionalOldSelf without oldSelf",
                json!({"type": "object", "properties": {"a": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 1", "optionalOldSelf": true}]}}}),
                vec![
                    "s.properties[a].x-kubernetes-validations[0].optionalOldSelf: Invalid value: true: may not be set",
                ],
            ),
        ] {
            let got: Vec<String> = check(&raw, "s", false)
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(got.len(), want.len(), "{name}: {got:?}");
            for (g, w) in got.iter().zip(want) {
                assert!(g.starts_with(w), "{name}: {g}");
            }
        }
    }
}
