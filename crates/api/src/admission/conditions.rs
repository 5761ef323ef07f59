//! Match conditions: CEL that narrows a webhook or policy to the requests that it is about
//! (`apiserver/pkg/admission/plugin/webhook/matchconditions`).

use knarr_cel::{Budget, Program, Type, limits};
use serde_json::Value;

use super::json::{items, text};
use crate::expressions::{self, Input, Variables, compile};

/// The conditions of one webhook or policy.
pub struct Conditions(Vec<Result<(String, Program), String>>);

impl Conditions {
    /// Compiles `matchConditions`; what doesn't compile (any more) is an error when it is asked.
    pub fn read(o: &Value, params: bool) -> Conditions {
        let list = items(o, "/matchConditions");
        if list.is_empty() {
            return Conditions(vec![]);
        }
        let env = expressions::env(Variables {
            params,
            authorizer: true,
            mutation: false,
        });
        let one = |c: &Value| {
            let expression = text(c, "/expression").trim();
            compile(&env, expression, &[Type::Bool])
                .map(|p| (expression.to_string(), p))
                .map_err(|why| format!("compilation error: {why}"))
        };
        Conditions(list.iter().map(one).collect())
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Do all hold? One that is false decides, whatever went wrong with the others.
    pub fn hold(&self, input: &Input<'_>) -> Result<bool, String> {
        let vars = input.activation();
        let mut budget = Budget::new(limits::MATCH_CONDITIONS_BUDGET);
        let mut errors: Vec<String> = Vec::new();
        for condition in &self.0 {
            let (expression, program) = match condition {
                Ok(c) => c,
                Err(why) => {
                    errors.push(why.clone());
                    continue;
                }
            };
            match program.evaluate(&vars, &mut budget) {
                Ok(v) if expressions::is_false(&v) => return Ok(false),
                Ok(_) => {}
                Err(e) if e.kind == knarr_cel::ErrorKind::Budget => return Err(e.message),
                Err(e) => errors.push(format!("expression '{expression}' resulted in error: {e}")),
            }
        }
        match errors.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}
