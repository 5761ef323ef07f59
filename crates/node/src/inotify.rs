//! Waiting for files to change, without polling: one inotify descriptor on the event loop.

use std::{io, path::Path};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe::Receiver;

/// An inotify descriptor is read like a pipe, and tokio has a safe type for reading those.
pub(crate) struct Watcher(Receiver);

impl Watcher {
    /// Watches a folder for files that are made, written, renamed or removed in it.
    pub(crate) fn on(dir: &Path) -> io::Result<Watcher> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let flags = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, dir, flags)?;
        Ok(Watcher(Receiver::from_owned_fd_unchecked(fd)?))
    }

    /// Resolves when something has happened since the last call; many events count as one. Cancel-safe.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        // More than one event with the longest name.
        let mut buffer = [0u8; 4096];
        let mut any = false;
        loop {
            if !any {
                self.0.readable().await?;
            }
            match self.0.try_read(&mut buffer) {
                Ok(_) => any = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if any {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn tells_of_a_change_and_then_is_quiet() {
        let dir = tempfile::tempdir().unwrap();
        let watcher = Watcher::on(dir.path()).unwrap();
        // not a file: a process that another test starts may hold it open, and tell of its closing late
        std::fs::create_dir(dir.path().join("x")).unwrap();
        tokio::time::timeout(Duration::from_secs(60), watcher.changed())
            .await
            .unwrap()
            .unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(50), watcher.changed()).await;
        assert!(quiet.is_err());
    }
}
