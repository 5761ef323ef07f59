//! Tables, chains, rules and sets: how they are written and how they are read back.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use super::{
    SUBSYSTEM,
    expr::Exprs,
    family::Family,
    netlink::{
        Messages, NLM_APPEND, NLM_CREATE, NLM_EXCL, Refusal, Socket, attribute, attributes, number,
        text,
    },
};

const fn kind(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}
const NEW_TABLE: u16 = kind(0);
const GET_TABLE: u16 = kind(1);
const DEL_TABLE: u16 = kind(2);
const NEW_CHAIN: u16 = kind(3);
const GET_CHAIN: u16 = kind(4);
const DEL_CHAIN: u16 = kind(5);
const NEW_RULE: u16 = kind(6);
const GET_RULE: u16 = kind(7);
const DEL_RULE: u16 = kind(8);
const NEW_SET: u16 = kind(9);
const GET_SET: u16 = kind(10);
const DEL_SET: u16 = kind(11);
pub(crate) const NEW_ELEMENT: u16 = kind(12);
pub(super) const GET_ELEMENT: u16 = kind(13);
pub(crate) const DEL_ELEMENT: u16 = kind(14);

/// Where a base chain hooks in; `kind` is the chain type.
pub(crate) struct Hook {
    pub(crate) kind: &'static str,
    pub(crate) number: u32,
    pub(crate) priority: i32,
}

/// Value types as `nft list ruleset` shows them (libnftables' `enum datatypes`).
pub(crate) mod datatype {
    pub(crate) const IPV4: u32 = 7;
    pub(crate) const IPV6: u32 = 8;
    pub(crate) const PROTOCOL: u32 = 12;
    pub(crate) const SERVICE: u32 = 13;
    pub(crate) const MARK: u32 = 19;
    pub(crate) const VERDICT: u32 = 0xffff_ff00;
    pub(crate) const fn concat(types: &[u32]) -> u32 {
        let mut all = 0;
        let mut i = 0;
        while i < types.len() {
            all = all << 6 | types[i];
            i += 1;
        }
        all
    }
}

/// A set, or a map when it has `data`; each with its type and its length in bytes.
pub(crate) struct Set<'a> {
    pub(crate) name: &'a str,
    pub(crate) key: (u32, u32),
    pub(crate) data: Option<(u32, u32)>,
    /// Filled by rules, with elements that end.
    pub(crate) dynamic: bool,
}

/// Writes the objects of one table into a batch.
pub(crate) struct Writer<'a> {
    pub(crate) batch: &'a mut Messages,
    pub(crate) table: &'a str,
    pub(crate) family: Family,
}

impl Writer<'_> {
    pub(crate) fn add_table(&mut self) {
        self.batch
            .message(NEW_TABLE, NLM_CREATE, self.family.number(), 0, |m| {
                m.string(1, self.table);
                m.number(2, 0);
            });
    }

    pub(crate) fn delete_table(&mut self) {
        self.batch
            .message(DEL_TABLE, 0, self.family.number(), 0, |m| {
                m.string(1, self.table)
            });
    }

    pub(crate) fn add_chain(&mut self, name: &str, hook: Option<Hook>) {
        self.batch
            .message(NEW_CHAIN, NLM_CREATE, self.family.number(), 0, |m| {
                m.string(1, self.table);
                m.string(3, name);
                if let Some(hook) = hook {
                    m.nest(4, |m| {
                        m.number(1, hook.number);
                        m.number(2, hook.priority as u32);
                    });
                    m.string(7, hook.kind);
                }
            });
    }

    pub(crate) fn add_rule(&mut self, chain: &str, fill: impl FnOnce(&mut Exprs<'_>)) {
        let family = self.family;
        self.batch.message(
            NEW_RULE,
            NLM_CREATE | NLM_APPEND,
            self.family.number(),
            0,
            |m| {
                m.string(1, self.table);
                m.string(2, chain);
                m.nest(4, |messages| fill(&mut Exprs { messages, family }));
            },
        );
    }

    /// Empties a chain.
    pub(crate) fn flush_chain(&mut self, name: &str) {
        self.batch
            .message(DEL_RULE, 0, self.family.number(), 0, |m| {
                m.string(1, self.table);
                m.string(2, name);
            });
    }

    pub(crate) fn delete_chain(&mut self, name: &str) {
        self.batch
            .message(DEL_CHAIN, 0, self.family.number(), 0, |m| {
                m.string(1, self.table);
                m.string(3, name);
            });
    }

    pub(crate) fn delete_set(&mut self, name: &str) {
        self.batch
            .message(DEL_SET, 0, self.family.number(), 0, |m| {
                m.string(1, self.table);
                m.string(2, name);
            });
    }

    pub(crate) fn add_set(&mut self, id: u32, set: &Set<'_>) {
        const MAP: u32 = 8;
        const TIMEOUT_EVAL: u32 = 0x10 | 0x20;
        let map = if set.data.is_some() { MAP } else { 0 };
        let dynamic = if set.dynamic { TIMEOUT_EVAL } else { 0 };
        self.batch.message(
            NEW_SET,
            NLM_CREATE | NLM_EXCL,
            self.family.number(),
            0,
            |m| {
                m.string(1, self.table);
                m.string(2, set.name);
                m.number(3, map | dynamic);
                m.number(4, set.key.0);
                m.number(5, set.key.1);
                if let Some((kind, length)) = set.data {
                    m.number(6, kind);
                    m.number(7, length);
                }
                m.number(10, id);
            },
        );
    }
}

/// Names of the tables of a family.
pub(crate) fn tables(socket: &mut Socket, family: Family) -> Result<Vec<String>, Refusal> {
    let mut names = Vec::new();
    socket.dump(
        GET_TABLE,
        family.number(),
        |_| {},
        |_, body| names.extend(attribute(body, 1).map(|name| text(name).to_owned())),
    )?;
    Ok(names)
}

/// Deletes a table, if it is there.
pub(crate) fn delete(socket: &mut Socket, family: Family, table: &str) -> Result<(), Refusal> {
    match socket.commit(SUBSYSTEM, |batch| {
        let mut w = Writer {
            batch,
            table,
            family,
        };
        w.delete_table();
    }) {
        Err(refusal) if refusal.errno != libc::ENOENT => Err(refusal),
        _ => Ok(()),
    }
}

/// One transaction on our subsystem.
pub(crate) fn commit(
    socket: &mut Socket,
    family: Family,
    table: &str,
    fill: impl FnOnce(&mut Writer<'_>),
) -> Result<(), Refusal> {
    socket.commit(SUBSYSTEM, |batch| {
        fill(&mut Writer {
            batch,
            table,
            family,
        })
    })
}

/// A digest of every chain (with its rules) and every set definition of `table`, by name.
/// Elements, handles and counters are left out, so the digest changes only with the rules.
pub(crate) fn digests(
    socket: &mut Socket,
    family: Family,
    table: &str,
) -> Result<BTreeMap<String, u64>, Refusal> {
    // Asking for the rules of a table that isn't there is refused.
    if !tables(socket, family)?.iter().any(|name| name == table) {
        return Ok(BTreeMap::new());
    }
    let mut found = BTreeMap::<String, DefaultHasher>::new();
    let ours = |body: &[u8]| attribute(body, 1).map(text) == Some(table);
    socket.dump(
        GET_CHAIN,
        family.number(),
        |_| {},
        |_, body| {
            if let (true, Some(name)) = (ours(body), attribute(body, 3)) {
                let hasher = found.entry(format!("chain {}", text(name))).or_default();
                // hook, policy, type
                for (kind, value) in attributes(body).filter(|(kind, _)| [4, 5, 7].contains(kind)) {
                    (kind, value).hash(hasher);
                }
            }
        },
    )?;
    socket.dump(
        GET_RULE,
        family.number(),
        |m| m.string(1, table),
        |_, body| {
            if let (true, Some(chain)) = (ours(body), attribute(body, 2)) {
                let hasher = found.entry(format!("chain {}", text(chain))).or_default();
                attribute(body, 4).hash(hasher);
            }
        },
    )?;
    socket.dump(
        GET_SET,
        family.number(),
        |m| m.string(1, table),
        |_, body| {
            if let (true, Some(name)) = (ours(body), attribute(body, 2)) {
                let hasher = found.entry(format!("set {}", text(name))).or_default();
                // flags, key type and length, data type and length
                for (kind, value) in attributes(body).filter(|(kind, _)| (3..=7).contains(kind)) {
                    (kind, value).hash(hasher);
                }
            }
        },
    )?;
    Ok(found
        .into_iter()
        .map(|(name, hasher)| (name, hasher.finish()))
        .collect())
}

/// Base chains at the forward hook whose policy drops, of tables whose names don't begin with `prefix`: they stop pod
/// traffic.
pub(crate) fn dropping_forward_chains(
    socket: &mut Socket,
    prefix: &str,
) -> Result<Vec<String>, Refusal> {
    const FORWARD: u32 = 2;
    const DROP: u32 = 0;
    let mut found = Vec::new();
    socket.dump(
        GET_CHAIN,
        0,
        |_| {},
        |_, body| {
            let hook = attribute(body, 4)
                .and_then(|hook| attribute(hook, 1))
                .and_then(number);
            let policy = attribute(body, 5).and_then(number);
            let owner = attribute(body, 1).map_or("", text);
            if hook == Some(FORWARD) && policy == Some(DROP) && !owner.starts_with(prefix) {
                found.push(format!("{owner} {}", attribute(body, 3).map_or("", text)));
            }
        },
    )?;
    Ok(found)
}
