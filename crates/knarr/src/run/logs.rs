//! What a stand-alone container has written, from its log in CRI's form.

use super::{
    life::inner_id,
    record::{Home, Record},
};
use crate::error::{Error, io};
use knarr_runtime::{Runtime, State};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
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

/// A writer's rotations overtake a reader this often in a row at most before it takes what it has found. They are far apart.
const TRIES: usize = 100;

/// The rotated files, the oldest first, and then the live one: all that there were at one moment.
fn files(log: &Path) -> std::io::Result<Vec<fs::File>> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str())) else {
        return Ok(vec![]);
    };
    let mut found = Vec::new();
    for _ in 0..TRIES {
        // While it is open no other file is taken for it, and a file has the live name only once: the folder stood still
        // between two looks that find the same one there.
        let live = open(log)?;
        found.clear();
        for path in rotated(dir, name) {
            // the oldest may have been removed
            found.extend(open(&path)?);
        }
        let now = open(log)?;
        let still = match (&live, &now) {
            (Some(live), Some(now)) => same(live, now)?,
            (None, None) => true,
            _ => false,
        };
        found.extend(live);
        if still {
            break;
        }
    }
    Ok(found)
}

/// Its paths, the oldest first.
fn rotated(dir: &Path, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let one = |path: &PathBuf| {
        let rest = path
            .file_name()
            .and_then(|n| n.to_str()?.strip_prefix(name)?.strip_prefix('.'));
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let mut all: Vec<PathBuf> = entries.map(|e| e.path()).filter(one).collect();
    all.sort();
    all
}

/// None: there is none (any more).
fn open(path: &Path) -> std::io::Result<Option<fs::File>> {
    match fs::File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
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
    loop {
        let lives = matches!(
            Runtime::peek(&root, &inner_id(record)),
            Some(State::Running { .. } | State::Created)
        );
        at += copy(&mut file, at, &mut pending, flags)?;
        // the file may have been put aside, and others begun
        if let Some(newer) = open(&log)?
            && !same(&file, &newer)?
        {
            copy(&mut file, at, &mut pending, flags)?;
            pending.clear();
            (file, at) = (after(&file, files(&log)?)?.unwrap_or(newer), 0);
            continue;
        }
        if !lives {
            return Ok(());
        }
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        inotify::Reader::new(&told, &mut buffer).next()?;
    }
}

/// Of all files the one that was begun after this one, which may have been removed by now.
fn after(this: &fs::File, all: Vec<fs::File>) -> std::io::Result<Option<fs::File>> {
    let mut next = 0;
    for (index, one) in all.iter().enumerate() {
        if same(this, one)? {
            next = index + 1;
        }
    }
    Ok(all.into_iter().nth(next))
}

fn same(a: &fs::File, b: &fs::File) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (a, b) = (a.metadata()?, b.metadata()?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
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

    #[test]
    fn rotated_files_come_first() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["log", "log.20260102", "log.20260101", "lock", "log.gz"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let names: Vec<String> = rotated(dir.path(), "log")
            .iter()
            .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["log.20260101", "log.20260102"]);
    }

    /// A reader that takes one file after the other finds each line once, however often the log is rotated meanwhile.
    #[test]
    fn no_file_is_passed_over() {
        // fewer than tries: a reader is not overtaken as often
        const KEPT: usize = 90;
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, "0").unwrap();
        let read = |mut file: &fs::File| {
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            text.parse::<usize>().unwrap()
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..KEPT {
                    let whole = dir.path().join("new");
                    fs::write(&whole, number.to_string()).unwrap();
                    let old = dir.path().join(format!("log.{number:06}"));
                    fs::rename(&log, old).unwrap();
                    fs::rename(whole, &log).unwrap();
                }
            });
            let mut file = files(&log).unwrap().swap_remove(0);
            let mut at = read(&file);
            while at + 1 < KEPT {
                if let Some(next) = after(&file, files(&log).unwrap()).unwrap() {
                    file = next;
                    let number = read(&file);
                    assert_eq!(number, at + 1);
                    at = number;
                }
            }
        });
    }
}
