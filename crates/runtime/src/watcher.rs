//! One thread that hears what all shims say and when they end. It sleeps in epoll; there is nothing to poll.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
};

use rustix::event::{EventfdFlags, epoll};

use crate::{
    entry::{Entry, lock},
    error::{During, Error},
    plan::receive_answer,
    sys,
};

/// Ends the thread.
const STOP: u64 = 0;

enum Watched {
    /// the shim's socket
    Voice { socket: OwnedFd, of: Arc<Entry> },
    /// the shim's process
    Life {
        pidfd: Arc<OwnedFd>,
        voice: Option<u64>,
        of: Arc<Entry>,
    },
}

struct Shared {
    epoll: OwnedFd,
    /// Open for as long as the thread: closed as soon as it is written to, it may be gone before the thread has looked.
    stop: OwnedFd,
    watched: Mutex<(u64, HashMap<u64, Watched>)>,
}

pub(crate) struct Watcher {
    shared: Arc<Shared>,
}

impl Watcher {
    pub(crate) fn start() -> Result<Watcher, Error> {
        let told = || "starting the thread that watches containers".into();
        let shared = Arc::new(Shared {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).during(told)?,
            stop: rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .during(told)?,
            watched: Mutex::new((STOP, HashMap::new())),
        });
        epoll::add(
            &shared.epoll,
            &shared.stop,
            epoll::EventData::new_u64(STOP),
            epoll::EventFlags::IN,
        )
        .during(told)?;
        let thread = shared.clone();
        std::thread::Builder::new()
            .name("containers".into())
            .stack_size(256 * 1024)
            .spawn(move || thread.run())
            .during(told)?;
        Ok(Watcher { shared })
    }

    /// Watches a shim: its process, and its socket when we are the one who started it.
    pub(crate) fn watch(
        &self,
        of: &Arc<Entry>,
        pidfd: Arc<OwnedFd>,
        socket: Option<OwnedFd>,
    ) -> io::Result<()> {
        let shared = &self.shared;
        let mut watched = lock(&shared.watched);
        let voice = match socket {
            None => None,
            Some(socket) => {
                watched.0 += 1;
                let token = watched.0;
                shared.add(&socket, token)?;
                let of = of.clone();
                watched.1.insert(token, Watched::Voice { socket, of });
                Some(token)
            }
        };
        watched.0 += 1;
        let token = watched.0;
        shared.add(&pidfd, token)?;
        let of = of.clone();
        watched.1.insert(token, Watched::Life { pidfd, voice, of });
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
    }
}

impl Shared {
    fn add(&self, fd: &OwnedFd, token: u64) -> io::Result<()> {
        epoll::add(
            &self.epoll,
            fd,
            epoll::EventData::new_u64(token),
            epoll::EventFlags::IN,
        )
        .map_err(Into::into)
    }

    fn run(&self) {
        let mut events = Vec::with_capacity(16);
        loop {
            events.clear();
            let filled = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, filled, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "containers are no longer watched");
                    return;
                }
            }
            for event in &events {
                let token = event.data.u64();
                if token == STOP {
                    return;
                }
                self.handle(token);
            }
        }
    }

    fn handle(&self, token: u64) {
        let mut watched = lock(&self.watched);
        match watched.1.get(&token) {
            None => {}
            Some(Watched::Voice { socket, of }) => {
                let of = of.clone();
                let heard = receive_answer(socket, false);
                match heard {
                    Ok(Some(answer)) => {
                        drop(watched);
                        of.hear(answer);
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Ok(None) | Err(_) => {
                        watched.1.remove(&token);
                    }
                }
            }
            Some(Watched::Life { pidfd, .. }) => {
                // ECHILD: a shim that an earlier process of ours had started
                let _ = sys::reap(pidfd, false);
                let Some(Watched::Life { voice, of, pidfd }) = watched.1.remove(&token) else {
                    return;
                };
                let voice = voice.and_then(|v| watched.1.remove(&v));
                drop(watched);
                if let Some(Watched::Voice { socket, of }) = voice {
                    while let Ok(Some(answer)) = receive_answer(&socket, false) {
                        of.hear(answer);
                    }
                }
                // others may hold the same handle, so closing alone would not take it out
                let _ = epoll::delete(&self.epoll, &*pidfd);
                *lock(&of.shim) = None;
                if matches!(
                    *of.state.borrow(),
                    crate::spec::State::Exited { .. } | crate::spec::State::Failed(_)
                ) {
                    of.settle();
                    return;
                }
                // may have to kill and wait: not in this thread
                let settle = of.clone();
                let spawned = std::thread::Builder::new()
                    .name("settle".into())
                    .spawn(move || settle.settle());
                if spawned.is_err() {
                    of.settle();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// A platform opens a runtime for each build: none may leave its thread behind.
    #[test]
    fn the_thread_ends_with_its_watcher() {
        let left: Vec<_> = (0..200)
            .map(|_| Arc::downgrade(&Watcher::start().unwrap().shared))
            .collect();
        let deadline = Instant::now() + Duration::from_secs(60);
        let alive = || left.iter().filter(|w| w.strong_count() > 0).count();
        while alive() > 0 {
            assert!(Instant::now() < deadline, "{} threads are left", alive());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
