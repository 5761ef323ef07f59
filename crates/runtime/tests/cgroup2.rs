//! The same on a machine with cgroup v2 only. Where v1 is mounted this runs in a copy of the mount namespace that has the v2 tree in its place; limits can't be tried there, since v1 has the controllers.

mod common;

use std::{os::unix::process::CommandExt, process::Command};

use common::{SOON, World};
use knarr_runtime::ExecSpec;

const INSIDE: &str = "KNARR_TEST_CGROUP2";

fn main() {
    if std::env::var_os(INSIDE).is_none() {
        // With `nsdelegate` as systemd mounts it; the kernel keeps such options for all mounts together, so they are put back.
        let script = "had=$(awk '$3 == \"cgroup2\" { print $4; exit }' /proc/mounts); \
            umount -l /sys/fs/cgroup && mount -t cgroup2 -o nsdelegate none /sys/fs/cgroup && \"$0\"; \
            code=$?; mount -o remount,${had:-rw} none /sys/fs/cgroup; exit $code";
        let error = Command::new("unshare")
            .args(["-m", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .env(INSIDE, "1")
            .exec();
        panic!("unshare: {error}");
    }
    assert!(
        std::path::Path::new("/sys/fs/cgroup/cgroup.procs").exists(),
        "this kernel has no cgroup v2"
    );
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(body());
    println!("ok");
}

async fn body() {
    let mut w = World::new();
    w.sandbox("s").await;
    w.sandbox_with("shared", |s| s.share_pid = true).await;
    let show = "cat /proc/self/cgroup | grep ^0; readlink /proc/self/ns/cgroup; ls /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x 2>/dev/null || echo ro; grep Cap /proc/self/status; for d in 3 11; do [ -e /dev/n$d ] || mknod /dev/n$d c 1 $d; (: < /dev/n$d) 2>/dev/null && echo opens $d || echo no $d; done";
    w.run(w.spec("a", &format!("{show}; sleep 1000"))).await;
    let first = w.log_when("a", |log| log.lines().count() == 11).await;
    // a cgroup namespace of its own, rooted in its own cgroup
    assert!(first.starts_with("0::/\n"), "{first}");
    assert!(first.contains("\nro\n"), "{first}");
    // nodes may be made, but of devices that the list doesn't have none can be opened
    assert!(first.ends_with("opens 3\nno 11\n"), "{first}");
    let group = std::path::PathBuf::from(format!("/sys/fs/cgroup{}/pod/a", w.cgroup_parent));
    assert!(group.join("cgroup.procs").exists());
    let spec = ExecSpec {
        args: vec!["/bin/sh".into(), "-c".into(), show.into()],
        ..Default::default()
    };
    let mut process = w.rt().exec("a", spec).await.unwrap();
    let mut out = String::new();
    let mut stdout = process.stdout.take().unwrap();
    tokio::io::AsyncReadExt::read_to_string(&mut stdout, &mut out)
        .await
        .unwrap();
    assert_eq!(process.wait().await, 0);
    assert_eq!(out, first);

    let mut orphan = w.spec("b", "sleep 9876 & exit 2");
    orphan.sandbox = "shared".into();
    w.run(orphan).await;
    assert_eq!(w.wait("b").await.code, 2);

    w.reopen();
    w.rt().signal("a", 9).await.unwrap();
    assert_eq!(
        tokio::time::timeout(SOON, w.rt().wait("a"))
            .await
            .unwrap()
            .unwrap()
            .code,
        137
    );
    w.rt().delete("a").await.unwrap();
    assert!(!group.exists());
    // the rest, and that nothing stays, is World's drop
}
