//! What a stand-alone container has written, from its log in CRI's form.

use super::{
    life::inner_id,
    record::{Home, Record},
};
use crate::error::{Error, io};
use knarr_runtime::{LogMoved, OpenedLog, Runtime, State, next_log_file, take_log_files};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// What is asked for.
#[derive(clap::Args, Clone, Default)]
pub struct LogsFlags {
    /// Go on with what comes
    #[arg(short, long)]
    pub follow: bool,
    /// The last lines only
    #[arg(short = 'n', long, value_name = "N")]
    pub tail: Option<String>,
    /// With the time of each line
    #[arg(short, long)]
    pub timestamps: bool,
    /// Lines from then on: a time (2026-01-02T13:23:37Z), or how long ago (42m)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Lines before that
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// There for scripts: nothing is told of where lines come from
    #[arg(long, hide = true)]
    pub details: bool,
}

/// A moment as Docker's flags take it. SOURCE: moby `api/types/time/timestamp.go`
///
/// # Errors
/// When it is none.
pub fn moment(text: &str) -> Result<jiff::Timestamp, Error> {
    let bad = || {
        Error::Input(format!(
            "invalid value for time: {text:?}: use e.g. 42m, or 2026-01-02T13:23:37Z"
        ))
    };
    let now = jiff::Timestamp::now();
    if let Ok(seconds) = text.parse::<f64>() {
        let nanoseconds = (seconds * 1e9) as i128;
        return jiff::Timestamp::from_nanosecond(nanoseconds).map_err(|_| bad());
    }
    if text.starts_with(|c: char| c.is_ascii_digit()) && !text.contains(['-', ':']) {
        let ago: jiff::SignedDuration = text.parse().map_err(|_| bad())?;
        return now.checked_sub(ago).map_err(|_| bad());
    }
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(at);
    }
    let civil = text.parse::<jiff::civil::DateTime>().map_err(|_| bad())?;
    let zoned = civil
        .to_zoned(jiff::tz::TimeZone::system())
        .map_err(|_| bad())?;
    Ok(zoned.timestamp())
}

/// Between which moments lines are asked for.
#[derive(Clone, Copy, Default)]
struct Span {
    since: Option<jiff::Timestamp>,
    until: Option<jiff::Timestamp>,
}

impl Span {
    fn has(&self, time: &str) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        let Ok(at) = time.parse::<jiff::Timestamp>() else {
            return true;
        };
        self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at <= until)
    }
}

/// One entry of the log.
struct Piece<'a> {
    time: &'a str,
    error: bool,
    /// The line goes on in the next piece.
    partial: bool,
    content: &'a [u8],
}

/// `<time> stdout|stderr F|P <content>`
fn piece(line: &[u8]) -> Option<Piece<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let error = parts.next()? == b"stderr";
    let partial = parts.next()? == b"P";
    Some(Piece {
        time,
        error,
        partial,
        content: parts.next().unwrap_or_default(),
    })
}

/// The rotated files, the oldest first, and then the live one: all that there were at one moment.
fn files(log: &Path) -> std::io::Result<Vec<fs::File>> {
    take_log_files(log, |all| {
        let mut found = Vec::new();
        for one in all {
            match one.open()? {
                OpenedLog::File(file) => found.push(file),
                OpenedLog::Removed => {}
                OpenedLog::Rotated => return Ok(Err(LogMoved)),
            }
        }
        Ok(Ok(found))
    })
}

/// Prints them; with `follow` until the container has ended. Blocking.
pub fn print(home: &Home, record: &Record, flags: &LogsFlags) -> Result<(), Error> {
    let log = home.log(&record.id);
    let tail = match flags.tail.as_deref() {
        None | Some("all") => None,
        // SOURCE: moby `daemon/logs.go`: what is no number of lines is all of them
        Some(text) => text.parse::<usize>().ok(),
    };
    let span = Span {
        since: flags.since.as_deref().map(moment).transpose()?,
        until: flags.until.as_deref().map(moment).transpose()?,
    };
    if record.no_log {
        return Err(Error::Failed(
            "configured logging driver does not support reading".into(),
        ));
    }
    let context = log.display().to_string();
    let mut kept = std::collections::VecDeque::new();
    let mut live = None;
    for file in files(&log).map_err(io(&context))? {
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).map_err(io(&context))? > 0 {
            if line.last() != Some(&b'\n') {
                break; // still being written
            }
            line.pop();
            let asked = piece(&line).is_some_and(|piece| span.has(piece.time));
            match tail {
                _ if !asked => {}
                None => show(&line, flags.timestamps),
                Some(most) => {
                    kept.push_back(line.clone());
                    if kept.len() > most {
                        kept.pop_front();
                    }
                }
            }
            line.clear();
        }
        let at = reader.stream_position().map_err(io(&context))? - line.len() as u64;
        live = Some((reader.into_inner(), at));
    }
    for line in kept {
        show(&line, flags.timestamps);
    }
    match (flags.follow, live) {
        (true, Some((file, at))) => {
            follow(home, record, flags, span, file, at).map_err(io(context))
        }
        _ => Ok(()),
    }
}

fn show(line: &[u8], timestamps: bool) {
    let Some(piece) = piece(line) else { return };
    let mut text = Vec::new();
    if timestamps {
        text.extend_from_slice(piece.time.as_bytes());
        text.push(b' ');
    }
    text.extend_from_slice(piece.content);
    if !piece.partial {
        text.push(b'\n');
    }
    let _ = match piece.error {
        true => std::io::stderr().write_all(&text),
        false => std::io::stdout()
            .write_all(&text)
            .and_then(|()| std::io::stdout().flush()),
    };
}

/// Prints what is added, told by inotify, until the container has ended.
fn follow(
    home: &Home,
    record: &Record,
    flags: &LogsFlags,
    span: Span,
    mut file: fs::File,
    mut at: u64,
) -> std::io::Result<()> {
    use rustix::fs::inotify;
    let root = home.container(&record.id).join("runtime");
    let told = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    let log = home.log(&record.id);
    let log_dir = log.parent().unwrap_or(&log);
    let changes =
        inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&told, log_dir, changes | inotify::WatchFlags::DELETE_SELF)?;
    // the exit is written here
    let inner = root.join("containers").join(inner_id(record));
    let _ = inotify::add_watch(&told, &inner, changes | inotify::WatchFlags::DELETE_SELF);
    let mut pending = Vec::new();
    let mut inode = file.metadata()?.ino();
    loop {
        let lives = matches!(
            Runtime::peek(&root, &inner_id(record)),
            Some(State::Running { .. } | State::Created)
        );
        at += copy(&mut file, at, &mut pending, flags, span)?;
        // the file may have been put aside, and others begun
        if let Some((newer, its)) = next_log_file(&log, Some(inode))? {
            copy(&mut file, at, &mut pending, flags, span)?;
            pending.clear();
            (file, inode, at) = (newer, its, 0);
            continue;
        }
        if !lives {
            return Ok(());
        }
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        inotify::Reader::new(&told, &mut buffer).next()?;
    }
}

fn copy(
    file: &mut fs::File,
    at: u64,
    pending: &mut Vec<u8>,
    flags: &LogsFlags,
    span: Span,
) -> std::io::Result<u64> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    pending.extend_from_slice(&bytes);
    while let Some(end) = pending.iter().position(|b| *b == b'\n') {
        if piece(&pending[..end]).is_some_and(|piece| span.has(piece.time)) {
            show(&pending[..end], flags.timestamps);
        }
        pending.drain(..=end);
    }
    Ok(bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_spans() {
        let second = |text: &str| moment(text).ok().map(|at| at.as_second());
        assert_eq!(second("1136073600.5"), Some(1_136_073_600));
        assert_eq!(second("2006-01-01T00:00:00Z"), Some(1_136_073_600));
        assert_eq!(second("2006-01-01T02:00:00+02:00"), Some(1_136_073_600));
        assert!(second("2006-01-01T00:00:00").is_some() && second("2006-01-01").is_some());
        let ago = jiff::Timestamp::now().as_second() - second("10m").unwrap();
        assert!((600..700).contains(&ago), "{ago}");
        assert!(second("soon").is_none() && second("").is_none());
        let span = Span {
            since: Some("2020-01-01T00:00:00Z".parse().unwrap()),
            until: Some("2020-01-02T00:00:00Z".parse().unwrap()),
        };
        for (time, inside) in [
            ("2019-12-31T23:59:59.9Z", false),
            ("2020-01-01T12:00:00.123456789Z", true),
            ("2020-01-02T00:00:00.1Z", false),
        ] {
            assert_eq!(span.has(time), inside, "{time}");
        }
    }

    #[test]
    fn lines_of_the_log() {
        let read = |line: &'static str| {
            piece(line.as_bytes()).map(|p| {
                (
                    p.error,
                    p.partial,
                    String::from_utf8_lossy(p.content).into_owned(),
                )
            })
        };
        assert_eq!(read("t stdout F a b"), Some((false, false, "a b".into())));
        assert_eq!(read("t stderr P a"), Some((true, true, "a".into())));
        assert_eq!(read("t stdout F "), Some((false, false, String::new())));
        assert_eq!(read("odd"), None);
    }
}
