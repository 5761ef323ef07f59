//! All the comparisons, by name: builds what one needs, says what machine it runs on and what else that does, runs it.
//!
//! Each measures a rival in the same run, in turns, and prints how the two compare; each removes what it made.

use anyhow::{Context, bail, ensure};
use std::{
    ffi::OsString,
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

struct Bench {
    name: &'static str,
    /// What it compares with what.
    about: &'static str,
    /// What it needs besides root.
    needs: &'static [&'static str],
    run: Run,
    /// How long it takes on four cores, built already.
    minutes: u32,
    /// Settings for a run that only shows that it works.
    quick: &'static [(&'static str, &'static str)],
}

enum Run {
    /// A bench target of a crate.
    Target(&'static str, &'static str),
    /// An example of a crate, with arguments, and with those of a quick run.
    Example(
        &'static str,
        &'static str,
        &'static [&'static str],
        &'static [&'static str],
    ),
    /// A verb of this program that takes `--knarr`, with arguments, and with those of a quick run.
    Verb(
        &'static str,
        &'static [&'static str],
        &'static [&'static str],
    ),
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "container",
        about: "a container's run and delete beside crun, runc and podman",
        needs: &["crun", "runc", "podman"],
        run: Run::Example("knarr-runtime", "bench_run", &["100"], &["5", "0"]),
        minutes: 1,
        quick: &[],
    },
    Bench {
        name: "exec",
        about: "exec of true beside runc exec, crun exec and podman exec",
        needs: &["crun", "runc", "podman"],
        run: Run::Target("knarr", "exec"),
        minutes: 1,
        quick: &[("KNARR_BENCH_RUNS", "5")],
    },
    Bench {
        name: "pod",
        about: "a Pod from create to Ready beside podman kube play and podman run",
        needs: &["podman", "runc"],
        run: Run::Target("knarr", "pod_latency"),
        minutes: 2,
        quick: &[("KNARR_BENCH_PODS", "10")],
    },
    Bench {
        name: "alone",
        about: "knarr run beside podman run",
        needs: &["podman", "runc"],
        run: Run::Target("knarr", "run_alone"),
        minutes: 1,
        quick: &[("KNARR_BENCH_RUNS", "3")],
    },
    Bench {
        name: "streams",
        about: "port-forward beside socat and a direct connection, logs beside cat",
        needs: &["nginx", "kubectl"],
        run: Run::Target("knarr", "streams"),
        minutes: 2,
        quick: &[("KNARR_BENCH_ROUNDS", "1")],
    },
    Bench {
        name: "service",
        about: "a Service's address beside its Pod's own",
        needs: &["nginx", "wrk"],
        run: Run::Target("knarr", "service"),
        minutes: 2,
        quick: &[("KNARR_BENCH_ROUNDS", "1"), ("KNARR_BENCH_SECONDS", "1")],
    },
    Bench {
        name: "builds",
        about: "Dockerfiles built cold and warm beside buildah (and dockerd with BuildKit, when BENCH_DOCKER names its folder)",
        needs: &["buildah", "runc", "go", "node"],
        run: Run::Verb("builds", &["--runs", "5"], &["--runs", "1"]),
        minutes: 10,
        quick: &[],
    },
    Bench {
        name: "beside",
        about: "an app's latency while an image is built, alone, and beside the same work without a build",
        needs: &["nginx", "wrk", "busybox"],
        run: Run::Target("knarr", "beside_build"),
        minutes: 3,
        quick: &[
            ("KNARR_BENCH_ROUNDS", "1"),
            ("KNARR_BENCH_SECONDS", "2"),
            ("KNARR_BENCH_COPY_MB", "40"),
        ],
    },
    Bench {
        name: "images",
        about: "pull and push of a 500 MB image beside skopeo, ten similar images beside podman's store",
        needs: &["skopeo", "podman"],
        run: Run::Example(
            "knarr-registry",
            "bench_images",
            &["500", "5"],
            &["50", "1"],
        ),
        minutes: 3,
        quick: &[],
    },
    Bench {
        name: "density",
        about: "a thousand Pods",
        needs: &[],
        run: Run::Target("knarr", "density"),
        minutes: 4,
        quick: &[("KNARR_BENCH_PODS", "20")],
    },
    Bench {
        name: "churn",
        about: "20 Pods a second come and go",
        needs: &[],
        run: Run::Target("knarr", "churn"),
        minutes: 3,
        quick: &[("KNARR_BENCH_SECONDS", "2")],
    },
    Bench {
        name: "up",
        about: "from nothing running to the shop's first page",
        needs: &[],
        run: Run::Target("knarr", "up_cold"),
        minutes: 1,
        quick: &[("KNARR_BENCH_ROUNDS", "1")],
    },
    Bench {
        name: "footprint",
        about: "memory and idle processor time beside podman",
        needs: &["podman"],
        run: Run::Target("knarr", "footprint"),
        minutes: 7,
        quick: &[("KNARR_BENCH_SECONDS", "2")],
    },
    Bench {
        name: "store",
        about: "durable writes beside etcd",
        needs: &["etcd"],
        run: Run::Target("knarr-store", "durable_writes"),
        minutes: 3,
        quick: &[],
    },
];

/// `xtask bench [NAME…|all] [--quick]`
pub fn run(arguments: &[&str]) -> anyhow::Result<()> {
    let quick = arguments.contains(&"--quick");
    let names: Vec<&str> = arguments
        .iter()
        .copied()
        .filter(|a| *a != "--quick")
        .collect();
    if names.is_empty() {
        for bench in BENCHES {
            let needs = bench.needs.join(", ");
            println!(
                "{:10} {:2} min  {} [{needs}]",
                bench.name, bench.minutes, bench.about
            );
        }
        return Ok(());
    }
    let wanted: Vec<&Bench> = match names.as_slice() {
        ["all"] => BENCHES.iter().collect(),
        names => names
            .iter()
            .map(|name| {
                let found = BENCHES.iter().find(|b| b.name == *name);
                found.with_context(|| {
                    format!("no benchmark {name:?}: `cargo xtask bench` lists them")
                })
            })
            .collect::<anyhow::Result<_>>()?,
    };
    ensure!(
        rustix::process::geteuid().is_root(),
        "containers need root: run it as root"
    );
    let mut failed = Vec::new();
    for bench in wanted {
        if let Err(e) = one(bench, quick) {
            eprintln!("{}: {e:#}", bench.name);
            failed.push(bench.name);
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn one(bench: &Bench, quick: bool) -> anyhow::Result<()> {
    let release = !quick;
    let cargo = || {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        command
    };
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    // all is built first: what a compiler does is no part of the load
    let mut command = match &bench.run {
        Run::Target(package, target) => {
            let profile = if release { "bench" } else { "dev" };
            let words = [
                "bench",
                "--profile",
                profile,
                "-p",
                package,
                "--bench",
                target,
            ];
            done(cargo().args(words).arg("--no-run"))?;
            let mut command = cargo();
            command.args(words);
            command
        }
        Run::Example(package, example, full, short) => {
            done(
                cargo()
                    .arg("build")
                    .args(profile)
                    .args(["-p", package, "--example", example]),
            )?;
            let mut command = cargo();
            command
                .arg("run")
                .args(profile)
                .args(["-p", package, "--example", example, "--"]);
            command.args(if quick { *short } else { *full });
            command
        }
        Run::Verb(verb, full, short) => {
            done(cargo().arg("build").args(profile).args(["-p", "knarr"]))?;
            let mut command = Command::new(std::env::current_exe()?);
            command.arg(verb).arg("--knarr").arg(program(release));
            command.args(if quick { *short } else { *full });
            command
        }
    };
    if quick {
        command.envs(bench.quick.iter().copied());
    }
    println!("## {}: {}\n", bench.name, bench.about);
    println!("{}", machine()?);
    println!("with: {}", versions(bench.needs));
    println!("load before: {}\n", load()?);
    let begin = Instant::now();
    done(&mut command)?;
    let took = Duration::from_secs(begin.elapsed().as_secs());
    println!("\nload after: {}; it took {took:?}\n", load()?);
    Ok(())
}

/// The platform's program, where cargo puts it.
fn program(release: bool) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .unwrap_or_else(|| OsString::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target")));
    PathBuf::from(target).join(if release {
        "release/knarr"
    } else {
        "debug/knarr"
    })
}

fn done(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

/// Processor, memory, kernel, the file system's kind.
fn machine() -> anyhow::Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let of = |text: &str, key: &str| -> String {
        let line = text.lines().find(|l| l.starts_with(key));
        line.and_then(|l| l.split(':').nth(1))
            .unwrap_or("?")
            .trim()
            .to_owned()
    };
    let memory = of(&fs::read_to_string("/proc/meminfo")?, "MemTotal");
    let kib: u64 = memory.split(' ').next().unwrap_or("0").parse().unwrap_or(0);
    Ok(format!(
        "machine: {} × {}, {:.0} GB, Linux {}",
        std::thread::available_parallelism()?,
        of(&cpu, "model name"),
        kib as f64 / 1e6,
        fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
    ))
}

fn load() -> anyhow::Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// What the rivals say of themselves, a line each.
fn versions(programs: &[&str]) -> String {
    let one = |program: &&str| {
        let word = match *program {
            "nginx" | "wrk" => "-v",
            "go" | "kubectl" => "version",
            _ => "--version",
        };
        let out = Command::new(program).arg(word).output();
        let text = out
            .map(|o| [o.stdout, o.stderr].concat())
            .unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        match text.lines().next() {
            Some(line) if !line.trim().is_empty() => line.trim().chars().take(60).collect(),
            _ => format!("{program}: not here"),
        }
    };
    programs.iter().map(one).collect::<Vec<_>>().join("; ")
}
