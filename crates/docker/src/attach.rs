//! A client and a container's own streams, joined over a connection that is no longer HTTP.

mod plain;

use crate::{
    containers::Entry,
    create::wanted::Wanted,
    daemon::Daemon,
    error::{Fault, Result},
    frames::{self, Stream},
    http::{Answer, Ask, answer, with},
    lifecycle, logs,
    machine::{Machine, Output, Streams},
    state::Status,
};
use ::http::{StatusCode, header};
use axum::body::Body;
use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::{
    os::fd::AsFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::UnixStream,
    sync::mpsc,
};

/// How long a connection may take to become the streams'.
const UPGRADE: Duration = Duration::from_secs(10);
/// How long a client may take to read the answer, and after what time that is looked at again, and then twice as long.
const TAKEN: Duration = Duration::from_secs(30);
const LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(16));
/// What a process wrote before its end is through by then, though a child of it still holds the pipe.
const LEFT: Duration = Duration::from_secs(2);
pub const PIECE: usize = 16 << 10;

/// A connection that becomes the streams'.
pub enum Coming {
    Upgrade(OnUpgrade),
    /// The bodies of a request and its answer stand for it.
    Bodies(UnixStream),
}

/// The answer that turns a connection over, and the connection to come.
pub fn hijack(ask: &mut Ask, content_type: &'static str) -> Result<(Answer, Coming)> {
    let Some(upgrade) = ask.upgrade.take() else {
        let (answer, far) = plain::joined(ask).map_err(Fault::server)?;
        return Ok((answer, Coming::Bodies(far)));
    };
    let head = answer(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONTENT_TYPE, content_type)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "tcp");
    Ok((with(head, Body::empty()), Coming::Upgrade(upgrade)))
}

/// What the client sent right behind its request, and then the socket.
pub struct Far {
    early: Bytes,
    socket: UnixStream,
}

impl AsyncRead for Far {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buffer);
        }
        let most = self.early.len().min(buffer.remaining());
        buffer.put_slice(&self.early.split_to(most));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Far {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// The connection, once the client has taken the answer.
///
/// Clients read the answer's head through a buffer and the streams past it: docker-py takes the socket below Python's
/// `http.client`, and what came in one read with the head is lost to it. A daemon that is slower never shows it; this one
/// writes nothing until what was written has been read.
pub async fn taken(coming: Coming, machine: &dyn Machine) -> Option<Far> {
    let upgrade = match coming {
        Coming::Upgrade(upgrade) => upgrade,
        Coming::Bodies(socket) => {
            let early = Bytes::new();
            return Some(Far { early, socket });
        }
    };
    let upgraded = tokio::time::timeout(UPGRADE, upgrade).await.ok()?.ok()?;
    let parts = upgraded.downcast::<TokioIo<UnixStream>>().ok()?;
    let socket = parts.io.into_inner();
    let read = async {
        // the kernel tells nobody of it: it is looked at, first at once, and seldom more than once
        let mut pause = LOOK.0;
        while machine.untaken(socket.as_fd()).is_some_and(|left| left > 0) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK.1);
        }
    };
    // one that reads nothing yet will have to sort it out
    let _ = tokio::time::timeout(TAKEN, read).await;
    Some(Far {
        early: parts.read_buf,
        socket,
    })
}

/// `POST /containers/{id}/attach`
pub async fn attach(daemon: &Arc<Daemon>, reference: &str, mut ask: Ask) -> Result<Answer> {
    let entry = daemon.containers.find(reference)?;
    let state = entry.state();
    match state.status {
        Status::Paused => {
            return Err(Fault::conflict(format!(
                "container {} is paused, unpause the container before attach",
                reference
            )));
        }
        Status::Restarting => {
            return Err(Fault::conflict(format!(
                "container {reference} is restarting, wait until the container is running"
            )));
        }
        _ => {}
    }
    let wanted = Wanted::read(&entry.record.body)?;
    let query = &ask.query;
    let wish = Wish {
        stdin: query.flag("stdin") && wanted.open_stdin,
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        stream: query.flag("stream"),
        logs: query.flag("logs"),
        raw: wanted.tty,
        interactive: wanted.open_stdin || wanted.tty,
        keys: wanted
            .tty
            .then(|| Keys::new(query.get("detachKeys")))
            .transpose()?,
    };
    let kind = logs::content_type(wanted.tty, &ask);
    let (answer, upgrade) = hijack(&mut ask, kind)?;
    let daemon = daemon.clone();
    let reader = daemon.reader(&entry.record.id);
    tokio::spawn(async move {
        if let Some(far) = taken(upgrade, &*daemon.machine).await {
            converse(&daemon, entry, wish, far).await;
        }
        drop(reader);
    });
    Ok(answer)
}

struct Wish {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    stream: bool,
    logs: bool,
    raw: bool,
    interactive: bool,
    keys: Option<Keys>,
}

async fn converse(daemon: &Arc<Daemon>, entry: Arc<Entry>, wish: Wish, far: Far) {
    let (from, mut to) = tokio::io::split(far);
    let before = entry.state();
    let fresh = !lifecycle::active(before.status);
    let since = Some(jiff::Timestamp::now());
    if wish.logs && (!fresh || !wish.stream) {
        let past = logs::Options {
            follow: false,
            ..wish.logs(None)
        };
        if !show_log(daemon, &entry, past, wish.raw, &mut to).await {
            return;
        }
    }
    if !wish.stream {
        let _ = to.shutdown().await;
        return;
    }
    // One that doesn't run is waited for: clients attach, then start.
    let begun = lifecycle::until(daemon, &entry.record.id, None, |e, s| {
        !fresh
            || matches!(s.status, Status::Running | Status::Paused)
            || (s.end.is_some() && s.end != before.end)
            || (e.gated() && !e.record.error.is_empty() && e.record.run != entry.record.run)
    });
    // It's not waited for longer than the client does.
    let mut early = Early::new(from);
    let begun = tokio::select! {
        begun = begun => begun,
        () = early.gone(wish.stdin) => return,
    };
    let Ok(Some(now)) = begun else { return };
    if now.gated() {
        return;
    }
    if wish.interactive
        && let Ok(streams) = daemon.machine.attach(&daemon.pod_name(&now)).await
    {
        daemon.execs.sized(&now.record.id, &streams.resize);
        join(daemon, &now.record.id, streams, early, &mut to, wish).await;
    } else {
        let since = if fresh { None } else { since };
        let options = wish.logs(since);
        tokio::select! {
            _ = show_log(daemon, &now, options, wish.raw, &mut to) => {}
            () = early.left() => {}
        }
    }
    let _ = to.shutdown().await;
}

impl Wish {
    fn logs(&self, since: Option<jiff::Timestamp>) -> logs::Options {
        logs::Options {
            stdout: self.stdout,
            stderr: self.stderr,
            follow: true,
            since,
            ..logs::Options::default()
        }
    }
}

/// Whether the client is still there after.
async fn show_log(
    daemon: &Arc<Daemon>,
    entry: &Arc<Entry>,
    options: logs::Options,
    raw: bool,
    to: &mut (impl AsyncWrite + Unpin),
) -> bool {
    let (send, mut receive) = mpsc::channel(64);
    let sending = logs::send(daemon.clone(), entry.clone(), options, send);
    let showing = async {
        while let Some(line) = receive.recv().await {
            let piece = frames::piece(line.stream, line.text, raw);
            if to.write_all(&piece).await.is_err() || to.flush().await.is_err() {
                return false;
            }
        }
        true
    };
    let ((), there) = tokio::join!(sending, showing);
    there
}

/// What the client types while nobody is there to read it: the first of it is kept.
struct Early<R> {
    from: R,
    kept: Vec<u8>,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Early<R> {
    fn new(from: R) -> Early<R> {
        Early {
            from,
            kept: Vec::new(),
            ended: false,
        }
    }
    /// Ready when a client that types nothing has hung up.
    async fn gone(&mut self, types: bool) {
        let mut buffer = [0u8; 1024];
        while self.kept.len() < PIECE && !self.ended {
            match self.from.read(&mut buffer).await {
                Ok(n) if n > 0 => {
                    if types {
                        self.kept.extend_from_slice(&buffer[..n]);
                    }
                }
                Ok(_) => self.ended = true,
                Err(_) => return,
            }
        }
        // An end of input is no end of interest: clients close their half and read on.
        std::future::pending().await
    }
    /// Ready when the connection breaks.
    async fn left(&mut self) {
        let mut buffer = [0u8; 1024];
        loop {
            match self.from.read(&mut buffer).await {
                Ok(n) if n > 0 => {}
                Ok(_) => return std::future::pending().await,
                Err(_) => return,
            }
        }
    }
}

/// Copies both ways until the container ends or the client leaves.
async fn join<R: AsyncRead + Unpin + Send>(
    daemon: &Arc<Daemon>,
    id: &str,
    streams: Streams,
    early: Early<R>,
    to: &mut (impl AsyncWrite + Unpin),
    wish: Wish,
) {
    let Streams {
        stdin,
        stdout,
        stderr,
        resize,
        end_input,
        ..
    } = streams;
    let session = daemon.execs.attached(id, resize);
    let wished = |output: Option<Output>, wish: bool| match wish {
        true => (output, None),
        false => (None, output),
    };
    let (stdout, unheard) = wished(stdout, wish.stdout || wish.raw);
    let (stderr, unseen) = wished(stderr, wish.stderr);
    // what nobody wants to hear tells of the end all the same: who only types stays until then
    let shown = async {
        tokio::join!(
            show(stdout, stderr, wish.raw, to),
            forget(unheard),
            forget(unseen)
        )
    };
    let typed = async {
        let detached = match (wish.stdin, stdin) {
            (true, Some(input)) => type_in(early, input, wish.keys).await,
            _ => {
                let mut early = early;
                early.left().await;
                true
            }
        };
        if detached {
            return;
        }
        if let Some(end) = end_input {
            end.await;
        }
        std::future::pending().await
    };
    tokio::select! {
        _ = shown => {}
        () = typed => daemon.execs.tell_detached(daemon, id),
    }
    drop(session);
}

async fn forget(output: Option<Output>) {
    if let Some(mut output) = output {
        let _ = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
    }
}

/// Whether the client left with its keys; otherwise its input is at its end.
pub async fn type_in<R: AsyncRead + Unpin>(
    early: impl Into<Typed<R>>,
    mut to: crate::machine::Input,
    mut keys: Option<Keys>,
) -> bool {
    let Typed {
        mut from,
        kept,
        ended,
    } = early.into();
    let mut buffer = vec![0u8; 4096];
    let mut piece: Vec<u8> = kept;
    loop {
        let (passed, left) = match &mut keys {
            Some(keys) => keys.pass(&piece),
            None => (std::mem::take(&mut piece), false),
        };
        if !passed.is_empty() && (to.write_all(&passed).await.is_err() || to.flush().await.is_err())
        {
            break;
        }
        if left {
            return true;
        }
        if ended {
            break;
        }
        match from.read(&mut buffer).await {
            Ok(n) if n > 0 => piece = buffer[..n].to_vec(),
            _ => break,
        }
    }
    let _ = to.shutdown().await;
    false
}

/// What is typed, with what was typed before.
pub struct Typed<R> {
    from: R,
    kept: Vec<u8>,
    ended: bool,
}

impl<R> From<Early<R>> for Typed<R> {
    fn from(early: Early<R>) -> Typed<R> {
        Typed {
            from: early.from,
            kept: early.kept,
            ended: early.ended,
        }
    }
}

impl<R> Typed<R> {
    pub fn fresh(from: R) -> Typed<R> {
        Typed {
            from,
            kept: Vec::new(),
            ended: false,
        }
    }
}

/// Copies both outputs until they end or the client is gone.
pub async fn show(
    stdout: Option<Output>,
    stderr: Option<Output>,
    raw: bool,
    to: &mut (impl AsyncWrite + Unpin),
) {
    let (send, mut receive) = mpsc::channel(8);
    let mut tasks = tokio::task::JoinSet::new();
    for (stream, from) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
        let (Some(mut from), send) = (from, send.clone()) else {
            continue;
        };
        tasks.spawn(async move {
            let mut buffer = vec![0u8; PIECE];
            while let Ok(n) = from.read(&mut buffer).await {
                let piece = frames::piece(stream, bytes::Bytes::copy_from_slice(&buffer[..n]), raw);
                if n == 0 || send.send(piece).await.is_err() {
                    return;
                }
            }
        });
    }
    drop(send);
    while let Some(piece) = receive.recv().await {
        if to.write_all(&piece).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

/// After a process has ended: what it wrote is let through.
pub async fn drain(showing: impl Future<Output = ()>) {
    let _ = tokio::time::timeout(LEFT, showing).await;
}

/// The keys by which one leaves a terminal: control-p, control-q.
pub struct Keys {
    keys: Vec<u8>,
    matched: usize,
}

impl Keys {
    /// SOURCE: moby/term `ToBytes`
    pub fn new(asked: Option<&str>) -> Result<Keys> {
        let text = asked.unwrap_or("ctrl-p,ctrl-q");
        let invalid = || Fault::bad(format!("Invalid escape keys ({text}) provided"));
        let mut keys = Vec::new();
        for key in text.split(',') {
            let code = match (key.as_bytes(), key.strip_prefix("ctrl-")) {
                ([one], _) => *one,
                (_, Some(control)) => match control.as_bytes() {
                    [c @ b'a'..=b'z'] => c - b'a' + 1,
                    [b'@'] => 0,
                    [b'['] => 27,
                    [b'\\'] => 28,
                    [b']'] => 29,
                    [b'^'] => 30,
                    [b'_'] => 31,
                    _ => return Err(invalid()),
                },
                _ => return Err(invalid()),
            };
            keys.push(code);
        }
        Ok(Keys { keys, matched: 0 })
    }

    /// What goes on to the container, and whether the keys were pressed.
    fn pass(&mut self, piece: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(piece.len());
        for byte in piece {
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(*byte == self.keys[0]);
            if self.matched == 0 {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_leave_a_terminal() {
        let check = |pieces: &[&[u8]], wanted: &[u8], left: bool| {
            let mut keys = Keys::new(None).unwrap();
            let (mut passed, mut gone) = (Vec::new(), false);
            for piece in pieces {
                let (more, now) = keys.pass(piece);
                passed.extend(more);
                gone |= now;
            }
            assert_eq!((passed.as_slice(), gone), (wanted, left), "{pieces:?}");
        };
        check(&[b"ls\n"], b"ls\n", false);
        check(&[b"a\x10\x11"], b"a", true);
        check(&[b"a\x10", b"\x11"], b"a", true);
        check(&[b"\x10x"], b"\x10x", false);
        check(&[b"\x10\x10\x11"], b"\x10", true);
        assert!(Keys::new(Some("ctrl-")).is_err());
        assert!(Keys::new(Some("a,ctrl-]")).is_ok());
    }
}
