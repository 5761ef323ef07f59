//! `xtask schema-table`: facts about every built-in type, from upstream's OpenAPI definitions and Go sources, as one compact text table.
//!
//! The table's grammar is in `crates/schema/src/table.rs`, which reads it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::go_source::{FlatField, Package, read_package};
use crate::smd_defaults::{self, Defaults};

pub struct Sources {
    pub definitions: PathBuf,
    pub modules: PathBuf,
    pub version: String,
    pub out: PathBuf,
}

/// The types of k8s.io/metrics `pkg/apis/metrics/v1beta1`, which upstream's definitions don't have; last by their names.
const METRICS: &str = include_str!("../data/metrics.txt");

/// Types whose JSON form isn't the Go struct's: the engine knows them by these words.
const BUILT_IN: &[(&str, &str)] = &[
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", "quantity"),
    (
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
        "intorstring",
    ),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "time"),
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime",
        "microtime",
    ),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "fieldsv1"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Patch", "patch"),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "raw"),
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
        "json",
    ),
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
        "propsorarray",
    ),
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
        "propsorbool",
    ),
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
        "propsorstrings",
    ),
];

pub fn run(sources: &Sources) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&sources.definitions)
        .with_context(|| format!("reading {}", sources.definitions.display()))?;
    let document: Value = serde_json::from_str(&text)?;
    let definitions = document["$defs"]
        .as_object()
        .context("the definitions have no $defs")?;
    let internal = sources.modules.join(format!(
        "client-go@{}/applyconfigurations/internal/internal.go",
        sources.version
    ));
    let defaults = smd_defaults::read(
        &std::fs::read_to_string(&internal)
            .with_context(|| format!("reading {}", internal.display()))?,
    );
    let mut maker = Maker {
        sources,
        defaults,
        packages: BTreeMap::new(),
        table: String::new(),
        roots: String::new(),
    };
    let names: std::collections::BTreeSet<&String> = definitions.keys().collect();
    for name in names {
        if !BUILT_IN.iter().any(|(n, _)| n == name) {
            maker.type_lines(name, &definitions[name.as_str()])?;
        }
    }
    let head = format!(
        "# Facts about the built-in types of Kubernetes {}. Made by `cargo run -p xtask -- schema-table`; don't edit. Grammar: src/table.rs.\n",
        sources.version
    );
    std::fs::write(sources.out.join("types.txt"), head + &maker.table + METRICS)?;
    let head = "// The kinds whose descriptions `build.rs` takes from k8s-openapi. Made by `cargo run -p xtask -- schema-table`; don't edit.\n";
    std::fs::write(
        sources.out.join("described.rs"),
        format!("{head}described! {{\n{}}}\n", maker.roots),
    )?;
    Ok(())
}

struct Maker<'a> {
    sources: &'a Sources,
    defaults: Defaults,
    packages: BTreeMap<String, Package>,
    table: String,
    roots: String,
}

impl Maker<'_> {
    fn type_lines(&mut self, name: &str, schema: &Value) -> anyhow::Result<()> {
        let (package, short) = name.rsplit_once('.').context("a type without a package")?;
        write!(self.table, "{name}")?;
        if schema["x-kubernetes-map-type"] == "atomic" {
            self.table.push_str(" atomic");
        }
        let kinds = schema["x-kubernetes-group-version-kind"].as_array();
        for kind in kinds.into_iter().flatten() {
            let part = |key: &str| kind[key].as_str().unwrap_or_default();
            write!(
                self.table,
                " {}/{}/{}",
                part("group"),
                part("version"),
                part("kind")
            )?;
        }
        for union in schema["x-kubernetes-unions"]
            .as_array()
            .into_iter()
            .flatten()
        {
            write!(self.table, " union={union}")?;
        }
        self.table.push('\n');
        let list = short.ends_with("List") && schema["properties"]["items"].is_object();
        // k8s-openapi has lists and watch events as generics.
        if kinds.is_some() && !list && short != "WatchEvent" {
            self.root(name)?;
        }
        let go = self.package(package)?.flatten(short).unwrap_or_default();
        let required: Vec<&str> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let Some(properties) = schema["properties"].as_object() else {
            return Ok(());
        };
        let sorted: BTreeMap<&String, &Value> = properties.iter().collect();
        for (field, property) in sorted {
            self.field_line(
                name,
                field,
                property,
                go.get(field),
                required.contains(&field.as_str()),
            )?;
        }
        Ok(())
    }

    fn field_line(
        &mut self,
        name: &str,
        field: &str,
        property: &Value,
        go: Option<&FlatField>,
        required: bool,
    ) -> anyhow::Result<()> {
        let (package, _) = name.rsplit_once('.').context("a type without a package")?;
        let natural = type_text(property, package)?;
        write!(self.table, " {field} {natural}")?;
        if required {
            self.table.push_str(" req");
        }
        match property["x-kubernetes-list-type"].as_str() {
            Some("map") => {
                let keys: Vec<&str> = property["x-kubernetes-list-map-keys"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect();
                write!(self.table, " keys={}", keys.join(","))?;
            }
            Some("set") => self.table.push_str(" set"),
            Some("atomic") => self.table.push_str(" atomic"),
            _ => {}
        }
        match property["x-kubernetes-map-type"].as_str() {
            Some("atomic") => self.table.push_str(" atomic"),
            Some("granular") => self.table.push_str(" granular"),
            _ => {}
        }
        if let Some(strategy) = property["x-kubernetes-patch-strategy"].as_str() {
            write!(self.table, " patch={strategy}")?;
        }
        if let Some(key) = property["x-kubernetes-patch-merge-key"].as_str() {
            write!(self.table, " mergekey={key}")?;
        }
        if let Some(go) = go {
            let own = self.package(package)?.name.clone();
            let go_type = go_type_text(&go.go_type, &own);
            if go_type != natural_go_type(property) {
                write!(self.table, " go={go_type}")?;
            }
            if go.omit_empty && !go.go_type.starts_with('*') && !is_go_struct(property) {
                self.table.push_str(" omit");
            }
            if !go.omit_zero
                && !go.go_type.starts_with('*')
                && is_go_struct(property)
                && !BUILT_IN.iter().any(|(_, word)| *word == natural)
            {
                self.table.push_str(" always");
            }
            match go_absent(go, natural.as_str()) {
                Absent::Missing => {}
                Absent::Null => self.table.push_str(" null"),
                Absent::Zero => self.table.push_str(" zero"),
            }
            if !go.via.is_empty() {
                write!(self.table, " via={}", go.via.join("."))?;
            }
            if !go.protobuf.is_empty() {
                let path: Vec<String> = go.protobuf.iter().map(u32::to_string).collect();
                write!(self.table, " #{}", path.join("."))?;
            }
        }
        if let Some(default) = self.defaults.get(&(name.to_owned(), field.to_owned())) {
            write!(self.table, " default={default}")?;
        }
        self.table.push('\n');
        Ok(())
    }

    /// k8s-openapi's path of a type whose descriptions (and those of all it refers to) are wanted.
    fn root(&mut self, name: &str) -> anyhow::Result<()> {
        let path = name
            .trim_start_matches("io.k8s.")
            .replace('-', "_")
            .replace('.', "::");
        writeln!(self.roots, "    k8s_openapi::{path},")?;
        Ok(())
    }

    fn package(&mut self, openapi: &str) -> anyhow::Result<&Package> {
        if !self.packages.contains_key(openapi) {
            let rest = openapi.trim_start_matches("io.k8s.");
            let (module, path) = rest.split_once('.').context("a package without a module")?;
            let dir = self
                .sources
                .modules
                .join(format!("{module}@{}", self.sources.version))
                .join(path.replace('.', "/"));
            let package = read_package(&dir)?;
            self.packages.insert(openapi.to_owned(), package);
        }
        Ok(&self.packages[openapi])
    }
}

/// The type in the table's notation: a word, `[T]`, `{T}`, `.Name` (same package) or a full name.
fn type_text(schema: &Value, package: &str) -> anyhow::Result<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        if let Some((_, word)) = BUILT_IN.iter().find(|(n, _)| *n == name) {
            return Ok((*word).to_owned());
        }
        return Ok(match name.rsplit_once('.') {
            Some((p, short)) if p == package => format!(".{short}"),
            _ => name.to_owned(),
        });
    }
    let format = schema["format"].as_str();
    Ok(match json_type(schema) {
        "string" if format == Some("byte") => "bytes".to_owned(),
        "string" => "string".to_owned(),
        "boolean" => "bool".to_owned(),
        "integer" => format.unwrap_or("int64").to_owned(),
        "number" => "double".to_owned(),
        "array" => format!("[{}]", type_text(&schema["items"], package)?),
        "object" if schema["additionalProperties"].is_object() => format!(
            "{{{}}}",
            type_text(&schema["additionalProperties"], package)?
        ),
        other => bail!("a property of unknown type {other:?}: {schema}"),
    })
}

fn json_type(schema: &Value) -> &str {
    match &schema["type"] {
        Value::String(s) => s,
        Value::Array(a) => a.first().and_then(Value::as_str).unwrap_or_default(),
        _ => "",
    }
}

/// What Go writes for a field that nothing was put into.
enum Absent {
    Missing,
    Null,
    Zero,
}

fn go_absent(go: &FlatField, natural: &str) -> Absent {
    let by_pointer = go.go_type.starts_with('*');
    let scalar = matches!(natural, "string" | "bool" | "int32" | "int64" | "double");
    match natural {
        "raw" | "time" | "microtime" | "json" if !by_pointer && !go.omit_zero => Absent::Null,
        "quantity" | "intorstring" if !by_pointer && !go.omit_zero => Absent::Zero,
        _ if go.omit_empty => Absent::Missing,
        _ if by_pointer || natural == "bytes" || natural.starts_with(['[', '{']) => Absent::Null,
        _ if scalar => Absent::Zero,
        _ => Absent::Missing,
    }
}

/// Whether `omitempty` can't drop the value: Go's struct values are never empty to it.
fn is_go_struct(schema: &Value) -> bool {
    schema["$ref"].is_string()
}

/// How Go prints the type that the engine would name without being told otherwise.
fn natural_go_type(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        let mut parts = name.rsplitn(3, '.');
        let (short, package) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        return format!("{package}.{short}");
    }
    match json_type(schema) {
        "boolean" => "bool".to_owned(),
        "integer" => schema["format"].as_str().unwrap_or("int64").to_owned(),
        "number" => "float64".to_owned(),
        "array" => format!("[]{}", natural_go_type(&schema["items"])),
        "object" => format!(
            "map[string]{}",
            natural_go_type(&schema["additionalProperties"])
        ),
        _ if schema["format"] == "byte" => "[]uint8".to_owned(),
        _ => "string".to_owned(),
    }
}

/// A type expression of the source as `reflect.Type` prints it after the outer pointer is followed.
fn go_type_text(source: &str, package: &str) -> String {
    fn inner(t: &str, package: &str) -> String {
        if let Some(rest) = t.strip_prefix("[]") {
            return format!("[]{}", inner(rest, package));
        }
        if let Some(rest) = t.strip_prefix('*') {
            return format!("*{}", inner(rest, package));
        }
        if let Some((key, value)) = t.strip_prefix("map[").and_then(|r| r.split_once(']')) {
            return format!("map[{}]{}", inner(key, package), inner(value, package));
        }
        match t {
            "string" | "bool" | "int32" | "int64" | "float64" => t.to_owned(),
            "byte" => "uint8".to_owned(),
            _ => match t.split_once('.') {
                Some((alias, name)) => format!("{}.{name}", go_package_name(alias)),
                None => format!("{package}.{t}"),
            },
        }
    }
    inner(source.trim_start_matches('*'), package)
}

/// Import aliases of the API sources to the package names that errors print.
fn go_package_name(alias: &str) -> &str {
    match alias {
        "metav1" | "corev1" | "rbacv1" | "core" | "apiextensionsv1" => "v1",
        other => other,
    }
}
