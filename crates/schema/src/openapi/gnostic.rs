//! An OpenAPI v2 document as gnostic's protobuf (`openapi.v2.Document`), which clients before OpenAPI v3 ask for.
//!
//! Follows `openapiv2/OpenAPIv2.proto` of github.com/google/gnostic-models, as far as our documents go.

use serde_json::{Map, Value};

/// A message being written.
#[derive(Default)]
pub(crate) struct Message(pub Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(crate) fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.varint(number << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn message(&mut self, number: u64, inner: &Message) {
        self.bytes(number, &inner.0);
    }

    fn boolean(&mut self, number: u64, value: &Value) {
        if value.as_bool() == Some(true) {
            self.varint(number << 3);
            self.varint(1);
        }
    }

    /// Nothing for what is no text.
    fn text(&mut self, number: u64, value: &Value) {
        if let Some(text) = value.as_str() {
            self.bytes(number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u64, value: &Value) {
        for text in value.as_array().into_iter().flatten() {
            self.text(number, text);
        }
    }

    /// `NamedX`: a name (1) and a value (2).
    pub(crate) fn named(&mut self, number: u64, name: &str, value: &Message) {
        let mut named = Message::default();
        named.bytes(1, name.as_bytes());
        named.message(2, value);
        self.message(number, &named);
    }

    /// Vendor extensions as `NamedAny`s of YAML; JSON is YAML.
    fn extensions(&mut self, number: u64, object: &Value) {
        for (name, value) in object
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, _)| name.starts_with("x-"))
        {
            self.named(number, name, &any(value));
        }
    }
}

fn any(value: &Value) -> Message {
    let mut any = Message::default();
    any.bytes(2, format!("{value}\n").as_bytes());
    any
}

/// `Info`.
pub(crate) fn info(info: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, &info["title"]);
    out.text(2, &info["version"]);
    out
}

/// `Schema`.
pub(crate) fn schema(schema: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, &schema["$ref"]);
    out.text(2, &schema["format"]);
    out.text(4, &schema["description"]);
    out.texts(19, &schema["required"]);
    if let Some(values) = schema.get("additionalProperties") {
        let mut item = Message::default();
        item.message(1, &self::schema(values));
        out.message(21, &item);
    }
    if let Some(ty) = schema["type"].as_str() {
        let mut item = Message::default();
        item.bytes(1, ty.as_bytes());
        out.message(22, &item);
    }
    if let Some(items) = schema.get("items") {
        let mut item = Message::default();
        item.message(1, &self::schema(items));
        out.message(23, &item);
    }
    if let Some(Value::Object(properties)) = schema.get("properties") {
        out.message(25, &named_schemas(properties));
    }
    out.extensions(31, schema);
    out
}

/// `Properties`.
fn named_schemas(schemas: &Map<String, Value>) -> Message {
    let mut out = Message::default();
    for (name, value) in schemas {
        out.named(1, name, &schema(value));
    }
    out
}

/// `PathItem`.
pub(crate) fn path_item(item: &Value) -> Message {
    let mut out = Message::default();
    for (method, number) in [
        ("get", 2),
        ("put", 3),
        ("post", 4),
        ("delete", 5),
        ("patch", 8),
    ] {
        if let Some(value) = item.get(method) {
            out.message(number, &operation(value));
        }
    }
    for value in item["parameters"].as_array().into_iter().flatten() {
        out.message(9, &parameter(value));
    }
    out
}

/// `Operation`.
fn operation(operation: &Value) -> Message {
    let mut out = Message::default();
    out.texts(1, &operation["tags"]);
    out.text(3, &operation["description"]);
    out.text(5, &operation["operationId"]);
    out.texts(6, &operation["produces"]);
    out.texts(7, &operation["consumes"]);
    for value in operation["parameters"].as_array().into_iter().flatten() {
        out.message(8, &parameter(value));
    }
    let mut responses = Message::default();
    for (code, value) in operation["responses"].as_object().into_iter().flatten() {
        let mut response = Message::default();
        response.text(1, &value["description"]);
        if let Some(of) = value.get("schema") {
            let mut item = Message::default();
            item.message(1, &schema(of));
            response.message(2, &item);
        }
        let mut either = Message::default();
        either.message(1, &response);
        responses.named(1, code, &either);
    }
    out.message(9, &responses);
    out.texts(10, &operation["schemes"]);
    out.extensions(13, operation);
    out
}

/// `ParametersItem`.
fn parameter(value: &Value) -> Message {
    let mut inner = Message::default();
    let mut parameter = Message::default();
    if value["in"] == "body" {
        inner.text(2, &value["name"]);
        inner.text(3, &value["in"]);
        inner.boolean(4, &value["required"]);
        inner.message(5, &schema(&value["schema"]));
        parameter.message(1, &inner);
    } else {
        let query = value["in"] == "query";
        inner.boolean(1, &value["required"]);
        inner.text(2, &value["in"]);
        inner.text(3, &value["description"]);
        inner.text(4, &value["name"]);
        // A query parameter may be empty, which takes number 5 there.
        inner.text(if query { 6 } else { 5 }, &value["type"]);
        inner.boolean(if query { 20 } else { 19 }, &value["uniqueItems"]);
        let mut of_place = Message::default();
        of_place.message(if query { 3 } else { 4 }, &inner);
        parameter.message(2, &of_place);
    }
    let mut item = Message::default();
    item.message(1, &parameter);
    item
}
