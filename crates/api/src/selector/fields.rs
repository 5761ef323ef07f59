//! `fieldSelector=spec.nodeName=a,status.phase!=Failed`: apimachinery `pkg/fields/selector.go`.

use serde_json::Value;

use crate::registry::Resource;

/// A parsed field selector: all terms must hold. Empty selects everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

/// One term.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldTerm {
    /// e.g. `metadata.name`
    pub field: String,
    /// what it must (not) equal
    pub value: String,
    /// `!=`
    pub negated: bool,
}

impl FieldSelector {
    /// Parses a selector; the error is upstream's message (sent as 400).
    pub fn parse(text: &str) -> Result<FieldSelector, String> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let (field, negated, value) = split_term(part)
                .ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{part}'"))?;
            terms.push(FieldTerm {
                field: field.to_string(),
                value: unescape(value)?,
                negated,
            });
        }
        Ok(FieldSelector { terms })
    }

    /// Fails for fields the resource can't be selected by; the error is upstream's message (sent as 400).
    pub fn check(&self, resource: &Resource) -> Result<(), String> {
        let custom = resource.custom.as_deref();
        for t in &self.terms {
            let known = t.field == "metadata.name"
                || t.field == "metadata.namespace"
                || resource
                    .selectable_fields
                    .iter()
                    .any(|(n, _)| *n == t.field)
                || custom.is_some_and(|c| c.selects_by(&t.field));
            if known {
                continue;
            }
            let named = custom.is_some_and(|c| !c.selectable().is_empty());
            return Err(if resource.selectable_fields.is_empty() && !named {
                format!(
                    "{:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                    t.field
                )
            } else {
                format!("field label not supported: {}", t.field)
            });
        }
        Ok(())
    }

    /// Its terms.
    pub fn into_terms(self) -> Vec<FieldTerm> {
        self.terms
    }

    /// Selects everything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value `field` must equal, when the selector demands one.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|t| t.field == field && !t.negated)
            .map(|t| t.value.as_str())
    }

    /// Evaluates the terms; `object` is asked for only when a term needs it.
    pub fn matches(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        object: &mut dyn FnMut() -> Option<std::rc::Rc<Value>>,
    ) -> bool {
        self.terms.iter().all(|t| {
            let equal = match t.field.as_str() {
                "metadata.name" => t.value == name,
                "metadata.namespace" => t.value == namespace,
                field => {
                    let found = match (&resource.custom, object()) {
                        (Some(custom), Some(o)) => custom.field(field, &o),
                        (None, Some(o)) => resource
                            .selectable_fields
                            .iter()
                            .find(|(n, _)| *n == field)
                            .map(|(_, get)| get(&o)),
                        (_, None) => None,
                    };
                    found.unwrap_or_default() == t.value
                }
            };
            equal != t.negated
        })
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

/// Splits at the first of `!=`, `==`, `=` (tried in this order at each place, as upstream).
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (i, _) in term.char_indices() {
        let rest = &term[i..];
        if let Some(v) = rest.strip_prefix("!=") {
            return Some((&term[..i], true, v));
        }
        if let Some(v) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
            return Some((&term[..i], false, v));
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(e @ ('\\' | ',' | '=')) => out.push(e),
                Some(e) => {
                    return Err(format!(
                        "invalid field selector: invalid escape sequence: \\{e}"
                    ));
                }
                None => return Err("invalid field selector: invalid escape sequence: \\".into()),
            },
            ',' | '=' => {
                return Err(format!(
                    "invalid field selector: unescaped character in value: {}",
                    u32::from(c) // Go shows a rune's number
                ));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        for (text, want) in [
            ("a=b", Some(vec![("a", "b", false)])),
            ("a==b,c!=d", Some(vec![("a", "b", false), ("c", "d", true)])),
            ("a=", Some(vec![("a", "", false)])),
            ("a=b\\,c", Some(vec![("a", "b,c", false)])),
            ("", Some(vec![])),
            ("a", None),
            ("a=b=c", None),
            ("a=\\x", None),
        ] {
            let got = FieldSelector::parse(text).ok().map(|s| {
                s.terms
                    .into_iter()
                    .map(|t| (t.field, t.value, t.negated))
                    .collect::<Vec<_>>()
            });
            let want = want.map(|w| {
                w.into_iter()
                    .map(|(f, v, n)| (f.to_string(), v.to_string(), n))
                    .collect::<Vec<_>>()
            });
            assert_eq!(got, want, "{text}");
        }
    }
}
