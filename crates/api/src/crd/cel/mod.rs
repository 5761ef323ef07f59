//! `x-kubernetes-validations`: rules of custom resources, compiled once a version and evaluated at every write.
//! Follows apiextensions-apiserver `pkg/apiserver/schema/cel` and `pkg/apis/apiextensions/validation/cel_validation.go`.

mod check;
mod compile;
mod run;
mod tree;

pub use check::check;
pub use run::validate;
pub use tree::Tree;
