//! A disk that fails under the store.

use crate::{CommitError, Expect, Op, Options, Store, Value};
use std::sync::atomic::Ordering::SeqCst;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn put(key: &str) -> Vec<Op> {
    vec![Op::Put {
        key: key.into(),
        value: Value::Bytes("value".into()),
        expect: Expect::Any,
    }]
}

#[tokio::test]
async fn a_failed_sync_or_write_ends_writing_until_the_log_is_verified() {
    for what in ["sync", "write"] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Options::new(dir.path())).unwrap();
        store.commit(put("before")).await.unwrap();
        let mut cursor = store.watch("", 1).unwrap();
        let faults = &store.handle.shared.disk.faults;
        match what {
            "sync" => faults.sync_errno.store(EIO, SeqCst),
            _ => faults.write_errno.store(EIO, SeqCst),
        }
        // the disk works again at once, but what it lost is unknown
        for _ in 0..3 {
            let error = store.commit(put("lost?")).await.unwrap_err();
            assert!(
                matches!(error, CommitError::Unavailable(_)),
                "{what}: {error}"
            );
            assert!(
                error.to_string().contains("Input/output error"),
                "{what}: {error}"
            );
        }
        assert_eq!(store.snapshot().revision(), 1, "{what}");
        assert!(store.snapshot().get("lost?").is_none(), "{what}");
        assert!(store.stats().read_only.is_some(), "{what}");
        tokio::select! {
            biased;
            found = cursor.next(1) => panic!("{what}: {found:?}"),
            _ = std::future::ready(()) => {}
        }
        drop(store);
        let store = Store::open(Options::new(dir.path())).unwrap();
        assert!(store.snapshot().get("before").is_some(), "{what}");
        let revision = store.snapshot().revision();
        assert_eq!(
            store.commit(put("after")).await.unwrap(),
            revision + 1,
            "{what}"
        );
    }
}

#[tokio::test]
async fn no_space_for_an_overwrite_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Options::new(dir.path())).unwrap();
    store.commit(put("before")).await.unwrap();
    let faults = &store.handle.shared.disk.faults;
    faults.write_errno.store(ENOSPC, SeqCst);
    let error = store.commit(put("a")).await.unwrap_err();
    assert!(matches!(error, CommitError::NoSpace(_)), "{error}");
    assert_eq!(store.commit(put("b")).await.unwrap(), 2);
    drop(store);
    let snapshot = Store::open(Options::new(dir.path())).unwrap().snapshot();
    assert!(snapshot.get("a").is_none() && snapshot.get("b").is_some());
}

#[tokio::test]
async fn a_failed_snapshot_leaves_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Options::new(dir.path())).unwrap();
    store.commit(put("a")).await.unwrap();
    store
        .handle
        .shared
        .disk
        .faults
        .sync_errno
        .store(EIO, SeqCst);
    store.close().await;
    assert_eq!(store.stats().snapshot_revision, 0);
    let again = Store::open(Options::new(dir.path())).unwrap();
    assert!(again.snapshot().get("a").is_some());
}
