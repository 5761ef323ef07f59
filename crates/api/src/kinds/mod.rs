//! The built-in kinds: one file a family, each a table of descriptors and its small hooks.

/// All built-in resources, in discovery order.
pub fn builtin() -> &'static [crate::registry::Resource] {
    &[]
}
