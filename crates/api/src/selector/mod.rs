//! Label and field selectors, with upstream's grammar and messages (apimachinery `pkg/labels`, `pkg/fields`).

mod fields;
mod labels;

pub use fields::FieldSelector;
pub use labels::{LabelSelector, label_selector_string};
