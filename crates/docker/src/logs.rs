//! A container's output, as the node keeps it: both streams, each line with its time.

use crate::{
    NAMESPACE,
    containers::Entry,
    create::wanted::Wanted,
    daemon::{Daemon, Reader},
    error::{Fault, Result},
    events::tokio_stream,
    frames::{self, Stream},
    http::{Answer, Ask, streamed},
    lifecycle, names,
    pod::CONTAINER,
    state::Status,
};
use bytes::Bytes;
use futures::{AsyncBufReadExt, StreamExt};
use jiff::Timestamp;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// Lines kept for `--tail`.
const TAIL_MAX: usize = 1_000_000;
/// How long a line waits for an older one of the other stream.
const HOLD: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Default)]
pub struct Options {
    pub stdout: bool,
    pub stderr: bool,
    pub follow: bool,
    pub timestamps: bool,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// None: all
    pub tail: Option<usize>,
}

/// A line with its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub at: Timestamp,
    pub stream: Stream,
    pub text: Bytes,
}

impl Line {
    /// `2024-01-01T00:00:00.000000000Z text`
    fn read(raw: &[u8], stream: Stream) -> Option<Line> {
        let space = raw.iter().position(|b| *b == b' ')?;
        let at = std::str::from_utf8(&raw[..space]).ok()?.parse().ok()?;
        Some(Line {
            at,
            stream,
            text: Bytes::copy_from_slice(&raw[space + 1..]),
        })
    }
    pub fn bytes(&self, timestamps: bool) -> Bytes {
        if !timestamps {
            return self.text.clone();
        }
        let at = self.at.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string();
        [at.as_bytes(), b" ", &self.text].concat().into()
    }
}

/// One stream's lines, through a bounded channel. None in the end.
async fn open(
    daemon: &Daemon,
    pod: &str,
    stream: Stream,
    previous: bool,
    follow: bool,
    since: Option<Timestamp>,
) -> mpsc::Receiver<Line> {
    let (send, receive) = mpsc::channel(64);
    let name = match stream {
        Stream::Stdout => "Stdout",
        Stream::Stderr => "Stderr",
    };
    let mut query = format!("container={CONTAINER}&timestamps=true&stream={name}");
    if previous {
        query.push_str("&previous=true");
    }
    if follow {
        query.push_str("&follow=true");
    }
    if let Some(since) = since {
        // to the second: the rest is passed over here
        let since = since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        query.push_str(&format!("&sinceTime={since}"));
    }
    let uri = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}/log?{query}");
    let Ok(request) = ::http::Request::get(uri).body(Vec::new()) else {
        return receive;
    };
    // An error here is a container that has no log: it hasn't run.
    let Ok(reader) = daemon.client.request_stream(request).await else {
        return receive;
    };
    tokio::spawn(async move {
        let mut reader = std::pin::pin!(reader);
        let mut raw = Vec::new();
        loop {
            raw.clear();
            match reader.read_until(b'\n', &mut raw).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let Some(line) = Line::read(&raw, stream) else {
                continue;
            };
            if send.send(line).await.is_err() {
                return;
            }
        }
    });
    receive
}

/// Two streams' lines in the order of their times, as far as those that are there tell.
struct Merged {
    sources: [Option<mpsc::Receiver<Line>>; 2],
    heads: [Option<Line>; 2],
    live: bool,
}

impl Merged {
    async fn open(
        daemon: &Daemon,
        pod: &str,
        options: &Options,
        previous: bool,
        follow: bool,
        since: Option<Timestamp>,
    ) -> Merged {
        let one = |wanted: bool, stream| async move {
            match wanted {
                true => Some(open(daemon, pod, stream, previous, follow, since).await),
                false => None,
            }
        };
        let (out, err) = tokio::join!(
            one(options.stdout, Stream::Stdout),
            one(options.stderr, Stream::Stderr)
        );
        Merged {
            sources: [out, err],
            heads: [None, None],
            live: follow,
        }
    }

    async fn next(&mut self) -> Option<Line> {
        loop {
            let [head_a, head_b] = &mut self.heads;
            let [source_a, source_b] = &mut self.sources;
            match (&head_a, &head_b) {
                (Some(a), Some(b)) => {
                    return if a.at <= b.at {
                        head_a.take()
                    } else {
                        head_b.take()
                    };
                }
                (None, None) => {
                    let got = match (source_a.as_mut(), source_b.as_mut()) {
                        (None, None) => return None,
                        (Some(a), None) => (0, a.recv().await),
                        (None, Some(b)) => (1, b.recv().await),
                        (Some(a), Some(b)) => tokio::select! {
                            line = a.recv() => (0, line),
                            line = b.recv() => (1, line),
                        },
                    };
                    match got {
                        (i, Some(line)) => self.heads[i] = Some(line),
                        (i, None) => self.sources[i] = None,
                    }
                }
                _ => {
                    let (mine, other, source) = match head_a.is_some() {
                        true => (head_a, head_b, source_b),
                        false => (head_b, head_a, source_a),
                    };
                    let Some(receiver) = source else {
                        return mine.take();
                    };
                    let got = match self.live {
                        false => Ok(receiver.recv().await),
                        true => tokio::time::timeout(HOLD, receiver.recv()).await,
                    };
                    match got {
                        Err(_) => return mine.take(),
                        Ok(None) => *source = None,
                        Ok(Some(line)) => *other = Some(line),
                    }
                }
            }
        }
    }
}

/// Sends a container's lines; ends with the channel, or with the container when it's followed.
pub async fn send(
    daemon: Arc<Daemon>,
    entry: Arc<Entry>,
    options: Options,
    to: mpsc::Sender<Line>,
) {
    let id = entry.record.id.clone();
    let fits = |line: &Line| {
        options.since.is_none_or(|s| line.at >= s) && options.until.is_none_or(|u| line.at <= u)
    };
    let mut last: Option<Timestamp> = None;
    let mut kept: VecDeque<Line> = VecDeque::new();
    let restarted = entry.state().restarts > entry.record.restarts;
    for previous in [true, false] {
        if previous && !restarted {
            continue;
        }
        let mut lines = Merged::open(
            &daemon,
            entry.pod_name(),
            &options,
            previous,
            false,
            options.since,
        )
        .await;
        while let Some(line) = lines.next().await {
            last = Some(line.at);
            if !fits(&line) {
                continue;
            }
            match options.tail {
                None => {
                    if to.send(line).await.is_err() {
                        return;
                    }
                }
                Some(most) => {
                    kept.push_back(line);
                    if kept.len() > most.min(TAIL_MAX) {
                        kept.pop_front();
                    }
                }
            }
        }
    }
    for line in kept {
        if to.send(line).await.is_err() {
            return;
        }
    }
    if !options.follow {
        return;
    }
    loop {
        // A container that hasn't begun, or begins again, is waited for.
        let ready = lifecycle::until(&daemon, &id, None, |e, s| {
            e.uid() != entry.uid()
                || matches!(s.status, Status::Running | Status::Paused | Status::Exited)
        });
        let now = tokio::select! {
            now = ready => now,
            () = to.closed() => return,
        };
        let Ok(Some(now)) = now else { return };
        let mut lines = Merged::open(&daemon, entry.pod_name(), &options, false, true, last).await;
        while let Some(line) = tokio::select! {
            line = lines.next() => line,
            () = to.closed() => return,
        } {
            if last.is_some_and(|l| line.at <= l) {
                continue;
            }
            last = Some(line.at);
            if options.until.is_some_and(|u| line.at > u)
                || (fits(&line) && to.send(line).await.is_err())
            {
                return;
            }
        }
        let over = now.uid() != entry.uid() || now.state().status == Status::Exited;
        if over {
            return;
        }
        // That was one run of it: what becomes of it is told soon.
        let before = now.state().end;
        let next = lifecycle::until(&daemon, &id, None, |e, s| {
            e.uid() != entry.uid() || s.end != before
        });
        tokio::select! {
            _ = next => {}
            () = to.closed() => return,
        }
    }
}

pub fn content_type(raw: bool, ask: &Ask) -> &'static str {
    match raw || !ask.at_least(1, 42) {
        true => "application/vnd.docker.raw-stream",
        false => "application/vnd.docker.multiplexed-stream",
    }
}

/// `GET /containers/{id}/logs`
pub async fn logs(daemon: &Arc<Daemon>, reference: &str, ask: Ask) -> Result<Answer> {
    let entry = daemon.containers.find(reference)?;
    let query = &ask.query;
    let options = Options {
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        follow: query.flag("follow"),
        timestamps: query.flag("timestamps"),
        since: names::time(query.get("since").unwrap_or_default())?,
        until: names::time(query.get("until").unwrap_or_default())?,
        tail: match query.get("tail") {
            None | Some("all") => None,
            // as Docker: what is no number is all
            Some(number) => number.parse().ok(),
        },
    };
    if !options.stdout && !options.stderr {
        return Err(Fault::bad(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let wanted = Wanted::read(&entry.record.body)?;
    if wanted.host.log.none {
        return Err(Fault::unsupported(
            "configured logging driver does not support reading: reading the log of a container without one",
        ));
    }
    let raw = wanted.tty;
    let kind = content_type(raw, &ask);
    let (send_to, receive) = mpsc::channel(64);
    let reader: Reader = daemon.reader(&entry.record.id);
    let timestamps = options.timestamps;
    let daemon = daemon.clone();
    tokio::spawn(async move {
        send(daemon, entry, options, send_to).await;
        drop(reader);
    });
    let pieces = tokio_stream(receive)
        .map(move |line| Ok(frames::piece(line.stream, line.bytes(timestamps), raw)));
    Ok(streamed(kind, pieces))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: i64, stream: Stream) -> Line {
        Line {
            at: Timestamp::from_second(at).unwrap(),
            stream,
            text: "x\n".into(),
        }
    }

    #[tokio::test]
    async fn lines_of_both_streams_come_by_their_times() {
        let check = |out: &'static [i64], err: &'static [i64], wanted: &'static [i64]| async move {
            let (send_a, a) = mpsc::channel(8);
            let (send_b, b) = mpsc::channel(8);
            for at in out {
                send_a.send(line(*at, Stream::Stdout)).await.unwrap();
            }
            for at in err {
                send_b.send(line(*at, Stream::Stderr)).await.unwrap();
            }
            drop((send_a, send_b));
            let mut merged = Merged {
                sources: [Some(a), Some(b)],
                heads: [None, None],
                live: false,
            };
            let mut got = Vec::new();
            while let Some(line) = merged.next().await {
                got.push(line.at.as_second());
            }
            assert_eq!(got, wanted);
        };
        check(&[1, 4, 5], &[2, 3, 6], &[1, 2, 3, 4, 5, 6]).await;
        check(&[], &[2, 3], &[2, 3]).await;
        check(&[1], &[], &[1]).await;
        check(&[], &[], &[]).await;
    }

    #[test]
    fn lines_are_read_with_their_times() {
        let raw = b"2024-01-02T03:04:05.5Z two words\n";
        let line = Line::read(raw, Stream::Stdout).unwrap();
        assert_eq!(line.bytes(false), "two words\n");
        assert_eq!(
            line.bytes(true),
            "2024-01-02T03:04:05.500000000Z two words\n"
        );
        assert_eq!(Line::read(b"nonsense", Stream::Stdout), None);
    }
}
