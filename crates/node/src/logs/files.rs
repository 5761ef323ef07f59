//! The files of one log, oldest first, read line by line across rotation. Blocking.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use knarr_runtime::{LogFile, LogMoved, OpenedLog, next_log_file, take_log_files};

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

impl Files {
    /// At the beginning of all there is, or at its last `tail` lines; never more than these, unless what comes later is wanted, too.
    pub(super) fn open(path: &Path, tail: Option<u64>, later: bool) -> io::Result<Files> {
        let mut files = Files {
            path: path.to_owned(),
            current: None,
            from_start: true,
            left: tail.filter(|_| !later),
        };
        files.current = match tail {
            None => next(path, None)?,
            Some(want) => take_log_files(path, |all| last(all, want))?,
        };
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
                self.current = next(&self.path, None)?;
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
            let next = next(&self.path, Some(inode))?;
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

fn next(path: &Path, after: Option<u64>) -> io::Result<Option<Current>> {
    let next = next_log_file(path, after)?;
    Ok(next.map(|(file, inode)| (Lines::of(file), inode)))
}

/// The one with the first of the last `want` lines, at that line.
fn last(all: &[LogFile], mut want: u64) -> io::Result<Result<Option<Current>, LogMoved>> {
    let mut oldest = None;
    for one in all.iter().rev() {
        let mut file = match one.open()? {
            OpenedLog::File(file) => file,
            OpenedLog::Removed => break,
            OpenedLog::Rotated => return Ok(Err(LogMoved)),
        };
        let (start, found) = tail_start(&mut file, want)?;
        file.seek(SeekFrom::Start(start))?;
        oldest = Some((Lines::of(file), one.inode()));
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
    use std::{fs, sync::mpsc};

    fn dir() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        (dir, path)
    }

    fn rotate(path: &Path, n: usize) {
        fs::rename(path, path.with_file_name(format!("0.log.{n:08}"))).unwrap();
    }

    #[test]
    fn the_last_lines_are_those_at_the_end_though_it_is_rotated_meanwhile() {
        let (_dir, path) = dir();
        fs::write(&path, "a\n").unwrap();
        let mut tries = 0;
        let found = take_log_files(&path, |all| {
            tries += 1;
            if tries == 1 {
                rotate(&path, 0);
                assert!(last(all, 2)?.is_err(), "gone");
                fs::write(&path, "b\n")?;
                assert!(last(all, 2)?.is_err(), "another");
            }
            last(all, 2)
        });
        let (mut lines, _) = found.unwrap().unwrap();
        assert!(lines.find().unwrap());
        assert_eq!(lines.take(), b"a");
        assert_eq!(tries, 2);
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
