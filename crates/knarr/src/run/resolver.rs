//! The process that answers names in networks of one's own: one for all of them, there while a container is in any.
//!
//! ```text
//! <data>/run/network/members    who is in which network by what names; written whole by whoever changes it
//!                    resolver   held by the process
//! ```
//! It is started under [`Home::lock`] and ends under it, so that nobody counts on one that is about to end.

use super::record::Home;
use crate::{
    error::{Error, io},
    paths::Paths,
};
use knarr_network::Member;
use rustix::{
    fs::FlockOperation::NonBlockingLockExclusive,
    fs::inotify::{self, CreateFlags, WatchFlags},
};
use std::{fs, io::Write, path::PathBuf, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt},
    net::unix::pipe::Receiver,
    sync::watch,
};

/// How long it may take to listen.
const START: Duration = Duration::from_secs(60);
/// What is said when it listens.
const READY: &str = "ready";

fn members_path(home: &Home) -> PathBuf {
    home.network().join("members")
}

/// Those in networks, and beside them those in none, as they were written last.
pub fn members(home: &Home) -> Vec<Member> {
    let text = fs::read(members_path(home)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Replaces them. [`Home::lock`] is held.
pub fn write(home: &Home, members: &[Member]) -> Result<(), Error> {
    super::record::write(&members_path(home), &members)
}

/// The lock, if nobody has it.
fn lock(home: &Home) -> Result<Option<fs::File>, Error> {
    let path = home.network().join("resolver");
    let file = fs::File::create(&path).map_err(io(path.display().to_string()))?;
    let free = rustix::fs::flock(&file, NonBlockingLockExclusive).is_ok();
    Ok(free.then_some(file))
}

/// Sees that the process is there and listens. [`Home::lock`] is held.
pub async fn ensure(home: &Home) -> Result<(), Error> {
    if lock(home)?.is_none() {
        return Ok(());
    }
    let failed = |why: String| Error::Failed(format!("names in networks can't be served: {why}"));
    let exe = std::env::current_exe().map_err(io("this program's own path"))?;
    let mut child = tokio::process::Command::new(exe)
        .arg("--data-dir")
        .arg(&home.data)
        .args(["network", "resolver"])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let mut said = String::new();
    if let Some(out) = child.stdout.take() {
        let mut out = tokio::io::BufReader::new(out);
        if tokio::time::timeout(START, out.read_line(&mut said))
            .await
            .is_err()
        {
            said = "it doesn't answer".into();
        }
    }
    match said.trim() {
        READY => Ok(()),
        why => Err(failed(why.into())),
    }
}

/// Waits until the process has ended; nobody is in a network any more.
pub async fn gone(home: &Home) {
    let home = home.clone();
    let wait = tokio::task::spawn_blocking(move || {
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while matches!(lock(&home), Ok(None)) && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let _ = wait.await;
}

/// `knarr network resolver`, the process itself.
pub async fn serve(paths: &Paths) -> Result<(), Error> {
    // not the terminal's that the first container was started at
    let _ = rustix::process::setsid();
    let home = Home::new(paths);
    match run(&home).await {
        Ok(()) => Ok(()),
        Err(error) => {
            say(&error.to_string());
            Err(error)
        }
    }
}

/// Says it to who waits in [`ensure`], and perhaps has gone.
fn say(text: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{}", text.replace('\n', " ")).and_then(|()| out.flush());
}

async fn run(home: &Home) -> Result<(), Error> {
    let Some(lock) = lock(home)? else {
        say(READY); // by another
        return Ok(());
    };
    let held = answer(home).await?;
    // Whoever waits for `held` looks next whether this is held, and must find it free, and nobody at the address.
    drop(lock);
    drop(held);
    Ok(())
}

/// Answers until nobody is in a network any more; [`Home::lock`], under which that was seen.
async fn answer(home: &Home) -> Result<fs::File, Error> {
    let mut changes = watched(home)?;
    let settings = home.settings()?;
    let (tell, told) = watch::channel(members(home));
    let listen = super::network::dns_ip(&settings);
    let serving = knarr_network::serve_names(listen, (settings.base, 17), told);
    tokio::pin!(serving);
    // it listens from its first step on
    if let std::task::Poll::Ready(Err(error)) = futures::poll!(&mut serving) {
        return Err(Error::Failed(error.to_string()));
    }
    say(READY);
    let mut buffer = [0; 4096];
    loop {
        tokio::select! {
            done = &mut serving => {
                let why = done.err().map_or("it has ended".into(), |e| e.to_string());
                return Err(Error::Failed(why));
            }
            read = changes.read(&mut buffer) => drop(read.map_err(io("changes of the networks"))?),
        }
        let now = members(home);
        if now.is_empty() {
            // who starts a container now waits for the lock, and finds none of us
            let here = home.clone();
            let held = tokio::task::spawn_blocking(move || here.lock()).await;
            let held = held.map_err(|e| Error::Failed(e.to_string()))??;
            if members(home).is_empty() {
                return Ok(held);
            }
        }
        tell.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }
}

/// Tells of everything that is put into the folder.
fn watched(home: &Home) -> Result<Receiver, Error> {
    let context = home.network().display().to_string();
    let failed = |e: rustix::io::Errno| io(context.clone())(e.into());
    let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(failed)?;
    inotify::add_watch(&fd, home.network(), WatchFlags::MOVED_TO).map_err(failed)?;
    // reads from it are those of a pipe
    Receiver::from_owned_fd_unchecked(fd).map_err(io(context.clone()))
}
