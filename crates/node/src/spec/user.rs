//! Which user a container runs as: the image's USER, looked up in the image's own passwd and group files, under the security context.
//!
//! Source: OCI image config `User`; containerd `oci.WithUser`; kubelet `verifyRunAsNonRoot`.

use std::{
    io::Read,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, Pod};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

/// More of a passwd or group file isn't read.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
/// A container's user by numbers.
pub struct Resolved {
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    pub home: Option<String>,
}

struct Passwd {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// The text of a file of the image: the first layer (topmost first) that has it. A whiteout ends the search.
fn image_file(layers: &[PathBuf], path: &str) -> String {
    for layer in layers {
        match open_in(layer, path) {
            Ok(Some(fd)) => {
                let mut text = String::new();
                let mut bytes = Vec::new();
                if std::fs::File::from(fd)
                    .take(FILE_BYTES_MAX)
                    .read_to_end(&mut bytes)
                    .is_ok()
                {
                    text = String::from_utf8_lossy(&bytes).into_owned();
                }
                return text;
            }
            Ok(None) => {}
            Err(()) => return String::new(),
        }
    }
    String::new()
}

/// Err: the layer hides the file.
fn open_in(layer: &Path, path: &str) -> Result<Option<OwnedFd>, ()> {
    let root = rustix::fs::openat(
        CWD,
        layer,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|_| ())?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(fd) => match rustix::fs::fstat(&fd) {
            Ok(stat)
                if rustix::fs::FileType::from_raw_mode(stat.st_mode)
                    == rustix::fs::FileType::RegularFile =>
            {
                Ok(Some(fd))
            }
            _ => Err(()),
        },
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(_) => Err(()),
    }
}

fn passwd(text: &str) -> Vec<Passwd> {
    let entry = |line: &str| {
        let mut parts = line.trim().split(':');
        let name = parts.next()?.to_owned();
        let uid = parts.nth(1)?.parse().ok()?;
        let gid = parts.next()?.parse().ok()?;
        let home = parts.nth(1).unwrap_or_default().to_owned();
        Some(Passwd {
            name,
            uid,
            gid,
            home,
        })
    };
    text.lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(entry)
        .collect()
}

/// (name, gid, members)
fn groups(text: &str) -> Vec<(String, u32, Vec<String>)> {
    let entry = |line: &str| {
        let mut parts = line.trim().split(':');
        let name = parts.next()?.to_owned();
        let gid = parts.nth(1)?.parse().ok()?;
        let members = parts.next().unwrap_or_default().split(',');
        Some((
            name,
            gid,
            members
                .filter(|m| !m.is_empty())
                .map(str::to_owned)
                .collect(),
        ))
    };
    text.lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(entry)
        .collect()
}

/// As [`resolve`], of a user and perhaps a group that are given as an image's `USER` is.
pub fn of_image(text: &str, layers: &[PathBuf]) -> Result<Resolved, String> {
    resolve(&Pod::default(), &Container::default(), text, layers)
}

/// Puts the user into further groups of the image, by name. Blocking.
pub(crate) fn join(
    user: &mut Resolved,
    names: &[String],
    layers: &[PathBuf],
) -> Result<(), String> {
    if names.is_empty() {
        return Ok(());
    }
    let known = groups(&image_file(layers, "etc/group"));
    for name in names {
        let group = known.iter().find(|(n, ..)| n == name);
        let (_, gid, _) = group.ok_or_else(|| {
            format!("unable to find group {name}: no matching entries in group file")
        })?;
        if !user.additional_gids.contains(gid) {
            user.additional_gids.push(*gid);
        }
    }
    Ok(())
}

/// Blocking (reads the image's files). Errors are `CreateContainerConfigError` texts.
pub(crate) fn resolve(
    pod: &Pod,
    container: &Container,
    image_user: &str,
    layers: &[PathBuf],
) -> Result<Resolved, String> {
    let own = container.security_context.as_ref();
    let of_pod = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let as_user = own
        .and_then(|s| s.run_as_user)
        .or_else(|| of_pod.and_then(|s| s.run_as_user));
    let as_group = own
        .and_then(|s| s.run_as_group)
        .or_else(|| of_pod.and_then(|s| s.run_as_group));
    let non_root = own
        .and_then(|s| s.run_as_non_root)
        .or_else(|| of_pod.and_then(|s| s.run_as_non_root))
        .unwrap_or(false);

    let (user_part, group_part) = match image_user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (image_user, None),
    };
    if non_root {
        check_non_root(pod, container, as_user, user_part)?;
    }

    let users = passwd(&image_file(layers, "etc/passwd"));
    let all_groups = groups(&image_file(layers, "etc/group"));
    let id = |value: i64, what: &str| {
        u32::try_from(value).map_err(|_| format!("{what} {value} is out of range"))
    };

    let entry: Option<&Passwd>;
    let (uid, mut gid) = if let Some(user) = as_user {
        let uid = id(user, "runAsUser")?;
        entry = users.iter().find(|u| u.uid == uid);
        (uid, entry.map_or(0, |e| e.gid))
    } else if user_part.is_empty() {
        entry = users.iter().find(|u| u.uid == 0);
        (0, 0)
    } else if let Some(found) = users.iter().find(|u| u.name == user_part) {
        entry = Some(found);
        (found.uid, found.gid)
    } else if let Ok(uid) = user_part.parse::<u32>() {
        entry = users.iter().find(|u| u.uid == uid);
        (uid, entry.map_or(0, |e| e.gid))
    } else {
        return Err(format!(
            "unable to find user {user_part}: no matching entries in passwd file"
        ));
    };
    if let (Some(group), None) = (group_part, as_user) {
        gid = match all_groups.iter().find(|(name, ..)| name == group) {
            Some((_, gid, _)) => *gid,
            None => group.parse().map_err(|_| {
                format!("unable to find group {group}: no matching entries in group file")
            })?,
        };
    }
    if let Some(group) = as_group {
        gid = id(group, "runAsGroup")?;
    }

    let mut additional: Vec<u32> = Vec::new();
    let strict = of_pod.and_then(|s| s.supplemental_groups_policy.as_deref()) == Some("Strict");
    if let (Some(entry), false) = (entry, strict) {
        for (_, member_gid, members) in &all_groups {
            if members.contains(&entry.name) {
                additional.push(*member_gid);
            }
        }
    }
    for group in of_pod
        .and_then(|s| s.supplemental_groups.as_ref())
        .into_iter()
        .flatten()
    {
        additional.push(id(*group, "supplementalGroups")?);
    }
    if let Some(group) = of_pod.and_then(|s| s.fs_group) {
        additional.push(id(group, "fsGroup")?);
    }
    additional.sort_unstable();
    additional.dedup();
    additional.retain(|g| *g != gid);
    Ok(Resolved {
        uid,
        gid,
        additional_gids: additional,
        home: entry.map(|e| e.home.clone()).filter(|h| !h.is_empty()),
    })
}

fn check_non_root(
    pod: &Pod,
    container: &Container,
    as_user: Option<i64>,
    image_user: &str,
) -> Result<(), String> {
    let named = format!(
        "(pod: \"{}_{}({})\", container: {})",
        pod.metadata.name.as_deref().unwrap_or_default(),
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.uid.as_deref().unwrap_or_default(),
        container.name
    );
    match as_user {
        Some(0) => Err(format!(
            "container's runAsUser breaks non-root policy {named}"
        )),
        Some(_) => Ok(()),
        None if image_user.is_empty() || image_user == "0" => Err(format!(
            "container has runAsNonRoot and image will run as root {named}"
        )),
        None if image_user.parse::<u32>().is_err() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({image_user}), cannot verify user is non-root {named}"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn users_and_groups() {
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer");
        std::fs::create_dir_all(layer.join("etc")).unwrap();
        std::fs::write(
            layer.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(
            layer.join("etc/group"),
            "root:x:0:\nweb:x:50:app,other\nextra:x:60:\n",
        )
        .unwrap();
        let check =
            |image_user: &str, pod_context: serde_json::Value, context: serde_json::Value| {
                let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
                "spec": {"securityContext": pod_context,
                    "containers": [{"name": "c", "securityContext": context}]}}))
                .unwrap();
                let container = &pod.spec.as_ref().unwrap().containers[0];
                resolve(&pod, container, image_user, std::slice::from_ref(&layer))
                    .map(|r| (r.uid, r.gid, r.additional_gids))
            };
        let none = json!({});
        assert_eq!(check("", none.clone(), none.clone()), Ok((0, 0, vec![])));
        assert_eq!(
            check("app", none.clone(), none.clone()),
            Ok((1000, 1001, vec![50]))
        );
        assert_eq!(
            check("1000", none.clone(), none.clone()),
            Ok((1000, 1001, vec![50]))
        );
        assert_eq!(
            check("app:extra", none.clone(), none.clone()),
            Ok((1000, 60, vec![50]))
        );
        assert_eq!(
            check("77:88", none.clone(), none.clone()),
            Ok((77, 88, vec![]))
        );
        assert_eq!(
            check(
                "app",
                json!({"runAsUser": 5, "runAsGroup": 6, "fsGroup": 7, "supplementalGroups": [9, 8]}),
                none.clone()
            ),
            Ok((5, 6, vec![7, 8, 9]))
        );
        assert_eq!(
            check("app", json!({"runAsUser": 5}), json!({"runAsUser": 1000})),
            Ok((1000, 1001, vec![50]))
        );
        assert_eq!(
            check(
                "app",
                json!({"supplementalGroupsPolicy": "Strict", "fsGroup": 2}),
                none.clone()
            ),
            Ok((1000, 1001, vec![2]))
        );
        assert!(
            check("ghost", none.clone(), none.clone())
                .unwrap_err()
                .contains("unable to find user ghost")
        );
        let non_root = json!({"runAsNonRoot": true});
        assert!(
            check("", non_root.clone(), none.clone())
                .unwrap_err()
                .starts_with("container has runAsNonRoot and image will run as root")
        );
        assert!(
            check("app", non_root.clone(), none.clone())
                .unwrap_err()
                .contains("non-numeric user (app)")
        );
        assert_eq!(
            check("1000", non_root.clone(), none.clone()),
            Ok((1000, 1001, vec![50]))
        );
        assert!(
            check("", non_root, json!({"runAsUser": 0}))
                .unwrap_err()
                .contains("breaks non-root policy")
        );
    }

    #[test]
    fn a_link_out_of_the_layer_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("passwd"), "evil:x:0:0::/:/bin/sh\n").unwrap();
        let layer = dir.path().join("layer");
        std::fs::create_dir_all(layer.join("etc")).unwrap();
        std::os::unix::fs::symlink("../../passwd", layer.join("etc/passwd")).unwrap();
        assert_eq!(image_file(&[layer], "etc/passwd"), "");
    }
}
