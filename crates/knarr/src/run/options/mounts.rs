//! `-v`, `--mount` and `--tmpfs`: what is mounted into a container.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What is mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub kind: VolumeKind,
    pub target: PathBuf,
    pub read_only: bool,
    /// "private" | "rslave" | "rshared"
    pub propagation: String,
    /// What the image has at its place isn't copied into it.
    #[serde(default)]
    pub no_copy: bool,
    /// It was made for this container, and goes with it.
    #[serde(default)]
    pub unnamed: bool,
    /// A folder of the volume instead of all of it.
    #[serde(default)]
    pub subpath: Option<PathBuf>,
    /// What is mounted below is read-only, too.
    #[serde(default)]
    pub recursive_read_only: bool,
}

impl Volume {
    fn new(kind: VolumeKind, target: PathBuf) -> Volume {
        Volume {
            kind,
            target,
            read_only: false,
            propagation: "private".into(),
            no_copy: false,
            unnamed: false,
            subpath: None,
            recursive_read_only: false,
        }
    }

    /// A volume of its own at this place, empty but for what the image has there.
    pub fn unnamed(target: PathBuf) -> Volume {
        let name = VolumeKind::Named(format!("{0}{0}", uuid::Uuid::new_v4().simple()));
        Volume {
            unnamed: true,
            ..Volume::new(name, target)
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeKind {
    /// A path of the machine; made as a folder where there is nothing, if so asked.
    Bind(PathBuf, bool),
    Named(String),
    Tmpfs(String),
}

fn volume_name(text: &str) -> Result<VolumeKind, String> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let good = text.len() > 1
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(word);
    match good {
        true => Ok(VolumeKind::Named(text.into())),
        false => Err(format!(
            "{text:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        )),
    }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    if !text.starts_with('/') {
        return Err(format!(
            "invalid mount path: '{text}' mount path must be absolute"
        ));
    }
    let mut path = PathBuf::from("/");
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(path.pop()),
            part => path.push(part),
        }
    }
    match path.parent() {
        Some(_) => Ok(path),
        None => Err("invalid specification: destination can't be '/'".into()),
    }
}

fn source(text: &str) -> Result<VolumeKind, String> {
    if text.starts_with(['/', '.', '~']) {
        let path = std::path::absolute(text).map_err(|e| format!("{text}: {e}"))?;
        return Ok(VolumeKind::Bind(path, true));
    }
    volume_name(text)
}

/// `[SOURCE:]DESTINATION[:OPTIONS]`
pub fn volume(text: &str) -> Result<Volume, String> {
    let parts: Vec<&str> = text.split(':').collect();
    if text.is_empty() {
        return Err("invalid empty volume spec".into());
    }
    if parts.iter().any(|part| part.is_empty()) {
        return Err(format!(
            "invalid spec: {text}: empty section between colons"
        ));
    }
    let (from, target, options) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [from, target] => (Some(*from), *target, ""),
        [from, target, options] => (Some(*from), *target, *options),
        _ => return Err(format!("invalid volume specification: '{text}'")),
    };
    let target = absolute(target)?;
    let mut volume = match from {
        Some(from) => Volume::new(source(from)?, target),
        None => Volume::unnamed(target),
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => volume.read_only = true,
            "nocopy" => volume.no_copy = true,
            "z" | "Z" if std::path::Path::new("/sys/fs/selinux/enforce").exists() => {
                return Err(format!(
                    "{text}: files are not relabelled for SELinux: leave out {option}"
                ));
            }
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" | "private" | "rprivate" => {}
            "slave" | "rslave" => volume.propagation = "rslave".into(),
            "shared" | "rshared" => volume.propagation = "rshared".into(),
            other => {
                return Err(format!(
                    "invalid volume specification: '{text}': invalid mode: {other}"
                ));
            }
        }
    }
    Ok(volume)
}

/// `type=…,source=…,target=…`
pub fn mount(text: &str) -> Result<Volume, String> {
    let (mut kind, mut from, mut target) = ("volume".to_string(), None, None);
    let (mut read_only, mut propagation, mut options) = (false, "private".to_string(), Vec::new());
    let (mut no_copy, mut subpath, mut recursive) = (false, None, "");
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, "true"));
        match key.to_lowercase().as_str() {
            "type" => kind = value.into(),
            "source" | "src" => from = Some(value),
            "target" | "dst" | "destination" => target = Some(value),
            "readonly" | "ro" => {
                read_only = match value {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(bad(text, &format!("invalid value for {key}: {value}"))),
                }
            }
            "volume-subpath" => subpath = Some(PathBuf::from(value)),
            // SOURCE: docker/cli `opts/mount.go`
            "bind-recursive" if matches!(value, "enabled" | "writable" | "readonly") => {
                recursive = value;
            }
            "volume-driver" if value == "local" => {}
            "volume-label" => {}
            "volume-opt" | "volume-driver" | "bind-recursive" | "bind-nonrecursive" => {
                return Err(bad(text, &format!("{field} is not there")));
            }
            "bind-propagation" if matches!(value, "rslave" | "slave") => {
                propagation = "rslave".into()
            }
            "bind-propagation" if matches!(value, "rshared" | "shared") => {
                propagation = "rshared".into()
            }
            "volume-nocopy" => no_copy = value != "false" && value != "0",
            "bind-propagation" if matches!(value, "private" | "rprivate") => {}
            "consistency" => {}
            "tmpfs-size" => options.push(format!("size={value}")),
            "tmpfs-mode" => options.push(format!("mode={value}")),
            _ if !field.contains('=') => {
                return Err(bad(
                    text,
                    &format!("invalid field '{field}' must be a key=value pair"),
                ));
            }
            other => return Err(bad(text, &format!("unexpected key '{other}' in '{field}'"))),
        }
    }
    let target = absolute(target.ok_or_else(|| bad(text, "target is required"))?)?;
    if recursive == "readonly" && !read_only {
        return Err(
            "mount options \"bind-recursive=readonly\" requires the \"readonly\" option".into(),
        );
    }
    if subpath.as_deref().is_some_and(|path| !inside(path)) {
        return Err("invalid volume-subpath: it must be a relative path within the volume".into());
    }
    let made = |kind| Volume {
        read_only,
        propagation,
        no_copy,
        subpath,
        recursive_read_only: read_only && recursive == "readonly",
        ..Volume::new(kind, target.clone())
    };
    let wrong =
        |kind: &str, why: &str| Err(format!("invalid mount config for type \"{kind}\": {why}"));
    let kind = match (kind.as_str(), from) {
        ("bind", Some(from)) => {
            VolumeKind::Bind(std::path::absolute(from).map_err(|e| e.to_string())?, false)
        }
        ("volume", Some(from)) => volume_name(from)?,
        ("volume", None) => {
            let own = Volume::unnamed(target.clone());
            return Ok(Volume {
                unnamed: true,
                ..made(own.kind)
            });
        }
        ("tmpfs", None) => VolumeKind::Tmpfs(options.join(",")),
        ("tmpfs", Some(_)) => return wrong("tmpfs", "field Source must not be specified"),
        ("bind", None) => return wrong("bind", "field Source must not be empty"),
        (other @ ("image" | "npipe" | "cluster"), _) => {
            return wrong(other, "it is not there: use bind, volume or tmpfs");
        }
        (other, _) => return wrong(other, "mount type unknown"),
    };
    Ok(made(kind))
}

fn bad(text: &str, why: &str) -> String {
    format!("invalid argument {text:?} for \"--mount\" flag: {why}")
}

/// Does it lead nowhere else, whatever is there?
fn inside(path: &std::path::Path) -> bool {
    use std::path::Component::{CurDir, Normal};
    path.components().all(|c| matches!(c, Normal(_) | CurDir))
}

/// `PATH[:OPTIONS]`
pub fn tmpfs(text: &str) -> Result<Volume, String> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let kind = VolumeKind::Tmpfs(options.into());
    Ok(Volume::new(kind, absolute(path)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn volumes_and_mounts() {
        let bind = |path: &str, make| VolumeKind::Bind(path.into(), make);
        for (got, want) in [
            (volume("/a:/b"), Some((bind("/a", true), "/b", false))),
            (
                volume("data:/b:ro"),
                Some((VolumeKind::Named("data".into()), "/b", true)),
            ),
            (
                volume("/a:/b/./c/../"),
                Some((bind("/a", true), "/b", false)),
            ),
            (volume("/a:/b/.."), None),
            (volume(":/b"), None),
            (volume(""), None),
            (volume("/a:b"), None),
            (volume("a b:/c"), None),
            (volume("/a:/b:odd"), None),
            (
                mount("type=bind,source=/a,target=/b,readonly"),
                Some((bind("/a", false), "/b", true)),
            ),
            (
                mount("source=v1,dst=/b"),
                Some((VolumeKind::Named("v1".into()), "/b", false)),
            ),
            (
                mount("type=tmpfs,target=/t,tmpfs-size=64m"),
                Some((VolumeKind::Tmpfs("size=64m".into()), "/t", false)),
            ),
            (mount("type=bind,target=/b"), None),
            (mount("type=image,source=a,target=/b"), None),
            (mount("type=tmpfs,source=a,target=/b"), None),
            (mount("type=odd,target=/b"), None),
            (
                mount("type=volume,source=v1,target=/b,volume-subpath=../c"),
                None,
            ),
            (
                mount("type=bind,source=/a,target=/b,bind-recursive=readonly"),
                None,
            ),
            (
                mount("Type=bind,source=/a,target=/b,ro,bind-recursive=readonly"),
                Some((bind("/a", false), "/b", true)),
            ),
            (mount("type=bind,source=/a,target=/b,odd=1"), None),
            (
                tmpfs("/t:size=1m"),
                Some((VolumeKind::Tmpfs("size=1m".into()), "/t", false)),
            ),
            (tmpfs("t"), None),
        ] {
            let said = format!("{got:?}");
            let got = got
                .ok()
                .map(|v| (v.kind, v.target.display().to_string(), v.read_only));
            let want = want.map(|(kind, target, read_only)| (kind, target.to_string(), read_only));
            assert_eq!(got, want, "{said}");
        }
        for own in [volume("/a").unwrap(), mount("dst=/a,ro").unwrap()] {
            let named = matches!(&own.kind, VolumeKind::Named(name) if name.len() == 64);
            assert!(
                own.unnamed && named && own.target == Path::new("/a"),
                "{own:?}"
            );
        }
    }
}
