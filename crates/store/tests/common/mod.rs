//! What the store's tests share.
#![allow(dead_code)]

use knarr_store::{Expect, Op, Options, Snapshot, Store, Value};
use std::collections::BTreeMap;
use std::path::Path;

pub fn small(dir: &Path) -> Options {
    Options {
        segment_bytes: 16 << 10,
        snapshot_after_bytes: 1 << 30,
        ..Options::new(dir)
    }
}

pub fn put(key: &str, value: impl Into<Vec<u8>>) -> Op {
    put_if(key, value, Expect::Any)
}

pub fn put_if(key: &str, value: impl Into<Vec<u8>>, expect: Expect) -> Op {
    Op::Put {
        key: key.into(),
        value: Value::Bytes(value.into().into()),
        expect,
    }
}

pub fn delete(key: &str) -> Op {
    Op::Delete {
        key: key.into(),
        expect: Expect::Any,
        last: None,
    }
}

/// Everything that must survive, comparable.
pub type Contents = (u64, BTreeMap<String, (Vec<u8>, u64, u64)>);

pub fn contents(snapshot: &Snapshot) -> Contents {
    let all = snapshot.range("", None).map(|entry| {
        let rest = (
            entry.value.to_vec(),
            entry.create_revision,
            entry.mod_revision,
        );
        (entry.key.to_string(), rest)
    });
    (snapshot.revision(), all.collect())
}

pub fn open(options: Options) -> Store {
    Store::open(options).unwrap_or_else(|error| panic!("{error}"))
}
