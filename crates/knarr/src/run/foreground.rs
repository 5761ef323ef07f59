//! A container's streams and this process's own, joined until it ends or the person leaves.

use super::{
    life::{self, inner_id},
    record::{Home, Record},
};
use crate::error::Error;
use clap::Args;
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

/// How a person leaves a container, and whether signals go to it.
#[derive(Args, Clone, Default)]
pub struct Keys {
    /// What leaves it running, instead of ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Pass signals on to it
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    sig_proxy: Option<bool>,
}

impl Keys {
    /// Joined with all but its input.
    ///
    /// # Errors
    /// When the keys are none.
    pub fn how(&self) -> Result<How, Error> {
        let keys = match self.detach_keys.as_deref() {
            None | Some("") => Ok(DETACH.to_vec()),
            Some(text) => keys(text)
                .ok_or_else(|| Error::Input(format!("Invalid escape keys ({text}) provided"))),
        };
        Ok(How {
            input: false,
            stdout: true,
            stderr: true,
            keys: keys?,
        })
    }

    /// This process's signals, if they are to be passed on. To be called before the container is started: who sees it run
    /// may send one at once.
    pub fn signals(&self) -> Signals {
        match self.sig_proxy {
            Some(false) => Signals(mpsc::channel(1).1),
            _ => Signals::listen(),
        }
    }
}

/// Which of its streams are joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct How {
    pub input: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Typed one after the other, they leave it
    pub keys: Vec<u8>,
}

/// `ctrl-a,b`. SOURCE: moby/term `ascii.go` ToBytes
fn keys(text: &str) -> Option<Vec<u8>> {
    let key = |word: &str| match (word.strip_prefix("ctrl-"), word.as_bytes()) {
        (Some(rest), _) => match rest.as_bytes() {
            [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
            [b'@'] => Some(0),
            [other @ b'['..=b'_'] => Some(other - b'[' + 27),
            _ => None,
        },
        (None, b"DEL") => Some(127),
        (None, [plain]) => Some(*plain),
        _ => None,
    };
    text.split(',').map(key).collect()
}
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
    fn listen() -> Signals {
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
        std::future::pending().await
    }
}

/// Until the container ends, and gives its exit code; or until the person leaves it running (0).
pub async fn follow(
    home: &Home,
    record: &Record,
    signals: Signals,
    runtime: Option<life::Hand>,
    attachment: Attachment,
    how: &How,
) -> Result<u8, Error> {
    let raw = (record.tty && how.input && std::io::stdin().is_terminal())
        .then(Raw::enter)
        .flatten();
    let ended = {
        let joined = join(home, record, signals, attachment, how);
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
    how: &How,
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
        if let (true, Some(fifo)) = (how.input, fifo) {
            if type_in(fifo, if tty { &how.keys } else { &[] }).await {
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
        () = show(&voice, how) => true,
        () = typed => false,
        () = sizes => true,
        () = signals => true,
    }
}

async fn show(voice: &AttachVoice, how: &How) {
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    // a reader who went away doesn't end the container
    while let Some(output) = voice.next().await {
        match output {
            Output::Stdout(bytes) if how.stdout => write(&mut out, &bytes).await,
            Output::Stderr(bytes) if how.stderr => write(&mut err, &bytes).await,
            _ => {}
        }
    }
}

pub async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    if to.write_all(bytes).await.is_ok() {
        let _ = to.flush().await;
    }
}

/// Copies this process's input. True: the person typed the keys that leave the container.
pub async fn type_in(mut to: impl AsyncWrite + Unpin, keys: &[u8]) -> bool {
    let mut from = tokio::io::stdin();
    let mut buffer = vec![0; 8192];
    let mut typed = 0;
    loop {
        let Ok(n @ 1..) = from.read(&mut buffer).await else {
            return false;
        };
        let (bytes, left) = without(keys, &mut typed, &buffer[..n]);
        if left {
            return true;
        }
        if to.write_all(&bytes).await.is_err() {
            return false;
        }
    }
}

/// What was typed, but for the keys, of which so many came before; true when all have come.
fn without(keys: &[u8], typed: &mut usize, bytes: &[u8]) -> (Vec<u8>, bool) {
    if keys.is_empty() {
        return (bytes.to_vec(), false);
    }
    let mut out = Vec::with_capacity(bytes.len());
    for byte in bytes {
        if *byte != keys[*typed] {
            out.extend_from_slice(&keys[..*typed]);
            *typed = 0;
        }
        if *byte != keys[*typed] {
            out.push(*byte);
            continue;
        }
        *typed += 1;
        if *typed == keys.len() {
            return (out, true);
        }
    }
    (out, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_leave() {
        for (text, wanted) in [
            ("ctrl-p,ctrl-q", Some(vec![16, 17])),
            ("ctrl-@,a,DEL", Some(vec![0, b'a', 127])),
            ("ctrl-[,ctrl-_", Some(vec![27, 31])),
            ("foo", None),
            ("ctrl-ab", None),
        ] {
            assert_eq!(keys(text), wanted, "{text}");
        }
        let typed = |keys: &[u8], parts: &[&[u8]]| {
            let (mut out, mut at) = (Vec::new(), 0);
            for part in parts {
                let (bytes, left) = without(keys, &mut at, part);
                out.extend(bytes);
                if left {
                    return (String::from_utf8(out).unwrap(), true);
                }
            }
            (String::from_utf8(out).unwrap(), false)
        };
        for (keys, parts, wanted, left) in [
            (&b"xy"[..], vec![&b"abxy"[..], b"c"], "ab", true),
            (b"xy", vec![b"ax", b"yc"], "a", true),
            (b"xy", vec![b"ax", b"bxxy"], "axbx", true),
            (b"xy", vec![b"axb"], "axb", false),
            (b"x", vec![b"ax"], "a", true),
            (b"", vec![b"ax"], "ax", false),
        ] {
            assert_eq!(typed(keys, &parts), (wanted.to_string(), left), "{parts:?}");
        }
    }
}
