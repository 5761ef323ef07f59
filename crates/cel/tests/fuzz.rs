//! Random expressions in bounded amounts: none panics or runs without end, and what is dear is stopped by its budget.
//! `cargo run -p xtask -- fuzz --target cel --minutes N` runs more of them.

#[allow(dead_code)]
#[path = "../../api/tests/fuzz/mutate.rs"]
mod mutate;

use knarr_cel::{Activation, Budget, Env, Schema, Type};
use mutate::{Mutator, rounds};

const SEEDS: [&str; 16] = [
    "self.replicas > 1 && self.name.startsWith('a')",
    "self.list.all(x, x.n < 10) ? 'yes' : \"no\"",
    "self.list.map(x, x.n * 2).filter(y, y % 2 == 0).size() == 3u",
    "has(self.map) && self.map.exists(k, self.map[k].matches('^[a-z]+(b|c)*$'))",
    "oldSelf.name == self.name || self.list.exists_one(x, x.n == -5)",
    "[1, 2, 3].map(x, [x, x + 1]).map(p, {'a': p[0], 'b': p[1]})",
    "duration('1h30m').getHours() + timestamp('2020-01-01T00:00:00Z').getFullYear('UTC')",
    "quantity('1.5Gi').isGreaterThan(quantity('1Gi')) && isQuantity(self.name)",
    "'a,b,c'.split(',', 2).join('-').replace('a', 'b').upperAscii().substring(1, 3)",
    "url('https://a.b:80/c?d=e').getQuery()['d'].size() > 0",
    "ip('10.0.0.1').isUnspecified() || cidr('10.0.0.0/8').containsIP('10.1.1.1')",
    "b'\\x00\\xff'.size() == 2 && r'\\n' != '\\n' && '''a''' == \"a\"",
    "self.list.sort() == self.list || [3, 1].sum() > 9223372036854775807",
    "optional.of(self.name).orValue('x') == self.?name.orValue('')",
    "semver('1.2.3-rc.1+b').compareTo(semver('1.2.3')) < 0",
    "self.list.all(a, self.list.all(b, self.list.all(c, a.n + b.n + c.n < 1e9)))",
];

#[test]
fn fuzz_cel() {
    let schema = serde_json::json!({"type": "object", "properties": {
        "replicas": {"type": "integer"}, "name": {"type": "string", "maxLength": 10},
        "list": {"type": "array", "maxItems": 10, "items": {"type": "object", "properties": {"n": {"type": "integer"}}}},
        "map": {"type": "object", "additionalProperties": {"type": "string"}}}});
    let schema = Schema::from_openapi(&schema, false, "selfType").unwrap();
    let env = Env::builder()
        .schema_variable("self", schema.clone())
        .schema_variable("oldSelf", schema.clone())
        .build();
    let object = serde_json::json!({"replicas": 3, "name": "abc", "list": [{"n": 1}, {"n": -5}, {}], "map": {"k": "ab", "": "c"}});
    let mut m = Mutator::new("cel");
    for _ in rounds(1500) {
        let seed = SEEDS[m.below(SEEDS.len())];
        let text = m.bytes(seed.as_bytes());
        let text = String::from_utf8_lossy(&text);
        let kinds: &[Type] = if m.below(2) == 0 { &[Type::Bool] } else { &[] };
        let run = || {
            let Ok(program) = env.compile(&text, kinds) else {
                return;
            };
            let mut vars = Activation::new();
            vars.bind_typed("self", &object, &schema);
            vars.bind_typed("oldSelf", &object, &schema);
            // whether it has a value or an error is the expression's matter
            let _ = program.evaluate(&vars, &mut Budget::default());
        };
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        assert!(done.is_ok(), "a panic: {} with {text:?}", m.told());
    }
}
