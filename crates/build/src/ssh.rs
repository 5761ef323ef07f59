//! `RUN --mount=type=ssh`: an agent of the machine's, behind a socket of the container's own.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinHandle,
};

use crate::error::{Error, io};

/// Who may speak with the agent at once.
const CONNECTIONS_MAX: usize = 16;

/// Passes on what comes in until it is dropped.
pub(crate) struct Agent {
    task: JoinHandle<()>,
}

impl Agent {
    /// Listens at `at`, for this owner (user, group) and mode, and speaks with the agent at `socket`.
    pub(crate) fn new(
        at: &Path,
        socket: &Path,
        owner: (u32, u32),
        mode: u32,
    ) -> Result<Agent, Error> {
        // an address is short, and the folder's path may be long
        let dir = at.parent().unwrap_or(Path::new("/"));
        let name = at.file_name().unwrap_or_default();
        let held = fs::File::open(dir).map_err(io(dir))?;
        let short: PathBuf =
            format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held)).into();
        let listener = UnixListener::bind(short.join(name)).map_err(io(at))?;
        fs::set_permissions(at, fs::Permissions::from_mode(mode)).map_err(io(at))?;
        std::os::unix::fs::chown(at, Some(owner.0), Some(owner.1)).map_err(io(at))?;
        let socket = socket.to_owned();
        let turns = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
        let task = tokio::spawn(async move {
            let mut all = tokio::task::JoinSet::new();
            while let Ok(turn) = turns.clone().acquire_owned().await {
                let Ok((mut inner, _)) = listener.accept().await else {
                    return;
                };
                while all.try_join_next().is_some() {}
                let socket = socket.clone();
                all.spawn(async move {
                    let _turn = turn;
                    if let Ok(mut outer) = UnixStream::connect(&socket).await {
                        let _ = tokio::io::copy_bidirectional(&mut inner, &mut outer).await;
                    }
                });
            }
        });
        Ok(Agent { task })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn the_agent_is_spoken_with() {
        let dir = tempfile::tempdir().unwrap();
        let (inner, outer) = (dir.path().join("inner"), dir.path().join("outer"));
        let machine = UnixListener::bind(&outer).unwrap();
        let (uid, gid) = {
            let own = fs::metadata(dir.path()).unwrap();
            (own.uid(), own.gid())
        };
        let agent = Agent::new(&inner, &outer, (uid, gid), 0o600).unwrap();
        assert_eq!(fs::metadata(&inner).unwrap().mode() & 0o777, 0o600);
        let mut asks = UnixStream::connect(&inner).await.unwrap();
        let (mut answers, _) = machine.accept().await.unwrap();
        asks.write_all(b"who?").await.unwrap();
        let mut heard = [0; 4];
        answers.read_exact(&mut heard).await.unwrap();
        answers.write_all(b"me").await.unwrap();
        let mut told = [0; 2];
        asks.read_exact(&mut told).await.unwrap();
        assert_eq!((&heard, &told), (b"who?", b"me"));
        drop(agent);
    }
}
