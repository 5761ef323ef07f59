//! One schema node's rules as programs.

use std::sync::Arc;

use knarr_cel::{CompileError, Env, Program, Schema, Type};
use knarr_structural::Rule;
use serde_json::Value;

/// What variables of rules are called.
const SELF: &str = "self";
const OLD_SELF: &str = "oldSelf";

/// A rule, compiled as far as it can be.
pub struct Compiled {
    pub rule: Rule,
    /// None for an empty rule, and when there is an error.
    pub program: Option<Program>,
    /// What is wrong with the rule, in upstream's words.
    pub error: Option<String>,
    pub message: Option<Program>,
    pub message_error: Option<String>,
    pub uses_old: bool,
    /// `fieldPath` as paths are told: `spec.a[key]`.
    pub field: String,
}

impl Compiled {
    /// Whether the rule is asked without an old value, too.
    pub fn takes_no_old(&self) -> bool {
        self.rule.optional_old_self == Some(true)
    }
}

/// Compiles the rules of a node. `raw` is its schema, `schema` what expressions see of it.
pub fn compile(raw: &Value, rules: &[Rule], schema: &Arc<Schema>) -> Vec<Compiled> {
    let with = Env::builder()
        .schema_variable(SELF, schema.clone())
        .schema_variable(OLD_SELF, schema.clone())
        .build();
    let optional = Env::builder()
        .schema_variable(SELF, schema.clone())
        .variable(OLD_SELF, Type::Optional(Arc::new(schema.ty())))
        .build();
    rules
        .iter()
        .map(|rule| {
            let env = if rule.optional_old_self == Some(true) {
                &optional
            } else {
                &with
            };
            one(raw, rule, env)
        })
        .collect()
}

fn one(raw: &Value, rule: &Rule, env: &Env) -> Compiled {
    let mut out = Compiled {
        rule: rule.clone(),
        program: None,
        error: None,
        message: None,
        message_error: None,
        uses_old: false,
        field: String::new(),
    };
    if rule.rule.trim().is_empty() {
        return out;
    }
    match env.compile(&rule.rule, &[Type::Bool]) {
        Ok(program) => {
            out.uses_old = program.uses_variable(OLD_SELF);
            out.program = Some(program);
        }
        Err(e) => {
            out.error = Some(match e {
                CompileError::Result { .. } => "cel expression must evaluate to a bool".into(),
                other => other.to_string(),
            });
            return out;
        }
    }
    if !rule.message_expression.is_empty() {
        match env.compile(&rule.message_expression, &[Type::String]) {
            Ok(program) => out.message = Some(program),
            Err(e) => {
                out.message_error = Some(match e {
                    CompileError::Result { .. } => {
                        "messageExpression must evaluate to a string".into()
                    }
                    CompileError::Program(why) => {
                        format!("messageExpression instantiation failed: {why}")
                    }
                    other => format!("messageExpression {other}"),
                });
                return out;
            }
        }
    }
    if !rule.field_path.is_empty() {
        out.field = field(raw, &rule.field_path).unwrap_or_default();
    }
    out
}

/// A `fieldPath` as errors print it; None when it leads nowhere.
fn field(raw: &Value, path: &str) -> Option<String> {
    let (names, _) = knarr_structural::definition::field_path(path, raw, true).ok()?;
    let (mut at, mut out) = (raw, String::new());
    for name in names {
        match at["properties"].get(&name) {
            Some(next) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(&name);
                at = next;
            }
            None => {
                out.push_str(&format!("[{name}]"));
                at = &at["additionalProperties"];
            }
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_compile_or_say_why() {
        let raw = json!({"type": "object", "properties": {"a": {"type": "integer"}, "m": {"type": "object", "additionalProperties": {"type": "string"}}}});
        let schema = Schema::from_openapi(&raw, false, "selfType").unwrap();
        let rule = |rule: &str| Rule {
            rule: rule.into(),
            ..Rule::default()
        };
        for (name, rule, error) in [
            ("good", rule("self.a > 1"), None),
            (
                "not a bool",
                rule("self.a"),
                Some("cel expression must evaluate to a bool"),
            ),
            (
                "unknown field",
                rule("self.b > 1"),
                Some("compilation failed: ERROR: <input>:1:5: undefined field 'b'"),
            ),
            (
                "syntax",
                rule("self.a >"),
                Some("compilation failed: ERROR: <input>:1:9: Syntax error"),
            ),
        ] {
            let got = compile(&raw, &[rule], &schema).remove(0);
            match (got.error, error) {
                (None, None) => assert!(got.program.is_some(), "{name}"),
                (Some(e), Some(want)) => assert!(e.starts_with(want), "{name}: {e}"),
                (e, _) => panic!("{name}: {e:?}"),
            }
        }
        let with = Rule {
            optional_old_self: Some(true),
            message_expression: "self.a".into(),
            ..rule("oldSelf.hasValue() || self.a > 0")
        };
        let got = compile(&raw, &[with], &schema).remove(0);
        assert!(got.uses_old && got.error.is_none(), "{:?}", got.error);
        assert_eq!(
            got.message_error.as_deref(),
            Some("messageExpression must evaluate to a string")
        );
        assert_eq!(field(&raw, ".m['k']").as_deref(), Some("m[k]"));
    }
}
