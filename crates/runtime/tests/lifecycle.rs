//! Run, wait, log, list, delete, and what a failed start says.

mod common;

use common::World;
use knarr_runtime::{Error, State};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_runs_logs_ends_and_is_deleted() {
    let w = World::new();
    w.sandbox("s").await;
    let c = w
        .run(w.spec("a", "echo out; echo err >&2; printf part; exit 3"))
        .await;
    assert!(matches!(
        c.state,
        State::Running { .. } | State::Exited { .. }
    ));
    let exit = w.wait("a").await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (3, None, false));
    let text = std::fs::read_to_string(w.log_path("a")).unwrap();
    let mut tags: Vec<String> = text
        .lines()
        .map(|l| l.split_once(' ').unwrap().1.to_owned())
        .collect();
    tags.sort();
    assert_eq!(tags, ["stderr F err", "stdout F out", "stdout P part"]);
    assert_eq!(w.rt().containers().len(), 1);
    w.rt().delete("a").await.unwrap();
    w.rt().delete("a").await.unwrap();
    assert!(w.rt().container("a").is_none());
    assert!(w.log_path("a").exists(), "the log stays");
    w.rt().delete_sandbox("s").await.unwrap();
    assert!(w.rt().sandboxes().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_starts_say_why_as_kubelet_does() {
    let w = World::new();
    w.sandbox("s").await;
    let check = async |id: &str, args: &[&str], want: &str| {
        let mut spec = w.spec(id, "");
        spec.args = args.iter().map(|s| (*s).to_owned()).collect();
        let got = w.rt().run(spec).await.unwrap_err().to_string();
        assert_eq!(got, want, "{args:?}");
        let state = w.rt().container(id).unwrap().state;
        assert_eq!(state, State::Failed(want.into()));
        w.rt().delete(id).await.unwrap();
    };
    check(
        "a",
        &["foo"],
        "exec: \"foo\": executable file not found in $PATH",
    )
    .await;
    check(
        "b",
        &["/foo"],
        "exec: \"/foo\": stat /foo: no such file or directory",
    )
    .await;
    check("c", &["/etc"], "exec: \"/etc\": is a directory").await;
    check(
        "d",
        &["/etc/passwd"],
        "exec: \"/etc/passwd\": permission denied",
    )
    .await;
    let mut spec = w.spec("e", "true");
    spec.mounts = vec![knarr_runtime::Mount {
        source: "/nonexistent/volume".into(),
        destination: "/v".into(),
        read_only: false,
        propagation: "private".into(),
        recursive_read_only: false,
    }];
    let got = w.rt().run(spec).await.unwrap_err().to_string();
    assert_eq!(
        got,
        "the mount source /nonexistent/volume: no such file or directory"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_refused_before_anything_is_made() {
    let w = World::new();
    w.sandbox("s").await;
    let with = |change: &dyn Fn(&mut knarr_runtime::ContainerSpec)| {
        let mut spec = w.spec("a", "true");
        change(&mut spec);
        spec
    };
    for spec in [
        with(&|s| s.id = "../a".into()),
        with(&|s| s.id = "A".into()),
        with(&|s| s.id = String::new()),
        with(&|s| s.cgroup = "../up".into()),
        with(&|s| s.cgroup = String::new()),
        with(&|s| s.capabilities = vec!["CAP_NONE".into()]),
    ] {
        let error = w.rt().run(spec.clone()).await.unwrap_err();
        assert!(
            matches!(error, Error::Invalid { .. }),
            "{error} for {spec:?}"
        );
    }
    let spec = with(&|s| s.sandbox = "none".into());
    assert!(matches!(
        w.rt().run(spec).await.unwrap_err(),
        Error::NoSandbox(_)
    ));
    assert!(w.rt().containers().is_empty());
    w.run(w.spec("a", "sleep 100")).await;
    let again = w.rt().run(w.spec("a", "true")).await.unwrap_err();
    assert!(matches!(again, Error::Exists(_)), "{again}");
    let used = w.rt().delete_sandbox("s").await.unwrap_err();
    assert!(matches!(used, Error::InUse(_)), "{used}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_reach_the_first_process_and_kills_are_told() {
    let w = World::new();
    w.sandbox("s").await;
    w.run(w.spec(
        "a",
        "trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done",
    ))
    .await;
    w.log_when("a", |log| log.contains("ready")).await;
    w.rt().signal("a", 15).await.unwrap();
    assert_eq!(w.wait("a").await.code, 5);
    let error = w.rt().signal("a", 15).await.unwrap_err();
    assert!(matches!(error, Error::NotRunning(_)), "{error}");

    w.run(w.spec("b", "sleep 1000")).await;
    w.rt().signal("b", 9).await.unwrap();
    let exit = w.wait("b").await;
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    // a running container is killed by delete
    w.run(w.spec("c", "sleep 1000")).await;
    w.rt().delete("c").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once() {
    let w = std::sync::Arc::new(World::new());
    w.sandbox("s").await;
    let all: Vec<_> = (0..40)
        .map(|i| {
            let w = w.clone();
            tokio::spawn(async move {
                let id = format!("c{i}");
                let (code, out) = w.output(w.spec(&id, &format!("echo {i}; exit {i}"))).await;
                assert_eq!((code, out), (i, format!("{i}\n")));
                w.rt().delete(&id).await.unwrap();
            })
        })
        .collect();
    for one in all {
        one.await.unwrap();
    }
    assert!(w.rt().containers().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_log_is_rotated_and_what_is_kept_is_whole() {
    let w = World::new();
    w.sandbox("s").await;
    let mut spec = w.spec("a", "seq 100000");
    spec.log_max_bytes = 100_000;
    spec.log_files_max = 4;
    w.run(spec).await;
    assert_eq!(w.wait("a").await.code, 0);
    let live = w.log_path("a");
    let mut files: Vec<_> = std::fs::read_dir(live.parent().unwrap())
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| *p != live)
        .collect();
    files.sort();
    assert_eq!(files.len(), 3, "{files:?}");
    files.push(live);
    let mut numbers = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.len() <= 100_000);
        numbers.extend(
            text.lines()
                .map(|l| l.rsplit(' ').next().unwrap().parse::<u32>().unwrap()),
        );
    }
    assert_eq!(numbers, (numbers[0]..=100_000).collect::<Vec<_>>());
}

#[test]
fn a_role_is_not_taken_by_accident() {
    use std::{os::unix::process::CommandExt, process::Command};
    for role in ["knarr-shim", "knarr-exec", "knarr-pause"] {
        for variable in [None, Some(role), Some("other")] {
            let mut command = Command::new(common::EXE);
            command.arg0(role).arg("x").env_remove("KNARR_RUNTIME_ROLE");
            if let Some(value) = variable {
                command.env("KNARR_RUNTIME_ROLE", value);
            }
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(text.starts_with("usage:"), "{role} {variable:?}: {text}");
        }
    }
}
