//! OpenAPI documents, made on demand from the table (not kept in memory).
//!
//! They have what Kubernetes' clients look for: definitions with `x-kubernetes-group-version-kind`, list and patch extensions, paths with actions, kinds and query parameters (`dryRun`, `fieldValidation`).

mod custom;
mod descriptions;
mod foreign;
mod gnostic;
mod parameters;
mod paths;
mod schemas;
mod values;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::types::built_in;
pub use custom::Custom;
use descriptions::Descriptions;
pub use foreign::Foreign;
use gnostic::Message;
use paths::Paths;
use schemas::{Version, Writer, closure};
use values::Values;

/// What the API serves: used for the paths section.
pub struct Served<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    pub plural: &'a str,
    pub namespaced: bool,
    pub verbs: &'a [&'a str],
    pub subresources: &'a [&'a str],
    /// None for built-in kinds.
    pub custom: Option<Custom<'a>>,
}

impl Served<'_> {
    /// Name and definition of a custom resource and of its lists, made when they are asked for.
    fn definitions(&self, to: Version) -> impl Iterator<Item = (String, Value)> {
        let custom = self.custom.as_ref();
        let of = |kind: &str| custom::name(self.group, self.version, kind);
        let one = custom.map(move |c| {
            let made = custom::definition(to, self.group, self.version, self.kind, c);
            (of(self.kind), made)
        });
        let list = custom.map(move |c| {
            let made = custom::list(to, self.group, self.version, self.kind, self.plural, c);
            (of(c.list_kind), made)
        });
        one.into_iter().chain(list)
    }
}

/// The release whose kinds the table has.
const RELEASE: &str = "v1.36.0";

fn info() -> Value {
    json!({"title": "Kubernetes", "version": RELEASE})
}

/// `/openapi/v3/apis/apps/v1`
pub fn v3(group: &str, version: &str, served: &[Served<'_>]) -> Bytes {
    let graph = built_in();
    let mut paths = Paths::new(graph, Version::V3);
    for served in served
        .iter()
        .filter(|s| s.group == group && s.version == version)
    {
        paths.add(served);
    }
    let descriptions = Descriptions::load(graph);
    let values = Values::load();
    let writer = Writer {
        values: &values,
        graph,
        descriptions: &descriptions,
        version: Version::V3,
    };
    let mut out = Vec::with_capacity(256 << 10);
    open(
        &mut out,
        &[
            ("openapi", "3.0.0".into()),
            ("info", info()),
            ("paths", Value::Object(paths.out)),
        ],
    );
    out.extend_from_slice(b",\"components\":{\"schemas\":{");
    let custom = served
        .iter()
        .filter(|s| s.group == group && s.version == version)
        .flat_map(|s| s.definitions(Version::V3));
    entries(
        &mut out,
        closure(graph, paths.referred)
            .into_iter()
            .map(|d| (d.name(graph).to_owned(), writer.definition(d)))
            .chain(custom),
    );
    out.extend_from_slice(b"},\"securitySchemes\":");
    write(
        &mut out,
        &json!({"BearerToken": {"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header"}}),
    );
    out.extend_from_slice(b"}}");
    out.into()
}

/// `/openapi/v2` as JSON, with what other servers add
pub fn v2_json(served: &[Served<'_>], foreign: &[&Foreign]) -> Bytes {
    let graph = built_in();
    let mut paths = Paths::new(graph, Version::V2);
    served.iter().for_each(|s| paths.add(s));
    let descriptions = Descriptions::load(graph);
    let values = Values::load();
    let writer = Writer {
        values: &values,
        graph,
        descriptions: &descriptions,
        version: Version::V2,
    };
    let added = added(served, foreign, &writer, &mut paths);
    let mut out = Vec::with_capacity(1 << 20);
    open(
        &mut out,
        &[
            ("swagger", "2.0".into()),
            ("info", info()),
            ("paths", Value::Object(paths.out)),
        ],
    );
    out.extend_from_slice(b",\"definitions\":{");
    let custom = served.iter().flat_map(|s| s.definitions(Version::V2));
    entries(
        &mut out,
        closure(graph, paths.referred)
            .into_iter()
            .map(|d| (d.name(graph).to_owned(), writer.definition(d)))
            .chain(custom)
            .chain(added),
    );
    out.extend_from_slice(b"}}");
    out.into()
}

/// The definitions that other servers add, and their paths to the others.
fn added(
    served: &[Served<'_>],
    foreign: &[&Foreign],
    writer: &Writer<'_>,
    paths: &mut Paths<'_>,
) -> serde_json::Map<String, Value> {
    if foreign.is_empty() {
        return Default::default();
    }
    let graph = writer.graph;
    let own: std::collections::HashMap<&str, schemas::Definition> =
        closure(graph, paths.referred.clone())
            .into_iter()
            .map(|d| (d.name(graph), d))
            .collect();
    let custom = |name: &str| {
        let mut all = served.iter().flat_map(|s| s.definitions(Version::V2));
        all.find(|(n, _)| n == name).map(|(_, d)| d)
    };
    let there = |name: &str| match own.get(name) {
        Some(d) => Some(writer.definition(*d)),
        None => custom(name),
    };
    foreign::take_in(foreign, &mut paths.out, &there)
}

/// `/openapi/v2` as gnostic protobuf (what kubectl 1.20 asks for), with what other servers add
pub fn v2_protobuf(served: &[Served<'_>], foreign: &[&Foreign]) -> Bytes {
    let graph = built_in();
    let mut paths = Paths::new(graph, Version::V2);
    served.iter().for_each(|s| paths.add(s));
    let descriptions = Descriptions::load(graph);
    let values = Values::load();
    let writer = Writer {
        values: &values,
        graph,
        descriptions: &descriptions,
        version: Version::V2,
    };
    let added = added(served, foreign, &writer, &mut paths);
    let mut document = Message::default();
    document.bytes(1, b"2.0");
    document.message(2, &gnostic::info(&info()));
    let mut items = Message::default();
    for (path, item) in &paths.out {
        items.named(2, path, &gnostic::path_item(item));
    }
    document.message(8, &items);
    let mut definitions = Message::default();
    for definition in closure(graph, paths.referred) {
        definitions.named(
            1,
            definition.name(graph),
            &gnostic::schema(&writer.definition(definition)),
        );
    }
    for (name, definition) in served.iter().flat_map(|s| s.definitions(Version::V2)) {
        definitions.named(1, &name, &gnostic::schema(&definition));
    }
    for (name, definition) in &added {
        definitions.named(1, name, &gnostic::schema(definition));
    }
    document.message(9, &definitions);
    document.0.into()
}

/// `{` and the fields, without the closing brace.
fn open(out: &mut Vec<u8>, fields: &[(&str, Value)]) {
    out.push(b'{');
    entries(out, fields.iter().map(|(name, value)| (*name, value)));
}

/// Comma-separated fields, one value in memory at a time.
fn entries<N: AsRef<str>, V: std::borrow::Borrow<Value>>(
    out: &mut Vec<u8>,
    fields: impl Iterator<Item = (N, V)>,
) {
    for (at, (name, value)) in fields.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(out, &name.as_ref().into());
        out.push(b':');
        write(out, value.borrow());
    }
}

fn write(out: &mut Vec<u8>, value: &Value) {
    // Writing a Value to memory can't fail.
    let _ = serde_json::to_writer(out, value);
}
