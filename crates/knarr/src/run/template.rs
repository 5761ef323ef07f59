//! `--format`: what people ask of `inspect` and `ps`, of Go's templates: fields, `json`, `index`, `len`, `if`, `range`.
//!
//! SOURCE: Go `text/template`, docker/cli `templates/templates.go`

use serde_json::Value;

/// Steps that one template may take: a loop in a loop is no way to use up the machine.
const STEPS_MAX: usize = 100_000;

#[derive(Debug)]
enum Node {
    Text(String),
    Value(Vec<String>),
    If(Vec<String>, Vec<Node>, Vec<Node>),
    Range(Vec<String>, Vec<Node>),
}

/// Fills a template with what is known of one thing.
///
/// # Errors
/// What can't be read, or is not understood, by name.
pub fn fill(template: &str, value: &Value) -> Result<String, String> {
    let mut rest = pieces(template)?.into_iter();
    let (nodes, end) = parse(&mut rest)?;
    if let Some(end) = end {
        return Err(format!("template parsing error: unexpected {{{{{end}}}}}"));
    }
    let mut out = String::new();
    write(&nodes, value, value, &mut out, &mut STEPS_MAX.clone())?;
    Ok(out)
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Action(String),
}

fn pieces(template: &str) -> Result<Vec<Piece>, String> {
    let (mut all, mut rest, mut trim) = (Vec::new(), template, false);
    while let Some((text, after)) = rest.split_once("{{") {
        let (action, after) = after
            .split_once("}}")
            .ok_or("template parsing error: unclosed action")?;
        let mut text = if trim { text.trim_start() } else { text };
        if action.starts_with('-') {
            text = text.trim_end();
        }
        trim = action.ends_with('-');
        all.push(Piece::Text(text.into()));
        let action = action.trim_start_matches('-').trim_end_matches('-').trim();
        all.push(Piece::Action(action.into()));
        rest = after;
    }
    all.push(Piece::Text(if trim {
        rest.trim_start().into()
    } else {
        rest.into()
    }));
    Ok(all)
}

/// Words, quoted ones whole.
fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut all, mut chars) = (Vec::new(), text.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '"' | '`' => {
                let mut word = String::from('"');
                loop {
                    match chars.next() {
                        Some('\\') if c == '"' => word.extend(chars.next()),
                        Some(end) if end == c => break,
                        Some(other) => word.push(other),
                        None => {
                            return Err("template parsing error: unterminated quoted string".into());
                        }
                    }
                }
                all.push(word);
            }
            c => {
                let mut word = String::from(c);
                while let Some(next) = chars.peek().filter(|n| !n.is_whitespace()) {
                    word.push(*next);
                    chars.next();
                }
                all.push(word);
            }
        }
    }
    Ok(all)
}

/// Until `end` or `else`, which is given back.
fn parse(rest: &mut std::vec::IntoIter<Piece>) -> Result<(Vec<Node>, Option<String>), String> {
    let mut nodes = Vec::new();
    while let Some(piece) = rest.next() {
        let action = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(action) => action,
        };
        let mut all = words(&action)?;
        match all.first().map(String::as_str) {
            None => return Err("template parsing error: missing value for command".into()),
            Some("end" | "else") => return Ok((nodes, Some(action))),
            Some(kind @ ("if" | "range")) => {
                let is_if = kind == "if";
                all.remove(0);
                let (body, end) = parse(rest)?;
                let other = match end.as_deref() {
                    Some("else") if is_if => parse(rest)?,
                    end => (Vec::new(), end.map(str::to_string)),
                };
                if other.1.as_deref() != Some("end") {
                    return Err("template parsing error: unexpected EOF".into());
                }
                nodes.push(match is_if {
                    true => Node::If(all, body, other.0),
                    false => Node::Range(all, body),
                });
            }
            Some(_) => nodes.push(Node::Value(all)),
        }
    }
    Ok((nodes, None))
}

fn field<'a>(path: &str, here: &'a Value, top: &'a Value) -> Result<&'a Value, String> {
    let (mut at, path) = match path.strip_prefix('$') {
        Some(path) => (top, path),
        None => (here, path),
    };
    for name in path.split('.').filter(|n| !n.is_empty()) {
        at = match at {
            Value::Object(map) => match map.get(name) {
                Some(value) => value,
                None => return Err(format!("template: can't evaluate field {name}")),
            },
            _ => &Value::Null,
        };
    }
    Ok(at)
}

fn argument(word: &str, here: &Value, top: &Value) -> Result<Value, String> {
    match word.chars().next() {
        Some('"') => Ok(Value::String(word[1..].into())),
        Some('.' | '$') => field(word, here, top).cloned(),
        _ => word
            .parse::<i64>()
            .map(Value::from)
            .map_err(|_| format!("template parsing error: function \"{word}\" not defined")),
    }
}

fn evaluate(all: &[String], here: &Value, top: &Value) -> Result<Value, String> {
    // `a | b` is `b a`
    if let Some(at) = all.iter().rposition(|w| w == "|") {
        let inner = evaluate(&all[..at], here, top)?;
        let mut call = all[at + 1..].to_vec();
        call.push(match inner {
            Value::String(text) => format!("\"{text}"),
            other => return apply(&call, vec![other]),
        });
        return evaluate(&call, here, top);
    }
    match all.first().map(String::as_str) {
        Some(word) if word.starts_with(['.', '$', '"']) && all.len() == 1 => {
            argument(word, here, top)
        }
        // of what lists show, one of the labels
        Some(".Label") if all.len() == 2 => {
            let (asked, labels) = (argument(&all[1], here, top)?, field(".Labels", here, top)?);
            let pairs = labels.as_str().unwrap_or_default().split(',');
            let found = pairs
                .filter_map(|p| p.split_once('='))
                .find(|(k, _)| asked == *k);
            Ok(Value::from(found.map_or("", |(_, value)| value)))
        }
        Some(_) => {
            let arguments = all[1..].iter().map(|w| argument(w, here, top));
            apply(&all[..1], arguments.collect::<Result<_, _>>()?)
        }
        None => Err("template parsing error: missing value for command".into()),
    }
}

fn apply(call: &[String], arguments: Vec<Value>) -> Result<Value, String> {
    let text = |value: &Value| shown(value);
    match (
        call.first().map(String::as_str).unwrap_or_default(),
        &arguments[..],
    ) {
        ("json", [value]) => Ok(Value::String(value.to_string())),
        ("len", [value]) => Ok(Value::from(match value {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            other => text(other).len(),
        })),
        ("index", [value, keys @ ..]) => {
            let mut at = value;
            for key in keys {
                at = match (at, key) {
                    (Value::Object(map), Value::String(key)) => {
                        map.get(key).unwrap_or(&Value::Null)
                    }
                    (Value::Array(list), Value::Number(n)) => n
                        .as_u64()
                        .and_then(|n| list.get(n as usize))
                        .ok_or_else(|| format!("error calling index: index out of range: {n}"))?,
                    _ => &Value::Null,
                };
            }
            Ok(at.clone())
        }
        ("println", [value]) => Ok(Value::String(text(value) + "\n")),
        ("print", [value]) => Ok(Value::String(text(value))),
        ("upper", [value]) => Ok(Value::String(text(value).to_uppercase())),
        ("lower", [value]) => Ok(Value::String(text(value).to_lowercase())),
        ("title", [value]) => {
            let text = text(value);
            let mut chars = text.chars();
            let first = chars.next().map(|c| c.to_uppercase().to_string());
            Ok(Value::String(first.unwrap_or_default() + chars.as_str()))
        }
        ("join", [Value::Array(list), Value::String(with)]) => {
            let list: Vec<String> = list.iter().map(text).collect();
            Ok(Value::String(list.join(with)))
        }
        ("not", [value]) => Ok(Value::Bool(!holds(value))),
        ("eq", [a, b]) => Ok(Value::Bool(a == b)),
        ("ne", [a, b]) => Ok(Value::Bool(a != b)),
        (name, _) => Err(format!(
            "template parsing error: function {name:?} is not known here, or not with so many arguments"
        )),
    }
}

/// As Go prints it.
fn shown(value: &Value) -> String {
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

fn holds(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

fn write(
    nodes: &[Node],
    here: &Value,
    top: &Value,
    out: &mut String,
    steps: &mut usize,
) -> Result<(), String> {
    for node in nodes {
        *steps = steps.checked_sub(1).ok_or("the template does not end")?;
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Value(all) => out.push_str(&shown(&evaluate(all, here, top)?)),
            Node::If(all, body, other) => {
                let body = if holds(&evaluate(all, here, top)?) {
                    body
                } else {
                    other
                };
                write(body, here, top, out, steps)?;
            }
            Node::Range(all, body) => {
                // `$k, $v := .X` names what this has no names for
                if all.iter().any(|w| w == ":=") {
                    return Err("template parsing error: variables are not known here".into());
                }
                let list = match evaluate(all, here, top)? {
                    Value::Array(list) => list,
                    Value::Object(map) => map.into_iter().map(|(_, v)| v).collect(),
                    _ => Vec::new(),
                };
                for one in &list {
                    write(body, one, top, out, steps)?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_are_filled() {
        let value = json!({
            "Name": "/web", "State": { "Running": true, "Pid": 7 },
            "Config": { "Labels": { "a.b": "c" }, "Env": ["A=1", "B=2"] },
            "Mounts": [{ "Source": "/x" }, { "Source": "/y" }],
            "Ports": {}, "Labels": "x=1,y=2",
        });
        for (template, wanted) in [
            ("{{.Name}}", Ok("/web")),
            ("a {{ .State.Pid }} b", Ok("a 7 b")),
            ("{{json .State}}", Ok(r#"{"Pid":7,"Running":true}"#)),
            ("{{.State.Pid | json}}", Ok("7")),
            (r#"{{index .Config.Labels "a.b"}}"#, Ok("c")),
            ("{{index .Config.Env 1}}", Ok("B=2")),
            ("{{.Config.Env}}", Ok("[A=1 B=2]")),
            ("{{.Config.Labels}}", Ok("map[a.b:c]")),
            ("{{len .Mounts}}", Ok("2")),
            ("{{range .Mounts}}{{.Source}};{{end}}", Ok("/x;/y;")),
            ("{{if .State.Running}}up{{else}}down{{end}}", Ok("up")),
            ("{{if .Ports}}up{{else}}down{{end}}", Ok("down")),
            (r#"{{join .Config.Env ","}}"#, Ok("A=1,B=2")),
            ("{{ .Name -}}   x", Ok("/webx")),
            (r#"{{.Label "y"}}{{.Label "z"}}"#, Ok("2")),
            ("{{.None}}", Err("can't evaluate field None")),
            ("{{.Name", Err("unclosed action")),
            ("{{nope .Name}}", Err("nope")),
            ("{{if .Name}}", Err("unexpected EOF")),
            ("{{range $k, $v := .Ports}}{{end}}", Err("variables")),
        ] {
            match (fill(template, &value), wanted) {
                (Ok(got), Ok(wanted)) => assert_eq!(got, wanted, "{template}"),
                (Err(got), Err(part)) => assert!(got.contains(part), "{template}: {got}"),
                (got, _) => panic!("{template}: {got:?}"),
            }
        }
    }
}
