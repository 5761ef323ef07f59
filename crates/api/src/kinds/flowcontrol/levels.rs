//! PriorityLevelConfigurations: how many requests are served at a time, and what waits.

use serde_json::{Value, json};

use super::{Errors, Status, condition_errors, forbidden, invalid, present, required, unsupported};
use crate::{
    fairness,
    kinds::json::{default, text},
    registry::{Lookup, Strategy},
};

const QUEUES_MAX: i64 = 10_000_000;
/// Bits of a hash that dealing a hand may take (apiserver `shufflesharding.MaxHashBits`).
const HASH_BITS_MAX: i64 = 60;

pub(super) struct PriorityLevel;
impl Strategy for PriorityLevel {
    fn default(&self, o: &mut Value) {
        let Some(spec) = o.get_mut("spec") else {
            return;
        };
        if let Some(exempt) = spec.get_mut("exempt").filter(|e| e.is_object()) {
            default(exempt, "nominalConcurrencyShares", 0);
            default(exempt, "lendablePercent", 0);
        }
        if let Some(limited) = spec.get_mut("limited").filter(|l| l.is_object()) {
            default(limited, "nominalConcurrencyShares", 30);
            default(limited, "lendablePercent", 0);
            if let Some(q) = limited
                .pointer_mut("/limitResponse/queuing")
                .filter(|q| q.is_object())
            {
                for (key, n) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
                    if q[key] == 0 {
                        q[key] = Value::Null;
                    }
                    default(q, key, n);
                }
            }
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Errors> {
        o["status"] = json!({});
        Ok(())
    }
    fn validate(&self, o: &Value) -> Errors {
        let (name, spec) = (text(o, "/metadata/name"), &o["spec"]);
        let mut errors = level_errors(name, spec);
        if let Some(fixed) = fairness::mandatory("PriorityLevelConfiguration", name) {
            // what `exempt` lends may be changed
            let mut given = spec.clone();
            let except = if name == "exempt" {
                given["exempt"] = fixed["exempt"].clone();
                " except the 'spec.exempt' field"
            } else {
                ""
            };
            if given != fixed {
                let why = format!("spec of '{name}'{except} must equal the fixed value");
                errors.push(invalid("spec".into(), spec.clone(), why));
            }
        }
        errors.extend(condition_errors(o));
        errors
    }
    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        (subresource == "status").then_some(&Status)
    }
}

fn level_errors(name: &str, spec: &Value) -> Errors {
    let mut errors = Vec::new();
    let kind = text(spec, "/type");
    if (name == "exempt") != (kind == "Exempt") {
        let why = "must be 'Exempt' if and only if `name` is 'exempt'";
        errors.push(invalid("spec.type".into(), kind, why));
    }
    match kind {
        "Exempt" => {
            if present(spec, "limited") {
                errors.push(forbidden(
                    "spec.limited".into(),
                    "must be nil if the type is not Limited",
                ));
            }
            if present(spec, "exempt") {
                share_errors("spec.exempt", &spec["exempt"], &mut errors);
            }
        }
        "Limited" => {
            if present(spec, "exempt") {
                errors.push(forbidden(
                    "spec.exempt".into(),
                    "must be nil if the type is Limited",
                ));
            }
            if !present(spec, "limited") {
                errors.push(required(
                    "spec.limited".into(),
                    "must not be empty when type is Limited",
                ));
            } else {
                limited_errors(&spec["limited"], &mut errors);
            }
        }
        _ => errors.push(unsupported(
            "spec.type".into(),
            &spec["type"],
            &["Exempt", "Limited"],
        )),
    }
    errors
}

fn share_errors(path: &str, o: &Value, errors: &mut Errors) {
    let shares = o["nominalConcurrencyShares"].as_i64().unwrap_or(0);
    if shares < 0 {
        errors.push(invalid(
            format!("{path}.nominalConcurrencyShares"),
            shares,
            "must be a non-negative integer",
        ));
    }
    if path == "spec.limited" {
        response_errors(&o["limitResponse"], errors);
    }
    let lendable = o["lendablePercent"].as_i64().unwrap_or(0);
    if !(0..=100).contains(&lendable) {
        errors.push(invalid(
            format!("{path}.lendablePercent"),
            lendable,
            "must be between 0 and 100, inclusive",
        ));
    }
}

fn limited_errors(limited: &Value, errors: &mut Errors) {
    share_errors("spec.limited", limited, errors);
    if let Some(n) = limited["borrowingLimitPercent"].as_i64().filter(|n| *n < 0) {
        let field = "spec.limited.borrowingLimitPercent".to_string();
        errors.push(invalid(
            field,
            n,
            "if specified, must be a non-negative integer",
        ));
    }
}

fn response_errors(response: &Value, errors: &mut Errors) {
    let path = "spec.limited.limitResponse";
    let queuing = &response["queuing"];
    match text(response, "/type") {
        "Reject" if !queuing.is_null() => errors.push(forbidden(
            format!("{path}.queuing"),
            "must be nil if limited.limitResponse.type is not Limited",
        )),
        "Reject" => {}
        "Queue" if queuing.is_null() => errors.push(required(
            format!("{path}.queuing"),
            "must not be empty if limited.limitResponse.type is Limited",
        )),
        "Queue" => queuing_errors(&format!("{path}.queuing"), queuing, errors),
        _ => errors.push(unsupported(
            format!("{path}.type"),
            &response["type"],
            &["Queue", "Reject"],
        )),
    }
}

fn queuing_errors(path: &str, queuing: &Value, errors: &mut Errors) {
    let number = |key: &str| queuing[key].as_i64().unwrap_or(0);
    let (limit, queues, hand) = (
        number("queueLengthLimit"),
        number("queues"),
        number("handSize"),
    );
    if limit <= 0 {
        errors.push(invalid(
            format!("{path}.queueLengthLimit"),
            limit,
            "must be positive",
        ));
    }
    if queues <= 0 {
        errors.push(invalid(
            format!("{path}.queues"),
            queues,
            "must be positive",
        ));
    } else if queues > QUEUES_MAX {
        errors.push(invalid(
            format!("{path}.queues"),
            queues,
            format!("must not be greater than {QUEUES_MAX}"),
        ));
    }
    let field = format!("{path}.handSize");
    let bits = ((queues.max(1) as f64).log2() * hand as f64).ceil() as i64;
    if hand <= 0 {
        errors.push(invalid(field, hand, "must be positive"));
    } else if hand > queues {
        errors.push(invalid(
            field,
            hand,
            format!("should not be greater than queues ({queues})"),
        ));
    } else if bits > HASH_BITS_MAX {
        errors.push(invalid(field, hand, format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS_MAX}"
        )));
    }
}
