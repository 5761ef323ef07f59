//! `--device`: which of the machine's devices a container has.

use crate::error::{Fault, Result};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

/// One as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub on_host: String,
    pub inside: String,
    /// of `r`, `w` and `m`
    pub access: String,
}

/// A device of the machine, and where the container has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub source: PathBuf,
    pub target: PathBuf,
    pub access: String,
    pub block: bool,
}

/// How many a folder may have.
const DEVICES_MAX: usize = 512;

pub fn read(list: Vec<Value>) -> Result<Vec<Asked>> {
    let one = |value: &Value| {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_string();
        let mut asked = Asked {
            on_host: text("PathOnHost"),
            inside: text("PathInContainer"),
            access: text("CgroupPermissions"),
        };
        if asked.inside.is_empty() {
            asked.inside.clone_from(&asked.on_host);
        }
        if asked.access.is_empty() {
            asked.access = "rwm".into();
        }
        if !asked.on_host.starts_with('/') {
            return Err(Fault::unsupported(format!(
                "--device {} (HostConfig.Devices; only paths of the machine are)",
                asked.on_host
            )));
        }
        if !asked.inside.starts_with('/') {
            return Err(Fault::bad(format!(
                "{} is not an absolute path",
                asked.inside
            )));
        }
        match asked.access.bytes().all(|b| b"rwm".contains(&b)) {
            true => Ok(asked),
            false => Err(Fault::bad(format!("invalid device mode: {}", asked.access))),
        }
    };
    list.iter().map(one).collect()
}

/// The devices themselves: links followed, folders gone through. Blocking.
///
/// SOURCE: moby `daemon/pkg/oci/devices_linux.go` DevicesFromPath
pub fn find(asked: &Asked) -> Result<Vec<Device>> {
    let told = |why: String| {
        Fault::bad(format!(
            "error gathering device information while adding custom device {:?}: {why}",
            asked.on_host
        ))
    };
    let source = fs::canonicalize(&asked.on_host).map_err(|e| {
        told(match e.kind() {
            std::io::ErrorKind::NotFound => "no such file or directory".into(),
            _ => e.to_string(),
        })
    })?;
    let mut all = Vec::new();
    walk(asked, &source, Path::new(&asked.inside), &mut all);
    match all.is_empty() {
        true => Err(told("not a device node".into())),
        false => Ok(all),
    }
}

fn walk(asked: &Asked, source: &Path, target: &Path, all: &mut Vec<Device>) {
    let Ok(meta) = fs::symlink_metadata(source) else {
        return;
    };
    let kind = meta.file_type();
    if kind.is_dir() {
        let entries = fs::read_dir(source).into_iter().flatten().flatten();
        for entry in entries.take(DEVICES_MAX) {
            walk(asked, &entry.path(), &target.join(entry.file_name()), all);
        }
    } else if (kind.is_char_device() || kind.is_block_device()) && all.len() < DEVICES_MAX {
        all.push(Device {
            source: source.into(),
            target: target.into(),
            access: asked.access.clone(),
            block: kind.is_block_device(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn devices_are_found() {
        let check = |value: Value, wanted: Result<&str, &str>| {
            let found = read(vec![value.clone()]).and_then(|list| find(&list[0]));
            let got = found.map_err(|f| f.message).map(|all| {
                let one = |d: &Device| format!("{}:{}", d.target.display(), d.access);
                all.iter().map(one).collect::<Vec<_>>().join(" ")
            });
            match wanted {
                Ok(wanted) => assert_eq!(got.as_deref(), Ok(wanted), "{value}"),
                Err(part) => assert!(
                    got.as_ref().is_err_and(|told| told.contains(part)),
                    "{value}: {got:?}"
                ),
            }
        };
        check(json!({"PathOnHost": "/dev/null"}), Ok("/dev/null:rwm"));
        check(
            json!({"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}),
            Ok("/dev/x:r"),
        );
        check(json!({"PathOnHost": "/dev/none-such"}), Err("no such file"));
        check(
            json!({"PathOnHost": "/etc/hostname"}),
            Err("not a device node"),
        );
        check(json!({"PathOnHost": "nvidia.com/gpu=all"}), Err("--device"));
        check(
            json!({"PathOnHost": "/dev/null", "CgroupPermissions": "x"}),
            Err("invalid device mode"),
        );
    }
}
