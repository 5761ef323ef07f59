//! The CEL expressions of webhooks and policies: do they compile?

use super::path::{Errors, Path};
use crate::expressions::{self, Variables, compile};
use knarr_cel::{Env, Type};

fn variables(params: bool, authorizer: bool, mutation: bool) -> Variables {
    Variables {
        params,
        authorizer,
        mutation,
    }
}

fn check(env: &Env, text: &str, expected: &[Type], at: &Path<'_>, e: &mut Errors) -> Option<Type> {
    match compile(env, text, expected) {
        Ok(program) => Some(program.result_type().clone()),
        Err(why) => {
            e.invalid(at, text, why);
            None
        }
    }
}

/// A match condition; `params`: it may use them.
pub(crate) fn condition(text: &str, params: bool, at: &Path<'_>, e: &mut Errors) {
    let env = expressions::env(variables(params, true, false));
    check(&env, text, &[Type::Bool], at, e);
}

/// What the expressions of one policy are compiled against.
pub(crate) struct Policy {
    params: bool,
    /// name and type of the composed variables so far
    composed: Vec<(String, Type)>,
}

impl Policy {
    pub(crate) fn new(params: bool) -> Policy {
        Policy {
            params,
            composed: vec![],
        }
    }

    fn env(&self, authorizer: bool, mutation: bool) -> Env {
        let env = expressions::env(variables(self.params, authorizer, mutation));
        env.extend().composed(self.composed.clone()).build()
    }

    /// A variable that later expressions may use.
    pub(crate) fn variable(&mut self, name: &str, text: &str, at: &Path<'_>, e: &mut Errors) {
        if let Some(ty) = check(&self.env(true, false), text, &[], at, e) {
            self.composed.push((name.to_string(), ty));
        }
    }
    pub(crate) fn validation(&self, text: &str, at: &Path<'_>, e: &mut Errors) {
        check(&self.env(true, false), text, &[Type::Bool], at, e);
    }
    pub(crate) fn message(&self, text: &str, at: &Path<'_>, e: &mut Errors) {
        check(&self.env(false, false), text, &[Type::String], at, e);
    }
    pub(crate) fn audit_value(&self, text: &str, at: &Path<'_>, e: &mut Errors) {
        check(
            &self.env(true, false),
            text,
            &[Type::String, Type::Null],
            at,
            e,
        );
    }
    /// A JSON patch, or an apply configuration.
    pub(crate) fn mutation(&self, text: &str, json: bool, at: &Path<'_>, e: &mut Errors) {
        let expected = if json {
            Type::list(Type::object("JSONPatch", []))
        } else {
            Type::object("Object", [])
        };
        check(&self.env(true, true), text, &[expected], at, e);
    }
}
