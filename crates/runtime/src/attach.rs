//! Joining a running container's own streams: the shim listens in the container's folder and passes on what it reads from now on.
//!
//! Messages from the shim: first [`WELCOME`], from then on the caller misses nothing; then one byte for the stream ([`STDOUT`], [`STDERR`]) and its bytes each. To the shim: [`RESIZE`] with columns and rows, or [`END_INPUT`]. Input itself goes through the container's `stdin` fifo.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustix::fs::{Mode, OFlags};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::unix::pipe,
};

use crate::{
    error::{During, Error},
    log::PIECE_MAX,
    runtime::Runtime,
    socket,
    spec::State,
    sys::{self, check},
    tty::ready_when,
};

pub(crate) const SOCKET: &str = "attach";
const INPUT: &str = "stdin";
const WELCOME: u8 = b'W';
const STDOUT: u8 = b'1';
const STDERR: u8 = b'2';
const RESIZE: u8 = b'R';
const END_INPUT: u8 = b'E';
const MESSAGE_MAX: usize = PIECE_MAX + 1;
/// How many may be attached to one container at once; as many more wait.
const ATTACHED_MAX: usize = 8;
/// One who doesn't read is let go after this: it holds up the container's output. One who finds no place in this time is told.
const PATIENCE: Duration = Duration::from_secs(10);

/// An address in a folder, whose own path may be longer than an address can be.
fn address(dir: &OwnedFd) -> io::Result<libc::sockaddr_un> {
    let path = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd());
    // SAFETY: plain data, for which zeroes are valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if path.len() >= address.sun_path.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(address)
}

fn folder(dir: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        dir,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn endpoint() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: a new descriptor is owned by nobody else.
    unsafe {
        let fd = check(libc::socket(libc::AF_UNIX, kind, 0).into())?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

const ADDRESS_LEN: libc::socklen_t = size_of::<libc::sockaddr_un>() as libc::socklen_t;

fn listen(dir: &Path) -> io::Result<OwnedFd> {
    let (folder, socket) = (folder(dir)?, endpoint()?);
    let address = address(&folder)?;
    // SAFETY: a live descriptor, and an address that outlives the call.
    unsafe {
        let at = (&raw const address).cast();
        check(libc::bind(socket.as_raw_fd(), at, ADDRESS_LEN).into())?;
        check(libc::listen(socket.as_raw_fd(), ATTACHED_MAX as i32).into())?;
    }
    Ok(socket)
}

/// Not blocking: a shim's queue that is full says so.
fn connect(dir: &Path) -> io::Result<OwnedFd> {
    let (folder, socket) = (folder(dir)?, endpoint()?);
    let address = address(&folder)?;
    // SAFETY: a live descriptor, and an address that outlives the call.
    unsafe {
        let at = (&raw const address).cast();
        check(libc::connect(socket.as_raw_fd(), at, ADDRESS_LEN).into())?;
    }
    Ok(socket)
}

/// What an attached caller asks of the shim.
pub(crate) enum Wish {
    Resize(u16, u16),
    EndInput,
}

/// The shim's side: who listens.
pub(crate) struct Attached {
    pub(crate) listener: OwnedFd,
    pub(crate) clients: Vec<OwnedFd>,
    /// what was said before anybody came, for the first who does: a prompt isn't lost. None: nobody waits for it
    early: Option<Vec<Vec<u8>>>,
}

/// Bytes that are kept for the first caller; more than that is nothing that somebody waits for.
const EARLY_MAX: usize = 32 << 10;

impl Attached {
    pub(crate) fn new(dir: &Path, keep_early: bool) -> Result<Attached, Error> {
        let told = || format!("listening in {}", dir.display());
        Ok(Attached {
            listener: listen(dir).during(told)?,
            clients: Vec::new(),
            early: keep_early.then(Vec::new),
        })
    }

    pub(crate) fn has_room(&self) -> bool {
        self.clients.len() < ATTACHED_MAX
    }

    pub(crate) fn accept(&mut self) {
        let flags = rustix::net::SocketFlags::CLOEXEC;
        let Ok(client) = rustix::net::accept_with(&self.listener, flags) else {
            return;
        };
        let timeout = rustix::net::sockopt::Timeout::Send;
        if rustix::net::sockopt::set_socket_timeout(&client, timeout, Some(PATIENCE)).is_ok()
            && socket::send(&client, &[WELCOME], &[]).is_ok()
        {
            for message in self.early.take().into_iter().flatten() {
                if socket::send(&client, &message, &[]).is_err() {
                    return;
                }
            }
            self.clients.push(client);
        }
    }

    /// What the client wants; one that hung up is forgotten.
    pub(crate) fn hear(&mut self, client: i32) -> Option<Wish> {
        let at = self.clients.iter().position(|c| c.as_raw_fd() == client)?;
        match socket::receive(&self.clients[at], 8, false) {
            Ok((message, _)) => match message[..] {
                [RESIZE, c0, c1, r0, r1] => Some(Wish::Resize(
                    u16::from_be_bytes([c0, c1]),
                    u16::from_be_bytes([r0, r1]),
                )),
                [END_INPUT] => Some(Wish::EndInput),
                _ => {
                    self.clients.swap_remove(at);
                    None
                }
            },
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) => {
                self.clients.swap_remove(at);
                None
            }
        }
    }

    /// Gives output to all who listen.
    pub(crate) fn tell(&mut self, stream: &str, bytes: &[u8]) {
        if self.clients.is_empty() && self.early.is_none() {
            return;
        }
        let mut message = Vec::with_capacity(1 + bytes.len());
        message.push(if stream == "stderr" { STDERR } else { STDOUT });
        message.extend_from_slice(bytes);
        if let Some(early) = &mut self.early {
            let kept: usize = early.iter().map(Vec::len).sum();
            match kept + message.len() > EARLY_MAX {
                true => self.early = None,
                false => early.push(message.clone()),
            }
        }
        self.clients
            .retain(|client| socket::send(client, &message, &[]).is_ok());
    }
}

/// Nobody can type into it any more: later callers find no input.
pub(crate) fn forget_input(dir: &Path) {
    let _ = std::fs::remove_file(dir.join(INPUT));
}

/// A caller's place at a running container's streams. Dropped, the container goes on.
pub struct Attachment {
    /// what is typed; None: the container takes no input (any more)
    pub input: Option<pipe::Sender>,
    /// the container has a terminal
    pub tty: bool,
    /// its input is for one caller, at whose end it ends
    pub stdin_once: bool,
    pub voice: AttachVoice,
}

/// Clones speak for the same caller.
#[derive(Clone)]
pub struct AttachVoice(Arc<AsyncFd<OwnedFd>>);

/// A piece of a container's output.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
}

impl AttachVoice {
    /// The next piece of output, at most 16 KiB; None at the container's end, or when this caller didn't read for long. A terminal's is all stdout. Cancel-safe.
    pub async fn next(&self) -> Option<Output> {
        let receive = |fd: &OwnedFd| socket::receive(fd, MESSAGE_MAX, false);
        let mut message = loop {
            match self.0.async_io(Interest::READABLE, receive).await {
                Ok((message, _)) => break message,
                // told once, before what is still to read: the shim ended with a wish of ours unread
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
                Err(_) => return None,
            }
        };
        let stream = *message.first()?;
        message.remove(0);
        match stream {
            STDERR => Some(Output::Stderr(message)),
            _ => Some(Output::Stdout(message)),
        }
    }

    /// Columns and rows of the terminal, if the container has one; programs inside get SIGWINCH.
    pub async fn resize(&self, columns: u16, rows: u16) {
        let ([c0, c1], [r0, r1]) = (columns.to_be_bytes(), rows.to_be_bytes());
        self.say(&[RESIZE, c0, c1, r0, r1]).await;
    }

    /// Ends the container's input for good, once every sender is dropped. Nothing with a terminal.
    pub async fn end_input(&self) {
        self.say(&[END_INPUT]).await;
    }

    async fn say(&self, message: &[u8]) {
        let send = |fd: &OwnedFd| socket::send(fd, message, &[]);
        // a shim that is gone needs no telling
        let _ = self.0.async_io(Interest::WRITABLE, send).await;
    }
}

impl Runtime {
    /// Joins the streams of a container's own process, from now on.
    ///
    /// # Errors
    /// [`Error::NotRunning`]; an I/O error when there is no place among those attached for ten seconds, or when the container was started by a version that had no attaching.
    pub async fn attach(&self, id: &str) -> Result<Attachment, Error> {
        let entry = self.inner.entry(id)?;
        let told = || {
            format!(
                "attaching to container {id} (if it was started by an older version, restart it)"
            )
        };
        let spec = entry.spec();
        // one that has ended already keeps its output for who was to have it
        let held = spec.hold_output && matches!(*entry.state.borrow(), State::Running { .. });
        if entry.init().is_none() && !held {
            return Err(Error::NotRunning(id.into()));
        }
        let dir = entry.dir.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let socket = connect(&dir)?;
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let input = match rustix::fs::open(dir.join(INPUT), flags, Mode::empty()) {
                Ok(input) => Some(input),
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NXIO) => None,
                Err(e) => return Err(e.into()),
            };
            Ok::<_, io::Error>((socket, input))
        });
        let (socket, input) = opened
            .await
            .map_err(|e| Error::Other(format!("a bug in the container runtime: {e}")))?
            .during(told)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        let socket = ready_when(socket, both).during(told)?;
        welcomed(&socket).await.during(told)?;
        Ok(Attachment {
            input: input
                .map(pipe::Sender::from_owned_fd)
                .transpose()
                .during(told)?,
            tty: spec.tty,
            stdin_once: spec.stdin_once,
            voice: AttachVoice(Arc::new(socket)),
        })
    }
}

/// Until the shim has taken the caller in: connected alone is not among those who are told.
async fn welcomed(socket: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let receive = |fd: &OwnedFd| socket::receive(fd, MESSAGE_MAX, false);
    let heard = tokio::time::timeout(PATIENCE, socket.async_io(Interest::READABLE, receive)).await;
    let Ok(heard) = heard else {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "others are attached; try again when one has left",
        ));
    };
    match heard?.0.first() {
        Some(&WELCOME) => Ok(()),
        // the container ended in between
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Sets a terminal's size; one that has ended has none.
pub(crate) fn resize(master: &impl AsFd, columns: u16, rows: u16) {
    let _ = sys::set_window(master, columns, rows);
}
