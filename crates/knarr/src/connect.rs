//! A client of the running platform; starting the platform when it isn't running.

use crate::{
    error::{Error, io},
    paths::Paths,
};
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{
    io::Read,
    os::fd::AsRawFd,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::Duration,
};

/// How long a start may take before `up` gives up on it.
const START_SECONDS_MAX: u64 = 60;
/// Names the descriptor on which `serve` reports that it is ready, or why it is not.
pub const READY_FD: &str = "KNARR_READY_FD";

pub async fn connect(paths: &Paths) -> Result<Client, Error> {
    if let Err(e) = std::fs::metadata(paths.kubeconfig())
        && e.kind() == std::io::ErrorKind::PermissionDenied
    {
        return Err(closed(paths));
    }
    if paths.running().is_none() {
        return Err(Error::Platform(format!(
            "the platform does not run on {}: start it with `knarr up` or `knarr serve`",
            paths.data.display()
        )));
    }
    client(paths).await
}

/// What can't be looked into is not taken for nothing.
pub fn require_readable(paths: &Paths) -> Result<(), Error> {
    match std::fs::read_dir(&paths.data) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Err(closed(paths)),
        _ => Ok(()),
    }
}

pub fn closed(paths: &Paths) -> Error {
    Error::Platform(format!(
        "only root may use what knarr keeps in {}: run it with sudo",
        paths.data.display()
    ))
}

async fn client(paths: &Paths) -> Result<Client, Error> {
    let file = paths.kubeconfig();
    let text = std::fs::read_to_string(&file).map_err(|e| match e.kind() {
        std::io::ErrorKind::PermissionDenied => closed(paths),
        _ => io(file.display().to_string())(e),
    })?;
    let bad = |e: String| Error::Platform(format!("{}: {e}", file.display()));
    let kubeconfig = Kubeconfig::from_yaml(&text).map_err(|e| bad(e.to_string()))?;
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(|e| bad(e.to_string()))?;
    config.connect_timeout = Some(Duration::from_secs(30));
    config.read_timeout = None; // watches and logs last
    Ok(Client::try_from(config)?)
}

/// Connects, starting the platform detached when it isn't running. Tells whether it was started.
pub async fn ensure(paths: &Paths) -> Result<(Client, bool), Error> {
    if paths.running().is_some() {
        return Ok((client(paths).await?, false));
    }
    let paths_for_start = paths.clone();
    tokio::task::spawn_blocking(move || start(&paths_for_start))
        .await
        .map_err(|e| Error::Failed(e.to_string()))??;
    Ok((client(paths).await?, true))
}

/// Spawns `knarr serve` in a session of its own and waits until it says that it is ready.
fn start(paths: &Paths) -> Result<(), Error> {
    paths.create()?;
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(paths.log())
        .map_err(io(paths.log().display().to_string()))?;
    let (mut reader, writer) = std::io::pipe().map_err(io("pipe"))?;
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty())
        .map_err(|e| io("pipe")(e.into()))?;
    let exe = std::env::current_exe().map_err(io("this program's own path"))?;
    let mut command = Command::new(exe);
    command
        .arg("--data-dir")
        .arg(&paths.data)
        .arg("serve")
        .env(READY_FD, writer.as_raw_fd().to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(io("log"))?)
        .stderr(log)
        .process_group(0);
    let child = command.spawn().map_err(io("starting the platform"))?;
    drop(writer);
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut said = String::new();
        let mut buffer = [0u8; 4096];
        while let Ok(n) = reader.read(&mut buffer) {
            said.push_str(&String::from_utf8_lossy(&buffer[..n]));
            if n == 0 || said.ends_with('\n') {
                break;
            }
        }
        let _ = sender.send(said);
    });
    drop(child); // it is meant to outlive us; init reaps it
    match receiver.recv_timeout(Duration::from_secs(START_SECONDS_MAX)) {
        Ok(said) if said.trim() == "ready" => Ok(()),
        Ok(said) if said.trim().is_empty() => Err(Error::Platform(format!(
            "the platform ended while it started; its last words are in {}",
            paths.log().display()
        ))),
        Ok(said) => Err(Error::Platform(said.trim().to_string())),
        Err(_) => Err(Error::Platform(format!(
            "the platform did not get ready in {START_SECONDS_MAX} s; see {}",
            paths.log().display()
        ))),
    }
}
