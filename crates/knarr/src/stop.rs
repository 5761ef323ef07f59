//! `knarr stop [--purge]`, and `knarr stop NAME` of containers

use crate::{
    error::{Error, io},
    nodes::{self, Which},
    paths::{Paths, Settings},
};
use clap::Args;

/// How long the platform may take to end before it is killed: its state is durable either way.
const STOP_SECONDS_MAX: i64 = 20;

#[derive(Args)]
pub struct StopArguments {
    /// Remove every container, network, image, volume and file of knarr, too. There is no way back
    #[arg(long)]
    purge: bool,
    /// How it is printed
    #[arg(long, short, value_enum, default_value = "text")]
    output: crate::cli::Output,
    /// Of containers: seconds they have to end by themselves; -1 = for ever
    #[arg(
        short = 't',
        long,
        alias = "timeout",
        allow_negative_numbers = true,
        value_name = "SECONDS",
        requires = "names"
    )]
    time: Option<i64>,
    /// Of containers: which signal asks them, instead of their own
    #[arg(short, long, value_name = "SIGNAL", requires = "names")]
    signal: Option<String>,
    /// Not the platform, but these containers, as `docker stop` does
    #[arg(conflicts_with_all = ["purge", "output"])]
    names: Vec<String>,
}

/// What there is to say, as a sentence or for a script.
fn say(output: crate::cli::Output, was_running: bool, purged: bool, sentence: &str) {
    match output {
        crate::cli::Output::Text => println!("{sentence}"),
        crate::cli::Output::Json => println!(
            "{}",
            serde_json::json!({ "was_running": was_running, "purged": purged })
        ),
    }
}

pub async fn run(paths: &Paths, arguments: StopArguments) -> Result<u8, Error> {
    if !arguments.names.is_empty() {
        let asked =
            crate::run::StopArguments::new(arguments.names, arguments.time, arguments.signal);
        let verb = crate::run::ContainerVerb::Stop(asked);
        return crate::run::container(paths, verb).await;
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Error::Platform(
            "stopping the platform needs root: run it with sudo".into(),
        ));
    }
    let was = match paths.running() {
        Some(pid) => {
            end(pid).await?;
            true
        }
        None => false,
    };
    if !arguments.purge {
        let sentence = match was {
            true => {
                "the platform has stopped; containers keep running (`knarr stop --purge` removes everything)"
            }
            false => "the platform was not running",
        };
        say(arguments.output, was, false, sentence);
        return Ok(0);
    }
    crate::run::purge(paths).await?;
    end_builds(paths).await?;
    // a first start that failed takes back what was chosen, and may have made something by then
    let begun = || {
        let made = ["network", "runtime"].map(|name| paths.sub(name).exists());
        crate::serve::by_default(paths).filter(|_| made.contains(&true))
    };
    let Some(settings) = Settings::load(paths).or_else(begun) else {
        if paths.data.exists() && paths.sub("images").exists() {
            unmount_below(&paths.data);
            remove_data(paths)?;
        }
        let sentence = format!("nothing of knarr is left in {}", paths.data.display());
        say(arguments.output, was, true, &sentence);
        return Ok(0);
    };
    for number in nodes::known(paths) {
        let which = Which {
            paths,
            settings: &settings,
            number,
        };
        which.purge().await?;
    }
    unmount_below(&paths.data);
    remove_data(paths)?;
    say(arguments.output, was, true, "everything is removed");
    Ok(0)
}

/// A killed build leaves its containers' cgroups and mounts; who opens the builder next removes them.
async fn end_builds(paths: &Paths) -> Result<(), Error> {
    if paths.sub("build").exists() {
        let engine = crate::dockerfile_build::engine(paths, knarr_build::Limits::default())?;
        let closed = engine.close().await;
        closed.map_err(|e| Error::Failed(e.to_string()))?;
        crate::build_network::sweep().await?;
    }
    Ok(())
}

/// SIGTERM, then SIGKILL; waits on a pidfd, so no other process can be meant.
async fn end(pid: i32) -> Result<(), Error> {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let Some(target) = Pid::from_raw(pid) else {
        return Ok(());
    };
    let fd = match pidfd_open(target, PidfdFlags::NONBLOCK) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(e) => return Err(io("the platform's process")(e.into())),
    };
    let refused = |e: rustix::io::Errno| io("stopping the platform")(e.into());
    let fd = std::sync::Arc::new(fd);
    for signal in [Signal::TERM, Signal::KILL] {
        match pidfd_send_signal(&*fd, signal) {
            Ok(()) => {}
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(e) => return Err(refused(e)),
        }
        let waited = fd.clone();
        if tokio::task::spawn_blocking(move || ended(&waited))
            .await
            .unwrap_or(false)
        {
            return Ok(());
        }
    }
    Err(Error::Failed(format!("process {pid} does not end")))
}

/// Detaches what is still mounted below the data directory (volumes in memory), deepest first.
fn unmount_below(data: &std::path::Path) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<String> = table
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(|p| p.replace("\\040", " "))
        .filter(|p| std::path::Path::new(p).starts_with(data) && std::path::Path::new(p) != data)
        .collect();
    points.sort_by_key(|p| std::cmp::Reverse(p.len()));
    for point in points {
        let _ = rustix::mount::unmount(point.as_str(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// The entries knarr made; the folder itself only when that empties it.
fn remove_data(paths: &Paths) -> Result<(), Error> {
    for name in [
        "store",
        "pki",
        "images",
        "runtime",
        "node",
        "network",
        "nodes",
        "manifests",
        "volumes",
        "docker",
        "build",
        "tokens",
        "turns",
    ] {
        let path = paths.sub(name);
        match std::fs::remove_dir_all(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(io(path.display().to_string())(e));
            }
            _ => {}
        }
    }
    for path in [
        paths.pid(),
        paths.log(),
        paths.kubeconfig(),
        paths.settings(),
        paths.registry(),
        paths.sub("docker.sock"),
    ] {
        let _ = std::fs::remove_file(path);
    }
    let _ = std::fs::remove_dir(&paths.data);
    Ok(())
}

/// Waits for a process to end; false when it has not in time.
fn ended(pidfd: &std::os::fd::OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let limit = Timespec {
        tv_sec: STOP_SECONDS_MAX,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit)).is_ok_and(|n| n > 0)
}
