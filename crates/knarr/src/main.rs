//! The `knarr` binary: the command line, and the one place that wires the rooms together.
#![deny(unsafe_code)]

mod app;
mod apply;
mod attach;
mod authority;
mod build;
mod build_call;
mod build_network;
mod build_options;
mod build_progress;
mod builder;
mod cli;
mod compose;
mod compose_build;
mod config;
mod connect;
mod convert;
mod docker;
mod dockerfile_build;
mod doctor;
mod down;
mod error;
mod exec;
mod facts;
mod health_ports;
mod image;
mod image_list;
mod image_more;
mod image_users;
mod layers_shown;
mod lean;
mod links;
mod listing;
mod live;
mod logs;
mod measured;
mod netlink;
mod nodes;
mod paths;
mod plan;
mod port_ranges;
mod progress;
mod project;
mod pulls;
mod ready;
mod registries;
mod registry;
mod rollout;
mod run;
mod scale;
mod serve;
mod staged;
mod status;
mod stop;
mod turns;
mod unnamed;
mod up;
mod watch;
mod watch_files;
mod wiring;
mod work;

fn main() -> std::process::ExitCode {
    // Shims, creators and exec'd processes are this binary in another role: before any thread starts.
    knarr_runtime::dispatch_role();
    keep_the_heap_small();

    let words = cli::words(std::env::args_os());
    let arguments = match cli::Arguments::read(&words) {
        Ok(arguments) => arguments,
        // also help and version, which aren't the user's mistake
        Err(said) => return cli::misread::tell(&said, &words).into(),
    };
    if !arguments.serves() {
        end_when_nobody_reads();
    }
    if arguments.makes_containers() {
        // as dockerd does: with 077 only root could enter a container's root folder
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    }
    match cli::run(arguments) {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("knarr: {error}");
            match error.exit_code() {
                2 if cli::misread::is_dockers(&words) => 1.into(),
                code => code.into(),
            }
        }
    }
}

/// `knarr logs web | head`: a verb ends by SIGPIPE as other programs do, where Rust's runtime makes it an error of every write.
/// That a registry or another peer has closed its connection is such an error all the same.
fn end_when_nobody_reads() {
    let handler = on_broken_pipe as extern "C" fn(libc::c_int);
    // SAFETY: no thread is running yet, and the handler does only what a handler may.
    #[allow(unsafe_code)]
    unsafe {
        libc::signal(libc::SIGPIPE, handler as libc::sighandler_t);
    }
}

/// Of what was written to, the signal says nothing: a pipe without readers does.
extern "C" fn on_broken_pipe(_: libc::c_int) {
    let mut outputs = [1, 2].map(|fd| libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    });
    // SAFETY: poll, signal and raise may be called in handlers; the array outlives the call.
    #[allow(unsafe_code)]
    unsafe {
        let found = libc::poll(outputs.as_mut_ptr(), outputs.len() as libc::nfds_t, 0);
        if found > 0 && outputs.iter().any(|o| o.revents & libc::POLLERR != 0) {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            libc::raise(libc::SIGPIPE);
        }
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
