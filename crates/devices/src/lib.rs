//! Which devices a ResourceClaim gets: `resource.k8s.io/v1`'s structured parameters.
//!
//! **Is:** what claims, classes and slices say, the expressions that select devices, and the search for an allocation, after
//! k8s.io/dynamic-resource-allocation v0.36 (`structured/internal/incubating`, what v1.36 has switched on by default).
//! **Is not:** a scheduler. Whose turn it is, what is written when, and what a Pod is told are the caller's.
//! **Must never** do I/O, know the time, or search without bound.
#![forbid(unsafe_code)]

mod allocate;
mod capacity;
mod constraint;
mod counters;
mod expression;
mod model;
mod node;
mod pools;
mod taken;

pub use allocate::{Failure, Question, allocate};
pub use expression::{Expressions, environment};
pub use model::{
    Allocation, AllocationResult, Claim, ClaimSpec, Class, ClassSpec, Results, Slice, SliceSpec,
};
pub use node::{NodeSelector, Target};
pub use taken::Taken;
