//! What admission needs beyond single expressions: composed variables, the authorizer, built objects.

use std::sync::Mutex;

use knarr_cel::{
    Activation, Authorizer, AuthzAttributes, AuthzDecision, Budget, Env, Program, Type, Value,
    Variables,
};
use serde_json::{Value as Json, json};

/// Allows `get` of Pods; remembers what it was asked.
#[derive(Default)]
struct Fake(Mutex<Vec<AuthzAttributes>>);

impl Authorizer for Fake {
    fn authorize(&self, q: &AuthzAttributes) -> AuthzDecision {
        self.0.lock().unwrap().push(q.clone());
        let allowed =
            q.verb == "get" && (q.resource == "pods" || q.path.as_deref() == Some("/healthz"));
        let error = (q.verb == "broken").then(|| "no answer".to_string());
        AuthzDecision {
            allowed,
            reason: "because".into(),
            error,
        }
    }
}

fn env() -> Env {
    Env::builder()
        .variable("authorizer", Type::AUTHORIZER)
        .variable("authorizer.requestResource", Type::RESOURCE_CHECK)
        .variable("object", Type::Dyn)
        .build()
}

/// The result as JSON or the error's text, and the cost.
fn evaluate(env: &Env, text: &str, fake: &Fake, object: &Json) -> (Result<Json, String>, u64) {
    let program = match env.compile(text, &[]) {
        Ok(p) => p,
        Err(e) => return (Err(e.to_string()), 0),
    };
    let mut vars = Activation::new();
    vars.bind_json("object", object);
    vars.bind_authorizer(fake);
    let own = AuthzAttributes {
        resource: "pods".into(),
        namespace: "own".into(),
        ..Default::default()
    };
    vars.bind_request_resource(fake, own);
    let mut budget = Budget::default();
    let result = program
        .evaluate(&vars, &mut budget)
        .and_then(|v| v.to_json())
        .map_err(|e| e.to_string());
    (result, budget.last_cost())
}

#[test]
fn the_authorizer_is_asked_and_counted() {
    let group = "authorizer.group('').resource('pods')";
    // the costs are k8s.io/apiserver's
    let cases = [
        (
            format!("{group}.check('get').allowed()"),
            Ok(json!(true)),
            350_004,
        ),
        (
            format!("{group}.check('delete').allowed()"),
            Ok(json!(false)),
            350_004,
        ),
        (
            format!("{group}.check('get').reason()"),
            Ok(json!("because")),
            350_004,
        ),
        (
            format!("{group}.check('broken').errored()"),
            Ok(json!(true)),
            350_004,
        ),
        (
            format!("{group}.check('broken').error()"),
            Ok(json!("no answer")),
            350_004,
        ),
        (
            format!("{group}.namespace('n').name('x').subresource('log').check('get').allowed()"),
            Ok(json!(true)),
            350_007,
        ),
        (
            "authorizer.path('/healthz').check('get').allowed()".into(),
            Ok(json!(true)),
            350_003,
        ),
        (
            "authorizer.requestResource.check('get').allowed()".into(),
            Ok(json!(true)),
            350_002,
        ),
        (
            "authorizer.serviceAccount('ns', 'sa').path('/x').check('get').allowed()".into(),
            Ok(json!(false)),
            350_004,
        ),
        (
            "authorizer.path('')".into(),
            Err("path must not be empty"),
            2,
        ),
        (
            "authorizer.group('').resource('')".into(),
            Err("resource must not be empty"),
            3,
        ),
        (
            "authorizer.serviceAccount('ns', 'S')".into(),
            Err("Invalid service account name"),
            2,
        ),
        (
            "authorizer.serviceAccount('N', 's')".into(),
            Err("Invalid service account namespace"),
            2,
        ),
    ];
    for (text, wanted, cost) in cases {
        let (got, spent) = evaluate(&env(), &text, &Fake::default(), &json!({}));
        assert_eq!(
            got.as_ref().map_err(String::as_str),
            wanted.as_ref().map_err(|e| *e),
            "{text}"
        );
        assert_eq!(spent, cost, "{text}");
    }
}

#[test]
fn the_question_is_put_together() {
    let fake = Fake::default();
    let text = "authorizer.serviceAccount('ns', 'sa').group('apps').resource('deployments').subresource('scale')\
                .namespace('n').name('d').fieldSelector('a=b').labelSelector('c=d').check('update').allowed()";
    evaluate(&env(), text, &fake, &json!({})).0.unwrap();
    let wanted = AuthzAttributes {
        service_account: Some(("ns".into(), "sa".into())),
        path: None,
        verb: "update".into(),
        group: "apps".into(),
        resource: "deployments".into(),
        subresource: "scale".into(),
        namespace: "n".into(),
        name: "d".into(),
        field_selector: Some("a=b".into()),
        label_selector: Some("c=d".into()),
    };
    assert_eq!(fake.0.into_inner().unwrap(), [wanted]);
}

/// Compiles variables in order, each seeing those before it.
fn composed(env: Env, variables: &[(&str, &str)]) -> (Env, Vec<(String, Program)>) {
    let mut types: Vec<(String, Type)> = Vec::new();
    let mut programs = Vec::new();
    for (name, text) in variables {
        let env = env.extend().composed(types.clone()).build();
        let program = env.compile(text, &[]).unwrap();
        types.push((name.to_string(), program.result_type().clone()));
        programs.push((name.to_string(), program));
    }
    (env.extend().composed(types).build(), programs)
}

#[test]
fn variables_are_evaluated_once_and_only_if_used() {
    let variables = [
        ("names", "object.items.map(i, i.name)"),
        ("count", "variables.names.size()"),
        ("broken", "object.nothing"),
    ];
    let (env, programs) = composed(env(), &variables);
    let object = json!({"items": [{"name": "a"}, {"name": "b"}]});
    let run = |text: &str| {
        let program = env
            .compile(text, &[])
            .unwrap_or_else(|e| panic!("{text}: {e}"));
        let mut vars = Activation::new();
        vars.bind_json("object", &object);
        vars.bind_variables(Variables::new(
            programs.iter().map(|(n, p)| (n.as_str(), p)),
        ));
        let mut budget = Budget::default();
        let first = program
            .evaluate(&vars, &mut budget)
            .and_then(|v| v.to_json())
            .map_err(|e| e.to_string());
        let cost = budget.last_cost();
        let _ = program.evaluate(&vars, &mut budget);
        (first, cost, budget.last_cost())
    };
    let (got, first, again) = run("variables.count == 2 && variables.names[0] == 'a'");
    assert_eq!(got, Ok(json!(true)));
    assert!(
        first > again,
        "{first} and then {again}: the second time nothing is left to evaluate"
    );
    assert_eq!(
        run("variables.count > 5 && variables.broken == 1").0,
        Ok(json!(false))
    );
    assert_eq!(run("has(variables.count)").0, Ok(json!(true)));
    let error = run("variables.broken == 1").0.unwrap_err();
    assert_eq!(
        error,
        "composited variable \"broken\" fails to evaluate: no such key: nothing"
    );
    let undefined = env
        .compile("variables.later", &[])
        .err()
        .map(|e| e.to_string())
        .unwrap_or_default();
    assert!(undefined.contains("undefined field 'later'"), "{undefined}");
}

#[test]
fn references_name_variables_and_fields() {
    let (env, _) = composed(env(), &[("x", "object.a"), ("y", "object.b")]);
    let cases: [(&str, &[&[&str]]); 5] = [
        ("variables.x == 1", &[&["variables", "x"]]),
        (
            "object.spec.a == object.?spec.b",
            &[&["object", "spec", "a"], &["object", "spec", "b"]],
        ),
        ("[1].all(object, object == 1)", &[]),
        (
            "authorizer.requestResource.check('get').allowed()",
            &[&["authorizer.requestResource"]],
        ),
        (
            "has(object.x) && object.l[0].y == 1",
            &[&["object", "l"], &["object", "x"]],
        ),
    ];
    for (text, wanted) in cases {
        let program = env
            .compile(text, &[])
            .unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(program.references(), wanted, "{text}");
        for path in wanted {
            assert!(program.uses_variable(path[0]));
        }
        assert!(!program.uses_variable("oldObject"));
    }
}

#[test]
fn results_must_be_of_an_expected_type() {
    let env = env();
    let cases: [(&str, &[Type], Option<&str>); 5] = [
        ("1", &[Type::Bool], Some("must evaluate to bool")),
        ("true", &[Type::Bool], None),
        (
            "1",
            &[Type::String, Type::Null],
            Some("must evaluate to one of [string null_type]"),
        ),
        ("object.x", &[Type::Bool], Some("must evaluate to bool")),
        ("1", &[], None),
    ];
    for (text, expected, wanted) in cases {
        let got = env.compile(text, expected).err().map(|e| e.to_string());
        assert_eq!(got.as_deref(), wanted, "{text}");
    }
}

#[test]
fn built_objects_are_named_by_their_place() {
    let env = env().extend().mutation().build();
    let cases = [
        ("Object{spec: Object.spec{a: [Object.spec.a{b: 1}]}}", None),
        (
            "Object{spec: Object.wrong{a: 1}}",
            Some(
                "unexpected type name \"Object.wrong\", expected \"Object.spec\", which matches field name path from root Object type",
            ),
        ),
        ("1", None),
    ];
    for (text, wanted) in cases {
        let program = env.compile(text, &[]).unwrap();
        let v: Value<'_> = program
            .evaluate(&Activation::new(), &mut Budget::default())
            .unwrap();
        let got = v.check_type_names().err().map(|e| e.join("\n"));
        assert_eq!(got.as_deref(), wanted, "{text}");
    }
}
