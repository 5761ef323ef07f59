//! Tables of expressions with what Kubernetes v1.36 makes of them: value, type, cost, estimate, or error text. Each line
//! of `data/expressions.jsonl` is a case, or a variable that cases name.

#[allow(dead_code)]
#[path = "../examples/evaluate.rs"]
mod evaluate;

use std::collections::HashMap;

use serde_json::{Value as Json, json};

fn check(case: &Json, vars: &HashMap<String, Json>) -> Option<String> {
    let used = case["vars"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|n| vars.get(n.as_str()?));
    let used: serde_json::Map<String, Json> = used
        .map(|v| (v["as"].as_str().unwrap_or_default().to_string(), v.clone()))
        .collect();
    let got =
        evaluate::run(&json!({"expr": case["expr"], "vars": used, "mutation": case["mutation"]}));
    let wanted = case["want"].as_object()?;
    let differs: Vec<String> = wanted
        .iter()
        .filter(|(k, v)| got.get(k.as_str()) != Some(*v))
        .map(|(k, v)| {
            format!(
                "  {k}: want {v}\n      got {}",
                got.get(k.as_str()).unwrap_or(&Json::Null)
            )
        })
        .collect();
    (!differs.is_empty()).then(|| format!("{}\n{}", case["expr"], differs.join("\n")))
}

fn run(table: &str, at_least: usize) {
    let mut vars = HashMap::new();
    let (mut cases, mut failures) = (0, Vec::new());
    for line in table.lines() {
        let line: Json = serde_json::from_str(line).expect("a line of JSON");
        if let Some(name) = line["define"].as_str() {
            vars.insert(name.to_string(), line);
            continue;
        }
        cases += 1;
        failures.extend(check(&line, &vars));
    }
    assert!(
        failures.is_empty(),
        "{} of {cases} cases:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(cases >= at_least, "only {cases} cases");
}

#[test]
fn expressions() {
    run(include_str!("data/expressions.jsonl"), 400);
}

/// Expressions made by a grammar at random, so that functions meet in ways nobody thought of.
#[test]
fn generated_expressions() {
    run(include_str!("data/generated.jsonl"), 250);
}
