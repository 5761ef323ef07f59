//! Reads the type table (`data/types.txt`, made by `cargo run -p xtask -- schema-table`).
//!
//! A line without indentation starts a type, a line with one space adds a field to it:
//!
//! ```text
//! NAME [atomic] [GROUP/VERSION/KIND]… [union=JSON]…
//!  FIELD TYPE [WORD]…
//! ```
//!
//! TYPE is a scalar's word, `[TYPE]`, `{TYPE}` (a map), `.Name` (a type of the same package) or a full name. WORDs: `req`, `omit`, `always`, `null`, `zero`, `set`, `keys=a,b` (a list-map), `atomic`, `granular`, `patch=merge,retainKeys`, `mergekey=K`, `go=TYPE`, `via=Embedded.Structs`, `#1.2` (protobuf numbers through embedded messages), `default=JSON` (JSON without spaces).

use std::collections::HashMap;

use crate::types::{Absent, Field, Graph, Gvk, Kind, ListKind, Scalar, Struct, TypeId};

/// The table is part of the program and a test reads all of it, so that a fault in it drops the faulty part rather than panics.
pub(crate) fn parse(text: &'static str) -> Graph {
    let mut builder = Builder {
        structs: HashMap::new(),
        interned: HashMap::new(),
        kinds: Vec::new(),
    };
    let mut graph = Graph {
        structs: Vec::new(),
        fields: Vec::new(),
        kinds: Vec::new(),
        roots: HashMap::new(),
    };
    for line in text
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with(['#', ' ']))
    {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        let index = graph.structs.len() as u16;
        let (atomic, rest) = match rest.strip_prefix("atomic") {
            Some(rest) => (true, rest.trim_start()),
            None => (false, rest),
        };
        let (gvks, unions) = rest
            .find("union=")
            .map_or((rest, ""), |at| rest.split_at(at));
        let id = builder.intern(Kind::Struct { index, atomic });
        builder.structs.insert(name, (index, id, atomic));
        let s = Struct {
            name,
            id,
            atomic,
            first_field: 0,
            field_count: 0,
            gvks: gvks.trim_end(),
            unions,
        };
        graph
            .roots
            .extend(s.gvks().map(|gvk: Gvk<'static>| (gvk, id)));
        graph.structs.push(s);
    }
    let mut current = 0;
    for line in text
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        if let Some(line) = line.strip_prefix(' ') {
            let package = graph.structs[current]
                .name
                .rsplit_once('.')
                .map_or("", |(p, _)| p);
            if let Some(field) = builder.field(line, package) {
                graph.structs[current].field_count += 1;
                graph.fields.push(field);
            }
        } else {
            let name = line.split(' ').next().unwrap_or_default();
            current = builder
                .structs
                .get(name)
                .map_or(0, |(index, ..)| *index as usize);
            graph.structs[current].first_field = graph.fields.len() as u16;
        }
    }
    for s in &graph.structs {
        graph.fields[s.first_field as usize..][..s.field_count as usize]
            .sort_unstable_by_key(|f| f.name);
    }
    graph.kinds = builder.kinds;
    graph.fields.shrink_to_fit();
    graph.structs.shrink_to_fit();
    graph.kinds.shrink_to_fit();
    graph
}

struct Builder {
    structs: HashMap<&'static str, (u16, TypeId, bool)>,
    interned: HashMap<Kind, TypeId>,
    kinds: Vec<Kind>,
}

impl Builder {
    fn intern(&mut self, kind: Kind) -> TypeId {
        *self.interned.entry(kind).or_insert_with(|| {
            self.kinds.push(kind);
            TypeId((self.kinds.len() - 1) as u16)
        })
    }

    fn field(&mut self, line: &'static str, package: &str) -> Option<Field> {
        let (line, default) = match line.split_once(" default=") {
            Some((line, default)) => (line, Some(default)),
            None => (line, None),
        };
        let mut words = line.split(' ');
        let (name, ty) = (words.next()?, words.next()?);
        let mut field = Field {
            name,
            ty: TypeId(0),
            required: false,
            always: false,
            absent: Absent::Missing,
            omit: matches!(name, "apiVersion" | "kind") && ty == "string" && !line.contains(" req"),
            default,
            patch_merge: false,
            patch_replace: false,
            patch_retain_keys: false,
            patch_merge_key: "",
            go: "",
            via: "",
            protobuf: [0; 3],
        };
        let (mut list, mut atomic) = (ListKind::Atomic, None);
        for word in words {
            match word.split_once('=') {
                Some(("keys", keys)) => list = ListKind::Map(keys),
                Some(("mergekey", key)) => field.patch_merge_key = key,
                Some(("go", name)) => field.go = name,
                Some(("via", via)) => field.via = via,
                Some(("patch", strategies)) => {
                    for strategy in strategies.split(',') {
                        match strategy {
                            "merge" => field.patch_merge = true,
                            "replace" => field.patch_replace = true,
                            _ => field.patch_retain_keys = true,
                        }
                    }
                }
                _ => match word {
                    "req" => field.required = true,
                    "omit" => field.omit = true,
                    "always" => field.always = true,
                    "null" => field.absent = Absent::Null,
                    "zero" => field.absent = Absent::Zero,
                    "set" => list = ListKind::Set,
                    "atomic" => atomic = Some(true),
                    "granular" => atomic = Some(false),
                    _ => {
                        for (at, number) in word.strip_prefix('#')?.split('.').enumerate() {
                            *field.protobuf.get_mut(at)? = number.parse().ok()?;
                        }
                    }
                },
            }
        }
        field.ty = self.type_of(ty, package, list, atomic)?;
        Some(field)
    }

    fn type_of(
        &mut self,
        text: &'static str,
        package: &str,
        kind: ListKind,
        atomic: Option<bool>,
    ) -> Option<TypeId> {
        if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            let elem = self.type_of(inner, package, ListKind::Atomic, None)?;
            return Some(self.intern(Kind::List { elem, kind }));
        }
        if let Some(inner) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
            let elem = self.type_of(inner, package, ListKind::Atomic, None)?;
            return Some(self.intern(Kind::Map {
                elem,
                atomic: atomic == Some(true),
            }));
        }
        if let Some((scalar, _)) = Scalar::ALL.iter().find(|(_, word)| *word == text) {
            return Some(self.intern(Kind::Scalar(*scalar)));
        }
        let (index, id, own) = match text.strip_prefix('.') {
            Some(short) => *self.structs.get(format!("{package}.{short}").as_str())?,
            None => *self.structs.get(text)?,
        };
        match atomic {
            Some(atomic) if atomic != own => Some(self.intern(Kind::Struct { index, atomic })),
            _ => Some(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_read() {
        let text = include_str!("../data/types.txt");
        let graph = parse(text);
        let lines = |indented: bool| {
            text.lines()
                .filter(|l| !l.starts_with('#') && l.starts_with(' ') == indented)
                .count()
        };
        assert_eq!(graph.structs.len(), lines(false));
        assert_eq!(graph.fields.len(), lines(true));
        assert!(graph.structs.is_sorted_by_key(|s| s.name));
        for field in &graph.fields {
            if let Some(default) = field.default {
                assert!(
                    serde_json::from_str::<serde_json::Value>(default).is_ok(),
                    "{}: {default}",
                    field.name
                );
            }
        }
    }

    #[test]
    fn the_graph_is_small() {
        let graph = parse(include_str!("../data/types.txt"));
        let bytes = graph.structs.len() * size_of::<Struct>()
            + graph.fields.len() * size_of::<Field>()
            + graph.kinds.len() * size_of::<Kind>()
            + graph.roots.len() * 64;
        assert!(bytes < 1 << 20, "{bytes} bytes");
    }
}
