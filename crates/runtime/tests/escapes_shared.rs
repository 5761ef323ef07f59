//! Ways out of containers that see more than their own processes, or race with what is done for them: none leads out.

mod common;

use std::{fs, path::Path};

use common::{SOON, World};
use knarr_runtime::{ExecSpec, Mount};
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

/// All that a container can try of the processes it sees; `mark` is a file of the machine's. Cargo's variables are the
/// environment of whoever runs the runtime here.
fn through_processes(mark: &Path) -> String {
    let mark = mark.display();
    format!(
        "for p in /proc/[0-9]*; do \
           for way in root cwd; do [ -e $p/$way{mark} ] && echo \"$p/$way leads out\"; done; \
           for fd in $p/fd/*; do \
             [ -e $fd{mark} ] && echo \"$fd leads out\"; \
             case \"$(readlink $fd 2>/dev/null)\" in *.sock|*/runtime/*|*/data/*) echo \"$fd is the platform's\";; esac; \
           done; \
           (: >> $p/exe) 2>/dev/null && echo \"$p/exe can be written\"; \
           grep -q CARGO_ $p/environ 2>/dev/null && echo \"$p tells what the platform was told\"; \
         done; \
         nsenter -t 1 -m ls {mark} 2>/dev/null && echo entered; echo done"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_process_tree_does_not_lead_out() {
    let w = World::new();
    w.sandbox_with("s", |s| s.share_pid = true).await;
    let mark = w.dir.path().join("the-machines-own");
    fs::write(&mark, "secret").unwrap();
    let script = through_processes(&mark);
    let mut standing = w.spec("standing", "exec sleep 100000");
    standing.capabilities.push("CAP_SYS_PTRACE".into());
    w.run(standing).await;
    for (name, capability) in [("plain", None), ("tracer", Some("CAP_SYS_PTRACE"))] {
        let mut spec = w.spec(name, &script);
        spec.capabilities.extend(capability.map(str::to_owned));
        let first = w.output(spec).await.1;
        assert_eq!(first, "done\n", "{name}, first process");
    }
    let extra = exec(&w, "standing", &["/bin/sh", "-c", &script]).await.1;
    assert_eq!(extra, "done\n", "exec'd");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_its_way_in_does_not_lead_out() {
    let w = World::new();
    w.sandbox("s").await;
    let mark = w.dir.path().join("the-machines-own");
    fs::write(&mark, "secret").unwrap();
    let script = through_processes(&mark).replace("echo done", ":");
    let mut spec = w.spec("watcher", &format!("while :; do {script}; done"));
    // the strongest that a container can be made without being privileged
    spec.capabilities.push("CAP_SYS_PTRACE".into());
    w.run(spec).await;
    for _ in 0..20 {
        let (code, _) = exec(&w, "watcher", &["/bin/true"]).await;
        assert_eq!(code, 0);
    }
    w.rt().signal("watcher", 9).await.unwrap();
    w.wait("watcher").await;
    assert_eq!(w.log("watcher"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_less_powerful_neighbour_has_no_way_into_a_privileged_one() {
    let w = World::new();
    w.sandbox_with("s", |s| s.share_pid = true).await;
    let mut strong = w.spec(
        "strong",
        "echo secret > /tmp/secret; echo ready; exec sleep 2468",
    );
    strong.capabilities.push("CAP_SYS_ADMIN".into());
    w.run(strong).await;
    let script = "p=$(ps | grep '[s]leep 2468' | { read n rest; echo $n; }); [ -n \"$p\" ] && echo seen; \
        cat /proc/$p/root/tmp/secret 2>/dev/null && echo read; \
        (: >> /proc/$p/mem) 2>/dev/null && echo mem; \
        nsenter -t $p -m true 2>/dev/null && echo entered; \
        grep -q . /proc/$p/environ 2>/dev/null && echo environ; \
        readlink /proc/$p/fd/0 2>/dev/null; readlink /proc/$p/exe 2>/dev/null; echo done";
    w.log_when("strong", |log| log == "ready\n").await;
    let weak = w.output(w.spec("weak", script)).await.1;
    assert_eq!(weak, "seen\ndone\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_changes_under_a_mount_does_not_lead_out() {
    let w = World::new();
    w.sandbox("s").await;
    let outside = w.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let shared = w.dir.path().join("shared");
    fs::create_dir_all(shared.join("real/deep")).unwrap();
    std::os::unix::fs::symlink(&outside, shared.join("link")).unwrap();
    let own = w.dir.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("mine"), "mine\n").unwrap();
    let volume = |source: &Path, destination: &str| Mount {
        source: source.to_owned(),
        destination: destination.into(),
        read_only: false,
        propagation: "private".into(),
        recursive_read_only: false,
    };
    // the mount point is now a folder, now a way out
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let swapper = {
        let (stop, shared) = (stop.clone(), shared.clone());
        std::thread::spawn(move || {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            let at = rustix::fs::CWD;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let (a, b) = (shared.join("real"), shared.join("link"));
                let _ = rustix::fs::renameat_with(at, &a, at, &b, flags);
            }
        })
    };
    for n in 0..20 {
        let mut spec = w.spec(&format!("r{n}"), "cat /v/real/deep/mine 2>/dev/null; true");
        spec.mounts = vec![volume(&shared, "/v"), volume(&own, "/v/real/deep")];
        // some are refused, for the way isn't there at that moment
        if w.rt().run(spec).await.is_ok() {
            w.wait(&format!("r{n}")).await;
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    swapper.join().unwrap();
    let left: Vec<_> = fs::read_dir(&outside).unwrap().flatten().collect();
    assert_eq!(left.len(), 0, "nothing was made outside: {left:?}");
}
