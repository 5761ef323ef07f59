//! Checks a tree against the shapes of [`super::shapes`], and casts texts to what their place wants, as interpolated
//! values need it. Messages are compose-go's.

use crate::{
    Error,
    tree::{Node, Value, dotted},
};

/// What a place may hold.
pub(super) enum Shape {
    Any,
    Null,
    Text,
    Bool,
    /// A boolean, or a text that says one.
    BoolText,
    Int,
    /// An integer, or a text that says one.
    IntText,
    /// A number, or a text that says one.
    NumberText,
    /// A number or any text.
    Size,
    /// Any text or number.
    TextNumber,
    Scalar,
    OneOfTexts(&'static [&'static str]),
    /// A text that a rule accepts; the second is how the rule is called.
    Matches(fn(&str) -> bool, &'static str),
    List(&'static Shape),
    /// A list without two equal items.
    Set(&'static Shape),
    /// A mapping with any keys.
    Map(&'static Shape),
    /// A mapping with names as keys.
    Named(&'static Shape),
    /// A mapping with these keys, and extensions.
    Object(&'static [&'static [Key]], &'static [&'static str]),
    OneOf(&'static [Shape]),
}

pub(super) type Key = (&'static str, Shape);

/// Checks, and casts in place.
pub(super) fn check(node: &mut Node, shape: &Shape, path: &mut Vec<String>) -> Result<(), Error> {
    match shape {
        Shape::Any => Ok(()),
        Shape::BoolText => cast(node, path, boolean),
        Shape::IntText => cast(node, path, integer),
        Shape::NumberText => cast(node, path, number),
        Shape::OneOfTexts(all) => match node.str() {
            Some(s) if all.contains(&s) => Ok(()),
            Some(_) => {
                let all: Vec<String> = all.iter().map(|a| format!("'{a}'")).collect();
                Err(node.error(format!(
                    "{} value must be one of {}",
                    dotted(path),
                    all.join(", ")
                )))
            }
            None => Err(mismatch(node, shape, path)),
        },
        Shape::Matches(rule, name) => match node.str() {
            Some(s) if rule(s) => Ok(()),
            Some(s) => Err(node.error(format!(
                "{} '{s}' does not match pattern '{name}'",
                dotted(path)
            ))),
            None => Err(mismatch(node, shape, path)),
        },
        Shape::OneOf(all) => match all.iter().find(|s| s.takes(&node.value)) {
            Some(fitting) => check(node, fitting, path),
            None => Err(mismatch(node, &all[0], path)),
        },
        _ if !shape.takes(&node.value) => Err(mismatch(node, shape, path)),
        Shape::List(item) => items(node, item, path),
        Shape::Set(item) => {
            let all = node.items();
            for (i, one) in all.iter().enumerate() {
                if let Some(j) = all[..i].iter().position(|o| o == one) {
                    return Err(
                        one.error(format!("{} items at {j} and {i} are equal", dotted(path)))
                    );
                }
            }
            items(node, item, path)
        }
        Shape::Map(value) => entries(node, path, |_| Some(value)),
        Shape::Named(value) => entries(node, path, |key| is_name(key).then_some(value)),
        Shape::Object(tables, required) => {
            if let Some(missing) = required
                .iter()
                .find(|r| node.map().is_some_and(|m| !m.contains_key(**r)))
            {
                return Err(node.error(format!("{} missing property '{missing}'", dotted(path))));
            }
            let find = |key: &str| {
                let mut all = tables.iter().flat_map(|t| t.iter());
                all.find(|(k, _)| *k == key).map(|(_, s)| s)
            };
            entries(node, path, find).map_err(|mut e| {
                if let Some(key) = e.message.split('\'').nth(1)
                    && e.message.ends_with("not allowed")
                    && let Some(near) = nearest(key, tables)
                {
                    e.message += &format!(", did you mean '{near}'?");
                }
                e
            })
        }
        _ => Ok(()),
    }
}

fn items(node: &mut Node, item: &Shape, path: &mut Vec<String>) -> Result<(), Error> {
    for (i, one) in node.items_mut().iter_mut().enumerate() {
        path.push(i.to_string());
        check(one, item, path)?;
        path.pop();
    }
    Ok(())
}

fn entries(
    node: &mut Node,
    path: &mut Vec<String>,
    shape_of: impl Fn(&str) -> Option<&'static Shape>,
) -> Result<(), Error> {
    for (key, value) in node.map_mut().into_iter().flatten() {
        match shape_of(key) {
            Some(shape) => {
                path.push(key.clone());
                check(value, shape, path)?;
                path.pop();
            }
            None if key.starts_with("x-") => {}
            None => {
                let place = match path.is_empty() {
                    true => String::new(),
                    false => format!("{} ", dotted(path)),
                };
                return Err(
                    value.error(format!("{place}additional properties '{key}' not allowed"))
                );
            }
        }
    }
    Ok(())
}

/// `^[a-zA-Z0-9._-]+$`
fn is_name(key: &str) -> bool {
    !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

impl Shape {
    fn takes(&self, value: &Value) -> bool {
        use Shape as S;
        use Value as V;
        match self {
            S::Any => true,
            S::Null => matches!(value, V::Null),
            S::Text | S::OneOfTexts(_) | S::Matches(..) => matches!(value, V::Text(_)),
            S::Bool => matches!(value, V::Bool(_)),
            S::BoolText => matches!(value, V::Bool(_) | V::Text(_)),
            S::Int => matches!(value, V::Int(_)),
            S::IntText => match value {
                V::Float(f) => f.fract() == 0.0,
                v => matches!(v, V::Int(_) | V::Text(_)),
            },
            S::NumberText | S::Size | S::TextNumber => {
                matches!(value, V::Int(_) | V::Float(_) | V::Text(_))
            }
            S::Scalar => matches!(
                value,
                V::Null | V::Bool(_) | V::Int(_) | V::Float(_) | V::Text(_)
            ),
            S::List(_) | S::Set(_) => matches!(value, V::List(_)),
            S::Map(_) | S::Named(_) | S::Object(..) => matches!(value, V::Map(_)),
            S::OneOf(all) => all.iter().any(|s| s.takes(value)),
        }
    }

    /// compose-go's name of the type.
    fn name(&self) -> &'static str {
        use Shape as S;
        match self {
            S::Any | S::Text | S::OneOfTexts(_) | S::Matches(..) => "string",
            S::Null => "null",
            S::Bool => "boolean",
            S::BoolText => "boolean or string",
            S::Int => "integer",
            S::IntText => "integer or string",
            S::NumberText | S::Size | S::TextNumber => "number or string",
            S::Scalar => "boolean, null, number or string",
            S::List(_) | S::Set(_) => "array",
            S::Map(_) | S::Named(_) | S::Object(..) => "mapping",
            S::OneOf(all) => all[0].name(),
        }
    }
}

fn mismatch(node: &Node, shape: &Shape, path: &[String]) -> Error {
    let place = match path.is_empty() {
        true => "the file".to_string(),
        false => dotted(path),
    };
    node.error(format!("{place} must be a {}", shape.name()))
}

fn cast(
    node: &mut Node,
    path: &[String],
    read: fn(&Value) -> Option<Result<Value, String>>,
) -> Result<(), Error> {
    match read(&node.value) {
        Some(Ok(value)) => {
            node.value = value;
            Ok(())
        }
        Some(Err(why)) => Err(node.error(format!(
            "error while interpolating {}: failed to cast to expected type: {why}",
            dotted(path)
        ))),
        None => {
            let probe = match read(&Value::Bool(true)) {
                Some(_) => Shape::BoolText,
                None if read(&Value::Float(0.5)).is_some() => Shape::NumberText,
                None => Shape::IntText,
            };
            Err(mismatch(node, &probe, path))
        }
    }
}

fn boolean(value: &Value) -> Option<Result<Value, String>> {
    match value {
        Value::Bool(b) => Some(Ok(Value::Bool(*b))),
        Value::Text(s) => Some(match s.to_lowercase().as_str() {
            "true" | "y" | "yes" | "on" => Ok(Value::Bool(true)),
            "false" | "n" | "no" | "off" => Ok(Value::Bool(false)),
            _ => Err(format!("invalid boolean: {s}")),
        }),
        _ => None,
    }
}

fn integer(value: &Value) -> Option<Result<Value, String>> {
    match value {
        Value::Int(n) => Some(Ok(Value::Int(*n))),
        Value::Float(f) if f.fract() == 0.0 && f.abs() < 9e15 => Some(Ok(Value::Int(*f as i64))),
        Value::Text(s) => Some(
            s.parse()
                .map(Value::Int)
                .map_err(|_| format!("strconv.Atoi: parsing {s:?}: invalid syntax")),
        ),
        _ => None,
    }
}

fn number(value: &Value) -> Option<Result<Value, String>> {
    match value {
        Value::Int(n) => Some(Ok(Value::Int(*n))),
        Value::Float(f) => Some(Ok(Value::Float(*f))),
        Value::Text(s) => Some(match (s.parse::<i64>(), s.parse::<f64>()) {
            (Ok(n), _) => Ok(Value::Int(n)),
            (_, Ok(f)) if f.is_finite() => Ok(Value::Float(f)),
            _ => Err(format!("strconv.ParseFloat: parsing {s:?}: invalid syntax")),
        }),
        _ => None,
    }
}

/// A known key that was probably meant.
fn nearest(key: &str, tables: &[&[Key]]) -> Option<&'static str> {
    if key.len() > 64 {
        return None;
    }
    let all = tables.iter().flat_map(|t| t.iter().map(|(k, _)| *k));
    all.map(|k| (distance(k, key), k))
        .min()
        .filter(|(d, _)| *d <= 2)
        .map(|(_, k)| k)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
