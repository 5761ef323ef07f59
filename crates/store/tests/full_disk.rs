//! A full disk: commits fail and say so, everything else goes on, and writing does again once there is space.
//!
//! Needs root, for a tmpfs of its own in a mount namespace of its own.

mod common;
use common::*;
use knarr_store::{CommitError, Options, Store};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::path::Path;

/// Runs the test with `dir` on a tmpfs of that size which nobody else sees, and which goes with the thread.
fn on_small_disk(kib: u32, test: impl AsyncFnOnce(&Path) + Send + 'static) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test mounts a small tmpfs: run it as root"
    );
    let thread = std::thread::spawn(move || {
        let dir = tempfile::tempdir().unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let size = format!("size={kib}k");
        mount(
            Some("tmpfs"),
            dir.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some(&size[..]),
        )
        .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(test(dir.path()));
        nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Commits new keys until there is no space; returns how many went through.
async fn fill(store: &Store, prefix: &str) -> usize {
    for i in 0..10_000 {
        let before = store.snapshot().revision();
        match store
            .commit(vec![put(&format!("{prefix}/{i:05}"), vec![7; 900])])
            .await
        {
            Ok(_) => {}
            Err(CommitError::NoSpace(what)) => {
                assert!(what.contains("No space left"), "{what}");
                assert_eq!(store.snapshot().revision(), before, "nothing half-visible");
                return i;
            }
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the disk never filled up");
}

#[test]
fn reads_go_on_and_writes_come_back() {
    on_small_disk(512, async |mount| {
        let dir = mount.join("store");
        let ballast = mount.join("ballast");
        std::fs::write(&ballast, vec![1; 256 << 10]).unwrap();
        let store = open(small(&dir));
        let mut cursor = store.watch("", 0).unwrap();
        let written = fill(&store, "a").await;
        assert!(written > 50, "{written}");
        let seen = cursor.next(10_000).await.unwrap().len();
        assert_eq!(
            seen, written,
            "watchers see what was acknowledged, and no more"
        );
        fill(&store, "b").await;
        let full = contents(&store.snapshot());
        assert_eq!(store.stats().read_only, None, "a full disk is not the end");

        drop(store);
        let store = open(small(&dir));
        assert_eq!(contents(&store.snapshot()), full, "it opens on a full disk");
        fill(&store, "c").await;

        std::fs::remove_file(&ballast).unwrap();
        store.commit(vec![put("space", "again")]).await.unwrap();
        assert!(fill(&store, "d").await > 50);
        let fuller = contents(&store.snapshot());
        drop(store);
        assert_eq!(contents(&open(small(&dir)).snapshot()), fuller);
    });
}

#[test]
fn a_full_log_makes_room_for_itself() {
    on_small_disk(192, async |mount| {
        // snapshots are not due by size: only the full disk asks for them
        let options = Options {
            segment_bytes: 32 << 10,
            ..small(&mount.join("store"))
        };
        let store = open(options.clone());
        // a few keys over and over: the log would be megabytes, the state is a few KiB
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
        let mut done = 0;
        while done < 2000 {
            match store
                .commit(vec![put(&format!("k/{}", done % 8), vec![7; 900])])
                .await
            {
                Ok(_) => done += 1,
                Err(CommitError::NoSpace(_)) => {
                    assert!(std::time::Instant::now() < deadline, "{:?}", store.stats());
                    tokio::task::yield_now().await;
                }
                Err(other) => panic!("{other}"),
            }
        }
        let all = contents(&store.snapshot());
        drop(store);
        assert_eq!(contents(&open(options).snapshot()), all);
    });
}
