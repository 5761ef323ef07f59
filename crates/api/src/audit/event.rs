//! One line of the log: an `audit.k8s.io/v1` Event.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::policy::{Level, Stage};
use crate::request_info::RequestInfo;

/// Longest User-Agent that is written down, in bytes.
const USER_AGENT_BYTES_MAX: usize = 1024;
const CUT_OFF: &str = "...TRUNCATED";

/// A body and its Content-Type.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    pub content_type: String,
    pub pieces: Vec<Bytes>,
}
impl Payload {
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }
    /// The body as a value; None when it is empty or not an object.
    fn value(&self) -> Option<Value> {
        let whole: Cow<'_, [u8]> = match self.pieces.as_slice() {
            [] => return None,
            [one] => Cow::Borrowed(one),
            many => Cow::Owned(many.concat()),
        };
        if self.content_type.contains("protobuf") {
            let (api_version, kind, mut value) = knarr_schema::decode_protobuf(&whole).ok()?;
            let map = value.as_object_mut()?;
            map.insert("apiVersion".into(), api_version.into());
            map.insert("kind".into(), kind.into());
            return Some(value);
        }
        if self.content_type.contains("yaml") {
            return crate::decode::yaml(&whole).ok();
        }
        serde_json::from_slice(&whole).ok()
    }
}

/// All that is known of a request at a stage.
#[derive(Debug, Clone)]
pub struct Record {
    pub level: Level,
    pub stage: Stage,
    pub omit_managed_fields: bool,
    pub id: String,
    pub uri: String,
    pub info: RequestInfo,
    pub user: Value,
    pub impersonated: Option<Value>,
    pub source: Vec<String>,
    pub user_agent: String,
    pub code: Option<u16>,
    pub request: Option<Payload>,
    pub response: Option<Payload>,
    pub received: Timestamp,
    pub at: Timestamp,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: &'a str,
    stage: &'static str,
    #[serde(rename = "requestURI")]
    request_uri: &'a str,
    verb: &'a str,
    user: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<&'a Value>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "<[String]>::is_empty")]
    source_ips: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<ObjectRef<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_object: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_object: Option<&'a Value>,
    request_received_timestamp: String,
    stage_timestamp: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectRef<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_group: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    resource_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subresource: &'a str,
}

/// `metav1.MicroTime`
fn micro(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Takes managedFields off an object, or off a list's or table's.
fn without_managed_fields(o: &mut Value) {
    let strip = |o: &mut Value| {
        if let Some(m) = o.get_mut("metadata").and_then(Value::as_object_mut) {
            m.remove("managedFields");
        }
    };
    strip(o);
    for (list, inner) in [("items", ""), ("rows", "/object")] {
        let all = o.get_mut(list).and_then(Value::as_array_mut);
        for item in all.into_iter().flatten() {
            if let Some(object) = item.pointer_mut(inner) {
                strip(object);
            }
        }
    }
}

/// Cuts a text at a character's border.
fn cut(text: &str, bytes: usize) -> Cow<'_, str> {
    if text.len() <= bytes {
        return Cow::Borrowed(text);
    }
    let end = (0..=bytes).rev().find(|i| text.is_char_boundary(*i));
    Cow::Owned(format!("{}{CUT_OFF}", &text[..end.unwrap_or(0)]))
}

/// Appends the record's line.
pub fn line(r: &Record, out: &mut Vec<u8>) {
    let read = |p: &Option<Payload>| {
        let mut value = p.as_ref()?.value()?;
        if r.omit_managed_fields {
            without_managed_fields(&mut value);
        }
        Some(value)
    };
    let request = read(&r.request);
    let response = read(&r.response);
    let done = matches!(
        r.stage,
        Stage::ResponseComplete | Stage::Panic | Stage::ResponseStarted
    );
    let meta = |key: &str| {
        let m = request.as_ref().filter(|_| r.info.verb != "patch" && done);
        m.and_then(|o| o["metadata"][key].as_str())
            .unwrap_or_default()
    };
    let or = |known: &'_ str, key: &str| match known {
        "" => meta(key).to_string(),
        known => known.to_string(),
    };
    let (namespace, name) = (or(&r.info.namespace, "namespace"), or(&r.info.name, "name"));
    let object_ref = r.info.is_resource.then(|| ObjectRef {
        resource: &r.info.resource,
        namespace: &namespace,
        name: &name,
        uid: meta("uid"),
        api_group: &r.info.group,
        api_version: &r.info.version,
        resource_version: meta("resourceVersion"),
        subresource: &r.info.subresource,
    });
    let user_agent = cut(&r.user_agent, USER_AGENT_BYTES_MAX);
    let objects = r.info.is_resource && done;
    let event = Event {
        kind: "Event",
        api_version: "audit.k8s.io/v1",
        level: r.level.name(),
        audit_id: &r.id,
        stage: r.stage.name(),
        request_uri: &r.uri,
        verb: &r.info.verb,
        user: &r.user,
        impersonated_user: r.impersonated.as_ref(),
        source_ips: &r.source,
        user_agent: &user_agent,
        object_ref,
        response_status: r
            .code
            .filter(|_| done)
            .map(|code| status(code, response.as_ref())),
        request_object: request
            .as_ref()
            .filter(|_| objects && r.level >= Level::Request),
        response_object: response
            .as_ref()
            .filter(|_| objects && r.level >= Level::RequestResponse),
        request_received_timestamp: micro(r.received),
        stage_timestamp: micro(r.at),
        annotations: &r.annotations,
    };
    // writing to a Vec can't fail
    let _ = serde_json::to_writer(&mut *out, &event);
    out.push(b'\n');
}

/// What a Status in the answer says; the code alone for other answers.
fn status(code: u16, response: Option<&Value>) -> Value {
    let mut out = json!({ "metadata": {} });
    if let Some(s) = response.filter(|o| o["kind"] == "Status" && o["apiVersion"] == "v1") {
        for key in ["status", "message", "reason", "details"] {
            if let Some(v) = s.get(key) {
                out[key] = v.clone();
            }
        }
    }
    out["code"] = code.into();
    out
}
