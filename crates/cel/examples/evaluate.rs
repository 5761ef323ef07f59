//! Evaluates expressions from standard input, one JSON object a line:
//! `{"expr": "...", "vars": {"x": {"value": ..., "schema": {...}, "root": false, "type": "int"}}, "mutation": false}`.
//! Prints one JSON object a line: error or type, value, cost and estimate. For comparing with other implementations.

use std::io::{BufRead, Write};

use knarr_cel::{Activation, Budget, Env, Schema, Type, Value};
use serde_json::{Value as Json, json};

fn main() {
    let stdin = std::io::stdin().lock();
    let mut stdout = std::io::stdout().lock();
    for line in stdin
        .lines()
        .map_while(Result::ok)
        .filter(|l| !l.is_empty())
    {
        let answer = match serde_json::from_str(&line) {
            Ok(case) => run(&case),
            Err(e) => json!({"error": format!("input: {e}")}),
        };
        if writeln!(stdout, "{answer}").is_err() {
            return;
        }
    }
}

/// One case's answer.
pub fn run(case: &Json) -> Json {
    let mut env = Env::builder();
    if case["mutation"] == true {
        env = env.mutation();
    }
    let mut schemas = Vec::new();
    let vars = case["vars"].as_object().cloned().unwrap_or_default();
    for (name, var) in &vars {
        if let Some(s) = var.get("schema") {
            let Some(schema) = Schema::from_openapi(s, var["root"] == true, "selfType") else {
                return json!({"error": "nil decl"});
            };
            env = env.schema_variable(name, schema.clone());
            schemas.push((name, &var["value"], Some(schema)));
            continue;
        }
        let ty = match var["type"].as_str() {
            Some("int") => Type::Int,
            Some("string") => Type::String,
            Some("bool") => Type::Bool,
            Some("list(dyn)") => Type::list(Type::Dyn),
            Some("list(string)") => Type::list(Type::String),
            Some("map(string,dyn)") => Type::map(Type::String, Type::Dyn),
            _ => Type::Dyn,
        };
        env = env.variable(name, ty);
        schemas.push((name, &var["value"], None));
    }
    let program = match env
        .build()
        .compile(case["expr"].as_str().unwrap_or(""), &[])
    {
        Ok(p) => p,
        Err(e) => {
            let text = e.to_string();
            let text = text.strip_prefix("compilation failed: ").unwrap_or(&text);
            return json!({"error": text.replace("program instantiation failed", "program")});
        }
    };
    let mut activation = Activation::new();
    for (name, value, schema) in &schemas {
        match schema {
            Some(s) => activation.bind_typed(name, value, s),
            None => activation.bind_json(name, value),
        }
    }
    let mut budget = Budget::default();
    let result = program.evaluate(&activation, &mut budget);
    let estimate = program.estimated_cost();
    let mut out = json!({
        "type": program.result_type().to_string(),
        "cost": budget.last_cost(),
        "min": estimate.min,
        "max": estimate.max,
    });
    match result {
        Ok(v) => out["value"] = Json::from(show(&v)),
        Err(e) => out["eval_error"] = Json::from(e.message),
    }
    out
}

fn show(v: &Value<'_>) -> String {
    let hex = |b: &[u8]| b.iter().map(|x| format!("{x:02x}")).collect::<String>();
    match v {
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => format!("{u}u"),
        Value::Double(d) if d.is_nan() => "NaN".into(),
        Value::Double(d) if d.is_infinite() => if *d > 0.0 { "Inf" } else { "-Inf" }.into(),
        Value::Double(d) => format!("d{:x}", d.to_bits()),
        Value::Bool(b) => b.to_string(),
        Value::String(s) => Json::from(s.as_str()).to_string(),
        Value::Bytes(b) => format!("b{}", hex(b)),
        Value::Null => "null".into(),
        Value::Duration(d) => format!("dur({})", d.0),
        Value::Timestamp(t) => format!("ts({}.{:09})", t.seconds, t.nanos),
        Value::Optional(Some(v)) => format!("some({})", show(v)),
        Value::Optional(None) => "none".into(),
        Value::List(l) => {
            let items: Vec<String> = l
                .iter()
                .map(|v| v.map_or_else(|e| e.message, |v| show(&v)))
                .collect();
            format!("[{}]", items.join(","))
        }
        Value::Map(m) => {
            let mut items: Vec<String> = m
                .entries()
                .map(|(k, v)| {
                    format!(
                        "{}:{}",
                        show(&k),
                        v.map_or_else(|e| e.message, |v| show(&v))
                    )
                })
                .collect();
            items.sort();
            format!("{{{}}}", items.join(","))
        }
        Value::Type(t) => format!("type({})", t.name()),
        Value::Object(_) => format!("obj{}", v.to_json().unwrap_or_default()),
        Value::Quantity(_) | Value::Url(_) | Value::Ip(_) | Value::Cidr(_) | Value::Semver(_) => {
            let text = v.to_json().unwrap_or_default();
            format!(
                "opaque({}:{})",
                v.type_of().name(),
                text.as_str().unwrap_or("")
            )
        }
        other => format!(
            "opaque({}:{})",
            other.type_of().name(),
            other.to_json().unwrap_or_default()
        ),
    }
}
