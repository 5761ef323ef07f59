//! kill -9 in a loop: what was acknowledged is there after every round, and the state is a prefix of what was asked.

mod common;
use common::*;
use knarr_store::{Expect, Op, Options, Store, Value};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const ROUNDS: u32 = 500;
const WRITERS: u32 = 6;
const DIR_VARIABLE: &str = "KNARR_STORE_KILL_TEST_DIR";

fn options(dir: &Path) -> Options {
    Options {
        // small, so that rounds die in segment switches and snapshots, too
        segment_bytes: 64 << 10,
        snapshot_after_bytes: 192 << 10,
        ..Options::new(dir)
    }
}

/// Not a test of its own: the process that gets killed. Each writer counts up, in two keys at once, and says so once
/// the commit is acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by kill_nine_loses_nothing"]
async fn the_victim() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE) else {
        panic!("only kill_nine_loses_nothing runs this")
    };
    let store = open(options(Path::new(&dir)));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            let mut count = counter(&store, &format!("left/{writer}"));
            loop {
                count += 1;
                let put = |side: &str| Op::Put {
                    key: format!("{side}/{writer}").into(),
                    value: Value::Bytes(value(count, writer).into()),
                    expect: Expect::Any,
                };
                store.commit(vec![put("left"), put("right")]).await.unwrap();
                // one write call per line, so that no line is torn between writers
                let mut out = std::io::stdout().lock();
                if out
                    .write_all(format!("\nACK {writer} {count}\n").as_bytes())
                    .is_err()
                    || out.flush().is_err()
                {
                    return;
                }
            }
        });
    }
    writers.join_all().await;
}

fn value(count: u64, writer: u32) -> Vec<u8> {
    let mut value = count.to_le_bytes().to_vec();
    value.resize(8 + 100 + (count as usize * 37) % 700, writer as u8 + 1);
    value
}

fn counter(store: &Store, key: &str) -> u64 {
    let snapshot = store.snapshot();
    let value = snapshot.get(key).map(|entry| entry.value.clone());
    value.map_or(0, |value| {
        u64::from_le_bytes(value[..8].try_into().unwrap())
    })
}

struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn kill_nine_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<u32, u64> = (0..WRITERS).map(|writer| (writer, 0)).collect();
    let mut rounds_with_writes = 0;
    let mut snapshots = std::collections::BTreeSet::new();
    for round in 0..ROUNDS {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "the_victim",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(DIR_VARIABLE, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut victim = Victim(child);
        let mut lines = BufReader::new(victim.0.stdout.take().unwrap()).lines();
        let mut acks = 0;
        let mut note = |line: String| {
            let Some(ack) = line.strip_prefix("ACK ") else {
                return;
            };
            // a line cut off by the kill is no acknowledgement
            let Some((writer, count)) = ack.split_once(' ') else {
                return;
            };
            let (writer, count) = (
                writer.parse::<u32>().unwrap(),
                count.parse::<u64>().unwrap(),
            );
            let known = acknowledged.get_mut(&writer).unwrap();
            assert!(
                count > *known,
                "writer {writer} went back from {known} to {count}"
            );
            *known = count;
            acks += 1;
        };
        // some rounds die early (in recovery, before any acknowledgement), most in the middle of writing
        let wait_for = if round % 10 == 0 {
            0
        } else {
            1 + rand::random_range(0..40)
        };
        for _ in 0..wait_for {
            note(lines.next().expect("the victim ended by itself").unwrap());
        }
        std::thread::sleep(Duration::from_micros(rand::random_range(0..5000)));
        victim.0.kill().unwrap();
        victim.0.wait().unwrap();
        let mut rest: Vec<String> = lines.map(Result::unwrap).collect();
        // the pipe may end within a line: it has no newline, and `lines` can't tell
        rest.pop();
        rest.into_iter().for_each(&mut note);
        rounds_with_writes += u32::from(acks > 0);

        let store = open(options(dir.path()));
        let mut total = 0;
        for (&writer, known) in &mut acknowledged {
            let left = counter(&store, &format!("left/{writer}"));
            let right = counter(&store, &format!("right/{writer}"));
            assert_eq!(
                left, right,
                "round {round}: a commit of writer {writer} went through by half"
            );
            assert!(
                left >= *known,
                "round {round}: writer {writer} had {known} acknowledged, {left} is there"
            );
            let snapshot = store.snapshot();
            if let Some(entry) = snapshot.get(&format!("left/{writer}")) {
                assert_eq!(entry.value, value(left, writer), "round {round}");
            }
            total += left;
            *known = left;
        }
        // every operation ever done is in the counters: nothing is missing in the middle
        assert_eq!(store.snapshot().revision(), 2 * total, "round {round}");
        snapshots.insert(store.stats().snapshot_revision);
    }
    assert!(rounds_with_writes > ROUNDS / 2, "{rounds_with_writes}");
    assert!(
        snapshots.len() > 3,
        "the rounds met few snapshots: {snapshots:?}"
    );
}
