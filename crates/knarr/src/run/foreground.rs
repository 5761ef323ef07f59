//! A container's streams and this process's own, joined until it ends or the person leaves.

use super::{
    life::{self, inner_id},
    record::{Home, Record},
};
use crate::error::Error;
use knarr_runtime::{AttachVoice, Attachment, Output};
use rustix::termios::{self, OptionalActions, Termios};
use std::{io::IsTerminal, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// How long the runtime is kept in hand, for containers that end at once; others may wait for it meanwhile.
const IN_HAND: Duration = Duration::from_millis(300);
/// Ctrl-P Ctrl-Q leaves the container running.
const DETACH: [u8; 2] = [0x10, 0x11];
/// What is passed on to the container. SOURCE: docker/cli `ForwardAllSignals`, without those that are about this process.
const FORWARDED: [i32; 7] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGTERM,
    libc::SIGCONT,
];

/// Puts the terminal back when dropped.
pub struct Raw(Termios);

impl Raw {
    pub fn enter() -> Option<Raw> {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Columns and rows of this process's terminal.
pub fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some((size.ws_col, size.ws_row))
}

/// This process's signals, heard from now on.
pub struct Signals(mpsc::Receiver<i32>);

impl Signals {
    /// To be called before the container is started: who sees it run may send one at once.
    pub fn listen() -> Signals {
        let (sender, heard) = mpsc::channel(8);
        for number in FORWARDED {
            let sender = sender.clone();
            let Ok(mut stream) = signal(SignalKind::from_raw(number)) else {
                continue;
            };
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    if sender.send(number).await.is_err() {
                        return;
                    }
                }
            });
        }
        Signals(heard)
    }

    /// Passes them on, for ever.
    async fn pass_on(mut self, home: &Home, record: &Record) {
        while let Some(number) = self.0.recv().await {
            if let Ok(runtime) = life::open(home, record).await {
                // one that has just ended needs none
                let _ = runtime.signal(&inner_id(record), number).await;
            }
        }
    }
}

/// Until the container ends, and gives its exit code; or until the person leaves it running (0).
pub async fn follow(
    home: &Home,
    record: &Record,
    signals: Signals,
    runtime: Option<life::Hand>,
    attachment: Attachment,
    input: bool,
) -> Result<u8, Error> {
    let raw = (record.tty && input && std::io::stdin().is_terminal())
        .then(Raw::enter)
        .flatten();
    let ended = {
        let joined = join(home, record, signals, attachment, input);
        tokio::pin!(joined);
        match runtime {
            None => (joined.await, None),
            Some(runtime) => match tokio::time::timeout(IN_HAND, &mut joined).await {
                Ok(ended) => (ended, Some(runtime)),
                Err(_) => {
                    drop(runtime);
                    (joined.await, None)
                }
            },
        }
    };
    drop(raw);
    match ended {
        (true, runtime) => finish(home, record, runtime).await,
        (false, _) => Ok(0),
    }
}

/// Waits for a container's end, sees to it, and gives its code.
pub async fn finish(
    home: &Home,
    record: &Record,
    runtime: Option<life::Hand>,
) -> Result<u8, Error> {
    let runtime = match runtime {
        Some(runtime) => runtime,
        None => life::open(home, record).await?,
    };
    let exit = match runtime.wait(&inner_id(record)).await {
        Ok(exit) => exit,
        // somebody removed it meanwhile
        Err(knarr_runtime::Error::NoContainer(_)) => {
            let exit = home.load(&record.id).and_then(|record| record.exit);
            let code = exit.map_or(137, |exit| exit.code);
            return Ok(u8::try_from(code & 0xff).unwrap_or(1));
        }
        Err(error) => return Err(life::failed(error)),
    };
    life::ended(home, &record.id, Some(runtime)).await?;
    Ok(u8::try_from(exit.code & 0xff).unwrap_or(1))
}

/// True: the container's output has ended. False: the person has left.
async fn join(
    home: &Home,
    record: &Record,
    signals: Signals,
    attachment: Attachment,
    input: bool,
) -> bool {
    let Attachment {
        input: fifo,
        stdin_once,
        voice,
        tty,
    } = attachment;
    let sizes = async {
        if tty {
            let Ok(mut changed) = signal(SignalKind::window_change()) else {
                return std::future::pending().await;
            };
            loop {
                if let Some((columns, rows)) = size() {
                    voice.resize(columns, rows).await;
                }
                changed.recv().await;
            }
        }
        std::future::pending::<()>().await
    };
    let typed = async {
        if let (true, Some(fifo)) = (input, fifo) {
            if type_in(fifo, tty).await {
                return; // the person leaves
            }
            if stdin_once && !tty {
                voice.end_input().await;
            }
        }
        std::future::pending().await
    };
    let signals = signals.pass_on(home, record);
    tokio::select! {
        () = show(&voice) => true,
        () = typed => false,
        () = sizes => true,
        () = signals => true,
    }
}

async fn show(voice: &AttachVoice) {
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    // a reader who went away doesn't end the container
    while let Some(output) = voice.next().await {
        match output {
            Output::Stdout(bytes) => write(&mut out, &bytes).await,
            Output::Stderr(bytes) => write(&mut err, &bytes).await,
        }
    }
}

pub async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    if to.write_all(bytes).await.is_ok() {
        let _ = to.flush().await;
    }
}

/// Copies this process's input. True: the person typed what leaves the container.
pub async fn type_in(mut to: impl AsyncWrite + Unpin, tty: bool) -> bool {
    let mut from = tokio::io::stdin();
    let mut buffer = vec![0; 8192];
    let mut armed = false;
    loop {
        let Ok(n) = from.read(&mut buffer).await else {
            return false;
        };
        if n == 0 {
            return false;
        }
        let mut bytes = buffer[..n].to_vec();
        if tty {
            if armed {
                bytes.insert(0, DETACH[0]);
            }
            if bytes.windows(2).any(|pair| pair == DETACH) {
                return true;
            }
            armed = bytes.last() == Some(&DETACH[0]);
            if armed {
                bytes.pop();
            }
        }
        if to.write_all(&bytes).await.is_err() {
            return false;
        }
    }
}
