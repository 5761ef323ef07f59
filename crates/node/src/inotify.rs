//! Waiting for files to change, without polling: one inotify descriptor on the event loop.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

pub(crate) struct Watcher(AsyncFd<OwnedFd>);

impl Watcher {
    /// Watches a folder for files that are made, written, renamed or removed in it.
    pub(crate) fn on(dir: &Path) -> io::Result<Watcher> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let flags = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, dir, flags)?;
        Ok(Watcher(AsyncFd::register(fd)?))
    }

    /// Resolves when something has happened since the last call; many events count as one. Cancel-safe.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        loop {
            let mut guard = self.0.readable().await?;
            let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
            let mut any = false;
            let mut reader = inotify::Reader::new(self.0.get_ref(), &mut buffer);
            loop {
                match reader.next() {
                    Ok(_) => any = true,
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            guard.clear_ready();
            if any {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn tells_of_a_write_and_then_is_quiet() {
        let dir = tempfile::tempdir().unwrap();
        let watcher = Watcher::on(dir.path()).unwrap();
        std::fs::write(dir.path().join("x"), "1").unwrap();
        tokio::time::timeout(Duration::from_secs(20), watcher.changed()).await.unwrap().unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(50), watcher.changed()).await;
        assert!(quiet.is_err());
    }
}
