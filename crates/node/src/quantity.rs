//! Amounts in the Kubernetes types, as numbers ([`knarr_quantity`]).

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The value in thousandths of its unit, rounded up; None when it isn't a quantity.
pub(crate) fn milli(text: &str) -> Option<i128> {
    knarr_quantity::milli(text).map(i128::from)
}

/// Whole units, rounded up; 0 when it isn't a quantity.
pub(crate) fn value(quantity: &Quantity) -> i64 {
    knarr_quantity::units(&quantity.0).unwrap_or(0)
}

/// Thousandths of a unit (millicores), rounded up; 0 when it isn't a quantity.
pub(crate) fn milli_value(quantity: &Quantity) -> i64 {
    knarr_quantity::milli(&quantity.0).unwrap_or(0)
}

/// `ceil(quantity / divisor)` as the downward API prints it (divisor 0 or absent counts as 1).
pub(crate) fn divided(quantity_milli: i128, divisor: Option<&Quantity>) -> i64 {
    let amount = i64::try_from(quantity_milli).unwrap_or(i64::MAX);
    let divisor = divisor.and_then(|d| d.0.parse().ok());
    let divisor = divisor.unwrap_or(knarr_quantity::Quantity::ZERO);
    knarr_quantity::Quantity::millis(amount).divided(&divisor)
}

/// Thousandths of a CPU, in the canonical spelling.
pub(crate) fn cpu_text(milli: i64) -> String {
    knarr_quantity::Quantity::millis(milli).to_string()
}

/// Bytes, in the canonical spelling of binary units.
pub(crate) fn memory_text(bytes: i64) -> String {
    knarr_quantity::Quantity::bytes(bytes).to_string()
}
