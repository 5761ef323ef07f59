//! Types that aren't in the table: those of custom resources, as server-side apply sees them.

use serde_json::Value;

/// A type made of a custom resource's schema (apimachinery's `managedfields` over kube-openapi's `schemaconv`).
#[derive(Debug, Clone, PartialEq)]
pub enum CustomType {
    Number,
    String,
    Boolean,
    /// Any scalar: int-or-string.
    Scalar,
    /// Free JSON: maps are granular, lists atomic.
    Free,
    List {
        elem: Box<CustomType>,
        kind: CustomList,
    },
    Map {
        /// Sorted by name.
        fields: Box<[(Box<str>, CustomField)]>,
        /// The type of fields that aren't declared; None refuses them.
        rest: Option<Box<CustomType>>,
        atomic: bool,
    },
    /// `metadata` of a resource.
    ObjectMeta,
}

/// How a list's items are told apart.
#[derive(Debug, Clone, PartialEq)]
pub enum CustomList {
    Atomic,
    Set,
    /// Names of the keys, separated by commas.
    Map(Box<str>),
}

/// A declared field.
#[derive(Debug, Clone, PartialEq)]
pub struct CustomField {
    pub ty: CustomType,
    pub default: Option<Value>,
}

impl CustomType {
    /// The declared field of a map.
    pub(crate) fn field(&self, name: &str) -> Option<&CustomField> {
        match self {
            CustomType::Map { fields, .. } => {
                let at = fields.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
                Some(&fields[at].1)
            }
            _ => None,
        }
    }
}
