//! How fast expressions compile and evaluate: `cargo run --release -p knarr-cel --example speed`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use knarr_cel::{Activation, Budget, Env, Schema, Type};
use serde_json::json;

/// The time of one call, averaged over a quarter of a second.
fn each(mut f: impl FnMut()) -> Duration {
    let start = Instant::now();
    let mut calls = 0;
    while start.elapsed() < Duration::from_millis(250) {
        for _ in 0..10 {
            f();
        }
        calls += 10;
    }
    start.elapsed() / calls
}

fn main() {
    let schema = json!({"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 63},
        "replicas": {"type": "integer"},
        "ports": {"type": "array", "maxItems": 100, "items": {"type": "object", "properties": {
            "name": {"type": "string"}, "port": {"type": "integer"}}}},
    }});
    let ports: Vec<_> = (0..50)
        .map(|i| json!({"name": format!("p{i}"), "port": 8000 + i}))
        .collect();
    let value = json!({"name": "web-0", "replicas": 3, "ports": ports});
    let Some(schema) = Schema::from_openapi(&schema, false, "self") else {
        return;
    };
    let env = Env::builder()
        .schema_variable("self", schema.clone())
        .build();
    let expressions = [
        "self.replicas >= 1 && self.replicas <= 10",
        "self.name.matches('^[a-z][-a-z0-9]*$')",
        "self.ports.all(p, p.port > 1024)",
        "self.ports.all(p, self.ports.exists_one(q, q.port == p.port))",
        "self.ports.map(p, p.name + ':' + string(p.port)).join(',').size() < 1000",
        "'%s has %d'.format([self.name, self.replicas]) == 'web-0 has 3'",
    ];
    println!(
        "{:>10} {:>10} {:>8} {:>8}  expression",
        "compile", "evaluate", "cost", "ns/unit"
    );
    for text in expressions {
        let compile = each(|| {
            black_box(env.compile(black_box(text), &[Type::Dyn]).is_ok());
        });
        let Ok(program) = env.compile(text, &[]) else {
            return;
        };
        let mut vars = Activation::new();
        vars.bind_typed("self", &value, &schema);
        let mut budget = Budget::default();
        let evaluate = each(|| {
            budget = Budget::default();
            black_box(program.evaluate(&vars, &mut budget).is_ok());
        });
        let per_unit = evaluate.as_nanos() as f64 / budget.last_cost().max(1) as f64;
        println!(
            "{compile:>10.1?} {evaluate:>10.1?} {:>8} {per_unit:>8.1}  {text}",
            budget.last_cost()
        );
    }
}
