//! The log file, and its predecessors: `audit.log`, `audit-2026-01-02T03-04-05.678.log`, … (the names upstream's logger gives).

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

const STAMP: &str = "%Y-%m-%dT%H-%M-%S.%3f";
const MEGABYTE: u64 = 1024 * 1024;

/// Where the log goes and how much of it is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// Size at which a new file is begun, in megabytes; 0 = never.
    pub max_megabytes: u64,
    /// Old files kept; 0 = all.
    pub max_backups: usize,
    /// Days that old files are kept; 0 = for ever.
    pub max_age_days: u64,
}

enum Out {
    Stdout,
    File { file: fs::File, bytes: u64 },
}

/// An open log.
pub struct Rotating {
    options: Options,
    out: Out,
}

impl Rotating {
    /// Opens the file, or makes it for its owner alone.
    pub fn open(options: Options) -> std::io::Result<Rotating> {
        let out = match options.path.as_os_str() == "-" {
            true => Out::Stdout,
            false => append(&options.path)?,
        };
        Ok(Rotating { options, out })
    }

    /// Appends whole lines; begins a new file first when this one would grow too large.
    pub fn write(&mut self, lines: &[u8]) -> std::io::Result<()> {
        let limit = self.options.max_megabytes * MEGABYTE;
        if let Out::File { bytes, .. } = &self.out
            && limit > 0
            && *bytes > 0
            && *bytes + lines.len() as u64 > limit
        {
            self.rotate(Timestamp::now())?;
        }
        match &mut self.out {
            Out::Stdout => std::io::stdout().lock().write_all(lines),
            Out::File { file, bytes } => {
                file.write_all(lines)?;
                *bytes += lines.len() as u64;
                Ok(())
            }
        }
    }

    fn rotate(&mut self, now: Timestamp) -> std::io::Result<()> {
        let path = &self.options.path;
        let (stem, extension) = name_parts(path);
        let stamp = now.strftime(STAMP);
        fs::rename(
            path,
            path.with_file_name(format!("{stem}-{stamp}{extension}")),
        )?;
        self.out = append(path)?;
        self.forget(now);
        Ok(())
    }

    /// Removes the files that are too many or too old. One that can't be removed is tried again at the next rotation.
    fn forget(&self, now: Timestamp) {
        let path = &self.options.path;
        let (stem, extension) = name_parts(path);
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty());
        let Ok(entries) = fs::read_dir(dir.unwrap_or(Path::new("."))) else {
            return;
        };
        let mut old: Vec<(Timestamp, PathBuf)> = entries
            .flatten()
            .filter_map(|e| {
                let name = e.file_name().into_string().ok()?;
                let stamp = name
                    .strip_prefix(&format!("{stem}-"))?
                    .strip_suffix(&extension)?;
                let at = jiff::civil::DateTime::strptime(STAMP, stamp).ok()?;
                let at = at.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
                Some((at.timestamp(), e.path()))
            })
            .collect();
        old.sort();
        old.reverse();
        let Options {
            max_backups,
            max_age_days,
            ..
        } = self.options;
        let too_old = |at: &Timestamp| {
            max_age_days > 0 && now.as_second() - at.as_second() > max_age_days as i64 * 86_400
        };
        for (i, (at, file)) in old.iter().enumerate() {
            if max_backups > 0 && i >= max_backups || too_old(at) {
                let _ = fs::remove_file(file);
            }
        }
    }
}

/// `audit` and `.log`.
fn name_parts(path: &Path) -> (String, String) {
    let text = |s: Option<&std::ffi::OsStr>| s.unwrap_or_default().to_string_lossy().into_owned();
    let extension = match path.extension() {
        Some(e) => format!(".{}", e.to_string_lossy()),
        None => String::new(),
    };
    (text(path.file_stem()), extension)
}

fn append(path: &Path) -> std::io::Result<Out> {
    let file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Out::File { file, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_are_put_aside_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("audit-2020-01-02T03-04-05.678.log");
        fs::write(&old, "x").unwrap();
        fs::write(dir.path().join("audit-notes.log"), "x").unwrap();
        let mut log = Rotating::open(Options {
            path: dir.path().join("audit.log"),
            max_megabytes: 1,
            max_backups: 2,
            max_age_days: 30,
        })
        .unwrap();
        let line = vec![b'x'; 600 * 1024];
        for n in 1..=4 {
            log.write(&line).unwrap();
            // names tell milliseconds
            std::thread::sleep(std::time::Duration::from_millis(2));
            let files = fs::read_dir(dir.path()).unwrap().count();
            // the notes, the log, and two old ones at most
            let want = if n == 1 { 3 } else { (n + 1).min(4) };
            assert_eq!(files, want, "after {n}");
        }
        assert!(!old.exists() && dir.path().join("audit-notes.log").exists());
    }
}
