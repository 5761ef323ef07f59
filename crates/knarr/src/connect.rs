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
    if let Some(client) = settled(paths, Duration::from_secs(START_SECONDS_MAX)).await? {
        return Ok((client, false));
    }
    let paths_for_start = paths.clone();
    tokio::task::spawn_blocking(move || start(&paths_for_start))
        .await
        .map_err(|e| Error::Failed(e.to_string()))??;
    Ok((client(paths).await?, true))
}

/// The client of a platform that runs, as soon as it is sure whether one does: one that holds its lock and does not answer
/// has just been killed, and goes (its sockets and its lock after the last of its threads), or has just been started. After
/// `most` it is left to the caller's requests to say what is wrong.
async fn settled(paths: &Paths, most: Duration) -> Result<Option<Client>, Error> {
    let deadline = tokio::time::Instant::now() + most;
    loop {
        if paths.running().is_none() {
            return Ok(None);
        }
        let late = tokio::time::Instant::now() > deadline;
        match client(paths).await {
            Ok(client) if late || answers(&client).await => return Ok(Some(client)),
            // its kubeconfig is yet to be written
            Err(Error::Io { .. }) if !late => {}
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn answers(client: &Client) -> bool {
    let asked = tokio::time::timeout(Duration::from_secs(5), client.apiserver_version()).await;
    matches!(asked, Ok(Ok(_) | Err(kube::Error::Api(_))))
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FlockOperation, flock};
    use std::{
        io::Write,
        net::{SocketAddr, TcpListener},
    };

    /// A platform's lock, and a kubeconfig that leads there.
    fn held(folder: &std::path::Path, api: SocketAddr) -> (Paths, std::fs::File) {
        let paths = Paths::new(folder).unwrap();
        std::fs::write(paths.pid(), "1").unwrap();
        let lock = std::fs::File::open(paths.pid()).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let cluster =
            serde_json::json!({"name": "k", "cluster": {"server": format!("http://{api}")}});
        let context = serde_json::json!({"name": "k", "context": {"cluster": "k", "user": "k"}});
        let user = serde_json::json!({"name": "k", "user": {}});
        let file = serde_json::json!({"apiVersion": "v1", "kind": "Config", "current-context": "k",
            "clusters": [cluster], "contexts": [context], "users": [user]});
        std::fs::write(paths.kubeconfig(), file.to_string()).unwrap();
        (paths, lock)
    }

    /// Says its version to each who asks, when it is to say anything.
    fn listen(listener: TcpListener, speaks: bool) {
        let version = ["major", "minor", "gitVersion", "gitCommit", "gitTreeState"];
        let more = ["buildDate", "goVersion", "compiler", "platform"];
        let all = version
            .iter()
            .chain(&more)
            .map(|k| ((*k).into(), "".into()));
        let body = serde_json::Value::Object(all.collect()).to_string();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten().filter(|_| speaks) {
                let _ = stream.read(&mut [0; 4096]);
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
                let _ = write!(
                    stream,
                    "{head}\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
            }
        });
    }

    fn ask(paths: &Paths) -> tokio::task::JoinHandle<bool> {
        let paths = paths.clone();
        let most = Duration::from_secs(300);
        tokio::spawn(async move { settled(&paths, most).await.unwrap().is_some() })
    }

    #[tokio::test]
    async fn a_platform_that_goes_or_comes_is_waited_for() {
        let bound = || TcpListener::bind("127.0.0.1:0").unwrap();
        let folder = tempfile::tempdir().unwrap();

        // killed: what still takes connections closes each of them, and the lock goes last
        let silent = bound();
        let (paths, lock) = held(folder.path(), silent.local_addr().unwrap());
        listen(silent, false);
        let going = ask(&paths);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!going.is_finished(), "neither here nor gone");
        drop(lock);
        assert!(!going.await.unwrap());

        // started: it holds its lock before it listens, and before its kubeconfig is there
        let later = bound();
        let address = later.local_addr().unwrap();
        let (paths, _lock) = held(folder.path(), address);
        let kubeconfig = std::fs::read(paths.kubeconfig()).unwrap();
        std::fs::remove_file(paths.kubeconfig()).unwrap();
        let coming = ask(&paths);
        tokio::time::sleep(Duration::from_millis(100)).await;
        std::fs::write(paths.kubeconfig(), kubeconfig).unwrap();
        assert!(!coming.is_finished());
        listen(later, true);
        assert!(coming.await.unwrap());
    }
}
