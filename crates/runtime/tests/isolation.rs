//! What a container sees and may do: files, devices, namespaces, limits.

mod common;

use common::World;
use knarr_runtime::{Mount, Seccomp};

fn bind(source: &std::path::Path, destination: &str, read_only: bool) -> Mount {
    Mount {
        source: source.into(),
        destination: destination.into(),
        read_only,
        propagation: "private".into(),
        recursive_read_only: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_tree() {
    let w = World::new();
    w.sandbox("s").await;
    let check = async |id: &str,
                       change: &dyn Fn(&mut knarr_runtime::ContainerSpec),
                       script: &str,
                       want: &str| {
        let mut spec = w.spec(id, script);
        change(&mut spec);
        let (code, out) = w.output(spec).await;
        assert_eq!((code, out.as_str()), (0, want), "{id}: {script}");
    };
    let keep = |_: &mut knarr_runtime::ContainerSpec| {};
    check(
        "dev",
        &keep,
        "ls /dev; ls -l /dev/null | head -c 10; echo; echo x > /dev/null; head -c 3 /dev/zero | wc -c",
        "core\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\ncrw-rw-rw-\n3\n",
    )
    .await;
    check(
        "read-only",
        &|s| s.read_only_rootfs = true,
        "touch /x 2>/dev/null && echo wrote; touch /dev/shm/x && echo shm; touch /proc/sys/kernel/shmmax 2>/dev/null; echo 1 2>/dev/null > /proc/sys/kernel/shmmax || echo denied",
        "shm\ndenied\n",
    )
    .await;
    check(
        "masked",
        &keep,
        "for f in /proc/keys /proc/timer_list /proc/interrupts; do [ -e $f ] && cat $f; done | wc -c; ls /sys/firmware | wc -w; mkdir /sys/fs/cgroup/x 2>/dev/null || echo ro",
        "0\n0\nro\n",
    )
    .await;
    check(
        "unmasked",
        &|s| {
            s.masked_paths = Some(vec![]);
            s.readonly_paths = Some(vec!["/etc".into()]);
        },
        "ls /sys/firmware | wc -w; touch /etc/x 2>/dev/null || echo ro",
        &format!(
            "{}\nro\n",
            std::fs::read_dir("/sys/firmware").map_or(0, Iterator::count)
        ),
    )
    .await;
    check(
        "one-root",
        &keep,
        "wc -l < /proc/mounts | grep -q '^[12]' && grep -c ' / ' /proc/mounts; cat /proc/1/comm; [ $(ls /proc | grep -c '^[0-9]') -lt 8 ] && echo few; ls /proc/self/fd | wc -l",
        "1\nsh\nfew\n4\n",
    )
    .await;
    // the upper layer is the container's alone
    check("w1", &keep, "touch /made; ls / | grep made", "made\n").await;
    check("w2", &keep, "ls / | grep made; echo gone", "gone\n").await;
    check(
        "cwd",
        &|s| s.cwd = "/made/for/me".into(),
        "pwd",
        "/made/for/me\n",
    )
    .await;
    assert!(!w.image().join("made").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_and_volumes() {
    let w = World::new();
    w.sandbox("s").await;
    let dir = w.dir.path();
    let mut lower = Vec::new();
    // many layers, with characters that overlay's own options can't name; topmost first
    for i in 0..120 {
        let layer = dir.join(format!("layer,{i}:x"));
        std::fs::create_dir(&layer).unwrap();
        std::fs::write(layer.join("top"), format!("{i}\n")).unwrap();
        std::fs::write(layer.join(format!("l{i}")), "").unwrap();
        lower.push(layer);
    }
    lower.push(w.image());
    let mut spec = w.spec("layers", "cat /top; ls / | grep -c '^l[0-9]'");
    spec.lower = lower;
    assert_eq!(w.output(spec).await, (0, "0\n120\n".into()));

    // one of them several times, also by another name: what steps without an effect leave of images
    let (a, b, other) = (dir.join("a"), dir.join("b"), dir.join("other"));
    for layer in [&a, &b] {
        std::fs::create_dir(layer).unwrap();
        std::fs::write(
            layer.join("who"),
            layer.file_name().unwrap().as_encoded_bytes(),
        )
        .unwrap();
    }
    std::os::unix::fs::symlink(&a, &other).unwrap();
    let mut spec = w.spec("twice", "cat /who");
    spec.lower = vec![a.clone(), b.clone(), other.clone(), b, a, w.image()];
    assert_eq!(w.output(spec).await, (0, "a\n".into()));

    let volume = dir.join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "data\n").unwrap();
    // a hostile image: the destinations lead outside by symlink
    let image = dir.join("hostile");
    common::busybox(&image);
    let outside = dir.join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, image.join("escape")).unwrap();
    std::os::unix::fs::symlink("../../../../../../../../etc", image.join("up")).unwrap();
    let mut spec = w.spec(
        "volumes",
        "cat /v/file /file /escape/in/file /up/f; touch /v/x 2>/dev/null || echo ro; touch /rw/made; ls /rw",
    );
    spec.lower = vec![image];
    spec.mounts = vec![
        bind(&volume.join("file"), "/up/f", false),
        bind(&volume, "/v", true),
        bind(&volume.join("file"), "/file", false),
        bind(&volume, "/escape/in", false),
        bind(&volume, "/rw", false),
    ];
    let (code, out) = w.output(spec).await;
    assert_eq!(
        (code, out.as_str()),
        (0, "data\ndata\ndata\ndata\nro\nfile\nmade\n")
    );
    assert!(volume.join("made").exists());
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert!(!std::path::Path::new("/etc/f").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_process_file_system_of_the_machine() {
    let w = World::new();
    w.sandbox("s").await;
    let volume = w.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "data\n").unwrap();
    let mut spec = w.spec("machine", "cat /host/proc/sys/file; ls -d /proc/self");
    spec.mounts = vec![
        bind(std::path::Path::new("/proc"), "/host/proc", true),
        bind(&volume, "/host/proc/sys", false),
    ];
    let (code, out) = w.output(spec).await;
    assert_eq!((code, out.as_str()), (0, "data\n/proc/self\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn propagation_and_recursion_of_volumes() {
    let w = World::new();
    w.sandbox("s").await;
    let shared = w.dir.path().join("shared");
    std::fs::create_dir_all(shared.join("inner")).unwrap();
    let mount = |args: &[&std::ffi::OsStr]| {
        assert!(
            std::process::Command::new("mount")
                .args(args)
                .status()
                .unwrap()
                .success()
        );
    };
    let s = shared.as_os_str();
    mount(&[
        "-t".as_ref(),
        "tmpfs".as_ref(),
        "-o".as_ref(),
        "size=1m".as_ref(),
        "t".as_ref(),
        s,
    ]);
    struct Unmount(std::path::PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount")
                .arg("-R")
                .arg(&self.0)
                .status();
        }
    }
    let _off = Unmount(shared.clone());
    mount(&["--make-shared".as_ref(), s]);
    std::fs::create_dir(shared.join("inner")).unwrap();
    let script = "echo ready; while [ ! -e /v/go ]; do sleep 0.02; done; grep -c /v/inner /proc/mounts; touch /v/inner/x 2>/dev/null && echo wrote";
    for (id, propagation, read_only, recursive) in [
        ("private", "private", false, false),
        ("slave", "rslave", false, false),
        ("slave-ro", "rslave", true, false),
    ] {
        let mut spec = w.spec(id, script);
        spec.mounts = vec![Mount {
            propagation: propagation.into(),
            read_only,
            recursive_read_only: recursive,
            ..bind(&shared, "/v", false)
        }];
        w.run(spec).await;
    }
    for id in ["private", "slave", "slave-ro"] {
        w.log_when(id, |log| log == "ready\n").await;
    }
    let inner = shared.join("inner");
    mount(&[
        "-t".as_ref(),
        "tmpfs".as_ref(),
        "-o".as_ref(),
        "size=1m".as_ref(),
        "i".as_ref(),
        inner.as_os_str(),
    ]);
    std::fs::write(shared.join("go"), "").unwrap();
    for (id, want) in [
        ("private", "ready\n0\nwrote\n"),
        ("slave", "ready\n1\nwrote\n"),
        ("slave-ro", "ready\n1\nwrote\n"),
    ] {
        w.wait(id).await;
        assert_eq!(w.log(id), want, "{id}");
    }
    for (recursive, want) in [(false, "wrote\n"), (true, "")] {
        let id = format!("ro-{recursive}");
        let mut spec = w.spec(
            &id,
            "touch /v/x 2>/dev/null && echo bad; touch /v/inner/y 2>/dev/null && echo wrote; true",
        );
        spec.mounts = vec![Mount {
            recursive_read_only: recursive,
            ..bind(&shared, "/v", true)
        }];
        assert_eq!(w.output(spec).await.1, want, "recursive: {recursive}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forbidden_things_are_refused() {
    let w = World::new();
    w.sandbox("s").await;
    for (id, script) in [
        ("mount", "mount -t tmpfs x /tmp"),
        ("userns", "unshare -U true"),
        ("disk", "mknod /disk b 254 0 && cat /disk > /dev/null"),
        ("host-name", "hostname changed"),
        ("sysrq", "echo h > /proc/sysrq-trigger"),
    ] {
        let (code, out) = w.output(w.spec(id, &format!("{script} 2>/dev/null"))).await;
        assert_ne!(code, 0, "{id}: {out}");
    }
    // A device of a container's own is one that it may open, wherever it stands.
    let made = "mknod /null c 1 3 && echo x > /null && mkdir /jail && mknod /jail/zero c 1 5 && head -c 2 /jail/zero | wc -c";
    assert_eq!(w.output(w.spec("own", made)).await, (0, "2\n".into()));
    let profile = w.dir.path().join("profile.json");
    std::fs::write(
        &profile,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}"#,
    )
    .unwrap();
    for no_new_privileges in [false, true] {
        let mut spec = w.spec(
            &format!("profile-{no_new_privileges}"),
            "mkdir /x || touch /y && echo y",
        );
        spec.seccomp = Seccomp::Profile(profile.clone());
        spec.no_new_privileges = no_new_privileges;
        let (_, out) = w.output(spec).await;
        assert!(out.contains("Operation not permitted"), "{out}");
        assert!(out.lines().any(|l| l == "y"), "{out}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_root_may_listen_on_any_port_unless_told_otherwise() {
    let w = World::new();
    w.sandbox("s").await;
    w.sandbox_with("told", |s| {
        let name = "net.ipv4.ip_unprivileged_port_start";
        s.sysctls.insert(name.into(), "1024".into());
    })
    .await;
    let show = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range | tr '\\t' ' '";
    assert_eq!(
        w.output(w.spec("s", show)).await,
        (0, "0\n0 2147483647\n".into())
    );
    let mut spec = w.spec("told", show);
    spec.sandbox = "told".into();
    assert_eq!(w.output(spec).await, (0, "1024\n0 2147483647\n".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandboxes_share_what_they_should() {
    let w = World::new();
    w.sandbox_with("s", |s| {
        s.sysctls.insert("net.core.somaxconn".into(), "777".into());
        s.sysctls.insert("kernel.shmmni".into(), "1234".into());
    })
    .await;
    w.sandbox_with("shared", |s| s.share_pid = true).await;
    w.sandbox_with("host", |s| {
        s.host_network = true;
        s.host_ipc = true;
        s.host_pid = true;
    })
    .await;
    // all live at once: the numbers of namespaces that are gone are used again
    let show = "for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done; exec sleep 1000";
    let spaces = async |id: &str, sandbox: &str| {
        let mut spec = w.spec(id, show);
        spec.sandbox = sandbox.into();
        w.run(spec).await;
        let log = w.log_when(id, |log| log.lines().count() == 5).await;
        log.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (a, b) = (spaces("a", "s").await, spaces("b", "s").await);
    assert_eq!(a[..3], b[..3], "net, ipc, uts are shared");
    assert_ne!(a[3], b[3], "pid is not");
    assert_ne!(a[4], b[4], "mnt is not");
    let (c, d) = (spaces("c", "shared").await, spaces("d", "shared").await);
    assert_eq!(c[..4], d[..4], "pid too with share_pid");
    assert!(a.iter().all(|n| !c.contains(n)), "{a:?} {c:?}");
    let own = |n: &str| {
        let link = std::fs::read_link(format!("/proc/self/ns/{n}")).unwrap();
        link.to_str().unwrap().to_owned()
    };
    let e = spaces("e", "host").await;
    assert_eq!(e[..4], ["net", "ipc", "uts", "pid"].map(own));

    let facts = "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmni; hostname; grep -c lo: /proc/net/dev; ls -l /sys/class/net | grep -c lo";
    assert_eq!(
        w.output(w.spec("facts", facts)).await.1,
        "777\n1234\nhost-s\n1\n1\n"
    );
    // /dev/shm belongs to the sandbox
    w.output(w.spec("shm1", "echo kept > /dev/shm/x")).await;
    assert_eq!(w.output(w.spec("shm2", "cat /dev/shm/x")).await.1, "kept\n");

    // processes see each other; the idle first one gives nothing away
    let mut first = w.spec("p1", "exec sleep 4321");
    first.sandbox = "shared".into();
    w.run(first).await;
    let mut second = w.spec(
        "p2",
        "ps | grep -c '[s]leep 4321'; cat /proc/1/comm; ls /proc/1/root 2>/dev/null; cat /proc/1/exe 2>/dev/null | wc -c",
    );
    second.sandbox = "shared".into();
    assert_eq!(w.output(second).await.1, "1\npause\n0\n");
    // a child left behind goes with its container
    let mut orphan = w.spec("p3", "sleep 9876 & exit 2");
    orphan.sandbox = "shared".into();
    assert_eq!(w.output(orphan).await.0, 2);
    let mut look = w.spec("p4", "ps | grep -c '[s]leep 9876'");
    look.sandbox = "shared".into();
    assert_eq!(w.output(look).await.1, "0\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_can_look_into_another() {
    let w = World::new();
    w.sandbox("s").await;
    let mut web = w.spec("web", "");
    web.args = vec!["/bin/sleep".into(), "1357".into()];
    w.run(web).await;
    let mut look = w.spec("look", "ps | grep -c '[s]leep 1357'; cat /proc/1/comm");
    look.pid_of = Some("web".into());
    assert_eq!(w.output(look).await.1, "1\nsleep\n");
    let alone = w.spec("alone", "ps | grep -c '[s]leep 1357'");
    assert_eq!(w.output(alone).await.1, "0\n");

    let mut stays = w.spec("stays", "exec sleep 1000");
    stays.pid_of = Some("web".into());
    w.run(stays).await;
    w.rt().signal("web", libc::SIGKILL).await.unwrap();
    let exit = w.rt().wait("stays").await.unwrap();
    assert_eq!(exit.signal, Some(libc::SIGKILL), "it goes with its target");
    w.rt().wait("web").await.unwrap();
    let mut late = w.spec("late", "true");
    late.pid_of = Some("web".into());
    let refused = w.rt().run(late).await.unwrap_err();
    assert!(refused.to_string().contains("not running"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_can_have_the_network_and_the_memory_of_another() {
    let w = World::new();
    w.sandbox_with("a", |s| s.shm_bytes = Some(1 << 20)).await;
    w.sandbox_with("s", |s| {
        s.net_of = Some("a".into());
        s.ipc_of = Some("a".into());
    })
    .await;
    let look =
        "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; hostname; cat /dev/shm/word";
    let mut first = w.spec("first", &format!("echo shared > /dev/shm/word; {look}"));
    first.sandbox = "a".into();
    let first = w.output(first).await.1;
    // what is shared stays when the one that it's of has gone
    w.rt().delete("first").await.unwrap();
    w.rt().delete_sandbox("a").await.unwrap();
    let second = w.output(w.spec("second", look)).await.1;
    assert!(first.contains("host-a\nshared\n"), "{first}");
    assert_eq!(second, first.replace("host-a", "host-s"));
    let mut bare = w.spec("bare", "grep -c /dev/shm /proc/self/mounts");
    bare.no_shm = true;
    assert_eq!(w.output(bare).await.1, "0\n");

    let gone = knarr_runtime::SandboxSpec {
        id: "late".into(),
        net_of: Some("a".into()),
        ..Default::default()
    };
    assert!(w.rt().create_sandbox(gone).await.is_err());
    assert!(w.rt().sandbox("late").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_and_running_out_of_memory_is_told() {
    let w = World::new();
    w.sandbox("s").await;
    let mut spec = w.spec("hog", "dd if=/dev/zero of=/dev/null bs=200M count=1");
    spec.resources.memory_limit_bytes = Some(40 << 20);
    w.run(spec).await;
    let exit = w.wait("hog").await;
    assert!(exit.oom_killed, "{exit:?}");
    assert_eq!(exit.code, 137);

    let mut spec = w.spec(
        "forks",
        "for i in $(seq 20); do sleep 1000 & done; echo no limit",
    );
    spec.resources.pids_limit = Some(8);
    let (code, out) = w.output(spec).await;
    assert!(code != 0 || out.contains("fork"), "{code} {out}");

    let mut spec = w.spec("busy", "while :; do :; done");
    spec.resources.cpu_quota_us = Some(10_000);
    spec.resources.cpu_period_us = Some(100_000);
    spec.resources.cpu_shares = Some(512);
    spec.resources.memory_limit_bytes = Some(64 << 20);
    w.run(spec).await;
    let mut changed = knarr_runtime::Resources {
        memory_limit_bytes: Some(128 << 20),
        ..Default::default()
    };
    w.rt()
        .update_resources("busy", changed.clone())
        .await
        .unwrap();
    changed.memory_limit_bytes = Some(32 << 20);
    w.rt().update_resources("busy", changed).await.unwrap();
    let spec = w.rt().container("busy").unwrap().spec;
    assert_eq!(spec.resources.memory_limit_bytes, Some(32 << 20));
    assert_eq!(spec.resources.cpu_shares, Some(512));
    let cgroup = |ctl: &str, file: &str| {
        let v1 = format!("/sys/fs/cgroup/{ctl}{}/pod/busy/{file}", w.cgroup_parent);
        std::fs::read_to_string(v1).map(|t| t.trim().to_owned())
    };
    if let Ok(limit) = cgroup("memory", "memory.limit_in_bytes") {
        assert_eq!(limit, (32 << 20).to_string());
        assert_eq!(cgroup("cpu", "cpu.shares").unwrap(), "512");
        assert_eq!(cgroup("cpu", "cpu.cfs_quota_us").unwrap(), "10000");
    }
    let end = std::time::Instant::now() + common::SOON;
    loop {
        let stats = w.rt().stats("busy").unwrap();
        assert!(stats.memory_working_set_bytes <= stats.memory_bytes);
        if stats.cpu_ns > 1_000_000 && stats.pids == 1 && stats.memory_bytes > 0 {
            break;
        }
        assert!(std::time::Instant::now() < end, "{stats:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_a_sandbox_hold_for_all_in_it_and_go_with_it() {
    let w = World::new();
    w.sandbox_with("s", |s| {
        s.cgroup = "kubepods/burstable/pod1".into();
        s.resources.memory_limit_bytes = Some(40 << 20);
        s.resources.pids_limit = Some(8);
    })
    .await;
    let spec = |id: &str, script: &str| {
        let mut spec = w.spec(id, script);
        spec.cgroup = format!("kubepods/burstable/pod1/{id}");
        spec
    };
    // not the first process, which goes on: it's told all the same
    w.run(spec(
        "child",
        "dd if=/dev/zero of=/dev/null bs=200M count=1; echo went on",
    ))
    .await;
    let exit = w.wait("child").await;
    let v1 = !std::path::Path::new("/sys/fs/cgroup/cgroup.procs").exists();
    assert!(exit.oom_killed, "{exit:?}");
    if v1 {
        assert_eq!(exit.code, 0);
        assert!(w.log("child").contains("went on"), "{}", w.log("child"));
    }
    let (code, out) = w
        .output(spec(
            "forks",
            "for i in $(seq 20); do sleep 1000 & done; echo all",
        ))
        .await;
    assert!(code != 0 || out.contains("fork"), "{code} {out}");
    w.rt()
        .set_group(
            "kubepods/burstable",
            knarr_runtime::Resources {
                cpu_shares: Some(512),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    for id in ["child", "forks"] {
        w.rt().delete(id).await.unwrap();
    }
    w.rt().delete_sandbox("s").await.unwrap();
    let class = format!("/sys/fs/cgroup/cpu{}/kubepods/burstable", w.cgroup_parent);
    if let Ok(shares) = std::fs::read_to_string(format!("{class}/cpu.shares")) {
        assert_eq!(shares.trim(), "512");
        assert!(!std::path::Path::new(&class).join("pod1").exists());
    }
    for path in ["../x", "a//b"] {
        let refused = w.rt().set_group(path, Default::default()).await;
        assert!(refused.is_err(), "{path:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminals_and_standard_input_of_containers() {
    let w = World::new();
    w.sandbox("s").await;
    let mut spec = w.spec(
        "tty",
        "tty; echo $TERM; read x; echo got $x; ls -l /dev/console | head -c 1",
    );
    spec.tty = true;
    spec.stdin = true;
    w.run(spec).await;
    let fifo = w.config().root.join("containers/tty/stdin");
    std::fs::write(&fifo, "typed\n").unwrap();
    assert_eq!(w.wait("tty").await.code, 0);
    let log = w.log("tty");
    for want in ["/dev/pts/0\n", "xterm\n", "got typed\n", "c\n"] {
        assert!(log.contains(want), "{want:?} not in {log:?}");
    }
    let mut spec = w.spec("stdin", "read x; echo got $x");
    spec.stdin = true;
    w.run(spec).await;
    std::fs::write(w.config().root.join("containers/stdin/stdin"), "line\n").unwrap();
    assert_eq!(w.wait("stdin").await.code, 0);
    assert_eq!(w.log("stdin"), "got line\n");
    // without: the end of input, at once; and an unprivileged program may open its own streams
    let mut spec = w.spec("none", "read x || echo end; echo again > /dev/stdout");
    spec.user.uid = 1000;
    spec.user.gid = 1000;
    assert_eq!(w.output(spec).await, (0, "end\nagain\n".into()));
}
