//! JSON to a pruned, type-checked value, with upstream's words for what is wrong.
//!
//! Follows sigs.k8s.io/json (Go's encoding/json with case-sensitive names and strict errors): a wrong type is remembered and reading goes on, the first one is reported; a value that its own type refuses (quantity, time) ends the reading; unknown and duplicate fields are collected, at most [`STRICT_ERRORS_MAX`].

mod node;

use serde::Deserializer;
use serde::de::DeserializeSeed;
use serde_json::{Map, Value};

use crate::types::{Field, Graph, Kind, Scalar, TypeId, TypeRef};
use node::Node;

/// Upstream's bound on collected strict errors.
const STRICT_ERRORS_MAX: usize = 100;

/// Its empty list asks for the managers to be forgotten ([`crate::managed::update`]), so that it isn't dropped.
const MANAGED_FIELDS: &str = "managedFields";

/// What decoding found, in upstream's wording (`unknown field "spec.foo"`, `duplicate field "metadata.name"`).
#[derive(Debug, Default)]
pub struct Decoded {
    pub value: Value,
    pub unknown: Vec<String>,
    pub duplicate: Vec<String>,
}

/// Why a body isn't the type it should be, in upstream's wording.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

/// Parses JSON, checks types with upstream's wording (`json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`), prunes unknown fields, drops nulls and what Go's `omitempty` drops, applies the table's `default:`s (not the kinds' SetDefaults).
pub fn decode(ty: TypeRef, json: &[u8]) -> Result<Decoded, DecodeError> {
    let mut de = serde_json::Deserializer::from_slice(json);
    let decoded = run(ty, &mut de, |e| syntax_error(json, e)).map_err(|e| as_written(e, json))?;
    if let Err(e) = de.end() {
        return Err(syntax_error(json, &e));
    }
    if decoded.value.is_null() {
        return conform(ty, Value::Object(Map::new()));
    }
    Ok(decoded)
}

/// The error with its number as the text has it: `1e2`, where serde has read `100.0`.
fn as_written(e: DecodeError, json: &[u8]) -> DecodeError {
    const BEFORE: &str = "json: cannot unmarshal number ";
    let Some((number, rest)) = e.0.strip_prefix(BEFORE).and_then(|r| r.split_once(' ')) else {
        return e;
    };
    let Ok(read) = number.parse::<f64>() else {
        return e;
    };
    let (mut at, mut in_string) = (0, false);
    while let Some(b) = json.get(at) {
        match b {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'-' | b'0'..=b'9' if !in_string => {
                let end = json[at..]
                    .iter()
                    .position(|b| !matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
                    .map_or(json.len(), |n| at + n);
                let token = std::str::from_utf8(&json[at..end]).unwrap_or_default();
                if token != number && token.parse() == Ok(read) {
                    return DecodeError(format!("{BEFORE}{token} {rest}"));
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    e
}

/// [`decode`] for an already parsed value (patch results, YAML).
pub fn conform(ty: TypeRef, value: Value) -> Result<Decoded, DecodeError> {
    run(ty, value, |e| DecodeError(e.to_string()))
}

fn run<'de, D: Deserializer<'de>>(
    ty: TypeRef,
    de: D,
    other: impl Fn(&D::Error) -> DecodeError,
) -> Result<Decoded, DecodeError> {
    let mut ctx = Context {
        graph: ty.graph,
        unknown: Vec::new(),
        duplicate: Vec::new(),
        path: String::new(),
        go_path: Vec::new(),
        owner: None,
        wrong: None,
        fatal: None,
    };
    let result = Node {
        ctx: &mut ctx,
        ty: ty.id,
        go: "",
    }
    .deserialize(de);
    if let Some(fatal) = ctx.fatal {
        return Err(DecodeError(fatal));
    }
    let value = result.map_err(|e| other(&e))?;
    match ctx.wrong {
        Some(wrong) => Err(DecodeError(wrong)),
        None => Ok(Decoded {
            value,
            unknown: ctx.unknown,
            duplicate: ctx.duplicate,
        }),
    }
}

/// Go's words for JSON that isn't JSON, as far as serde's error tells.
pub fn syntax_error(json: &[u8], error: &serde_json::Error) -> DecodeError {
    if error.is_eof() {
        return DecodeError("unexpected end of JSON input".into());
    }
    let text = error.to_string();
    let why = [
        ("expected value", "looking for beginning of value"),
        (
            "key must be a string",
            "looking for beginning of object key string",
        ),
        ("trailing comma", "looking for beginning of value"),
        ("expected `:`", "after object key"),
        ("expected `,` or `}`", "after object key:value pair"),
        ("expected `,` or `]`", "after array element"),
        ("trailing characters", "after top-level value"),
        ("control character", "in string literal"),
        ("invalid escape", "in string escape code"),
        ("invalid number", "in numeric literal"),
    ];
    let why = why.iter().find(|(ours, _)| text.starts_with(ours));
    if text.starts_with("recursion limit") {
        return DecodeError("exceeded max depth".into());
    }
    let mut at = json
        .split(|b| *b == b'\n')
        .take(error.line().saturating_sub(1))
        .map(|l| l.len() + 1)
        .sum::<usize>()
        + error.column().saturating_sub(1);
    // serde has taken the character along where Go points at it
    if text.starts_with("control character") && json.get(at).is_some_and(|b| *b >= b' ') {
        at = at.saturating_sub(1);
    }
    match (json.get(at), why) {
        (Some(b'}'), Some(("trailing comma", _))) => {
            DecodeError("invalid character '}' looking for beginning of object key string".into())
        }
        (Some(b), Some((_, why))) if !error.is_data() => {
            DecodeError(format!("invalid character {} {why}", quoted(*b)))
        }
        _ => DecodeError(text),
    }
}

/// A character as Go's JSON errors show it.
fn quoted(b: u8) -> String {
    match b {
        b'\'' => r"'\''".into(),
        b'"' => r#"'"'"#.into(),
        b'\n' => r"'\n'".into(),
        b'\r' => r"'\r'".into(),
        b'\t' => r"'\t'".into(),
        b'\\' => r"'\\'".into(),
        b' '..=b'~' => format!("'{}'", char::from(b)),
        0x80.. => format!("'{}'", char::from(b)),
        _ => format!("'\\x{b:02x}'"),
    }
}

struct Context {
    graph: &'static Graph,
    unknown: Vec<String>,
    duplicate: Vec<String>,
    /// `spec.containers[0].ports`
    path: String,
    /// Field names from the root, without list positions and map keys, as type errors print them.
    go_path: Vec<&'static str>,
    /// The struct whose field is read.
    owner: Option<&'static str>,
    wrong: Option<String>,
    fatal: Option<String>,
}

impl Context {
    fn type_error(&self, found: &str, go_type: &str) -> String {
        match self.owner {
            Some(owner) => {
                let owner = owner.rsplit('.').next().unwrap_or_default();
                format!(
                    "json: cannot unmarshal {found} into Go struct field {owner}.{} of type {go_type}",
                    self.go_path.join(".")
                )
            }
            None => format!("json: cannot unmarshal {found} into Go value of type {go_type}"),
        }
    }

    fn push_key(&mut self, key: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        length
    }

    fn strict(&mut self, duplicate: bool, key: &str) {
        let length = self.push_key(key);
        let (list, word) = if duplicate {
            (&mut self.duplicate, "duplicate")
        } else {
            (&mut self.unknown, "unknown")
        };
        let error = format!("{word} field {:?}", self.path);
        if list.len() < STRICT_ERRORS_MAX && !list.contains(&error) {
            list.push(error);
        }
        self.path.truncate(length);
    }
}

/// What Go's types have though the input doesn't: structs held by value, and the table's defaults (zero defaults are the absence itself).
fn complete(graph: &Graph, fields: &[Field], out: &mut Map<String, Value>) {
    for field in fields.iter().filter(|f| f.always || f.default.is_some()) {
        if out.contains_key(field.name) {
            continue;
        }
        if field.always {
            let mut inner = Map::new();
            if let Some((_, fields)) = graph.fields_of(field.ty) {
                complete(graph, fields, &mut inner);
            }
            out.insert(field.name.to_owned(), Value::Object(inner));
        } else if let Some(default) = field
            .default
            .filter(|d| !matches!(*d, "\"\"" | "0" | "false" | "{}"))
            && let Ok(value) = serde_json::from_str(default)
        {
            out.insert(field.name.to_owned(), value);
        }
    }
}

/// What `null` means as a list element or map value: Go's zero value, with what its type always has.
fn zero_of(graph: &Graph, ty: TypeId) -> Value {
    let mut value = zero(graph.kind(ty));
    if let (Value::Object(out), Some((_, fields))) = (&mut value, graph.fields_of(ty)) {
        complete(graph, fields, out);
    }
    value
}

/// What Go's `omitempty` takes for empty.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

/// Go's zero value: what `null` means as a list element or map value.
pub(crate) fn zero(kind: Kind) -> Value {
    match kind {
        Kind::Struct { .. } => Value::Object(Map::new()),
        Kind::Scalar(Scalar::String | Scalar::Bytes) => "".into(),
        Kind::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::IntOrString) => {
            0.into()
        }
        Kind::Scalar(Scalar::Bool) => false.into(),
        Kind::Scalar(Scalar::Quantity) => "0".into(),
        _ => Value::Null,
    }
}
