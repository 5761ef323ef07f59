//! Label selectors, as `metav1.LabelSelectorAsSelector` reads them.

use serde::{Deserialize, Serialize};

use super::meta::{Labels, nullable};

/// `metav1.LabelSelector`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    /// all must be equal
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub match_labels: Labels,
    /// all must hold
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub match_expressions: Vec<Requirement>,
}

/// `metav1.LabelSelectorRequirement` and `v1.NodeSelectorRequirement`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requirement {
    /// label, or field
    pub key: Box<str>,
    /// In, NotIn, Exists, DoesNotExist, Gt, Lt
    pub operator: Box<str>,
    /// operands
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub values: Vec<Box<str>>,
}

impl Requirement {
    /// Does `value` (None: absent) satisfy it? An unknown operator never does.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let any = |v: &str| self.values.iter().any(|x| &**x == v);
        match &*self.operator {
            "In" => value.is_some_and(any),
            "NotIn" => !value.is_some_and(any),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" | "Lt" => {
                let (Some(have), Some(want)) = (
                    value.and_then(|v| v.parse::<i64>().ok()),
                    self.values.first().and_then(|v| v.parse::<i64>().ok()),
                ) else {
                    return false;
                };
                if &*self.operator == "Gt" {
                    have > want
                } else {
                    have < want
                }
            }
            _ => false,
        }
    }
}

impl Selector {
    /// Equality with every pair.
    pub fn of(labels: Labels) -> Selector {
        Selector {
            match_labels: labels,
            match_expressions: vec![],
        }
    }
    /// It selects everything, which a workload's selector must not.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }
    /// All requirements hold for `labels`.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.subset_of(labels)
            && self
                .match_expressions
                .iter()
                .all(|r| r.matches(labels.get(&r.key)))
    }
}

/// As queries have it: `app=web,tier in (1,2),!old`.
impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts: Vec<String> = self
            .match_labels
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        parts.extend(self.match_expressions.iter().map(|r| {
            let values = r.values.join(",");
            match &*r.operator {
                "In" => format!("{} in ({values})", r.key),
                "NotIn" => format!("{} notin ({values})", r.key),
                "DoesNotExist" => format!("!{}", r.key),
                "Gt" => format!("{}>{values}", r.key),
                "Lt" => format!("{}<{values}", r.key),
                _ => r.key.to_string(),
            }
        }));
        f.write_str(&parts.join(","))
    }
}

impl std::str::FromStr for Selector {
    type Err = String;
    /// Reads what queries have (`labels.Parse`).
    fn from_str(text: &str) -> Result<Selector, String> {
        let mut selector = Selector::default();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let (requirement, after) = requirement(rest)?;
            selector.match_expressions.push(requirement);
            rest = after.trim_start();
            match rest.strip_prefix(',') {
                Some(more) if !more.trim().is_empty() => rest = more.trim_start(),
                None if rest.is_empty() => {}
                _ => return Err(format!("found '{rest}', expected: ',' or 'end of string'")),
            }
        }
        Ok(selector)
    }
}

/// The first requirement of a text, and what follows it.
fn requirement(text: &str) -> Result<(Requirement, &str), String> {
    let word = |text: &str| -> usize {
        text.find(|c: char| " ,=!<>()".contains(c))
            .unwrap_or(text.len())
    };
    let of = |key: &str, operator: &str, values: Vec<Box<str>>| Requirement {
        key: key.into(),
        operator: operator.into(),
        values,
    };
    if let Some(rest) = text.strip_prefix('!') {
        let rest = rest.trim_start();
        let (key, after) = rest.split_at(word(rest));
        return match key {
            "" => Err(format!("found '{rest}', expected: identifier")),
            _ => Ok((of(key, "DoesNotExist", vec![]), after)),
        };
    }
    let (key, after) = text.split_at(word(text));
    if key.is_empty() {
        return Err(format!(
            "found '{text}', expected: !, identifier, or 'end of string'"
        ));
    }
    let after = after.trim_start();
    for (sign, operator) in [
        ("==", "In"),
        ("!=", "NotIn"),
        ("=", "In"),
        (">", "Gt"),
        ("<", "Lt"),
    ] {
        if let Some(rest) = after.strip_prefix(sign) {
            let rest = rest.trim_start();
            let (value, after) = rest.split_at(word(rest));
            return Ok((of(key, operator, vec![value.into()]), after));
        }
    }
    for (name, operator) in [("in", "In"), ("notin", "NotIn")] {
        let Some(rest) = after.strip_prefix(name) else {
            continue;
        };
        let Some(list) = rest.trim_start().strip_prefix('(') else {
            continue;
        };
        let end = list
            .find(')')
            .ok_or_else(|| format!("found '{list}', expected: ',' or ')'"))?;
        let values = list[..end].split(',').map(|v| v.trim().into()).collect();
        return Ok((of(key, operator, values), &list[end + 1..]));
    }
    Ok((of(key, "Exists", vec![]), after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read() {
        for (text, want) in [
            ("app=web", "app in (web)"),
            ("app==web,tier!=1", "app in (web),tier notin (1)"),
            ("app in (a, b),!old, new", "app in (a,b),!old,new"),
            ("x notin (a)", "x notin (a)"),
            ("n>1,m<2", "n>1,m<2"),
            ("in=in", "in in (in)"),
            ("", ""),
            ("a=", "a in ()"),
        ] {
            let s: Selector = text.parse().unwrap();
            assert_eq!(s.to_string(), want, "{text}");
        }
        for bad in ["=a", "a=b,", "a b", "x in (a", ",a"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }

    #[test]
    fn selectors() {
        let labels: Labels = [("app", "web"), ("tier", "1")].into_iter().collect();
        let cases = [
            ("{}", true),
            (r#"{"matchLabels":{"app":"web"}}"#, true),
            (r#"{"matchLabels":{"app":"db"}}"#, false),
            (r#"{"matchLabels":{"app":"web","x":"y"}}"#, false),
            (
                r#"{"matchExpressions":[{"key":"app","operator":"In","values":["db","web"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions":[{"key":"app","operator":"NotIn","values":["web"]}]}"#,
                false,
            ),
            (
                r#"{"matchExpressions":[{"key":"x","operator":"NotIn","values":["web"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions":[{"key":"x","operator":"Exists"}]}"#,
                false,
            ),
            (
                r#"{"matchExpressions":[{"key":"x","operator":"DoesNotExist","values":null}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions":[{"key":"tier","operator":"Gt","values":["0"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions":[{"key":"tier","operator":"Lt","values":["1"]}]}"#,
                false,
            ),
            (
                r#"{"matchExpressions":[{"key":"app","operator":"Like","values":["w"]}]}"#,
                false,
            ),
        ];
        for (json, want) in cases {
            let s: Selector = serde_json::from_str(json).unwrap();
            assert_eq!(s.matches(&labels), want, "{json}");
        }
    }
}
