//! YAML as go-yaml reads it for Compose: anchors, merge keys, `!reset` and `!override`, and the line of everything.

use crate::{
    Error,
    tree::{Map, Mark, Node, Tag, Value},
};
use granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, StrInput};
use std::{borrow::Cow, collections::HashMap, sync::Arc};

/// How many values a file may come to once its aliases are written out.
const NODES_MAX: usize = 200_000;

/// A collection that is being read.
struct Open {
    anchor: usize,
    node: Node,
    /// Of a mapping: the key that waits for its value, and where it was written.
    key: Option<(String, Mark)>,
    /// A mapping's `<<` values, in order.
    merges: Vec<Node>,
    /// The pending key is `<<`.
    merging: bool,
}

/// Most lines that [`forgiving`] indents.
const INDENTED_MAX: usize = 500;

/// Comments are passed over: kept ones would count against a limit, and files have hundreds of lines of them.
fn parser(text: &str) -> Parser<'_, StrInput<'_>> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    Parser::new_from_str_with_options(text, options)
}

/// The text as go-yaml and libyaml would read it where YAML 1.2 is stricter: lines in which a quoted scalar goes on need
/// not stand deeper than what holds it. How deep they stand means nothing, so such lines are indented; all else, and all
/// line numbers, stay.
pub fn forgiving(text: &str) -> Cow<'_, str> {
    let deep = " ".repeat(256);
    let mut text = Cow::Borrowed(text);
    for _ in 0..INDENTED_MAX {
        let line = match parser(&text).find_map(Result::err) {
            Some(e) if *e.kind() == ErrorKind::InvalidQuotedScalarIndent => e.marker().line(),
            _ => break,
        };
        let lines = text.split_inclusive('\n');
        let start: usize = lines.take(line.saturating_sub(1)).map(str::len).sum();
        text.to_mut().insert_str(start, &deep);
    }
    text
}

/// The documents of one file.
pub(crate) fn documents(file: &Arc<str>, text: &str) -> Result<Vec<Node>, Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    read(file, text).or_else(|error| match forgiving(text) {
        Cow::Borrowed(_) => Err(error),
        Cow::Owned(text) => read(file, &text),
    })
}

fn read(file: &Arc<str>, text: &str) -> Result<Vec<Node>, Error> {
    let mut parser = parser(text);
    let unfinished = !text.ends_with('\n');
    let mut builder = Builder {
        stack: vec![],
        anchors: HashMap::new(),
        made: 0,
        done: vec![],
    };
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|e| Error {
            file: file.to_string(),
            line: Some(e.marker().line()),
            message: format!("not valid YAML: {}", e.info()),
        })?;
        let mark = Mark {
            file: file.clone(),
            line: span.start.line(),
        };
        // A file without a line break at its end has none to give to the block scalar that it ends with.
        let rest = span.end.byte_offset().and_then(|end| text.get(end..));
        let last = unfinished && rest.is_some_and(|r| r.trim_start().is_empty());
        let event = match event {
            Event::Scalar(text, style, anchor, tag)
                if last && matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) =>
            {
                let text = text.strip_suffix('\n').unwrap_or(&text).to_string();
                Event::Scalar(text.into(), style, anchor, tag)
            }
            other => other,
        };
        builder.event(event, mark)?;
    }
    Ok(builder.done)
}

struct Builder {
    stack: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    made: usize,
    done: Vec<Node>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, mark: Mark) -> Result<(), Error> {
        match event {
            Event::DocumentStart(..) => self.anchors.clear(),
            Event::Alias(id) => {
                let Some((node, size)) = self.anchors.get(&id) else {
                    return Err(mark.error("cycle detected: an anchor contains itself"));
                };
                let (mut node, size) = (node.clone(), *size);
                // What a key says is told by the key's line, not by the anchor's.
                node.mark = mark.clone();
                self.count(size, &mark)?;
                self.value(node)?;
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, &mark)?;
                let key_wanted = self
                    .stack
                    .last()
                    .is_some_and(|o| matches!(o.node.value, Value::Map(_)) && o.key.is_none());
                let (suffix, core) = match &tag {
                    Some(t) => (Some(t.suffix().to_string()), t.core_suffix().is_some()),
                    None => (None, false),
                };
                if key_wanted {
                    let plain = style == ScalarStyle::Plain;
                    let value = match plain && !core {
                        true => resolve(&text),
                        false => Value::Text(text.to_string()),
                    };
                    if anchor > 0 {
                        let node = mark.node(value.clone());
                        self.anchors.insert(anchor, (node, 1));
                    }
                    return self.key(value, plain && text == "<<", mark);
                }
                let value = match suffix.as_deref() {
                    Some("str") if core => Value::Text(text.to_string()),
                    Some("reset") => Value::Null,
                    None if style != ScalarStyle::Plain => Value::Text(text.to_string()),
                    Some("int" | "float" | "bool" | "null") if core => resolve(&text),
                    _ if style != ScalarStyle::Plain => Value::Text(text.to_string()),
                    _ => resolve(&text),
                };
                let node = Node {
                    value,
                    mark,
                    tag: tag_of(suffix.as_deref()),
                };
                if anchor > 0 {
                    self.anchors.insert(anchor, (node.clone(), 1));
                }
                self.value(node)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(Value::List(vec![]), anchor, tag.as_deref(), mark)?;
            }
            Event::MappingStart(_, anchor, tag) => {
                self.open(Value::Map(Map::new()), anchor, tag.as_deref(), mark)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.stack.pop() {
                    let (anchor, node) = (open.anchor, merged(open)?);
                    if anchor > 0 {
                        let size = size(&node);
                        self.anchors.insert(anchor, (node.clone(), size));
                    }
                    self.value(node)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, more: usize, mark: &Mark) -> Result<(), Error> {
        self.made = self.made.saturating_add(more);
        if self.made > NODES_MAX {
            return Err(mark.error(format!(
                "compose file exceeds maximum node visit limit ({NODES_MAX})"
            )));
        }
        Ok(())
    }

    fn open(
        &mut self,
        value: Value,
        anchor: usize,
        tag: Option<&granit_parser::Tag>,
        mark: Mark,
    ) -> Result<(), Error> {
        self.count(1, &mark)?;
        let is_key = self
            .stack
            .last()
            .is_some_and(|o| matches!(o.node.value, Value::Map(_)) && o.key.is_none());
        if is_key {
            return Err(mark.error("a mapping's key is a list or a mapping: write a string"));
        }
        self.stack.push(Open {
            anchor,
            node: Node {
                value,
                mark,
                tag: tag_of(tag.map(|t| t.suffix())),
            },
            key: None,
            merges: vec![],
            merging: false,
        });
        Ok(())
    }

    fn key(&mut self, value: Value, merge: bool, mark: Mark) -> Result<(), Error> {
        let Some(open) = self.stack.last_mut() else {
            return Ok(());
        };
        let Value::Text(key) = value else {
            return Err(mark.error(format!("non-string key: {value}: write it in quotes")));
        };
        open.merging = merge;
        if let Some(earlier) = open.node.map().and_then(|m| m.get(&key)).filter(|_| !merge) {
            let line = earlier.mark.line;
            return Err(mark.error(format!(
                "mapping key {key:?} already defined at line {line}"
            )));
        }
        open.key = Some((key, mark));
        Ok(())
    }

    fn value(&mut self, mut node: Node) -> Result<(), Error> {
        let Some(open) = self.stack.last_mut() else {
            self.done.push(node);
            return Ok(());
        };
        match &mut open.node.value {
            Value::List(items) => items.push(node),
            Value::Map(map) => match open.key.take() {
                Some((_, mark)) if open.merging => {
                    open.merging = false;
                    match node.value {
                        Value::List(items) if items.iter().all(|i| i.map().is_some()) => {
                            open.merges.extend(items);
                        }
                        Value::Map(_) => open.merges.push(node),
                        _ => {
                            return Err(mark
                                .error("map merge requires map or sequence of maps as the value"));
                        }
                    }
                }
                Some((key, mark)) => {
                    node.mark = mark;
                    map.insert(key, node);
                }
                // An alias as a key.
                None => {
                    let mark = node.mark.clone();
                    return self.key(node.value, false, mark);
                }
            },
            _ => {}
        }
        Ok(())
    }
}

/// The finished collection; what `<<` brings fills what the mapping itself does not say.
fn merged(open: Open) -> Result<Node, Error> {
    let mut node = open.node;
    if let Some(map) = node.map_mut() {
        for from in open.merges {
            if let Value::Map(entries) = from.value {
                for (key, value) in entries {
                    map.entry(key).or_insert(value);
                }
            }
        }
    }
    Ok(node)
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::List(l) => l.iter().map(size).sum(),
        Value::Map(m) => m.values().map(size).sum(),
        _ => 0,
    }
}

fn tag_of(suffix: Option<&str>) -> Tag {
    match suffix {
        Some("reset") => Tag::Reset,
        Some("override") => Tag::Override,
        _ => Tag::None,
    }
}

/// A plain scalar as go-yaml takes it: YAML 1.2's core schema, underscores in numbers, and `0600` as octal.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".inf" | "+.inf" | ".Inf" | ".INF" => return Value::Float(f64::INFINITY),
        "-.inf" => return Value::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    let first = text.as_bytes()[0];
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) {
        return Value::text(text);
    }
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let (radix, body) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if body.bytes().all(|b| b.is_ascii_alphanumeric())
        && let Ok(n) = i64::from_str_radix(&format!("{sign}{body}"), radix)
    {
        return Value::Int(n);
    }
    let float = digits
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && digits.bytes().any(|b| b.is_ascii_digit());
    match plain.parse::<f64>() {
        Ok(n) if float => Value::Float(n),
        _ => Value::text(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn json_of(text: &str) -> Result<Vec<serde_json::Value>, String> {
        documents(&"f".into(), text)
            .map(|d| d.iter().map(Node::to_json).collect())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn scalars_anchors_and_merge_keys() {
        for (text, want) in [
            (
                "a: 0600\nb: 0o17\nc: 1_000\nd: 08\ne: 1.5\nf: yes\ng: True",
                json!({"a": 384, "b": 15, "c": 1000, "d": 8.0, "e": 1.5, "f": "yes", "g": true}),
            ),
            (
                "a: 1.2.3\nb: 10:20\nc:\n-\nd: 3s\ne: 2020-01-01\nf: +5",
                json!({"a": "1.2.3", "b": "10:20", "c": [null], "d": "3s", "e": "2020-01-01", "f": 5}),
            ),
            (
                "a: !!str 8\nb: \"8\"\nc: ~\nd: ''",
                json!({"a": "8", "b": "8", "c": null, "d": ""}),
            ),
            (
                "x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}",
                json!({"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}}),
            ),
            (
                "x: &x {a: 1}\nz: &z {a: 2, c: 3}\ny:\n  <<: [*x, *z]",
                json!({"x": {"a": 1}, "z": {"a": 2, "c": 3}, "y": {"a": 1, "c": 3}}),
            ),
            ("k: &k name\n*k : v", json!({"k": "name", "name": "v"})),
            // less indented than YAML 1.2 wants it, as in many a file with JSON in it
            (
                "s:\n  a:\n    J: '{\n      \"x\": 1,\n    \"y\": 2\n\n  }'\n    K: \"a\n b\\\nc\"\n  b: 2",
                json!({"s": {"a": {"J": "{ \"x\": 1, \"y\": 2\n}", "K": "a bc"}, "b": 2}}),
            ),
            // go-yaml gives a block scalar no line break that the file does not have
            ("a: |\n  b\n  c", json!({"a": "b\nc"})),
            ("a: >\n  b\n  c ", json!({"a": "b c "})),
            ("a: |+\n  b\n", json!({"a": "b\n"})),
            ("a: |\n  b\nc: d", json!({"a": "b\n", "c": "d"})),
            ("a: |\n  b\n# c", json!({"a": "b\n"})),
        ] {
            assert_eq!(json_of(text), Ok(vec![want]), "{text}");
        }
        let comments = "# a word\n".repeat(500);
        assert_eq!(
            json_of(&format!("a:\n{comments}  b: 1\n{comments}c: 2\n")),
            Ok(vec![json!({"a": {"b": 1}, "c": 2})])
        );
        assert_eq!(json_of("a: 1\n---\nb: 2\n").unwrap().len(), 2);
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        for (text, want) in [
            (
                "a: 1\nb: 2\na: 3\n",
                "f:3: mapping key \"a\" already defined at line 1",
            ),
            ("a: &a [*a]\n", "cycle detected"),
            ("a:\n  1: x\n", "f:2: non-string key: 1"),
            ("a: {<<: 3}", "map merge requires map"),
            ("a: [", "not valid YAML"),
        ] {
            let error = json_of(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_string();
        for i in 1..9 {
            bomb += &format!(
                "a{i}: &a{i} [{}]\n",
                vec![format!("*a{}", i - 1); 10].join(",")
            );
        }
        assert!(
            json_of(&bomb)
                .unwrap_err()
                .contains("maximum node visit limit")
        );
    }
}
