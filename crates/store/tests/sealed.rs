//! Values that are on disk in another form.

mod common;

use std::{path::Path, sync::Arc};

use knarr_store::{Expect, Op, OpenError, Options, Sealer, Store, Unsealed, Value};

/// Turns the bytes of keys below `secret/` around, and marks them with its name.
struct Mirror(&'static str, Option<&'static str>);

impl Mirror {
    fn mark(name: &str) -> String {
        format!("sealed:{name}:")
    }
}

impl Sealer for Mirror {
    fn seal(&self, key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, String> {
        if !key.starts_with("secret/") {
            return Ok(None);
        }
        let mut out = Mirror::mark(self.0).into_bytes();
        out.extend(value.iter().rev());
        Ok(Some(out))
    }
    fn unseal(&self, key: &str, written: &[u8]) -> Result<Unsealed, String> {
        let wanted = key.starts_with("secret/");
        for name in [Some(self.0), self.1].into_iter().flatten() {
            if let Some(rest) = written.strip_prefix(Mirror::mark(name).as_bytes()) {
                return Ok(Unsealed {
                    value: Some(rest.iter().rev().copied().collect()),
                    stale: name != self.0,
                });
            }
        }
        match written.starts_with(b"sealed:") {
            true => Err("its key is not here: bring it back".into()),
            false => Ok(Unsealed {
                value: None,
                stale: wanted,
            }),
        }
    }
}

fn open(dir: &Path, sealer: Option<Mirror>) -> Result<Store, OpenError> {
    let options = Options {
        segment_bytes: 64 << 10,
        ..Options::new(dir)
    };
    let sealer = sealer.map(|s| Arc::new(s) as Arc<dyn Sealer>);
    Store::open_sealed(options, sealer)
}

async fn put(store: &Store, key: &str, value: &str) {
    let op = Op::Put {
        key: key.into(),
        value: Value::Bytes(value.to_string().into()),
        expect: Expect::Any,
    };
    store.commit(vec![op]).await.unwrap();
}

fn value(store: &Store, key: &str) -> String {
    let snapshot = store.snapshot();
    let entry = snapshot.get(key).unwrap_or_else(|| panic!("{key} is gone"));
    String::from_utf8(entry.value.to_vec()).unwrap()
}

/// Files that hold this text.
fn found(dir: &Path, text: &str) -> Vec<String> {
    let files = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    files
        .filter(|f| {
            let bytes = std::fs::read(f.path()).unwrap();
            bytes.windows(text.len()).any(|w| w == text.as_bytes())
        })
        .map(|f| f.file_name().into_string().unwrap())
        .collect()
}

const PLAIN: &str = "this is a plain secret";

#[tokio::test]
async fn what_is_sealed_is_nowhere_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Some(Mirror("a", None))).unwrap();
    put(&store, "secret/1", PLAIN).await;
    put(&store, "public/1", "this is public").await;
    assert_eq!(value(&store, "secret/1"), PLAIN);
    // enough for snapshots and used-again segments
    for n in 0..400 {
        put(
            &store,
            "secret/2",
            &format!("{PLAIN} {n} {}", "x".repeat(900)),
        )
        .await;
    }
    let delete = Op::Delete {
        key: "secret/2".into(),
        expect: Expect::Any,
        last: Some(Value::Bytes(PLAIN.into())),
    };
    store.commit(vec![delete]).await.unwrap();
    // files come and go for as long as it is open
    drop(store);
    assert!(found(dir.path(), PLAIN).is_empty());
    assert!(!found(dir.path(), "this is public").is_empty());
    let store = open(dir.path(), Some(Mirror("a", None))).unwrap();
    assert_eq!(value(&store, "secret/1"), PLAIN);
    store.close().await;
    assert!(found(dir.path(), PLAIN).is_empty(), "the last snapshot");
    let store = open(dir.path(), Some(Mirror("a", None))).unwrap();
    assert_eq!(
        (value(&store, "secret/1"), value(&store, "public/1")),
        (PLAIN.into(), "this is public".into())
    );
}

#[tokio::test]
async fn a_new_key_and_a_first_key_are_everywhere_once_the_store_is_open() {
    // name, sealed before by, with a snapshot, now by
    for (name, before, closed, now) in [
        ("plain, logged", None, false, Mirror("b", None)),
        ("plain, in a snapshot", None, true, Mirror("b", None)),
        (
            "an old key, logged",
            Some(Mirror("a", None)),
            false,
            Mirror("b", Some("a")),
        ),
        (
            "an old key, in a snapshot",
            Some(Mirror("a", None)),
            true,
            Mirror("b", Some("a")),
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), before).unwrap();
        for n in 0..200 {
            put(
                &store,
                &format!("secret/{n}"),
                &format!("{PLAIN} {n} {}", "x".repeat(700)),
            )
            .await;
        }
        let revision = store.snapshot().revision();
        if closed {
            store.close().await;
        }
        drop(store);
        let store = open(dir.path(), Some(now)).unwrap();
        assert_eq!(found(dir.path(), PLAIN), Vec::<String>::new(), "{name}");
        assert_eq!(
            found(dir.path(), "sealed:a:"),
            Vec::<String>::new(),
            "{name}"
        );
        assert_eq!(store.snapshot().revision(), revision, "{name}");
        put(&store, "secret/0", "new").await;
        drop(store);
        // the old key isn't needed any more
        let store = open(dir.path(), Some(Mirror("b", None))).unwrap();
        assert_eq!(value(&store, "secret/0"), "new", "{name}");
        assert!(value(&store, "secret/199").starts_with(PLAIN), "{name}");
        assert_eq!(store.snapshot().revision(), revision + 1, "{name}");
    }
}

#[tokio::test]
async fn without_its_key_a_store_stays_shut_and_as_it_is() {
    for closed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Some(Mirror("a", None))).unwrap();
        put(&store, "secret/1", PLAIN).await;
        if closed {
            store.close().await;
        }
        drop(store);
        let refused = open(dir.path(), Some(Mirror("b", None))).err().unwrap();
        assert!(
            refused
                .to_string()
                .contains("its key is not here: bring it back"),
            "{refused}"
        );
        let store = open(dir.path(), Some(Mirror("a", None))).unwrap();
        assert_eq!(value(&store, "secret/1"), PLAIN);
    }
}
