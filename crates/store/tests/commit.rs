//! What a commit promises to its caller and to readers.

mod common;
use common::*;
use knarr_store::{CommitError, Expect, Op, Options, Store, Value};
use std::sync::Arc;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(small(dir.path()));
    (dir, store)
}

#[tokio::test]
async fn revisions_number_operations_without_gaps() {
    let (_dir, store) = store();
    assert_eq!(store.snapshot().revision(), 0);
    assert_eq!(store.commit(vec![]).await.unwrap(), 0);
    assert_eq!(store.commit(vec![put("a", "1")]).await.unwrap(), 1);
    assert_eq!(
        store
            .commit(vec![put("b", "1"), put("a", "2")])
            .await
            .unwrap(),
        3
    );
    let snapshot = store.snapshot();
    let a = snapshot.get("a").unwrap();
    assert_eq!(
        (a.create_revision, a.mod_revision, &a.value[..]),
        (1, 3, &b"2"[..])
    );
    assert_eq!(
        store
            .commit(vec![delete("a"), put("a", "3")])
            .await
            .unwrap(),
        5
    );
    let again = store.snapshot();
    assert_eq!(again.get("a").unwrap().create_revision, 5);
    assert_eq!(
        snapshot.get("a").unwrap().mod_revision,
        3,
        "a snapshot never changes"
    );
}

#[tokio::test]
async fn a_spliced_value_carries_its_own_revision() {
    let (dir, store) = store();
    let spliced = || Value::Spliced {
        before: "rv=".into(),
        after: ";".into(),
    };
    let put = |key: &str| Op::Put {
        key: key.into(),
        value: spliced(),
        expect: Expect::Any,
    };
    store.commit(vec![put("a"), put("b")]).await.unwrap();
    let mut cursor = store.watch("", 2).unwrap();
    store
        .commit(vec![Op::Delete {
            key: "b".into(),
            expect: Expect::Revision(2),
            last: Some(spliced()),
        }])
        .await
        .unwrap();
    let seen = cursor.next(9).await.unwrap();
    assert_eq!(seen[0].last.as_deref(), Some(&b"rv=3;"[..]));
    assert_eq!(&seen[0].prev.as_ref().unwrap().value[..], b"rv=2;");
    assert_eq!((&seen[0].value, seen[0].create_revision), (&None, 2));
    drop(store);
    let store = open(small(dir.path()));
    assert_eq!(&store.snapshot().get("a").unwrap().value[..], b"rv=1;");
    let replayed = store.watch("", 2).unwrap().next(9).await.unwrap();
    assert_eq!(
        replayed[0].last.as_deref(),
        Some(&b"rv=3;"[..]),
        "also after a restart"
    );
}

#[tokio::test]
async fn preconditions() {
    let (_dir, store) = store();
    store.commit(vec![put("here", "1")]).await.unwrap();
    let check = async |name: &str, op: Op, goes_through: bool| {
        let before = contents(&store.snapshot());
        // in a commit of two, so that all-or-nothing shows
        let outcome = store.commit(vec![put("other", "x"), op]).await;
        match outcome {
            Ok(_) => assert!(goes_through, "{name}"),
            Err(CommitError::Conflict { key, current }) => {
                assert!(!goes_through, "{name}");
                assert_eq!(current.as_ref(), store.snapshot().get(&key), "{name}");
                assert_eq!(contents(&store.snapshot()), before, "{name}");
            }
            Err(other) => panic!("{name}: {other}"),
        }
    };
    let delete_if = |key: &str, expect| Op::Delete {
        key: key.into(),
        expect,
        last: None,
    };
    check(
        "put absent, is there",
        put_if("here", "2", Expect::Absent),
        false,
    )
    .await;
    check(
        "put at a wrong revision",
        put_if("here", "2", Expect::Revision(7)),
        false,
    )
    .await;
    check(
        "put at the revision",
        put_if("here", "2", Expect::Revision(1)),
        true,
    )
    .await;
    check(
        "put at the old revision",
        put_if("here", "3", Expect::Revision(1)),
        false,
    )
    .await;
    check(
        "put at a revision, is absent",
        put_if("gone", "2", Expect::Revision(1)),
        false,
    )
    .await;
    check(
        "put absent, is absent",
        put_if("new", "2", Expect::Absent),
        true,
    )
    .await;
    check(
        "delete at a wrong revision",
        delete_if("here", Expect::Revision(1)),
        false,
    )
    .await;
    check(
        "delete what is absent",
        delete_if("gone", Expect::Any),
        false,
    )
    .await;
    check("delete absent", delete_if("gone", Expect::Absent), false).await;
    check("delete what is there", delete_if("here", Expect::Any), true).await;
    check("delete it again", delete_if("here", Expect::Any), false).await;
}

#[tokio::test]
async fn ranges_are_bytewise_and_paged() {
    let (_dir, store) = store();
    for key in ["a", "a/", "a/1", "a/10", "a/2", "a/ä", "a0", "b", ""] {
        store.commit(vec![put(key, key)]).await.unwrap();
    }
    let snapshot = store.snapshot();
    let keys = |prefix: &str, after: Option<&str>| -> Vec<String> {
        let range = snapshot.range(prefix, after);
        range.map(|entry| entry.key.to_string()).collect()
    };
    assert_eq!(keys("a/", None), ["a/", "a/1", "a/10", "a/2", "a/ä"]);
    assert_eq!(keys("a/", Some("a/10")), ["a/2", "a/ä"]);
    assert_eq!(
        keys("a/", Some("a/1z")),
        ["a/2", "a/ä"],
        "after a key that is gone"
    );
    assert_eq!(
        keys("a/", Some("")).len(),
        5,
        "after something before the prefix"
    );
    assert_eq!(keys("a/", Some("b")), [""; 0]);
    assert_eq!(keys("", None).len(), 9);
    assert_eq!(keys("c", None), [""; 0]);
}

#[tokio::test]
async fn too_large_is_refused_before_anything_happens() {
    let (dir, store) = store();
    let error = store
        .commit(vec![put("a", vec![0; 16 << 10])])
        .await
        .unwrap_err();
    assert!(
        matches!(error, CommitError::TooLarge(n) if n > 16 << 10),
        "{error}"
    );
    store
        .commit(vec![put("a", vec![1; 9 << 10])])
        .await
        .unwrap();
    store
        .commit(vec![put("b", vec![2; 9 << 10])])
        .await
        .unwrap();
    drop(store);
    let store = open(small(dir.path()));
    assert_eq!(store.snapshot().get("b").unwrap().value, vec![2; 9 << 10]);
    drop(store);
    let roomy = tempfile::tempdir().unwrap();
    let store = open(Options::new(roomy.path()));
    let error = store
        .commit(vec![put("a", vec![0; 4 << 20])])
        .await
        .unwrap_err();
    assert!(matches!(error, CommitError::TooLarge(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_writers_lose_nothing_and_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 256 << 10,
        snapshot_after_bytes: 512 << 10,
        ring_events_max: 1 << 20,
        ring_bytes_max: 1 << 30,
        ..Options::new(dir.path())
    };
    let store = open(options.clone());
    let mut cursor = store.watch("w/", 0).unwrap();
    let writers: Vec<_> = (0..64)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let key: Arc<str> = format!("w/{writer:02}").into();
                let mut expect = Expect::Absent;
                for i in 0..50u32 {
                    let mut value = i.to_le_bytes().to_vec();
                    value.resize(1024, writer);
                    let op = Op::Put {
                        key: key.clone(),
                        value: Value::Bytes(value.into()),
                        expect,
                    };
                    let revision = store.commit(vec![op]).await.unwrap();
                    let snapshot = store.snapshot();
                    let read = snapshot.get(&key).unwrap();
                    assert_eq!(read.mod_revision, revision, "read your own write");
                    expect = Expect::Revision(revision);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let stats = store.stats();
    assert_eq!(
        (stats.revision, stats.commits, stats.keys),
        (3200, 3200, 64)
    );
    assert!(stats.batches < stats.commits, "{stats:?}");
    let mut expected_revision = 1;
    while expected_revision <= 3200 {
        for event in cursor.next(100).await.unwrap() {
            assert_eq!(event.revision, expected_revision);
            expected_revision += 1;
        }
    }
    let before = contents(&store.snapshot());
    drop(store);
    assert_eq!(contents(&open(options).snapshot()), before);
}

#[tokio::test]
async fn closing_ends_writes_and_frees_the_directory() {
    let (dir, store) = store();
    store.commit(vec![put("a", "1")]).await.unwrap();
    store.close().await;
    let error = store.commit(vec![put("a", "2")]).await.unwrap_err();
    assert!(matches!(error, CommitError::Unavailable(_)), "{error}");
    store.close().await;
    assert_eq!(store.snapshot().revision(), 1, "still readable");
    let again = open(small(dir.path()));
    assert_eq!(
        again.stats().snapshot_revision,
        1,
        "closing took a snapshot"
    );
    assert_eq!(contents(&again.snapshot()), contents(&store.snapshot()));
}
