//! What outlives the platform: containers, log lines, exit codes; and what doesn't: anything half-made.

mod common;

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::{EXE, SOON, World, traces};
use knarr_runtime::{Runtime, State};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_are_found_again_with_logs_and_exit_codes() {
    let mut w = World::new();
    w.sandbox("s").await;
    w.run(w.spec("over", "echo one; exit 3")).await;
    w.wait("over").await;
    w.run(w.spec("ends-meanwhile", "echo two; sleep 0.3; echo three; exit 4"))
        .await;
    w.run(w.spec(
        "goes-on",
        "trap 'echo bye; exit 5' TERM; echo four; while :; do sleep 0.05; done",
    ))
    .await;
    // from now on it hears the signal
    w.log_when("goes-on", |log| log == "four\n").await;
    w.rt()
        .run({
            let mut spec = w.spec("never", "");
            spec.args = vec!["nope".into()];
            spec
        })
        .await
        .unwrap_err();
    let before = w.rt().container("goes-on").unwrap().state;
    w.runtime = None;
    std::thread::sleep(Duration::from_millis(600));
    w.reopen();
    assert_eq!(w.rt().containers().len(), 4);
    assert_eq!(w.rt().sandboxes().len(), 1);
    assert_eq!(w.rt().container("goes-on").unwrap().state, before);
    assert_eq!(w.wait("over").await.code, 3);
    assert_eq!(w.wait("ends-meanwhile").await.code, 4);
    assert_eq!(w.log("ends-meanwhile"), "two\nthree\n");
    assert!(matches!(
        w.rt().container("never").unwrap().state,
        State::Failed(_)
    ));
    // an adopted container is a full one: exec, signal, wait
    let process = knarr_runtime::ExecSpec {
        args: vec!["true".into()],
        ..Default::default()
    };
    let mut process = w.rt().exec("goes-on", process).await.unwrap();
    assert_eq!(process.wait().await, 0);
    let waiting = {
        let runtime = w.rt().clone();
        tokio::spawn(async move { runtime.wait("goes-on").await })
    };
    w.rt().signal("goes-on", 15).await.unwrap();
    let exit = tokio::time::timeout(SOON, waiting)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(exit.code, 5);
    assert_eq!(w.log("goes-on"), "four\nbye\n");
    // and new ones can be made beside it
    assert_eq!(w.output(w.spec("new", "echo new")).await.0, 0);
    for id in ["over", "ends-meanwhile", "goes-on", "never", "new"] {
        w.rt().delete(id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_runtime_per_root() {
    let w = World::new();
    let error = Runtime::open(w.config()).err().unwrap();
    assert!(matches!(error, knarr_runtime::Error::Locked(_)), "{error}");
}

fn shim_of(w: &World, id: &str) -> i32 {
    let path = w
        .config()
        .root
        .join("containers")
        .join(id)
        .join("shim.json");
    let text = std::fs::read_to_string(path).unwrap();
    let at = text.find("\"pid\":").unwrap() + 6;
    text[at..].split(',').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_shim_takes_its_container_along_and_is_told() {
    let mut w = World::new();
    w.sandbox("s").await;
    for id in ["a", "b"] {
        w.run(w.spec(id, "sleep 1000")).await;
    }
    let kill = |pid: i32| {
        let done = Command::new("kill").args(["-9", &pid.to_string()]).status();
        assert!(done.unwrap().success());
    };
    kill(shim_of(&w, "a"));
    assert_eq!(w.wait("a").await.code, 255);
    // and when nobody was there to see it
    let State::Running { pid, .. } = w.rt().container("b").unwrap().state else {
        panic!("not running");
    };
    let shim = shim_of(&w, "b");
    w.runtime = None;
    kill(shim);
    w.reopen();
    assert_eq!(w.wait("b").await.code, 255);
    // dead, and perhaps not yet taken off by the machine's first process
    let lives = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|s| s.rsplit(')').next().is_some_and(|s| !s.starts_with(" Z")))
    };
    let end = Instant::now() + SOON;
    while lives() {
        assert!(Instant::now() < end, "the orphan {pid} lives");
        std::thread::sleep(Duration::from_millis(10));
    }
    w.rt().delete("a").await.unwrap();
    w.rt().delete("b").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_the_machine_nothing_runs_and_exits_are_unknown() {
    let mut w = World::new();
    w.sandbox("s").await;
    w.run(w.spec("a", "sleep 1000")).await;
    w.run(w.spec("b", "exit 6")).await;
    w.wait("b").await;
    let dir = w.config().root.join("containers/a");
    let shim = shim_of(&w, "a");
    let State::Running { pid, .. } = w.rt().container("a").unwrap().state else {
        panic!("not running");
    };
    w.runtime = None;
    for pid in [shim, pid] {
        let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
    }
    let this_boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for name in ["started.json", "shim.json"] {
        let path = dir.join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(this_boot.trim()));
        std::fs::write(&path, text.replace(this_boot.trim(), "another-boot")).unwrap();
    }
    w.reopen();
    assert_eq!(w.wait("a").await.code, 255);
    assert_eq!(w.wait("b").await.code, 6);
}

/// Kills its child when it goes.
struct Churn(Child);
impl Drop for Churn {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn killed_at_any_moment_the_caller_leaves_only_what_can_be_adopted_or_removed() {
    let rounds: u64 = std::env::var("KNARR_CRASH_ROUNDS")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(25);
    let mut w = World::new();
    w.runtime = None;
    let config = w.config();
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let containers = config.root.join("containers");
    let mut longest = 60_000;
    for round in 0..2 * rounds {
        // where a machine is so slow that nothing has come of it so far, later moments
        if round >= rounds {
            if std::fs::read_dir(&containers).is_ok_and(|mut d| d.next().is_some()) {
                break;
            }
            longest *= 2;
        }
        // a multiplicative generator: the moments differ, and are the same in every run
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let delay = Duration::from_micros((random >> 33) % longest);
        let mut child = Churn(
            Command::new(EXE)
                .arg("churn")
                .arg(&config.root)
                .arg(&config.cgroup_parent)
                .arg(w.image())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut line = String::new();
        BufReader::new(child.0.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(
            line.starts_with("ready"),
            "round {round}: it could not open: {line:?}"
        );
        std::thread::sleep(delay);
        child.0.kill().unwrap();
        child.0.wait().unwrap();
    }
    w.reopen();
    let runtime = w.rt().clone();
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let found = runtime.containers();
    assert!(
        !found.is_empty(),
        "nothing was left to adopt: the test shows nothing"
    );
    for c in &found {
        if let State::Exited { exit, .. } = &c.state
            && c.spec.args.last().is_some_and(|a| a == "exit 7")
        {
            assert_eq!(exit.code, 7, "{}", c.spec.id);
        }
    }
    tokio.block_on(runtime.purge()).unwrap();
    drop(runtime);
    w.runtime = None;
    let left = traces(&config.root, &config.cgroup_parent);
    assert!(left.is_empty(), "left behind: {left:#?}");
    let files: Vec<_> = std::fs::read_dir(&config.root)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(files, ["lock"]);
}
