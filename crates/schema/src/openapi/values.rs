//! The values that fields may have, where upstream's documents tell them.

use std::collections::HashMap;

use serde_json::{Value, json};

const TABLE: &str = include_str!("../../data/enums.txt");

/// By type and field; made for a document and dropped with it.
pub(crate) struct Values(HashMap<(&'static str, &'static str), (Place, &'static str)>);

#[derive(Clone, Copy)]
enum Place {
    Field,
    Items,
    MapValues,
}

impl Values {
    pub(crate) fn load() -> Values {
        let lines = TABLE.lines().filter(|l| !l.starts_with('#'));
        let read = |line: &'static str| {
            let mut words = line.splitn(3, ' ');
            let (ty, field, values) = (words.next()?, words.next()?, words.next()?);
            let (field, place) = match (field.strip_suffix("[]"), field.strip_suffix("{}")) {
                (Some(field), _) => (field, Place::Items),
                (_, Some(field)) => (field, Place::MapValues),
                _ => (field, Place::Field),
            };
            Some(((ty, field), (place, values)))
        };
        Values(lines.filter_map(read).collect())
    }

    /// Adds the values to the schema of a field.
    pub(crate) fn tell(&self, ty: &str, field: &str, schema: &mut Value) {
        let Some((place, values)) = self.0.get(&(ty, field)) else {
            return;
        };
        let at = match place {
            Place::Field => Some(schema),
            Place::Items => schema.get_mut("items"),
            Place::MapValues => schema.get_mut("additionalProperties"),
        };
        if let Some(at) = at {
            at["enum"] = json!(values.split(',').collect::<Vec<_>>());
        }
    }
}
