//! A service's `volumes:` and `tmpfs:` in short and long forms.

use crate::{Error, node::Node, units};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A volume of the project, by its key.
    Named(String),
    /// A path on the host, absolute.
    Bind(PathBuf),
    /// Lives and dies with the container.
    Anonymous,
    /// In memory.
    Tmpfs { size_bytes: Option<u64> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub source: Source,
    pub target: String,
    pub read_only: bool,
}

pub(crate) fn mounts(service: &Node<'_>, folder: &Path) -> Result<Vec<Mount>, Error> {
    let mut all = Vec::new();
    for item in service.get("volumes").list()? {
        all.push(if item.value.is_object() {
            long(&item, folder)?
        } else {
            short(&item, folder)?
        });
    }
    let tmpfs = service.get("tmpfs");
    let paths = if tmpfs.value.is_array() {
        tmpfs.strings()?
    } else {
        tmpfs.string()?.into_iter().collect()
    };
    for path in paths {
        let target = path.split(':').next().unwrap_or_default().to_string();
        all.push(Mount {
            source: Source::Tmpfs { size_bytes: None },
            target,
            read_only: false,
        });
    }
    for mount in &all {
        if !mount.target.starts_with('/') {
            return Err(service.get("volumes").error(format!(
                "{:?} is not an absolute path in the container",
                mount.target
            )));
        }
    }
    Ok(all)
}

fn bind(text: &str, folder: &Path) -> PathBuf {
    let path = match text.strip_prefix('~') {
        Some(rest) => PathBuf::from(format!(
            "{}{rest}",
            std::env::var("HOME").unwrap_or_default()
        )),
        None => folder.join(text),
    };
    // `a/./b` and `a/b` are one path; `..` stays for the kernel to resolve.
    path.components().collect()
}

fn short(node: &Node<'_>, folder: &Path) -> Result<Mount, Error> {
    let text = node.string()?.unwrap_or_default();
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, mode] => (Some(source), target, mode),
        _ => return Err(node.error(format!("{text:?}: expected [SOURCE:]TARGET[:MODE]"))),
    };
    let mut read_only = false;
    for option in mode.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" | "z" | "Z" => {} // SELinux labels mean nothing where there is no SELinux
            other => return Err(node.error(format!("unknown volume option {other:?}"))),
        }
    }
    let source = match source {
        None => Source::Anonymous,
        Some(s) if s.starts_with(['.', '/', '~']) => Source::Bind(bind(s, folder)),
        Some(s) => Source::Named(s.to_string()),
    };
    Ok(Mount {
        source,
        target: target.to_string(),
        read_only,
    })
}

fn long(node: &Node<'_>, folder: &Path) -> Result<Mount, Error> {
    node.check_keys(
        &[
            "type",
            "source",
            "target",
            "read_only",
            "bind",
            "volume",
            "tmpfs",
        ],
        &["consistency", "image"],
    )?;
    node.get("bind").check_keys(
        &["create_host_path"],
        &["propagation", "selinux", "recursive"],
    )?;
    node.get("volume").check_keys(&[], &["nocopy", "subpath"])?;
    node.get("tmpfs").check_keys(&["size"], &["mode"])?;
    let source = node.get("source").string()?;
    let missing = || node.error("source is missing");
    let source = match node
        .get("type")
        .string()?
        .unwrap_or("volume".into())
        .as_str()
    {
        "volume" => source.map_or(Source::Anonymous, Source::Named),
        "bind" => Source::Bind(bind(&source.ok_or_else(missing)?, folder)),
        "tmpfs" => {
            let size = node.get("tmpfs").get("size");
            let size_bytes = size
                .string()?
                .map(|s| units::bytes(&s).ok_or_else(|| size.error(format!("{s:?} is not a size"))))
                .transpose()?;
            Source::Tmpfs { size_bytes }
        }
        other => {
            return Err(node.get("type").error(format!(
                "volume type {other:?} is not supported: volume, bind or tmpfs"
            )));
        }
    };
    Ok(Mount {
        source,
        target: node
            .get("target")
            .string()?
            .ok_or_else(|| node.error("target is missing"))?,
        read_only: node.get("read_only").boolean()?.unwrap_or(false),
    })
}
