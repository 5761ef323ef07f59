//! Builds that are killed, canceled, or run side by side.

mod common;

use common::{BASE, EXE, World};
use knarr_build::{Engine, Prune, Pruned};
use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

/// Cgroups of engines whose parent is this.
fn groups(parent: &str) -> Vec<String> {
    let mut found = vec![];
    for root in [
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/cpu",
        "/sys/fs/cgroup/memory",
    ] {
        let names = fs::read_dir(root).into_iter().flatten().flatten();
        let name = format!("{}-", parent.trim_start_matches('/'));
        found.extend(
            names
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .filter(|n| n.starts_with(&name)),
        );
    }
    found
}

#[test]
fn a_killed_build_goes_on_from_its_finished_steps() {
    let world = World::new();
    let context = world.context(&[(
        "Dockerfile",
        &format!("FROM {BASE}\nRUN echo 1 > /a\nRUN test -e /a && echo waiting && test -e /go || sleep 1000\nRUN echo 3"),
    )]);
    let data = world.dir.path().to_owned();
    let build = || {
        let mut command = Command::new(EXE);
        command.args([data.as_os_str(), context.as_os_str(), "killed:1".as_ref()]);
        command.stdout(Stdio::piped());
        command
    };
    let mut child = build().spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let waiting = |l: &Result<String, _>| l.as_ref().is_ok_and(|l| l.contains("Output"));
    assert!(lines.any(|l| waiting(&l)), "the second step never ran");
    child.kill().unwrap();
    child.wait().unwrap();
    // the container is its shim's, and lives on
    assert!(
        !groups(&format!("knarr-build-test-{}", child.id())).is_empty(),
        "the test cannot see what is left"
    );
    // the same step, made to end
    fs::write(
        context.join("Dockerfile"),
        format!("FROM {BASE}\nRUN echo 1 > /a\nRUN test -e /a && echo going\nRUN echo 3"),
    )
    .unwrap();
    let output = build().output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("ran 2 cached 1"), "{said}");
    let left = groups(&format!("knarr-build-test-{}", child.id()));
    assert!(left.is_empty(), "{left:?}");
    let image = world.images.resolve("killed:1").unwrap().unwrap();
    assert!(image.layers.iter().all(|l| l.is_dir()));
    let sessions = fs::read_dir(data.join("build/sessions")).unwrap().flatten();
    // the one of this test's own engine
    assert_eq!(sessions.filter(|e| e.path().is_dir()).count(), 1);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let left = mounts
        .lines()
        .filter(|l| l.contains(&*data.to_string_lossy()))
        .count();
    assert_eq!(left, 0, "{mounts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canceled_build_leaves_nothing_running() {
    let world = World::new();
    let request = world.request(&format!("FROM {BASE}\nRUN echo waiting; sleep 1000"), &[]);
    let (sender, mut receiver) = tokio::sync::mpsc::channel(64);
    let told = move |event: knarr_build::Event| {
        let _ = sender.try_send(event);
    };
    {
        let mut build = std::pin::pin!(knarr_build::build(&world.engine, request, &told));
        let deadline = tokio::time::sleep(Duration::from_secs(60));
        let mut deadline = std::pin::pin!(deadline);
        loop {
            tokio::select! {
                done = &mut build => panic!("{:?}", done.map(|b| b.metadata)),
                event = receiver.recv() => {
                    if matches!(event, Some(knarr_build::Event::Output { .. })) {
                        break;
                    }
                }
                _ = &mut deadline => panic!("the step never ran"),
            }
        }
    }
    world.engine.close().await.unwrap();
    let left = groups(&common::cgroup(world.dir.path()));
    assert!(left.is_empty(), "{left:?}");
    world.close().await;
}

/// Sandboxes that the engine's sessions have.
fn sandboxes(world: &World) -> Vec<std::path::PathBuf> {
    fn below(dir: &std::path::Path, depth: u32, found: &mut Vec<std::path::PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if dir.ends_with("sandboxes") {
                found.push(entry.path());
            } else if depth > 0 && entry.file_type().is_ok_and(|t| t.is_dir()) {
                below(&entry.path(), depth - 1, found);
            }
        }
    }
    let mut found = vec![];
    below(&world.dir.path().join("build/sessions"), 4, &mut found);
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_canceled_while_a_step_is_prepared_leaves_no_sandbox() {
    let world = World::new();
    let (sender, mut receiver) = tokio::sync::mpsc::channel(64);
    let told = move |event: knarr_build::Event| {
        let _ = sender.try_send(event);
    };
    let mut seen = 0;
    for round in 0..150_u64 {
        let text = format!("FROM {BASE}\nRUN echo {round}; sleep 1000");
        let request = world.request(&text, &[]);
        let mut build = std::pin::pin!(knarr_build::build(&world.engine, request, &told));
        let begun = async {
            while let Some(event) = receiver.recv().await {
                if matches!(event, knarr_build::Event::Started { name, .. } if name.contains("RUN"))
                {
                    break;
                }
            }
            tokio::time::sleep(Duration::from_micros(round * 100)).await;
        };
        tokio::select! {
            done = &mut build => panic!("{:?}", done.map(|b| b.metadata)),
            () = begun => seen += sandboxes(&world).len(),
        }
    }
    assert!(seen > 0, "no build was canceled when it had a sandbox");
    for _ in 0..600 {
        if sandboxes(&world).is_empty() {
            return world.close().await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{:?}", sandboxes(&world));
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_run_side_by_side_and_a_locked_cache_is_one_s_alone() {
    let world = World::new();
    // each waits for the other: in turn they would never end
    let meet = |own: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,target=/c,id=meet touch /c/{own}; i=0; while ! test -e /c/{other}; do sleep 0.1; i=$((i+1)); test $i -lt 600 || exit 1; done; echo {own} > /{own}"
        )
    };
    let locked = "RUN --mount=type=cache,target=/c,id=locked,sharing=locked mkdir /c/lock && sleep 0.2 && rm -r /c/lock";
    let dockerfile = format!(
        "FROM {BASE} AS a\n{}\n{locked}\nFROM {BASE} AS b\n{}\n{locked} \nFROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /",
        meet("a", "b"),
        meet("b", "a")
    );
    let (built, _) = world.good(world.request(&dockerfile, &[])).await;
    assert_eq!(world.file(&built, "a").as_deref(), Some("a\n"));
    assert_eq!(world.file(&built, "b").as_deref(), Some("b\n"));
    world.close().await;
}

/// Other tests of this program start processes, which have its locks until they are what they shall be.
async fn prune(engine: &Engine, keep_bytes: u64, spare_shared: bool) -> Pruned {
    let wanted = Prune {
        unused_s: u64::MAX,
        keep_bytes,
        spare_shared,
        both: false,
    };
    for _ in 0..600 {
        if let Some(pruned) = engine.prune(&wanted).unwrap() {
            return pruned;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the cache is in use");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_images_have_is_spared() {
    let world = World::new();
    let mut request = world.request(&format!("FROM {BASE}\nRUN echo 1 > /a"), &[]);
    request.tags = vec!["kept:1".into()];
    world.good(request.clone()).await;
    let other = world.request(&format!("FROM {BASE}\nRUN echo 2 > /a"), &[]);
    world.good(other).await;
    assert_eq!(world.engine.usage().unwrap().len(), 2);
    let pruned = prune(&world.engine, 0, true).await;
    assert_eq!(pruned.snapshots.len(), 1);
    let (built, _) = world.good(request).await;
    assert_eq!((built.steps_run, built.steps_cached), (0, 1));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_lost_bytes_in_a_power_cut_is_made_again() {
    let world = World::new();
    let dockerfile =
        format!("FROM {BASE} AS a\nRUN echo 12345 > /a\nFROM {BASE}\nCOPY --from=a /a /b");
    world.good(world.request(&dockerfile, &[])).await;
    // the intermediate stage's result is no layer of the store
    let dir = world.dir.path().join("build");
    let mut cut = 0;
    for entry in fs::read_dir(dir.join("snapshots")).unwrap().flatten() {
        let file = entry.path().join("fs/a");
        if !entry.path().join("fs").is_symlink() && file.exists() {
            fs::File::create(file).unwrap();
            cut += 1;
        }
    }
    assert_eq!(cut, 1);
    let again = || async { world.good(world.request(&dockerfile, &[])).await.0 };
    assert_eq!(again().await.steps_run, 0, "nothing says that it may be");
    // as if the machine had been started anew
    for entry in fs::read_dir(dir.join("steps")).unwrap().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
        record["boot"] = "another".into();
        fs::write(entry.path(), record.to_string()).unwrap();
    }
    let built = again().await;
    assert_eq!(world.file(&built, "b").as_deref(), Some("12345\n"));
    assert_eq!((built.steps_run, built.steps_cached), (1, 1));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pruned_cache_builds_anew_and_images_stay() {
    let world = World::new();
    let mut request = world.request(&format!("FROM {BASE}\nRUN echo 1 > /a"), &[]);
    request.tags = vec!["kept:1".into()];
    world.good(request.clone()).await;
    assert!(world.engine.cache_bytes().unwrap() > 0);
    let pruned = prune(&world.engine, 0, false).await;
    assert_eq!((pruned.snapshots.len(), pruned.bytes_left), (1, 0));
    let image = world.images.resolve("kept:1").unwrap().unwrap();
    assert_eq!(
        fs::read_to_string(image.layers[0].join("a")).unwrap(),
        "1\n"
    );
    let (built, _) = world.good(request).await;
    assert_eq!((built.steps_run, built.steps_cached), (1, 0));
    world.close().await;
}

/// `KNARR_KILL_ROUNDS` says how often; a few times are enough for every day.
#[test]
fn builds_killed_at_any_moment_leave_all_whole() {
    use rand::Rng;
    let rounds = std::env::var("KNARR_KILL_ROUNDS");
    let rounds: u32 = rounds.map_or(5, |text| text.parse().unwrap());
    let world = World::new();
    let dockerfile = format!(
        "FROM {BASE} AS make\nCOPY n /n\nRUN --mount=type=cache,target=/c mkdir -p /d; for i in $(seq 60); do echo $i $(cat /n) > /d/$i; done; cp /n /c/n\n\
         FROM {BASE} AS other\nCOPY --link many /many\nRUN cat /many/* > /sum\n\
         FROM {BASE}\nCOPY --from=make /d /d\nCOPY --from=other /sum /sum\nWORKDIR /w\nRUN --mount=from=make,source=/d,target=/m cat /m/60 > out; rm -r /d/1"
    );
    let mut files: Vec<(String, String)> = (0..200)
        .map(|i| (format!("many/{i:03}"), format!("{i}\n")))
        .collect();
    files.push(("Dockerfile".into(), dockerfile));
    let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (&**a, &**b)).collect();
    let context = world.context(&files);
    let data = world.dir.path().to_owned();
    let command = || {
        let mut command = Command::new(EXE);
        command.args([data.as_os_str(), context.as_os_str(), "round:1".as_ref()]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let whole = |round: u32| {
        let began = std::time::Instant::now();
        let output = command().output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "round {round}: {said}");
        let image = world.images.resolve("round:1").unwrap().unwrap();
        let read = |path: &str| {
            let found = image
                .layers
                .iter()
                .find_map(|l| fs::read_to_string(l.join(path)).ok());
            found.unwrap_or_default()
        };
        assert_eq!(read("w/out"), format!("60 {round}\n"));
        assert_eq!(read("d/7"), format!("7 {round}\n"));
        assert_eq!(read("sum").lines().count(), 200, "round {round}");
        for entry in fs::read_dir(data.join("build/steps")).unwrap().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap();
            let record: serde_json::Value = serde_json::from_str(&text).unwrap();
            let snapshot = record["snapshot"].as_str().unwrap();
            let files = data.join("build/snapshots").join(snapshot).join("fs");
            assert!(files.is_dir(), "round {round}: {record}");
        }
        began.elapsed()
    };
    let set = |round: u32| fs::write(context.join("n"), format!("{round}\n")).unwrap();
    set(0);
    let long = whole(0).max(Duration::from_millis(50));
    for round in 1..=rounds {
        set(round);
        let mut child = command().spawn().unwrap();
        let share = rand::rng().random_range(0.0..1.2);
        std::thread::sleep(long.mul_f64(share));
        child.kill().unwrap();
        child.wait().unwrap();
        let before = world.images.resolve("round:1").unwrap().unwrap();
        assert!(before.layers.iter().all(|l| l.is_dir()), "round {round}");
        whole(round);
    }
    let name = data.to_string_lossy().into_owned();
    let left = || -> Vec<String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let lines = mounts.lines().filter(|l| l.contains(&name));
        lines.map(str::to_owned).collect()
    };
    // a process that the last one was about to start has its lock until it is what it shall be: then it is the next
    // build's to clear up
    for _ in 0..60 {
        if left().is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        whole(rounds);
    }
    assert!(left().is_empty(), "{:?}", left());
}
