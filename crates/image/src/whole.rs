//! A file that somebody asked for by name: whole, or not there.

use std::{
    fs::{self, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Gives `fill` what is written to a path. A file appears there when all of it is written, a link leads to where it is; what is
/// there and is no file (a device, a pipe) is written into and stays what it is.
///
/// # Errors
/// `fill`'s, and when nothing can be written there.
pub fn write_whole<E: From<io::Error>>(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let there = fs::metadata(path).ok();
    if there.as_ref().is_some_and(|m| !m.is_file() && !m.is_dir()) {
        let file = OpenOptions::new().write(true).open(path)?;
        return filled(file, fill).map(drop);
    }
    let path = match there {
        Some(_) => fs::canonicalize(path)?,
        None => PathBuf::from(path),
    };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let temp = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    let temp = filled(temp, fill)?;
    temp.as_file()
        .set_permissions(fs::Permissions::from_mode(0o644))?;
    temp.as_file().sync_all()?;
    temp.persist(&path).map_err(|e| e.error)?;
    Ok(())
}

fn filled<W: Write, E: From<io::Error>>(
    to: W,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<W, E> {
    let mut out = BufWriter::with_capacity(1 << 18, to);
    fill(&mut out)?;
    Ok(out.into_inner().map_err(io::IntoInnerError::into_error)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, io::Read, os::unix::fs::FileTypeExt};

    fn say(path: &Path, text: &str) -> io::Result<()> {
        write_whole(path, |out| out.write_all(text.as_bytes()))
    }

    #[test]
    fn files_and_links() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("f"), dir.path().join("l"));
        std::os::unix::fs::symlink("f", &link).unwrap();
        say(&file, "one").unwrap();
        say(&link, "two").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        let broken = write_whole(&file, |out| {
            out.write_all(b"three")?;
            Err(io::Error::other("no more"))
        });
        assert!(broken.is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert!(say(dir.path(), "x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    /// As `-o type=tar,dest=/dev/null` and shells' `>(…)` have it.
    #[test]
    fn what_is_no_file_stays_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("p");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let reader = {
            let pipe = pipe.clone();
            std::thread::spawn(move || {
                let mut text = String::new();
                File::open(pipe).unwrap().read_to_string(&mut text).unwrap();
                text
            })
        };
        say(&pipe, "through").unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    }
}
