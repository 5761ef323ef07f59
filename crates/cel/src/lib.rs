//! The Common Expression Language as Kubernetes v1.36 uses it: rules of CustomResourceDefinitions, policies and match
//! conditions of admission.
//!
//! **Is:** parser, type checker, cost estimate, evaluator and the Kubernetes function libraries, after cel-go v0.26 and
//! k8s.io/apiserver v0.36 (`pkg/cel`), down to the numbers of costs and the words of errors.
//! **Is not:** a policy engine. What is compiled when, what a failed rule means and how it is reported is the caller's.
//! **Must never** do I/O, know requests or storage, or let an expression run without bound.
//!
//! ```
//! use knarr_cel::{Activation, Budget, Env, Schema, Type};
//! let schema = serde_json::json!({"type": "object", "properties": {"replicas": {"type": "integer"}}});
//! let schema = Schema::from_openapi(&schema, false, "selfType").unwrap();
//! let env = Env::builder().schema_variable("self", schema.clone()).build();
//! let program = env.compile("self.replicas > 1", &[Type::Bool]).unwrap();
//! let object = serde_json::json!({"replicas": 3});
//! let mut vars = Activation::new();
//! vars.bind_typed("self", &object, &schema);
//! assert_eq!(program.evaluate(&vars, &mut Budget::default()).unwrap().as_bool(), Some(true));
//! ```
#![forbid(unsafe_code)]

mod ast;
mod authz;
mod budget;
mod check;
mod decls;
mod env;
mod equality;
mod error;
mod estimate;
mod eval;
mod functions;
mod issue;
mod lexer;
mod literals;
mod macros;
mod ops;
mod parser;
mod plan;
mod runtime_cost;
mod schema;
mod time;
mod to_json;
mod types;
mod unescape;
mod unify;
mod value;
mod work;

pub use authz::{Authorizer, AuthzAttributes, AuthzDecision};
pub use budget::{Budget, limits};
pub use env::{Activation, CompileError, Env, EnvBuilder, Program, Variables};
pub use error::{ErrorKind, EvalError};
pub use estimate::CostEstimate;
pub use issue::{Issue, render};
pub use schema::{Schema, escape, is_identifier, unescape as unescape_field};
pub use time::{Duration, Timestamp};
pub use types::{Field, Fields, ObjectType, Type};
pub use value::{Key, List, Map, Object, Str, Value};
