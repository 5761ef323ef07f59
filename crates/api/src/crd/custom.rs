//! What the generic handlers ask of one version of a custom resource.

use serde_json::Value;

use crate::registry::Strategy;

/// Reads something out of an object.
pub type Read<T> = Box<dyn Fn(&Value) -> T + Send + Sync>;

/// One version of a custom resource, as its definition has it.
#[derive(Default)]
pub struct Custom {
    /// TableColumnDefinition and cell of each printer column.
    pub(crate) columns: Vec<(Value, Read<Value>)>,
    /// Fields that selectors may name; None for those that aren't there.
    pub(crate) fields: Vec<(String, Read<Option<String>>)>,
}

impl Custom {
    /// The columns' definitions, as a Table has them.
    pub(crate) fn columns(&self) -> Vec<Value> {
        self.columns.iter().map(|(d, _)| d.clone()).collect()
    }
    /// A row's cells.
    pub(crate) fn cells(&self, object: &Value) -> Vec<Value> {
        self.columns.iter().map(|(_, cell)| cell(object)).collect()
    }
    /// Whether a field selector may name the field.
    pub(crate) fn selects_by(&self, field: &str) -> bool {
        self.fields.iter().any(|(name, _)| name == field)
    }
    /// The field as selectors compare it.
    pub(crate) fn field(&self, field: &str, object: &Value) -> Option<String> {
        let (_, read) = self.fields.iter().find(|(name, _)| name == field)?;
        read(object)
    }
}

impl Strategy for Custom {}
