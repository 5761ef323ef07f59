//! The smallest program that can be a runtime's caller: it takes the runtime's roles, and for tests it runs or deletes containers until it is killed, or tries from inside a container what a shell can't.

use std::path::PathBuf;

use knarr_runtime::{Config, ContainerSpec, Runtime, SandboxSpec, dispatch_role};

fn main() {
    dispatch_role();
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|a| a == "probe") {
        probe(&args[2..]);
        println!("end");
        return;
    }
    let [_, command, root, cgroup_parent, lower] = args.as_slice() else {
        eprintln!("usage: knarr-runtime-test churn <root> <cgroup parent> <rootfs>");
        std::process::exit(2);
    };
    if command != "churn" {
        eprintln!("unknown command {command:?}: only churn is known");
        std::process::exit(2);
    }
    let config = Config {
        root: PathBuf::from(root),
        exe: std::env::current_exe().unwrap_or_default(),
        cgroup_parent: cgroup_parent.clone(),
        host: Default::default(),
    };
    let done = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())
        .and_then(|tokio| tokio.block_on(churn(config, lower)));
    if let Err(text) = done {
        eprintln!("{text}");
        std::process::exit(1);
    }
}

/// Makes and removes sandboxes and containers, some short-lived and some not, for ever.
async fn churn(config: Config, lower: &str) -> Result<(), String> {
    let runtime = Runtime::open(config).map_err(|e| e.to_string())?;
    // says to the test that adoption is over and the churn begins
    println!("ready {}", runtime.containers().len());
    for round in 0u64.. {
        let name = format!("{}-{round}", std::process::id());
        let sandbox = SandboxSpec {
            id: format!("s-{name}"),
            hostname: "churn".into(),
            share_pid: round % 3 == 0,
            ..SandboxSpec::default()
        };
        let sandbox_id = sandbox.id.clone();
        runtime
            .create_sandbox(sandbox)
            .await
            .map_err(|e| e.to_string())?;
        for (i, command) in ["exit 7", "sleep 1000"].iter().enumerate() {
            let id = format!("c-{name}-{i}");
            let spec = ContainerSpec {
                id: id.clone(),
                sandbox: sandbox_id.clone(),
                lower: vec![PathBuf::from(lower)],
                args: ["/bin/sh", "-c", command].map(String::from).to_vec(),
                cgroup: format!("pod{name}/{id}"),
                ..ContainerSpec::default()
            };
            runtime.run(spec).await.map_err(|e| e.to_string())?;
            if i == 0 {
                runtime.wait(&id).await.map_err(|e| e.to_string())?;
            }
            if round % 2 == 0 {
                runtime.delete(&id).await.map_err(|e| e.to_string())?;
            }
        }
        if round % 2 == 0 {
            runtime
                .delete_sandbox(&sandbox_id)
                .await
                .map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

/// What the last system call came to.
fn told(result: i64) -> String {
    if result >= 0 {
        return "allowed".into();
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EPERM) => "EPERM".into(),
        Some(libc::EACCES) => "EACCES".into(),
        Some(libc::ENOSYS) => "ENOSYS".into(),
        other => format!("{other:?}"),
    }
}

/// Tries one way out, and says what came of it.
fn probe(args: &[String]) {
    let word = |i: usize| args.get(i).map(String::as_str).unwrap_or_default();
    match word(0) {
        "abstract" => {
            let address = <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(word(1));
            let connected = address.and_then(|a| std::os::unix::net::UnixStream::connect_addr(&a));
            println!(
                "{}",
                if connected.is_ok() {
                    "connected"
                } else {
                    "refused"
                }
            );
        }
        "calls" => {
            // with arguments that would fail otherwise than by being refused, were they let through
            for (name, number) in [
                ("mount", libc::SYS_mount),
                ("umount2", libc::SYS_umount2),
                ("pivot_root", libc::SYS_pivot_root),
                ("open_tree", libc::SYS_open_tree),
                ("move_mount", libc::SYS_move_mount),
                ("fsopen", libc::SYS_fsopen),
                ("mount_setattr", libc::SYS_mount_setattr),
                ("setns", libc::SYS_setns),
                ("unshare", libc::SYS_unshare),
                ("bpf", libc::SYS_bpf),
                ("perf_event_open", libc::SYS_perf_event_open),
                ("init_module", libc::SYS_init_module),
                ("finit_module", libc::SYS_finit_module),
                ("delete_module", libc::SYS_delete_module),
                ("kexec_load", libc::SYS_kexec_load),
                ("reboot", libc::SYS_reboot),
                ("swapon", libc::SYS_swapon),
                ("keyctl", libc::SYS_keyctl),
                ("add_key", libc::SYS_add_key),
                ("request_key", libc::SYS_request_key),
                ("userfaultfd", libc::SYS_userfaultfd),
                ("io_uring_setup", libc::SYS_io_uring_setup),
                ("open_by_handle_at", libc::SYS_open_by_handle_at),
                ("syslog", libc::SYS_syslog),
                ("settimeofday", libc::SYS_settimeofday),
                ("acct", libc::SYS_acct),
                ("quotactl", libc::SYS_quotactl),
            ] {
                // SAFETY: all arguments are -1, an address that nothing can be read from or written to; none of these does anything with such arguments.
                let result = unsafe { libc::syscall(number, -1i64, -1i64, -1i64, -1i64, -1i64) };
                let told = told(result);
                if !matches!(told.as_str(), "EPERM" | "ENOSYS") {
                    println!("{name} {told}");
                }
            }
        }
        "handle" => {
            let mut handle = [0u64; 18];
            handle[0] = 128;
            let mut mount = 0i32;
            // SAFETY: a handle with room for 128 bytes, as its first field says; the descriptor is the working directory.
            let result = unsafe {
                let named = libc::syscall(
                    libc::SYS_name_to_handle_at,
                    libc::AT_FDCWD,
                    c"/bin/busybox".as_ptr(),
                    handle.as_mut_ptr(),
                    &raw mut mount,
                    0,
                );
                let root = libc::open(c"/".as_ptr(), libc::O_RDONLY);
                if named < 0 {
                    // a file system without handles: any will do
                    handle[0] = 8 | 1 << 32;
                }
                libc::syscall(
                    libc::SYS_open_by_handle_at,
                    root,
                    handle.as_ptr(),
                    libc::O_RDONLY,
                )
            };
            println!("{}", told(result));
        }
        "keyring" => {
            // SAFETY: integers only; 0: don't make one.
            let own = unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) };
            let same = own.to_string() == word(1);
            println!("{}", if same { "the host's" } else { "another" });
        }
        other => println!("unknown probe {other:?}"),
    }
}
