//! Known ways out of containers, each tried by a container's first process and by one that is exec'd into it: none leads out.

mod common;

use std::{fs, os::unix::fs::FileTypeExt, path::PathBuf};

use common::{SOON, World};
use knarr_runtime::{ContainerSpec, ExecSpec, Mount, Seccomp};
use tokio::io::AsyncReadExt;

async fn exec(w: &World, id: &str, args: &[&str]) -> (i32, String) {
    let spec = ExecSpec {
        args: args.iter().map(|s| (*s).to_owned()).collect(),
        ..ExecSpec::default()
    };
    let mut process = match w.rt().exec(id, spec).await {
        Ok(process) => process,
        Err(error) => return (-1, error.to_string()),
    };
    let mut out = String::new();
    let mut stdout = process.stdout.take().unwrap();
    tokio::time::timeout(SOON, stdout.read_to_string(&mut out))
        .await
        .expect("it ends")
        .unwrap();
    (process.wait().await, out)
}

fn volume(source: PathBuf, destination: &str) -> Mount {
    Mount {
        source,
        destination: destination.into(),
        read_only: false,
        propagation: "private".into(),
        recursive_read_only: false,
    }
}

/// Some block device of this machine, as `b major minor`.
fn block_device() -> (u64, u64) {
    let found = fs::read_dir("/dev").unwrap().flatten().find_map(|e| {
        let path = e.path();
        let metadata = fs::symlink_metadata(&path).ok()?;
        metadata.file_type().is_block_device().then(|| {
            let rdev = std::os::unix::fs::MetadataExt::rdev(&metadata);
            (libc::major(rdev).into(), libc::minor(rdev).into())
        })
    });
    found.unwrap_or((8, 0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kernel_interfaces_devices_and_namespaces() {
    let w = World::new();
    w.sandbox("s").await;
    let (major, minor) = block_device();
    let writes = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/panic_on_oom",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/memory/release_agent",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/power/state",
        "/sys/module/printk/parameters/time",
    ];
    let writes = writes.map(|f| format!("echo x 2>/dev/null > {f} && echo wrote {f}"));
    let cases: Vec<(&str, String, &str)> = vec![
        ("writes to procfs and sysfs", writes.join("; "), ""),
        (
            "kernel memory and secrets of the host",
            "for f in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /proc/latency_stats /sys/firmware; do [ -d $f ] && ls $f || head -c 1 $f 2>/dev/null; done".into(),
            "",
        ),
        (
            "device nodes can be made at most, not opened",
            format!(
                "cd /tmp; rm -f disk mem kmsg; mknod disk b {major} {minor} 2>/dev/null; mknod mem c 1 1 2>/dev/null; mknod kmsg c 1 11 2>/dev/null; for d in disk mem kmsg; do head -c 1 $d 2>/dev/null | wc -c; echo x 2>/dev/null > $d && [ ! -f $d ] && echo wrote $d; rm -f $d; done"
            ),
            "0\n0\n0\n",
        ),
        (
            "mounts, over what is masked and of what is not the container's",
            "mount -t tmpfs x /tmp 2>/dev/null && echo tmpfs; mount -o remount,rw /proc/sys 2>/dev/null && echo remount; umount /proc/sys 2>/dev/null && echo umount; mount -t cgroup x /tmp 2>/dev/null && echo cgroup; mount -t proc x /tmp 2>/dev/null && echo proc".into(),
            "",
        ),
        (
            "namespaces of others",
            "unshare -U true 2>/dev/null && echo user; unshare -m true 2>/dev/null && echo mnt; nsenter -t 1 -m true 2>/dev/null && echo entered; ls -l /proc/1/ns/mnt | wc -l".into(),
            "1\n",
        ),
        (
            "no descriptor of the host's is left open",
            "for fd in /proc/self/fd/*; do readlink $fd; done | grep -vE '^(/dev/null|pipe:.*|/proc/[0-9]+/fd|/proc/self/fd)$'".into(),
            "",
        ),
        (
            "the host's processes are not to be seen",
            "ls /proc | grep -c '^[0-9]*$' > /tmp/n; [ $(cat /tmp/n) -lt 12 ] && echo few; ls -d /proc/1/root/home/web".into(),
            "few\n/proc/1/root/home/web\n",
        ),
        (
            "out of a chroot leads only to the container's root",
            "mkdir -p /tmp/jail/bin; cp /bin/busybox /tmp/jail/bin/; chroot /tmp/jail /bin/busybox ls /; ls -d /../../../../home/web".into(),
            "bin\n/../../../../home/web\n",
        ),
    ];
    // a long-lived one for those that are exec'd
    w.run(w.spec("standing", "exec sleep 100000")).await;
    for (number, (name, script, want)) in cases.iter().enumerate() {
        let first = w.output(w.spec(&format!("c{number}"), script)).await.1;
        assert_eq!(first, *want, "{name}, first process");
        let extra = exec(&w, "standing", &["/bin/sh", "-c", script]).await.1;
        assert_eq!(extra, *want, "{name}, exec'd");
    }
}

/// The program itself, run inside with the libraries that it needs: system calls that a shell can't make.
fn with_probe(w: &World, mut spec: ContainerSpec) -> ContainerSpec {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut files: Vec<&str> = maps
        .lines()
        .filter_map(|l| l.split_whitespace().nth(5))
        .filter(|p| p.starts_with('/') && p.contains(".so"))
        .collect();
    files.sort_unstable();
    files.dedup();
    for file in files {
        let mut mount = volume(file.into(), file);
        mount.read_only = true;
        spec.mounts.push(mount);
    }
    // the loader goes by another name
    for loader in ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"] {
        if let Ok(target) = fs::canonicalize(loader) {
            spec.mounts.push(volume(target, loader));
        }
    }
    spec.mounts.push(volume(common::EXE.into(), "/probe"));
    // found as the host's does
    spec.env.push("LD_LIBRARY_PATH=/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu:/lib/aarch64-linux-gnu:/usr/lib/aarch64-linux-gnu:/usr/lib64".into());
    let _ = w;
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn system_calls_sockets_and_keys() {
    let w = World::new();
    w.sandbox("s").await;
    let name = format!("knarr-escape-{}", std::process::id());
    let address =
        <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(
            &name,
        );
    let address = address.unwrap();
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    let check = async |id: &str, unconfined: bool, what: &str, want: &str| {
        let mut spec = with_probe(
            &w,
            w.spec(id, &format!("/probe probe {what}; exec sleep 100000")),
        );
        if unconfined {
            spec.seccomp = Seccomp::Unconfined;
        }
        w.run(spec).await;
        let first = w.log_when(id, |log| log.ends_with("end\n")).await;
        assert_eq!(first, format!("{want}end\n"), "{what}, first process");
        let command: Vec<&str> = ["/probe", "probe"]
            .into_iter()
            .chain(what.split(' '))
            .collect();
        let extra = exec(&w, id, &command).await;
        assert_eq!(extra, (0, format!("{want}end\n")), "{what}, exec'd");
    };
    check("sockets", true, &format!("abstract {name}"), "refused\n").await;
    check("calls", false, "calls", "").await;
    // by number of inode, around every path (2014's "shocker"): needs a capability that none has
    check("handles", true, "handle", "EPERM\n").await;
    // SAFETY: integers only; 0: don't make one.
    let own = unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) };
    check("keys", true, &format!("keyring {own}"), "another\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn working_directories_and_hostile_images() {
    let w = World::new();
    w.sandbox("s").await;
    let refused = async |id: String, change: &dyn Fn(&mut ContainerSpec), want: &str| {
        let mut spec = w.spec(&id, "ls; sleep 1");
        change(&mut spec);
        let error = match w.rt().run(spec).await {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{id} runs: {}", w.output(w.spec("again", "true")).await.1),
        };
        assert!(error.contains(want), "{id}: {error}");
    };
    // CVE-2024-21626: a descriptor that is open until exec as the way out
    for fd in 3..16 {
        refused(
            format!("cwd-{fd}"),
            &|s| s.cwd = format!("/proc/self/fd/{fd}").into(),
            "/proc/self/fd",
        )
        .await;
    }
    let image = |name: &str, links: &[(&str, &str)]| {
        let dir = w.dir.path().join(name);
        common::busybox(&dir);
        for (link, target) in links {
            let at = dir.join(link);
            let _ = fs::remove_dir(&at);
            std::os::unix::fs::symlink(target, at).unwrap();
        }
        dir
    };
    let fds = image("fds", &[("work", "/proc/self/fd/7")]);
    refused(
        "cwd-link".into(),
        &|s| {
            s.lower = vec![fds.clone()];
            s.cwd = "/work".into();
        },
        "/work",
    )
    .await;
    // CVE-2019-19921: the kernel's file systems elsewhere than masks are put
    for name in ["proc", "sys", "dev"] {
        let hostile = image(&format!("no-{name}"), &[(name, "/tmp")]);
        refused(
            format!("link-{name}"),
            &|s| s.lower = vec![hostile.clone()],
            "symbolic link",
        )
        .await;
    }
    let outside = w.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    for place in ["/proc", "/proc/sys/kernel", "/proc/1", "/proc/self/attr"] {
        refused(
            format!("over{}", place.replace('/', "-")),
            &|s| s.mounts = vec![volume(outside.clone(), place)],
            "/proc",
        )
        .await;
    }
    // CVE-2025-31133: a volume's own idea of the null device as the mask
    let dev = w.dir.path().join("dev");
    fs::create_dir_all(dev.join("pts")).unwrap();
    std::os::unix::fs::symlink("/proc/sys/kernel/core_pattern", dev.join("null")).unwrap();
    refused(
        "null".into(),
        &|s| s.mounts = vec![volume(dev.clone(), "/dev")],
        "null",
    )
    .await;
    // CVE-2021-30465: a mount point that leads out by symlink, absolute, relative, and through another volume
    fs::write(outside.join("secret"), "secret\n").unwrap();
    let shared = w.dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    std::os::unix::fs::symlink(&outside, shared.join("link")).unwrap();
    std::os::unix::fs::symlink("/", shared.join("root")).unwrap();
    let own = w.dir.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("mine"), "mine\n").unwrap();
    let mut spec = w.spec(
        "mounts",
        "cat /v/link/secret 2>/dev/null; cat /v/link/in/mine; ls /tmp/at/mine; ls /v/root/home",
    );
    spec.mounts = vec![
        volume(shared, "/v"),
        volume(own.clone(), "/v/link/in"),
        volume(own, "/v/root/tmp/at"),
    ];
    assert_eq!(
        w.output(spec).await,
        (0, "mine\n/tmp/at/mine\nweb\n".into())
    );
    let left: Vec<_> = fs::read_dir(&outside).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "nothing was made outside: {left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_runtimes_own_program_can_not_be_written() {
    let mut w = World::new();
    w.sandbox("s").await;
    let before = fs::read(common::EXE).unwrap();
    // CVE-2019-5736: whoever is exec'd into a container becomes the runtime's program there, and its file is written to
    let mut spec = w.spec(
        "trap",
        "while :; do for p in /proc/[0-9]*; do (echo evil > $p/exe) 2>/dev/null && echo wrote; readlink $p/exe | grep knarr; done; done",
    );
    spec.capabilities.push("CAP_SYS_PTRACE".into());
    w.run(spec).await;
    for _ in 0..20 {
        exec(&w, "trap", &["/proc/self/exe", "churn"]).await;
        exec(&w, "trap", &["/bin/true"]).await;
    }
    w.runtime = None;
    for _ in 0..20 {
        for args in [&["/proc/self/exe", "churn"][..], &["/bin/true"]] {
            let spec = ExecSpec {
                args: args.iter().map(|s| (*s).to_owned()).collect(),
                ..ExecSpec::default()
            };
            // what the container's copy of the program says is its own affair
            let _ = w.enter("trap", &spec);
        }
    }
    w.reopen();
    w.rt().signal("trap", 9).await.unwrap();
    w.wait("trap").await;
    assert_eq!(
        w.log("trap").replace("wrote\n", "wrote "),
        "",
        "it was seen"
    );
    assert_eq!(fs::read(common::EXE).unwrap(), before, "it was written to");
    assert!(
        !fs::read_link("/proc/self/exe")
            .unwrap()
            .as_os_str()
            .is_empty()
    );
}
