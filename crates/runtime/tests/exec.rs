//! Extra processes: the same powers as the container's first one, streams, terminals, exit codes, kills.

mod common;

use common::{SOON, World};
use knarr_runtime::{ContainerSpec, EnteredProcess, Error, ExecProcess, ExecSpec, Seccomp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn command(args: &[&str]) -> ExecSpec {
    ExecSpec {
        args: args.iter().map(|s| (*s).to_owned()).collect(),
        ..ExecSpec::default()
    }
}

async fn outcome(mut process: ExecProcess) -> (i32, String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (
        process.stdout.take().unwrap(),
        process.stderr.take().unwrap(),
    );
    let done = tokio::time::timeout(SOON, async {
        tokio::join!(
            async { stdout.read_to_string(&mut out).await.unwrap() },
            async { stderr.read_to_string(&mut err).await.unwrap() },
        );
        process.wait().await
    });
    let code = done.await.expect("the process did not end");
    (code, out, err)
}

const POWERS: &str = "grep -E '^(Cap|Seccomp|NoNewPrivs|Groups|Uid|Gid|SigBlk|SigIgn)' /proc/self/status; \
    cat /proc/self/cgroup; cat /proc/self/oom_score_adj; \
    for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done; pwd; hostname; umask";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extra_process_has_exactly_the_powers_of_the_first() {
    let w = World::new();
    w.sandbox("s").await;
    let check = async |id: &str, change: &dyn Fn(&mut knarr_runtime::ContainerSpec)| {
        let mut spec = w.spec(id, &format!("{POWERS}; exec sleep 1000"));
        spec.no_new_privileges = true;
        spec.oom_score_adj = 321;
        change(&mut spec);
        w.run(spec).await;
        let process = w
            .rt()
            .exec(id, command(&["/bin/sh", "-c", POWERS]))
            .await
            .unwrap();
        let (code, out, err) = outcome(process).await;
        assert_eq!((code, err.as_str()), (0, ""), "{id}");
        let lines = out.lines().count();
        let first = w.log_when(id, |log| log.lines().count() == lines).await;
        assert_eq!(out, first, "{id}");
        out
    };
    let out = check("plain", &|_| {}).await;
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert!(out.contains(&format!("{set}:\t00000000a80425fb")), "{out}");
    }
    assert!(out.contains("CapAmb:\t0000000000000000"), "{out}");
    assert!(out.contains("NoNewPrivs:\t1"), "{out}");
    assert!(out.contains("Seccomp:\t2"), "{out}");
    assert!(out.contains("\n321\n"), "{out}");
    assert!(out.contains("\nhost-s\n"), "{out}");

    let out = check("may-gain", &|s| s.no_new_privileges = false).await;
    assert!(out.contains("NoNewPrivs:\t0"), "{out}");
    assert!(out.contains("Seccomp:\t2"), "{out}");
    // Not even the two signals that glibc's posix_spawn leaves ignored for its own use.
    assert!(out.contains("SigBlk:\t0000000000000000"), "{out}");
    assert!(out.contains("SigIgn:\t0000000000000000"), "{out}");

    let out = check("user", &|s| {
        s.user.uid = 1000;
        s.user.gid = 1000;
        s.user.additional_gids = vec![2000, 2001];
        s.user.umask = Some(0o077);
        s.cwd = "/home/web".into();
    })
    .await;
    assert!(out.contains("Uid:\t1000\t1000\t1000\t1000"), "{out}");
    assert!(out.contains("Groups:\t1000 2000 2001"), "{out}");
    assert!(out.contains("CapEff:\t0000000000000000"), "{out}");
    assert!(out.contains("\n/home/web\n"), "{out}");
    assert!(out.ends_with("0077\n"), "{out}");

    let out = check("free", &|s| s.seccomp = Seccomp::Unconfined).await;
    assert!(out.contains("Seccomp:\t0"), "{out}");

    let out = check("privileged", &|s| {
        s.privileged = true;
        s.no_new_privileges = false;
    })
    .await;
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own_caps = own.lines().find(|l| l.starts_with("CapEff")).unwrap();
    assert!(out.contains(own_caps), "{out} lacks {own_caps}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_runtime_open_enters_with_exactly_the_same_powers() {
    let mut w = World::new();
    w.sandbox("s").await;
    type Change = fn(&mut ContainerSpec);
    let kinds: [(&str, Change); 5] = [
        ("plain", |s| s.no_new_privileges = true),
        ("may-gain", |s| s.oom_score_adj = 321),
        ("user", |s| {
            (s.user.uid, s.user.gid, s.user.umask) = (1000, 1000, Some(0o077));
            s.cwd = "/home/web".into();
        }),
        ("free", |s| s.seccomp = Seccomp::Unconfined),
        ("privileged", |s| s.privileged = true),
    ];
    let powers = command(&["/bin/sh", "-c", POWERS]);
    let mut firsts = Vec::new();
    for (id, change) in kinds {
        let mut spec = w.spec(id, &format!("{POWERS}; exec sleep 1000"));
        change(&mut spec);
        w.run(spec).await;
        let whole = |log: &str| log.ends_with("0022\n") || log.ends_with("0077\n");
        firsts.push((id, w.log_when(id, whole).await));
    }
    w.run(w.spec("over", "exit 3")).await;
    w.wait("over").await;
    let config = w.config();
    let held = EnteredProcess::start(&config, "plain", &powers).unwrap();
    assert!(held.is_none(), "a runtime is open");
    w.runtime = None;

    for (id, first) in firsts {
        let entered = w.enter(id, &powers).unwrap();
        assert_eq!(entered, (0, first, String::new()), "{id}");
    }
    let both = command(&["/bin/sh", "-c", "echo out; echo err >&2; cat; exit 9"]);
    let got = w.enter("plain", &both).unwrap();
    assert_eq!(got, (9, "out\n".into(), "err\n".into()));
    let killed = w.enter("plain", &command(&["/bin/sh", "-c", "kill -TERM $$"]));
    assert_eq!(killed.unwrap().0, 143);
    let error = w.enter("plain", &command(&["nope"])).err().unwrap();
    let want = "exec: \"nope\": executable file not found in $PATH";
    assert_eq!(error.to_string(), want);

    // the long way is for what isn't as usual
    let mut terminal = command(&["true"]);
    terminal.tty = true;
    for (id, spec) in [("plain", &terminal), ("over", &powers), ("none", &powers)] {
        let none = EnteredProcess::start(&config, id, spec).unwrap();
        assert!(none.is_none(), "{id}");
    }

    // dropped, it ends
    let sleep = command(&["sleep", "777"]);
    let end = std::time::Instant::now() + SOON;
    drop(EnteredProcess::start(&config, "plain", &sleep).unwrap());
    let left = command(&["/bin/sh", "-c", "ps | grep -c '[s]leep 777'"]);
    while w.enter("plain", &left).unwrap().1 != "0\n" {
        assert!(std::time::Instant::now() < end, "dropped, but still there");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_codes_and_errors() {
    let w = World::new();
    w.sandbox("s").await;
    let mut spec = w.spec("a", "exec sleep 1000");
    spec.env.push("FROM=container".into());
    w.run(spec).await;

    let mut both = command(&["/bin/sh", "-c", "echo $FROM $MORE; echo err >&2; exit 9"]);
    both.env = vec!["MORE=exec".into()];
    let got = outcome(w.rt().exec("a", both).await.unwrap()).await;
    assert_eq!(got, (9, "container exec\n".into(), "err\n".into()));

    let mut cat = command(&["cat"]);
    cat.stdin = true;
    let mut process = w.rt().exec("a", cat).await.unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let text = "x".repeat(300_000);
    let writer = tokio::spawn(async move {
        stdin.write_all(text.as_bytes()).await.unwrap();
    });
    let (code, out, _) = outcome(process).await;
    writer.await.unwrap();
    assert_eq!((code, out.len()), (0, 300_000));

    let killed = outcome(
        w.rt()
            .exec("a", command(&["/bin/sh", "-c", "kill -TERM $$"]))
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(killed.0, 143);

    let error = w.rt().exec("a", command(&["nope"])).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        "exec: \"nope\": executable file not found in $PATH"
    );
    let error = w.rt().exec("b", command(&["true"])).await.err().unwrap();
    assert!(matches!(error, Error::NoContainer(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unwanted_process_is_killed_and_so_is_one_whose_container_ends() {
    let w = World::new();
    w.sandbox("s").await;
    w.run(w.spec("a", "exec sleep 1000")).await;
    let sleepers = async || {
        let process = w
            .rt()
            .exec(
                "a",
                command(&["/bin/sh", "-c", "ps | grep -c '[s]leep 777'"]),
            )
            .await
            .unwrap();
        outcome(process).await.1.trim().to_owned()
    };
    let mut process = w.rt().exec("a", command(&["sleep", "777"])).await.unwrap();
    assert_eq!(sleepers().await, "1");
    process.kill();
    assert_eq!(process.wait().await, 137);
    assert_eq!(process.wait().await, 137, "asking twice is harmless");

    drop(w.rt().exec("a", command(&["sleep", "777"])).await.unwrap());
    let end = std::time::Instant::now() + SOON;
    while sleepers().await != "0" {
        assert!(std::time::Instant::now() < end, "dropped, but still there");
    }

    let mut process = w.rt().exec("a", command(&["sleep", "777"])).await.unwrap();
    w.rt().signal("a", 9).await.unwrap();
    let code = tokio::time::timeout(SOON, process.wait()).await.unwrap();
    assert_eq!(code, 137);
    w.wait("a").await;
    let error = w.rt().exec("a", command(&["true"])).await.err().unwrap();
    assert!(matches!(error, Error::NotRunning(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_is_the_containers_own_and_can_be_resized() {
    let w = World::new();
    w.sandbox("s").await;
    w.run(w.spec("a", "exec sleep 1000")).await;
    let mut spec = command(&[
        "/bin/sh",
        "-c",
        "tty; echo $TERM; read line; stty size; echo got $line; exit 4",
    ]);
    spec.tty = true;
    spec.stdin = true;
    let mut process = w.rt().exec("a", spec).await.unwrap();
    assert!(process.stdout.is_none() && process.stdin.is_none());
    let mut tty = process.tty.take().unwrap();
    tty.resize(91, 33);
    let mut writer = tty.clone();
    writer.write_all(b"hello\n").await.unwrap();
    let mut out = String::new();
    let code = tokio::time::timeout(SOON, async {
        tty.read_to_string(&mut out).await.unwrap();
        process.wait().await
    })
    .await
    .unwrap();
    assert_eq!(code, 4);
    for want in ["/dev/pts/0\r\n", "xterm\r\n", "33 91\r\n", "got hello\r\n"] {
        assert!(out.contains(want), "{want:?} not in {out:?}");
    }
}
