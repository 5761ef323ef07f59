//! `fileKeyRef`: one variable out of a file that a container before wrote into an emptyDir.
//!
//! Source: kubernetes `pkg/kubelet/util/env/env_util.go`, KEP-3721.

use std::{
    io::{self, Read},
    path::Path,
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// More than this is read of no file.
const BYTES_MAX: u64 = 1 << 20;

/// The file at `path` of the volume in `folder`; links in it lead nowhere else. None: there's no such file. Blocking.
pub(super) fn read(folder: &Path, path: &str) -> io::Result<Option<String>> {
    let folder = rustix::fs::open(
        folder,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let inside = path.trim_start_matches('/');
    // Without O_NONBLOCK a FIFO that was put there would hold us.
    let opened = rustix::fs::openat2(
        &folder,
        inside,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    );
    let file = match opened {
        Ok(file) => std::fs::File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut text = String::new();
    file.take(BYTES_MAX).read_to_string(&mut text)?;
    Ok(Some(text))
}

/// The value that `text` gives to `key`, empty when it gives none. The error says what is wrong in which line.
pub(super) fn value(text: &str, key: &str) -> Result<String, String> {
    let wrong = |line: usize, what: &str| {
        Err(format!(
            "invalid environment variable format at line {line}: {what}"
        ))
    };
    let mut lines = text.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, rest)) = line.split_once('=') else {
            return wrong(number, "missing '='");
        };
        let trimmed = name.trim_end_matches([' ', '\t']);
        if trimmed.is_empty() {
            return wrong(number, "empty variable name");
        }
        if trimmed != name {
            return wrong(number, "whitespace before '=' is not allowed");
        }
        // As in a shell, `A= 'b'` leaves A empty.
        if rest.starts_with([' ', '\t']) {
            if name == key {
                return Ok(String::new());
            }
            continue;
        }
        let Some(quoted) = rest.strip_prefix('\'') else {
            return wrong(number, "value must be enclosed in single quotes");
        };
        let mut value = String::new();
        let (mut rest, mut at) = (quoted, number);
        let after = loop {
            if let Some((last, after)) = rest.split_once('\'') {
                value.push_str(last);
                break after.trim_start_matches([' ', '\t']);
            }
            value.push_str(rest);
            value.push('\n');
            let Some((next, next_number)) = lines.next() else {
                return Err(format!(
                    "invalid environment variable format starting at line {number}: unclosed single quote"
                ));
            };
            (rest, at) = (next, next_number);
        };
        if !after.is_empty() && !after.starts_with('#') {
            return wrong(at, "unexpected content after closing quote");
        }
        if name == key {
            return Ok(value);
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let check = |text: &str, want: Result<&str, &str>| {
            let got = value(text, "KEY");
            let got = got.as_deref().map_err(String::as_str);
            let want = want.map_err(|e| format!("invalid environment variable format {e}"));
            assert_eq!(got, want.as_deref().map_err(|e| e.as_str()), "{text:?}");
        };
        check("", Ok(""));
        check("KEY='v'", Ok("v"));
        check("A='x'\n# c\n\n  KEY='v w' # c", Ok("v w"));
        check("KEY='a\nb=c\n'", Ok("a\nb=c\n"));
        check("KEY='$HOME \\n'", Ok("$HOME \\n"));
        check("KEY= 'v'", Ok(""));
        check("KEY='1'\nKEY='2'", Ok("1"));
        check("KEY='v'\nnonsense", Ok("v"));
        check("nonsense\nKEY='v'", Err("at line 1: missing '='"));
        check("\n='v'", Err("at line 2: empty variable name"));
        check(
            "KEY ='v'",
            Err("at line 1: whitespace before '=' is not allowed"),
        );
        check(
            "KEY=v",
            Err("at line 1: value must be enclosed in single quotes"),
        );
        check(
            "KEY='v' x",
            Err("at line 1: unexpected content after closing quote"),
        );
        check(
            "\nKEY='v\n",
            Err("starting at line 2: unclosed single quote"),
        );
    }

    #[test]
    fn files_stay_inside_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        std::fs::create_dir_all(volume.join("sub")).unwrap();
        std::fs::write(dir.path().join("secret"), "KEY='out'").unwrap();
        std::fs::write(volume.join("sub/f"), "KEY='in'").unwrap();
        std::os::unix::fs::symlink("../secret", volume.join("link")).unwrap();
        std::os::unix::fs::symlink("/sub/f", volume.join("inner")).unwrap();
        let read = |path: &str| read(&volume, path).map_err(|e| e.kind());
        assert_eq!(read("sub/f").unwrap().as_deref(), Some("KEY='in'"));
        assert_eq!(read("inner").unwrap().as_deref(), Some("KEY='in'"));
        assert_eq!(read("link").unwrap(), None, "it leads to nothing inside");
        assert_eq!(read("none").unwrap(), None);
        assert!(read("sub").is_err());
    }
}
