//! `--chown`: who owns what is copied (`llb.WithUser`, `ops.readUser`).

use super::{
    error::{Error, io},
    root::Root,
};
use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
};

/// No account file that is longer than this many bytes is read on.
const ACCOUNTS_MAX: u64 = 16 << 20;

/// A user or group id as it is written: `root` is a number as well.
fn number(text: &str) -> Option<u32> {
    match text {
        "root" => Some(0),
        text => text.parse::<i32>().ok().and_then(|id| id.try_into().ok()),
    }
}

/// Needs no account to be looked up.
pub(crate) fn is_numeric(text: &str) -> bool {
    text.split(':').take(2).all(|part| number(part).is_some())
}

/// User and group id. A lone user number is the group's as well; a name brings its group from the accounts.
/// A name that isn't there counts as root, as in BuildKit, and is warned of.
pub(crate) fn look_up(
    text: &str,
    root: &Path,
    warnings: &mut Vec<String>,
) -> Result<(u32, u32), Error> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let mut warn = |what: &str, name: &str, file: &str| {
        warnings.push(format!(
            "--chown={text}: there is no {what} {name:?} in the image's {file}: root is taken"
        ));
    };
    let (uid, own) = match number(user) {
        Some(id) => (id, id),
        None => find(root, "etc/passwd", user, [2, 3])?.unwrap_or_else(|| {
            warn("user", user, "/etc/passwd");
            (0, 0)
        }),
    };
    let gid = match group {
        None => own,
        Some(name) => match number(name) {
            Some(id) => id,
            None => match find(root, "etc/group", name, [2, 2])? {
                Some((id, _)) => id,
                None => {
                    if !name.is_empty() {
                        warnings.push(format!(
                            "--chown={text}: there is no group {name:?} in the image's /etc/group: {own} is taken"
                        ));
                    }
                    own
                }
            },
        },
    };
    Ok((uid, gid))
}

/// The two numbers of an account's row.
fn find(
    root: &Path,
    file: &str,
    name: &str,
    fields: [usize; 2],
) -> Result<Option<(u32, u32)>, Error> {
    let fail = |e| io("failed to read", file)(e);
    let root = Root::open(root).map_err(fail)?;
    let found = root
        .resolve(Path::new(file), true, &|_, _| true)
        .map_err(fail)?;
    if found.stat.is_none() {
        return Ok(None);
    }
    let reader = BufReader::new(root.file(&found.path).map_err(fail)?.take(ACCOUNTS_MAX));
    for row in reader.split(b'\n') {
        let row = row.map_err(fail)?;
        let row = String::from_utf8_lossy(&row);
        let parts: Vec<&str> = row.trim().split(':').collect();
        if parts.first() == Some(&name) && !name.is_empty() {
            let id = |at: usize| parts.get(at).and_then(|id| id.parse().ok()).unwrap_or(0);
            return Ok(Some((id(fields[0]), id(fields[1]))));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_owns() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(root.path().join("etc").join(name), text).unwrap();
        };
        write(
            "passwd",
            "root:x:0:0::/:/bin/sh\nweb:x:101:102::/:\nodd:x\n",
        );
        write("group", "root:x:0:\nstaff:x:50:web\n");
        let table = [
            ("7", (7, 7), 0),
            ("7:8", (7, 8), 0),
            ("7:", (7, 7), 0),
            ("root", (0, 0), 0),
            ("root:staff", (0, 50), 0),
            ("web", (101, 102), 0),
            ("web:staff", (101, 50), 0),
            ("web:9", (101, 9), 0),
            ("9:staff", (9, 50), 0),
            (":staff", (0, 50), 1),
            ("nobody", (0, 0), 1),
            ("web:nogroup", (101, 102), 1),
            ("odd", (0, 0), 0),
        ];
        for (text, want, count) in table {
            let mut warnings = vec![];
            let got = look_up(text, root.path(), &mut warnings).unwrap();
            assert_eq!(got, want, "{text}");
            assert_eq!(warnings.len(), count, "{text}: {warnings:?}");
        }
    }

    #[test]
    fn accounts_are_read_inside_the_root() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", root.path().join("etc")).unwrap();
        let mut warnings = vec![];
        // `/etc` in the root is a link to itself there, not the machine's
        let got = look_up("daemon", root.path(), &mut warnings);
        assert!(got.is_err(), "{got:?}");
    }
}
