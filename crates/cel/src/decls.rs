//! The functions there are, from `data/overloads.txt`.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use crate::types::Type;

/// One signature of a function.
pub(crate) struct Overload {
    /// cel-go's name of it; costs are counted by it.
    pub id: &'static str,
    /// Called as `target.f(args)`; the target is the first argument.
    pub member: bool,
    pub args: Vec<Type>,
    pub result: Type,
    /// Whether a type variable occurs.
    pub generic: bool,
}

static TABLE: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(|| {
    let mut table: HashMap<&'static str, Vec<Overload>> = HashMap::new();
    for line in include_str!("../data/overloads.txt")
        .lines()
        .filter(|l| !l.starts_with('#'))
    {
        if let Some((name, overload)) = parse(line) {
            table.entry(name).or_default().push(overload);
        }
    }
    table
});

/// The overloads of a function, in the order in which they are tried.
pub(crate) fn overloads(function: &str) -> Option<&'static [Overload]> {
    TABLE.get(function).map(Vec::as_slice)
}

fn parse(line: &'static str) -> Option<(&'static str, Overload)> {
    let mut words = line.splitn(4, ' ');
    let (name, id, style) = (words.next()?, words.next()?, words.next()?);
    let (args, result) = words.next()?.split_once(" -> ")?;
    let args = split(args.strip_prefix('(')?.strip_suffix(')')?)
        .map(type_of)
        .collect();
    let generic = line
        .split(['(', ')', ',', ' '])
        .any(|w| w.len() == 1 && w.as_bytes()[0].is_ascii_uppercase());
    Some((
        name,
        Overload {
            id,
            member: style == "m",
            args,
            result: type_of(result),
            generic,
        },
    ))
}

/// The parts between commas that are in no parentheses.
fn split(s: &'static str) -> impl Iterator<Item = &'static str> {
    let mut depth = 0;
    s.split(move |c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    })
    .filter(|p| !p.is_empty())
}

fn type_of(s: &'static str) -> Type {
    if let Some((name, params)) = s.strip_suffix(')').and_then(|s| s.split_once('(')) {
        let mut params = split(params).map(|p| Arc::new(type_of(p)));
        return match (name, params.next(), params.next()) {
            ("list", Some(e), _) => Type::List(e),
            ("map", Some(k), Some(v)) => Type::Map(k, v),
            ("optional", Some(t), _) => Type::Optional(t),
            ("type", t, _) => Type::Type(t),
            _ => Type::Error,
        };
    }
    match s {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        "Quantity" => Type::Opaque("kubernetes.Quantity"),
        "Semver" => Type::Opaque("kubernetes.Semver"),
        "URL" => Type::Opaque("kubernetes.URL"),
        "NamedFormat" => Type::Opaque("kubernetes.NamedFormat"),
        "IP" => Type::Opaque("net.IP"),
        "CIDR" => Type::Opaque("net.CIDR"),
        "Authorizer" => Type::AUTHORIZER,
        "PathCheck" => Type::Opaque("kubernetes.authorization.PathCheck"),
        "GroupCheck" => Type::Opaque("kubernetes.authorization.GroupCheck"),
        "ResourceCheck" => Type::Opaque("kubernetes.authorization.ResourceCheck"),
        "Decision" => Type::Opaque("kubernetes.authorization.Decision"),
        _ if s.len() == 1 => Type::Param(s.into()),
        // the table is ours and a test reads all of it
        _ => Type::Error,
    }
}

/// Names that are types when used as values: `type(x) == int`.
pub(crate) fn type_named(name: &str) -> Option<Type> {
    let dynamic = || Arc::new(Type::Dyn);
    Some(match name {
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "double" => Type::Double,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "string" => Type::String,
        "null_type" => Type::Null,
        "list" => Type::List(dynamic()),
        "map" => Type::Map(dynamic(), dynamic()),
        "type" => Type::Type(None),
        "optional_type" => Type::Optional(dynamic()),
        "google.protobuf.Duration" => Type::Duration,
        "google.protobuf.Timestamp" => Type::Timestamp,
        "net.IP" => Type::Opaque("net.IP"),
        "net.CIDR" => Type::Opaque("net.CIDR"),
        _ => return None,
    })
}

impl Type {
    /// The type of the variables `authorizer` and, checked for a resource already, `authorizer.requestResource`.
    pub const AUTHORIZER: Type = Type::Opaque("kubernetes.authorization.Authorizer");
    /// The type of the variable `authorizer.requestResource`.
    pub const RESOURCE_CHECK: Type = Type::Opaque("kubernetes.authorization.ResourceCheck");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound(t: &Type) -> bool {
        !matches!(t, Type::Error) && t.params().into_iter().all(sound)
    }

    #[test]
    fn the_whole_table_reads() {
        let lines = include_str!("../data/overloads.txt")
            .lines()
            .filter(|l| !l.starts_with('#'));
        let mut count = 0;
        for line in lines {
            let (name, o) = parse(line).unwrap_or_else(|| panic!("{line}"));
            assert!(o.args.iter().chain([&o.result]).all(sound), "{line}");
            assert!(overloads(name).is_some_and(|all| all.iter().any(|x| x.id == o.id)));
            count += 1;
        }
        assert!(count > 300);
    }
}
