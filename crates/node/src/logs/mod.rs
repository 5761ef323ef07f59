//! Container logs: CRI-format files to the bytes that `kubectl logs` shows.
//!
//! Source: kubernetes `pkg/kubelet/kuberuntime/logs`. Unlike it, rotated files are read, too, so that nothing kept is hidden.

mod files;
mod line;
mod lines;

use std::{
    collections::VecDeque,
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;
use tokio::task::JoinHandle;

use self::{files::Files, line::Line};
use crate::{LogStream, inotify::Watcher};

/// A chunk of output is about this long, and so many are made at once while there is so much.
const CHUNK_BYTES: usize = 64 * 1024;
const CHUNKS: usize = 2;

#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub tail_lines: Option<u64>,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    pub limit_bytes: Option<u64>,
    pub stream: Option<LogStream>,
}

type End = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Reader {
    files: Files,
    options: Options,
    left: Option<u64>,
    at_line_start: bool,
    /// bytes of the chunk before, which the next one may need
    room: usize,
    /// following: what tells of changes, and of the end
    follow: Option<(Watcher, End)>,
    /// the container has ended; what's there is read once more
    last_round: bool,
}

/// Opens the log at `path`. With `end`, follows it until that resolves. A log that was never made is empty.
pub(crate) async fn open(
    path: PathBuf,
    options: Options,
    end: Option<End>,
) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
    let follow = match end {
        Some(end) => {
            let dir = path.parent().unwrap_or(Path::new("/"));
            // Watched before anything is read: no write falls between.
            Some((Watcher::on(dir)?, end))
        }
        None => None,
    };
    let tail = options.tail_lines;
    let later = follow.is_some();
    let files = blocking(move || Files::open(&path, tail, later)).await?;
    let reader = Reader {
        files,
        left: options.limit_bytes,
        options,
        at_line_start: true,
        room: 0,
        last_round: follow.is_none(),
        follow,
    };
    let state = (VecDeque::new(), read(reader));
    let stream = stream::try_unfold(state, |(mut chunks, mut next)| async move {
        loop {
            if let Some(chunk) = chunks.pop_front() {
                return Ok(Some((chunk, (chunks, next))));
            }
            let mut reader: Reader;
            (reader, chunks) = next.await.map_err(io::Error::other)??;
            if chunks.is_empty() && !reader.more_comes().await? {
                return Ok(None);
            }
            // Read while what is there already goes out.
            next = read(reader);
        }
    });
    Ok(stream.boxed())
}

type Read = JoinHandle<io::Result<(Reader, VecDeque<Bytes>)>>;

/// Reads the next chunks; none at the present end.
fn read(mut reader: Reader) -> Read {
    tokio::task::spawn_blocking(move || {
        let mut chunks = VecDeque::new();
        while chunks.len() < CHUNKS {
            let Some(chunk) = reader.read_some()? else {
                break;
            };
            let last = chunk.len() < CHUNK_BYTES;
            chunks.push_back(chunk);
            if last {
                break;
            }
        }
        Ok((reader, chunks))
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

impl Reader {
    /// At the present end: waits until there may be more; false when there never will.
    async fn more_comes(&mut self) -> io::Result<bool> {
        if self.last_round || self.left == Some(0) {
            return Ok(false);
        }
        let Some((watcher, end)) = &mut self.follow else {
            return Ok(false);
        };
        tokio::select! {
            changed = watcher.changed() => changed?,
            () = end => self.last_round = true,
        }
        Ok(true)
    }

    /// The next chunk; None at the present end.
    fn read_some(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == Some(0) {
            return Ok(None);
        }
        let mut out = Vec::with_capacity(self.room);
        while out.len() < CHUNK_BYTES {
            let Some(text) = self.files.next_line()? else {
                break;
            };
            let Some(line) = Line::parse(text) else {
                continue;
            };
            if self.options.stream.is_some_and(|only| only != line.stream) {
                continue;
            }
            if let Some(since) = self.options.since
                && line.time().is_some_and(|at| at < since)
            {
                continue;
            }
            if self.options.timestamps && self.at_line_start {
                out.extend_from_slice(line.timestamp);
                out.push(b' ');
            }
            out.reserve(line.content.len() + 1);
            out.extend_from_slice(line.content);
            if !line.partial {
                out.push(b'\n');
            }
            self.at_line_start = !line.partial;
        }
        if let Some(left) = &mut self.left {
            let kept = usize::try_from(*left).unwrap_or(usize::MAX).min(out.len());
            out.truncate(kept);
            *left -= kept as u64;
        }
        self.room = out.len();
        Ok((!out.is_empty()).then(|| Bytes::from(out)))
    }
}

/// The last lines of a log as text, for termination messages. Blocking; what can't be read is empty.
pub(crate) fn tail_text(path: &Path, lines_max: usize, bytes_max: usize) -> String {
    let Ok(mut files) = Files::open(path, Some(lines_max as u64), false) else {
        return String::new();
    };
    let mut out: Vec<u8> = Vec::new();
    while let Ok(Some(text)) = files.next_line() {
        let Some(line) = Line::parse(text) else {
            continue;
        };
        out.extend_from_slice(line.content);
        if !line.partial {
            out.push(b'\n');
        }
        if out.len() > 2 * bytes_max {
            out.drain(..out.len() - bytes_max);
        }
    }
    let start = out.len().saturating_sub(bytes_max);
    String::from_utf8_lossy(&out[start..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn write(path: &Path, numbers: std::ops::Range<u32>) {
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        for n in numbers {
            writeln!(file, "2026-01-01T00:00:{n:02}.5Z stdout F line {n}").unwrap();
        }
    }

    async fn text(path: &Path, options: Options) -> String {
        let stream = open(path.to_owned(), options, None).await.unwrap();
        let chunks: Vec<Bytes> = stream.map(Result::unwrap).collect().await;
        String::from_utf8(chunks.concat()).unwrap()
    }

    #[tokio::test]
    async fn options_choose_lines_across_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        write(&dir.path().join("0.log.20260101-000000"), 0..2);
        write(&dir.path().join("0.log.20260101-000001"), 2..4);
        write(&path, 4..6);
        let all: String = (0..6).map(|n| format!("line {n}\n")).collect();
        assert_eq!(text(&path, Options::default()).await, all);
        let tail = |n| Options {
            tail_lines: Some(n),
            ..Options::default()
        };
        assert_eq!(text(&path, tail(0)).await, "");
        assert_eq!(text(&path, tail(1)).await, "line 5\n");
        assert_eq!(text(&path, tail(3)).await, "line 3\nline 4\nline 5\n");
        assert_eq!(text(&path, tail(100)).await, all);
        let since = Options {
            since: Some("2026-01-01T00:00:04Z".parse().unwrap()),
            timestamps: true,
            ..Options::default()
        };
        assert_eq!(
            text(&path, since).await,
            "2026-01-01T00:00:04.5Z line 4\n2026-01-01T00:00:05.5Z line 5\n"
        );
        let limit = Options {
            limit_bytes: Some(10),
            ..Options::default()
        };
        assert_eq!(text(&path, limit).await, "line 0\nlin");
        assert_eq!(tail_text(&path, 2, 100), "line 4\nline 5\n");
        assert_eq!(tail_text(&path, 80, 7), "line 5\n");
        assert_eq!(
            text(&dir.path().join("none.log"), Options::default()).await,
            ""
        );
    }

    #[tokio::test]
    async fn lines_written_after_the_last_were_counted_are_not_among_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        write(&path, 0..4);
        let last = Options {
            tail_lines: Some(2),
            ..Options::default()
        };
        let stream = open(path.clone(), last, None).await.unwrap();
        write(&path, 4..9);
        let chunks: Vec<Bytes> = stream.map(Result::unwrap).collect().await;
        assert_eq!(chunks.concat(), b"line 2\nline 3\n");
    }

    #[tokio::test]
    async fn streams_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "2026-01-01T00:00:00Z stdout P o\n2026-01-01T00:00:00Z stderr F e1\n2026-01-01T00:00:01Z stdout F ut\n2026-01-01T00:00:02Z stderr F e2\n").unwrap();
        for (stream, wanted) in [
            (LogStream::Stdout, "out\n"),
            (LogStream::Stderr, "e1\ne2\n"),
        ] {
            let options = Options {
                stream: Some(stream),
                ..Options::default()
            };
            assert_eq!(text(&path, options).await, wanted);
        }
    }

    #[tokio::test]
    async fn partial_lines_are_joined() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "2026-01-01T00:00:00Z stdout P aa\n2026-01-01T00:00:01Z stdout F bb\nbroken\n2026-01-01T00:00:02Z stderr F \n").unwrap();
        assert_eq!(text(&path, Options::default()).await, "aabb\n\n");
        let stamped = Options {
            timestamps: true,
            ..Options::default()
        };
        assert_eq!(
            text(&path, stamped).await,
            "2026-01-01T00:00:00Z aabb\n2026-01-01T00:00:02Z \n"
        );
    }

    #[tokio::test]
    async fn follows_over_rotation_and_ends_with_the_container() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        write(&path, 0..1);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let ended: End = Box::pin(async move {
            let _ = ended.await;
        });
        let mut stream = open(path.clone(), Options::default(), Some(ended))
            .await
            .unwrap();
        let mut seen = Vec::new();
        let mut read_until = async |stream: &mut BoxStream<'static, io::Result<Bytes>>,
                                    lines: usize| {
            while seen.iter().filter(|b| **b == b'\n').count() < lines {
                let next = tokio::time::timeout(std::time::Duration::from_secs(60), stream.next());
                seen.extend_from_slice(&next.await.unwrap().unwrap().unwrap());
            }
            String::from_utf8(seen.clone()).unwrap()
        };
        read_until(&mut stream, 1).await;
        write(&path, 1..2);
        read_until(&mut stream, 2).await;
        write(&path, 2..3);
        std::fs::rename(&path, dir.path().join("0.log.20260101-000000")).unwrap();
        write(&path, 3..5);
        std::fs::rename(&path, dir.path().join("0.log.20260101-000001")).unwrap();
        write(&path, 5..6);
        read_until(&mut stream, 6).await;
        write(&path, 6..7);
        end.send(()).unwrap();
        let text = read_until(&mut stream, 7).await;
        assert_eq!(
            text,
            (0..7).map(|n| format!("line {n}\n")).collect::<String>()
        );
        let rest = tokio::time::timeout(std::time::Duration::from_secs(60), stream.next())
            .await
            .unwrap();
        assert!(rest.is_none());
    }
}
