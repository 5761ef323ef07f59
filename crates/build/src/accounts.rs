//! Who runs and owns, by the image's own account files (moby/sys/user `GetExecUser`, buildkit `executor/oci/user.go`).

use std::path::Path;

use crate::folder;

/// A user as a process needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// "" when the account file doesn't tell.
    pub(crate) home: String,
}

/// `USER`: `name|uid[:group|gid]`, "" is root.
///
/// # Errors
/// A name that is in no account file, in BuildKit's words.
pub(crate) fn find(root: &Path, user: &str) -> Result<Account, String> {
    let passwd = folder::text(root, "/etc/passwd").unwrap_or_default();
    let group = folder::text(root, "/etc/group").unwrap_or_default();
    account(&passwd, &group, user)
}

fn account(passwd: &str, groups: &str, user: &str) -> Result<Account, String> {
    let (who, group) = match user.split_once(':') {
        Some((who, group)) => (who, group),
        None => (user, ""),
    };
    let who = if who.is_empty() { "0" } else { who };
    let number = who.parse::<u32>().ok();
    let entry = passwd.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let uid: u32 = fields.nth(1)?.parse().ok()?;
        let gid: u32 = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or_default();
        (name == who || number == Some(uid)).then_some((name, uid, gid, home))
    });
    let mut found = match (entry, number) {
        (Some((_, uid, gid, home)), _) => Account {
            uid,
            gid,
            groups: vec![],
            home: home.to_owned(),
        },
        (None, Some(uid)) => Account {
            uid,
            ..Account::default()
        },
        (None, None) => {
            return Err(format!(
                "unable to find user {who}: no matching entries in passwd file"
            ));
        }
    };
    let rows = || {
        groups.lines().filter_map(|line| {
            let mut fields = line.trim().split(':');
            let name = fields.next()?;
            let gid: u32 = fields.nth(1)?.parse().ok()?;
            Some((name, gid, fields.next().unwrap_or_default()))
        })
    };
    if !group.is_empty() {
        let number = group.parse::<u32>().ok();
        let row = rows().find(|(name, gid, _)| *name == group || number == Some(*gid));
        found.gid = match (row, number) {
            (Some((_, gid, _)), _) => gid,
            (None, Some(gid)) => gid,
            (None, None) => {
                return Err(format!(
                    "unable to find group {group}: no matching entries in group file"
                ));
            }
        };
        return Ok(found);
    }
    // SOURCE: buildkit GetUser: numbers for both need no file, hence no further groups
    if let Some((name, ..)) = entry {
        let member = |members: &str| members.split(',').any(|m| m == name);
        found.groups = rows().filter(|r| member(r.2)).map(|r| r.1).collect();
    }
    Ok(found)
}

/// Whom what `WORKDIR` makes belongs to; a name that isn't there counts as root.
pub(crate) fn owner(root: &Path, user: &str) -> (u32, u32) {
    match find(root, user) {
        Ok(account) if user.contains(':') => (account.uid, account.gid),
        Ok(account) => match user.parse::<u32>() {
            // a lone number is the group's as well
            Ok(number) => (number, number),
            Err(_) => (account.uid, account.gid),
        },
        Err(_) => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/false\n";
        let group = "root:x:0:root\nweb:x:34:\nlog:x:4:web,root\n";
        for (user, want) in [
            ("", "0 0 [0, 4] /root"),
            ("web", "33 34 [4] /var/www"),
            ("33", "33 34 [4] /var/www"),
            ("web:log", "33 4 [] /var/www"),
            ("1000", "1000 0 [] "),
            ("1000:7", "1000 7 [] "),
            (
                "nobody",
                "unable to find user nobody: no matching entries in passwd file",
            ),
            (
                "web:x",
                "unable to find group x: no matching entries in group file",
            ),
        ] {
            let got = account(passwd, group, user).map_or_else(
                |e| e,
                |a| format!("{} {} {:?} {}", a.uid, a.gid, a.groups, a.home),
            );
            assert_eq!(got, want, "{user}");
        }
    }
}
