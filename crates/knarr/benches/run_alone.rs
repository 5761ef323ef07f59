//! `knarr run --rm` and `podman run --rm` of the same image and program, in turns, from start to return; with a network of
//! its own and without.
//!
//! `cargo bench -p knarr --bench run_alone` as root. `KNARR_BENCH_RUNS` changes the fifty.

mod common;

use common::{Result, figures::Figures, isolate, knarr, ms, podman::OwnPodman, run, setting};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

fn main() -> Result<()> {
    isolate()?;
    let runs = setting("KNARR_BENCH_RUNS", 50)?;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let data = Data(dir.path().join("data"));
    let pack = [
        "image",
        "pack",
        "/bin/busybox",
        "--bare",
        "--name",
        "bench:1",
    ];
    run(knarr(&data.0).args(pack))?;
    let podman = OwnPodman::new(dir.path(), &data.0)?;
    for network in ["none", "bridge"] {
        let mut figures = Figures::times(&format!("run of true, network: {network}"));
        for round in 0..=runs {
            figures.attempt("knarr run", || timed(ours(&data.0, network)));
            figures.attempt("podman run", || timed(podman.once(network, &["true"])));
            if round == 0 {
                // that warmed
                figures.forget();
            }
        }
        figures.print();
    }
    Ok(())
}

/// knarr's data; nothing of it stays.
struct Data(PathBuf);

impl Drop for Data {
    fn drop(&mut self) {
        if let Err(e) = run(knarr(&self.0).args(["stop", "--purge"])) {
            eprintln!("cleaning up: {e}");
        }
    }
}

fn ours(data: &Path, network: &str) -> Command {
    let mut command = knarr(data);
    let network = format!("--network={network}");
    command.args(["run", "--rm", &network, "bench:1", "true"]);
    command
}

fn timed(mut command: Command) -> Result<f64> {
    let start = Instant::now();
    run(&mut command)?;
    Ok(ms(start.elapsed()))
}
