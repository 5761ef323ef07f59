//! Environments, programs and what they are evaluated with.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::authz::{Authorizer, Authz, AuthzAttributes};
use crate::budget::Budget;
use crate::decls::{self, Overload};
use crate::error::EvalError;
use crate::estimate::{self, CostEstimate};
use crate::eval;
use crate::issue::{Issue, render, sorted};
use crate::plan::{self, Plan};
use crate::schema::Schema;
use crate::types::{Fields, ObjectType, Type};
use crate::value::Value;
use crate::{check, parser};

/// The names an expression may use.
#[derive(Default, Clone)]
pub(crate) struct Names {
    variables: HashMap<String, Type>,
    schemas: HashMap<String, Arc<Schema>>,
    mutation: bool,
}

impl Names {
    pub fn variable(&self, name: &str) -> Option<Type> {
        self.variables.get(name).cloned()
    }
    /// The type a name denotes, used as a value or to build an object.
    pub fn type_named(&self, name: &str) -> Option<Type> {
        decls::type_named(name).or_else(|| self.built(name).map(Type::Object))
    }
    /// The objects a MutatingAdmissionPolicy may build.
    fn built(&self, name: &str) -> Option<Arc<ObjectType>> {
        let object = name == "Object" || name.starts_with("Object.") || name == "JSONPatch";
        (self.mutation && object).then(|| {
            Arc::new(ObjectType {
                name: name.to_string(),
                fields: Fields::Any,
            })
        })
    }
    pub fn field_of(&self, o: &ObjectType, field: &str) -> Option<Type> {
        match (o.name.as_str(), field) {
            ("JSONPatch", "op" | "path" | "from") => Some(Type::String),
            ("JSONPatch", "value") => Some(Type::Dyn),
            ("JSONPatch", _) => None,
            _ => o.field(field),
        }
    }
    pub fn function(&self, name: &str) -> Option<&'static [Overload]> {
        if name.starts_with("jsonpatch.") && !self.mutation {
            return None;
        }
        decls::overloads(name)
    }
    /// The largest size of what a path from a variable leads to.
    pub fn max_elements(&self, path: &[String]) -> Option<u64> {
        let (root, steps) = path.split_first()?;
        let mut schema: &Schema = self.schemas.get(root)?;
        for step in steps {
            if step == "@keys" && matches!(schema.shape, crate::schema::Shape::Map(_)) {
                // keys are strings of no known bound: upstream's key type has a size of 0
                return Some(0);
            }
            schema = schema.below(step)?;
        }
        Some(schema.max_elements.max(0) as u64)
    }
}

/// What expressions are compiled against. Cheap to extend and to share.
#[derive(Clone)]
pub struct Env {
    names: Arc<Names>,
}

/// Collects an environment.
#[derive(Default)]
pub struct EnvBuilder {
    names: Names,
}

impl EnvBuilder {
    /// Declares a variable. A dotted name (`authorizer.requestResource`) is one variable.
    pub fn variable(mut self, name: &str, ty: Type) -> EnvBuilder {
        self.names.variables.insert(name.to_string(), ty);
        self
    }
    /// Declares a variable by its schema, whose sizes then bound cost estimates.
    pub fn schema_variable(mut self, name: &str, schema: Arc<Schema>) -> EnvBuilder {
        self.names.variables.insert(name.to_string(), schema.ty());
        self.names.schemas.insert(name.to_string(), schema);
        self
    }
    /// Declares `variables.name` for each of these, in order: the composed variables of admission policies.
    pub fn composed(self, variables: impl IntoIterator<Item = (String, Type)>) -> EnvBuilder {
        let fields = variables
            .into_iter()
            .map(|(n, ty)| (n, crate::types::Field { ty, required: true }));
        let ty = Type::Object(ObjectType::new("kubernetes.variables", fields));
        self.variable("variables", ty)
    }
    /// Lets expressions build `Object{}` and `JSONPatch{}`: mutations of MutatingAdmissionPolicies.
    pub fn mutation(mut self) -> EnvBuilder {
        self.names.mutation = true;
        self
    }
    /// The finished environment.
    pub fn build(self) -> Env {
        Env {
            names: Arc::new(self.names),
        }
    }
}

/// Why an expression did not compile. The text is what ValidatingAdmissionPolicy says.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CompileError {
    /// It does not parse or its types do not fit.
    #[error("compilation failed: {}", render(.0))]
    Issues(Vec<Issue>),
    /// Its result is not of an expected type.
    #[error("{}", wrong_result(expected))]
    Result { expected: Vec<Type>, found: Type },
    /// A constant part of it fails.
    #[error("program instantiation failed: {0}")]
    Program(String),
}

fn wrong_result(expected: &[Type]) -> String {
    let names: Vec<String> = expected.iter().map(Type::declared).collect();
    match names.as_slice() {
        [one] => format!("must evaluate to {one}"),
        many => format!("must evaluate to one of [{}]", many.join(" ")),
    }
}

impl Env {
    /// Starts an environment: the language and the Kubernetes libraries, no variables.
    pub fn builder() -> EnvBuilder {
        EnvBuilder::default()
    }

    /// A new builder with all this one has.
    pub fn extend(&self) -> EnvBuilder {
        EnvBuilder {
            names: (*self.names).clone(),
        }
    }

    /// Parses and checks an expression whose result must be one of `expected`; empty means any.
    pub fn compile(&self, text: &str, expected: &[Type]) -> Result<Program, CompileError> {
        let issues = |i| CompileError::Issues(sorted(i));
        let (mut e, positions) = parser::parse(text).map_err(issues)?;
        let checked = check::check(&mut e, &positions, text, &self.names).map_err(issues)?;
        crate::literals::validate(&e, &checked, &positions, text).map_err(issues)?;
        let result = checked.ty(&e).clone();
        if !expected.is_empty()
            && !expected
                .iter()
                .any(|t| matches!(t, Type::Dyn) || t.same(&result))
        {
            return Err(CompileError::Result {
                expected: expected.to_vec(),
                found: result,
            });
        }
        let estimate = estimate::estimate(&e, &checked, &self.names);
        let references = plan::references(&e, &self.names);
        let plan =
            plan::plan(&e, &checked, &self.names).map_err(|e| CompileError::Program(e.message))?;
        Ok(Program {
            plan,
            result,
            estimate,
            references,
        })
    }
}

/// A checked expression, ready to be evaluated any number of times.
pub struct Program {
    plan: Plan,
    result: Type,
    estimate: CostEstimate,
    references: Vec<Vec<String>>,
}

impl Program {
    /// The type of the result as far as it is known before evaluating.
    pub fn result_type(&self) -> &Type {
        &self.result
    }
    /// What an evaluation may cost, by the sizes the schemas allow.
    pub fn estimated_cost(&self) -> CostEstimate {
        self.estimate
    }
    /// The field paths used, each starting with its variable: `["variables", "x"]`, `["self", "spec"]`.
    pub fn references(&self) -> &[Vec<String>] {
        &self.references
    }
    /// Whether the expression uses this variable.
    pub fn uses_variable(&self, name: &str) -> bool {
        self.references
            .iter()
            .any(|r| r.first().is_some_and(|n| n == name))
    }

    /// Evaluates within [`crate::limits::PER_CALL`] and takes what it cost from the budget, also when it fails.
    pub fn evaluate<'a>(
        &self,
        vars: &Activation<'a>,
        budget: &mut Budget,
    ) -> Result<Value<'a>, EvalError> {
        let before = vars.composed_cost();
        let (result, cost) = eval::run(&self.plan, vars);
        let composed = vars.composed_cost().saturating_sub(before);
        if !budget.charge(cost.saturating_add(composed)) {
            return Err(EvalError::budget());
        }
        result
    }
}

/// The values of an evaluation's variables.
#[derive(Default)]
pub struct Activation<'a> {
    values: Vec<(String, Result<Value<'a>, EvalError>)>,
    composed: Option<Variables<'a>>,
}

/// `variables.x`: expressions evaluated when first used, each once.
pub struct Variables<'a> {
    programs: Vec<(&'a str, &'a Program)>,
    done: RefCell<HashMap<&'a str, Result<Value<'a>, EvalError>>>,
    cost: Cell<u64>,
}

impl<'a> Variables<'a> {
    /// The variables by name; each may use those before it.
    pub fn new(programs: impl IntoIterator<Item = (&'a str, &'a Program)>) -> Variables<'a> {
        Variables {
            programs: programs.into_iter().collect(),
            done: RefCell::default(),
            cost: Cell::new(0),
        }
    }
}

impl<'a> Activation<'a> {
    /// No variables.
    pub fn new() -> Activation<'a> {
        Activation::default()
    }
    /// Gives a variable its value.
    pub fn bind(&mut self, name: &str, value: Value<'a>) {
        self.bind_result(name, Ok(value));
    }
    /// JSON without a schema.
    pub fn bind_json(&mut self, name: &str, value: &'a Json) {
        self.bind(name, Value::json(value));
    }
    /// JSON with its schema. If it does not fit, using the variable is an error.
    pub fn bind_typed(&mut self, name: &str, value: &'a Json, schema: &'a Schema) {
        self.bind_result(name, Value::typed(value, schema));
    }
    /// The variable `authorizer`.
    pub fn bind_authorizer(&mut self, authorizer: &'a dyn Authorizer) {
        self.bind("authorizer", Value::Authz(Authz::root(authorizer)));
    }
    /// The variable `authorizer.requestResource`: the check of the request's own resource.
    pub fn bind_request_resource(&mut self, authorizer: &'a dyn Authorizer, of: AuthzAttributes) {
        self.bind(
            "authorizer.requestResource",
            Value::Authz(Authz::resource(authorizer, of)),
        );
    }
    /// The composed `variables`.
    pub fn bind_variables(&mut self, variables: Variables<'a>) {
        self.composed = Some(variables);
    }

    fn bind_result(&mut self, name: &str, value: Result<Value<'a>, EvalError>) {
        match self.values.iter_mut().find(|(n, _)| n == name) {
            Some((_, v)) => *v = value,
            None => self.values.push((name.to_string(), value)),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Result<Value<'a>, EvalError> {
        match self.values.iter().find(|(n, _)| n == name) {
            Some((_, v)) => v.clone(),
            None => Err(EvalError::new(format!("no such attribute(s): {name}"))),
        }
    }

    /// The composed variable of that name, if there are composed variables at all.
    pub(crate) fn composed(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        let all = self.composed.as_ref()?;
        let Some((name, program)) = all.programs.iter().find(|(n, _)| *n == name) else {
            return Some(Err(EvalError::no_key(name)));
        };
        if let Some(done) = all.done.borrow().get(name) {
            return Some(done.clone());
        }
        // a variable can only use those before it, so this ends
        let (result, cost) = eval::run(&program.plan, self);
        all.cost.set(all.cost.get().saturating_add(cost));
        let result = result.map_err(|e| EvalError {
            message: format!(
                "composited variable \"{name}\" fails to evaluate: {}",
                e.message
            ),
            ..e
        });
        all.done.borrow_mut().insert(name, result.clone());
        Some(result)
    }

    fn composed_cost(&self) -> u64 {
        self.composed.as_ref().map_or(0, |c| c.cost.get())
    }
}
