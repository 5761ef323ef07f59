//! The `knarr` binary: the command line, and the one place that wires the rooms together.
#![forbid(unsafe_code)]

mod apply;
mod build;
mod cli;
mod connect;
mod doctor;
mod down;
mod error;
mod exec;
mod image;
mod logs;
mod paths;
mod plan;
mod progress;
mod ready;
mod scale;
mod serve;
mod status;
mod stop;
mod up;
mod wiring;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // Shims, creators and exec'd processes are this binary in another role: before any thread starts.
    knarr_runtime::dispatch_role();

    let arguments = cli::Arguments::parse();
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
