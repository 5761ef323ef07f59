//! What is left after a crash is exactly what was acknowledged; what was damaged since is refused, not guessed.

mod common;
use common::*;
use knarr_store::{OpenError, Options, Store};
use std::collections::BTreeMap;
use std::path::Path;

type Files = BTreeMap<String, Vec<u8>>;

const WAL_1: &str = "wal-00000000000000000001.seg";
const WAL_2: &str = "wal-00000000000000000002.seg";
const DATA_START: usize = 4096;

/// Commits with values that contain no zero byte and are no multiple of a sector.
async fn write(store: &Store, keys: std::ops::Range<u32>) {
    for i in keys {
        let mut ops = vec![put(
            &format!("k/{i}"),
            vec![b'a' + (i % 26) as u8; 100 + 70 * (i as usize % 11)],
        )];
        if i % 3 == 2 {
            ops.push(delete(&format!("k/{}", i - 1)));
        }
        store.commit(ops).await.unwrap();
    }
}

fn expect_refusal(name: &str, options: Options) -> OpenError {
    let before = files(&options.dir);
    let error = match Store::open(options.clone()) {
        Ok(store) => panic!("{name}: opened at {}", store.snapshot().revision()),
        Err(error) => error,
    };
    assert!(
        files(&options.dir) == before,
        "{name}: refusing changed something"
    );
    let text = error.to_string();
    assert!(
        text.contains(options.dir.to_str().unwrap()),
        "{name}: does not name the file: {text}"
    );
    error
}

fn expect_corrupt(name: &str, options: Options) {
    let error = expect_refusal(name, options);
    assert!(
        matches!(error, OpenError::Corrupt { .. }),
        "{name}: {error}"
    );
}

/// The log cut off at every byte: as a shorter file, with zeros behind the cut, and with garbage behind it.
#[tokio::test]
async fn torn_tail_at_every_byte() {
    let dir = memory_dir();
    let store = open(small(dir.path()));
    // after each commit: where the log's used bytes end, and what is in it
    let mut history = vec![(DATA_START, contents(&store.snapshot()))];
    for i in 0..8 {
        write(&store, i..i + 1).await;
        // that file alone: the others are made and renamed behind us
        let used = std::fs::read(dir.path().join(WAL_1))
            .unwrap()
            .iter()
            .rposition(|&byte| byte != 0)
            .unwrap()
            + 1;
        history.push((used, contents(&store.snapshot())));
    }
    drop(store);
    let whole = files(dir.path());
    let used = history.last().unwrap().0;
    for cut in DATA_START..=used {
        for tail in ["short file", "zeros", "garbage"] {
            let mut torn = whole.clone();
            let log = torn.get_mut(WAL_1).unwrap();
            match tail {
                "short file" => log.truncate(cut),
                "zeros" => log[cut..].fill(0),
                // differs from the true bytes at the cut, whatever they are
                _ => log[cut..]
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, byte)| *byte ^= 1 + (i % 250) as u8),
            }
            lay_out(dir.path(), &torn);
            let store = open(small(dir.path()));
            let complete = history.iter().rev().find(|(end, _)| *end <= cut).unwrap();
            assert_eq!(contents(&store.snapshot()), complete.1, "{tail} from {cut}");
            // and the store goes on from there, over whatever the tear left
            store.commit(vec![put("after", "the tear")]).await.unwrap();
            let after = contents(&store.snapshot());
            drop(store);
            assert_eq!(
                contents(&open(small(dir.path())).snapshot()),
                after,
                "{tail} from {cut}, again"
            );
        }
    }
}

/// Two segments behind a snapshot, closed so that all parts of the format are there.
async fn sample(dir: &Path) -> (Files, Contents, Contents) {
    let options = small(dir);
    let store = open(options.clone());
    write(&store, 0..12).await;
    store.close().await;
    let store = open(options);
    write(&store, 12..23).await;
    let all_but_last = contents(&store.snapshot());
    write(&store, 23..24).await;
    let all = contents(&store.snapshot());
    drop(store);
    let mut whole = files(dir);
    // the next segment's empty file is there or not, as the keeper found time for it
    whole.remove("spare.seg");
    (whole, all_but_last, all)
}

/// One bit flipped in every byte of every file. Only in the very last batch may damage look like a torn write.
#[tokio::test]
async fn a_flipped_bit_is_refused_or_harmless() {
    let dir = memory_dir();
    let (whole, all_but_last, all) = sample(dir.path()).await;
    assert!(
        whole.contains_key(WAL_2) && whole.keys().any(|name| name.ends_with(".snap")),
        "{:?}",
        whole.keys()
    );
    let (mut refused, mut harmless, mut last_lost) = (0, 0, 0);
    for name in whole.keys() {
        let used = whole[name]
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        for at in 0..used {
            let bit = (at * 5 + at / 8) % 8;
            let mut flipped = whole.clone();
            flipped.get_mut(name).unwrap()[at] ^= 1 << bit;
            lay_out(dir.path(), &flipped);
            match Store::open(small(dir.path())) {
                Err(OpenError::Corrupt { .. } | OpenError::NewerFormat { .. }) => refused += 1,
                Err(other) => panic!("{name}, byte {at}, bit {bit}: {other}"),
                Ok(store) => {
                    let found = contents(&store.snapshot());
                    if found == all {
                        harmless += 1;
                    } else {
                        assert!(
                            found == all_but_last,
                            "{name}, byte {at}, bit {bit}: wrong state"
                        );
                        last_lost += 1;
                    }
                }
            }
        }
    }
    assert!(
        refused > 8000,
        "refused {refused}, harmless {harmless}, last batch dropped {last_lost}"
    );
    assert!((32..1024).contains(&last_lost), "{last_lost}");
}

#[tokio::test]
async fn missing_and_foreign_files_are_refused() {
    let dir = memory_dir();
    let (whole, _, all) = sample(dir.path()).await;
    let snapshot = whole
        .keys()
        .find(|name| name.ends_with(".snap"))
        .unwrap()
        .clone();
    let check = |name: &str, change: &dyn Fn(&mut Files)| {
        let mut changed = whole.clone();
        change(&mut changed);
        lay_out(dir.path(), &changed);
        expect_corrupt(name, small(dir.path()));
    };
    check("first segment gone", &|files| drop(files.remove(WAL_1)));
    check("segments gone", &|files| {
        files.retain(|name, _| *name == snapshot)
    });
    check("segment empty", &|files| {
        files.get_mut(WAL_1).unwrap().clear()
    });
    check("segment header cut", &|files| {
        files.get_mut(WAL_2).unwrap().truncate(47)
    });
    check("snapshot cut", &|files| {
        let bytes = files.get_mut(&snapshot).unwrap();
        bytes.truncate(bytes.len() - 1);
    });
    check("segments swapped", &|files| {
        let (one, two) = (files[WAL_1].clone(), files[WAL_2].clone());
        files.insert(WAL_1.to_owned(), two);
        files.insert(WAL_2.to_owned(), one);
    });
    check("tail of a segment that has a successor", &|files| {
        let log = files.get_mut(WAL_1).unwrap();
        let end = log.iter().rposition(|&byte| byte != 0).unwrap();
        log[end - 600..].fill(0);
    });
    lay_out(dir.path(), &whole);
    assert_eq!(
        contents(&open(small(dir.path())).snapshot()),
        all,
        "the sample itself is fine"
    );
    let mut log_alone = whole.clone();
    log_alone.remove(&snapshot);
    lay_out(dir.path(), &log_alone);
    let store = open(small(dir.path()));
    assert_eq!(
        contents(&store.snapshot()),
        all,
        "the log alone has everything, still"
    );
    // until a later snapshot lets the first segment go
    write(&store, 24..40).await;
    store.close().await;
    let mut compacted = files(dir.path());
    assert!(!compacted.contains_key(WAL_1), "{:?}", compacted.keys());
    compacted.retain(|name, _| !name.ends_with(".snap"));
    lay_out(dir.path(), &compacted);
    expect_corrupt("snapshot gone", small(dir.path()));
}

#[tokio::test]
async fn a_newer_format_is_refused_by_name() {
    let dir = memory_dir();
    let (whole, ..) = sample(dir.path()).await;
    for name in whole.keys() {
        let mut newer = whole.clone();
        newer.get_mut(name).unwrap()[8] = 2;
        lay_out(dir.path(), &newer);
        let error = expect_refusal(name, small(dir.path()));
        assert!(
            matches!(&error, OpenError::NewerFormat { path, found: 2, supported: 1 } if path.ends_with(name)),
            "{error}"
        );
        assert!(error.to_string().contains("newer version"), "{error}");
    }
}

#[test]
fn one_process_at_a_time() {
    let dir = memory_dir();
    let store = open(small(dir.path()));
    let error = Store::open(small(dir.path())).unwrap_err();
    let me = std::process::id();
    assert!(
        matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == me),
        "{error}"
    );
    drop(store);
    open(small(dir.path()));
}

#[test]
fn senseless_options_are_refused() {
    let dir = memory_dir();
    let options = Options {
        segment_bytes: 1000,
        ..small(dir.path())
    };
    let error = Store::open(options).unwrap_err();
    assert!(matches!(error, OpenError::Options(_)), "{error}");
}

/// A crash in the middle of tidying up leaves what a snapshot has made superfluous, and unfinished files.
#[tokio::test]
async fn leftovers_of_a_crash_are_tidied() {
    let dir = memory_dir();
    let store = open(small(dir.path()));
    write(&store, 0..40).await;
    drop(store);
    let mut both = files(dir.path());
    let store = open(small(dir.path()));
    let all = contents(&store.snapshot());
    store.close().await;
    drop(store);
    let tidy = files(dir.path());
    // old segments and the snapshot that covers them, an older snapshot, half-made files
    both.extend(tidy.clone());
    for name in ["snap.tmp", "wal.tmp", "spare.tmp"] {
        both.insert(name.to_owned(), b"half".to_vec());
    }
    assert!(both.len() > tidy.len() + 3, "{:?}", both.keys());
    lay_out(dir.path(), &both);
    let store = open(small(dir.path()));
    assert_eq!(contents(&store.snapshot()), all);
    let left = files(dir.path());
    assert_eq!(
        left.keys().collect::<Vec<_>>(),
        tidy.keys().collect::<Vec<_>>()
    );
}

/// Whatever the snapshots and segment switches do in between, the log stays small and nothing is lost.
#[tokio::test]
async fn snapshots_bound_the_log() {
    let dir = memory_dir();
    let options = Options {
        snapshot_after_bytes: 64 << 10,
        ..small(dir.path())
    };
    for round in 0..5 {
        let store = open(options.clone());
        write(&store, round * 400..round * 400 + 400).await;
        // the keeper works beside us: its next snapshot comes with one of the next commits
        let before = store.stats().snapshot_revision;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
        while store.stats().snapshot_revision == before {
            assert!(std::time::Instant::now() < deadline, "{:?}", store.stats());
            write(&store, 0..1).await;
            // a keeper that is late must not have the log fill the memory meanwhile
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let all = contents(&store.snapshot());
        drop(store);
        let names: Vec<_> = files(dir.path()).into_keys().collect();
        assert_eq!(
            names.iter().filter(|name| name.ends_with(".snap")).count(),
            1,
            "{names:?}"
        );
        let store = open(options.clone());
        assert_eq!(contents(&store.snapshot()), all);
        let stats = store.stats();
        assert!(stats.snapshot_revision > 0, "{stats:?}");
    }
    let store = open(options.clone());
    store.close().await;
    let names: Vec<_> = files(dir.path()).into_keys().collect();
    assert!(
        names.len() <= 3,
        "a snapshot, a segment, a spare: {names:?}"
    );
}
