//! The files of one log as its shim leaves them: those that were put aside, and the one that is written. They may be rotated
//! at any moment while others read them, so each is known by its inode. Blocking.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A reader that a writer's rotations have overtaken so often in a row is told so. Rotations are megabytes apart.
const TRIES: usize = 100;

/// One file as it was when they were listed.
pub struct LogFile {
    path: PathBuf,
    inode: u64,
    /// the one that is written has one name all the time, but is another after each rotation
    live: bool,
}

/// What became of a listed file.
pub enum OpenedLog {
    File(File),
    /// it was too old to be kept
    Removed,
    /// it's another one by now: rotated since
    Rotated,
}

/// The files changed while they were looked at.
pub struct LogMoved;

impl LogFile {
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// # Errors
    /// When it's there and can't be opened.
    pub fn open(&self) -> io::Result<OpenedLog> {
        match found(File::open(&self.path))? {
            Some(file) if file.metadata()?.ino() == self.inode => Ok(OpenedLog::File(file)),
            Some(_) => Ok(OpenedLog::Rotated),
            None if self.live => Ok(OpenedLog::Rotated),
            None => Ok(OpenedLog::Removed),
        }
    }
}

/// Takes something from the files of `log`, the oldest first; again whenever one of them was rotated meanwhile, so that none is
/// passed over. None are listed of a log that was never made.
///
/// # Errors
/// What `take` fails with; when they can't be listed, or are rotated too fast.
pub fn take_log_files<T>(
    log: &Path,
    mut take: impl FnMut(&[LogFile]) -> io::Result<Result<T, LogMoved>>,
) -> io::Result<T> {
    for _ in 0..TRIES {
        if let Some(all) = list(log)?
            && let Ok(taken) = take(&all)?
        {
            return Ok(taken);
        }
    }
    Err(io::Error::other(
        "the log is rotated faster than it can be read",
    ))
}

/// The file that was begun after the one with this inode (which may have been removed by now, but must be held open, so that
/// the inode is nobody else's); without one, the first there is. With its own inode; None: there is none yet.
///
/// # Errors
/// As [`take_log_files`].
pub fn next_log_file(log: &Path, after: Option<u64>) -> io::Result<Option<(File, u64)>> {
    take_log_files(log, |all| {
        let here = all.iter().position(|file| Some(file.inode) == after);
        first(&all[here.map_or(0, |here| here + 1)..])
    })
}

/// The first of them that is still there.
fn first(all: &[LogFile]) -> io::Result<Result<Option<(File, u64)>, LogMoved>> {
    for one in all {
        match one.open()? {
            OpenedLog::File(file) => return Ok(Ok(Some((file, one.inode)))),
            OpenedLog::Removed => {}
            OpenedLog::Rotated => return Ok(Err(LogMoved)),
        }
    }
    Ok(Ok(None))
}

/// The files that were put aside (`log.<time>`, which sort by time), the oldest first.
pub(crate) fn rotated(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str())) else {
        return Ok(vec![]);
    };
    let Some(entries) = found(fs::read_dir(dir))? else {
        return Ok(vec![]);
    };
    let is_rotated = |path: &PathBuf| {
        let rest = path
            .file_name()
            .and_then(|n| n.to_str()?.strip_prefix(name)?.strip_prefix('.'));
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let mut all: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(is_rotated)
        .collect();
    all.sort();
    Ok(all)
}

/// Rotated files and then the log itself. None when it was rotated meanwhile: a file has the log's own name only once, so the
/// folder stood still between two looks that find the same one there. It is held open between them: no other gets its inode.
fn list(log: &Path) -> io::Result<Option<Vec<LogFile>>> {
    let held = found(File::open(log))?;
    let live = match &held {
        Some(file) => Some(file.metadata()?.ino()),
        None => None,
    };
    let mut all = Vec::new();
    for path in rotated(log)? {
        if let Some(inode) = inode(&path)? {
            all.push(LogFile {
                path,
                inode,
                live: false,
            });
        }
    }
    if inode(log)? != live {
        return Ok(None);
    }
    all.extend(live.map(|inode| LogFile {
        path: log.to_owned(),
        inode,
        live: true,
    }));
    Ok(Some(all))
}

fn inode(path: &Path) -> io::Result<Option<u64>> {
    Ok(found(fs::metadata(path))?.map(|m| m.ino()))
}

/// None: it isn't there.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn dir() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        (dir, path)
    }

    fn rotate(path: &Path, n: usize) {
        fs::rename(path, path.with_file_name(format!("0.log.{n:08}"))).unwrap();
    }

    fn text(mut file: &File) -> String {
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn rotated_files_come_first() {
        let (dir, path) = dir();
        let names = ["20260102", "20260101.000001", "20260101", "gz"];
        for name in names.map(|n| format!("0.log.{n}")) {
            fs::write(dir.path().join(name), "").unwrap();
        }
        for name in ["0.log", "0.lock", "10.log"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let all = list(&path).unwrap().unwrap();
        let names: Vec<_> = all
            .iter()
            .map(|f| f.path.file_name().unwrap().to_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "0.log.20260101",
                "0.log.20260101.000001",
                "0.log.20260102",
                "0.log"
            ]
        );
    }

    #[test]
    fn a_log_that_was_never_made_has_no_files() {
        let (_dir, path) = dir();
        for path in [path.as_path(), &path.join("0.log")] {
            assert!(next_log_file(path, None).unwrap().is_none(), "{path:?}");
        }
    }

    #[test]
    fn what_was_rotated_after_the_listing_is_not_passed_over() {
        let (_dir, path) = dir();
        fs::write(&path, "a\n").unwrap();
        let all = list(&path).unwrap().unwrap();
        rotate(&path, 0);
        assert!(first(&all).unwrap().is_err(), "gone");
        fs::write(&path, "b\n").unwrap();
        assert!(first(&all).unwrap().is_err(), "another");
        let (file, inode) = next_log_file(&path, None).unwrap().unwrap();
        assert_eq!(text(&file), "a\n");
        let (file, _) = next_log_file(&path, Some(inode)).unwrap().unwrap();
        assert_eq!(text(&file), "b\n");
    }

    #[test]
    fn what_was_too_old_to_be_kept_is_passed_over() {
        let (_dir, path) = dir();
        fs::write(&path, "a\n").unwrap();
        rotate(&path, 0);
        fs::write(&path, "b\n").unwrap();
        let all = list(&path).unwrap().unwrap();
        fs::remove_file(&all[0].path).unwrap();
        let (file, _) = first(&all).unwrap().ok().unwrap().unwrap();
        assert_eq!(text(&file), "b\n");
    }

    /// A reader that takes one file after the other finds each once, however often the log is rotated meanwhile.
    #[test]
    fn no_file_is_passed_over() {
        // fewer than tries: a reader is not overtaken as often
        const KEPT: usize = TRIES - 10;
        let (dir, path) = dir();
        fs::write(&path, "0").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..KEPT {
                    let whole = dir.path().join("new");
                    fs::write(&whole, number.to_string()).unwrap();
                    rotate(&path, number);
                    fs::rename(whole, &path).unwrap();
                }
            });
            let (mut file, mut inode) = next_log_file(&path, None).unwrap().unwrap();
            let mut at = 0;
            assert_eq!(text(&file), "0");
            while at + 1 < KEPT {
                if let Some((next, its)) = next_log_file(&path, Some(inode)).unwrap() {
                    at += 1;
                    assert_eq!(text(&next), at.to_string());
                    (file, inode) = (next, its);
                }
            }
            drop(file);
        });
    }
}
