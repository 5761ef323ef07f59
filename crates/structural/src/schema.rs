//! A schema as it is used: JSONSchemaProps (apiextensions.k8s.io/v1) without what only people read.

use std::sync::OnceLock;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

/// Most bytes one compiled pattern may take. A pattern of Kubernetes' largest known definitions takes some 50 KB.
const PATTERN_BYTES_MAX: usize = 2 << 20;

/// `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Type {
    /// None given.
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}
impl Type {
    /// As schemas write it; empty for [`Type::Any`].
    pub fn word(self) -> &'static str {
        match self {
            Type::Any => "",
            Type::Object => "object",
            Type::Array => "array",
            Type::String => "string",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::Boolean => "boolean",
        }
    }
    fn read(word: &str) -> Type {
        use Type::*;
        [Object, Array, String, Integer, Number, Boolean]
            .into_iter()
            .find(|t| t.word() == word)
            .unwrap_or(Any)
    }
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListType {
    #[default]
    Unset,
    Atomic,
    Set,
    Map,
}

/// `additionalProperties`.
#[derive(Debug, Clone)]
pub enum Additional {
    Any(bool),
    Of(Box<Schema>),
}

/// One rule of `x-kubernetes-validations`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    pub rule: Box<str>,
    pub message: Box<str>,
    pub message_expression: Box<str>,
    /// Empty: FieldValueInvalid.
    pub reason: Box<str>,
    pub field_path: Box<str>,
    pub optional_old_self: Option<bool>,
}

/// One node. Small: definitions of operators have ten thousands.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    pub ty: Type,
    pub nullable: bool,
    /// `x-kubernetes-preserve-unknown-fields`
    pub preserve_unknown: bool,
    /// `x-kubernetes-embedded-resource`
    pub embedded: bool,
    /// `x-kubernetes-int-or-string`
    pub int_or_string: bool,
    /// `x-kubernetes-map-type: atomic`
    pub atomic_map: bool,
    pub list: ListType,
    /// `x-kubernetes-list-map-keys`
    pub keys: Box<[Box<str>]>,
    /// By name.
    properties: Box<[(Box<str>, Schema)]>,
    pub additional: Option<Additional>,
    pub items: Option<Box<Schema>>,
    pub default: Option<Box<Value>>,
    pub checks: Option<Box<Checks>>,
    pub rules: Box<[Rule]>,
}

/// Value validation; most nodes have none.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    /// Known formats of the type only.
    pub format: Box<str>,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub multiple_of: Option<f64>,
    /// characters
    pub max_length: Option<i64>,
    /// characters
    pub min_length: Option<i64>,
    pub pattern: Option<Pattern>,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub unique_items: bool,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    pub required: Box<[Box<str>]>,
    pub enumeration: Box<[Value]>,
    pub all_of: Box<[Schema]>,
    pub any_of: Box<[Schema]>,
    pub one_of: Box<[Schema]>,
    pub not: Option<Box<Schema>>,
}

/// A regular expression, compiled when it is first needed.
#[derive(Debug, Clone)]
pub struct Pattern {
    pub text: Box<str>,
    compiled: OnceLock<Result<Regex, Box<str>>>,
}
impl Pattern {
    pub(crate) fn new(text: &str) -> Pattern {
        Pattern {
            text: text.into(),
            compiled: OnceLock::new(),
        }
    }
    /// Err = what is wrong with the pattern.
    pub fn regex(&self) -> Result<&Regex, &str> {
        self.compiled
            .get_or_init(|| {
                RegexBuilder::new(&self.text)
                    .size_limit(PATTERN_BYTES_MAX)
                    .build()
                    .map_err(|e| e.to_string().into())
            })
            .as_ref()
            .map_err(|e| &**e)
    }
}

impl Schema {
    /// Reads an `openAPIV3Schema` that the API has accepted; what it doesn't know it leaves out.
    pub fn read(v: &Value) -> Schema {
        let flag = |k: &str| v.get(k).and_then(Value::as_bool).unwrap_or(false);
        let text = |k: &str| v.get(k).and_then(Value::as_str).unwrap_or("");
        Schema {
            ty: Type::read(text("type")),
            nullable: flag("nullable"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            atomic_map: text("x-kubernetes-map-type") == "atomic",
            list: match text("x-kubernetes-list-type") {
                "atomic" => ListType::Atomic,
                "set" => ListType::Set,
                "map" => ListType::Map,
                _ => ListType::Unset,
            },
            keys: texts(v, "x-kubernetes-list-map-keys"),
            properties: properties(v),
            additional: match v.get("additionalProperties") {
                Some(Value::Bool(b)) => Some(Additional::Any(*b)),
                Some(s @ Value::Object(_)) => Some(Additional::Of(Box::new(Schema::read(s)))),
                _ => None,
            },
            items: v
                .get("items")
                .filter(|i| i.is_object())
                .map(|i| Box::new(Schema::read(i))),
            default: v.get("default").map(|d| Box::new(d.clone())),
            checks: Checks::read(v),
            rules: rules(v),
        }
    }

    /// The schema of a declared field.
    pub fn property(&self, name: &str) -> Option<&Schema> {
        let at = self
            .properties
            .binary_search_by(|(n, _)| (**n).cmp(name))
            .ok()?;
        Some(&self.properties[at].1)
    }
    /// Declared fields, by name.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &Schema)> {
        self.properties.iter().map(|(n, s)| (&**n, s))
    }
    /// How many fields are declared.
    pub fn property_count(&self) -> usize {
        self.properties.len()
    }
    /// The schema of undeclared fields, when they have one.
    pub fn additional_schema(&self) -> Option<&Schema> {
        match &self.additional {
            Some(Additional::Of(s)) => Some(s),
            _ => None,
        }
    }
    /// The schema of a field, declared or not.
    pub fn field(&self, name: &str) -> Option<&Schema> {
        self.property(name).or_else(|| self.additional_schema())
    }
    /// Whether any node satisfies `f`; junctors (allOf, …) aren't looked into.
    pub fn any(&self, f: &dyn Fn(&Schema) -> bool) -> bool {
        f(self)
            || self.properties.iter().any(|(_, s)| s.any(f))
            || self.items.as_ref().is_some_and(|s| s.any(f))
            || self.additional_schema().is_some_and(|s| s.any(f))
    }
    /// This schema as that of a whole object: its metadata is known, whatever the schema says.
    pub fn as_resource(&self) -> Schema {
        Schema {
            embedded: true,
            ..self.clone()
        }
    }
}

impl Checks {
    fn read(v: &Value) -> Option<Box<Checks>> {
        const NAMES: [&str; 20] = [
            "format",
            "maximum",
            "exclusiveMaximum",
            "minimum",
            "exclusiveMinimum",
            "multipleOf",
            "maxLength",
            "minLength",
            "pattern",
            "maxItems",
            "minItems",
            "uniqueItems",
            "maxProperties",
            "minProperties",
            "required",
            "enum",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
        ];
        if !NAMES.iter().any(|n| v.get(n).is_some()) {
            return None;
        }
        let flag = |k: &str| v.get(k).and_then(Value::as_bool).unwrap_or(false);
        let text = |k: &str| v.get(k).and_then(Value::as_str).unwrap_or("");
        let number = |k: &str| v.get(k).and_then(Value::as_f64);
        let count = |k: &str| v.get(k).and_then(Value::as_i64);
        let list = |k: &str| -> &[Value] {
            v.get(k)
                .and_then(Value::as_array)
                .map_or(&[], Vec::as_slice)
        };
        let schemas = |k: &str| list(k).iter().map(Schema::read).collect();
        let int_or_string = flag("x-kubernetes-int-or-string");
        let ty = if int_or_string { "" } else { text("type") };
        Some(Box::new(Checks {
            format: crate::formats::supported(ty, text("format")).into(),
            maximum: number("maximum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            minimum: number("minimum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            multiple_of: number("multipleOf"),
            max_length: count("maxLength"),
            min_length: count("minLength"),
            pattern: Some(text("pattern"))
                .filter(|p| !p.is_empty())
                .map(Pattern::new),
            max_items: count("maxItems"),
            min_items: count("minItems"),
            unique_items: flag("uniqueItems"),
            max_properties: count("maxProperties"),
            min_properties: count("minProperties"),
            required: texts(v, "required"),
            enumeration: list("enum").into(),
            all_of: schemas("allOf"),
            any_of: schemas("anyOf"),
            one_of: schemas("oneOf"),
            not: v
                .get("not")
                .filter(|n| n.is_object())
                .map(|n| Box::new(Schema::read(n))),
        }))
    }
}

fn texts(v: &Value, key: &str) -> Box<[Box<str>]> {
    let list = v.get(key).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|t| t.as_str().map(Into::into))
        .collect()
}

fn properties(v: &Value) -> Box<[(Box<str>, Schema)]> {
    let map = v.get("properties").and_then(Value::as_object);
    let mut all: Vec<(Box<str>, Schema)> = map
        .into_iter()
        .flatten()
        .map(|(k, s)| (k.as_str().into(), Schema::read(s)))
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.into()
}

fn rules(v: &Value) -> Box<[Rule]> {
    let list = v.get("x-kubernetes-validations").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .map(|r| {
            let text = |k: &str| r.get(k).and_then(Value::as_str).unwrap_or("").into();
            Rule {
                rule: text("rule"),
                message: text("message"),
                message_expression: text("messageExpression"),
                reason: text("reason"),
                field_path: text("fieldPath"),
                optional_old_self: r.get("optionalOldSelf").and_then(Value::as_bool),
            }
        })
        .collect()
}
