//! What a call of each function may cost.

use super::{CostEstimate, Coster, Size, UNKNOWN, union_entries};
use crate::ast::{Expr, Kind, Literal};
use crate::runtime_cost::{PER_CHAR, PER_REGEX_CHAR};
use crate::types::Type;

/// The cost without the arguments' own, and the size of the result if it is a text, list or map.
type Estimated = (CostEstimate, Option<Size>);

const ONE: CostEstimate = CostEstimate::fixed(1);

impl Coster<'_> {
    pub(super) fn overload(
        &mut self,
        e: &Expr,
        function: &str,
        overload: &str,
        target: Option<&Expr>,
        args: &[Expr],
        costs: &[CostEstimate],
    ) -> Estimated {
        let all = costs
            .iter()
            .fold(CostEstimate::default(), |sum, c| sum.plus(*c));
        if let Some((cost, size)) = self.lists(overload, target, args) {
            return (cost.plus(all), size);
        }
        if let Some((cost, size)) = self.kubernetes(function, overload, target, args) {
            return (cost.plus(all), size);
        }
        match (overload, costs) {
            ("logical_or" | "logical_and", [l, r]) => {
                return (
                    CostEstimate {
                        min: l.min,
                        max: l.max.saturating_add(r.max),
                    },
                    None,
                );
            }
            ("conditional", [c, yes, no]) => {
                let size = self
                    .size_or_unknown(&args[1])
                    .union(self.size_or_unknown(&args[2]));
                if let Some(x) = union_entries(self.entries_of(&args[1]), self.entries_of(&args[2]))
                {
                    self.entries.insert(e.id, x);
                }
                return (c.plus(yes.union(*no)), Some(size));
            }
            _ => {}
        }
        let (cost, size) = self.standard(e, overload, target, args);
        (cost.plus(all), size)
    }

    /// cel-go's own rules.
    fn standard(
        &mut self,
        e: &Expr,
        overload: &str,
        target: Option<&Expr>,
        args: &[Expr],
    ) -> Estimated {
        match (overload, target, args) {
            ("string_format", Some(t), _) => (self.size_or_unknown(t).cost(PER_CHAR), None),
            ("string_to_bytes", _, [a]) => {
                let s = self.size_or_unknown(a);
                (
                    s.cost(PER_CHAR),
                    Some(Size {
                        min: s.min,
                        max: s.max.wrapping_mul(4),
                    }),
                )
            }
            ("bytes_to_string", _, [a]) => {
                let s = self.size_or_unknown(a);
                (
                    s.cost(PER_CHAR),
                    Some(Size {
                        min: s.min / 4,
                        max: s.max,
                    }),
                )
            }
            ("strings_quote", _, [a]) => {
                let s = self.size_or_unknown(a);
                let max = s.max.wrapping_mul(2).wrapping_add(2);
                (
                    s.cost(PER_CHAR),
                    Some(Size {
                        min: s.min.wrapping_add(2),
                        max,
                    }),
                )
            }
            ("starts_with_string" | "ends_with_string", _, [a]) => {
                (self.size_or_unknown(a).cost(PER_CHAR), None)
            }
            ("in_list", _, [_, list]) => (self.size_or_unknown(list).cost(1.0), None),
            ("matches_string", Some(t), [regex]) => {
                let text = self.size_or_unknown(t).plus(Size::fixed(1)).cost(PER_CHAR);
                (
                    text.times(self.size_or_unknown(regex).cost(PER_REGEX_CHAR)),
                    None,
                )
            }
            ("contains_string", Some(t), [a]) => {
                let text = self.size_or_unknown(t).cost(PER_CHAR);
                (text.times(self.size_or_unknown(a).cost(PER_CHAR)), None)
            }
            ("add_string" | "add_bytes" | "add_list", _, [a, b]) => {
                let size = self.size_or_unknown(a).plus(self.size_or_unknown(b));
                if let Some(x) = union_entries(self.entries_of(a), self.entries_of(b)) {
                    self.entries.insert(e.id, x);
                }
                let cost = if overload == "add_list" {
                    ONE
                } else {
                    size.cost(PER_CHAR)
                };
                (cost, Some(size))
            }
            (
                "less_string"
                | "greater_string"
                | "less_equals_string"
                | "greater_equals_string"
                | "less_bytes"
                | "greater_bytes"
                | "less_equals_bytes"
                | "greater_equals_bytes"
                | "equals"
                | "not_equals",
                _,
                [a, b],
            ) => {
                let max = self.size_or_unknown(a).max.min(self.size_or_unknown(b).max);
                (
                    Size {
                        min: u64::from(max > 0),
                        max,
                    }
                    .cost(PER_CHAR),
                    None,
                )
            }
            _ => (ONE, None),
        }
    }

    /// cel-go's rules of sets and of functions that make lists; they come before all others.
    fn lists(
        &mut self,
        overload: &str,
        target: Option<&Expr>,
        args: &[Expr],
    ) -> Option<(CostEstimate, Option<Size>)> {
        let literal = |e: Option<&Expr>| match e.map(|e| &e.kind) {
            Some(Kind::Literal(Literal::Int(i))) => Some(u64::try_from(*i).unwrap_or(0)),
            _ => None,
        };
        let (factor, size) = match (overload, target, args) {
            (
                "list_sets_contains_list"
                | "list_sets_intersects_list"
                | "list_sets_equivalent_list",
                _,
                [a, b],
            ) => {
                let pairs = self.size_or_unknown(a).times(self.size_or_unknown(b));
                let times = if overload == "list_sets_equivalent_list" {
                    2.0
                } else {
                    1.0
                };
                return Some((pairs.cost(times).plus(ONE), None));
            }
            ("list_slice", Some(t), [start, end]) => {
                let max = self.size_or_unknown(t).max;
                let (start, end) = (
                    literal(Some(start)).unwrap_or(0),
                    literal(Some(end)).unwrap_or(max),
                );
                (1.0, Size::fixed(end.wrapping_sub(start)))
            }
            ("lists_range", None, [n]) => (1.0, Size::fixed(literal(Some(n)).unwrap_or(u64::MAX))),
            ("list_reverse", Some(t), []) => (1.0, self.size_or_unknown(t)),
            ("list_flatten" | "list_flatten_int", Some(t), _) => {
                let depth = args
                    .first()
                    .map_or(1, |d| literal(Some(d)).unwrap_or(u64::MAX));
                (depth as f64, self.size_or_unknown(t))
            }
            ("list_distinct", Some(t), []) => (2.0, squared(self.size_or_unknown(t))),
            (_, Some(t), []) if overload.ends_with("_sort") => {
                (compared(overload), squared(self.size_or_unknown(t)))
            }
            (_, Some(_), [keys]) if overload.ends_with("_sortByAssociatedKeys") => {
                (compared(overload), squared(self.size_or_unknown(keys)))
            }
            _ => return None,
        };
        Some((size.cost(factor).plus(CostEstimate::fixed(11)), Some(size)))
    }

    /// The rules of the Kubernetes libraries; they come before cel-go's.
    fn kubernetes(
        &mut self,
        function: &str,
        overload: &str,
        target: Option<&Expr>,
        args: &[Expr],
    ) -> Option<Estimated> {
        Some(match (function, target, args) {
            ("check", ..) => (CostEstimate::fixed(350_000), None),
            (
                "serviceAccount"
                | "path"
                | "group"
                | "resource"
                | "subresource"
                | "namespace"
                | "name"
                | "allowed"
                | "reason"
                | "error"
                | "errored"
                | "masked"
                | "prefixLength"
                | "family"
                | "isUnspecified"
                | "isLoopback"
                | "isLinkLocalMulticast"
                | "isLinkLocalUnicast"
                | "isGlobalUnicast"
                | "format.named"
                | "sign"
                | "asInteger"
                | "isInteger"
                | "asApproximateFloat"
                | "isGreaterThan"
                | "isLessThan"
                | "compareTo"
                | "add"
                | "sub"
                | "major"
                | "minor"
                | "patch"
                | "getScheme"
                | "getHostname"
                | "getHost"
                | "getPort"
                | "getEscapedPath"
                | "getQuery",
                ..,
            ) => (ONE, None),
            ("fieldSelector" | "labelSelector", _, [a]) => {
                let length = self.size_or_unknown(a);
                let requirements = length.cost(0.5).by_factor(50.0);
                (
                    CostEstimate::fixed(10)
                        .plus(length.cost(PER_CHAR))
                        .plus(requirements),
                    None,
                )
            }
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(t), _) => {
                let size = self.size_or_unknown(t);
                match self.item_size(t) {
                    Some(item) => (size.of_cost(ONE.plus(item.cost(PER_CHAR))), None),
                    None if matches!(self.checked.ty(t), Type::List(_) | Type::Map(..)) => {
                        // items that are no texts have no size that counts
                        (size.of_cost(ONE), None)
                    }
                    None => (size.cost(PER_CHAR), None),
                }
            }
            ("url" | "jsonpatch.escapeKey", _, [a]) => {
                let s = self.size_or_unknown(a);
                (s.cost(PER_CHAR), Some(s))
            }
            ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(t), _) => {
                let s = self.size_or_unknown(t);
                (s.cost(PER_CHAR), Some(s))
            }
            ("replace", Some(t), [from, to, ..]) => {
                let (s, from, to) = (
                    self.size_or_unknown(t),
                    self.size_or_unknown(from),
                    self.size_or_unknown(to),
                );
                (s.cost(2.0 * PER_CHAR), Some(replaced(s, from, to)))
            }
            ("split", Some(t), _) => {
                let s = self.size_or_unknown(t);
                let limit = match args.get(1).map(|a| &a.kind) {
                    Some(Kind::Literal(Literal::Int(i))) => *i as u64,
                    _ => s.max,
                };
                (s.cost(2.0 * PER_CHAR), Some(Size { min: 0, max: limit }))
            }
            ("join", Some(t), _) => {
                let count = self.size_or_unknown(t);
                let item = self.any_item_size(t).unwrap_or(Size::fixed(0));
                let mut s = count.times(item);
                if let Some(separator) = args.first() {
                    let between = Size {
                        min: count.min.saturating_sub(1),
                        max: count.max.saturating_sub(1),
                    };
                    s = s.plus(self.size_or_unknown(separator).times(between));
                }
                (s.cost(PER_CHAR), Some(s))
            }
            ("find" | "findAll", Some(t), [regex, ..]) => {
                let s = self.size_or_unknown(t);
                let text = s.plus(Size::fixed(1)).cost(PER_CHAR);
                let cost = text.times(self.size_or_unknown(regex).cost(PER_REGEX_CHAR));
                (cost, Some(Size { min: 0, max: s.max }))
            }
            ("ip", ..) if overload == "cidr_ip" => (ONE, None),
            (
                "ip" | "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver"
                | "isSemver",
                _,
                [a, ..],
            ) => (self.size_or_unknown(a).cost(PER_CHAR), None),
            ("ip.isCanonical", _, [a, ..]) => (self.size_or_unknown(a).cost(2.0 * PER_CHAR), None),
            ("containsIP" | "containsCIDR", _, [a, ..]) => {
                let bytes = Size { min: 4, max: 16 };
                let mut cost = bytes.plus(bytes).cost(PER_CHAR);
                if function == "containsCIDR" {
                    cost = cost.plus(bytes.cost(PER_CHAR)).plus(ONE);
                }
                if matches!(
                    overload,
                    "cidr_contains_ip_string" | "cidr_contains_cidr_string"
                ) {
                    cost = cost.plus(self.size_or_unknown(a).cost(PER_CHAR));
                }
                (cost, None)
            }
            ("validate", _, [a, ..]) => (
                self.size_or_unknown(a)
                    .cost(PER_CHAR)
                    .by_factor(128.0 * PER_REGEX_CHAR),
                None,
            ),
            ("_==_", _, [l, r]) => return self.equality(l, r),
            _ => return None,
        })
    }

    fn equality(&self, l: &Expr, r: &Expr) -> Option<Estimated> {
        let (l, r) = (self.checked.ty(l), self.checked.ty(r));
        let Type::Opaque(name) = l else { return None };
        if !l.same(r) {
            return None;
        }
        Some(match *name {
            // compared by their text: formats' names are short, URLs' lengths unknown
            "kubernetes.NamedFormat" => {
                (CostEstimate { min: 1, max: 64 }.by_factor(PER_CHAR), None)
            }
            _ => (ONE, None),
        })
    }

    /// The size of a list's items, if they are texts.
    fn item_size(&mut self, list: &Expr) -> Option<Size> {
        let Type::List(of) = self.checked.ty(list) else {
            return None;
        };
        if !matches!(**of, Type::String | Type::Bytes) {
            return None;
        }
        self.any_item_size(list)
    }

    /// The size of a list's items by the schema.
    fn any_item_size(&mut self, list: &Expr) -> Option<Size> {
        if !matches!(self.checked.ty(list), Type::List(_)) {
            return None;
        }
        let mut path = self.path(list);
        if path.first().is_some_and(|p| p == crate::macros::ACCU) {
            path.clear();
        }
        if path.is_empty() {
            return Some(UNKNOWN);
        }
        path.push("@items".to_string());
        Some(
            self.names
                .max_elements(&path)
                .map_or(UNKNOWN, |max| Size { min: 0, max }),
        )
    }
}

fn squared(s: Size) -> Size {
    s.times(s)
}

/// What comparing two items costs; texts a little more.
fn compared(overload: &str) -> f64 {
    let text = overload.starts_with("list_string_") || overload.starts_with("list_bytes_");
    if text { 2.0 + PER_CHAR } else { 2.0 }
}

/// The size after replacing texts of one size by texts of another as often as can be.
fn replaced(s: Size, from: Size, to: Size) -> Size {
    let (mut count, mut kept) = (Size::fixed(0), Size::fixed(0));
    let times = |a: u64, b: u64| (a as f64 / b as f64).ceil() as u64;
    if from.min == 0 {
        count.max = s.max.saturating_add(1);
        kept.max = s.max;
    } else if to.max <= from.min {
        kept.max = s.max;
    } else {
        count.max = times(s.max, from.min);
    }
    if from.max == 0 {
        count.min = s.min.saturating_add(1);
        kept.min = s.min;
    } else if from.max <= to.min {
        kept.min = s.min;
    } else {
        count.min = times(s.min, from.max);
    }
    count.times(to).plus(kept)
}
