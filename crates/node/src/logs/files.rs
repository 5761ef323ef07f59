//! The files of one log, oldest first, read line by line across rotation. Blocking.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::lines::Lines;

const BLOCK_BYTES: u64 = 16 * 1024;

pub(super) struct Files {
    path: PathBuf,
    current: Option<Current>,
    /// nothing was there when the log was opened
    from_start: bool,
    /// lines that may still be read: what is written after the last ones were counted is not theirs
    left: Option<u64>,
}

/// A reader that a writer's rotations have overtaken so often in a row is told so. Rotations are megabytes apart.
const TRIES: usize = 100;

/// One file as it was when they were listed.
struct Entry {
    path: PathBuf,
    inode: u64,
}

/// What became of a listed file.
enum Opened {
    File(File),
    /// it was too old to be kept
    Removed,
    /// it's another one by now: rotated since
    Rotated,
}

impl Entry {
    fn open(&self, live: &Path) -> io::Result<Opened> {
        match File::open(&self.path) {
            Ok(file) if file.metadata()?.ino() == self.inode => Ok(Opened::File(file)),
            Ok(_) => Ok(Opened::Rotated),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(if self.path == live {
                Opened::Rotated
            } else {
                Opened::Removed
            }),
            Err(error) => Err(error),
        }
    }
}

/// Takes something from the listed files; again whenever one of them was rotated meanwhile, so that none is passed over.
fn taken<T>(
    path: &Path,
    mut take: impl FnMut(&[Entry]) -> io::Result<Result<T, Moved>>,
) -> io::Result<T> {
    for _ in 0..TRIES {
        if let Some(all) = list(path)?
            && let Ok(found) = take(&all)?
        {
            return Ok(found);
        }
    }
    Err(io::Error::other(
        "the log is rotated faster than it can be read",
    ))
}

/// The files changed while they were looked at.
struct Moved;

fn inode(path: &Path) -> io::Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Rotated files (`0.log.<time>`, which sort by time) and then the log itself. None when it was rotated meanwhile: a file has
/// the log's own name only once, so the folder stood still between two looks that find the same one there. It is held open
/// between them: no other gets its inode.
fn list(path: &Path) -> io::Result<Option<Vec<Entry>>> {
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
        return Ok(Some(vec![]));
    };
    let held = match File::open(path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let live = match &held {
        Some(file) => Some(file.metadata()?.ino()),
        None => None,
    };
    let mut names = Vec::new();
    let entries = match fs::read_dir(path.parent().unwrap_or(Path::new("/"))) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(vec![])),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        let rotated = entry
            .file_name()
            .to_str()
            .is_some_and(|n| n.strip_prefix(name).is_some_and(|r| r.starts_with('.')));
        if rotated {
            names.push(entry.path());
        }
    }
    names.sort();
    let mut out = Vec::new();
    for path in names {
        if let Some(inode) = inode(&path)? {
            out.push(Entry { path, inode });
        }
    }
    if inode(path)? != live {
        return Ok(None);
    }
    if let Some(inode) = live {
        let path = path.to_owned();
        out.push(Entry { path, inode });
    }
    Ok(Some(out))
}

impl Files {
    /// At the beginning of all there is, or at its last `tail` lines; never more than these, unless what comes later is wanted, too.
    pub(super) fn open(path: &Path, tail: Option<u64>, later: bool) -> io::Result<Files> {
        let mut files = Files {
            path: path.to_owned(),
            current: None,
            from_start: true,
            left: tail.filter(|_| !later),
        };
        let Some(want) = tail else {
            files.current = taken(path, |all| first(all, path))?;
            files.from_start = files.current.is_none();
            return Ok(files);
        };
        files.current = taken(path, |all| last(all, path, want))?;
        files.from_start = files.current.is_none();
        Ok(files)
    }

    /// The next whole line without its newline; None at the present end (later there may be more).
    pub(super) fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        if self.left == Some(0) || !self.find_line()? {
            return Ok(None);
        }
        self.left = self.left.map(|left| left - 1);
        Ok(self.current.as_mut().map(|(lines, _)| lines.take()))
    }

    /// Finds the next whole line of the current file, or of the one after it; false at the present end.
    fn find_line(&mut self) -> io::Result<bool> {
        loop {
            let Some((lines, inode)) = &mut self.current else {
                if !self.from_start {
                    return Ok(false);
                }
                self.current = taken(&self.path, |all| first(all, &self.path))?;
                if self.current.is_none() {
                    return Ok(false);
                }
                self.from_start = false;
                continue;
            };
            if lines.find()? {
                return Ok(true);
            }
            let inode = *inode;
            // At its end: has it been rotated away?
            let next = taken(&self.path, |all| {
                let next = match all.iter().position(|entry| entry.inode == inode) {
                    Some(here) => here + 1,
                    None => 0,
                };
                first(&all[next..], &self.path)
            })?;
            if next.is_none() {
                return Ok(false);
            }
            // A last write may have come between the read and the rotation.
            if lines.find()? {
                return Ok(true);
            }
            self.current = next;
        }
    }
}

type Current = (Lines<File>, u64);

/// The first of them that is still there.
fn first(all: &[Entry], live: &Path) -> io::Result<Result<Option<Current>, Moved>> {
    for entry in all {
        match entry.open(live)? {
            Opened::File(file) => return Ok(Ok(Some((Lines::of(file), entry.inode)))),
            Opened::Removed => {}
            Opened::Rotated => return Ok(Err(Moved)),
        }
    }
    Ok(Ok(None))
}

/// The one with the first of the last `want` lines, at that line.
fn last(all: &[Entry], live: &Path, mut want: u64) -> io::Result<Result<Option<Current>, Moved>> {
    let mut oldest = None;
    for entry in all.iter().rev() {
        let mut file = match entry.open(live)? {
            Opened::File(file) => file,
            Opened::Removed => break,
            Opened::Rotated => return Ok(Err(Moved)),
        };
        let (start, found) = tail_start(&mut file, want)?;
        file.seek(SeekFrom::Start(start))?;
        oldest = Some((Lines::of(file), entry.inode));
        if found >= want {
            break;
        }
        want -= found;
    }
    Ok(Ok(oldest))
}

/// Where the last `want` lines begin, and how many lines there are from there.
fn tail_start(file: &mut File, want: u64) -> io::Result<(u64, u64)> {
    let length = file.metadata()?.len();
    if want == 0 {
        return Ok((length, 0));
    }
    let mut block = vec![0u8; BLOCK_BYTES as usize];
    let mut end = length;
    let mut found = 0;
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES);
        let size = (end - start) as usize;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..size])?;
        for at in (0..size).rev() {
            let offset = start + at as u64;
            if block[at] == b'\n' && offset + 1 < length {
                found += 1;
                if found == want {
                    return Ok((offset + 1, found));
                }
            }
        }
        end = start;
    }
    // The first line has no newline before it.
    Ok((0, found + u64::from(length > 0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn dir() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        (dir, path)
    }

    fn rotate(path: &Path, n: usize) {
        fs::rename(path, path.with_file_name(format!("0.log.{n:08}"))).unwrap();
    }

    #[test]
    fn what_was_rotated_after_the_listing_is_not_passed_over() {
        type Take = fn(&[Entry], &Path) -> io::Result<Result<Option<Current>, Moved>>;
        let last: Take = |all, path| last(all, path, 2);
        for (name, take) in [("first", first as Take), ("last", last)] {
            let (_dir, path) = dir();
            fs::write(&path, "a\n").unwrap();
            let all = list(&path).unwrap().unwrap();
            rotate(&path, 0);
            assert!(take(&all, &path).unwrap().is_err(), "{name}: gone");
            fs::write(&path, "b\n").unwrap();
            assert!(take(&all, &path).unwrap().is_err(), "{name}: another");
            let all = list(&path).unwrap().unwrap();
            let (mut lines, _) = take(&all, &path).ok().unwrap().ok().unwrap().unwrap();
            assert!(lines.find().unwrap(), "{name}");
            assert_eq!(lines.take(), b"a", "{name}");
        }
    }

    #[test]
    fn what_was_too_old_to_be_kept_is_passed_over() {
        let (_dir, path) = dir();
        fs::write(&path, "a\n").unwrap();
        rotate(&path, 0);
        fs::write(&path, "b\n").unwrap();
        let all = list(&path).unwrap().unwrap();
        fs::remove_file(&all[0].path).unwrap();
        let (mut lines, _) = first(&all, &path).unwrap().ok().unwrap().unwrap();
        assert!(lines.find().unwrap());
        assert_eq!(lines.take(), b"b");
    }

    #[test]
    fn every_line_is_read_while_files_are_rotated() {
        const ROUNDS: usize = 200;
        let (_dir, path) = dir();
        let mut files = Files::open(&path, None, true).unwrap();
        let (seen, wait) = mpsc::channel();
        let writer = std::thread::spawn(move || {
            for round in 0..ROUNDS {
                for n in 3 * round..3 * round + 3 {
                    fs::write(&path, format!("{n}\n")).unwrap();
                    rotate(&path, n);
                }
                let _ = wait.recv();
            }
        });
        let mut next = 0;
        while next < 3 * ROUNDS {
            let Some(line) = files.next_line().unwrap() else {
                assert!(!writer.is_finished(), "{next} was passed over");
                continue;
            };
            assert_eq!(line, next.to_string().as_bytes());
            next += 1;
            if next % 3 == 0 {
                let _ = seen.send(());
            }
        }
        writer.join().unwrap();
    }
}
