//! The functions of templates, and how values are shown.

use serde_json::Value;
use std::cmp::Ordering;

/// Fields of `printf` are so wide at most.
const WIDTH_MAX: usize = 10_000;

const NAMES: [&str; 25] = [
    "and", "eq", "ge", "gt", "index", "join", "json", "le", "len", "lower", "lt", "ne", "not",
    "or", "pad", "print", "printf", "println", "slice", "split", "table", "title", "truncate",
    "upper", "html",
];

pub fn is_one(name: &str) -> bool {
    NAMES.contains(&name)
}

pub fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let text = |text: String| Ok(Value::String(text));
    match (name, arguments) {
        ("json", [value]) => text(value.to_string()),
        ("len", [value]) => Ok(Value::from(match value {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            Value::Null => 0,
            Value::String(text) => text.len(),
            other => return Err(format!("error calling len: len of {}", shown(other))),
        })),
        ("index", [value, keys @ ..]) => index(value, keys),
        ("slice", [Value::String(whole), bounds @ ..]) => {
            let (from, to) = bounds_of(bounds, whole.len())?;
            let part = whole.get(from..to);
            text(
                part.ok_or("error calling slice: index out of range")?
                    .into(),
            )
        }
        ("slice", [Value::Array(list), bounds @ ..]) => {
            let (from, to) = bounds_of(bounds, list.len())?;
            Ok(Value::Array(list[from..to].to_vec()))
        }
        ("and", [.., last]) => Ok(arguments.iter().find(|a| !holds(a)).unwrap_or(last).clone()),
        ("or", [.., last]) => Ok(arguments.iter().find(|a| holds(a)).unwrap_or(last).clone()),
        ("not", [value]) => Ok(Value::Bool(!holds(value))),
        ("eq", [a, others @ ..]) if !others.is_empty() => Ok(Value::Bool(
            others
                .iter()
                .any(|b| compare(a, b) == Some(Ordering::Equal)),
        )),
        ("ne", [a, b]) => Ok(Value::Bool(compare(a, b) != Some(Ordering::Equal))),
        ("lt" | "le" | "gt" | "ge", [a, b]) => {
            let order = compare(a, b).ok_or_else(|| {
                format!("error calling {name}: incompatible types for comparison")
            })?;
            Ok(Value::Bool(match name {
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            }))
        }
        ("print" | "html" | "table", all) => text(all.iter().map(shown).collect()),
        ("println", all) => {
            let all: Vec<String> = all.iter().map(shown).collect();
            text(all.join(" ") + "\n")
        }
        ("printf", [Value::String(format), rest @ ..]) => text(printf(format, rest)?),
        ("upper", [value]) => text(shown(value).to_uppercase()),
        ("lower", [value]) => text(shown(value).to_lowercase()),
        ("title", [value]) => text(title(&shown(value))),
        ("join", [Value::Array(list), Value::String(with)]) => {
            let list: Vec<String> = list.iter().map(shown).collect();
            text(list.join(with))
        }
        ("join", [Value::Null, _]) => text(String::new()),
        ("split", [Value::String(whole), Value::String(at)]) => {
            Ok(whole.split(at.as_str()).map(Value::from).collect())
        }
        ("pad", [value, before, after]) => match shown(value) {
            whole if whole.is_empty() => text(whole),
            whole => text(spaces(before) + &whole + &spaces(after)),
        },
        ("truncate", [value, most]) => {
            let most = most.as_u64().unwrap_or(0) as usize;
            text(shown(value).chars().take(most).collect())
        }
        _ => Err(format!(
            "wrong number or kind of args for {name}: got {}",
            arguments.len()
        )),
    }
}

fn spaces(count: &Value) -> String {
    let count = count.as_u64().unwrap_or(0) as usize;
    " ".repeat(count.min(WIDTH_MAX))
}

fn title(text: &str) -> String {
    let mut begins = true;
    let one = |c: char| {
        let shown = if begins {
            c.to_uppercase().collect()
        } else {
            c.to_string()
        };
        begins = c.is_whitespace();
        shown
    };
    text.chars().map(one).collect()
}

fn bounds_of(bounds: &[Value], length: usize) -> Result<(usize, usize), String> {
    let number = |at: usize, unset: usize| {
        bounds
            .get(at)
            .map_or(Some(unset), |v| v.as_u64().map(|n| n as usize))
    };
    match (number(0, 0), number(1, length)) {
        (Some(from), Some(to)) if from <= to && to <= length => Ok((from, to)),
        _ => Err("error calling slice: index out of range".into()),
    }
}

fn index(value: &Value, keys: &[Value]) -> Result<Value, String> {
    let mut at = value.clone();
    for key in keys {
        at = match (&at, key) {
            (Value::Object(map), Value::String(key)) => match map.get(key) {
                Some(found) => found.clone(),
                // of a map of texts it's an empty one
                None if map.values().all(Value::is_string) => "".into(),
                None => Value::Null,
            },
            (Value::Array(list), Value::Number(n)) => {
                let found = n.as_u64().and_then(|n| list.get(n as usize));
                let found =
                    found.ok_or_else(|| format!("error calling index: index out of range: {n}"))?;
                found.clone()
            }
            (Value::Null, _) => return Err("error calling index: index of untyped nil".into()),
            (other, _) => {
                return Err(format!(
                    "error calling index: can't index item of {}",
                    shown(other)
                ));
            }
        };
    }
    Ok(at)
}

fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (a, b) if a == b => Some(Ordering::Equal),
        _ => None,
    }
}

/// SOURCE: Go `fmt`, the verbs that templates use
fn printf(format: &str, arguments: &[Value]) -> Result<String, String> {
    let (mut out, mut rest, mut chars) =
        (String::new(), arguments.iter(), format.chars().peekable());
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (mut left, mut zero) = (false, false);
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '0' | '+' | ' ' | '#')) {
            left |= flag == '-';
            zero |= flag == '0';
        }
        let mut number = || -> Option<usize> {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            (!digits.is_empty()).then(|| digits.parse().unwrap_or(usize::MAX))
        };
        let width = number().unwrap_or(0);
        let precision = match chars.next_if_eq(&'.') {
            Some(_) => {
                let mut digits = String::new();
                while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                    digits.push(digit);
                }
                Some(digits.parse().unwrap_or(0_usize))
            }
            None => None,
        };
        if width > WIDTH_MAX || precision.is_some_and(|p| p > WIDTH_MAX) {
            return Err("error calling printf: a field is too wide".into());
        }
        let verb = chars.next().ok_or("error calling printf: no verb")?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = rest.next() else {
            out.push_str(&format!("%!{verb}(MISSING)"));
            continue;
        };
        let text = match verb {
            'f' | 'e' | 'g' => format!(
                "{:.*}",
                precision.unwrap_or(6),
                value.as_f64().unwrap_or(f64::NAN)
            ),
            'q' => Value::String(shown(value)).to_string(),
            'x' => match value.as_u64() {
                Some(n) => format!("{n:x}"),
                None => hex::encode(shown(value)),
            },
            's' | 'v' | 'd' | 't' => match precision {
                Some(most) => shown(value).chars().take(most).collect(),
                None => shown(value),
            },
            other => format!("%!{other}({})", shown(value)),
        };
        let missing = width.saturating_sub(text.chars().count());
        let fill = if zero && !left { "0" } else { " " }.repeat(missing);
        match left {
            true => out.push_str(&(text + &fill)),
            false => out.push_str(&(fill + &text)),
        }
    }
    Ok(out)
}

/// As Go prints it.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let list: Vec<String> = list.iter().map(shown).collect();
            format!("[{}]", list.join(" "))
        }
        Value::Object(map) => {
            let pairs: Vec<String> = map
                .iter()
                .map(|(k, v)| format!("{k}:{}", shown(v)))
                .collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

pub fn holds(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}
