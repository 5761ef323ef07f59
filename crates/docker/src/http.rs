//! A request as the handlers see it, and the shapes of answers.

mod malformed;

use crate::error::{Fault, Result};
use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{
    body::{Body as _, Frame, Incoming},
    upgrade::OnUpgrade,
};
use serde_json::{Map, Value, json};

pub type Answer = http::Response<Body>;

/// The longest JSON that is read.
const JSON_BYTES_MAX: usize = 4 << 20;

/// Query parameters, decoded; repeated ones keep their order.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(raw: &str) -> Query {
        Query(
            form_urlencoded::parse(raw.as_bytes())
                .into_owned()
                .collect(),
        )
    }
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(k, _)| k == key);
        found.map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
    pub fn all(&self, key: &str) -> Vec<&str> {
        let found = self.0.iter().filter(|(k, _)| k == key);
        found.map(|(_, v)| v.as_str()).collect()
    }
    /// SOURCE: moby `api/server/httputils` BoolValue: all but these are true.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| {
            !matches!(
                v.trim().to_lowercase().as_str(),
                "" | "0" | "no" | "false" | "none"
            )
        })
    }
    pub fn int(&self, key: &str) -> Result<Option<i64>> {
        let number = self.get(key).map(|v| {
            v.parse()
                .map_err(|_| Fault::bad(format!("invalid value for {key}: {v:?} is no number")))
        });
        number.transpose()
    }
}

/// How much of a body nobody wanted is still taken, and for how long.
const DRAIN_BYTES_MAX: usize = 64 << 20;
const DRAIN: std::time::Duration = std::time::Duration::from_secs(10);

/// A request's body. What of it is left when it's dropped is read and forgotten, up to a bound: a client that still sends
/// hears what was wrong, and not that the connection broke.
pub struct Upload(Option<Incoming>);

impl Upload {
    pub fn new(body: Incoming) -> Upload {
        Upload(Some(body))
    }
    /// What hasn't been read of it, for somebody else.
    pub fn rest(&mut self) -> Upload {
        Upload(self.0.take())
    }
    /// The next piece; None: that was all.
    pub async fn frame(&mut self) -> Option<std::result::Result<Frame<Bytes>, hyper::Error>> {
        self.0.as_mut()?.frame().await
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut body) = self.0.take().filter(|b| !b.is_end_stream()) else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(tokio::time::timeout(DRAIN, async move {
            let mut left = DRAIN_BYTES_MAX;
            while let Some(Ok(frame)) = body.frame().await {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                let Some(rest) = left.checked_sub(bytes) else {
                    return;
                };
                left = rest;
            }
        }));
    }
}

/// A request.
pub struct Ask {
    pub method: Method,
    /// Path without the version, decoded: `containers`, `web`, `json`.
    pub path: Vec<String>,
    pub query: Query,
    pub version: (u32, u32),
    pub headers: HeaderMap,
    pub body: Upload,
    pub upgrade: Option<OnUpgrade>,
}

impl Ask {
    /// The body as an object; no body is an empty one.
    pub async fn object(&mut self) -> Result<Map<String, Value>> {
        let mut collected = Vec::new();
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|e| Fault::bad(format!("reading the request: {e}")))?;
            if let Some(data) = frame.data_ref() {
                collected.extend_from_slice(data);
            }
            if collected.len() > JSON_BYTES_MAX {
                return Err(Fault::bad("request body too large"));
            }
        }
        if collected.is_empty() {
            return Ok(Map::new());
        }
        // SOURCE: moby `api/server/httputils` CheckForJSON, ReadJSON
        let kind = self.header("content-type").unwrap_or_default();
        if kind.split(';').next().map(str::trim) != Some("application/json") {
            return Err(Fault::bad(format!(
                "unsupported Content-Type header ({kind}): must be 'application/json'"
            )));
        }
        match serde_json::from_slice(&collected) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(Value::Null) => Ok(Map::new()),
            Ok(_) => Err(Fault::bad(
                "invalid JSON: got something else than an object",
            )),
            Err(e) if e.to_string().starts_with("trailing characters") => {
                Err(Fault::bad("unexpected content after JSON"))
            }
            Err(e) => Err(Fault::bad(format!(
                "invalid JSON: {}",
                malformed::told(&collected, &e)
            ))),
        }
    }
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        self.version >= (major, minor)
    }
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

pub fn answer(status: StatusCode) -> http::response::Builder {
    http::Response::builder().status(status)
}

fn built(builder: http::response::Builder, body: Body) -> Answer {
    // Only headers of our own making are in it.
    builder.body(body).unwrap_or_default()
}

pub fn with(builder: http::response::Builder, body: impl Into<Body>) -> Answer {
    built(builder, body.into())
}

pub fn json(value: &Value) -> Answer {
    json_with(StatusCode::OK, value)
}

pub fn json_with(status: StatusCode, value: &Value) -> Answer {
    let mut text = value.to_string();
    text.push('\n');
    let builder = answer(status).header(header::CONTENT_TYPE, "application/json");
    built(builder, text.into())
}

pub fn empty(status: StatusCode) -> Answer {
    built(answer(status), Body::empty())
}

pub fn done() -> Answer {
    empty(StatusCode::NO_CONTENT)
}

/// Bytes as they come, until the stream ends or the client leaves.
pub fn streamed(
    content_type: &str,
    stream: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
) -> Answer {
    let builder = answer(StatusCode::OK).header(header::CONTENT_TYPE, content_type);
    built(builder, Body::from_stream(stream))
}

/// A JSON object a line.
pub fn messages(stream: impl Stream<Item = Value> + Send + 'static) -> Answer {
    let lines = stream.map(|value| Ok(Bytes::from(format!("{value}\r\n"))));
    streamed("application/json", lines)
}

pub fn fault(fault: &Fault) -> Answer {
    if fault.status == StatusCode::NOT_MODIFIED {
        return empty(fault.status);
    }
    json_with(fault.status, &json!({ "message": fault.message }))
}

/// An object that is taken apart: what nobody took is told by name.
pub struct Fields {
    map: Map<String, Value>,
    of: &'static str,
}

impl Fields {
    pub fn new(map: Map<String, Value>, of: &'static str) -> Fields {
        Fields { map, of }
    }
    pub fn take(&mut self, key: &str) -> Option<Value> {
        let found = match self.map.remove(key) {
            Some(value) => Some(value),
            // as Go reads JSON
            None => {
                let same = self.map.keys().find(|k| k.eq_ignore_ascii_case(key));
                let same = same.cloned();
                same.and_then(|k| self.map.remove(&k))
            }
        };
        found.filter(|v| !is_zero(v))
    }
    /// Also what is a zero, when it was sent.
    pub fn present(&mut self, key: &str) -> Option<Value> {
        let same = self.map.keys().find(|k| k.eq_ignore_ascii_case(key));
        let same = same.cloned()?;
        self.map.remove(&same).filter(|v| !v.is_null())
    }
    fn wrong(&self, key: &str, wanted: &str) -> Fault {
        Fault::bad(format!("invalid JSON: {}.{key} must be {wanted}", self.of))
    }
    pub fn text(&mut self, key: &str) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a string")),
        }
    }
    pub fn flag(&mut self, key: &str) -> Result<bool> {
        match self.take(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(self.wrong(key, "a boolean")),
        }
    }
    pub fn int(&mut self, key: &str) -> Result<Option<i64>> {
        match self.take(key) {
            None => Ok(None),
            Some(value) => value
                .as_i64()
                .map(Some)
                .ok_or_else(|| self.wrong(key, "a number")),
        }
    }
    /// A list of strings; a single string is a list of one, as `strslice` has it.
    pub fn texts(&mut self, key: &str) -> Result<Option<Vec<String>>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(vec![text])),
            Some(value) => serde_json::from_value(value)
                .map(Some)
                .map_err(|_| self.wrong(key, "a list of strings")),
        }
    }
    pub fn list(&mut self, key: &str) -> Result<Vec<Value>> {
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => Ok(list),
            Some(_) => Err(self.wrong(key, "a list")),
        }
    }
    pub fn object(&mut self, key: &str) -> Result<Map<String, Value>> {
        match self.take(key) {
            None => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map),
            Some(_) => Err(self.wrong(key, "an object")),
        }
    }
    pub fn strings(&mut self, key: &str) -> Result<std::collections::BTreeMap<String, String>> {
        // a name says something though its value is empty
        let map = self.present(key).unwrap_or_else(|| json!({}));
        serde_json::from_value(map).map_err(|_| self.wrong(key, "an object of strings"))
    }
    /// What is left and says something: refused by its name.
    pub fn finish(self) -> Result<()> {
        match self.map.iter().find(|(_, v)| !is_zero(v)) {
            None => Ok(()),
            Some((key, value)) => Err(self.refused(key, value)),
        }
    }
    /// Of what is left only `known` is refused by its name. What no version of Docker's API has says nothing to dockerd,
    /// either: clients send their own options along (dockerode `name` with a container, `stdin` with an exec's start).
    pub fn finish_but(self, known: &[&str]) -> Result<()> {
        let is_known = |key: &str| known.iter().any(|k| k.eq_ignore_ascii_case(key));
        let mut left = self.map.iter().filter(|(_, v)| !is_zero(v));
        match left.find(|(key, _)| is_known(key)) {
            None => Ok(()),
            Some((key, value)) => Err(self.refused(key, value)),
        }
    }
    fn refused(&self, key: &str, value: &Value) -> Fault {
        Fault::unsupported(match flag(self.of, key) {
            Some(flag) => format!("{flag} ({}.{key}={value})", self.of),
            None => format!("{}.{key}={value}", self.of),
        })
    }
}

/// As people know what is refused.
fn flag(of: &str, key: &str) -> Option<&'static str> {
    let known = crate::create::wanted::REFUSED.iter();
    let mut known = known.filter(|_| matches!(of, "HostConfig" | "Config" | "UpdateConfig"));
    known
        .find(|(name, _)| name.eq_ignore_ascii_case(key))
        .map(|(_, flag)| *flag)
}

/// Go's zero values, which clients send for what nobody asked for.
pub fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_zero),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_took_is_told() {
        let check = |text: &str, wanted: Option<&str>| {
            let Ok(Value::Object(map)) = serde_json::from_str(text) else {
                panic!("{text}")
            };
            let mut fields = Fields::new(map, "HostConfig");
            fields.int("Memory").unwrap();
            let told = fields.finish().err().map(|f| f.message);
            assert_eq!(told.as_deref(), wanted, "{text}");
        };
        check("{}", None);
        check(r#"{"Memory": 5, "Isolation": "", "Devices": []}"#, None);
        check(r#"{"memory": 5}"#, None);
        check(
            r#"{"CpusetMems": "0"}"#,
            Some(r#"HostConfig.CpusetMems="0" is not supported by knarr"#),
        );
    }

    #[test]
    fn what_docker_does_not_know_says_nothing() {
        let check = |body: Value, wanted: Option<&str>| {
            let map = body.as_object().unwrap().clone();
            let told = Fields::new(map, "Config").finish_but(&["StorageOpt"]);
            let told = told.err().map(|f| f.message);
            assert_eq!(told.as_deref(), wanted, "{body}");
        };
        check(json!({ "name": "x", "stdin": true }), None);
        check(json!({ "StorageOpt": {} }), None);
        check(
            json!({ "storageopt": 1 }),
            Some("--storage-opt (Config.storageopt=1) is not supported by knarr"),
        );
    }

    #[test]
    fn flags_are_read_as_docker_does() {
        for (text, wanted) in [
            ("", false),
            ("1", true),
            ("true", true),
            ("True", true),
            ("0", false),
            ("no", false),
            ("none", false),
            ("x", true),
        ] {
            assert_eq!(
                Query::parse(&format!("a={text}")).flag("a"),
                wanted,
                "{text}"
            );
        }
    }
}
