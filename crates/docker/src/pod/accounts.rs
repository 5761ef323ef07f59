//! Who a container's users and groups are: by number, or by its own names.

use crate::error::{Fault, Result};

const PASSWD: &str = "etc/passwd";

/// A field of the line whose field `key` is `value`, of a passwd or group file.
fn field(text: &str, key: usize, value: &str, field: usize) -> Option<i64> {
    let mut lines = text.lines().map(|l| l.split(':').collect::<Vec<_>>());
    let line = lines.find(|l| l.get(key) == Some(&value))?;
    line.get(field)?.parse().ok()
}

/// User and group of `user[:group]`; what is left out is root's, or the user's own. `file` reads the container's files.
///
/// # Errors
/// For a name that it doesn't know.
pub fn ids(told: &str, file: &impl Fn(&str) -> Option<String>) -> Result<(i64, i64)> {
    let (user, group) = match told.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (told, None),
    };
    let users = || file(PASSWD).unwrap_or_default();
    let by_number = user.parse::<i64>().ok();
    let uid = match user {
        "" => Some(0),
        name => by_number.or_else(|| field(&users(), 0, name, 2)),
    };
    let uid = uid.ok_or_else(|| {
        Fault::bad(format!(
            "unable to find user {user}: no matching entries in passwd file"
        ))
    })?;
    let gid = match group {
        Some("") => 0,
        Some(group) => self::group(group, file)?,
        None => match by_number {
            Some(_) => field(&users(), 2, user, 3),
            None => field(&users(), 0, user, 3),
        }
        .unwrap_or(0),
    };
    Ok((uid, gid))
}

/// # Errors
/// For a name that it doesn't know.
pub fn group(told: &str, file: &impl Fn(&str) -> Option<String>) -> Result<i64> {
    let by_number = told.parse::<i64>().ok();
    let known = || field(&file("etc/group").unwrap_or_default(), 0, told, 2);
    by_number.or_else(known).ok_or_else(|| {
        Fault::bad(format!(
            "unable to find group {told}: no matching entries in group file"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups() {
        let file = |path: &str| {
            let text = match path {
                PASSWD => "root:x:0:0::/:\nann:x:7:8::/:\n",
                "etc/group" => "root:x:0:\nstaff:x:9:ann\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        for (told, wanted) in [
            ("ann", Ok((7, 8))),
            ("7", Ok((7, 8))),
            ("5", Ok((5, 0))),
            ("ann:staff", Ok((7, 9))),
            ("5:6", Ok((5, 6))),
            (":33", Ok((0, 33))),
            ("ann:", Ok((7, 0))),
            (
                "bob",
                Err("unable to find user bob: no matching entries in passwd file"),
            ),
            (
                "ann:none",
                Err("unable to find group none: no matching entries in group file"),
            ),
        ] {
            let got = ids(told, &file).map_err(|f| f.message);
            assert_eq!(got, wanted.map_err(str::to_owned), "{told}");
        }
    }
}
