//! Reads the `default:` of each field from the structured-merge-diff schema that client-go carries as YAML in a Go string.

use std::collections::BTreeMap;

/// (type name, field name) to the default as JSON text.
pub type Defaults = BTreeMap<(String, String), String>;

/// The YAML is machine-made and regular, so that its indentation is all the grammar that is needed.
pub fn read(source: &str) -> Defaults {
    let mut out = Defaults::new();
    let (mut type_name, mut field) = (String::new(), String::new());
    for line in source.lines() {
        if let Some(name) = line.strip_prefix("- name: ") {
            type_name = name.to_owned();
            field.clear();
        } else if let Some(name) = line.strip_prefix("    - name: ") {
            field = name.trim_matches('"').to_owned();
        } else if let Some(value) = line.strip_prefix("      default: ")
            && !field.is_empty()
        {
            out.insert((type_name.clone(), field.clone()), json(value));
        }
    }
    out
}

fn json(yaml_scalar: &str) -> String {
    let is_json = yaml_scalar.starts_with(['"', '{', '['])
        || matches!(yaml_scalar, "true" | "false" | "null")
        || yaml_scalar.parse::<f64>().is_ok();
    if is_json {
        yaml_scalar.to_owned()
    } else {
        format!("{yaml_scalar:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_belong_to_fields_not_to_their_types() {
        let source = "- name: a.Port\n  map:\n    fields:\n    - name: protocol\n      type:\n        scalar: string\n      default: TCP\n    - name: number\n      type:\n        scalar: numeric\n      default: 0\n    - name: plain\n      type:\n        scalar: string\n- name: a.Other\n  scalar: untyped\n";
        let defaults = read(source);
        let found: Vec<(&str, &str, &str)> = defaults
            .iter()
            .map(|((t, f), d)| (t.as_str(), f.as_str(), d.as_str()))
            .collect();
        assert_eq!(
            found,
            [("a.Port", "number", "0"), ("a.Port", "protocol", "\"TCP\"")]
        );
    }
}
