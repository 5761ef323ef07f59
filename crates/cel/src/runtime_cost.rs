//! What a call costs when evaluated: cel-go's `interpreter/runtimecost.go` with the Kubernetes estimator over it
//! (k8s.io/apiserver/pkg/cel/library/cost.go).

use crate::budget::limits;
use crate::value::Value;
use crate::work;

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
    /// A new list as long as the result.
    NewList,
    Flatten,
    /// All items of an argument compared with each other.
    SelfCompare(usize),
    /// Each item of one list compared with each of another, so many times.
    Sets(u64),
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
    // if there are too many parts to count, the evaluation ends for that
    if !work::spend() {
        return limits::PER_CALL;
    }
    match v {
        Value::String(s) => (s.as_str().len() as f64 * PER_CHAR) as u64,
        Value::Bytes(b) => (b.len() as f64 * PER_CHAR) as u64,
        Value::List(l) => {
            let mut sum = 0u64;
            for v in l.iter() {
                sum = sum.saturating_add(v.as_ref().map_or(1, deep));
                if sum > limits::PER_CALL {
                    break;
                }
            }
            sum
        }
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
            "list_slice" | "lists_range" | "list_reverse" => Rule::NewList,
            "list_flatten" | "list_flatten_int" => Rule::Flatten,
            "list_distinct" => Rule::SelfCompare(0),
            _ if overload.ends_with("_sort") => Rule::SelfCompare(0),
            _ if overload.ends_with("_sortByAssociatedKeys") => Rule::SelfCompare(1),
            "list_sets_contains_list" | "list_sets_intersects_list" => Rule::Sets(1),
            "list_sets_equivalent_list" => Rule::Sets(2),
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
        matches!(self, Rule::Result | Rule::NewList)
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
            Rule::NewList => result.map_or(1, size) + LIST + 1,
            Rule::Flatten => {
                let depth = match args.get(1) {
                    Some(Value::Int(d)) => *d as f64,
                    _ => 1.0,
                };
                // a negative depth wraps around, as upstream
                ((arg(0) as f64 * depth) as i64 as u64).wrapping_add(LIST + 1)
            }
            Rule::SelfCompare(i) => {
                let text = match args.get(i) {
                    Some(Value::List(l)) => {
                        matches!(l.get(0), Some(Ok(Value::String(_) | Value::Bytes(_))))
                    }
                    _ => false,
                };
                let factor = if text { 2.0 + PER_CHAR } else { 2.0 };
                (arg(i).saturating_mul(arg(i)) as f64 * factor) as u64 + LIST + 1
            }
            Rule::Sets(times) => arg(0)
                .saturating_mul(arg(1))
                .saturating_mul(times)
                .saturating_add(1),
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
