//! Sandboxes with a user namespace of their own: whoever is root inside is nobody outside.

mod common;

use std::os::unix::fs::MetadataExt;

use common::World;
use knarr_runtime::{ExecSpec, IdRange, Mount};

const IDS: IdRange = IdRange {
    first: 200_000,
    length: 65_536,
};

async fn exec(w: &World, id: &str, script: &str) -> (i32, String) {
    let spec = ExecSpec {
        args: vec!["/bin/sh".into(), "-c".into(), script.into()],
        ..ExecSpec::default()
    };
    let mut process = w.rt().exec(id, spec).await.unwrap();
    let mut out = String::new();
    let mut stdout = process.stdout.take().unwrap();
    tokio::io::AsyncReadExt::read_to_string(&mut stdout, &mut out)
        .await
        .unwrap();
    (process.wait().await, out)
}

async fn world() -> World {
    let w = World::new();
    w.sandbox_with("s", |s| s.user_namespace = Some(IDS)).await;
    w
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_inside_is_nobody_outside() {
    let w = world().await;
    let show = "cat /proc/self/uid_map /proc/self/gid_map; id -u; id -g; \
        for n in user mnt net ipc uts pid cgroup; do readlink /proc/self/ns/$n; done; \
        grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status; cat /proc/self/cgroup";
    w.run(w.spec("a", &format!("({show}) > /told; echo done; sleep 1000")))
        .await;
    w.log_when("a", |log| log.contains("done")).await;
    let (code, first) = exec(&w, "a", "cat /told").await;
    assert_eq!(code, 0);
    let map = "         0     200000      65536\n";
    assert!(first.starts_with(&format!("{map}{map}0\n0\n")), "{first}");
    let (_, second) = exec(&w, "a", show).await;
    assert_eq!(first, second, "an exec'd process has what the first has");
    let own = std::fs::read_link("/proc/self/ns/user").unwrap();
    assert!(!first.contains(own.to_str().unwrap()), "{first}");

    let knarr_runtime::State::Running { pid, .. } = w.rt().container("a").unwrap().state else {
        panic!("it runs");
    };
    let outside = std::fs::metadata(format!("/proc/{pid}")).unwrap();
    assert_eq!((outside.uid(), outside.gid()), (IDS.first, IDS.first));
    // what it writes is its own's, not root's
    let written = w.config().root.join("containers/a/upper/told");
    assert_eq!(std::fs::metadata(written).unwrap().uid(), IDS.first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_streams_and_kernel_interfaces() {
    let w = world().await;
    let volume = w.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "x").unwrap();
    std::os::unix::fs::chown(volume.join("file"), Some(7), Some(200)).unwrap();
    let check = async |id: &str,
                       change: &dyn Fn(&mut knarr_runtime::ContainerSpec),
                       script: &str,
                       want: &str| {
        let mut spec = w.spec(id, script);
        spec.mounts = vec![Mount {
            source: volume.clone(),
            destination: "/made/v".into(),
            read_only: false,
            propagation: "private".into(),
            recursive_read_only: false,
        }];
        change(&mut spec);
        let (code, out) = w.output(spec).await;
        assert_eq!((code, out.as_str()), (0, want), "{id}: {script}");
    };
    let keep = |_: &mut knarr_runtime::ContainerSpec| {};
    // layers, mount points, devices, volumes: all have the ids that they had
    check(
        "owners",
        &keep,
        "stat -c %u:%g / /bin /made /made/v /made/v/file /dev /dev/null /dev/shm; echo new > /made/v/new; chown 5 /made/v/new; echo $?",
        "0:0\n0:0\n0:0\n0:0\n7:200\n0:0\n0:0\n0:0\n0\n",
    )
    .await;
    assert_eq!(std::fs::metadata(volume.join("new")).unwrap().uid(), 5);
    check(
        "streams",
        &|s| {
            s.user.uid = 1000;
            s.user.gid = 1000;
        },
        "echo out > /dev/stdout; id -u; cat /proc/self/uid_map | head -c 10; echo; [ -w / ] || echo no",
        "out\n1000\n         0\nno\n",
    )
    .await;
    check(
        "proc",
        &keep,
        "ls -d /proc/1 /proc/self/fd; cat /proc/1/comm; grep -c ' /proc proc' /proc/mounts; echo 1 2>/dev/null > /proc/sys/kernel/shmmax || echo denied; [ -s /proc/keys ] || echo masked; ls /sys/class/net",
        "/proc/1\n/proc/self/fd\nsh\n1\ndenied\nmasked\nlo\n",
    )
    .await;
    // its own network is its own to change, and so are the masks over its own proc (as with runc): what they cover is
    // of its own namespaces; what the host's root mounted stays
    check(
        "powers",
        &|s| {
            s.capabilities = vec!["CAP_NET_ADMIN".into(), "CAP_SYS_ADMIN".into()];
            s.seccomp = knarr_runtime::Seccomp::Unconfined;
        },
        "ip link set lo down && echo down; for m in /proc/keys /proc/sys /dev /made/v /; do umount $m 2>/dev/null && echo gone $m; done; mount -t tmpfs x /tmp && echo own; mknod /tmp/sda b 8 0 2>/dev/null && cat /tmp/sda; hostname other && hostname",
        "down\ngone /proc/keys\ngone /proc/sys\nown\nother\n",
    )
    .await;
    check(
        "read-only",
        &|s| s.read_only_rootfs = true,
        "touch /x 2>/dev/null || echo ro; touch /made/v/y && echo rw",
        "ro\nrw\n",
    )
    .await;
    check(
        "privileged",
        &|s| s.privileged = true,
        "mount -t tmpfs x /tmp && echo mounted; echo 1 2>/dev/null > /proc/sys/kernel/core_pattern || echo still nobody; cat /dev/mem 2>/dev/null | head -c 1 | wc -c",
        "mounted\nstill nobody\n0\n",
    )
    .await;
    let mut spec = w.spec("tty", "tty; stat -c %u $(tty); read x; echo got $x");
    spec.tty = true;
    spec.stdin = true;
    w.run(spec).await;
    std::fs::write(w.config().root.join("containers/tty/stdin"), "typed\n").unwrap();
    assert_eq!(w.wait("tty").await.code, 0);
    assert!(w.log("tty").contains("got typed"), "{}", w.log("tty"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_processes_found_again_and_gone() {
    let mut w = World::new();
    w.sandbox_with("s", |s| {
        s.user_namespace = Some(IDS);
        s.share_pid = true;
        s.cgroup = "kubepods/podx".into();
        s.resources.pids_limit = Some(50);
    })
    .await;
    let mut first = w.spec("p1", "exec sleep 4321");
    first.cgroup = "kubepods/podx/p1".into();
    w.run(first).await;
    let mut second = w.spec("p2", "ps | grep -c '[s]leep 4321'; cat /proc/1/comm");
    second.cgroup = "kubepods/podx/p2".into();
    assert_eq!(w.output(second).await.1, "1\npause\n");
    w.reopen();
    let sandbox = &w.rt().sandboxes()[0].spec;
    assert_eq!(sandbox.user_namespace, Some(IDS));
    assert_eq!(exec(&w, "p1", "id -u").await, (0, "0\n".into()));
    w.rt().signal("p1", 9).await.unwrap();
    assert_eq!(w.wait("p1").await.code, 137);
    for id in ["p1", "p2"] {
        w.rt().delete(id).await.unwrap();
    }
    w.rt().delete_sandbox("s").await.unwrap();
    for controller in ["memory", "pids", "unified"] {
        let group = format!(
            "/sys/fs/cgroup/{controller}{}/kubepods/podx",
            w.cgroup_parent
        );
        assert!(!std::path::Path::new(&group).exists(), "{group} stayed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_is_said() {
    let w = world().await;
    let mut spec = w.spec("beyond", "true");
    spec.user.uid = 70_000;
    let error = w.rt().run(spec).await.unwrap_err().to_string();
    assert!(error.contains("beyond the 65536 ids"), "{error}");
    let mut spec = w.spec("proc", "true");
    // a file system that can't map ids
    spec.mounts = vec![Mount {
        source: "/proc/sys".into(),
        destination: "/x".into(),
        read_only: false,
        propagation: "private".into(),
        recursive_read_only: false,
    }];
    let error = w.rt().run(spec).await.unwrap_err().to_string();
    assert!(error.contains("MOUNT_ATTR_IDMAP on /proc/sys"), "{error}");
    let mut spec = w.spec("nothing", "true");
    spec.args = vec!["/nope".into()];
    let error = w.rt().run(spec).await.unwrap_err().to_string();
    assert!(error.contains("no such file"), "{error}");
    for change in [
        |s: &mut knarr_runtime::SandboxSpec| s.host_network = true,
        |s: &mut knarr_runtime::SandboxSpec| {
            s.user_namespace = Some(IdRange {
                first: 0,
                length: 9,
            })
        },
    ] {
        let mut spec = knarr_runtime::SandboxSpec {
            id: "no".into(),
            user_namespace: Some(IDS),
            ..Default::default()
        };
        change(&mut spec);
        let refused = w.rt().create_sandbox(spec).await;
        assert!(refused.is_err());
    }
}
