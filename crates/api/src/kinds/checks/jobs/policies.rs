//! What a Job says of failures and of success before all is done.

use std::collections::HashSet;

use serde_json::Value;

use crate::kinds::{
    checks::{
        path::{Errors, Path},
        rules,
    },
    json::{list, str_of},
};

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const PATTERNS_MAX: usize = 20;
const INDEXES_BYTES_MAX: usize = 64 * 1024;

/// `["A" "B"]`, as Go writes a list of quoted texts.
fn quoted(all: &[&str]) -> String {
    let all: Vec<String> = all.iter().map(|s| format!("{s:?}")).collect();
    format!("valid values: [{}]", all.join(" "))
}

pub(super) fn failure_policy(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
    let at = at.child("rules");
    let rules = list(&spec["podFailurePolicy"], "rules");
    if rules.len() > RULES_MAX {
        errors.too_many(&at, rules.len(), RULES_MAX);
    }
    let pod = &spec["template"]["spec"];
    let names: HashSet<&str> = list(pod, "containers")
        .iter()
        .chain(list(pod, "initContainers"))
        .map(|c| str_of(c, "name"))
        .collect();
    for (i, rule) in rules.iter().enumerate() {
        let at = at.index(i);
        let place = at.child("action");
        match str_of(rule, "action") {
            "" => errors.required(&place, &quoted(&ACTIONS)),
            "FailIndex" if spec["backoffLimitPerIndex"].is_null() => {
                let detail = "requires the backoffLimitPerIndex to be set";
                errors.invalid(&place, "FailIndex", detail);
            }
            other if !ACTIONS.contains(&other) => errors.not_supported(&place, other, &ACTIONS),
            _ => {}
        }
        let (codes, conditions) = (&rule["onExitCodes"], list(rule, "onPodConditions"));
        if codes.is_object() {
            exit_codes(codes, &names, &at.child("onExitCodes"), errors);
        }
        pod_conditions(conditions, &at.child("onPodConditions"), errors);
        match (codes.is_object(), conditions.is_empty()) {
            (true, false) => errors.invalid_plain(
                &at,
                "specifying both OnExitCodes and OnPodConditions is not supported",
            ),
            (false, true) => errors.invalid_plain(
                &at,
                "specifying one of OnExitCodes and OnPodConditions is required",
            ),
            _ => {}
        }
    }
}

fn exit_codes(codes: &Value, names: &HashSet<&str>, at: &Path<'_>, errors: &mut Errors) {
    let operators = ["In", "NotIn"];
    let operator = str_of(codes, "operator");
    let place = at.child("operator");
    if operator.is_empty() {
        errors.required(&place, &quoted(&operators));
    } else if !operators.contains(&operator) {
        errors.not_supported(&place, operator, &operators);
    }
    if let Some(name) = codes["containerName"]
        .as_str()
        .filter(|n| !names.contains(n))
    {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.invalid(&at.child("containerName"), name, detail);
    }
    let values = list(codes, "values");
    let at = at.child("values");
    if values.is_empty() {
        errors.invalid(
            &at,
            codes["values"].clone(),
            "at least one value is required",
        );
    } else if values.len() > EXIT_CODES_MAX {
        errors.too_many(&at, values.len(), EXIT_CODES_MAX);
    }
    let mut seen = HashSet::new();
    for (i, code) in values.iter().filter_map(Value::as_i64).enumerate() {
        let at = at.index(i);
        if operator == "In" && code == 0 {
            errors.invalid(&at, 0, "must not be 0 for the In operator");
        }
        if !seen.insert(code) {
            errors.duplicate(&at, code);
        }
    }
    if !values.is_sorted_by_key(Value::as_i64) {
        errors.invalid(&at, values.to_vec(), "must be ordered");
    }
}

fn pod_conditions(all: &[Value], at: &Path<'_>, errors: &mut Errors) {
    let known = ["False", "True", "Unknown"];
    if all.len() > PATTERNS_MAX {
        errors.too_many(at, all.len(), PATTERNS_MAX);
    }
    for (i, pattern) in all.iter().enumerate() {
        let at = at.index(i);
        let kind = str_of(pattern, "type");
        errors.broken(&at.child("type"), kind, rules::qualified(kind));
        let place = at.child("status");
        match str_of(pattern, "status") {
            "" => errors.required(&place, &quoted(&known)),
            s if !known.contains(&s) => errors.not_supported(&place, s, &known),
            _ => {}
        }
    }
}

pub(super) fn success_policy(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let at = at.child("rules");
    let rules = list(&spec["successPolicy"], "rules");
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.required(&at, detail);
    }
    if rules.len() > RULES_MAX {
        errors.too_many(&at, rules.len(), RULES_MAX);
    }
    let completions = spec["completions"].as_i64().unwrap_or(0);
    for (i, rule) in rules.iter().enumerate() {
        let at = at.index(i);
        let (count, text) = (
            rule["succeededCount"].as_i64(),
            rule["succeededIndexes"].as_str(),
        );
        if count.is_none() && text.is_none() {
            let detail = "at least one of succeededCount or succeededIndexes must be specified";
            errors.required(&at, detail);
        }
        let mut total = 0;
        if let Some(text) = text {
            let at = at.child("succeededIndexes");
            if text.len() > INDEXES_BYTES_MAX {
                errors.too_long(&at, INDEXES_BYTES_MAX);
            }
            match indexes(text, completions) {
                Ok(n) => total = n,
                Err(e) => {
                    errors.invalid(&at, text, format!("error parsing succeededIndexes: {e}"));
                }
            }
        }
        if let Some(n) = count {
            let at = at.child("succeededCount");
            errors.nonnegative(&at, &rule["succeededCount"]);
            if n > completions {
                let detail = format!(
                    "must be less than or equal to {completions} (the number of specified completions)"
                );
                errors.invalid(&at, n, detail);
            }
            if text.is_some() && n > total {
                let detail = format!(
                    "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
                );
                errors.invalid(&at, n, detail);
            }
        }
    }
}

/// How many indexes `1,3-5` names.
fn indexes(text: &str, completions: i64) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let number = |t: &str| -> Result<i64, String> {
        let n = t
            .parse::<i64>()
            .map_err(|_| format!("cannot convert string to integer for index: {t:?}"))?;
        if n >= completions {
            return Err(format!("too large index: {t:?}"));
        }
        Ok(n)
    };
    let order = |a: i64, b: i64| format!("non-increasing order, previous: {a}, current: {b}");
    let mut last: Option<i64> = None;
    let mut total = 0;
    for part in text.split(',') {
        let ends: Vec<&str> = part.split('-').collect();
        let (x, y) = match ends.as_slice() {
            [x] => (number(x)?, None),
            [x, y] => (number(x)?, Some(number(y)?)),
            _ => {
                return Err(format!(
                    "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
                ));
            }
        };
        if let Some(y) = y.filter(|y| x >= *y) {
            return Err(order(x, y));
        }
        let y = y.unwrap_or(x);
        if let Some(last) = last.filter(|l| *l >= x) {
            return Err(order(last, x));
        }
        total += y - x + 1;
        last = Some(y);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_counted_and_ordered() {
        for (text, want) in [
            ("", Ok(0)),
            ("1,3-5", Ok(4)),
            ("9", Ok(1)),
            ("10", Err("too large index: \"10\"")),
            ("5-3", Err("non-increasing order, previous: 5, current: 3")),
            ("3,3", Err("non-increasing order, previous: 3, current: 3")),
            (
                "a",
                Err("cannot convert string to integer for index: \"a\""),
            ),
        ] {
            assert_eq!(indexes(text, 10), want.map_err(String::from), "{text}");
        }
    }
}
