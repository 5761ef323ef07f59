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

/// A directory in memory: for tests that open a store thousands of times and lose nothing by a sync being free.
pub fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").expect("these tests need a tmpfs on /dev/shm")
}

/// All files of a store's directory but its lock.
pub fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = std::fs::read_dir(dir).unwrap().map(|item| {
        let item = item.unwrap();
        let name = item.file_name().into_string().unwrap();
        (name, std::fs::read(item.path()).unwrap())
    });
    read.filter(|(name, _)| name != "LOCK").collect()
}

/// Makes the directory hold exactly these files.
pub fn lay_out(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for item in std::fs::read_dir(dir).unwrap() {
        let item = item.unwrap();
        if !files.contains_key(item.file_name().to_str().unwrap()) {
            std::fs::remove_file(item.path()).unwrap();
        }
    }
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}
