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
    match text.starts_with('/') && text != "/" {
        true => Ok(text.into()),
        false => Err(format!(
            "invalid mount path: '{text}' mount path must be absolute, and not '/'"
        )),
    }
}

fn source(text: &str) -> Result<VolumeKind, String> {
    if text.starts_with(['/', '.', '~']) {
        let path = std::path::absolute(text).map_err(|e| format!("{text}: {e}"))?;
        return Ok(VolumeKind::Bind(path, true));
    }
    volume_name(text)
}

/// `SOURCE:DESTINATION[:OPTIONS]`
pub fn volume(text: &str) -> Result<Volume, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (from, target, options) = match parts.as_slice() {
        [from, target] => (*from, *target, ""),
        [from, target, options] => (*from, *target, *options),
        _ => {
            return Err(format!(
                "invalid volume specification: '{text}': expected SOURCE:DESTINATION[:ro]"
            ));
        }
    };
    let mut volume = Volume {
        kind: source(from)?,
        target: absolute(target)?,
        read_only: false,
        propagation: "private".into(),
        no_copy: false,
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
                    "invalid volume specification: '{text}': unknown option {other}"
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
    let mut no_copy = false;
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, "true"));
        match key {
            "type" => kind = value.into(),
            "source" | "src" => from = Some(value),
            "target" | "dst" | "destination" => target = Some(value),
            "readonly" | "ro" => read_only = value == "true" || value == "1",
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
            other => {
                return Err(format!(
                    "invalid argument \"{text}\" for \"--mount\": unexpected key '{other}'"
                ));
            }
        }
    }
    let target = absolute(target.ok_or("invalid mount: target is required")?)?;
    let kind = match (kind.as_str(), from) {
        ("bind", Some(from)) => {
            VolumeKind::Bind(std::path::absolute(from).map_err(|e| e.to_string())?, false)
        }
        ("volume", Some(from)) => volume_name(from)?,
        ("tmpfs", None) => VolumeKind::Tmpfs(options.join(",")),
        ("bind" | "volume", None) => return Err("invalid mount: source is required".into()),
        (other, _) => {
            return Err(format!(
                "invalid mount: type {other} is not possible here: use bind, volume or tmpfs"
            ));
        }
    };
    Ok(Volume {
        kind,
        target,
        read_only,
        propagation,
        no_copy,
    })
}

/// `PATH[:OPTIONS]`
pub fn tmpfs(text: &str) -> Result<Volume, String> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    Ok(Volume {
        kind: VolumeKind::Tmpfs(options.into()),
        target: absolute(path)?,
        read_only: false,
        propagation: "private".into(),
        no_copy: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_and_mounts() {
        let bind = |path: &str, make| VolumeKind::Bind(path.into(), make);
        for (got, want) in [
            (volume("/a:/b"), Some((bind("/a", true), "/b", false))),
            (
                volume("data:/b:ro"),
                Some((VolumeKind::Named("data".into()), "/b", true)),
            ),
            (volume("/a"), None),
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
    }
}
