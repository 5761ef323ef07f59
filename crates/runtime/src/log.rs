//! The container's log in CRI format, written by the shim.
//!
//! SOURCE: kubernetes/design-proposals, kubelet-cri-logging: `<RFC3339Nano> <stream> <tags> <content>`; containerd splits lines longer than 16 KiB into parts tagged P.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::log_files;

/// Longest piece of a line in one log line, in bytes.
pub(crate) const PIECE_MAX: usize = 16 * 1024;

/// A stream's bytes that have no end of line yet.
pub(crate) struct Lines {
    stream: &'static str,
    held: Box<[u8; PIECE_MAX]>,
    len: usize,
}

impl Lines {
    pub(crate) fn new(stream: &'static str) -> Lines {
        Lines {
            stream,
            held: Box::new([0; PIECE_MAX]),
            len: 0,
        }
    }

    /// The free end of the buffer, to read into; never empty.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.held[self.len..]
    }

    /// `n` bytes were put into `room`: writes what is whole.
    pub(crate) fn filled(&mut self, n: usize, log: &mut Log) {
        let end = self.len + n;
        let mut start = 0;
        let mut search = self.len;
        while let Some(at) = self.held[search..end].iter().position(|b| *b == b'\n') {
            let newline = search + at;
            log.piece(self.stream, true, &self.held[start..newline]);
            start = newline + 1;
            search = start;
        }
        if start == 0 && end == PIECE_MAX {
            log.piece(self.stream, false, &self.held[..end]);
            self.len = 0;
            return;
        }
        self.held.copy_within(start..end, 0);
        self.len = end - start;
    }

    /// The stream has ended: the unfinished line is written as a part.
    pub(crate) fn finish(&mut self, log: &mut Log) {
        if self.len > 0 {
            log.piece(self.stream, false, &self.held[..self.len]);
            self.len = 0;
        }
    }
}

/// The live file and its rotated ones. Writing never fails towards the container: when the disk is full lines are dropped, and counted.
pub(crate) struct Log {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
    bytes_max: u64,
    files_max: u32,
    dropped: u64,
    last_rotation: String,
    line: Vec<u8>,
    clock: fn() -> (u64, u32),
}

impl Log {
    /// An empty path: nothing is kept.
    pub(crate) fn open(path: &Path, bytes_max: u64, files_max: u32) -> io::Result<Log> {
        let mut log = Log {
            path: path.to_owned(),
            file: None,
            bytes: 0,
            bytes_max,
            files_max,
            dropped: 0,
            last_rotation: String::new(),
            line: Vec::new(),
            clock: now,
        };
        if !path.as_os_str().is_empty() {
            log.reopen()?;
        }
        Ok(log)
    }

    fn reopen(&mut self) -> io::Result<()> {
        let open = || {
            fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&self.path)
        };
        let file = match open() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(self.path.parent().unwrap_or(Path::new("/")))?;
                open()?
            }
            other => other?,
        };
        self.bytes = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    fn piece(&mut self, stream: &str, whole: bool, content: &[u8]) {
        if self.file.is_none() && self.path.as_os_str().is_empty() {
            return;
        }
        if self.dropped > 0 {
            let note = format!("{} log lines were dropped: the disk was full", self.dropped);
            if self.write("stderr", true, note.as_bytes()) {
                self.dropped = 0;
            }
        }
        if !self.write(stream, whole, content) {
            self.dropped += 1;
        }
    }

    fn write(&mut self, stream: &str, whole: bool, content: &[u8]) -> bool {
        let (seconds, nanos) = (self.clock)();
        self.line.clear();
        let tag = if whole { 'F' } else { 'P' };
        stamp(&mut self.line, seconds, nanos);
        let _ = write!(self.line, " {stream} {tag} ");
        self.line.extend_from_slice(content);
        self.line.push(b'\n');
        let len = self.line.len() as u64;
        if self.bytes_max > 0 && self.bytes > 0 && self.bytes + len > self.bytes_max {
            self.rotate(seconds);
        }
        if self.file.is_none() && self.reopen().is_err() {
            return false;
        }
        let Some(file) = &mut self.file else {
            return false;
        };
        match file.write_all(&self.line) {
            Ok(()) => {
                self.bytes += len;
                true
            }
            Err(_) => {
                // no torn line may stay before the next one
                let _ = file.set_len(self.bytes);
                false
            }
        }
    }

    /// Renames the live file to `path.<timestamp>` and starts a new one; then removes the oldest beyond the count.
    fn rotate(&mut self, seconds: u64) {
        let mut text = Vec::new();
        compact(&mut text, seconds);
        let mut suffix = String::from_utf8(text).unwrap_or_default();
        // SOURCE: kubelet names them `path.20060102-150405`; more than one in a second, or after the clock went back, get a
        // counter that sorts after
        let (last, n) = match self.last_rotation.split_once('.') {
            Some((last, n)) => (last, n.parse().unwrap_or(0)),
            None => (self.last_rotation.as_str(), 0u32),
        };
        if suffix.as_str() <= last {
            suffix = format!("{last}.{:06}", n + 1);
        }
        let mut target = self.path.clone().into_os_string();
        target.push(".");
        target.push(&suffix);
        if fs::rename(&self.path, &target).is_err() {
            return;
        }
        self.last_rotation = suffix;
        self.file = None;
        self.bytes = 0;
        let _ = self.reopen();
        self.prune();
    }

    fn prune(&self) {
        if self.files_max == 0 {
            return;
        }
        let Ok(old) = log_files::rotated(&self.path) else {
            return;
        };
        let keep = self.files_max.saturating_sub(1) as usize;
        let excess = old.len().saturating_sub(keep);
        for path in &old[..excess] {
            let _ = fs::remove_file(path);
        }
    }
}

fn now() -> (u64, u32) {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    (time.tv_sec as u64, time.tv_nsec as u32)
}

/// Year, month, day from days since 1970 (Howard Hinnant's civil_from_days).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, day)
}

fn stamp(out: &mut Vec<u8>, seconds: u64, nanos: u32) {
    let (y, m, d) = civil(seconds / 86_400);
    let s = seconds % 86_400;
    let _ = write!(
        out,
        "{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}.{nanos:09}Z",
        s / 3600,
        s / 60 % 60,
        s % 60
    );
}

fn compact(out: &mut Vec<u8>, seconds: u64) {
    let (y, m, d) = civil(seconds / 86_400);
    let s = seconds % 86_400;
    let _ = write!(
        out,
        "{y:04}{m:02}{d:02}-{:02}{:02}{:02}",
        s / 3600,
        s / 60 % 60,
        s % 60
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(lines: &mut Lines, log: &mut Log, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = lines.room();
            let n = room.len().min(bytes.len());
            room[..n].copy_from_slice(&bytes[..n]);
            lines.filled(n, log);
            bytes = &bytes[n..];
        }
    }

    fn fixed() -> (u64, u32) {
        (1_700_000_000, 5)
    }

    fn log_in(dir: &Path, bytes_max: u64, files_max: u32) -> Log {
        let mut log = Log::open(&dir.join("0.log"), bytes_max, files_max).unwrap();
        log.clock = fixed;
        log
    }

    #[test]
    fn lines_and_parts() {
        let long = "x".repeat(PIECE_MAX + 3);
        let cases = [
            ("two whole", "a\nbc\n".to_owned(), vec![('F', 1), ('F', 2)]),
            ("no end", "a\nbc".into(), vec![('F', 1), ('P', 2)]),
            ("empty lines", "\n\n".into(), vec![('F', 0), ('F', 0)]),
            (
                "long",
                format!("{long}\nz\n"),
                vec![('P', PIECE_MAX), ('F', 3), ('F', 1)],
            ),
            ("nothing", String::new(), vec![]),
        ];
        for (name, input, want) in cases {
            let dir = tempfile::tempdir().unwrap();
            let mut log = log_in(dir.path(), 0, 0);
            let mut lines = Lines::new("stdout");
            feed(&mut lines, &mut log, input.as_bytes());
            lines.finish(&mut log);
            let text = fs::read_to_string(dir.path().join("0.log")).unwrap();
            let got: Vec<(char, usize)> = text
                .lines()
                .map(|l| {
                    let rest = l
                        .strip_prefix("2023-11-14T22:13:20.000000005Z stdout ")
                        .unwrap();
                    (rest.chars().next().unwrap(), rest.len() - 2)
                })
                .collect();
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn rotates_by_size_and_keeps_the_count_and_every_kept_line_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log_in(dir.path(), 200, 3);
        let mut lines = Lines::new("stderr");
        for i in 0..100 {
            feed(&mut lines, &mut log, format!("line {i}\n").as_bytes());
        }
        let mut names: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(names[0], "0.log");
        let mut seen = Vec::new();
        for name in names[1..].iter().chain([&names[0]]) {
            let text = fs::read_to_string(dir.path().join(name)).unwrap();
            assert!(text.len() <= 200, "{name} has {} bytes", text.len());
            seen.extend(
                text.lines()
                    .map(|l| l.rsplit(' ').next().unwrap().parse::<u32>().unwrap()),
            );
        }
        let first = seen[0];
        assert_eq!(seen, (first..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_clock_that_went_back_does_not_change_the_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log_in(dir.path(), 1, 9);
        let mut lines = Lines::new("stdout");
        for (clock, line) in [(20, "a"), (20, "b"), (7, "c"), (8, "d"), (30, "e")] {
            log.clock = match clock {
                20 => || (20, 0),
                7 => || (7, 0),
                8 => || (8, 0),
                _ => || (30, 0),
            };
            feed(&mut lines, &mut log, format!("{line}\n").as_bytes());
        }
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        names.sort();
        let text: String = names[1..]
            .iter()
            .map(|name| fs::read_to_string(name).unwrap())
            .collect();
        let order: String = text.lines().filter_map(|l| l.chars().last()).collect();
        assert_eq!(order, "abcd", "{names:?}");
    }

    #[test]
    fn a_log_that_was_removed_or_full_does_not_stop_the_container() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(Path::new("/dev/full"), 0, 0).unwrap();
        let mut lines = Lines::new("stdout");
        feed(&mut lines, &mut log, b"a\nb\n");
        assert_eq!(log.dropped, 2);
        log.path = dir.path().join("again");
        log.reopen().unwrap();
        feed(&mut lines, &mut log, b"c\n");
        let text = fs::read_to_string(dir.path().join("again")).unwrap();
        assert!(text.contains("2 log lines were dropped"), "{text}");
        assert!(text.ends_with("stdout F c\n"), "{text}");
    }

    #[test]
    fn dates() {
        for (seconds, want) in [
            (0, "19700101-000000"),
            (951_782_400, "20000229-000000"),
            (4_102_444_799, "20991231-235959"),
        ] {
            let mut out = Vec::new();
            compact(&mut out, seconds);
            assert_eq!(String::from_utf8(out).unwrap(), want);
        }
    }
}
