//! What watchers are promised: every event once, in order, or `Compacted`.

mod common;
use common::*;
use knarr_store::{Compacted, Cursor, Options, Store};
use std::time::Duration;

fn store_with(ring_events_max: usize, ring_bytes_max: usize) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(Options {
        ring_events_max,
        ring_bytes_max,
        ..small(dir.path())
    });
    (dir, store)
}

async fn next(cursor: &mut Cursor, max: usize) -> Vec<u64> {
    let found = tokio::time::timeout(Duration::from_secs(120), cursor.next(max));
    let found = found.await.expect("no event came").unwrap();
    found.iter().map(|event| event.revision).collect()
}

/// True when the cursor has nothing to give now.
async fn is_waiting(cursor: &mut Cursor) -> bool {
    tokio::select! {
        biased;
        found = cursor.next(1) => panic!("{found:?}"),
        _ = std::future::ready(()) => true,
    }
}

#[tokio::test]
async fn events_carry_before_and_after() {
    let (_dir, store) = store_with(100, 1 << 20);
    let mut cursor = store.watch("a/", 0).unwrap();
    store
        .commit(vec![put("a/x", "1"), put("b/x", "1")])
        .await
        .unwrap();
    store.commit(vec![put("a/x", "2")]).await.unwrap();
    store.commit(vec![delete("a/x")]).await.unwrap();
    let events = cursor.next(10).await.unwrap();
    let check =
        |i: usize, revision, value: Option<&str>, prev: Option<&str>, last: Option<&str>| {
            let event = &events[i];
            assert_eq!(
                (event.revision, event.create_revision, &*event.key),
                (revision, 1, "a/x")
            );
            assert_eq!(event.value.as_deref(), value.map(str::as_bytes));
            assert_eq!(
                event.prev.as_ref().map(|prev| &prev.value[..]),
                prev.map(str::as_bytes)
            );
            assert_eq!(event.last.as_deref(), last.map(str::as_bytes));
        };
    check(0, 1, Some("1"), None, None);
    check(1, 3, Some("2"), Some("1"), None);
    check(2, 4, None, Some("2"), Some("2"));
    assert_eq!((events.len(), cursor.position()), (3, 4));
}

#[tokio::test]
async fn pages_and_positions() {
    let (_dir, store) = store_with(100, 1 << 20);
    for i in 0..10 {
        let key = if i % 2 == 0 { "even" } else { "odd" };
        store.commit(vec![put(key, "")]).await.unwrap();
    }
    let mut cursor = store.watch("even", 2).unwrap();
    assert_eq!(cursor.position(), 2);
    assert_eq!(next(&mut cursor, 2).await, [3, 5]);
    assert_eq!(cursor.position(), 5);
    assert_eq!(next(&mut cursor, 0).await, [7], "at least one");
    assert_eq!(next(&mut cursor, 9).await, [9]);
    assert_eq!(
        cursor.position(),
        10,
        "10 doesn't match, so it is done, too"
    );
    store.commit(vec![put("odd", "")]).await.unwrap();
    assert!(is_waiting(&mut cursor).await);
    assert_eq!(cursor.position(), 11, "moves on while waiting");
}

#[tokio::test]
async fn waiting_is_cancel_safe() {
    let (_dir, store) = store_with(100, 1 << 20);
    let mut cursor = store.watch("", 0).unwrap();
    for revision in 1..=20 {
        assert!(is_waiting(&mut cursor).await);
        // the wait is dropped at whatever point the commit's end finds it
        let found = tokio::select! {
            biased;
            committed = store.commit(vec![put("a", "")]) => {
                committed.unwrap();
                None
            }
            // durable and visible, only the answer is still on its way
            found = next(&mut cursor, 5) => Some(found),
        };
        let found = match found {
            Some(found) => found,
            None => next(&mut cursor, 5).await,
        };
        assert_eq!(found, [revision]);
    }
}

#[tokio::test]
async fn watching_from_the_future_waits() {
    let (_dir, store) = store_with(100, 1 << 20);
    store.commit(vec![put("a", "1")]).await.unwrap();
    let mut cursor = store.watch("a", 3).unwrap();
    assert!(is_waiting(&mut cursor).await);
    store
        .commit(vec![put("a", "2"), put("a", "3")])
        .await
        .unwrap();
    assert!(is_waiting(&mut cursor).await);
    assert_eq!(cursor.position(), 3);
    store.commit(vec![put("a", "4")]).await.unwrap();
    assert_eq!(next(&mut cursor, 9).await, [4]);
}

#[tokio::test]
async fn falling_behind_the_event_bound() {
    let (_dir, store) = store_with(4, 1 << 20);
    let mut slow = store.watch("", 0).unwrap();
    let mut elsewhere = store.watch("none/", 0).unwrap();
    for _ in 0..6 {
        store.commit(vec![put("a", "1")]).await.unwrap();
    }
    let behind = |asked| Compacted { asked, oldest: 2 };
    assert_eq!(slow.next(9).await.unwrap_err(), behind(0));
    assert_eq!(slow.next(9).await.unwrap_err(), behind(0), "stays so");
    assert_eq!(store.watch("", 1).unwrap_err(), behind(1));
    assert_eq!(
        elsewhere.next(9).await.unwrap_err(),
        behind(0),
        "it can't know what it missed"
    );
    assert_eq!(
        next(&mut store.watch("", 2).unwrap(), 9).await,
        [3, 4, 5, 6]
    );
    assert_eq!(store.stats().oldest_revision, 2);
}

#[tokio::test]
async fn falling_behind_the_byte_bound() {
    let (_dir, store) = store_with(1000, 10_000);
    for _ in 0..20 {
        store.commit(vec![put("a", vec![1; 1000])]).await.unwrap();
    }
    let stats = store.stats();
    assert!((5..10).contains(&stats.ring_events), "{stats:?}");
    assert!(stats.ring_bytes <= 10_000, "{stats:?}");
    assert_eq!(
        store.watch("", 0).unwrap_err().oldest,
        20 - stats.ring_events as u64
    );
}

#[tokio::test]
async fn a_restart_keeps_what_the_log_still_has() {
    let (dir, store) = store_with(100, 1 << 20);
    store.commit(vec![put("a", "1")]).await.unwrap();
    store
        .commit(vec![put("a", "2"), delete("a")])
        .await
        .unwrap();
    drop(store);
    let store = open(small(dir.path()));
    let events = store.watch("a", 1).unwrap().next(9).await.unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(&events[0].prev.as_ref().unwrap().value[..], b"1");
    assert_eq!(events[1].last.as_deref(), Some(&b"2"[..]));
    store.close().await;
    drop(store);
    let store = open(small(dir.path()));
    assert_eq!(
        store.watch("", 2).unwrap_err(),
        Compacted {
            asked: 2,
            oldest: 3
        }
    );
    assert!(is_waiting(&mut store.watch("", 3).unwrap()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_watchers_see_everything_in_order() {
    let (_dir, store) = store_with(10_000, 1 << 30);
    let watchers: Vec<_> = (0..200)
        .map(|i| {
            let mut cursor = store.watch("w/", 0).unwrap();
            tokio::spawn(async move {
                let mut seen = 0;
                while seen < 200 {
                    for revision in next(&mut cursor, 1 + i % 17).await {
                        seen += 1;
                        assert_eq!(revision, seen);
                    }
                }
            })
        })
        .collect();
    for i in 0..200 {
        store
            .commit(vec![put(&format!("w/{i}"), "x")])
            .await
            .unwrap();
    }
    for watcher in watchers {
        watcher.await.unwrap();
    }
}
