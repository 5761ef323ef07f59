//! The bounds of work: k8s.io/apiserver/pkg/apis/cel and apiextensions' static limits.

/// Upstream's numbers, in cost units (about 50 ns each).
pub mod limits {
    /// One evaluation.
    pub const PER_CALL: u64 = 1_000_000;
    /// All evaluations for one object: of a CustomResourceDefinition's rules, or of one policy binding.
    pub const RUNTIME_BUDGET: u64 = 10_000_000;
    /// All match conditions of one webhook or binding, for one object.
    pub const MATCH_CONDITIONS_BUDGET: u64 = 2_500_000;
    /// The highest estimate of one rule of a CustomResourceDefinition.
    pub const STATIC_ESTIMATED_COST: u64 = 10_000_000;
    /// The highest estimate of all rules of a CustomResourceDefinition.
    pub const STATIC_ESTIMATED_CRD_COST: u64 = 100_000_000;
    /// The longest text a `messageExpression` may give, in bytes.
    pub const MAX_MESSAGE_BYTES: usize = 5 * 1024;
}

/// Cost units left for a series of evaluations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    remaining: u64,
    last: u64,
}

impl Default for Budget {
    /// [`limits::RUNTIME_BUDGET`].
    fn default() -> Budget {
        Budget::new(limits::RUNTIME_BUDGET)
    }
}

impl Budget {
    /// A budget of so many cost units.
    pub fn new(units: u64) -> Budget {
        Budget {
            remaining: units,
            last: 0,
        }
    }
    /// Units left.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }
    /// What the last evaluation cost, whether it gave a value or not.
    pub fn last_cost(&self) -> u64 {
        self.last
    }
    /// Takes what an evaluation cost; false if that was more than was left.
    pub(crate) fn charge(&mut self, units: u64) -> bool {
        self.last = units;
        let left = self.remaining.checked_sub(units);
        self.remaining = left.unwrap_or(0);
        left.is_some()
    }
}
