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
        Some(text) => Some(
            text.parse::<usize>()
                .map_err(|_| Error::Input(format!("--tail {text}: expected a number, or all")))?,
        ),
    };
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
            match tail {
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
        (true, Some((file, at))) => follow(home, record, flags, file, at).map_err(io(context)),
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
        at += copy(&mut file, at, &mut pending, flags)?;
        // the file may have been put aside, and others begun
        if let Some((newer, its)) = next_log_file(&log, Some(inode))? {
            copy(&mut file, at, &mut pending, flags)?;
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
) -> std::io::Result<u64> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    pending.extend_from_slice(&bytes);
    while let Some(end) = pending.iter().position(|b| *b == b'\n') {
        show(&pending[..end], flags.timestamps);
        pending.drain(..=end);
    }
    Ok(bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

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
