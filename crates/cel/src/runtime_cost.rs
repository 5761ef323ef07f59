//! What a call costs when evaluated: cel-go's `interpreter/runtimecost.go` with the Kubernetes estimator over it
//! (k8s.io/apiserver/pkg/cel/library/cost.go).

use crate::value::Value;

pub(crate) const LIST: u64 = 10;
pub(crate) const MAP: u64 = 30;
pub(crate) const STRUCT: u64 = 40;
/// Reading or comparing one character.
pub(crate) const PER_CHAR: f64 = 0.1;
/// One character of a regular expression.
pub(crate) const PER_REGEX_CHAR: f64 = 0.25;

/// How a call is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    Fixed(u64),
    /// Like `Fixed(1)`; errors of its argument are no errors.
    NotStrictlyFalse,
    /// Reading an argument: which one, and how many times.
    Traverse(usize, u64),
    /// Reading the result twice.
    Result,
    /// As many as a list has items.
    Items(usize),
    /// Comparing two texts.
    Least,
    /// Joining two texts.
    Sum,
    /// A text against a regular expression.
    Regex,
    /// A text searched for another.
    Product,
    /// The whole tree of a list or map.
    Deep,
    /// A label or field selector.
    Selector,
    ContainsIp {
        text: bool,
    },
    ContainsCidr {
        text: bool,
    },
    Validate,
}

pub(crate) fn traversal(size: u64) -> u64 {
    (size as f64 * PER_CHAR).ceil() as u64
}

/// The size cel-go gives a value: characters, bytes, items, entries; one for all else.
pub(crate) fn size(v: &Value<'_>) -> u64 {
    (match v {
        Value::String(s) => s.as_str().chars().count(),
        Value::Bytes(b) => b.len(),
        Value::List(l) => l.len(),
        Value::Map(m) => m.len(),
        Value::Cidr(c) => c.size(),
        Value::Ip(i) => i.size(),
        Value::Optional(Some(v)) => return size(v),
        _ => 1,
    }) as u64
}

/// Whether comparing this with anything counts as one.
pub(crate) fn unit_equality(v: &Value<'_>) -> bool {
    matches!(
        v,
        Value::Quantity(_)
            | Value::Ip(_)
            | Value::Cidr(_)
            | Value::Format(_)
            | Value::Url(_)
            | Value::Semver(_)
            | Value::Authz(_)
    )
}

fn deep(v: &Value<'_>) -> u64 {
    match v {
        Value::String(s) => (s.as_str().len() as f64 * PER_CHAR) as u64,
        Value::Bytes(b) => (b.len() as f64 * PER_CHAR) as u64,
        Value::List(l) => l.iter().map(|v| v.as_ref().map_or(1, deep)).sum(),
        Value::Map(m) => {
            let keys = m.keys();
            keys.iter()
                .map(|k| deep(k) + m.find(k).map_or(1, |v| v.as_ref().map_or(1, deep)))
                .sum()
        }
        _ => 1,
    }
}

impl Rule {
    /// The rule of a function; by its overload if types decided which it is.
    pub fn of(function: &str, overload: &str) -> Rule {
        match function {
            "@not_strictly_false" => return Rule::NotStrictlyFalse,
            "check" => return Rule::Fixed(350_000),
            "fieldSelector" | "labelSelector" => return Rule::Selector,
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => return Rule::Deep,
            "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" => {
                return Rule::Traverse(0, 1);
            }
            "replace" | "split" | "ip.isCanonical" => return Rule::Traverse(0, 2),
            "join" => return Rule::Result,
            "find" | "findAll" => return Rule::Regex,
            "ip" if overload == "cidr_ip" => return Rule::Fixed(1),
            "ip" | "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver"
            | "isSemver" => {
                return Rule::Traverse(0, 1);
            }
            "containsIP" => {
                return Rule::ContainsIp {
                    text: overload == "cidr_contains_ip_string",
                };
            }
            "containsCIDR" => {
                return Rule::ContainsCidr {
                    text: overload == "cidr_contains_cidr_string",
                };
            }
            "validate" => return Rule::Validate,
            _ => {}
        }
        match overload {
            "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string"
            | "strings_quote" | "string_format" => Rule::Traverse(0, 1),
            "in_list" => Rule::Items(1),
            "less_string"
            | "greater_string"
            | "less_equals_string"
            | "greater_equals_string"
            | "less_bytes"
            | "greater_bytes"
            | "less_equals_bytes"
            | "greater_equals_bytes" => Rule::Least,
            "add_string" | "add_bytes" => Rule::Sum,
            "matches_string" => Rule::Regex,
            "contains_string" => Rule::Product,
            _ => Rule::Fixed(1),
        }
    }

    /// Whether the result is needed to know the cost.
    pub fn by_result(self) -> bool {
        self == Rule::Result
    }

    /// The cost of a call with these arguments.
    pub fn cost(self, args: &[Value<'_>], result: Option<&Value<'_>>) -> u64 {
        let arg = |i: usize| args.get(i).map_or(1, size);
        match self {
            Rule::Fixed(n) => n,
            Rule::NotStrictlyFalse => 1,
            Rule::Traverse(i, times) => (arg(i) as f64 * times as f64 * PER_CHAR).ceil() as u64,
            Rule::Result => result.map_or(1, |r| (size(r) as f64 * 2.0 * PER_CHAR).ceil() as u64),
            Rule::Items(i) => arg(i),
            Rule::Least => traversal(arg(0).min(arg(1))),
            Rule::Sum => traversal(arg(0) + arg(1)),
            Rule::Regex => {
                let text = ((1.0 + arg(0) as f64) * PER_CHAR).ceil() as u64;
                text * (arg(1) as f64 * PER_REGEX_CHAR).ceil() as u64
            }
            Rule::Product => traversal(arg(0)) * traversal(arg(1)),
            Rule::Deep => args.first().map_or(0, deep),
            Rule::Selector => {
                let length = arg(1);
                let requirements = (length as f64 * 0.5).ceil();
                10 + traversal(length) + (requirements * (LIST + STRUCT) as f64).ceil() as u64
            }
            Rule::ContainsIp { text } => {
                traversal(arg(0) * 2) + if text { traversal(arg(1)) } else { 0 }
            }
            Rule::ContainsCidr { text } => {
                traversal(arg(0) * 2)
                    + traversal(arg(0))
                    + 1
                    + if text { traversal(arg(1)) } else { 0 }
            }
            Rule::Validate => {
                let regex = match args.first() {
                    Some(Value::Format(f)) => f.regex_size,
                    _ => return 1,
                };
                let text = ((1.0 + arg(1) as f64) * PER_CHAR).ceil() as u64;
                text * (regex as f64 * PER_REGEX_CHAR).ceil() as u64
            }
        }
    }
}
