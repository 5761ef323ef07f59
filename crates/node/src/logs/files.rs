//! The files of one log, oldest first, read line by line across rotation. Blocking.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

const BLOCK_BYTES: u64 = 16 * 1024;

pub(super) struct Files {
    path: PathBuf,
    current: Option<(BufReader<File>, u64)>,
    line: Vec<u8>,
    /// `line` holds the beginning of a line that isn't whole yet
    torn: bool,
    /// nothing was there when the log was opened
    from_start: bool,
}

/// Rotated files (`0.log.<time>`, which sort by time) and then the log itself.
fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
        return Ok(vec![]);
    };
    let mut out = Vec::new();
    let entries = match fs::read_dir(path.parent().unwrap_or(Path::new("/"))) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(out),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        let rotated = entry
            .file_name()
            .to_str()
            .is_some_and(|n| n.strip_prefix(name).is_some_and(|r| r.starts_with('.')));
        if rotated {
            out.push(entry.path());
        }
    }
    out.sort();
    if path.exists() {
        out.push(path.to_owned());
    }
    Ok(out)
}

impl Files {
    /// At the beginning of all there is, or at its last `tail` lines.
    pub(super) fn open(path: &Path, tail: Option<u64>) -> io::Result<Files> {
        let mut files = Files {
            path: path.to_owned(),
            current: None,
            line: Vec::new(),
            torn: false,
            from_start: true,
        };
        let all = list(path)?;
        let Some(mut want) = tail else {
            files.current = first(&all)?;
            files.from_start = files.current.is_none();
            return Ok(files);
        };
        for (index, one) in all.iter().enumerate().rev() {
            let mut file = match File::open(one) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let (start, found) = tail_start(&mut file, want)?;
            if found >= want || index == 0 {
                let inode = file.metadata()?.ino();
                file.seek(SeekFrom::Start(start))?;
                files.current = Some((BufReader::new(file), inode));
                files.from_start = false;
                break;
            }
            want -= found;
        }
        Ok(files)
    }

    /// The next whole line without its newline; None at the present end (later there may be more).
    pub(super) fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        if !self.torn {
            self.line.clear();
        }
        loop {
            let Some((reader, inode)) = &mut self.current else {
                if !self.from_start {
                    return Ok(None);
                }
                self.current = first(&list(&self.path)?)?;
                if self.current.is_none() {
                    return Ok(None);
                }
                self.from_start = false;
                continue;
            };
            reader.read_until(b'\n', &mut self.line)?;
            if self.line.last() == Some(&b'\n') {
                self.line.pop();
                self.torn = false;
                return Ok(Some(&self.line));
            }
            self.torn = !self.line.is_empty();
            let inode = *inode;
            // At its end: has it been rotated away?
            let all = list(&self.path)?;
            let inodes: Vec<Option<u64>> = all
                .iter()
                .map(|p| fs::metadata(p).ok().map(|m| m.ino()))
                .collect();
            let next = match inodes.iter().position(|i| *i == Some(inode)) {
                Some(here) => here + 1,
                None => 0,
            };
            if next >= all.len() {
                return Ok(None);
            }
            // A last write may have come between the read and the rotation.
            if let Some((reader, _)) = &mut self.current
                && reader.read_until(b'\n', &mut self.line)? > 0
            {
                if self.line.last() == Some(&b'\n') {
                    self.line.pop();
                    self.torn = false;
                    return Ok(Some(&self.line));
                }
                continue;
            }
            self.line.clear();
            self.torn = false;
            self.current = first(&all[next..])?;
        }
    }
}

/// The first of them that can still be opened.
fn first(paths: &[PathBuf]) -> io::Result<Option<(BufReader<File>, u64)>> {
    for path in paths {
        match File::open(path) {
            Ok(file) => {
                let inode = file.metadata()?.ino();
                return Ok(Some((BufReader::new(file), inode)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
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
