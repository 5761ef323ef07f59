//! No expression, however made, overflows a stack, exhausts memory or runs for long.

use knarr_cel::{Activation, Budget, CompileError, Env, ErrorKind, Type, limits};
use serde_json::json;

fn compiles(text: &str) -> Result<(), String> {
    let env = Env::builder().variable("x", Type::Dyn).build();
    env.compile(text, &[])
        .map(|_| ())
        .map_err(|e| e.to_string())
}

#[test]
fn texts_nested_too_deep_are_refused() {
    let n = 10_000;
    let nested = |open: &str, middle: &str, close: &str| {
        format!("{}{middle}{}", open.repeat(n), close.repeat(n))
    };
    let cases = [
        ("parentheses", nested("(", "1", ")")),
        ("lists", nested("[", "1", "]")),
        ("maps", nested("{1:", "1", "}")),
        ("calls", nested("f(", "1", ")")),
        ("members", format!("x{}", ".y".repeat(n))),
        ("indexes", format!("x{}", "[0]".repeat(n))),
        ("sums", format!("1{}", "+1".repeat(n))),
        ("products", format!("1{}", "*1".repeat(n))),
        ("comparisons", format!("1{}", "<1".repeat(n))),
        ("ternaries", format!("{}1", "true?1:".repeat(n))),
        ("messages", nested("A{a:", "1", "}")),
        ("unclosed", "(".repeat(n)),
        ("indexes within", nested("x[", "0", "]")),
    ];
    for (name, text) in cases {
        let why = compiles(&text).expect_err(name);
        assert!(
            why.contains("recursion limit exceeded: 250"),
            "{name}: {}",
            &why[..why.len().min(200)]
        );
    }
    let macros = format!("{}1{}", "[1].map(x,".repeat(300), ")".repeat(300));
    assert!(
        compiles(&macros)
            .expect_err("macros")
            .contains("recursion limit exceeded: 250")
    );
    for (name, text) in [
        ("not", format!("{}true", "!".repeat(n))),
        ("minus", format!("{}1", "-".repeat(n))),
    ] {
        compiles(&text).expect(name);
    }
    compiles(&["true"; 10_000].join("||")).expect("long disjunctions are balanced");
    let long = format!("'{}'", "a".repeat(100_001));
    assert!(
        compiles(&long)
            .expect_err("long")
            .contains("expression code point size exceeds limit")
    );
}

#[test]
fn the_deepest_allowed_texts_can_be_evaluated() {
    let env = Env::builder().variable("x", Type::Dyn).build();
    let value = json!({"a": [1]});
    let n = 60;
    let cases = [
        format!("{}1{}", "(".repeat(240), ")".repeat(240)),
        format!("1{}", "+1".repeat(240)),
        format!("{}1{}", "[1].map(x, ".repeat(n), ")".repeat(n)),
        format!("{}1{}", "[".repeat(240), "]".repeat(240)),
        format!("{}1", "true ? 1 : ".repeat(120)),
        format!("{}1{}", "1 + (".repeat(110), ")".repeat(110)),
        format!("[1]{}", ".map(y, y)".repeat(200)),
        format!("{}true{}", "[1].all(y, ".repeat(n), ")".repeat(n)),
    ];
    for text in cases {
        // as small as the threads that requests are served on
        let env = env.clone();
        let value = value.clone();
        let run = std::thread::Builder::new()
            .stack_size(2 * 1024 * 1024)
            .spawn(move || {
                let program = env
                    .compile(&text, &[])
                    .unwrap_or_else(|e| panic!("{text}: {e}"));
                let mut vars = Activation::new();
                vars.bind_json("x", &value);
                program.evaluate(&vars, &mut Budget::default()).is_ok()
            });
        assert!(run.expect("a thread").join().expect("no overflow"));
    }
}

/// Evaluates and gives the error's kind.
fn fails(text: &str) -> ErrorKind {
    let items: Vec<u32> = (0..2_000).collect();
    let value = json!({"list": items, "text": "a".repeat(100_000)});
    let program = match Env::builder()
        .variable("x", Type::Dyn)
        .build()
        .compile(text, &[])
    {
        Ok(p) => p,
        Err(e) => panic!("{text}: {e}"),
    };
    let mut vars = Activation::new();
    vars.bind_json("x", &value);
    let mut budget = Budget::default();
    let error = program.evaluate(&vars, &mut budget).expect_err(text);
    assert!(budget.last_cost() <= limits::PER_CALL + 1_000_100, "{text}");
    error.kind
}

#[test]
fn work_is_bounded() {
    let doubled = |n| ".map(y, y + y)".repeat(n);
    let paired = |n| ".map(y, [y, y])".repeat(n);
    let cases = [
        "x.list.all(a, x.list.all(b, x.list.all(c, a + b + c >= 0)))".to_string(),
        "x.list.map(a, x.list.map(b, a * b)).size() > 0".to_string(),
        format!("[[1]]{}.all(y, y.all(z, z == 1))", doubled(60)),
        format!("[[1]]{0} == [[1]]{0}", doubled(60)),
        format!("[[1]]{}[0].reverse().size() == 1", doubled(60)),
        format!("[[1]]{}[0].sum() == 1", doubled(40)),
        format!("[1]{0} == [1]{0}", paired(60)),
        format!("'%s'.format([1]{}).size() == 1", paired(60)),
        "x.text.replace('', x.text) == ''".to_string(),
        "x.text.replace('a', x.text).replace('a', x.text) == ''".to_string(),
        "lists.range(1000000000).size() > 0".to_string(),
        "x.list.all(a, x.text.matches('(a|aa)+$'))".to_string(),
        "x.list.all(a, !x.text.matches('(a{1000}){3}y'))".to_string(),
        "x.list.all(a, ''.matches('x{1000}' + string(a)) == false)".to_string(),
        "x.list.all(a, x.list.sum() >= 0 && x.text + 'a' != '')".to_string(),
    ];
    for text in cases {
        assert_eq!(fails(&text), ErrorKind::CallLimit, "{text}");
    }
}

#[test]
fn large_json_is_not_made() {
    let value = json!({"text": "a".repeat(1_000_000)});
    let program = Env::builder()
        .variable("x", Type::Dyn)
        .build()
        .compile("lists.range(100).map(i, x)", &[])
        .unwrap();
    let mut vars = Activation::new();
    vars.bind_json("x", &value);
    let v = program.evaluate(&vars, &mut Budget::default()).unwrap();
    assert_eq!(v.to_json().unwrap_err().kind, ErrorKind::CallLimit);
}

#[test]
fn a_budget_is_shared_and_ends() {
    let env = Env::builder().variable("x", Type::list(Type::Int)).build();
    let value = json!((0..100).collect::<Vec<u32>>());
    let program = env.compile("x.all(i, i >= 0)", &[Type::Bool]).unwrap();
    let mut vars = Activation::new();
    vars.bind_json("x", &value);
    let mut budget = Budget::new(1_500);
    program.evaluate(&vars, &mut budget).unwrap();
    let cost = budget.last_cost();
    assert_eq!(budget.remaining(), 1_500 - cost);
    while budget.remaining() >= cost {
        program.evaluate(&vars, &mut budget).unwrap();
    }
    let error = program.evaluate(&vars, &mut budget).unwrap_err();
    assert_eq!((error.kind, budget.remaining()), (ErrorKind::Budget, 0));
}

#[test]
fn hostile_regular_expressions_are_refused_or_cheap() {
    for pattern in [
        "(((a{1000}){1000}){1000})",
        "(a{1000}){1000}{1000}",
        "\\p{L}{1000}{1000}",
    ] {
        let why = match Env::builder().build().compile(
            &format!("'a'.matches('{}')", pattern.replace('\\', "\\\\")),
            &[],
        ) {
            Err(CompileError::Issues(issues)) => issues[0].message.clone(),
            other => panic!("{pattern}: {:?}", other.map(|_| ())),
        };
        assert_eq!(why, "invalid matches argument");
    }
}
