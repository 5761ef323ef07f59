//! The `knarr` binary: the command line, and the one place that wires the rooms together.
#![deny(unsafe_code)]

mod apply;
mod attach;
mod authority;
mod build;
mod check;
mod cli;
mod connect;
mod doctor;
mod down;
mod error;
mod exec;
mod image;
mod lean;
mod links;
mod logs;
mod measured;
mod netlink;
mod nodes;
mod paths;
mod plan;
mod progress;
mod ready;
mod rollout;
mod scale;
mod serve;
mod status;
mod stop;
mod up;
mod wiring;
mod work;

use clap::Parser;

fn main() -> std::process::ExitCode {
    // Shims, creators and exec'd processes are this binary in another role: before any thread starts.
    knarr_runtime::dispatch_role();
    keep_the_heap_small();

    let arguments = cli::Arguments::parse();
    if !arguments.serves() {
        end_when_nobody_reads();
    }
    // Fails only when a provider is set already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match cli::run(arguments) {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("knarr: {error}");
            error.exit_code().into()
        }
    }
}

/// `knarr logs web | head`: a verb ends by SIGPIPE as other programs do, where Rust's runtime makes it an error of every write.
/// Sockets are written to without the signal, so that only pipes end it.
fn end_when_nobody_reads() {
    // SAFETY: the default action is no code of ours, and no thread is running yet.
    #[allow(unsafe_code)]
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// The C library would make up to eight heaps a core and keep large blocks once it has seen some.
///
/// With these, 200 Pods come and gone leave 20 MB; mimalloc leaves 44 MB, and 0.3 MB more in each shim.
fn keep_the_heap_small() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 2),
        (libc::M_MMAP_THRESHOLD, 128 << 10),
        (libc::M_TRIM_THRESHOLD, 256 << 10),
    ] {
        // SAFETY: sets a number inside the allocator; no other thread runs yet.
        #[allow(unsafe_code)]
        unsafe {
            libc::mallopt(parameter, value);
        }
    }
}
