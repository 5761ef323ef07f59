//! Simple JSONPath, as printer columns and selectable fields use it: client-go `pkg/util/jsonpath` without filters on
//! functions and scripts.

use serde_json::Value;

/// Longest path, in bytes.
const TEXT_BYTES_MAX: usize = 4096;
/// Most values one path may find on its way.
const FOUND_MAX: usize = 10_000;

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    /// `[*]`, `.*`
    All,
    /// `..`
    Deep,
    Index(i64),
    /// `[from:to:by]`
    Slice(Option<i64>, Option<i64>, i64),
    /// `[?(@.a=="b")]`
    Filter(Operand, Compare, Operand),
    /// `[0,1]`, `['a','b']`
    Union(Vec<Step>),
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Path(JsonPath),
    Literal(Value),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Compare {
    Exists,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Parses `.spec.list[0].name`. The error says what isn't understood.
    pub fn parse(text: &str) -> Result<JsonPath, String> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(format!("longer than {TEXT_BYTES_MAX} bytes"));
        }
        let mut steps = Vec::new();
        let mut rest = text.strip_prefix(['$', '@']).unwrap_or(text);
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("..") {
                steps.push(Step::Deep);
                rest = after;
                if !rest.starts_with(['[', '.']) && !rest.is_empty() {
                    let (step, after) = name(rest)?;
                    steps.push(step);
                    rest = after;
                }
            } else if let Some(after) = rest.strip_prefix('.') {
                if after.is_empty() {
                    break;
                }
                if after.starts_with('[') {
                    rest = after;
                    continue;
                }
                let (step, after) = name(after)?;
                steps.push(step);
                rest = after;
            } else if rest.starts_with('[') {
                let end = closing(rest).ok_or("unterminated array")?;
                steps.push(bracket(rest[1..end].trim())?);
                rest = &rest[end + 1..];
            } else if steps.is_empty() {
                let (step, after) = name(rest)?;
                steps.push(step);
                rest = after;
            } else {
                return Err(format!("unrecognized character in action: {rest:?}"));
            }
        }
        Ok(JsonPath { steps })
    }

    /// What the path leads to; nothing where a field is missing.
    pub fn find<'v>(&self, root: &'v Value) -> Vec<&'v Value> {
        let mut at = vec![root];
        for step in &self.steps {
            let mut next = Vec::new();
            for value in at {
                step.apply(value, &mut next);
            }
            next.truncate(FOUND_MAX);
            at = next;
        }
        at
    }
}

/// A field's name up to the next `.` or `[`; `\` takes the next character as it is.
fn name(text: &str) -> Result<(Step, &str), String> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some((_, c)) => out.push(c),
                None => return Err("path ends in a backslash".into()),
            },
            '.' | '[' => {
                end = i;
                break;
            }
            ' ' | '{' | '}' | '(' | ')' | ']' => {
                return Err(format!("unrecognized character in action: {c:?}"));
            }
            c => out.push(c),
        }
    }
    if out.is_empty() {
        return Err(format!("a field has no name: {text:?}"));
    }
    let step = if out == "*" {
        Step::All
    } else {
        Step::Field(out)
    };
    Ok((step, &text[end..]))
}

/// Where the bracket that opens the text closes.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

fn bracket(inner: &str) -> Result<Step, String> {
    if inner == "*" {
        return Ok(Step::All);
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        return condition(filter.trim());
    }
    let parts: Vec<&str> = split_unquoted(inner, ',');
    if parts.len() > 1 {
        let all: Result<Vec<Step>, String> = parts.into_iter().map(|p| bracket(p.trim())).collect();
        return Ok(Step::Union(all?));
    }
    if let Some(text) = quoted(inner) {
        return Ok(Step::Field(text.to_owned()));
    }
    let number = |t: &str| -> Result<Option<i64>, String> {
        if t.is_empty() {
            return Ok(None);
        }
        let n = t.parse().map_err(|_| format!("invalid array index {t}"))?;
        Ok(Some(n))
    };
    let parts: Vec<&str> = inner.split(':').map(str::trim).collect();
    Ok(match parts.as_slice() {
        [at] => Step::Index(number(at)?.ok_or("invalid array index")?),
        [from, to] => Step::Slice(number(from)?, number(to)?, 1),
        [from, to, by] => match number(by)?.unwrap_or(1) {
            by if by > 0 => Step::Slice(number(from)?, number(to)?, by),
            _ => return Err("step must be > 0".into()),
        },
        _ => return Err(format!("invalid array index {inner}")),
    })
}

fn quoted(text: &str) -> Option<&str> {
    ['\'', '"']
        .into_iter()
        .find_map(|q| text.strip_prefix(q)?.strip_suffix(q))
}

fn split_unquoted(text: &str, at: char) -> Vec<&str> {
    let (mut parts, mut start, mut quote) = (Vec::new(), 0, None);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, c) if c == at => {
                parts.push(&text[start..i]);
                start = i + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn condition(text: &str) -> Result<Step, String> {
    const SIGNS: [(&str, Compare); 6] = [
        ("==", Compare::Equal),
        ("!=", Compare::NotEqual),
        ("<=", Compare::LessOrEqual),
        (">=", Compare::GreaterOrEqual),
        ("<", Compare::Less),
        (">", Compare::Greater),
    ];
    for (sign, compare) in SIGNS {
        if let Some((left, right)) = text.split_once(sign) {
            return Ok(Step::Filter(
                operand(left.trim())?,
                compare,
                operand(right.trim())?,
            ));
        }
    }
    Ok(Step::Filter(
        operand(text)?,
        Compare::Exists,
        Operand::Literal(Value::Null),
    ))
}

fn operand(text: &str) -> Result<Operand, String> {
    if text.starts_with(['@', '$', '.']) {
        return JsonPath::parse(text).map(Operand::Path);
    }
    if let Some(text) = quoted(text) {
        return Ok(Operand::Literal(text.into()));
    }
    serde_json::from_str(text)
        .map(Operand::Literal)
        .map_err(|_| format!("unrecognized value in a filter: {text}"))
}

impl Operand {
    fn value<'v>(&'v self, of: &'v Value) -> Option<&'v Value> {
        match self {
            Operand::Literal(v) => Some(v),
            Operand::Path(p) => p.find(of).first().copied(),
        }
    }
}

impl Step {
    fn apply<'v>(&self, value: &'v Value, out: &mut Vec<&'v Value>) {
        match self {
            Step::Field(name) => out.extend(value.as_object().and_then(|m| m.get(name))),
            Step::All => match value {
                Value::Object(map) => out.extend(map.values()),
                Value::Array(items) => out.extend(items),
                _ => {}
            },
            Step::Deep => deep(value, out),
            Step::Index(at) => {
                let items = value.as_array().map_or(&[][..], Vec::as_slice);
                let at = if *at < 0 {
                    at + items.len() as i64
                } else {
                    *at
                };
                out.extend(usize::try_from(at).ok().and_then(|at| items.get(at)));
            }
            Step::Slice(from, to, by) => {
                let items = value.as_array().map_or(&[][..], Vec::as_slice);
                let length = items.len() as i64;
                let place = |n: i64| (if n < 0 { n + length } else { n }).clamp(0, length) as usize;
                let (from, to) = (place(from.unwrap_or(0)), place(to.unwrap_or(length)));
                let range = items.get(from..to.max(from)).unwrap_or_default();
                out.extend(range.iter().step_by(usize::try_from(*by).unwrap_or(1)));
            }
            Step::Filter(left, compare, right) => {
                let items: Vec<&Value> = match value {
                    Value::Array(items) => items.iter().collect(),
                    Value::Object(map) => map.values().collect(),
                    _ => vec![],
                };
                out.extend(items.into_iter().filter(|item| {
                    let (Some(l), Some(r)) = (left.value(item), right.value(item)) else {
                        return false;
                    };
                    compare.holds(l, r)
                }));
            }
            Step::Union(steps) => steps.iter().for_each(|s| s.apply(value, out)),
        }
    }
}

impl Compare {
    fn holds(self, left: &Value, right: &Value) -> bool {
        let order = match (left, right) {
            (Value::Number(l), Value::Number(r)) => l.as_f64().partial_cmp(&r.as_f64()),
            (Value::String(l), Value::String(r)) => Some(l.cmp(r)),
            _ => None,
        };
        match self {
            Compare::Exists => true,
            Compare::Equal => crate::same(left, right),
            Compare::NotEqual => !crate::same(left, right),
            Compare::Less => order.is_some_and(|o| o.is_lt()),
            Compare::LessOrEqual => order.is_some_and(|o| o.is_le()),
            Compare::Greater => order.is_some_and(|o| o.is_gt()),
            Compare::GreaterOrEqual => order.is_some_and(|o| o.is_ge()),
        }
    }
}

fn deep<'v>(value: &'v Value, out: &mut Vec<&'v Value>) {
    if out.len() >= FOUND_MAX {
        return;
    }
    out.push(value);
    match value {
        Value::Object(map) => map.values().for_each(|v| deep(v, out)),
        Value::Array(items) => items.iter().for_each(|v| deep(v, out)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finds() {
        let o = json!({"spec": {"replicas": 3, "a.b": "dotted", "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Synced", "status": "False"}]}});
        for (path, want) in [
            (".spec.replicas", vec![json!(3)]),
            (".spec.missing.deeper", vec![]),
            (".spec.list[0].n", vec![json!("x")]),
            (".spec.list[-1].n", vec![json!("y")]),
            (".spec.list[*].v", vec![json!(1), json!(2)]),
            (".spec.list[0:1].v", vec![json!(1)]),
            (".spec.list[0,1].n", vec![json!("x"), json!("y")]),
            (".spec['a.b']", vec![json!("dotted")]),
            (r".spec.a\.b", vec![json!("dotted")]),
            (
                r#".status.conditions[?(@.type=="Ready")].status"#,
                vec![json!("True")],
            ),
            (
                ".status.conditions[?(@.type != 'Ready')].status",
                vec![json!("False")],
            ),
            (".spec.list[?(@.v>1)].n", vec![json!("y")]),
            ("..n", vec![json!("x"), json!("y")]),
            ("$.spec.replicas", vec![json!(3)]),
        ] {
            let found = JsonPath::parse(path)
                .map(|p| p.find(&o).into_iter().cloned().collect::<Vec<Value>>());
            assert_eq!(found, Ok(want), "{path}");
        }
        for bad in [".a[", ".a[x]", ".a[0:1:0]", ".a[?(x)]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
        assert!(JsonPath::parse(&".a".repeat(TEXT_BYTES_MAX)).is_err());
    }
}
